package osd

import (
	"fmt"
	"strings"
	"testing"
)

// A learner stops before its disk is as full as it may become, says so, and goes on when there is room.
func TestALearnerWaitsForRoom(t *testing.T) {
	w := newTrio(t)
	w.away(2)
	for i := range 40 {
		w.put(fmt.Sprintf("o%02d", i), strings.Repeat("x", 1000))
	}
	w.stores[2].SetTotal(20_000)
	w.learning(3)
	w.run(20)
	if _, used := w.stores[2].Space(); used > 20_000 || used < 19_000 {
		t.Errorf("%d of 20000 bytes", used)
	}
	if s := w.osds[2].Query(w.now)[0]; len(s.Waits) != 1 || !strings.Contains(s.Waits[0], "room on osd.2") || s.Missing == 0 {
		t.Errorf("waits for %q, lacks %d", s.Waits, s.Missing)
	}
	w.stores[2].SetTotal(1 << 20)
	w.run(20)
	if w.osds[0].pgs[testPG].pending == nil || w.at(2, "o39") == "" {
		t.Errorf("not filled: %+v", w.osds[2].Query(w.now))
	}
}
