package osdsim

import (
	"os"
	"testing"
)

// TestTheBalancerUnderFaults: see balance.go. CAPSTAN_SIM_BALANCE plays so many seeds.
func TestTheBalancerUnderFaults(t *testing.T) {
	def := uint64(4)
	if raceEnabled {
		def = 1
	}
	moves, off := 0, 0.0
	for s := range number(t, "CAPSTAN_SIM_BALANCE", def) {
		var r Result
		o := Options{Seed: s + 1, Class: "moves", Balance: true, Result: &r}
		if os.Getenv("CAPSTAN_SIM_VERBOSE") != "" {
			o.Verbose = func(f string, a ...any) { t.Logf(f, a...) }
		}
		if err := Run(o); err != nil {
			t.Fatalf("seed %d: %v", s+1, err)
		}
		t.Logf("seed %d: %d operations, %d epochs, %d PGs moved, %.1f s; an OSD is %.1f %% off its share", s+1, r.Ops, r.Changes, r.Moves, float64(r.Virtual)/1e9, r.Off*100)
		moves, off = moves+r.Moves, max(off, r.Off)
	}
	if moves == 0 {
		t.Error("nothing was moved: this test sees nothing")
	}
}
