package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// maxSplit bounds by how much a pool grows at once: every part begins with a copy of the log and
// of the dedup table, and most of the objects move afterwards.
const maxSplit = 16

// PoolSplit makes the PGs of a pool more: some divide, and in this very change those that come out
// of them get their first configuration, which is the next of the PG that they come from: its S,
// the following interval. (../osd/split.go says what the OSDs make of it.) It waits for a pool
// at rest: nobody down or being filled, everything where CRUSH wants it. So one split is over,
// its parts moved to their places, before the next begins; and in the new interval nobody is
// missed whose log would be needed.
type PoolSplit struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	PGNum    uint32
}

func (c *PoolSplit) String() string {
	return fmt.Sprintf("split pool %q into %d pgs", c.Name, c.PGNum)
}

func (c *PoolSplit) apply(e *edit) error {
	m := e.old.OSD
	pool, ok := poolNamed(m, c.Name)
	switch {
	case !ok:
		return refuse(ENOENT, "no pool %q", c.Name)
	case c.PGNum == pool.PGNum:
		return nil
	case c.PGNum < pool.PGNum:
		return refuse(EINVAL, "pool %q has %d PGs: pg_num can only grow, for PGs are not merged", c.Name, pool.PGNum)
	case c.PGNum > pool.PGNum*maxSplit:
		return refuse(EINVAL, "pool %q has %d PGs: pg_num may become %d at most in one step, and then more", c.Name, pool.PGNum, pool.PGNum*maxSplit)
	}
	made := uint32(0)
	for num := range pool.PGNum {
		pg := wire.PGID{Pool: pool.ID, Num: num}
		cfg, ok := m.PGs[pg]
		if !ok {
			continue
		}
		made++
		if err := atRest(m, pg, cfg); err != nil {
			return err
		}
	}
	if made != 0 && made != pool.PGNum {
		return refuse(EAGAIN, "pool %q: %d of %d PGs are made", c.Name, made, pool.PGNum)
	}
	n := e.osdMap()
	grown := pool
	grown.PGNum = c.PGNum
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
