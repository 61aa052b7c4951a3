package osd

import (
	"bytes"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// fixing is the state of a replica whose acknowledgements count, or may (R9), and that met damage of
// its own: an entry builds on bytes of its copy that have gone bad. It acknowledges nothing on
// garbage. It asks its primary for whole copies of the objects that it cannot read, and for the
// entries from there on with their transactions: one store transaction takes both, for as in R8
// log and objects must agree at every moment.
//
// Only what it cannot read is copied. Everything else it has good by itself, and the primary's own
// copy of something else may be the only bad one.
type fixing struct {
	at    int64        // when it asked last; 0: it owes nothing
	first wire.Version // of the entry that met the first of names
	names []string
}

// askFix: the entry builds on damaged bytes of this copy.
func (p *pg) askFix(h *wire.LogEntry) {
	f := &p.fix
	if f.at == 0 {
		f.first = h.Version
		p.o.stats.Damaged++
	}
	if !slices.Contains(f.names, h.Object) {
		f.names = append(f.names, h.Object)
	} else if p.o.now-f.at < p.o.cfg.ResendNs {
		return
	}
	f.at = p.o.now
	p.o.send(p.cfg.Primary, &wire.ReconState{PG: p.id, Interval: p.interval, Committed: p.last, Damaged: slices.Clone(f.names)})
}

// onFixReq (primary of an active interval) gives the entries behind the replica's log and copies of what
// it cannot read. A learner that is not pending gets no fix: nothing waits for its acks, so it
// may lack the object and copy it like any other; what its primary cannot read either keeps nobody up.
func (p *pg) onFixReq(q *peer, m *wire.ReconState) {
	if q.learner && (q != p.pending || p.o.fault(FaultPendingLacks)) {
		p.o.send(q.m.ID, &wire.ReconFix{PG: p.id, Interval: p.interval, Common: m.Committed, Mends: true, Uncounted: true})
		return
	}
	if !p.has(m.Committed) || len(m.Damaged) == 0 {
		return
	}
	fix := fixParts{p: p, common: m.Committed}
	copied := map[string]bool{}
	tail := p.log[p.after(m.Committed):]
	for _, e := range tail {
		n := e.h.Object
		if e.h.After == e.h.Prior || copied[n] || !slices.Contains(m.Damaged, n) {
			continue
		}
		copied[n] = true
		c, err := p.copyOf(n)
		if err != nil || c.Damaged() {
			p.unfit(q, n)
			return
		}
		part := fix.room(c.DataLen())
		part.Objects = append(part.Objects, c)
		fix.size += c.DataLen() + 64
	}
	for _, e := range tail {
		re := wire.ReplEntry{Rec: e.rec, NoMuts: true}
		size := uint64(len(e.rec))
		if e.h.After != e.h.Prior && !copied[e.h.Object] {
			if e.noMuts {
				return // it has acknowledged this entry since it asked
			}
			re.NoMuts, re.Muts = false, slices.Clone(e.muts)
			for k := range re.Muts { // what the operation came in may be used again before this is sent
				re.Muts[k].Data = bytes.Clone(re.Muts[k].Data)
				size += uint64(len(re.Muts[k].Data)) + 64
			}
		}
		part := fix.room(size)
		part.Tail = append(part.Tail, re)
		fix.size += size
	}
	q.sentAt = p.o.now + 4*p.o.cfg.ResendNs // its time to acknowledge runs on: who cannot be mended is dropped
	p.sendParts(q.m.ID, fix.parts)
}

// fixParts divides a fix into messages.
type fixParts struct {
	p      *pg
	common wire.Version
	parts  []*wire.ReconFix
	size   uint64 // of the last
}

// room is the part that takes n bytes more.
func (f *fixParts) room(n uint64) *wire.ReconFix {
	if len(f.parts) == 0 || f.size > 0 && f.size+n > reconPartBytes {
		f.parts = append(f.parts, &wire.ReconFix{PG: f.p.id, Interval: f.p.interval, Common: f.common, Mends: true, Upto: f.p.last, Part: uint32(len(f.parts))})
		f.size = 0
	}
	return f.parts[len(f.parts)-1]
}

// unfit: a replica that counts needs a good copy and there is none here. Another member may have one: so
// the replica leaves, the entry commits without it, and then all others can be asked (heal.go). A
// pending learner leaves in the same way when its time to acknowledge is over (tick).
func (p *pg) unfit(q *peer, name string) {
	if q.learner {
		return
	}
	if q.unfitAt == 0 {
		q.unfitAt = p.o.now
	} else if p.o.now-q.unfitAt > p.o.cfg.GraceNs && p.o.now-p.proposedAt > 1e9 {
		p.propose(without(p.cfg.InSync, q.m), p.cfg.Learners, "osd.%d needs a good copy of %q, and osd.%d has none", q.m.ID, name, p.o.cfg.ID)
	}
}

// onFix stages a part of a fix. That a learner is not counted holds as of where its log ended when it asked:
// to be counted it must have come to the end of the primary's log, which lay behind that already.
func (p *pg) onFix(m *wire.ReconFix, data []byte) {
	if p.fix.at == 0 || m.Common != p.last || p.role != roleMember && p.role != roleLearner {
		return
	}
	if m.Uncounted {
		if p.role == roleLearner {
			p.learn.uncount(p)
		}
		return
	}
	s := p.stage
	if s == nil || s.upto.Less(m.Upto) {
		if s = newStage(m); s == nil {
			return
		}
		p.stage = s
	}
	if s.upto == m.Upto && s.take(m, data) {
		p.stage = nil
		p.takeFix(s)
	}
}

// takeFix installs the copies and applies the other entries to what is good here. Parts of answers to
// two requests may have met: so everything is looked at first, and what does not fit is asked for again.
func (p *pg) takeFix(s *stage) {
	copies := map[string]wire.Version{} // where the entries must leave them
	for i := range s.objs {
		copies[s.objs[i].Name] = wire.Version{}
	}
	t := &Txn{}
	var add []*entry
	prev := p.last
	for _, re := range slices.Concat(s.tail...) {
		h := new(wire.LogEntry)
		if wire.Unmarshal(re.Rec, h) != nil || h.Prev != prev || !prev.Less(h.Version) {
			return
		}
		prev = h.Version
		e := &entry{h: h, rec: re.Rec, muts: re.Muts}
		add = append(add, e)
		ot, changes := e.objTxn()
		if !changes {
			continue
		}
		if _, ok := copies[h.Object]; ok {
			copies[h.Object] = h.After
			continue
		}
		if re.NoMuts || p.versionIn(h.Object, t) != h.Prior {
			return
		}
		if p.o.store.Damaged(p.id, &ot) {
			p.askFix(h)
			return
		}
		t.Objs = append(t.Objs, ot)
	}
	for i := range s.objs {
		if s.objs[i].Version != copies[s.objs[i].Name] {
			return
		}
		t.Objs = append(t.Objs, installTxn(&s.objs[i]))
	}
	if prev != s.upto || len(add) == 0 {
		return
	}
	for _, e := range add {
		p.appendEntry(e)
		t.Append = append(t.Append, LogRec{e.h.Version, e.rec})
		e.muts, e.noMuts = nil, true
	}
	p.submit(t)
	p.fix, p.ackDue = fixing{}, true
	p.o.stats.Healed++
	p.touch()
}
