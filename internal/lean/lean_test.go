package lean

import "testing"

// A busy process gets processors at once, an idle one loses them after a while, and neither
// leaves the bounds.
func TestProcessorsFollowTheLoad(t *testing.T) {
	g := governor{procs: 1, most: 3}
	for _, s := range []struct {
		used  float64
		turns int
		procs int
	}{
		{0.5, 100, 1},
		{0.95, 1, 2},
		{1.2, 100, 2},          // enough
		{1.9, 1, 3},            // not four
		{3, 10, 3},             // nor ever
		{0.4, patience - 1, 3}, // may be a pause
		{0.4, 1, 1},
		{0.0, 100, 1},
	} {
		for range s.turns {
			g.turn(s.used)
		}
		if g.procs != s.procs {
			t.Fatalf("after %d turns at %.2f: %d processors, want %d", s.turns, s.used, g.procs, s.procs)
		}
	}
}
