package osdsim

import (
	"os"
	"strconv"
	"testing"

	"github.com/capstan-fs/capstan/osd"
)

func seeds(t *testing.T, def int) (from, n uint64) {
	if s := os.Getenv("CAPSTAN_SIM_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v, 1
	}
	if s := os.Getenv("CAPSTAN_SIM_SEEDS"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return 1, v
	}
	if raceEnabled { // the same code, ten times slower; the point of -race is elsewhere
		def /= 10
	}
	return 1, uint64(def)
}

// TestFaultsNeverBreakPromises is the point of the package.
func TestFaultsNeverBreakPromises(t *testing.T) {
	from, n := seeds(t, 200)
	for s := from; s < from+n; s++ {
		o := Options{Seed: s}
		if n == 1 && testing.Verbose() {
			o.Verbose = func(f string, a ...any) { t.Logf(f, a...) }
		}
		if err := Run(o); err != nil {
			t.Fatalf("seed %d: %v\nrepeat: CAPSTAN_SIM_SEED=%d go test -v -run TestFaultsNeverBreakPromises ./sim/osdsim", s, err, s)
		}
	}
}

// TestSeededBugsAreCaught shows that the checkers see: each fault switches one rule off.
func TestSeededBugsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault osd.Fault
		mon   func(*Mon)
		rare  bool // needs many seeds: only looked for when CAPSTAN_SIM_SEEDS asks for many
	}{
		{"ack of another interval counted", osd.FaultAckAnyInterval, nil, false},
		{"lease not waited for", osd.FaultNoLeaseWait, nil, false},
		{"lease of one member only", osd.FaultOneLease, nil, true},
		{"read past an uncommitted entry", osd.FaultReadUncommitted, nil, false},
		{"cut not atomic", osd.FaultCutNotAtomic, nil, true},
		{"addition without pending", osd.FaultNoPending, nil, false},
		{"addition before active", osd.FaultAddBeforeActive, nil, true},
		{"dedup lost in copy", osd.FaultNoDedupCopy, nil, false},
		{"barrier ignored", osd.FaultNoBarrier, nil, false},
		{"uuid ignored", osd.FaultUUIDIgnored, func(m *Mon) { m.IgnoresUUID = true }, false},
		{"compare without set", 0, func(m *Mon) { m.IgnoresEpoch = true }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, n := seeds(t, 150)
			if n < 1000 && (c.rare || n < 150) {
				t.Skip("rare: set CAPSTAN_SIM_SEEDS=3000")
			}
			for s := uint64(1); s <= n; s++ {
				if err := Run(Options{Seed: s, Faults: c.fault, MonFaults: c.mon}); err != nil {
					t.Logf("caught by seed %d: %.200v", s, err)
					return
				}
			}
			t.Errorf("not caught")
		})
	}
}
