package osd

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// healing is a damaged object of the primary's own store, on its way to be replaced by another
// replica's copy. Ops on it wait; with nobody left to ask it is broken: reads, and writes that
// would build on the damaged bytes, are EIO until somebody has been asked again with success.
type healing struct {
	asked []wire.OSDID // in this order, one at a time; the last one owes an answer
	all   bool         // at last everybody else: an OSD that has left the PG may have a good copy
	at    int64
}

// heal asks the next replica for a good copy. Only committed state is asked for: then every
// member has the same, and so has a learner whose copy is of that version. False: nobody has one.
func (p *pg) heal(name string) bool {
	if at, ok := p.broken[name]; ok && p.o.now-at < brokenNs {
		return false
	}
	h := p.healing[name]
	if h != nil && p.o.now-h.at < 4*p.o.cfg.ResendNs {
		return true // under way
	}
	if h == nil {
		if p.healing == nil {
			p.healing = map[string]*healing{}
		}
		h = &healing{}
		p.healing[name] = h
		p.o.stats.Damaged++
	}
	h.at = p.o.now
	for _, q := range p.peers {
		if !slices.Contains(h.asked, q.m.ID) {
			h.asked = append(h.asked, q.m.ID)
			p.o.send(q.m.ID, &wire.ObjFetch{PG: p.id, Interval: p.interval, Name: name})
			return true
		}
	}
	if !h.all {
		h.all = true
		for _, id := range p.o.m.OSDIDs() {
			if id != p.o.cfg.ID && p.o.m.OSDs[id].Up && !slices.Contains(h.asked, id) {
				p.o.send(id, &wire.ObjFetch{PG: p.id, Interval: p.interval, Name: name})
			}
		}
		return true
	}
	delete(p.healing, name)
	if p.broken == nil {
		p.broken = map[string]int64{}
	}
	p.broken[name] = p.o.now
	return false
}

// brokenMax bounds how many names are told and kept.
const (
	brokenMax = 16
	unsureMax = 1000
)

// brokenNames counts the objects that cannot be read, or whose copies differ with nobody to say
// which is good, and names the first.
func (p *pg) brokenNames() (int, []string) {
	if len(p.broken)+len(p.unsure) == 0 {
		return 0, nil
	}
	names := make([]string, 0, len(p.broken)+len(p.unsure))
	for n := range p.broken {
		names = append(names, n)
	}
	for n := range p.unsure {
		if _, both := p.broken[n]; !both {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return len(names), names[:min(len(names), brokenMax)]
}

// whole: the object was made anew, or replaced by a good copy.
func (p *pg) whole(name string) {
	delete(p.broken, name)
	delete(p.unsure, name)
}

// brokenNs: a broken object is asked for again so long after everybody was asked in vain.
const brokenNs = 10e9

// healTick asks another member where one does not answer.
func (p *pg) healTick() {
	if len(p.healing)+len(p.broken) == 0 {
		return
	}
	names := make([]string, 0, len(p.healing))
	for n := range p.healing {
		names = append(names, n)
	}
	for n, at := range p.broken { // an OSD that has a good copy may be back
		if p.healing[n] == nil && p.o.now-at >= brokenNs && !p.busy(n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		p.heal(n)
	}
	p.runParked()
}

// onObjFetch (member, learner, and who has left the PG) gives its copy.
func (p *pg) onObjFetch(from wire.OSDID, m *wire.ObjFetch) {
	c, err := p.copyOf(m.Name)
	if err != nil || c.Damaged() {
		p.o.send(from, &wire.ObjFetched{PG: p.id, Interval: p.interval, Bad: true, Object: wire.ObjCopy{Name: m.Name}})
		return
	}
	p.o.send(from, &wire.ObjFetched{PG: p.id, Interval: p.interval, Object: c}, c.Data)
}

// onObjFetched (primary) installs the copy if it is of the version that the damaged one has.
func (p *pg) onObjFetched(m *wire.ObjFetched, data []byte) {
	c := &m.Object
	h := p.healing[c.Name]
	if h == nil || uint64(len(data)) != c.DataLen() {
		return
	}
	st, ok := p.o.store.Stat(p.id, c.Name)
	switch {
	case !ok || p.busy(c.Name):
		// It was removed, or is being written: whoever waits tries again, and asks anew.
		delete(p.healing, c.Name)
	case (m.Bad || c.Absent || c.Version != st.Version) && !p.o.fault(FaultHealStale):
		if h.all { // others may still answer
			return
		}
		h.at = 0
		p.heal(c.Name)
	default:
		c.Data = data
		p.o.stats.Healed++
		p.healed++
		delete(p.healing, c.Name)
		p.whole(c.Name)
		p.submit(&Txn{Objs: []ObjTxn{installTxn(c)}})
	}
	p.runParked()
}
