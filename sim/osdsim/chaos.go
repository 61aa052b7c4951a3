package osdsim

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/osd"
)

// Things that may go wrong. Each seed draws how often each does: swarms of few kinds find what
// an even mixture drowns.
const (
	bCrash = iota
	bPower
	bDisk
	bFreeze
	bCut
	bIsolate
	bSplit
	bSuspect
	bFence
	bDeaf
	bads
)

func (w *World) drawSwarm() {
	for i := range w.weight {
		if w.dice(0.6) {
			w.weight[i] = w.rng.IntN(10)
		}
	}
	w.weight[bPower] /= 4
	w.weight[w.rng.IntN(bads)] += 3
	w.calm = []int64{700 * ms, 2 * second, 4 * second}[w.rng.IntN(3)]
	w.killAtFix = w.dice(0.3)
	w.killAtRepl = []float64{0, 0, 0.004, 0.02}[w.rng.IntN(4)]
	w.cutAtAdd = w.dice(0.3)
}

// chaos does one bad thing and comes back.
func (w *World) chaos() {
	if w.healed || w.err != nil {
		return
	}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if pg := w.mon.M.PGs[sortedPGs(w.mon.M)[w.rng.IntN(len(w.mon.M.PGs))]]; pg.Primary >= 0 && w.dice(0.4) {
		n = w.nodes[pg.Primary]
	}
	total := 0
	for _, k := range w.weight {
		total += k
	}
	d, what := w.rng.IntN(total), 0
	for ; d >= w.weight[what]; what++ {
		d -= w.weight[what]
	}
	switch what {
	case bCrash:
		w.crashFor(n, w.between(100*ms, 9*second))
	case bPower:
		for _, x := range w.nodes {
			w.crashFor(x, w.between(100*ms, 6*second))
		}
	case bDisk:
		if w.mayLose(n) {
			w.log("osd.%d loses its disk", n.id)
			n.crash()
			n.store = osd.NewMemStore(w.uuid())
			if w.mon.IgnoresUUID {
				w.revive(n, w.between(50*ms, second/2))
				break
			}
			w.mon.Down(n.id) // at once: were all others dropped first, the last copy would be gone
			w.revive(n, w.between(50*ms, 6*second))
		}
	case bFreeze:
		if n.core != nil {
			d := w.between(50*ms, 6*second)
			w.log("osd.%d is frozen for %d ms", n.id, d/ms)
			n.paused = max(n.paused, w.now+d)
			w.suspect(n, d)
			w.after(n.paused-w.now, n.thaw)
		}
	case bCut: // one direction between two OSDs
		x := w.nodes[w.rng.IntN(len(w.nodes))]
		w.cutFor(w.between(100*ms, 8*second), [2]int{int(n.id), int(x.id)})
	case bIsolate:
		w.isolate(n, w.between(500*ms, 9*second), w.rng.IntN(3))
	case bSplit: // two halves, the monitors in one, clients reach both
		var links [][2]int
		d := w.between(500*ms, 9*second)
		side := map[int]bool{-1: true}
		for _, x := range w.nodes {
			side[int(x.id)] = w.dice(0.5)
			if !side[int(x.id)] {
				w.suspect(x, d)
			}
		}
		for a := -1; a < len(w.nodes); a++ {
			for b := -1; b < len(w.nodes); b++ {
				if side[a] != side[b] {
					links = append(links, [2]int{a, b})
				}
			}
		}
		w.cutFor(d, links...)
	case bSuspect:
		w.log("osd.%d is suspected for no reason", n.id)
		w.mon.Down(n.id)
	case bFence:
		c := w.clients[w.rng.IntN(len(w.clients))]
		if _, was := w.mon.M.Blocklist[c.inst]; !was && !c.dead {
			e := w.mon.Blocklist(c.inst)
			w.log("c%d is fenced in epoch %d", c.num, e)
			// Somebody who has been given what c held comes with the barrier at once.
			for _, x := range w.clients {
				if x != c {
					m := w.mon.M
					w.after(w.between(0, 5*ms), func() { x.newMap(m) })
				}
			}
		}
	case bDeaf: // no answer reaches one client
		c := w.clients[w.rng.IntN(len(w.clients))]
		var links [][2]int
		for _, x := range w.nodes {
			links = append(links, [2]int{int(x.id), 100 + c.num})
		}
		w.cutFor(w.between(500*ms, 8*second), links...)
	}
	w.after(w.between(50*ms, w.calm), w.chaos)
}

// isolate cuts n off from everybody but clients: its words (how 1), what it hears (0), or both.
func (w *World) isolate(n *node, d int64, how int) {
	var links [][2]int
	for x := -1; x < len(w.nodes); x++ {
		if x == int(n.id) {
			continue
		}
		if how != 0 {
			links = append(links, [2]int{int(n.id), x})
		}
		if how != 1 {
			links = append(links, [2]int{x, int(n.id)})
		}
	}
	w.cutFor(d, links...)
	w.suspect(n, d)
}

func (n *node) thaw() {
	if n.paused > n.w.now {
		return
	}
	in := n.inbox
	n.inbox = nil
	for _, f := range in {
		n.do(f)
	}
}

// crashFor crashes n and starts it again d later.
func (w *World) crashFor(n *node, d int64) {
	if n.core == nil {
		return
	}
	n.crash()
	w.revive(n, d)
}

func (w *World) revive(n *node, d int64) {
	life := n.life
	w.suspect(n, d)
	w.after(d, func() {
		if n.core == nil && n.life == life {
			n.start()
		}
	})
}

// suspect marks n down if it stays away for long enough.
func (w *World) suspect(n *node, away int64) {
	if grace := w.between(100*ms, []int64{second, 4 * second}[w.rng.IntN(2)]); away > grace {
		w.after(grace, func() {
			if !w.healed {
				w.log("monitors mark osd.%d down", n.id)
				w.mon.Down(n.id)
			}
		})
	}
}

func (w *World) cutFor(d int64, links ...[2]int) {
	w.log("cut %v for %d ms", links, d/ms)
	for _, l := range links {
		w.cut[l] = true
	}
	w.after(d, func() {
		for _, l := range links {
			delete(w.cut, l)
		}
	})
}

// mayLose reports whether every PG of n has another member that is up and has its disk: what was the last
// copy is lost for good, and no replication can be blamed.
func (w *World) mayLose(n *node) bool {
	for _, cfg := range w.mon.M.PGs {
		mine := clustermap.Member{ID: n.id, UUID: n.store.UUID()}
		if !slices.Contains(cfg.InSync, mine) {
			continue
		}
		if !slices.ContainsFunc(cfg.InSync, func(m clustermap.Member) bool {
			return m != mine && w.nodes[m.ID].store.UUID() == m.UUID && w.mon.M.IsUp(m)
		}) {
			return false
		}
	}
	return true
}

// heal ends the faults: everything works from now on, and nobody begins anything new.
func (w *World) heal() {
	w.log("the faults are over")
	w.healed, w.loss = true, 0
	clear(w.cut)
	for _, c := range w.clients {
		c.stop = true
	}
	for _, n := range w.nodes {
		n.paused = 0
		n.thaw()
		if n.core == nil {
			n.start()
		}
	}
}
