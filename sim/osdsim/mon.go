package osdsim

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/wire"
)

// MonFault switches a rule of the monitors off.
type MonFault uint32

// Seeded faults of monitors. The core has no switches: each is acted out by showing it maps in
// which the rule has nothing to object to.
const (
	MonIgnoresUUID     MonFault = 1 << iota // M4, R1: a boot with another store is taken for the old one
	MonIgnoresInterval                      // M1: a proposal fits any interval
	MonDropsLast                            // M3: whoever is up goes on with what it happens to have
	MonDropsTooMany                         // M5: members that are down are dropped however many they are
)

// Mon is the monitors: the real core (mon.State, mon.Leader) with raft as a queue that takes a
// while. A change of leader forgets what the old one knew; what it had proposed may still be
// decided, without anybody being told.
type Mon struct {
	w      *World
	M      *clustermap.OSDMap // State.OSD
	state  mon.State
	leader *mon.Leader // nil: an election
	term   uint64
	set    mon.Settings
	raftAt int64
	faults MonFault
}

const leaderTick = 100 * ms

// newMon makes a cluster of one pool whose PGs come to life when size OSDs have booted.
func newMon(w *World, pgs uint32, size, minSize int) *Mon {
	s, err := mon.Empty().Apply(&mon.Bootstrap{Cluster: wire.UUID{1}, Size: size, MinSize: minSize, MetaPGs: pgs, DataPGs: 1})
	if err != nil {
		panic(err)
	}
	one := s.OSD.Clone()
	delete(one.Pools, mon.DataPool) // a second pool only costs time
	s.OSD = one.Seal()
	m := &Mon{w: w, state: s, M: s.OSD, set: w.set}
	m.elect(true)
	m.tick()
	return m
}

// elect makes a new leader.
func (m *Mon) elect(fresh bool) {
	m.term++
	m.leader = mon.NewLeader(m.set, m.w.now, m.state, fresh)
}

// depose ends the present one's time; another begins d later.
func (m *Mon) depose(d int64) {
	m.w.log("the leader of term %d is gone", m.term)
	m.leader = nil
	m.term++
	term := m.term
	m.w.after(d, func() {
		if m.term == term {
			m.elect(false)
		}
	})
}

func (m *Mon) tick() {
	m.step(mon.Tick{})
	if !m.w.healed {
		m.actFaults()
	}
	m.w.after(leaderTick, m.tick)
}

// message is what arrived from an OSD, or is lost when nobody leads: all of them are repeated.
func (m *Mon) message(conn mon.ConnID, peer wire.Instance, msg wire.Message) {
	m.step(mon.Message{From: conn, Peer: peer, Msg: msg})
}

func (m *Mon) step(ev mon.Event) {
	if m.leader == nil {
		return
	}
	eff := m.leader.Step(m.w.now, ev)
	for _, s := range eff.Send {
		if r, ok := s.Msg.(*wire.PGCASReply); ok && r.Errno != 0 {
			m.w.log("refused: %s", r.Text)
		}
	}
	for _, p := range eff.Propose {
		m.raftAt = max(m.raftAt, m.w.now) + m.w.between(ms/2, 10*ms) // raft keeps the order
		term := m.term
		m.w.after(m.raftAt-m.w.now, func() {
			if m.term != term && m.w.dice(0.5) {
				return // the old leader could not get it decided
			}
			err := m.decide(p.Change)
			if m.term == term {
				m.step(mon.Committed{ID: p.ID, State: m.state, Err: err})
			}
		})
	}
}

// decide applies a change that raft has decided.
func (m *Mon) decide(c mon.Change) error {
	before := m.state
	switch x := c.(type) {
	case *mon.OSDBoot:
		if old, ok := m.M.OSDs[x.ID]; ok && old.UUID != x.UUID && m.faults&MonIgnoresUUID != 0 {
			before = m.pretend(func(n *clustermap.OSDMap) { rename(n, x.ID, x.UUID) })
		}
	case *mon.PGCAS:
		if m.faults&MonIgnoresInterval != 0 {
			y := *x
			y.Interval = m.M.PGs[x.PG].Interval
			c = &y
		}
	}
	next, err := before.Apply(c)
	if err != nil {
		m.w.log("monitors refuse: %v", err)
		return err
	}
	if x, ok := c.(*mon.Except); ok && m.w.opt.Balance {
		m.w.planned(x, next.OSD)
	}
	m.take(next, c)
	return nil
}

func (m *Mon) take(next mon.State, why fmt.Stringer) {
	old := m.M
	m.state, m.M = next, next.OSD
	if m.M.Epoch != old.Epoch {
		m.w.log("epoch %d: %v", m.M.Epoch, why)
		m.w.mapChanged(old, m.M)
	}
}

// now applies a change without raft's delay, and lets the leader see the state.
func (m *Mon) now(c mon.Change) {
	if m.decide(c) == nil {
		m.step(mon.Committed{State: m.state})
	}
}

// Down marks an OSD down that may be well.
func (m *Mon) Down(id wire.OSDID) {
	if o := m.M.OSDs[id]; o.Up {
		m.now(&mon.OSDDown{ID: id, Instance: o.Instance, Reason: "sim"})
	}
}

// Blocklist fences an instance (M6).
func (m *Mon) Blocklist(i wire.Instance) wire.Epoch {
	m.now(&mon.Block{Instance: i, Reason: "sim"})
	return m.M.Epoch
}

// pretend is the present state but for what f does to the OSDMap.
func (m *Mon) pretend(f func(n *clustermap.OSDMap)) mon.State {
	s := m.state
	n := s.OSD.Clone()
	f(n)
	s.OSD = n.Seal()
	return s
}

// rename makes the map believe that OSD id always had the store u.
func rename(n *clustermap.OSDMap, id wire.OSDID, u wire.UUID) {
	o := n.OSDs[id]
	o.UUID = u
	n.OSDs[id] = o
	for pg, c := range n.PGs {
		c.InSync, c.Learners = slices.Clone(c.InSync), slices.Clone(c.Learners)
		for _, ms := range [][]clustermap.Member{c.InSync, c.Learners} {
			for i := range ms {
				if ms[i].ID == id {
					ms[i].UUID = u
				}
			}
		}
		n.PGs[pg] = c
	}
}

// actFaults does what a leader without M3 or M5 would do by itself.
func (m *Mon) actFaults() {
	if m.faults&(MonDropsLast|MonDropsTooMany) == 0 {
		return
	}
	for _, pg := range m.M.PGIDs() {
		c := m.M.PGs[pg]
		for _, mb := range c.InSync {
			if m.M.IsUp(mb) {
				continue
			}
			if len(c.InSync) == 1 && m.faults&MonDropsLast != 0 {
				m.now(&mon.PGGiveUp{PG: pg, Member: mb})
				break
			}
			if len(c.InSync) > 1 && m.faults&MonDropsTooMany != 0 && mon.ManyDown(m.M) {
				all := m.M.OSDs
				s := m.pretend(func(n *clustermap.OSDMap) {
					for id, o := range n.OSDs {
						if !o.Up {
							o.In = false // then they do not count as down
							n.OSDs[id] = o
						}
					}
				})
				drop := &mon.PGDrop{Member: mb, PGs: []mon.PGAt{{PG: pg, Interval: c.Interval}}}
				if next, err := s.Apply(drop); err == nil {
					n := next.OSD.Clone()
					n.OSDs = all
					next.OSD = n.Seal()
					m.take(next, drop)
					m.step(mon.Committed{State: m.state})
				}
				break
			}
		}
	}
}

// check judges one change of the map by I7, M3, M4 and M5, written down a second time.
func check(old, now *clustermap.OSDMap) error {
	down, in := 0, 0
	for _, o := range old.OSDs {
		if o.In {
			in++
			if !o.Up {
				down++
			}
		}
	}
	for pg, c := range now.PGs {
		o, ok := old.PGs[pg]
		if !ok || o.Equal(c) {
			continue
		}
		revived := old.Lost(o) // the operator's word, which nobody else may speak: World.operate
		if c.Interval != o.Interval+1 {
			return fmt.Errorf("I7: pg %v: interval %d then %d", pg, o.Interval, c.Interval)
		}
		if len(c.InSync) == 0 {
			return fmt.Errorf("I7: pg %v: S is empty in interval %d", pg, c.Interval)
		}
		if revived && c.Primary != wire.NoOSD {
			continue
		}
		if c.Primary != wire.NoOSD {
			in := func(ms []clustermap.Member) bool {
				return slices.ContainsFunc(ms, func(x clustermap.Member) bool { return x.ID == c.Primary && x.UUID == now.OSDs[x.ID].UUID })
			}
			if !in(o.InSync) || !in(c.InSync) {
				return fmt.Errorf("I7: pg %v: primary osd.%d of interval %d is not in both S", pg, c.Primary, c.Interval)
			}
		}
		for _, mb := range c.InSync {
			if !slices.Contains(o.InSync, mb) && !slices.Contains(o.Learners, mb) {
				return fmt.Errorf("R9: pg %v: osd.%d is in S of interval %d and was no learner", pg, mb.ID, c.Interval)
			}
		}
		for _, mb := range o.InSync {
			if slices.Contains(c.InSync, mb) {
				continue
			}
			kept := slices.ContainsFunc(c.InSync, func(x clustermap.Member) bool { return slices.Contains(o.InSync, x) })
			another := slices.ContainsFunc(c.InSync, func(x clustermap.Member) bool { return slices.Contains(o.InSync, x) && old.IsUp(x) })
			switch {
			case !kept:
				return fmt.Errorf("M3: pg %v: nobody of interval %d is left", pg, o.Interval)
			case now.OSDs[mb.ID].UUID != mb.UUID: // M4: its store is gone
			case !another:
				return fmt.Errorf("M3: pg %v: osd.%d dropped while no other member is up", pg, mb.ID)
			case 3*down > in:
				return fmt.Errorf("M5: pg %v: osd.%d dropped while %d of %d OSDs are down", pg, mb.ID, down, in)
			}
		}
	}
	return nil
}
