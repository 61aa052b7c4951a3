package osd

import (
	"encoding/binary"
	"slices"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

const (
	learnKey    = "learn"
	copyRange   = 256     // names per CopyRange
	copyGetMax  = 16      // objects per CopyGet
	usualObject = 4 << 20 // bytes that one takes, as far as a learner can tell
	learnNone   = 0
	learnGoing  = 1 // being filled: this store is nobody's truth
	learnFilled = 2 // filled in the interval that follows: from then on it follows the log exactly
)

// learner is the state of a replica that is being filled (§7). It pulls: the primary keeps
// nothing but its acks.
//
// By log, where that reaches: a store whose objects all are where its log ends lacks no more than
// what the primary's log has behind the last common version. The divergent tail is cut first,
// as in R8; its objects, and those of the entries that follow, are the missing ones. By copy
// otherwise: the names and versions of all objects are compared.
//
// An object is in missing when its copy is behind the log: it maps to the version of the log
// that a copy must be as new as. Copies may be ahead of the log; the entries that they already
// contain then find the object at their own version, or behind one that will.
type learner struct {
	drop []wire.KV // Meta removals waiting for a transaction

	state    byte   // as durable as the last submit
	interval uint64 // of learnFilled

	started  bool
	complete bool // filled and all of it durable
	nonce    uint64
	cursor   string
	listed   bool // the cursor has passed the last name
	missing  map[string]wire.Version
	ahead    wire.Version // where the primary's log ended when the newest copy was taken: objects may contain entries up to there
	askedAt  int64
	asked    []string // of CopyGet under way
}

func (l *learner) load(p *pg, kvs []wire.KV) {
	for _, kv := range kvs {
		if kv.Key == learnKey {
			// Not to understand it is not to know whether this store may be anybody's truth.
			must.Holdf(len(kv.Val) == 9 && kv.Val[0] <= learnFilled, "%v: record %q of %x: written by a newer program?", p, learnKey, kv.Val)
			l.state, l.interval = kv.Val[0], binary.BigEndian.Uint64(kv.Val[1:])
		}
	}
}

func (l *learner) kv() wire.KV {
	b := make([]byte, 9)
	b[0] = l.state
	binary.BigEndian.PutUint64(b[1:], l.interval)
	return wire.KV{Key: learnKey, Val: b}
}

// begin: a learner in a new interval. If it was filled in this very interval before a restart it
// may be the one that the primary has proposed: it must not throw its log away.
func (l *learner) begin(p *pg) {
	l.started, l.complete, l.listed, l.cursor = false, false, false, ""
	l.missing, l.asked, l.ahead = map[string]wire.Version{}, nil, wire.Version{}
	if l.nonce == 0 {
		l.nonce = p.o.cfg.Instance.Nonce
	}
	l.ask(p)
}

func (l *learner) ask(p *pg) {
	if p.cfg.Primary == wire.NoOSD {
		return
	}
	l.nonce++
	l.askedAt = p.o.now
	m := &wire.LearnReq{PG: p.id, Interval: p.interval, Epoch: p.o.m.Epoch, Nonce: l.nonce,
		Complete: l.state == learnFilled && l.interval == p.interval, Last: p.last}
	if m.Sound = l.state != learnGoing || p.o.fault(FaultLogOfUnfilled); m.Sound {
		m.Committed = p.committed
		for _, e := range p.log[p.after(p.committed):] {
			m.Versions = append(m.Versions, e.h.Version)
			m.Objects = append(m.Objects, e.h.Object)
		}
	}
	p.o.send(p.cfg.Primary, m)
}

// end: it has become a member.
func (l *learner) end(p *pg) {
	// As the only member it was named by an operator, who gave up what it lacks (mon.PGGiveUp): the
	// protocol never makes one of a learner in one step.
	must.Holdf(l.state != learnGoing || len(p.cfg.InSync) == 1, "%v: made a member in interval %d while it was being filled", p, p.interval)
	if l.state != learnNone {
		l.state = learnNone
		p.submit(&Txn{Meta: []wire.KV{{Key: learnKey}}})
	}
	l.started, l.complete, l.missing, l.asked = false, false, nil, nil
}

// onLearnReq (primary) starts a learner at the committed version: what lies before it nobody
// will ever cut, what lies after it comes as entries.
func (p *pg) onLearnReq(from wire.OSDID, inst wire.Instance, m *wire.LearnReq) {
	q := p.peer(from)
	if q == nil || !q.learner || !p.active && !p.o.fault(FaultAddBeforeActive) {
		return
	}
	if q.inst == inst && m.Nonce <= q.nonce {
		return // late: the learner has gone on since, and would not take the answer
	}
	r := &wire.LearnStart{PG: p.id, Interval: p.interval, Nonce: m.Nonce}
	switch {
	case m.Complete && p.has(m.Last) && !m.Last.Less(p.committed):
		r.Resume, r.From = true, m.Last
	case p.pending == q:
		return // it was filled and its acks were counted: it may not start over
	case m.Sound && p.common(m) != nil:
		r.ByLog, r.From = true, *p.common(m)
		p.o.stats.ByLog++
	default:
		r.From = p.committed
		t := p.base.clone()
		for _, e := range p.log[:p.after(p.committed)] {
			t.add(e.h)
		}
		if !p.o.fault(FaultNoDedupCopy) {
			r.Dedup = t.export()
		}
	}
	q.inst, q.nonce = inst, m.Nonce
	q.confirmed, q.copied, q.byLog, q.wants, q.listed = true, false, r.ByLog || r.Resume, nil, 0
	q.acked, q.sent, q.since = r.From, r.From, p.o.now
	p.o.send(from, r)
	p.touch()
}

// common is the last version that a sound learner's log has in common with this one; nil: the
// log does not reach back so far.
func (p *pg) common(m *wire.LearnReq) *wire.Version {
	for k := len(m.Versions) - 1; k >= 0; k-- {
		if v := m.Versions[k]; p.has(v) {
			return &v
		}
	}
	if p.has(m.Committed) {
		return &m.Committed
	}
	return nil
}

// startByLog cuts the learner's log to what it has in common with the primary's.
func (l *learner) startByLog(p *pg, from wire.Version) {
	if l.state == learnGoing && !p.o.fault(FaultLogOfUnfilled) || !p.has(from) || from.Less(p.committed) {
		return
	}
	l.missing = map[string]wire.Version{}
	for _, e := range p.log[p.after(from):] {
		if e.h.After != e.h.Prior && !p.o.fault(FaultLogNoCut) {
			l.missing[e.h.Object] = from
		}
	}
	l.state, l.interval = learnGoing, p.interval
	l.started, l.listed = true, true
	p.cutLog(from)
	p.submit(&Txn{Cut: &from, Meta: []wire.KV{l.kv()}})
	l.next(p)
}

// onLearnStart throws the log away and begins anew where the primary says. Objects stay: most
// are probably right, versions will tell.
func (p *pg) onLearnStart(m *wire.LearnStart) {
	l := &p.learn
	if p.role != roleLearner || l.started || m.Nonce != l.nonce {
		return
	}
	if m.ByLog {
		l.startByLog(p, m.From)
		return
	}
	if m.Resume {
		if l.state != learnFilled || l.interval != p.interval || m.From != p.last {
			return
		}
		l.started, l.listed = true, true
		l.settle(p)
		p.ackDue = true
		p.touch()
		return
	}
	base := newTable()
	t := &Txn{ResetLog: true, Trim: m.From, Committed: m.From, ClearMeta: dedupPrefix}
	for i := range m.Dedup {
		if base.take(&m.Dedup[i]) != nil {
			return
		}
		t.Meta = append(t.Meta, base.kv(m.Dedup[i].Client))
	}
	l.state, l.interval = learnGoing, p.interval
	t.Meta = append(t.Meta, l.kv())
	p.log, p.tail, p.last, p.committed = nil, m.From, m.From, m.From
	p.base = base
	p.capDurable(m.From)
	p.rebuildDedup()
	l.started = true
	l.missing = map[string]wire.Version{}
	p.submit(t)
	l.next(p)
}

// apply decides what an entry does to a learner's object: applied when the copy is exactly at
// the state before, nothing when the copy contains it already, else the object is missing.
func (l *learner) apply(p *pg, e *entry, t *Txn) (ObjTxn, bool) {
	h := e.h
	if h.After == h.Prior {
		return ObjTxn{}, false
	}
	own := p.versionIn(h.Object, t)
	switch {
	case own == h.Prior && !e.noMuts:
		if ot, ok := e.objTxn(); !ok || !p.o.store.Damaged(p.id, &ot) {
			delete(l.missing, h.Object)
			return ot, ok
		}
		l.lack(h, t)
	case own == h.After:
		delete(l.missing, h.Object)
	default:
		l.lack(h, t)
	}
	return ObjTxn{}, false
}

// versionIn is an object's version, t counted, which is not submitted yet.
func (p *pg) versionIn(name string, t *Txn) (v wire.Version) {
	if st, ok := p.o.store.Stat(p.id, name); ok {
		v = st.Version
	}
	for i := range t.Objs {
		if t.Objs[i].Name == name {
			v = t.Objs[i].Version
		}
	}
	return v
}

// spoilt: an entry builds on bytes of this copy that have gone bad since it was filled. Its primary
// may have proposed it by now, and would count its ack for a member's (R9): so it does what a
// member does, and acknowledges nothing until it has been mended.
func (l *learner) spoilt(p *pg, e *entry, t *Txn) bool {
	if l.state != learnFilled || l.interval != p.interval || e.noMuts || p.versionIn(e.h.Object, t) != e.h.Prior || p.o.fault(FaultFilledLacks) {
		return false
	}
	ot, ok := e.objTxn()
	return ok && p.o.store.Damaged(p.id, &ot)
}

// lack puts the object of an entry that cannot be applied among the missing.
func (l *learner) lack(h *wire.LogEntry, t *Txn) {
	l.missing[h.Object] = h.Version
	l.complete = false
	if l.state == learnFilled { // a restart must not take it for filled
		l.state = learnGoing
		t.Meta = append(t.Meta, l.kv())
	}
}

// uncount: a learner that was filled met damage under an entry, and the primary says that it does not count
// its acknowledgements. So it does what a learner does: it lacks the object, goes on and copies it.
func (l *learner) uncount(p *pg) {
	for _, n := range p.fix.names {
		l.missing[n] = p.fix.first
	}
	p.fix, p.stage = fixing{}, nil
	l.complete = false
	if l.state == learnFilled { // a restart must not take it for filled
		l.state = learnGoing
		p.submit(&Txn{Meta: []wire.KV{l.kv()}})
	}
	l.next(p)
}

// next asks for the next thing: missing objects of the ranges behind the cursor, or the next range.
func (l *learner) next(p *pg) {
	if !l.started || p.cfg.Primary == wire.NoOSD {
		return
	}
	l.askedAt = p.o.now
	if len(l.missing) > 0 {
		n := p.o.copyRoom()
		if n == 0 {
			l.asked = nil
			return // the next tick looks again
		}
		l.asked = l.first(n)
		p.o.send(p.cfg.Primary, &wire.CopyGet{PG: p.id, Interval: p.interval, Names: slices.Clone(l.asked)})
		return
	}
	l.asked = nil
	if !l.listed {
		l.nonce++
		p.o.send(p.cfg.Primary, &wire.CopyNext{PG: p.id, Interval: p.interval, Nonce: l.nonce, After: l.cursor})
		return
	}
	l.settle(p)
}

// copyRoom is how many objects a learner may have on order. What it copies nobody has asked its disk
// about: before that is as full as it may become it takes one after the other, and then waits, for a
// store without room ends, and the OSD with all its other PGs.
func (o *OSD) copyRoom() int {
	total, used := o.store.Space()
	if total == 0 {
		return copyGetMax
	}
	if limit := total / 100 * failsafePct; used <= limit {
		return int(min(1+(limit-used)/usualObject, copyGetMax))
	}
	return 0
}

// first picks up to n missing objects: those in use first, which is those that were written last,
// for each further write to them would be one more that cannot be applied.
func (l *learner) first(n int) []string {
	before := func(a, b string) bool {
		if va, vb := l.missing[a], l.missing[b]; va != vb {
			return vb.Less(va)
		}
		return a < b
	}
	var names []string
	for name := range l.missing { // the order of the map does not matter: before is total
		if len(names) == n && !before(name, names[n-1]) {
			continue
		}
		i, _ := slices.BinarySearchFunc(names, name, func(x, name string) int {
			if before(x, name) {
				return -1
			}
			return 1
		})
		names = slices.Insert(names, i, name)
		names = names[:min(len(names), n)]
	}
	return names
}

// tookAt notes that an object is as the primary's log had it that ended at v.
func (l *learner) tookAt(v wire.Version) {
	if l.ahead.Less(v) {
		l.ahead = v
	}
}

// settle notices that the copy is finished, and again that this is durable; only then may the
// primary hear of it. The log must have come as far as the copies: an object that contains what the
// log lacks is at no state of this log. Under the next primary, which may never have had that
// entry, this replica would pass for one to be filled by log, and keep the object.
func (l *learner) settle(p *pg) {
	if p.role != roleLearner || !l.started || !l.listed || len(l.missing) > 0 || l.complete || !p.quiet() {
		return
	}
	if p.last.Less(l.ahead) && !p.o.fault(FaultFilledAhead) {
		return
	}
	if l.state != learnFilled || l.interval != p.interval {
		l.state, l.interval = learnFilled, p.interval
		p.submit(&Txn{Meta: []wire.KV{l.kv()}})
		return
	}
	l.complete = true
	p.ackDue = true
	p.touch()
}

func (l *learner) tick(p *pg) {
	if p.o.now-l.askedAt < p.o.cfg.ResendNs {
		return
	}
	switch {
	case !l.started:
		l.ask(p)
	case !l.complete:
		l.next(p)
	default:
		// The primary may have missed the ack.
		l.askedAt = p.o.now + 2*p.o.cfg.ResendNs
		p.ackDue = true
		p.touch()
	}
}

// onCopyNext (primary) lists a range with versions.
func (p *pg) onCopyNext(from wire.OSDID, m *wire.CopyNext) {
	q := p.peer(from)
	if q == nil || !q.learner || !q.confirmed {
		return
	}
	q.listed += copyRange
	if m.After == "" {
		q.listed = copyRange
	}
	r := &wire.CopyRange{PG: p.id, Interval: p.interval, Nonce: m.Nonce, At: p.last, After: m.After}
	r.Objects = p.o.store.ListObjects(p.id, m.After, copyRange)
	if len(r.Objects) < copyRange {
		r.End = true
	} else {
		r.Upto = r.Objects[len(r.Objects)-1].Name
	}
	p.o.send(from, r)
}

// onCopyRange compares a range. What a log entry after At touches is that entry's business.
func (p *pg) onCopyRange(m *wire.CopyRange) {
	l := &p.learn
	if p.role != roleLearner || !l.started || m.Nonce != l.nonce || m.After != l.cursor || l.listed {
		return
	}
	newer := map[string]bool{}
	for _, e := range p.log[p.after(m.At):] {
		if e.h.After != e.h.Prior {
			newer[e.h.Object] = true
		}
	}
	var own []wire.ObjVersion
	for after := m.After; ; {
		got := p.o.store.ListObjects(p.id, after, copyRange)
		for _, ov := range got {
			if m.End || ov.Name <= m.Upto {
				own = append(own, ov)
			}
		}
		if len(got) < copyRange || !m.End && got[len(got)-1].Name > m.Upto {
			break
		}
		after = got[len(got)-1].Name
	}
	t := &Txn{}
	theirs := m.Objects
	for len(theirs) > 0 || len(own) > 0 {
		switch {
		case len(theirs) == 0 || len(own) > 0 && own[0].Name < theirs[0].Name:
			if !newer[own[0].Name] {
				delete(l.missing, own[0].Name)
				t.Objs = append(t.Objs, ObjTxn{Name: own[0].Name, Remove: true})
			}
			own = own[1:]
		case len(own) == 0 || theirs[0].Name < own[0].Name:
			if !newer[theirs[0].Name] {
				l.missing[theirs[0].Name] = m.At
			}
			theirs = theirs[1:]
		default:
			if !newer[own[0].Name] {
				if own[0].Version == theirs[0].Version {
					delete(l.missing, own[0].Name)
				} else {
					l.missing[own[0].Name] = m.At
				}
			}
			own, theirs = own[1:], theirs[1:]
		}
	}
	if len(t.Objs) > 0 {
		l.tookAt(m.At)
		p.submit(t)
	}
	l.cursor, l.listed = m.Upto, m.End
	l.next(p)
}

// onCopyGet (primary) sends objects whole, one message each, as far as recovery's share lets it.
func (p *pg) onCopyGet(from wire.OSDID, m *wire.CopyGet) {
	q := p.peer(from)
	if q == nil || !q.learner || !q.confirmed || len(m.Names) > copyGetMax {
		return
	}
	if q.wants == nil {
		p.o.copying = append(p.o.copying, copyWait{p, q})
	}
	q.wants = m.Names
	if len(p.cfg.InSync) < p.minSize() { // clients wait for this very thing
		for len(q.wants) > 0 {
			p.giveCopy(q)
		}
	}
	p.o.serveCopies()
}

// giveCopy sends the next object that q wants, and returns its size.
func (p *pg) giveCopy(q *peer) uint64 {
	n := q.wants[0]
	q.wants = q.wants[1:]
	c, err := p.copyOf(n)
	if (err != nil || c.Damaged()) && !p.busy(n) && p.heal(n) || err != nil {
		return 0 // the learner asks again
	}
	p.o.stats.Copied++
	p.o.stats.CopiedBytes += c.DataLen()
	p.o.send(q.m.ID, &wire.CopyObj{PG: p.id, Interval: p.interval, At: p.last, Object: c}, c.Data)
	return c.DataLen()
}

// onCopyObj installs a copy if it is as new as the log demands.
func (p *pg) onCopyObj(m *wire.CopyObj, data []byte) {
	l := &p.learn
	c := &m.Object
	if p.role != roleLearner || !l.started || uint64(len(data)) != c.DataLen() {
		return
	}
	need, miss := l.missing[c.Name]
	if miss && !m.At.Less(need) {
		c.Data = data
		l.tookAt(m.At)
		delete(l.missing, c.Name)
		p.submit(&Txn{Objs: []ObjTxn{installTxn(c)}})
	}
	if i := slices.Index(l.asked, c.Name); i >= 0 {
		l.asked = slices.Delete(l.asked, i, i+1)
		l.askedAt = p.o.now
		if len(l.asked) == 0 {
			l.next(p)
		}
	}
}
