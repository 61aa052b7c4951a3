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
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// TestLongWalkHoldsTheBudget makes a tree through one mount and walks it with find -size (a stat
// per file) through two, while the rank's account and the process's resident memory are
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
	for i := 0; i < files; i += perDir {
		d := filepath.Join(a, fmt.Sprintf("d%04d", i/perDir))
		must(t, os.Mkdir(d, 0o755))
		for j := range min(perDir, files-i) {
			f, err := os.Create(filepath.Join(d, fmt.Sprintf("file-%d", j)))
			must(t, err)
			must(t, f.Close())
		}
	}
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
