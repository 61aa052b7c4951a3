package mon

import (
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// A part of a PG begins as the next configuration of the PG it comes from; PGs that do not
// divide keep their interval, for nothing happens to them.
func TestSplitGivesThePartsTheirPGsMembers(t *testing.T) {
	w := newWorld(t, 4)
	before := w.s.OSD
	w.do(&PoolSplit{Name: "data", PGNum: 6})
	if n := w.s.OSD.Pools[DataPool].PGNum; n != 6 {
		t.Fatalf("pg_num %d", n)
	}
	for num := range uint32(6) {
		from := before.PGs[wire.PGID{Pool: DataPool, Num: clustermap.SplitFrom(num, 4)}]
		got := w.s.OSD.PGs[wire.PGID{Pool: DataPool, Num: num}]
		if num == 2 || num == 3 {
			if !got.Equal(from) {
				t.Errorf("pg %d does not divide and was %v, is %v", num, from, got)
			}
			continue
		}
		if got.Interval != from.Interval+1 || !slices.Equal(got.InSync, from.InSync) || len(got.Learners) > 0 || got.Primary == wire.NoOSD {
			t.Errorf("pg %d is %v, and comes from %v", num, got, from)
		}
	}
	again := w.s.Encode()
	if s, err := DecodeState(again); err != nil || !s.OSD.Equal(w.s.OSD) {
		t.Errorf("a snapshot of it: %v", err)
	}
	if m, err := before.ApplyDelta(w.s.OSD.EncodeDelta(before)); err != nil || !m.Equal(w.s.OSD) {
		t.Errorf("a delta of it: %v", err)
	}
	w.do(&PoolSplit{Name: "data", PGNum: 6}) // asked twice
}

func TestSplitIsRefused(t *testing.T) {
	w := newWorld(t, 4)
	w.refuses(ENOENT, &PoolSplit{Name: "nobody", PGNum: 8})
	w.refuses(EINVAL, &PoolSplit{Name: "data", PGNum: 2})
	w.refuses(EINVAL, &PoolSplit{Name: "data", PGNum: 4*maxSplit + 1})
	w.do(&PoolCreate{Name: "new", Size: 3, MinSize: 2, PGNum: 4, Rule: RuleName})
	w.do(&PoolSplit{Name: "new", PGNum: 32}) // nothing is there yet that could divide
	if len(w.s.OSD.PGs) != 8 {
		t.Fatalf("%d PGs", len(w.s.OSD.PGs))
	}
	w.do(&PGCreate{Pool: 3})
	w.do(&PoolSplit{Name: "new", PGNum: 32 * maxSplit})

	// Nobody may be down, being filled, or on the way to or from somewhere.
	down := *w
	down.down(0)
	down.refuses(EAGAIN, &PoolSplit{Name: "meta", PGNum: 8})
	moving := *w
	moving.do(&OSDPlace{ID: 1, In: true, Reweight: 0})
	moving.refuses(EAGAIN, &PoolSplit{Name: "meta", PGNum: 8})
	filled := *w
	cfg := filled.cfg()
	left := slices.IndexFunc(filled.s.OSD.OSDIDs(), func(id wire.OSDID) bool { return !cfg.Has(mb(int(id), 1)) })
	filled.do(&OSDPlace{ID: cfg.InSync[0].ID, In: false, Reweight: 1 << 16}) // pg 1.0 goes to the fourth
	filled.do(filled.cas(int(cfg.Primary), func(c *wire.PGCAS) { c.AddLearners = []wire.Member{mb(left, 1)} }))
	filled.do(&OSDPlace{ID: cfg.InSync[0].ID, In: true, Reweight: 1 << 16})
	filled.refuses(EAGAIN, &PoolSplit{Name: "meta", PGNum: 8})

	// The split before must be over: its parts are where CRUSH wants them. With four OSDs some are not.
	w.do(&PoolSplit{Name: "meta", PGNum: 32})
	w.refuses(EAGAIN, &PoolSplit{Name: "meta", PGNum: 64})
}

// What a wrong monitor might make of a split is noticed before anybody acts on it.
func TestFollowsSeesAWrongSplit(t *testing.T) {
	w := newWorld(t, 4)
	next, err := w.s.Apply(&PoolSplit{Name: "meta", PGNum: 8})
	if err != nil {
		t.Fatal(err)
	}
	part := wire.PGID{Pool: MetaPool, Num: 4}
	for name, wrong := range map[string]func(c *clustermap.PGConfig){
		"interval":  func(c *clustermap.PGConfig) { c.Interval = 1 },
		"members":   func(c *clustermap.PGConfig) { c.InSync = c.InSync[:2] },
		"newcomers": func(c *clustermap.PGConfig) { c.InSync = append(slices.Clone(c.InSync[:2]), mb(7, 1)) },
	} {
		bad := next
		m := next.OSD.Clone()
		c := m.PGs[part]
		wrong(&c)
		m.PGs[part] = c
		bad.OSD = m.Seal()
		if Follows(w.s, bad) == nil {
			t.Errorf("wrong %s of a part pass", name)
		}
	}
}

// ±10 % of the mean bytes: a pool of 384 PGs that were 256 has PGs of two sizes, and what counts
// is what their primaries report. Nothing moves before they have.
func TestBalancerGoesByTheBytesThatAreReported(t *testing.T) {
	w := newWorld(t, 0)
	for i := range 6 {
		w.do(bootOf(i, 1, 1))
	}
	w.do(&PoolCreate{Name: "big", Size: 3, MinSize: 2, PGNum: 256, Rule: RuleName})
	w.do(&PGCreate{Pool: 3})
	w.do(&PoolSplit{Name: "big", PGNum: 384})
	settled := w.s.OSD.Clone() // as when all parts have moved
	for _, pg := range settled.PGIDs() {
		c := settled.PGs[pg]
		c.InSync = nil
		for _, id := range settled.Wanted(pg) {
			c.InSync = append(c.InSync, mb(int(id), 1))
		}
		c.Primary = c.InSync[0].ID
		settled.PGs[pg] = c
	}
	w.s.OSD = settled.Seal()
	bytes := func(pg wire.PGID) uint64 {
		if pg.Num < 128 || pg.Num >= 256 {
			return 1e9 // of a PG that has divided
		}
		return 2e9
	}
	set := Defaults()
	set.BalanceWait = 1
	l := NewLeader(set, 0, w.s, true)
	report := func(pgs []wire.PGID) {
		for _, pg := range pgs {
			p := w.s.OSD.OSDs[w.s.OSD.PGs[pg].Primary]
			l.stats(&wire.OSDStats{ID: p.ID, Instance: p.Instance, Total: 1 << 40, PGs: []wire.PGStat{{PG: pg, State: "active", Bytes: bytes(pg)}}}, 0)
		}
	}
	look := func() bool {
		l.eff = Effects{}
		l.now += 1000
		l.balanceAt = -1
		l.decideBalance()
		return len(l.eff.Propose) > 0
	}
	l.cold = false
	pgs := w.s.OSD.PGIDs()
	pgs = slices.DeleteFunc(pgs, func(pg wire.PGID) bool { return pg.Pool != 3 })
	report(pgs[:len(pgs)-1])
	if look() {
		t.Error("PGs are moved while the size of one is not known")
	}
	report(pgs[len(pgs)-1:])
	if !look() {
		t.Error("nothing is moved")
	}
	before := spread(w.s.OSD, bytes)
	w.balanced(func(wire.PGID) uint64 { return 1 })
	counts := spread(w.s.OSD, bytes)
	moves := w.balanced(l.weightOf)
	after := spread(w.s.OSD, bytes)
	t.Logf("worst %.1f%% of the mean bytes before, %.1f%% with even counts, %.1f%% after %d moves more", before*100, counts*100, after*100, moves)
	if after > 0.10 || l.weightOf(pgs[0]) != 1e9 {
		t.Errorf("an OSD is %.1f%% off the mean", after*100)
	}
}
