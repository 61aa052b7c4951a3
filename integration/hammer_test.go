package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/integration/storm"
)

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

// TestHammer runs many seeds of the storms side by side in one cluster:
//
//	CAPSTAN_SEEDS=400 CAPSTAN_SEED0=1 CAPSTAN_STORM=seq,names,blocks,appends CAPSTAN_MOUNTS=2 \
//	  CAPSTAN_LANES=6 go test ./integration -run TestHammer -v -timeout 1h
//
// Every difference is reported, and the next seed goes on.
func TestHammer(t *testing.T) {
	seeds := envInt("CAPSTAN_SEEDS", 0)
	if seeds == 0 {
		t.Skip("runs when CAPSTAN_SEEDS says how many seeds")
	}
	c := harness.Up(t, harness.Limit(2*time.Hour))
	var mounts []string
	for range envInt("CAPSTAN_MOUNTS", 2) {
		mounts = append(mounts, c.Mount())
	}
	kinds := strings.Split(os.Getenv("CAPSTAN_STORM"), ",")
	if kinds[0] == "" {
		kinds = []string{"seq"}
	}
	first := uint64(envInt("CAPSTAN_SEED0", 1))
	var next, steps atomic.Int64
	var longest atomic.Int64
	var wg sync.WaitGroup
	for range envInt("CAPSTAN_LANES", 6) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := next.Add(1) - 1
				if i >= int64(seeds) {
					return
				}
				seed := first + uint64(i)
				kind := kinds[i%int64(len(kinds))]
				sub := fmt.Sprintf("%s-%d", kind, seed)
				cfg := storm.Config{Seed: seed, Patience: 30 * time.Second, Stuck: func(what string) {
					fmt.Fprintf(os.Stderr, "seed %d: %s has waited for 30 s\n%s", seed, what, c.Why())
				}}
				for _, m := range mounts {
					cfg.Dirs = append(cfg.Dirs, filepath.Join(m, sub))
				}
				if err := os.Mkdir(cfg.Dirs[0], 0o777); err != nil {
					t.Error(err)
					return
				}
				start := time.Now()
				n, err := run(kind, cfg)
				steps.Add(int64(n))
				if err != nil {
					t.Errorf("%s: after %d: %v", kind, n, err)
					fmt.Fprintf(os.Stderr, "FAIL %s: after %d: %v\n", kind, n, err)
				}
				for d := int64(time.Since(start)); ; {
					was := longest.Load()
					if d <= was || longest.CompareAndSwap(was, d) {
						break
					}
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		select {
		case <-done:
			t.Logf("%d seeds, %d steps or rounds, the longest seed %v", seeds, steps.Load(), time.Duration(longest.Load()))
			return
		case <-time.After(30 * time.Second):
			fmt.Fprintf(os.Stderr, "%s %d seeds begun\n", time.Now().Format("15:04:05"), next.Load())
		}
	}
}

func run(kind string, cfg storm.Config) (int, error) {
	ctx := context.Background()
	switch kind {
	case "names":
		cfg.Steps = 50
		return storm.Names(ctx, cfg, 2)
	case "blocks":
		cfg.Steps = 50
		return storm.Blocks(ctx, cfg, 2)
	case "appends":
		cfg.Steps = 100
		return storm.Appends(ctx, cfg, 2)
	}
	cfg.Steps = 2500
	return storm.Sequential(ctx, cfg)
}
