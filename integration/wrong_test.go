package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	patience := 2 * time.Second
	if !f.Same {
		patience = 30 * time.Second // on one mount it must pass, on a busy machine too
	}
	rep, err := lockcert.Run(context.Background(), lockcert.Config{
		Dirs: []string{c.Mount(), c.Mount()}, Worker: []string{bin, lockcert.Verb}, Only: []string{f.Check},
		Slice: 150 * time.Millisecond, Grace: 20 * time.Millisecond, Patience: patience, Minutes: 0.5, Enough: found,
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

// `capstan dev score` with a suite of one line, which can only notice that flock is local.
func TestDevScore(t *testing.T) {
	t.Parallel()
	harness.NeedMount(t)
	bin := harness.Binary(t)
	suite := []string{"sh", "-c", `! flock -n "$0/f" flock -n "$1/f" true`}
	out, err := runFor(t, "/", time.Minute, append([]string{bin, "dev", "score", "--only", "flock-local,lost-write", "--"}, suite...)...)
	if err != nil || !strings.Contains(out, "1 of 2 caught") {
		t.Fatalf("%v\n%s", err, out)
	}
	// One that fails where nothing is wrong has no score.
	if out, err = runFor(t, "/", time.Minute, bin, "dev", "score", "--only", "flock-local", "--", "false"); err == nil || !strings.Contains(out, "can not be scored") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A cluster that is wrong says so wherever one looks, and no other configuration may be.
func TestSeededBugsAreLoud(t *testing.T) {
	c := harness.Up(t, harness.Args("--osds", "1", "--wrong", "wake-one", "--wrong", "lost-rename"))
	m := c.Mount()
	const names = "wake-one,lost-rename"
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{
		"status":        c.Must("status"),
		"status --json": c.Must("status", "--json"),
		"dev status":    strings.ReplaceAll(c.Must("dev", "status", "--dir", c.Dir), ", ", ","),
		"daemon mds.a":  c.Must("daemon", "mds.a", "status"),
		"/proc/mounts":  strings.ReplaceAll(string(mounts), "WRONG:wake-one+lost-rename "+m, names),
		"dev up on another": func() string {
			out, _ := c.Run("dev", "up", "--dir", c.Dir, "--wrong", "lost-write")
			return strings.ReplaceAll(strings.ReplaceAll(out, `"`, ""), "wake-one lost-rename", names)
		}(),
	} {
		if !strings.Contains(text, names) {
			t.Errorf("%s does not say what is wrong:\n%s", where, text)
		}
	}
	logs, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
	for _, l := range logs {
		if b, err := os.ReadFile(l); err != nil || !strings.Contains(string(b), "WRONG ON PURPOSE") {
			t.Errorf("%s does not say that something is wrong (%v)", l, err)
		}
	}
	copied := filepath.Join(t.TempDir(), "capstan.conf")
	b, err := os.ReadFile(c.Conf())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Run("status", "--conf", copied); err == nil || !strings.Contains(out, "seeded bugs") {
		t.Errorf("a copy of the configuration is taken: %v %s", err, out)
	}
}
