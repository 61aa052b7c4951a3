package osdsim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// Mon is a model of what the monitors decide about PGs: rules M1–M4 and M6, one value, no Raft.
type Mon struct {
	M       *clustermap.OSDMap
	Changed func(old, new *clustermap.OSDMap) // sees every epoch

	// Seeded faults.
	IgnoresUUID  bool // M4 broken: a boot with another store is taken for the old one
	IgnoresEpoch bool // M1 broken: the proposal's interval is not looked at
}

// NewMon makes a cluster of one pool whose PGs come to life when n OSDs have booted.
func NewMon(cluster wire.UUID, pgs uint32, size, minSize int) *Mon {
	return &Mon{M: &clustermap.OSDMap{Epoch: 1, Cluster: cluster,
		Pools:     map[uint32]clustermap.Pool{1: {ID: 1, Name: "sim", Size: size, MinSize: minSize, PGNum: pgs}},
		OSDs:      map[wire.OSDID]clustermap.OSD{},
		PGs:       map[wire.PGID]clustermap.PGConfig{},
		Blocklist: map[wire.Instance]clustermap.BlockEntry{}}}
}

// UpSet is the model's placement: ids in turn, beginning at the PG's number.
func UpSet(m *clustermap.OSDMap, pg wire.PGID) []wire.OSDID {
	ids := slices.Sorted(maps.Keys(m.OSDs))
	var up []wire.OSDID
	for i := range ids {
		if id := ids[(i+int(pg.Num))%len(ids)]; m.OSDs[id].Up && len(up) < m.Pools[pg.Pool].Size {
			up = append(up, id)
		}
	}
	return up
}

func (m *Mon) change(f func(n *clustermap.OSDMap)) {
	n := *m.M
	n.Epoch++
	n.OSDs, n.PGs, n.Blocklist = maps.Clone(n.OSDs), maps.Clone(n.PGs), maps.Clone(n.Blocklist)
	f(&n)
	old := m.M
	m.M = &n
	if m.Changed != nil {
		m.Changed(old, &n)
	}
}

// Make creates the PGs over the OSDs that are up.
func (m *Mon) Make() {
	m.change(func(n *clustermap.OSDMap) {
		for _, p := range n.Pools {
			for i := range p.PGNum {
				id := wire.PGID{Pool: p.ID, Num: i}
				c := clustermap.PGConfig{Interval: 1}
				for _, o := range UpSet(n, id) {
					c.InSync = append(c.InSync, clustermap.Member{ID: o, UUID: n.OSDs[o].UUID})
				}
				c.Primary = c.InSync[0].ID
				n.PGs[id] = c
			}
		}
	})
}

// reconfigure gives a PG its next interval with S (M2).
func reconfigure(n *clustermap.OSDMap, id wire.PGID, s, learners []clustermap.Member) {
	old := n.PGs[id]
	up := func(mb clustermap.Member) bool {
		return n.OSDs[mb.ID].Up && n.OSDs[mb.ID].UUID == mb.UUID && slices.Contains(old.InSync, mb) && slices.Contains(s, mb)
	}
	c := clustermap.PGConfig{Interval: old.Interval + 1, InSync: s, Learners: learners, Primary: wire.NoOSD}
	order := UpSet(n, id)
	byID := slices.Clone(s)
	slices.SortFunc(byID, func(a, b clustermap.Member) int { return cmp.Compare(a.ID, b.ID) })
	for _, mb := range byID {
		order = append(order, mb.ID)
	}
	for _, o := range order {
		if i := slices.IndexFunc(s, func(mb clustermap.Member) bool { return mb.ID == o && up(mb) }); i >= 0 {
			c.Primary = o
			break
		}
	}
	n.PGs[id] = c
}

func sortedPGs(n *clustermap.OSDMap) []wire.PGID {
	return slices.SortedFunc(maps.Keys(n.PGs), clustermap.ComparePG)
}

// Boot is R2 and M4.
func (m *Mon) Boot(id wire.OSDID, uuid wire.UUID, inst wire.Instance, addr string) {
	m.change(func(n *clustermap.OSDMap) {
		old, known := n.OSDs[id]
		d := clustermap.OSD{ID: id, UUID: uuid, Instance: inst, Addr: addr, Up: true, In: true, BootEpoch: n.Epoch}
		n.OSDs[id] = d
		other := known && old.UUID != uuid
		for _, pg := range sortedPGs(n) {
			c := n.PGs[pg]
			has := func(ms []clustermap.Member) bool {
				return slices.ContainsFunc(ms, func(x clustermap.Member) bool { return x.ID == id })
			}
			if !has(c.InSync) && !has(c.Learners) {
				continue
			}
			s, l := c.InSync, c.Learners
			if other && m.IgnoresUUID {
				for _, ms := range []*[]clustermap.Member{&s, &l} {
					*ms = slices.Clone(*ms)
					for i := range *ms {
						if (*ms)[i].ID == id {
							(*ms)[i].UUID = uuid
						}
					}
				}
				c.InSync = s // so that it counts as a member of old
				n.PGs[pg] = c
			} else if other {
				gone := clustermap.Member{ID: id, UUID: old.UUID}
				if len(s) > 1 {
					s = without(s, gone)
				}
				l = without(l, gone)
			}
			reconfigure(n, pg, s, l)
		}
	})
}

// Down marks an OSD down and drops it from every S in which another member is up (M3).
func (m *Mon) Down(id wire.OSDID) {
	if !m.M.OSDs[id].Up {
		return
	}
	m.change(func(n *clustermap.OSDMap) {
		d := n.OSDs[id]
		d.Up = false
		n.OSDs[id] = d
		mb := clustermap.Member{ID: id, UUID: d.UUID}
		for _, pg := range sortedPGs(n) {
			c := n.PGs[pg]
			if !slices.Contains(c.InSync, mb) && !slices.Contains(c.Learners, mb) {
				continue
			}
			s := c.InSync
			rest := without(s, mb)
			if slices.ContainsFunc(rest, func(x clustermap.Member) bool { return n.OSDs[x.ID].Up && n.OSDs[x.ID].UUID == x.UUID }) {
				s = rest
			}
			reconfigure(n, pg, s, without(c.Learners, mb))
		}
	})
}

// CAS is M1: nil when done.
func (m *Mon) CAS(p *osd.Proposal, from wire.Instance) error {
	c := m.M.PGs[p.PG]
	if c.Interval != p.Expected && !m.IgnoresEpoch {
		return fmt.Errorf("interval is %d", c.Interval)
	}
	if m.M.OSDs[c.Primary].Instance != from {
		return fmt.Errorf("not from the primary")
	}
	isUp := func(mb clustermap.Member) bool { return m.M.OSDs[mb.ID].Up && m.M.OSDs[mb.ID].UUID == mb.UUID }
	kept := 0
	for _, mb := range p.InSync {
		switch {
		case slices.Contains(c.InSync, mb):
			if isUp(mb) {
				kept++
			}
		case !slices.Contains(c.Learners, mb) || !isUp(mb):
			return fmt.Errorf("%v is no learner that is up", mb)
		}
	}
	if kept == 0 {
		return fmt.Errorf("nobody of S would be left")
	}
	for _, mb := range p.Learners {
		if !isUp(mb) || slices.Contains(p.InSync, mb) {
			return fmt.Errorf("%v cannot be a learner", mb)
		}
	}
	m.change(func(n *clustermap.OSDMap) { reconfigure(n, p.PG, p.InSync, p.Learners) })
	return nil
}

// Blocklist fences an instance (M6).
func (m *Mon) Blocklist(i wire.Instance) wire.Epoch {
	m.change(func(n *clustermap.OSDMap) { n.Blocklist[i] = clustermap.BlockEntry{Since: n.Epoch, Reason: "sim"} })
	return m.M.Epoch
}

// check is I7 and M3 over one change.
func check(old, now *clustermap.OSDMap) error {
	for pg, c := range now.PGs {
		o, ok := old.PGs[pg]
		if !ok || o.Equal(c) {
			continue
		}
		if c.Interval != o.Interval+1 {
			return fmt.Errorf("I7: pg %v: interval %d then %d", pg, o.Interval, c.Interval)
		}
		if len(c.InSync) == 0 {
			return fmt.Errorf("I7: pg %v: S is empty in interval %d", pg, c.Interval)
		}
		if c.Primary != wire.NoOSD {
			in := func(ms []clustermap.Member) bool {
				return slices.ContainsFunc(ms, func(x clustermap.Member) bool { return x.ID == c.Primary && x.UUID == now.OSDs[x.ID].UUID })
			}
			if !in(o.InSync) || !in(c.InSync) {
				return fmt.Errorf("I7: pg %v: primary osd.%d of interval %d is not in both S", pg, c.Primary, c.Interval)
			}
		}
	}
	return nil
}

func without(ms []clustermap.Member, m clustermap.Member) []clustermap.Member {
	return slices.DeleteFunc(slices.Clone(ms), func(x clustermap.Member) bool { return x == m })
}
