package osd

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

const strayNames = 64 // objects removed between two ticks

// strayTick gives the space of a PG back that this OSD takes no part in any more, after a move or
// a drain. Whoever left S is nobody's truth (additions go through learners, M2), so this is
// safe at any time; it waits for as many members as the pool wants, all up, and a while, so
// that an OSD that comes back is filled by log. First of all the store says that it is not
// whole any more: a learner begins there by copy.
func (p *pg) strayTick() {
	o := p.o
	if p.gone || o.now-p.adoptedAt < o.cfg.StrayNs || len(p.cfg.InSync) < o.m.Pools[p.id.Pool].Size || len(p.cfg.Learners) > 0 ||
		!slices.ContainsFunc(p.cfg.InSync, o.m.IsUp) || slices.ContainsFunc(p.cfg.InSync, func(m clustermap.Member) bool { return !o.m.IsUp(m) }) || !p.quiet() {
		return
	}
	if p.learn.state != learnGoing {
		p.learn.state, p.learn.interval = learnGoing, p.interval
		p.submit(&Txn{Meta: []wire.KV{p.learn.kv()}})
		return
	}
	if names := o.store.ListObjects(p.id, "", strayNames); len(names) > 0 {
		t := &Txn{}
		for _, n := range names {
			t.Objs = append(t.Objs, ObjTxn{Name: n.Name, Remove: true})
		}
		p.submit(t)
		return
	}
	p.log, p.tail, p.last, p.committed = nil, wire.Version{}, wire.Version{}, wire.Version{}
	p.base, p.learn.drop = newTable(), nil
	p.capDurable(wire.Version{})
	p.rebuildDedup()
	p.learn.state, p.learn.interval, p.gone = learnNone, 0, true
	o.stats.Strays++
	p.submit(&Txn{RemovePG: true})
}
