package mds

import "testing"

// A rank that nobody uses asks to be called about once a second, not each millisecond.
func TestAnIdleRankSleeps(t *testing.T) {
	w := newWorld(t, 1)
	w.quiet()
	w.now += 1e9
	w.step(Event{Kind: Tick})
	if next := w.r.eff.NextTick; next != 0 && next-w.now < 5e8 {
		t.Errorf("the next tick is wanted in %d ns", next-w.now)
	}
}
