package osd

import (
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Bounds of one Repl message.
const (
	replEntries = 64
	replBytes   = 8 << 20
)

// flush says what the last events left unsaid: new entries to every replica, acks to the primary.
func (p *pg) flush() {
	o := p.o
	switch p.role {
	case rolePrimary:
		for _, q := range p.peers {
			for q.confirmed && (p.active || q.learner) && q.sent.Less(p.last) {
				p.sendEntries(q)
			}
		}
	case roleMember, roleLearner:
		if p.confirm && p.quiet() {
			p.confirm, p.ackDue = false, false
			o.send(p.cfg.Primary, &wire.ReplAck{PG: p.id, Interval: p.interval, Version: p.durable, Sent: p.ackSent, Confirm: true})
			p.ackSent = 0
			return
		}
		if p.ackDue && (p.role == roleMember || p.learn.started) {
			p.ackDue = false
			o.send(p.cfg.Primary, &wire.ReplAck{PG: p.id, Interval: p.interval, Version: p.durable, Sent: p.ackSent, Gap: p.gap, Copied: p.learn.complete, Missing: uint64(len(p.learn.missing))})
			p.ackSent, p.gap = 0, false
		}
	}
}

// sendEntries sends q the next run of what it lacks.
func (p *pg) sendEntries(q *peer) {
	o := p.o
	// A resend takes q.sent back; it must not look as if nothing had been owed, or repl_grace
	// would begin anew with each and a member that lives but never acknowledges would stay.
	owes := q.acked.Less(p.last)
	if owes && !q.owes {
		q.since = o.now
	}
	q.owes = owes
	m := &wire.Repl{PG: p.id, Interval: p.interval, Epoch: o.m.Epoch, Prev: q.sent, Committed: p.committed, Sent: o.now}
	var data [][]byte
	bytes := 0
	for i := p.after(q.sent); i < len(p.log) && len(m.Entries) < replEntries && bytes < replBytes; i++ {
		e := p.log[i]
		re := wire.ReplEntry{Rec: e.rec, Muts: e.muts, NoMuts: e.noMuts}
		must.Holdf(!e.noMuts || q.learner || e.h.After == e.h.Prior, "%v: entry %v for osd.%d has no transaction any more", p, e.h.Version, q.m.ID)
		for k := range e.muts {
			if d := e.muts[k].Data; len(d) > 0 {
				data = append(data, d)
				bytes += len(d)
			}
		}
		m.Entries = append(m.Entries, re)
		e.sent.add(q)
		q.sent = e.h.Version
	}
	q.sentAt = o.now
	o.stats.Repls++
	o.send(q.m.ID, m, data...)
}

// onRepl is the replica's side of §4.4.
func (p *pg) onRepl(from wire.OSDID, inst wire.Instance, m *wire.Repl, data []byte, own bool) {
	whole := data
	if p.role == roleLearner && !p.learn.started {
		return
	}
	if p.stage != nil {
		if p.fix.at == 0 || p.o.now-p.fix.at < 4*p.o.cfg.ResendNs {
			return
		}
		p.stage = nil // a part was lost: ask again
	}
	if m.Sent != 0 {
		p.grant(inst)
		p.ackSent = max(p.ackSent, m.Sent)
	}
	p.ackDue = true
	p.touch()
	var t Txn
	for i := range m.Entries {
		re := &m.Entries[i]
		n := 0
		for k := range re.Muts {
			n += int(re.Muts[k].DataLen)
		}
		if n > len(data) {
			return
		}
		d := data[:n]
		data = data[n:]
		h := new(wire.LogEntry)
		if wire.Unmarshal(re.Rec, h) != nil || wire.CutOpData(re.Muts, d) != nil {
			return
		}
		if !p.last.Less(h.Version) {
			continue // had it
		}
		if h.Prev != p.last || re.NoMuts && p.role == roleMember && h.After != h.Prior {
			p.gap = true
			break
		}
		e := &entry{h: h, rec: re.Rec, muts: re.Muts, noMuts: re.NoMuts}
		ot, changes := ObjTxn{}, false
		if p.role == roleMember {
			if ot, changes = e.objTxn(); changes && p.o.store.Damaged(p.id, &ot) && !p.o.fault(FaultAckDamaged) {
				p.askFix(h)
				break
			}
		}
		if p.role == roleLearner && p.learn.spoilt(p, e, &t) {
			p.askFix(h)
			break
		}
		p.fix = fixing{} // if it had asked: the copy was mended meanwhile
		p.appendEntry(e)
		t.Append = append(t.Append, LogRec{h.Version, e.rec})
		if changes {
			t.Objs = append(t.Objs, ot)
		}
		if p.role != roleMember {
			// What the learner applies depends on the object's version, and that on the entry before.
			if ot, ok := p.learn.apply(p, e, &t); ok {
				t.Objs = append(t.Objs, ot)
			}
		}
		e.muts, e.noMuts = nil, true
	}
	c := m.Committed
	if p.last.Less(c) {
		c = p.last
	}
	p.setCommitted(c)
	if len(t.Append) > 0 {
		p.trim(&t)
		p.submit(&t)
		if own && p.role == roleMember {
			p.marks[len(p.marks)-1].data = whole
		}
	}
}

// onAck counts an ack of the present interval (R4).
func (p *pg) onAck(from wire.OSDID, m *wire.ReplAck) {
	o := p.o
	q := p.peer(from)
	if q == nil || q.inst != o.m.OSDs[from].Instance && !q.learner {
		return
	}
	p.leaseFrom(q, m.Sent)
	if q.learner {
		if !q.confirmed {
			return
		}
		q.missing = m.Missing
	} else if m.Confirm {
		if !q.confirmed && m.Version == p.last {
			q.confirmed, q.acked, q.sent, q.since = true, m.Version, m.Version, o.now
			p.tryActivate()
			if p.active {
				p.advance()
			}
			return
		}
	} else if !q.confirmed && !o.fault(FaultAckAnyInterval) {
		return
	}
	if q.acked.Less(m.Version) {
		q.acked, q.since = m.Version, o.now
		q.owes = q.acked.Less(p.last)
		if q.sent.Less(q.acked) {
			q.sent = q.acked
		}
		q.copied = m.Copied
	} else if q.acked == m.Version {
		q.copied = m.Copied
	}
	if m.Gap && m.Version == q.acked && o.now-q.resentAt >= o.cfg.ResendNs/10 {
		q.resentAt = o.now
		q.sent = q.acked
		p.touch()
	}
	p.cause = from
	p.advance()
	p.cause = wire.NoOSD
	p.considerAddition(q)
}
