package mon

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// world is a state with short ways to change it and to say what must come of it.
type world struct {
	t *testing.T
	s State
}

func inst(kind wire.Kind, num, life int) wire.Instance {
	return wire.Instance{Kind: kind, Num: uint32(num), Nonce: uint64(num)<<32 | uint64(life)}
}

func store(id, n int) wire.UUID { return wire.UUID{0xee, byte(id), byte(n)} }

func mb(id, n int) clustermap.Member {
	return clustermap.Member{ID: wire.OSDID(id), UUID: store(id, n)}
}

func bootOf(id, storeN, life int) *OSDBoot {
	return &OSDBoot{OSDBoot: wire.OSDBoot{ID: wire.OSDID(id), UUID: store(id, storeN), Instance: inst(wire.KindOSD, id, life), Addr: "x", Total: 1 << 40}}
}

func newWorld(t *testing.T, osds int) *world {
	t.Helper()
	w := &world{t: t, s: Empty()}
	w.do(&Bootstrap{Cluster: wire.UUID{1}, Size: 3, MinSize: 2, MetaPGs: 4, DataPGs: 4})
	for id := range osds {
		w.do(bootOf(id, 1, 1))
	}
	if osds >= 3 {
		w.do(&PGCreate{Pool: MetaPool})
		w.do(&PGCreate{Pool: DataPool})
	}
	return w
}

// do applies a change that must be accepted.
func (w *world) do(c Change) {
	w.t.Helper()
	next, err := w.s.Apply(c)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := Follows(w.s, next); err != nil {
		if !byOperator(c) {
			w.t.Fatalf("%v: %v", c, err)
		}
	}
	if err := next.OSD.Check(); err != nil {
		w.t.Fatal(err)
	}
	w.s = next
}

// refuses applies a change that must be refused with errno and change nothing.
func (w *world) refuses(errno uint32, c Change) {
	w.t.Helper()
	next, err := w.s.Apply(c)
	var ref *Refused
	if !errors.As(err, &ref) || ref.Errno != errno {
		w.t.Fatalf("%v: got %v, want errno %d", c, err, errno)
	}
	if next != w.s {
		w.t.Fatalf("%v was refused and changed the state", c)
	}
}

var pg0 = wire.PGID{Pool: MetaPool, Num: 0}

func (w *world) cfg() clustermap.PGConfig { return w.s.OSD.PGs[pg0] }

// cas proposes as the OSD's first life.
func (w *world) cas(from int, edit func(*wire.PGCAS)) *PGCAS {
	c := &PGCAS{PGCAS: wire.PGCAS{PG: pg0, Interval: w.cfg().Interval, From: wire.OSDID(from), Instance: w.s.OSD.OSDs[wire.OSDID(from)].Instance}}
	edit(&c.PGCAS)
	return c
}

func (w *world) down(id int) {
	w.t.Helper()
	w.do(&OSDDown{ID: wire.OSDID(id), Instance: w.s.OSD.OSDs[wire.OSDID(id)].Instance})
}

func (w *world) drop(id int) *PGDrop {
	c := &PGDrop{Member: member(w.s.OSD, wire.OSDID(id))}
	for _, pg := range w.s.OSD.PGIDs() {
		if cfg := w.s.OSD.PGs[pg]; cfg.Has(c.Member) {
			c.PGs = append(c.PGs, PGAt{PG: pg, Interval: cfg.Interval})
		}
	}
	return c
}

func TestM1StaleIntervalIsRefused(t *testing.T) {
	w := newWorld(t, 3)
	p := int(w.cfg().Primary)
	stale := w.cas(p, func(c *wire.PGCAS) { c.DropMembers = []wire.Member{mb((p+1)%3, 1)} })
	w.do(bootOf(p, 1, 2)) // any boot of a member is a new interval
	stale.Instance = inst(wire.KindOSD, p, 2)
	w.refuses(ESTALE, stale)
}

func TestM1OldLifeProposesNothing(t *testing.T) {
	w := newWorld(t, 3)
	p := int(w.cfg().Primary)
	c := w.cas(p, func(c *wire.PGCAS) { c.DropMembers = []wire.Member{mb((p+1)%3, 1)} })
	c.Instance = inst(wire.KindOSD, p, 77)
	w.refuses(EPERM, c)
}

func TestM1BulkDropIsOneEpochAndSkipsMovedPGs(t *testing.T) {
	w := newWorld(t, 3)
	w.down(2)
	d := w.drop(2)
	d.PGs[0].Interval-- // this one moved on since
	before := w.s
	w.do(d)
	if w.s.OSD.Epoch != before.OSD.Epoch+1 {
		t.Fatalf("%d epochs", w.s.OSD.Epoch-before.OSD.Epoch)
	}
	for i, at := range d.PGs {
		cfg := w.s.OSD.PGs[at.PG]
		if has := cfg.Has(mb(2, 1)); has != (i == 0) {
			t.Fatalf("pg %v: %+v", at.PG, cfg)
		}
	}
}

func TestM2PrimaryFollowsTheUpSetAndComesFromTheOldS(t *testing.T) {
	w := newWorld(t, 3)
	up := w.s.OSD.UpSet(pg0)
	if w.cfg().Primary != up[0] {
		t.Fatalf("primary %d of %v", w.cfg().Primary, up)
	}
	w.down(int(up[0]))
	if w.cfg().Primary != up[1] || len(w.cfg().InSync) != 3 {
		t.Fatalf("%+v, up set was %v", w.cfg(), up)
	}
	w.do(w.drop(int(up[0])))
	// It comes back: no member any more, so no new interval, and it may not become primary
	// by being added, for it never gave the present primary a lease.
	i := w.cfg().Interval
	w.do(bootOf(int(up[0]), 1, 2))
	if w.cfg().Interval != i {
		t.Fatalf("boot of a stranger made interval %d", w.cfg().Interval)
	}
	me := mb(int(up[0]), 1)
	w.do(w.cas(int(up[0]), func(c *wire.PGCAS) { c.AddLearners = []wire.Member{me} }))
	w.do(w.cas(int(up[1]), func(c *wire.PGCAS) { c.AddMembers = []wire.Member{me} }))
	if cfg := w.cfg(); cfg.Primary != up[1] || !cfg.Has(me) || cfg.HasLearner(me) {
		t.Fatalf("%+v", cfg)
	}
	// On request it moves back; a second request has nothing to move.
	w.do(w.cas(int(up[1]), func(c *wire.PGCAS) { c.MovePrimary = true }))
	if w.cfg().Primary != up[0] {
		t.Fatalf("%+v", w.cfg())
	}
	w.refuses(EINVAL, w.cas(int(up[1]), func(c *wire.PGCAS) { c.MovePrimary = true }))
}

func TestR9OnlyThePrimaryAddsAndOnlyLearners(t *testing.T) {
	w := newWorld(t, 3)
	up := w.s.OSD.UpSet(pg0)
	third := mb(int(up[2]), 1)
	w.down(int(up[2]))
	w.do(w.drop(int(up[2])))
	add := func(from wire.OSDID) *PGCAS {
		return w.cas(int(from), func(c *wire.PGCAS) { c.AddMembers = []wire.Member{third} })
	}
	learn := func() *PGCAS {
		return w.cas(int(up[2]), func(c *wire.PGCAS) { c.AddLearners = []wire.Member{third} })
	}
	w.refuses(EPERM, learn()) // down
	w.do(bootOf(int(up[2]), 1, 2))
	w.refuses(EPERM, add(up[0])) // no learner yet
	w.do(learn())
	w.refuses(EINVAL, learn())
	w.refuses(EPERM, add(up[1])) // not the primary
	w.refuses(EPERM, add(up[2]))
	late := add(up[0])
	w.do(w.cas(int(up[0]), func(c *wire.PGCAS) { c.DropLearners = []wire.Member{third} }))
	w.do(learn())
	w.refuses(ESTALE, late) // TR5: a proposal from before it was dropped must not count
	w.do(add(up[0]))
	if !w.s.OSD.IsUp(third) || !slices.Contains(w.cfg().InSync, third) {
		t.Fatalf("%+v", w.cfg())
	}
}

func TestM3LastMemberIsNeverDropped(t *testing.T) {
	w := newWorld(t, 4) // four OSDs, so that one down is no more than a third
	up := w.s.OSD.UpSet(pg0)
	w.down(int(up[2]))
	w.do(w.drop(int(up[2])))
	w.do(bootOf(int(up[2]), 1, 2))
	w.do(w.cas(int(up[0]), func(c *wire.PGCAS) { c.DropMembers = []wire.Member{mb(int(up[1]), 1)} }))
	if len(w.cfg().InSync) != 1 {
		t.Fatalf("%+v", w.cfg())
	}
	w.refuses(EPERM, w.cas(int(up[0]), func(c *wire.PGCAS) { c.DropMembers = []wire.Member{mb(int(up[0]), 1)} }))
	w.down(int(up[0]))
	w.refuses(EPERM, &PGDrop{Member: mb(int(up[0]), 1), PGs: []PGAt{{PG: pg0, Interval: w.cfg().Interval}}})
	if w.cfg().Primary != wire.NoOSD {
		t.Fatalf("%+v", w.cfg())
	}
}

func TestM3NobodyIsDroppedWhileNoOtherMemberIsUp(t *testing.T) {
	w := newWorld(t, 12)
	for _, m := range w.cfg().InSync {
		w.down(int(m.ID))
	}
	for _, m := range w.cfg().InSync {
		w.refuses(EPERM, &PGDrop{Member: m, PGs: []PGAt{{PG: pg0, Interval: w.cfg().Interval}}})
	}
}

func TestM3DroppingTwoAtOnceLeavesSomebodyUp(t *testing.T) {
	w := newWorld(t, 12)
	s := w.cfg().InSync
	p := w.cfg().Primary
	var others []wire.Member
	for _, m := range s {
		if m.ID != p {
			others = append(others, m)
		}
	}
	w.refuses(EPERM, w.cas(int(p), func(c *wire.PGCAS) { c.DropMembers = s }))
	w.do(w.cas(int(p), func(c *wire.PGCAS) { c.DropMembers = others }))
}

func TestM4AnotherStoreIsAnotherOSD(t *testing.T) {
	w := newWorld(t, 3)
	w.down(0)
	w.down(1) // more than a third is down: M5 would wait, M4 does not
	w.do(bootOf(0, 2, 2))
	for _, pg := range w.s.OSD.PGIDs() {
		cfg := w.s.OSD.PGs[pg]
		if cfg.Has(mb(0, 1)) || cfg.Has(mb(0, 2)) || cfg.HasLearner(mb(0, 2)) || len(cfg.InSync) != 2 {
			t.Fatalf("pg %v: %+v", pg, cfg)
		}
	}
	// TR3: the last one with a new store is not believed to be the old one.
	w.do(bootOf(1, 2, 2))
	w.do(bootOf(2, 2, 2))
	for _, pg := range w.s.OSD.PGIDs() {
		cfg := w.s.OSD.PGs[pg]
		if len(cfg.InSync) != 1 || !cfg.Has(mb(2, 1)) || cfg.Primary != wire.NoOSD {
			t.Fatalf("pg %v: %+v", pg, cfg)
		}
	}
	// The lost disk comes back under its id: the PG goes on.
	back := w.s
	w.do(bootOf(2, 1, 3))
	if cfg := w.cfg(); cfg.Primary != 2 {
		t.Fatalf("%+v", cfg)
	}
	// Or the operator gives it up by name, and only by its right name.
	w.s = back
	w.refuses(EINVAL, &PGGiveUp{PG: pg0, Member: mb(2, 2)})
	w.do(&PGGiveUp{PG: pg0, Member: mb(2, 1)})
	if cfg := w.cfg(); len(cfg.InSync) != 1 || cfg.Primary == wire.NoOSD || cfg.InSync[0].UUID[2] != 2 {
		t.Fatalf("%+v", cfg)
	}
}

func TestM4StoreOfAnotherIDIsRefused(t *testing.T) {
	w := newWorld(t, 3)
	b := bootOf(1, 1, 2)
	b.ID = 2
	w.refuses(EEXIST, b)
}

func TestM5NobodyIsDroppedWhileManyAreDown(t *testing.T) {
	w := newWorld(t, 3)
	w.down(1)
	w.down(2)
	w.refuses(EAGAIN, w.drop(1))
	w.refuses(EAGAIN, w.cas(0, func(c *wire.PGCAS) {
		c.Interval, c.DropMembers = w.cfg().Interval, []wire.Member{mb(1, 1)}
	}))
	w.do(bootOf(2, 1, 2))
	w.do(w.drop(1))
}

func TestBootIsANewIntervalAndAskedTwiceIsOne(t *testing.T) {
	w := newWorld(t, 3)
	i := w.cfg().Interval
	w.do(bootOf(1, 1, 2))
	if w.cfg().Interval != i+1 {
		t.Fatalf("%+v", w.cfg())
	}
	e := w.s.OSD.Epoch
	w.do(bootOf(1, 1, 2))
	if w.s.OSD.Epoch != e {
		t.Fatal("the same boot made another epoch")
	}
	w.refuses(ESTALE, &OSDDown{ID: 1, Instance: inst(wire.KindOSD, 1, 1)}) // about the life before
}

func TestDownLearnerLeavesAndSurplusNeedsTheUpSet(t *testing.T) {
	w := newWorld(t, 3)
	w.down(2)
	w.do(w.drop(2))
	w.do(bootOf(2, 1, 2))
	w.do(w.cas(2, func(c *wire.PGCAS) { c.AddLearners = []wire.Member{mb(2, 1)} }))
	w.down(2)
	if cfg := w.cfg(); cfg.HasLearner(mb(2, 1)) {
		t.Fatalf("%+v", cfg) // a primary that waits for it as pending must see it go
	}
	w = newWorld(t, 3)
	w.refuses(EPERM, &PGDrop{Member: mb(1, 1), Surplus: true, PGs: []PGAt{{PG: pg0, Interval: w.cfg().Interval}}})
}

func TestM6ReplacementFencesInTheSameChange(t *testing.T) {
	w := newWorld(t, 3)
	a1, a2 := inst(wire.KindMDS, 1, 1), inst(wire.KindMDS, 1, 2)
	d := func(i wire.Instance) clustermap.DaemonInfo {
		return clustermap.DaemonInfo{Name: "a", Instance: i, Addr: "x"}
	}
	w.do(&MDSAssign{Rank: 0, Daemon: d(a1)})
	if in := w.s.FS.Ranks[0]; in.State != clustermap.RankCreating || in.LeaseWait {
		t.Fatalf("%+v", in)
	}
	w.refuses(EINVAL, &MDSState{Rank: 0, Instance: a1, State: clustermap.RankReplay})
	w.do(&MDSState{Rank: 0, Instance: a1, State: clustermap.RankActive})
	w.refuses(ESTALE, &MDSAssign{Rank: 0, Daemon: d(a2)}) // it is held
	w.do(&MDSAssign{Rank: 0, Daemon: d(a2), Old: a1})
	in := w.s.FS.Ranks[0]
	if !w.s.OSD.IsBlocklisted(a1) || w.s.OSD.Blocklist[a1].Clean || in.FencedAt != w.s.OSD.Epoch || !in.LeaseWait || in.State != clustermap.RankReplay {
		t.Fatalf("%+v %+v", in, w.s.OSD.Blocklist)
	}
	w.refuses(ESTALE, &MDSState{Rank: 0, Instance: a1, State: clustermap.RankStopped})
	w.refuses(EPERM, &MDSAssign{Rank: 0, Daemon: d(a1), Old: a2}) // fenced for ever
	w.refuses(EPERM, &Unblock{Instances: []wire.Instance{a1}})
	// A clean end: no lease to wait out for the next, an entry that may expire.
	w.do(&MDSState{Rank: 0, Instance: a2, State: clustermap.RankStopped})
	if in := w.s.FS.Ranks[0]; in.LeaseWait || !in.Created || !w.s.OSD.Blocklist[a2].Clean {
		t.Fatalf("%+v", in)
	}
	w.do(&Unblock{Instances: []wire.Instance{a2}})
	a3 := inst(wire.KindMDS, 1, 3)
	w.do(&MDSAssign{Rank: 0, Daemon: d(a3)})
	// Evicting a holder fails its rank in the same change.
	w.do(&Block{Instance: a3, Reason: "operator"})
	if in := w.s.FS.Ranks[0]; in.State != clustermap.RankFailed || !in.LeaseWait || in.FencedAt != w.s.OSD.Blocklist[a3].Since {
		t.Fatalf("%+v", in)
	}
}

func TestM6FirstFenceCountsAndUncleanOutlivesClean(t *testing.T) {
	w := newWorld(t, 0)
	c := inst(wire.KindClient, 1, 1)
	w.do(&Block{Instance: c, Clean: true})
	since := w.s.OSD.Blocklist[c].Since
	w.do(&Block{Instance: c, Reason: "evicted"})
	if e := w.s.OSD.Blocklist[c]; e.Since != since || e.Clean {
		t.Fatalf("%+v", e)
	}
	w.do(&Block{Instance: c, Clean: true})
	if w.s.OSD.Blocklist[c].Clean {
		t.Fatal("an eviction became a clean end")
	}
}

func TestInoRangesAreNeverGivenTwice(t *testing.T) {
	w := newWorld(t, 3)
	a := inst(wire.KindMDS, 1, 1)
	w.refuses(ESTALE, &InoRange{Rank: 0, Instance: a})
	w.do(&MDSAssign{Rank: 0, Daemon: clustermap.DaemonInfo{Name: "a", Instance: a}})
	w.do(&InoRange{Rank: 0, Instance: a})
	w.do(&InoRange{Rank: 0, Instance: a})
	if r := w.s.FS.Ranks[0].InoRanges; !slices.Equal(r, []uint64{1, 2}) {
		t.Fatal(r)
	}
}

// The walk must see what a wrong monitor would do.
func TestFollowsCatchesSeededFaults(t *testing.T) {
	w := newWorld(t, 4)
	old := w.cfg()
	for name, fault := range map[string]func(*clustermap.PGConfig){
		"last member dropped":       func(c *clustermap.PGConfig) { c.InSync, c.Primary = nil, wire.NoOSD },
		"interval kept":             func(c *clustermap.PGConfig) { c.Interval--; c.Learners = []wire.Member{mb(9, 1)} },
		"interval jumps":            func(c *clustermap.PGConfig) { c.Interval++ },
		"stranger added":            func(c *clustermap.PGConfig) { c.InSync = append(slices.Clone(c.InSync), mb(9, 1)) },
		"uuid ignored":              func(c *clustermap.PGConfig) { c.InSync = []wire.Member{mb(int(c.Primary), 2)} },
		"newcomer is primary":       func(c *clustermap.PGConfig) { c.InSync = append(slices.Clone(c.InSync), mb(9, 1)); c.Primary = 9 },
		"primary outside":           func(c *clustermap.PGConfig) { c.Primary = 9 },
		"nobody of the old S stays": func(c *clustermap.PGConfig) { c.InSync = []wire.Member{mb(9, 1)}; c.Primary = wire.NoOSD },
	} {
		next := w.s
		next.OSD = w.s.OSD.Clone()
		next.OSD.Epoch++
		c := old
		c.Interval++
		fault(&c)
		next.OSD.PGs[pg0] = c
		if Follows(w.s, next) == nil {
			t.Errorf("%s: not caught", name)
		}
	}
}

// Whatever is proposed in whatever order, I7 holds after every change.
func TestRandomChangesKeepI7(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 3+int(seed%4))
		n := 3 + int(seed%4)
		stores, lives := make([]int, n), make([]int, n)
		for i := range stores {
			stores[i], lives[i] = 1, 1
		}
		for step := range 200 {
			id := r.IntN(n)
			oid := wire.OSDID(id)
			var c Change
			pg := w.s.OSD.PGIDs()[r.IntN(8)]
			cfg := w.s.OSD.PGs[pg]
			any := func() []wire.Member { x := r.IntN(n); return []wire.Member{member(w.s.OSD, wire.OSDID(x))} }
			cas := &PGCAS{PGCAS: wire.PGCAS{PG: pg, Interval: cfg.Interval - uint64(r.IntN(8)/7), From: oid, Instance: w.s.OSD.OSDs[oid].Instance}}
			switch r.IntN(9) {
			case 0:
				c = &OSDDown{ID: oid, Instance: w.s.OSD.OSDs[oid].Instance}
			case 1, 2:
				lives[id]++
				if r.IntN(6) == 0 {
					stores[id]++
				}
				c = bootOf(id, stores[id], lives[id])
			case 3:
				c = w.drop(id)
			case 4, 5:
				cas.AddLearners = any()
				c = cas
			case 6:
				cas.AddMembers = any()
				c = cas
			case 7:
				cas.DropMembers = any()
				c = cas
			case 8:
				cas.MovePrimary = true
				c = cas
			}
			b := EncodeChange(c)
			again, err := DecodeChange(b)
			if err != nil || !reflect.DeepEqual(EncodeChange(again), b) {
				t.Fatalf("seed %d step %d: %v does not survive its record: %v", seed, step, c, err)
			}
			next, err := w.s.Apply(again)
			if err != nil {
				continue
			}
			if err := Follows(w.s, next); err != nil {
				t.Fatalf("seed %d step %d: %v: %v", seed, step, c, err)
			}
			if err := next.OSD.Check(); err != nil {
				t.Fatalf("seed %d step %d: %v: %v", seed, step, c, err)
			}
			w.s = next
		}
		got, err := DecodeState(w.s.Encode())
		if err != nil || !got.OSD.Equal(w.s.OSD) || !got.FS.Equal(w.s.FS) {
			t.Fatalf("seed %d: snapshot: %v", seed, err)
		}
	}
}

func TestEveryChangeHasANumberAndAVersion(t *testing.T) {
	for k, mk := range kinds {
		b := EncodeChange(mk())
		if b[0] != k {
			t.Errorf("%T has two numbers: %d and %d", mk(), k, b[0])
		}
		b[1] = 99
		if _, err := DecodeChange(b); !errors.Is(err, wire.ErrVersion) {
			t.Errorf("%T of version 99: %v", mk(), err)
		}
	}
	if _, err := DecodeChange([]byte{250, 1}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Error(err)
	}
}

func FuzzDecodeChange(f *testing.F) {
	for _, mk := range kinds {
		f.Add(EncodeChange(mk()))
	}
	f.Add(EncodeChange(bootOf(1, 1, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeChange(b); err == nil {
			_ = c.String()
			// Whatever a record says, applying it is an error or a state that follows.
			s, err := Empty().Apply(c)
			if err == nil {
				if err := s.OSD.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// A snapshot is all that a monitor knows after a restart: one of a newer program is refused
// by name, whole or any of the maps in it.
func TestSnapshotOfAnotherVersionIsRefusedByName(t *testing.T) {
	b := bootstrapped(t).Encode()
	if _, err := DecodeState(b); err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeState(append([]byte{b[0] + 1}, b[1:]...)); !errors.Is(err, wire.ErrVersion) || !strings.Contains(err.Error(), "monitor snapshot") {
		t.Errorf("%v", err)
	}
	var rec stateRecord
	if err := wire.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string][]byte{"osdmap": rec.OSD, "fsmap": rec.FS, "monmap": rec.Mon} {
		m[0]++
		bad, _ := wire.Append(nil, &rec)
		if _, err := DecodeState(bad); !errors.Is(err, wire.ErrVersion) || !strings.Contains(err.Error(), "monitor snapshot: "+name) {
			t.Errorf("%s: %v", name, err)
		}
		m[0]--
	}
	for i := range b {
		if _, err := DecodeState(b[:i]); err == nil {
			t.Errorf("cut to %d of %d bytes is taken", i, len(b))
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	s, err := Empty().Apply(&Bootstrap{Cluster: wire.UUID{1}, Size: 3, MinSize: 2, MetaPGs: 8, DataPGs: 16})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := DecodeState(b); err == nil {
			if _, err := DecodeState(s.Encode()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
