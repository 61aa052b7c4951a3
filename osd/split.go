package osd

import (
	"encoding/binary"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// A split. When a pool's pg_num grows, the monitors give each PG that divides, and in the same
// change each PG that comes out of it, the next interval, with the S that the old PG had. A new PG
// is the old one under another number, from which the other objects were removed: it has the
// whole log, the whole dedup table, the lease that was given. So what is promised of a PG over a
// change of interval is promised over a split, and kept by the same steps: logs are reconciled,
// the primary waits the old lease out, what was not committed is committed or cut.
//
// Every OSD divides what it has by itself, before it does anything else under the map that says
// so, one store transaction for each PG: members, learners, and who has left the PG long ago,
// those that were away when they come back. pgNumKey says how far a PG's state is divided.
//
// Entries of the log about objects of another part stay: the chain of versions is what logs are
// compared by (R3), and their answers may be asked for. They do nothing any more: who follows
// one, in a cut or as a learner, asks for a copy of its object, and that is absent.

// pgNumKey names the value that holds the pg_num for which a PG's state was made or divided.
const pgNumKey = "pg_num"

func pgNumKV(n uint32) wire.KV {
	return wire.KV{Key: pgNumKey, Val: binary.BigEndian.AppendUint32(nil, n)}
}

// DividedFor is the pg_num for which the store's state of a PG is divided; 0: it says nothing.
func DividedFor(st Store, id wire.PGID) uint32 {
	for _, kv := range st.Meta(id, pgNumKey) {
		if n, ok := PGNumIn(kv); ok {
			return n
		}
	}
	return 0
}

// PGNumIn reads that record; false: kv is another one.
func PGNumIn(kv wire.KV) (uint32, bool) {
	if kv.Key != pgNumKey || len(kv.Val) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(kv.Val), true
}

// Place is where an object of a pool belongs while it has n PGs.
func Place(pool uint32, name string, n uint32) wire.PGID {
	return wire.PGID{Pool: pool, Num: clustermap.PGNumOf(name, n)}
}

// splitAll divides every PG that is not divided as the map says. False: the store has failed.
func (o *OSD) splitAll() bool {
	for _, p := range slices.Clone(o.order) {
		n := o.m.Pools[p.id.Pool].PGNum
		if n == p.pgNum || n == 0 {
			continue
		}
		must.Holdf(n > p.pgNum, "%v: pg_num is %d, and its state is divided for %d", p, n, p.pgNum)
		if !p.split(n) {
			return false
		}
	}
	return true
}

// split divides the PG's state for a pool of n PGs.
func (p *pg) split(n uint32) bool {
	o := p.o
	d := &Split{PG: p.id, Into: clustermap.SplitInto(p.id, p.pgNum, n), Meta: []wire.KV{pgNumKV(n)},
		Of: func(name string) wire.PGID { return Place(p.id.Pool, name, n) }}
	p.pgNum = n
	if len(d.Into) == 0 { // others of the pool divide
		if p.numStored {
			p.submit(&Txn{Meta: d.Meta})
		}
		return true
	}
	pieces := o.fault(FaultSplitNotAtomic)
	if p.numStored && !pieces {
		if err := o.store.Split(d); err != nil {
			o.cfg.Stored(p.id, 0, err)
			return false
		}
	}
	o.stats.Splits++
	for _, id := range d.Into {
		must.Holdf(o.pgs[id] == nil, "osd.%d: pg %v divides, and pg %v is there already", o.cfg.ID, p.id, id)
		o.get(id).bornOf(p, d.Of)
	}
	p.disown(d.Of)
	if p.numStored && pieces {
		p.splitInPieces(d)
	}
	return true
}

// bornOf makes c, in memory, the part of p that the store has made of it: p as it was, of which
// it adopts the next interval.
func (c *pg) bornOf(p *pg, of func(string) wire.PGID) {
	c.pgNum, c.numStored, c.gone = p.pgNum, p.numStored, p.gone
	c.tail, c.last, c.committed = p.tail, p.last, p.committed
	c.durable = p.last // with the split
	for _, e := range p.log {
		x := *e
		x.waiters = slices.Clone(e.waiters)
		c.log = append(c.log, &x)
	}
	c.disown(of)
	c.base, c.dedup = p.base.clone(), p.dedup.clone()
	if p.o.fault(FaultSplitNoDedup) {
		c.base, c.dedup = newTable(), newTable()
	}
	c.learn = learner{drop: slices.Clone(p.learn.drop), state: p.learn.state, interval: p.learn.interval}
	c.cfg, c.interval, c.role, c.adoptedAt = p.cfg, p.interval, p.role, p.adoptedAt
	c.leaseUntil, c.leaseTo, c.leaseInterval = p.leaseUntil, p.leaseTo, p.leaseInterval
	if p.o.fault(FaultSplitNoLease) {
		c.leaseUntil = 0
	}
	// Who is dropped next may not have heard of the split, and answer for what is the part's now. The
	// leave to answer reads that this OSD had itself ends with the interval (adopt).
	if !p.o.fault(FaultSplitNoLent) {
		c.lent = slices.Clone(p.lent)
	}
}

// disown leaves who waits for an entry to the part that has its object. Transactions that were
// kept to be sent again go: the new interval sends copies of objects where one is needed, and
// what they refer to would have several owners.
func (p *pg) disown(of func(string) wire.PGID) {
	for _, e := range p.log {
		e.muts, e.noMuts, e.data = nil, true, nil
		if of(e.h.Object) != p.id {
			e.waiters = nil
		}
	}
}

// splitInPieces is what FaultSplitNotAtomic does: a transaction for each part.
func (p *pg) splitInPieces(d *Split) {
	st, log := p.o.store, p.o.store.Log(p.id)
	ts := map[wire.PGID]*Txn{p.id: {Meta: d.Meta}}
	for _, id := range d.Into {
		ts[id] = &Txn{ResetLog: true, Trim: log.Tail, Append: log.Recs, Committed: log.Committed, Meta: append(st.Meta(p.id, ""), d.Meta...)}
	}
	for _, ov := range st.ListObjects(p.id, "", 1<<20) {
		if to := d.Of(ov.Name); to != p.id {
			c, err := p.copyOf(ov.Name)
			must.NoErr(err, "%v: %q", p, ov.Name)
			ts[to].Objs = append(ts[to].Objs, installTxn(&c))
			ts[p.id].Objs = append(ts[p.id].Objs, ObjTxn{Name: ov.Name, Remove: true})
		}
	}
	p.submit(ts[p.id])
	for _, id := range d.Into {
		p.o.pgs[id].submit(ts[id])
	}
}
