package crush

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// A change of the map moves what must move, and next to nothing else, whatever the map: hosts of
// several OSDs and of one, racks, weights that differ tenfold, OSDs that refuse a share, device
// classes. What an OSD gains or loses must move; 5 % above that is the promise.
func TestMovementIsMinimalOnAnyMap(t *testing.T) {
	const n = 3000
	maps := 40
	if testing.Short() {
		maps = 12
	}
	worst, waste, need := 0.0, 0, 0
	for seed := range uint64(maps) {
		rng := rand.New(rand.NewPCG(seed, 11))
		var empty Map
		m := empty.WithRoot("default")
		m = m.WithRule(Replicated("any", "default", "", Host))
		m = m.WithRule(Replicated("ssd", "default", "ssd", Host))
		hosts := 4 + rng.IntN(10)
		id := 0
		var places []Location
		put := func(host int) {
			class := []string{"ssd", "ssd", "hdd"}[rng.IntN(3)]
			w := uint32(One/4 + rng.IntN(2*One))
			places = append(places, Location{Root: "default", Rack: fmt.Sprint("rack", host%3), Host: fmt.Sprint("host", host)})
			next, err := m.WithDevice(Device{ID: int32(id), Weight: w, Class: class}, places[id])
			if err != nil {
				t.Fatal(err)
			}
			m = next
			id++
		}
		for h := range hosts {
			for range 1 + rng.IntN(4) {
				put(h)
			}
		}
		reweight := make([]uint32, id+1)
		for i := range reweight {
			reweight[i] = One
			if rng.IntN(5) == 0 {
				reweight[i] = uint32(rng.IntN(One))
			}
		}
		before, rw := m, slices.Clone(reweight)
		victim := rng.IntN(id)
		d, _ := m.Device(int32(victim))
		what := []string{"add", "add a host", "remove", "reweight", "crush weight", "out", "in"}[rng.IntN(7)]
		switch what {
		case "add":
			put(rng.IntN(hosts))
		case "add a host":
			put(hosts)
		case "remove":
			m = m.WithoutDevice(int32(victim))
		case "reweight":
			rw[victim] = uint32(rng.IntN(One))
		case "crush weight":
			d.Weight = uint32(One/4 + rng.IntN(2*One))
			var err error
			if m, err = m.WithDevice(d, places[victim]); err != nil {
				t.Fatal(err)
			}
		case "out":
			rw[victim] = 0
		case "in":
			rw[victim] = One
		}
		a, b := before.Placer(), m.Placer()
		for _, rule := range []string{"any", "ssd"} {
			had, has := map[int32]int{}, map[int32]int{}
			moved := 0
			for x := range uint64(n) {
				was, is := a.Place(rule, x, 3, reweight), b.Place(rule, x, 3, rw)
				for _, o := range was {
					had[o]++
				}
				for _, o := range is {
					has[o]++
					if !slices.Contains(was, o) {
						moved++
					}
				}
			}
			gained := 0
			for o, k := range has {
				gained += max(k-had[o], 0)
			}
			waste, need = waste+moved-gained, need+gained
			if moved > 20 {
				worst = max(worst, float64(moved)/float64(max(gained, 1))-1)
			}
			if float64(moved) > 1.05*float64(gained)+5 {
				t.Errorf("seed %d: %s, rule %s, %d OSDs on %d hosts: %d replicas moved, %d had to", seed, what, rule, id, hosts, moved, gained)
			}
		}
	}
	t.Logf("%d maps: %d replicas had to move, %d more did; worst %.1f%% above", maps, need, waste, worst*100)
}
