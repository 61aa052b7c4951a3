package crush

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func cluster(t testing.TB, hosts, perHost int, weight func(id int) uint32) Map {
	t.Helper()
	m := Map{}
	m = m.WithRoot("default")
	m = m.WithRule(Replicated("replicated", "default", "", Host))
	m = m.WithRule(Replicated("fast", "default", "ssd", Host))
	m = m.WithRule(Rule{Name: "racks", Steps: []Step{{Kind: Take, Bucket: "default"}, {Kind: Choose, N: 2, Type: Rack}, {Kind: ChooseLeaf, N: 2, Type: Host}, {Kind: Emit}}})
	m = m.WithRule(Rule{Name: "ec", Steps: []Step{{Kind: Take, Bucket: "default"}, {Kind: ChooseLeaf, Type: Host, Indep: true}, {Kind: Emit}}})
	for id := range hosts * perHost {
		m = add(t, m, id, perHost, weight(id))
	}
	return m
}

func add(t testing.TB, m Map, id, perHost int, w uint32) Map {
	t.Helper()
	class := "hdd"
	if id%2 == 0 {
		class = "ssd"
	}
	n, err := m.WithDevice(Device{ID: int32(id), Weight: w, Class: class}, Location{Root: "default", Rack: fmt.Sprintf("rack%d", id/perHost%4), Host: fmt.Sprintf("host%d", id/perHost)})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func even(int) uint32 { return One }

// A placement that changes between two releases would move all data: these stay as they are.
func TestGoldenPlacements(t *testing.T) {
	m := cluster(t, 8, 2, func(id int) uint32 { return One * uint32(1+id%3) })
	var got []string
	for _, rule := range []string{"replicated", "fast", "racks", "ec"} {
		for _, x := range []uint64{0, 1, 2, 1<<32 | 7} {
			got = append(got, fmt.Sprint(rule, " ", x, " ", m.Place(rule, x, 4, nil)))
		}
	}
	if !slices.Equal(got, golden) {
		for _, g := range got {
			fmt.Printf("\t%q,\n", g)
		}
		t.Fatal("placements changed; see above")
	}
	if l := negLog2(0); l != 32<<fracBits || negLog2(math.MaxUint32) != 0 || negLog2(1<<31-1) != 1<<fracBits {
		t.Fatalf("log2 is off: %d", l)
	}
}

func TestLogIsMonotoneAndNear(t *testing.T) {
	last := uint64(math.MaxUint64)
	for u := uint64(0); u < 1<<32; u += 99991 {
		l := negLog2(uint32(u))
		if l > last {
			t.Fatalf("longer straw for less luck at %d", u)
		}
		last = l
		want := 32 - math.Log2(float64(u+1))
		if got := float64(l) / (1 << fracBits); math.Abs(got-want) > 1e-6 {
			t.Fatalf("-log2 of %d is %v, not %v", u, got, want)
		}
	}
}

func TestShareFollowsWeight(t *testing.T) {
	m := cluster(t, 10, 2, func(id int) uint32 { return One * uint32(1+id%4) })
	p := m.Placer()
	const n = 40000
	count := map[int32]float64{}
	for x := range uint64(n) {
		count[p.Place("replicated", x, 1, nil)[0]]++
	}
	total := 0.0
	for _, d := range m.Devices {
		total += float64(d.Weight)
	}
	for _, d := range m.Devices {
		want := n * float64(d.Weight) / total
		if math.Abs(count[d.ID]-want) > 5*math.Sqrt(want) {
			t.Errorf("osd.%d got %.0f, its weight is worth %.0f", d.ID, count[d.ID], want)
		}
	}
}

// moved counts the replicas that the second map puts where the first does not.
func moved(a, b *Placer, n, size int, rw []uint32) (moves, on int) {
	for x := range uint64(n) {
		before, after := a.Place("replicated", x, size, nil), b.Place("replicated", x, size, rw)
		for _, d := range after {
			if !slices.Contains(before, d) {
				moves++
			}
		}
	}
	return moves, on
}

func holds(p *Placer, n, size int, id int32) (c int) {
	for x := range uint64(n) {
		if slices.Contains(p.Place("replicated", x, size, nil), id) {
			c++
		}
	}
	return c
}

// What must move when an OSD comes or goes is what it holds; more than 5 % above is waste.
func TestMovementIsMinimal(t *testing.T) {
	const n, size = 8000, 3
	m := cluster(t, 20, 1, even)
	grown := add(t, m, 20, 1, One)
	shrunk := grown.WithoutDevice(7)
	pm, pg, ps := m.Placer(), grown.Placer(), shrunk.Placer()
	for _, c := range []struct {
		name string
		a, b *Placer
		min  int
		rw   []uint32
	}{
		{"add", pm, pg, holds(pg, n, size, 20), nil},
		{"remove", pg, ps, holds(pg, n, size, 7), nil},
		{"out", pg, pg, holds(pg, n, size, 7), []uint32{One, One, One, One, One, One, One, 0}},
	} {
		got, _ := moved(c.a, c.b, n, size, c.rw)
		t.Logf("%s: %d replicas moved, %d had to", c.name, got, c.min)
		if float64(got) > 1.05*float64(c.min) {
			t.Errorf("%s: %d replicas moved, %d had to", c.name, got, c.min)
		}
	}
}

func TestReplicasAreApart(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		hosts, per := rapid.IntRange(1, 9).Draw(rt, "hosts"), rapid.IntRange(1, 3).Draw(rt, "per")
		m := cluster(t, hosts, per, func(id int) uint32 { return uint32(One/4 + id*One/7) })
		size := rapid.IntRange(1, 6).Draw(rt, "size")
		x := rapid.Uint64().Draw(rt, "x")
		for _, rule := range []string{"replicated", "ec"} {
			got := m.Place(rule, x, size, nil)
			seen := map[string]bool{}
			full := 0
			for _, d := range got {
				if d == Hole {
					continue
				}
				full++
				h, ok := m.Parent(d)
				if !ok || seen[h.Name] {
					rt.Fatalf("%s: %v: two on %s", rule, got, h.Name)
				}
				seen[h.Name] = true
			}
			if full != min(size, hosts) || rule == "ec" && len(got) != size {
				rt.Fatalf("%s: %v of %d hosts for %d replicas", rule, got, hosts, size)
			}
		}
	})
}

func TestIndepKeepsPositions(t *testing.T) {
	m := cluster(t, 12, 1, even)
	p := m.Placer()
	rw := make([]uint32, 12)
	for i := range rw {
		rw[i] = One
	}
	rw[5] = 0
	shifted := 0
	for x := range uint64(2000) {
		a, b := p.Place("ec", x, 4, nil), p.Place("ec", x, 4, rw)
		for i := range a {
			if a[i] != 5 && a[i] != b[i] {
				shifted++ // a retry at another position may meet the newcomer
			}
		}
	}
	if shifted > 120 {
		t.Errorf("%d of 8000 positions moved for nothing", shifted)
	}
}

func TestClassRackReweightException(t *testing.T) {
	m := cluster(t, 8, 2, even)
	for x := range uint64(200) {
		for _, d := range m.Place("fast", x, 3, nil) {
			if d%2 != 0 {
				t.Fatalf("osd.%d is no ssd", d)
			}
		}
		racks := map[string]int{}
		for _, d := range m.Place("racks", x, 4, nil) {
			h, _ := m.Parent(d)
			r, _ := m.Parent(h.ID)
			racks[r.Name]++
		}
		if len(racks) != 2 {
			t.Fatalf("x %d: %v", x, racks)
		}
	}
	rw := []uint32{One / 2}
	full, half := 0, 0
	for x := range uint64(8000) {
		if m.Place("replicated", x, 1, nil)[0] == 0 {
			full++
		}
		if m.Place("replicated", x, 1, rw)[0] == 0 {
			half++
		}
	}
	if half < full*4/10 || half > full*6/10 {
		t.Errorf("reweight 0.5 keeps %d of %d", half, full)
	}
	at := m.Place("replicated", 3, 3, nil)
	var to int32
	for slices.Contains(at, to) {
		to++
	}
	ex := m.WithException(Exception{X: 3, From: at[1], To: to})
	if got := ex.Place("replicated", 3, 3, nil); got[1] != to || got[0] != at[0] {
		t.Errorf("%v became %v", at, got)
	}
	if got := ex.Place("replicated", 4, 3, nil); !slices.Equal(got, m.Place("replicated", 4, 3, nil)) {
		t.Error("an exception for 3 changed 4")
	}
}

func TestCheckRefusesNonsense(t *testing.T) {
	for name, spoil := range map[string]func(*Map){
		"cycle":    func(m *Map) { m.Buckets[0].Items = append(m.Buckets[0].Items, m.Buckets[0].ID) },
		"unknown":  func(m *Map) { m.Buckets[1].Items = append(m.Buckets[1].Items, 99) },
		"twice":    func(m *Map) { m.Buckets[0].Items = append(m.Buckets[0].Items, 0) },
		"weight":   func(m *Map) { m.Devices[0].Weight = MaxWeight + 1 },
		"step":     func(m *Map) { m.Rules[0].Steps[1].N = 1 << 30 },
		"take":     func(m *Map) { m.Rules[0].Steps[0].Bucket = "nowhere" },
		"order":    func(m *Map) { m.Devices[0], m.Devices[1] = m.Devices[1], m.Devices[0] },
		"positive": func(m *Map) { m.Buckets[0].ID = 4 },
	} {
		m := cluster(t, 3, 1, even)
		spoil(&m)
		if m.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	m := cluster(b, 100, 4, even)
	p := m.Placer()
	for i := range b.N {
		p.Place("replicated", uint64(i), 3, nil)
	}
}

var golden = []string{
	"replicated 0 [8 2 13 11]",
	"replicated 1 [13 5 8 7]",
	"replicated 2 [2 12 11 15]",
	"replicated 4294967303 [10 1 14 3]",
	"fast 0 [8 2 12 4]",
	"fast 1 [8 4 2 14]",
	"fast 2 [2 12 14 8]",
	"fast 4294967303 [10 14 2 8]",
	"racks 0 [8 1 2 11]",
	"racks 1 [13 5 8 1]",
	"racks 2 [2 11 12 5]",
	"racks 4294967303 [10 3 1 8]",
	"ec 0 [8 14 11 2]",
	"ec 1 [10 9 2 4]",
	"ec 2 [5 10 3 9]",
	"ec 4294967303 [0 4 2 14]",
}
