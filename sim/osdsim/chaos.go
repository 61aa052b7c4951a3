package osdsim

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/osd"
)

// chaos does one bad thing and comes back.
func (w *World) chaos() {
	if w.healed || w.err != nil {
		return
	}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch d := w.rng.IntN(100); {
	case d < 22:
		w.crashFor(n, w.between(100*ms, 9*second))
	case d < 25: // power failure
		for _, x := range w.nodes {
			w.crashFor(x, w.between(100*ms, 6*second))
		}
	case d < 37:
		if w.mayLose(n) {
			w.log("osd.%d loses its disk", n.id)
			n.crash()
			n.store = osd.NewMemStore(w.uuid())
			w.mon.Down(n.id) // at once: were all others dropped first, the last copy would be gone
			w.revive(n, w.between(50*ms, 6*second))
		}
	case d < 50:
		if n.core != nil {
			for_ := w.between(50*ms, 6*second)
			w.log("osd.%d is frozen for %d ms", n.id, for_/ms)
			n.paused = max(n.paused, w.now+for_)
			w.suspect(n, for_)
			w.after(n.paused-w.now, n.thaw)
		}
	case d < 65: // one direction between two OSDs
		x := w.nodes[w.rng.IntN(len(w.nodes))]
		w.cutFor(w.between(100*ms, 8*second), [2]int{int(n.id), int(x.id)})
	case d < 80: // cut off from everybody but clients, in one or both directions
		var links [][2]int
		how := w.rng.IntN(3)
		for _, x := range append(slices.Clone(w.nodes), &node{id: -1}) {
			if x.id == n.id {
				continue
			}
			if how != 0 {
				links = append(links, [2]int{int(n.id), int(x.id)})
			}
			if how != 1 {
				links = append(links, [2]int{int(x.id), int(n.id)})
			}
		}
		d := w.between(500*ms, 9*second)
		w.cutFor(d, links...)
		w.suspect(n, d)
	case d < 90:
		w.log("osd.%d is suspected for no reason", n.id)
		w.mon.Down(n.id)
	default:
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
	}
	w.after(w.between(100*ms, 3*second), w.chaos)
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
	if grace := w.between(second, 4*second); away > grace {
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
