package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/integration/storm"
)

// Storms go on while daemons are killed and started again, one at a time: every answer is
// the model's all the same, since a mount that lives keeps what it was told (early replies
// are replayed), and no operation takes longer than half a minute.
func TestStormUnderRestarts(t *testing.T) {
	c := harness.Up(t, harness.Limit(10*time.Minute))
	a, b := c.Mount(), c.Mount()
	ctx, stop := context.WithCancel(context.Background())
	seed := uint64(time.Now().UnixNano())
	if s := envInt("CAPSTAN_SEED0", 0); s != 0 {
		seed = uint64(s)
	}
	var wg sync.WaitGroup
	storms := []struct {
		name string
		run  func(context.Context, storm.Config) (int, error)
	}{
		{"seq1", storm.Sequential}, {"seq2", storm.Sequential}, {"seq3", storm.Sequential},
		{"names", func(ctx context.Context, cfg storm.Config) (int, error) { return storm.Names(ctx, cfg, 2) }},
		{"blocks", func(ctx context.Context, cfg storm.Config) (int, error) { return storm.Blocks(ctx, cfg, 2) }},
		{"appends", func(ctx context.Context, cfg storm.Config) (int, error) { return storm.Appends(ctx, cfg, 1) }},
	}
	for i, s := range storms {
		mkdir(t, filepath.Join(a, s.name))
		cfg := storm.Config{
			Dirs: []string{filepath.Join(a, s.name), filepath.Join(b, s.name)}, Seed: seed + uint64(i), Duration: time.Hour,
			Patience: 30 * time.Second,
			Stuck: func(what string) {
				fmt.Fprintf(os.Stderr, "%s: %s has waited for 30 s\n%s", s.name, what, c.Why())
			},
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			start := time.Now()
			n, err := s.run(ctx, cfg)
			t.Logf("%s: seed %d: %d in %v", s.name, cfg.Seed, n, time.Since(start).Round(time.Millisecond))
			if err != nil {
				t.Errorf("%s: after %d: %v", s.name, n, err)
			}
		}()
	}
	d := span(12 * time.Second)
	if s := envInt("CAPSTAN_RESTART_SECONDS", 0); s > 0 {
		d = time.Duration(s) * time.Second
	}
	defer wg.Wait()
	defer stop()
	end := time.Now().Add(d)
	for i := 0; time.Now().Before(end) && !t.Failed(); i++ {
		victim := []string{"mds.a", "osd.0", "mds.a", "osd.1", "mon.a", "mds.a", "osd.2"}[i%7]
		time.Sleep(500 * time.Millisecond)
		c.Kill(victim)
		time.Sleep(time.Duration(i%3) * 300 * time.Millisecond)
		c.Start()
		t.Logf("%s was killed and is up again", victim)
	}
}
