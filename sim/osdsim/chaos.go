package osdsim

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// Things that may go wrong; plan.go says how often.
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
	bLeader
	bPlace
	bHalf
	bSlow
	bDrift
	bRot
	bScrub
	bMove
	bGrow
	bads
)

// chaos does one bad thing and comes back.
func (w *World) chaos() {
	if w.healed || w.err != nil {
		return
	}
	if len(w.mon.M.PGs) == 0 {
		w.after(second, w.chaos)
		return
	}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if pg := w.mon.M.PGs[w.mon.M.PGIDs()[w.rng.IntN(len(w.mon.M.PGs))]]; pg.Primary >= 0 && w.dice(0.5) {
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
		w.crashFor(n, w.away())
	case bPower:
		for _, x := range w.nodes {
			w.crashFor(x, w.between(100*ms, 6*second))
		}
	case bDisk:
		// The monitors hear of it when they miss the OSD, or from its next life.
		if w.mayLose(n) {
			w.log("osd.%d loses its disk", n.id)
			n.crash()
			n.store = osd.NewMemStore(w.uuid())
			w.revive(n, w.away())
		}
	case bFreeze:
		if n.core != nil {
			d := w.between(50*ms, 6*second)
			if w.dice(0.5) { // about as long as a lease
				d = w.between(1500*ms, 2500*ms)
			}
			w.log("osd.%d is frozen for %d ms", n.id, d/ms)
			n.paused = max(n.paused, w.now+d)
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
	case bLeader:
		w.mon.depose(w.between(10*ms, 2*second))
	case bPlace: // its share goes to others, or comes back
		if o, ok := w.mon.M.OSDs[n.id]; ok {
			w.mon.now(&mon.OSDPlace{ID: n.id, In: !o.In, Reweight: o.Reweight})
		}
	case bHalf: // from the monitors and all OSDs but one, which hears of it late
		for _, pg := range w.mon.M.PGIDs() {
			if p := w.mon.M.PGs[pg].Primary; p >= 0 {
				n = w.nodes[p]
			}
		}
		var friends []*node
		for _, x := range w.nodes {
			if x != n {
				friends = append(friends, x)
			}
		}
		friend := friends[w.rng.IntN(len(friends))]
		d := w.between(2*second, 5*second)
		w.log("osd.%d has nobody but osd.%d", n.id, friend.id)
		var links [][2]int
		for x := -1; x < len(w.nodes); x++ {
			if x != int(n.id) && x != int(friend.id) {
				links = append(links, [2]int{int(n.id), x}, [2]int{x, int(n.id)})
			}
		}
		w.cutFor(d, links...)
	case bSlow: // a disk that takes its time, and is well again
		d := w.between(500*ms, 6*second)
		w.log("the disk of osd.%d is slow for %d ms", n.id, d/ms)
		n.slowUntil = max(n.slowUntil, w.now+d)
	case bDrift: // a clock that runs differently from now on, within the bound
		n.drift(1 + 0.0099*w.rng.Float64())
	case bRot:
		w.rot(n)
	case bScrub:
		for _, id := range w.mon.M.PGIDs() {
			if p := w.mon.M.PGs[id].Primary; p >= 0 && w.nodes[p].core != nil && w.nodes[p].paused <= w.now {
				w.log("scrub of pg %v", id)
				_ = w.nodes[p].core.Scrub(id, true, true) // where it is not active none begins
			}
		}
	case bGrow:
		w.grow()
	case bMove: // as the balancer does it: one PG's place on one OSD goes to another
		id := w.mon.M.PGIDs()[w.rng.IntN(len(w.mon.M.PGs))]
		want := w.mon.M.Wanted(id)
		if len(want) > 0 && !slices.Contains(want, n.id) {
			from := want[w.rng.IntN(len(want))]
			w.mon.now(&mon.Except{On: []crush.Exception{{X: clustermap.PlaceX(id), From: int32(from), To: int32(n.id)}}})
		}
	}
	w.after(w.between(50*ms, w.calm), w.chaos)
}

// rot damages an object of n of which another member that is up has a good copy.
func (w *World) rot(n *node) {
	for _, id := range w.mon.M.PGIDs() {
		cfg := w.mon.M.PGs[id]
		if !slices.Contains(cfg.InSync, clustermap.Member{ID: n.id, UUID: n.store.UUID()}) {
			continue
		}
		obs := n.store.ListObjects(id, "", 1000)
		if len(obs) == 0 {
			continue
		}
		ob := obs[w.rng.IntN(len(obs))]
		if w.goodElsewhere(id, ob, n, nil) {
			w.spoil(n, id, ob.Name)
			w.res.Rot++
		}
	}
}

// spoil damages the data of an object, or one pair of its omap, on n; seldom, where the class says so,
// the same on every OSD. All that is drawn apart: other draws stay what they were.
func (w *World) spoil(n *node, id wire.PGID, name string) {
	on := []*node{n}
	if w.fate.Float64() < w.rotAll {
		on = w.nodes
	}
	key := ""
	if kvs, _, _ := n.store.OmapRange(id, name, "", 1000); len(kvs) > 0 && w.fate.Float64() < 0.4 {
		key = kvs[w.fate.IntN(len(kvs))].Key
	}
	for _, x := range on {
		w.log("%s of pg %v rots on osd.%d (%q)", name, id, x.id, key)
		st, _ := x.store.Stat(id, name)
		if k := (rotKey{id, name}); w.rotted[k].Less(st.Version) {
			w.rotted[k] = st.Version // and what a crash may leave of it, which is older
		}
		if key == "" {
			x.store.Damage(id, name)
		} else {
			x.store.DamageOmap(id, name, key)
			w.res.RotPairs++
		}
	}
}

// goodElsewhere: a member that is up, neither a nor b, has the object at that version, undamaged.
func (w *World) goodElsewhere(id wire.PGID, ob wire.ObjVersion, a, b *node) bool {
	return slices.ContainsFunc(w.mon.M.PGs[id].InSync, func(m clustermap.Member) bool {
		x := w.nodes[m.ID]
		return x != a && x != b && x.store.UUID() == m.UUID && w.mon.M.IsUp(m) && x.store.Sound(id, ob.Name, ob.Version) && x.store.Kept(id, ob.Name, ob.Version)
	})
}

// holdsGood: n has the only good copy of what is damaged elsewhere.
func (w *World) holdsGood(n *node) bool {
	for _, id := range w.mon.M.PGIDs() {
		for _, m := range w.mon.M.PGs[id].InSync {
			x := w.nodes[m.ID]
			if x == n {
				continue
			}
			for _, ob := range x.store.ListObjects(id, "", 1000) {
				if n.store.Sound(id, ob.Name, ob.Version) && !x.store.Sound(id, ob.Name, ob.Version) && !w.goodElsewhere(id, ob, n, x) {
					return true
				}
			}
		}
	}
	return false
}

// drift changes the rate of the clock, which goes on from where it is.
func (n *node) drift(rate float64) {
	now := n.clock()
	n.rate = rate
	n.offset += now - n.clock()
	n.w.log("the clock of osd.%d runs at %.4f", n.id, rate)
}

// away is for how long somebody stays away who crashed.
func (w *World) away() int64 { return w.between(w.awayMin, w.awayMax) }

// onChange cuts a primary off from the monitors at the moment when somebody returns who comes
// before it in the up set, and was dropped: it will be filled and added by a successor.
func (w *World) onChange(old, now *clustermap.OSDMap) {
	if w.healed || w.cutAtBoot == 0 {
		return
	}
	for _, pg := range now.PGIDs() {
		c := now.PGs[pg]
		first := now.Wanted(pg)[0]
		mb := clustermap.Member{ID: first, UUID: now.OSDs[first].UUID}
		if c.Primary != wire.NoOSD && c.Primary != first && !c.Has(mb) && now.OSDs[first].Up && !old.OSDs[first].Up && w.dice(w.cutAtBoot) {
			p := w.nodes[c.Primary]
			w.log("osd.%d loses the monitors as osd.%d returns", p.id, first)
			w.cutFor(w.between(3*second, 6*second), [2]int{int(p.id), -1}, [2]int{-1, int(p.id)})
		}
	}
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
}

// thaw takes what arrived meanwhile, by and large in order: a process that wakes may read its
// sockets in any, clients before peers and monitors too.
func (n *node) thaw() {
	if n.paused > n.w.now {
		return
	}
	in := n.inbox
	n.inbox = nil
	if n.w.dice(0.5) {
		n.w.rng.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	}
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
	w.after(d, func() {
		if n.core == nil && n.life == life {
			n.start()
		}
	})
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
	if w.holdsGood(n) {
		return false
	}
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
	if w.mon.leader == nil {
		w.mon.elect(false)
	}
	for _, id := range w.mon.M.OSDIDs() {
		if o := w.mon.M.OSDs[id]; !o.In {
			w.mon.now(&mon.OSDPlace{ID: id, In: true, Reweight: o.Reweight})
		}
	}
	for _, c := range w.clients {
		c.stop = true
	}
	for _, n := range w.nodes {
		n.paused, n.slowUntil = 0, 0
		n.thaw()
		if n.core == nil {
			n.start()
		}
	}
}
