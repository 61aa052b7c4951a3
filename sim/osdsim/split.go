package osdsim

import (
	"fmt"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// maxPGs keeps a pool small enough for its PGs to settle between two faults.
const maxPGs = 7

// grow splits PGs, as often as the monitors let it.
func (w *World) grow() {
	pool := w.mon.M.Pools[mon.MetaPool]
	n := pool.PGNum + 1 + w.rng.Uint32N(2*pool.PGNum)
	if _, err := w.mon.state.Apply(&mon.PoolSplit{Name: pool.Name, PGNum: n}); err != nil {
		return // not at rest
	}
	if n <= maxPGs {
		pg := wire.PGID{Pool: pool.ID, Num: clustermap.SplitFrom(pool.PGNum, pool.PGNum)}
		if p := w.mon.M.PGs[pg].Primary; p >= 0 && w.dice(w.cutAtSplit) {
			if w.anyRead > 0 { // a member, which may answer reads
				s := w.mon.M.PGs[pg].InSync
				p = s[w.rng.IntN(len(s))].ID
			}
			w.isolate(w.nodes[p], w.between(2*second, 5*second), 2)
		}
		w.mon.now(&mon.PoolSplit{Name: pool.Name, PGNum: n})
	}
}

// ancestor is the PG that pg comes from by the last split that made it; false: it is no part of another.
func (w *World) ancestor(pg wire.PGID) (wire.PGID, bool) {
	b, ok := w.born[pg]
	return wire.PGID{Pool: pg.Pool, Num: clustermap.SplitFrom(pg.Num, max(b.of, 1))}, ok
}

// home is the PG in which version v of pg's log was given: pg, or one that it comes from.
func (w *World) home(pg wire.PGID, v wire.Version) wire.PGID {
	for v.Interval < w.born[pg].interval {
		pg, _ = w.ancestor(pg)
	}
	return pg
}

type birth struct {
	of       uint32 // PGs that the pool had before
	interval uint64 // its first
}

// divided notes what the parts of PGs inherit: all that was promised of the PG they come from.
func (w *World) divided(old, now *clustermap.OSDMap) {
	for _, pg := range now.PGIDs() {
		n := old.Pools[pg.Pool].PGNum
		if _, was := old.PGs[pg]; was || n == 0 || pg.Num < n {
			continue
		}
		from := wire.PGID{Pool: pg.Pool, Num: clustermap.SplitFrom(pg.Num, n)}
		a, b := old.PGs[from], now.PGs[pg]
		if b.Interval != a.Interval+1 || len(b.InSync) != len(a.InSync) {
			w.fail("I7: pg %v begins in interval %d with %v, from pg %v in %d with %v", pg, b.Interval, members(b.InSync), from, a.Interval, members(a.InSync))
		}
		w.born[pg] = birth{n, b.Interval}
		w.watch[pg], w.barrier[pg] = w.watch[from], w.barrier[from]
		if w.watch[pg] == (wire.Version{}) {
			delete(w.watch, pg)
		}
		w.res.Splits++
	}
	for k, v := range w.rotted { // wherever the object is now
		to := rotKey{now.PGOf(wire.ObjectID{Pool: k.pg.Pool, Name: k.name}), k.name}
		if to != k && w.rotted[to].Less(v) {
			w.rotted[to] = v
		}
	}
}

// keptAs is the PG under which an OSD keeps what it has of pg: it may not have divided the PG yet
// that pg comes from.
func (w *World) keptAs(st *osd.MemStore, pg wire.PGID) wire.PGID {
	for from, part := w.ancestor(pg); part && osd.DividedFor(st, pg) == 0; from, part = w.ancestor(pg) {
		if osd.DividedFor(st, from) > pg.Num {
			break // it has, and lacks this part
		}
		pg = from
	}
	return pg
}

func (w *World) logOf(st *osd.MemStore, pg wire.PGID) osd.LogState {
	return st.Log(w.keptAs(st, pg))
}

// placed: no OSD keeps an object under another PG than its own.
func (w *World) placed() error {
	for _, n := range w.nodes {
		for _, pg := range n.store.PGs() {
			for _, ob := range n.store.ListObjects(pg, "", 1000) {
				if at := w.mon.M.PGOf(wire.ObjectID{Pool: pg.Pool, Name: ob.Name}); at != pg {
					return fmt.Errorf("split: osd.%d keeps %s in pg %v, and it belongs to %v", n.id, ob.Name, pg, at)
				}
			}
		}
	}
	return nil
}
