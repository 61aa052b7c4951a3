package mon

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// An OSD that holds something is never forgotten, whoever asks.
func TestAnOSDIsRemovedOnlyWhenItHoldsNothing(t *testing.T) {
	w := newWorld(t, 4)
	w.refuses(EAGAIN, &OSDRemove{ID: 0}) // up
	w.refuses(ENOENT, &OSDRemove{ID: 9})
	w.down(0)
	if held(w.s.OSD, 0) == 0 {
		t.Skip("osd.0 holds no PG here")
	}
	w.refuses(EAGAIN, &OSDRemove{ID: 0}) // still in sync somewhere
	w.do(w.drop(0))
	w.do(&OSDRemove{ID: 0})
	if _, ok := w.s.OSD.Crush.Device(0); ok || len(w.s.OSD.OSDs) != 3 {
		t.Fatal("it is still there")
	}
	w.do(bootOf(0, 2, 7)) // and may come as another
}

func TestCrushMoveKeepsWhatIsNotNamed(t *testing.T) {
	w := newWorld(t, 4)
	w.do(&OSDCrush{ID: 2, Weight: 3 * crush.One, Class: "ssd"})
	w.do(&OSDCrush{ID: 2, Weight: -1, Rack: "r1"})
	cm := w.s.OSD.Crush
	d, _ := cm.Device(2)
	if l := locationOf(&cm, 2); l.Rack != "r1" || l.Host != "host-osd.2" || l.Root != RootName || d.Weight != 3*crush.One || d.Class != "ssd" {
		t.Fatalf("%+v at %+v", d, l)
	}
	w.do(&OSDCrush{ID: 2, Weight: -1, Host: "host-osd.1"})
	if h, _ := cm.Parent(2); h.Name == "" {
		t.Fatal("the old map changed")
	}
	cm = w.s.OSD.Crush
	if h, _ := cm.Parent(2); h.Name != "host-osd.1" {
		t.Fatalf("osd.2 is on %q", h.Name)
	}
	for _, b := range cm.Buckets {
		if len(b.Items) == 0 && b.Type != crush.Root {
			t.Fatalf("%v %q was left behind empty", b.Type, b.Name)
		}
	}
	w.refuses(ENOENT, &OSDCrush{ID: 77, Weight: -1})
}

func TestPoolSizesMakeSense(t *testing.T) {
	w := newWorld(t, 4)
	w.do(&PoolSet{Name: "data", Size: 4})
	w.refuses(EINVAL, &PoolSet{Name: "data", Size: 1}) // below min_size
	w.refuses(ENOENT, &PoolSet{Name: "nobody", Size: 2})
	w.do(&PoolSet{Name: "data", Size: 2, MinSize: 1})
	if p := w.s.OSD.Pools[DataPool]; p.Size != 2 || p.MinSize != 1 {
		t.Fatalf("%+v", p)
	}
	w.do(&PoolCreate{Name: "fast", Size: 2, MinSize: 1, PGNum: 4, Rule: "replicated-ssd", Class: "ssd"})
	w.refuses(EINVAL, &PoolCreate{Name: "x", Size: 2, MinSize: 1, PGNum: 4, Rule: "nobody's"})
	w.do(&OSDCrush{ID: 1, Weight: -1, Class: "ssd"})
	if at := w.s.OSD.Wanted(wire.PGID{Pool: w.s.OSD.Pools[3].ID}); len(at) != 1 || at[0] != 1 {
		t.Fatalf("a pool of class ssd is on %v", at)
	}
}

// bytesOn sums what each OSD should hold, in shares of the mean for its weight.
func spread(m *clustermap.OSDMap, size func(wire.PGID) uint64) (worst float64) {
	on, weight := map[wire.OSDID]float64{}, 0.0
	total := 0.0
	for _, pg := range m.PGIDs() {
		for _, id := range m.Wanted(pg) {
			on[id] += float64(size(pg))
			total += float64(size(pg))
		}
	}
	for _, d := range m.Crush.Devices {
		weight += float64(d.Weight)
	}
	for _, d := range m.Crush.Devices {
		mean := total * float64(d.Weight) / weight
		worst = max(worst, math.Abs(on[wire.OSDID(d.ID)]/mean-1))
	}
	return worst
}

// balanced runs the balancer to its end as the leader does, a few moves at a time.
func (w *world) balanced(size func(wire.PGID) uint64) (moves int) {
	w.t.Helper()
	for round := 0; ; round++ {
		off, on := Balance(w.s.OSD, size, balanceTolerance, balanceMoves)
		if len(off)+len(on) == 0 {
			return moves
		}
		if round > 2000 {
			w.t.Fatal("the balancer does not come to rest")
		}
		moves += len(on)
		w.do(&Except{Off: off, On: on})
	}
}

// The promise: ±10 % of the mean bytes for every OSD, the domains apart, at rest when done.
func TestBalancerBringsEveryOSDNearTheMean(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t, 0)
		hosts, per := 5+rng.IntN(4), 1+rng.IntN(3)
		for i := range hosts * per {
			b := bootOf(i, 1, 1)
			b.Host = fmt.Sprintf("h%d", i/per)
			if rng.IntN(4) == 0 && per > 1 {
				b.Total *= 2
			}
			w.do(b)
		}
		w.do(&PoolCreate{Name: "big", Size: 3, MinSize: 2, PGNum: 512, Rule: RuleName})
		w.do(&PGCreate{Pool: 3})
		sizes := map[wire.PGID]uint64{}
		for _, pg := range w.s.OSD.PGIDs() {
			sizes[pg] = uint64(1e9 * (0.8 + 0.4*rng.Float64()))
		}
		size := func(pg wire.PGID) uint64 { return sizes[pg] }
		before := spread(w.s.OSD, size)
		moves := w.balanced(size)
		after := spread(w.s.OSD, size)
		t.Logf("seed %d: %d OSDs on %d hosts: worst %.0f%% before, %.1f%% after %d moves", seed, hosts*per, hosts, before*100, after*100, moves)
		if after > 0.10 {
			t.Errorf("seed %d: an OSD is %.1f%% off the mean", seed, after*100)
		}
		for _, pg := range w.s.OSD.PGIDs() {
			if at := w.s.OSD.Wanted(pg); len(at) != 3 || !apart(w.s.OSD, at) {
				t.Fatalf("seed %d: pg %v at %v", seed, pg, at)
			}
		}
		// A host that goes takes its exceptions along, and the rest come to rest again.
		for i := range per {
			w.do(&OSDCrush{ID: wire.OSDID(i), Weight: 0})
		}
		w.balanced(size)
		for _, pg := range w.s.OSD.PGIDs() {
			if at := w.s.OSD.Wanted(pg); len(at) != 3 || !apart(w.s.OSD, at) {
				t.Fatalf("seed %d, without host 0: pg %v at %v", seed, pg, at)
			}
		}
	}
}

// A living OSD that is marked down again and again is kept down after a while; one that was
// started again is not.
func TestFlappingOSDIsKeptDown(t *testing.T) {
	set := Defaults()
	set.FlapBoots = 3
	l := NewLeader(set, 0, newWorld(t, 4).s, true)
	m := bootOf(0, 1, 1).OSDBoot
	now := int64(0)
	for range 3 {
		now += 10 * second
		if wait := l.flapping(&m); wait != 0 {
			t.Fatalf("an OSD that is up flaps for %d", wait)
		}
		next, err := l.state.Apply(&OSDDown{ID: 0, Instance: m.Instance})
		if err != nil {
			t.Fatal(err)
		}
		l.state, l.now = next, now
		if wait := l.flapping(&m); wait != 0 {
			t.Fatalf("kept down too early: %d", wait)
		}
		if l.state, err = l.state.Apply(&OSDBoot{OSDBoot: m}); err != nil {
			t.Fatal(err)
		}
	}
	next, err := l.state.Apply(&OSDDown{ID: 0, Instance: m.Instance})
	if err != nil {
		t.Fatal(err)
	}
	l.state = next
	if l.flapping(&m) != set.FlapWindow/2 {
		t.Fatal("it may flap on")
	}
	needed, err := l.state.Apply(&OSDDown{ID: 1, Instance: l.state.OSD.OSDs[1].Instance})
	if err != nil {
		t.Fatal(err)
	}
	l.state, needed = needed, l.state
	if l.flapping(&m) != 0 {
		t.Fatal("kept down while another one is down")
	}
	l.state = needed
	again := bootOf(0, 1, 2).OSDBoot
	if l.flapping(&again) != 0 {
		t.Fatal("a new life is kept down")
	}
	l.now += set.FlapWindow
	if l.flapping(&m) != 0 {
		t.Fatal("kept down for ever")
	}
}

// No plan of the balancer ever makes a PG less safe, nor does one that was right and is overtaken
// by what happens to the cluster: OSDs are moved to other hosts, weighted anew, put out and in,
// boot elsewhere. As many replicas stand apart as would without any exception.
func TestExceptionsNeverLowerSafety(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 17))
		w := newWorld(t, 0)
		hosts := 5 + rng.IntN(3)
		n := hosts * 2
		for i := range n {
			b := bootOf(i, 1, 1)
			b.Host = fmt.Sprintf("h%d", i/2)
			w.do(b)
		}
		w.do(&PoolCreate{Name: "big", Size: 3, MinSize: 2, PGNum: 128, Rule: RuleName})
		w.do(&PGCreate{Pool: 3})
		size := func(wire.PGID) uint64 { return 1 }
		check := func(after string) {
			t.Helper()
			plain := w.s.OSD.Clone()
			plain.Crush.Exceptions = nil
			m, bare := w.s.OSD, plain.Seal()
			for _, pg := range m.PGIDs() {
				at, would := m.Wanted(pg), bare.Wanted(pg)
				if len(at) != len(would) || !apart(m, at) {
					t.Fatalf("seed %d, after %s: pg %v at %v, without exceptions at %v", seed, after, pg, at, would)
				}
			}
		}
		made := 0
		for range 40 {
			off, on := Balance(w.s.OSD, size, balanceTolerance, balanceMoves)
			made += len(on)
			overtaken := rng.IntN(3) == 0
			if !overtaken {
				w.do(&Except{Off: off, On: on})
				check("a plan")
			}
			id := wire.OSDID(rng.IntN(n))
			o := w.s.OSD.OSDs[id]
			switch rng.IntN(5) {
			case 0:
				w.do(&OSDCrush{ID: id, Weight: -1, Host: fmt.Sprintf("h%d", rng.IntN(hosts))})
			case 1:
				w.do(&OSDCrush{ID: id, Weight: int64(crush.One/2 + rng.IntN(crush.One))})
			case 2:
				w.do(&OSDPlace{ID: id, In: !o.In, Reweight: o.Reweight})
				w.do(&OSDPlace{ID: id, In: true, Reweight: o.Reweight})
			case 3:
				w.do(&OSDPlace{ID: id, In: true, Reweight: uint32(crush.One/2 + rng.IntN(crush.One/2))})
			case 4:
				b := bootOf(int(id), 1, int(rng.Uint32()))
				b.Host = fmt.Sprintf("h%d", rng.IntN(hosts))
				w.do(&OSDDown{ID: id, Instance: o.Instance})
				w.do(b)
			}
			check("what happened to the cluster")
			if overtaken {
				w.do(&Except{Off: off, On: on})
				check("a plan that was overtaken")
			}
		}
		if made == 0 {
			t.Errorf("seed %d: no exception was made", seed)
		}
	}
}
