package integration

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/integration/storm"
)

// fsck beside a rank under load calls no race an error; a dead rank's journal, not flushed, is
// read in its place.
func TestFsckBesideAStormAndAfterADeath(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i, name := range []string{"seq", "names"} {
		mkdir(t, filepath.Join(a, name))
		cfg := storm.Config{Dirs: []string{filepath.Join(a, name), filepath.Join(b, name)}, Seed: uint64(time.Now().UnixNano()) + uint64(i), Duration: time.Hour, Patience: time.Minute}
		wg.Add(1)
		go func() {
			defer wg.Done()
			var n int
			var err error
			if name == "seq" {
				n, err = storm.Sequential(ctx, cfg)
			} else {
				n, err = storm.Names(ctx, cfg, 2)
			}
			t.Logf("%s: seed %d: %d", name, cfg.Seed, n)
			if err != nil {
				t.Error(err)
			}
		}()
	}
	defer wg.Wait()
	defer stop()
	for range 4 {
		if out, err := c.Run("fsck"); err != nil {
			t.Errorf("fsck beside a storm: %v\n%s", err, out)
		}
	}
	if out, err := c.Run("fsck", "--repair"); exitCode(err) != 8 {
		t.Errorf("a repair beside a running rank: %v\n%s", err, out)
	}
	stop()
	wg.Wait()
	c.Kill("mds.a")
	defer c.Start() // the mounts come down with a rank
	within(t, 60, "fsck of a dead rank", func() bool {
		out, err := c.Run("fsck", "--json")
		var rep struct {
			Online   bool
			Findings []json.RawMessage
		}
		if jerr := json.Unmarshal([]byte(out), &rep); jerr != nil || exitCode(err) == 8 {
			t.Fatalf("fsck: %v\n%s", err, out)
		}
		if len(rep.Findings) > 0 {
			t.Fatalf("fsck, online %v:\n%s", rep.Online, out)
		}
		return !rep.Online
	})
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}
