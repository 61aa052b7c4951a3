package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/capstan-fs/capstan/integration/harness"
)

// TestLongWalkHoldsTheBudget makes a tree through two mounts and walks it with find -size (a stat
// per file) through both, while the rank's account and the process's resident memory are
// sampled: neither passes mds_cache_memory by more than a tenth. CAPSTAN_WALK is the number of
// files, a million by itself; of a small tree only the walk says something.
func TestLongWalkHoldsTheBudget(t *testing.T) {
	files, _ := strconv.Atoi(os.Getenv("CAPSTAN_WALK"))
	if !long() && files == 0 {
		t.Skip("long: CAPSTAN_REAL=1, or CAPSTAN_WALK=FILES")
	}
	if files == 0 {
		files = 1_000_000
	}
	const perDir = 1000
	budget := int64(256 << 20)
	if files < 300_000 {
		budget = 96 << 20 // the least
	}
	c := harness.Up(t, harness.Args("--mds-cache-memory", strconv.FormatInt(budget, 10), "--osd-size", "8GiB"), harness.Limit(3*time.Hour))
	a, b := c.Mount(), c.Mount()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var topUsed, topRSS int64
	var allowed int64
	wg.Add(1)
	go func() {
		defer wg.Done()
		pid := c.Proc("mds.a").PID
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
			var st struct {
				Memory struct {
					Budget int64 `json:"budget_bytes"`
					Used   int64 `json:"used_bytes"`
				} `json:"memory"`
			}
			out, err := c.Run("daemon", "mds.a", "rank", "--json")
			if err != nil || json.Unmarshal([]byte(out), &st) != nil {
				continue
			}
			mu.Lock()
			allowed = st.Memory.Budget
			topUsed, topRSS = max(topUsed, st.Memory.Used), max(topRSS, resident(pid))
			mu.Unlock()
		}
	}()
	within := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%s: account at most %d of %d MiB (%d %%), resident at most %d of %d MiB (%d %%)", what,
			topUsed>>20, allowed>>20, topUsed*100/max(allowed, 1), topRSS>>20, budget>>20, topRSS*100/budget)
		if allowed == 0 || topUsed > allowed*11/10 || topRSS > budget*11/10 {
			t.Errorf("%s: over the budget", what)
		}
		topUsed, topRSS = 0, 0
	}
	var next atomic.Int64
	var makers errgroup.Group
	for k := range 4 {
		makers.Go(func() error {
			for {
				i := int(next.Add(1)-1) * perDir
				if i >= files {
					return nil
				}
				if err := fill(filepath.Join([]string{a, b}[k%2], fmt.Sprintf("d%04d", i/perDir)), min(perDir, files-i)); err != nil {
					return err
				}
			}
		})
	}
	must(t, makers.Wait())
	within("create")
	for round := range 2 {
		var walks sync.WaitGroup
		for _, m := range []string{a, b} {
			walks.Add(1)
			go func() {
				defer walks.Done()
				out, err := exec.Command("sh", "-c", "find '"+m+"' -type f -size 0 | wc -l").Output()
				if n := strings.TrimSpace(string(out)); err != nil || n != strconv.Itoa(files) {
					t.Errorf("find on %s: %s files, %v", m, n, err)
				}
			}()
		}
		walks.Wait()
		within(fmt.Sprintf("walk %d by two mounts", round+1))
	}
	close(stop)
	wg.Wait()
}

// fill makes a directory of n empty files.
func fill(dir string, n int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for j := range n {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("file-%d", j)))
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// resident is what a process has in memory, in bytes.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
