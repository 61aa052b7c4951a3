package ranksim

import "testing"

// Ranks with directories of their own do not slow each other down, and one directory is one rank's: a
// step costs the same for all, so this depends on no clock of this machine.
func TestPrivateDirectoriesScale(t *testing.T) {
	l := Load{Clients: 2, Window: 4, Warm: 20e6, Span: 60e6}
	rate := map[int]float64{}
	for _, n := range []int{1, 2, 8} {
		r, err := Run(n, Defaults(), l)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", r)
		rate[n] = r.Rate
	}
	for _, n := range []int{2, 8} {
		if e := rate[n] / rate[1] / float64(n); e < 0.8 || e > 1.2 {
			t.Errorf("%d ranks: efficiency %.2f", n, e)
		}
	}
	l.Shared = true
	r, err := Run(2, Defaults(), l)
	if err != nil {
		t.Fatal(err)
	}
	if r.Rate > 1.5*rate[1] {
		t.Errorf("two ranks make %.0f names a second in one directory, one makes %.0f", r.Rate, rate[1])
	}
	l.Shared, l.Stat = false, true
	if r, err = Run(2, Defaults(), l); err != nil {
		t.Fatal(err)
	}
	t.Logf("stats: %+v", r)
}
