package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/lockcert"
)

// seeded are the bugs that every `make test` tries, one of each kind; `make real` tries all.
var seeded = wrong.Of(wrong.TwoWriters, wrong.FlockLocal, wrong.LockLostOnRestart, wrong.ForgottenWakeup, wrong.UnfairQueue,
	wrong.StaleRead, wrong.EnoentKept, wrong.TornAppend, wrong.LostRename, wrong.ExclTwice)

// Each seeded bug of internal/wrong is found by the check that its row names, between two
// mounts, with a counter-example; one that is wrong only between mounts is not found on one.
// Some of the time is spent waiting for locks that never come, so three clusters run at once.
func TestLockcertFindsEverySeededBug(t *testing.T) {
	harness.NeedMount(t)
	bin := harness.Binary(t)
	room := make(chan struct{}, 3)
	var wg sync.WaitGroup
	for i := range wrong.Faults {
		if !long() && !seeded.Has(wrong.Fault(i)) {
			continue
		}
		f := &wrong.Faults[i]
		wg.Add(1)
		go func() {
			defer wg.Done()
			room <- struct{}{}
			defer func() { <-room }()
			t.Run(f.Name, func(t *testing.T) { findBug(t, bin, f) })
		}()
	}
	wg.Wait()
}

func findBug(t *testing.T, bin string, f *wrong.Info) {
	c := harness.Up(t, harness.Args("--osds", "1", "--wrong", f.Name))
	found := func(rep *lockcert.Report) bool {
		last := rep.Results[len(rep.Results)-1]
		return last.Place == lockcert.Across && last.Status == lockcert.Fail
	}
	rep, err := lockcert.Run(context.Background(), lockcert.Config{
		Dirs: []string{c.Mount(), c.Mount()}, Worker: []string{bin, lockcert.Verb}, Only: []string{f.Check},
		Slice: 150 * time.Millisecond, Grace: 20 * time.Millisecond, Patience: 2 * time.Second, Minutes: 0.5, Enough: found,
		Disturb: fmt.Sprintf("%s dev kill --dir %s mds.a && %s dev up --dir %s", bin, c.Dir, bin, c.Dir),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range rep.Results {
		x := &rep.Results[i]
		want := f.Same || x.Place == lockcert.Across
		switch failed := x.Status == lockcert.Fail; {
		case failed != want:
			t.Errorf("%s, %s: failed is %v, must be %v (seed %d): %s\n%s", x.Check, x.Place, failed, want, rep.Seed, x.Detail, strings.Join(lockcert.Timeline(x.Trace), "\n"))
		case failed && len(x.Trace) == 0:
			t.Errorf("%s, %s fails without a counter-example: %s", x.Check, x.Place, x.Detail)
		}
	}
}
