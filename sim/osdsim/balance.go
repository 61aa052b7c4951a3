package osdsim

import (
	"math"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/wire"
)

// Runs in which the leader's balancer moves PGs while everything else happens: it sees what it
// sees in a cluster, late and under leaders that change, and its plans are decided when the
// cluster may be another already. What is asked of it: no plan wants fewer replicas, or two on one
// host; whatever else the checkers ask of changes of members; and when the faults are over it
// comes to rest with every OSD within ±10 % of its share of the bytes.

// blockScale times as large is what a store reports of its blocks: the balancer takes a PG for 1 MiB at
// least, and an object here has one block.
const blockScale = 4096

// leanBalance makes a cluster in which there is something to balance.
func (w *World) leanBalance() {
	w.osds, w.pgs, w.objects, w.nclients, w.faultTime = 6, 48, 160, 6, 12*second
	w.mix = [5]int{1, 8, 1, 0, 4}
	w.pace, w.rest, w.calm, w.readers = 40*ms, 200*ms, 2*second, false
	w.only(bCrash, bSuspect, bPlace, bLeader, bIsolate)
	w.set.BalanceWait, w.set.OutAfter = second/2, 600*second
	w.stats, w.awayMin, w.awayMax = 200*ms, 50*ms, 2*second
}

// pgStats is what the primaries report when the balancer goes by it.
func (n *node) pgStats() (out []wire.PGStat) {
	if !n.w.opt.Balance || n.m == nil {
		return nil
	}
	for _, id := range n.m.PGIDs() {
		if c := n.m.PGs[id]; c.Primary == n.id {
			out = append(out, wire.PGStat{PG: id, Interval: c.Interval, State: "active", Bytes: n.store.Bytes(id) * blockScale})
		}
	}
	return out
}

// planned judges a plan by the map that it makes.
func (w *World) planned(x *mon.Except, now *clustermap.OSDMap) {
	w.res.Moves += len(x.On)
	bare := now.Clone()
	bare.Crush.Exceptions = nil
	bare.Seal()
	for _, id := range now.PGIDs() {
		at, hosts := now.Wanted(id), map[int32]bool{}
		for _, o := range at {
			h, _ := now.Crush.Parent(int32(o))
			hosts[h.ID] = true
		}
		if len(hosts) != len(at) || len(at) != len(bare.Wanted(id)) {
			w.fail("a plan wants pg %v at %v, on %d hosts", id, at, len(hosts))
		}
	}
}

// balance waits until the balancer has nothing more to do, and looks at the stores.
func (w *World) balance() {
	before := -1
	for quiet := 0; quiet < 20; { // ten seconds without a plan, and nothing to copy
		w.runFor(second / 2)
		if w.err != nil || w.lost {
			return
		}
		if w.now > 900*second {
			w.fail("the balancer does not come to rest: %d moves", w.res.Moves)
			return
		}
		if quiet++; w.res.Moves != before || !w.settled() {
			quiet, before = 0, w.res.Moves
		}
	}
	bytes, total, weight := map[wire.OSDID]float64{}, 0.0, 0.0
	for _, n := range w.nodes {
		for _, id := range w.mon.M.PGIDs() {
			c := w.mon.M.PGs[id]
			if c.Has(clustermap.Member{ID: n.id, UUID: n.store.UUID()}) {
				bytes[n.id] += float64(n.store.Bytes(id))
			}
		}
		total += bytes[n.id]
		weight += w.share(n)
	}
	for _, n := range w.nodes {
		off := bytes[n.id]/(total*w.share(n)/weight) - 1
		w.res.Off = max(w.res.Off, math.Abs(off))
		if math.Abs(off) > 0.10 {
			w.fail("osd.%d has %.1f %% off its share of %.0f bytes", n.id, off*100, total)
		}
	}
}

// share is by what the balancer weighs an OSD.
func (w *World) share(n *node) float64 {
	d, _ := w.mon.M.Crush.Device(int32(n.id))
	return float64(d.Weight) * float64(w.mon.M.OSDs[n.id].Reweight)
}
