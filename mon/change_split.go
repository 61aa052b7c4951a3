package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// maxSplit bounds by how much a pool grows in one step: every part begins with a copy of the log and
// of the dedup table, and most of the objects move afterwards.
const maxSplit = 16

// splitObjects bounds how many objects the PGs hold that divide in one step on any OSD, which answers
// nothing while it divides them: some 20 µs for each of the objects that move, half of them or more. A
// PG with more divides alone.
const splitObjects = 10_000

// PoolSplit makes the PGs of a pool more: some divide, and in this very change those that come out
// of them get their first configuration, which is the next of the PG that they come from: its S,
// the following interval. (../osd/split.go says what the OSDs make of it.) It waits for a pool
// at rest: nobody down or being filled, everything where CRUSH wants it. So one split is over,
// its parts moved to their places, before the next begins; and in the new interval nobody is
// missed whose log would be needed. Target, if it is larger than PGNum, is where the pool is
// going: the leader takes the next step when this one is over (decideSplit).
type PoolSplit struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	PGNum    uint32
	Target   uint32
	Step     bool // of a pool on its way to Target: nothing, if it has been sent elsewhere since
}

// WireVersion: 2 since it has a target, 3 since it says that it is a step.
func (*PoolSplit) WireVersion() byte { return 3 }

func (c *PoolSplit) String() string {
	s := fmt.Sprintf("split pool %q into %d pgs", c.Name, c.PGNum)
	if c.Target > c.PGNum {
		s += fmt.Sprintf(", on the way to %d", c.Target)
	}
	return s
}

func (c *PoolSplit) apply(e *edit) error {
	m := e.old.OSD
	pool, ok := poolNamed(m, c.Name)
	target := c.Target
	if target <= c.PGNum {
		target = 0
	}
	switch {
	case !ok:
		return refuse(ENOENT, "no pool %q", c.Name)
	case c.Step && c.Target != pool.PGTarget:
		return refuse(EAGAIN, "pool %q goes to %d PGs now", c.Name, max(pool.PGTarget, pool.PGNum))
	case c.PGNum < pool.PGNum:
		return refuse(EINVAL, "pool %q has %d PGs: pg_num can only grow, for PGs are not merged", c.Name, pool.PGNum)
	case c.PGNum > pool.PGNum*maxSplit:
		return refuse(EINVAL, "pool %q has %d PGs: one step makes %d of them at most", c.Name, pool.PGNum, pool.PGNum*maxSplit)
	case c.PGNum == pool.PGNum && target == pool.PGTarget:
		return nil
	}
	made := uint32(0)
	if c.PGNum > pool.PGNum {
		var err error
		if made, err = poolAtRest(m, pool); err != nil {
			return err
		}
	}
	n := e.osdMap()
	grown := pool
	grown.PGNum, grown.PGTarget = c.PGNum, target
	n.Pools[pool.ID] = grown
	if err := n.Check(); err != nil {
		e.osd = nil
		return refuse(EINVAL, "%v", err)
	}
	if made == 0 {
		return nil
	}
	for num := pool.PGNum; num < c.PGNum; num++ {
		from := wire.PGID{Pool: pool.ID, Num: clustermap.SplitFrom(num, pool.PGNum)}
		cfg := m.PGs[from]
		e.succeed(wire.PGID{Pool: pool.ID, Num: num}, cfg, cfg.InSync, nil)
		if n.PGs[from].Interval == cfg.Interval {
			e.succeed(from, cfg, cfg.InSync, nil)
		}
	}
	return nil
}

// poolAtRest says what is under way in a pool that keeps it from being split; made is how many of its PGs
// there are, all or none.
func poolAtRest(m *clustermap.OSDMap, pool clustermap.Pool) (made uint32, err error) {
	for num := range pool.PGNum {
		pg := wire.PGID{Pool: pool.ID, Num: num}
		cfg, ok := m.PGs[pg]
		if !ok {
			continue
		}
		made++
		if err := atRest(m, pg, cfg); err != nil {
			return made, err
		}
	}
	if made != 0 && made != pool.PGNum {
		return made, refuse(EAGAIN, "pool %q: %d of %d PGs are made; try again", pool.Name, made, pool.PGNum)
	}
	return made, nil
}

// setPGNum is `pool set NAME pg_num N`: the first step at once, if the pool is at rest, and the others by
// themselves. A pool that is growing gets another target. As many PGs as there are: it grows no further.
func (l *Leader) setPGNum(name string, target uint32) (Change, error) {
	c := &PoolSplit{Name: name, PGNum: target}
	pool, ok := poolNamed(l.state.OSD, name)
	switch {
	case !ok || target <= pool.PGNum:
		return c, nil
	case pool.Grows():
		c.PGNum, c.Target = pool.PGNum, target
		return c, nil
	}
	n, err := l.nextSplit(pool, target)
	if err != nil {
		return nil, err
	}
	c.PGNum, c.Target = n, target
	return c, nil
}

// nextSplit is how many PGs the pool may have after the next step towards a target.
func (l *Leader) nextSplit(pool clustermap.Pool, target uint32) (uint32, error) {
	m := l.state.OSD
	made, err := poolAtRest(m, pool)
	if err != nil {
		return 0, err
	}
	for num := range made { // parts of the step before, too: they serve
		pg := wire.PGID{Pool: pool.ID, Num: num}
		if _, known := l.pgStats[pg]; !known {
			return 0, refuse(EAGAIN, "pg %v: its primary has not said yet how much it holds; try again", pg)
		}
	}
	load := map[wire.OSDID]uint64{} // objects of the PGs that divide
	divides := map[wire.PGID]bool{}
	n := pool.PGNum
	for ; n < min(target, pool.PGNum*maxSplit); n++ {
		pg := wire.PGID{Pool: pool.ID, Num: clustermap.SplitFrom(n, pool.PGNum)}
		if made == 0 || divides[pg] {
			continue
		}
		objects, over := l.pgStats[pg].Objects, false
		for _, mb := range m.PGs[pg].InSync {
			load[mb.ID] += objects
			over = over || load[mb.ID] > splitObjects
		}
		if over && n > pool.PGNum {
			break
		}
		divides[pg] = true
	}
	return n, nil
}

// decideSplit takes pools on that are growing. What is not at rest, or not known, is looked at again
// at the next tick.
func (l *Leader) decideSplit() {
	if l.isCold() {
		return
	}
	for _, id := range sortedKeys(l.state.OSD.Pools) {
		pool := l.state.OSD.Pools[id]
		if !pool.Grows() {
			continue
		}
		if n, err := l.nextSplit(pool, pool.PGTarget); err == nil {
			l.decideOnce("split "+pool.Name, &PoolSplit{Name: pool.Name, PGNum: n, Target: pool.PGTarget, Step: true})
		}
	}
}

func poolNamed(m *clustermap.OSDMap, name string) (clustermap.Pool, bool) {
	for _, p := range m.Pools {
		if p.Name == name {
			return p, true
		}
	}
	return clustermap.Pool{}, false
}

// atRest says what of a PG is under way.
func atRest(m *clustermap.OSDMap, pg wire.PGID, cfg clustermap.PGConfig) error {
	if len(cfg.Learners) > 0 {
		return refuse(EAGAIN, "pg %v: osd.%d is being filled; try again when it is done", pg, cfg.Learners[0].ID)
	}
	want := m.Wanted(pg)
	for _, mb := range cfg.InSync {
		switch {
		case !m.IsUp(mb):
			return refuse(EAGAIN, "pg %v: osd.%d is down; try again when it is back, or dropped and replaced", pg, mb.ID)
		case !slices.Contains(want, mb.ID):
			return refuse(EAGAIN, "pg %v is about to leave osd.%d; try again when it has", pg, mb.ID)
		}
	}
	if len(cfg.InSync) != len(want) {
		return refuse(EAGAIN, "pg %v has %d of %d replicas; try again when it has all", pg, len(cfg.InSync), len(want))
	}
	return nil
}

// afterSplit checks a PG that s did not have: the part of another one, or a new pool's.
func afterSplit(s, next State, pg wire.PGID) error {
	b := next.OSD.PGs[pg]
	n := s.OSD.Pools[pg.Pool].PGNum
	if n == 0 || pg.Num < n {
		if b.Interval != 1 {
			return fmt.Errorf("pg %v is made in interval %d", pg, b.Interval)
		}
		return nil
	}
	from := wire.PGID{Pool: pg.Pool, Num: clustermap.SplitFrom(pg.Num, n)}
	a := s.OSD.PGs[from]
	if p, ok := b.PrimaryMember(); b.Interval != a.Interval+1 || !slices.Equal(a.InSync, b.InSync) || ok && !a.Has(p) {
		return fmt.Errorf("pg %v begins with interval %d and members %v, and comes from %v with %d and %v", pg, b.Interval, b.InSync, from, a.Interval, a.InSync)
	}
	return nil
}
