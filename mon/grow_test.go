package mon

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// growing is a leader over a world whose PGs of pool data hold so many objects.
type growing struct {
	*world
	l *Leader
}

func newGrowing(t *testing.T, osds int) *growing {
	w := newWorld(t, osds)
	g := &growing{world: w, l: NewLeader(Defaults(), 0, w.s, true)}
	g.l.cold = false
	g.settle()
	return g
}

// settle is what happens after a step: the parts are filled where CRUSH wants them.
func (g *growing) settle() {
	m := g.s.OSD.Clone()
	for _, pg := range m.PGIDs() {
		c := m.PGs[pg]
		c.InSync, c.Learners = nil, nil
		for _, id := range m.Wanted(pg) {
			c.InSync = append(c.InSync, mb(int(id), 1))
		}
		c.Primary = c.InSync[0].ID
		m.PGs[pg] = c
	}
	g.s.OSD = m.Seal()
	g.l.state = g.s
}

// report says what the primaries of pool data say.
func (g *growing) report(objects func(num uint32) uint64) {
	for _, pg := range g.s.OSD.PGIDs() {
		if pg.Pool == DataPool {
			g.l.pgStats[pg] = wire.PGStat{PG: pg, State: "active", Objects: objects(pg.Num)}
		}
	}
}

// tick lets the leader decide, and applies what it proposes; it returns how many changes those are.
func (g *growing) tick() (n int) {
	g.t.Helper()
	g.l.eff = Effects{}
	g.l.decideSplit()
	for _, p := range g.l.eff.Propose {
		g.do(p.Change)
		g.l.committed(Committed{ID: p.ID, State: g.s})
		n++
	}
	return n
}

func (g *growing) ask(words ...string) (string, uint32) {
	g.l.eff = Effects{}
	args, _ := json.Marshal(words)
	g.l.command(Message{}, &wire.MonCommand{Args: args})
	for _, s := range g.l.eff.Send {
		m := s.Msg.(*wire.MonCommandReply)
		return m.Text + string(m.JSON), m.Errno
	}
	g.do(g.l.eff.Propose[0].Change)
	g.l.committed(Committed{ID: g.l.eff.Propose[0].ID, State: g.s})
	return "", 0
}

func (g *growing) pool() clustermap.Pool { return g.s.OSD.Pools[DataPool] }

// A step that the leader takes while an operator's word is under way does not undo it: a pool that was
// told to stop stops, and one with another target keeps that.
func TestAStepDoesNotOverrideAnotherTarget(t *testing.T) {
	for _, target := range []uint32{32, 0} { // 0: as many as there are
		g := newGrowing(t, 5)
		each := func(uint32) uint64 { return 400_000 / uint64(g.pool().PGNum) }
		g.report(each)
		if text, errno := g.ask("pool", "set", "data", "pg_num", "64"); errno != 0 {
			t.Fatalf("errno %d %s", errno, text)
		}
		g.settle()
		g.report(each)
		now := g.pool().PGNum
		word, err := g.l.setPGNum("data", max(target, now))
		if err != nil || now >= 32 {
			t.Fatal(now, err)
		}
		g.l.eff = Effects{}
		g.l.decideSplit() // nothing of the operator's word is committed
		if len(g.l.eff.Propose) != 1 {
			t.Fatalf("%d proposals", len(g.l.eff.Propose))
		}
		g.do(word)
		s, err := g.s.Apply(g.l.eff.Propose[0].Change)
		if p := s.OSD; err == nil || p != nil && p.Pools[DataPool].PGTarget != target {
			t.Errorf("told to go to %d: %+v (%v)", target, g.pool(), err)
		}
	}
}

// No OSD divides PGs of more than 10 000 objects at once, but for one alone that is larger; the next step
// waits until the one before is over and its parts have been counted, and in the end the pool has
// what was asked for. Another leader goes on.
func TestALargePoolGrowsInSteps(t *testing.T) {
	for _, total := range []uint64{1_000, 200_000, 2_000_000} { // objects
		g := newGrowing(t, 5)
		each := func(uint32) uint64 { return total / uint64(g.pool().PGNum) }
		if text, errno := g.ask("pool", "set", "data", "pg_num", "64"); errno != EAGAIN || !strings.Contains(text, "try again") {
			t.Fatalf("split while nobody knows how large it is: errno %d %s", errno, text)
		}
		g.report(each)
		steps := 0
		before := g.s.OSD
		if text, errno := g.ask("pool", "set", "data", "pg_num", "64"); errno != 0 {
			t.Fatalf("errno %d %s", errno, text)
		}
		for g.pool().Grows() {
			if steps++; steps > 200 {
				t.Fatalf("stands at %+v", g.pool())
			}
			g.bounded(before, total)
			if g.tick() != 0 {
				t.Fatal("the next step before the parts have moved or were counted")
			}
			if text, _ := g.ask("pool", "ls"); !strings.Contains(text, `"pg_num_target":64,"waits":"pg 2.`) {
				t.Fatalf("pool ls: %s", text)
			}
			g.settle()
			g.report(each)
			if steps == 2 {
				l := NewLeader(Defaults(), 0, g.s, true)
				l.cold, l.pgStats = false, g.l.pgStats
				g.l = l
			}
			before = g.s.OSD
			if g.tick() != 1 {
				t.Fatalf("no step from %+v", g.pool())
			}
		}
		g.bounded(before, total)
		if p := g.pool(); p.PGNum != 64 || p.PGTarget != 0 {
			t.Errorf("%+v", p)
		}
		if total == 1_000 && steps != 0 {
			t.Errorf("a small pool took %d steps more", steps)
		}
		t.Logf("%d objects: %d steps", total, steps+1)
	}
}

// bounded looks at what divides from one map to the present one.
func (g *growing) bounded(before *clustermap.OSDMap, total uint64) {
	g.t.Helper()
	n := before.Pools[DataPool].PGNum
	load, parts := map[wire.OSDID]uint64{}, map[wire.OSDID]int{}
	seen := map[uint32]bool{}
	for num := n; num < g.pool().PGNum; num++ {
		from := clustermap.SplitFrom(num, n)
		if seen[from] {
			continue
		}
		seen[from] = true
		for _, m := range before.PGs[wire.PGID{Pool: DataPool, Num: from}].InSync {
			load[m.ID] += total / uint64(n)
			parts[m.ID]++
		}
	}
	for id, objects := range load {
		if objects > 10_000 && parts[id] > 1 {
			g.t.Errorf("from %d to %d PGs: osd.%d divides %d with %d objects at once", n, g.pool().PGNum, id, parts[id], objects)
		}
	}
}

// A target can be changed on the way, and taken back.
func TestAGrowingPoolIsToldAnotherEnd(t *testing.T) {
	g := newGrowing(t, 5)
	each := func(uint32) uint64 { return 9_000 }
	g.report(each)
	set := func(n string) {
		t.Helper()
		if text, errno := g.ask("pool", "set", "data", "pg_num", n); errno != 0 {
			t.Fatalf("pg_num %s: errno %d %s", n, errno, text)
		}
	}
	set("64")
	n := g.pool().PGNum
	if n != 5 || g.pool().PGTarget != 64 {
		t.Fatalf("%+v", g.pool())
	}
	set("32")
	if p := g.pool(); p.PGNum != n || p.PGTarget != 32 {
		t.Fatalf("%+v", p)
	}
	set("5")
	if p := g.pool(); p.PGNum != n || p.Grows() || p.PGTarget != 0 {
		t.Fatalf("%+v", p)
	}
}

// While a pool grows nothing is balanced, and while it is not at rest it does not grow.
func TestGrowthWaitsAndEnds(t *testing.T) {
	g := newGrowing(t, 5)
	each := func(uint32) uint64 { return 9_000 }
	g.report(each)
	g.do(&PoolSplit{Name: "data", PGNum: 5, Target: 32})
	g.settle()
	g.report(each)
	g.l.set.BalanceWait, g.l.balanceAt = 1, -1
	for _, pg := range g.s.OSD.PGIDs() {
		g.l.pgStats[pg] = wire.PGStat{PG: pg, Objects: 9_000, Bytes: 1 << (30 + pg.Num%3)}
	}
	g.l.eff = Effects{}
	if g.l.decideBalance(); len(g.l.eff.Propose) > 0 {
		t.Error("balanced while a pool grows")
	}
	g.down(0)
	g.l.state = g.s
	if g.tick() != 0 {
		t.Error("split while an OSD is down")
	}
	g.refuses(EAGAIN, &PoolSplit{Name: "data", PGNum: 6, Target: 32})
	g.do(&PoolSplit{Name: "data", PGNum: 5}) // that it is to stop needs no rest
	if g.pool().Grows() {
		t.Errorf("%+v", g.pool())
	}
	g.refuses(EINVAL, &PoolSplit{Name: "data", PGNum: 5, Target: 1 << 17})
	g.refuses(EINVAL, &PoolSplit{Name: "data", PGNum: 4})
}
