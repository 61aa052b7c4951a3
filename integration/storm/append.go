package storm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Appends has workers on every mount append records of odd length to one file through
// O_APPEND handles, then reads it through every mount: each record stands there exactly
// once, whole, and those of one worker in its order.
func Appends(ctx context.Context, cfg Config, workersPerMount int) (records int, err error) {
	file := fmt.Sprintf("appends-%d", cfg.Seed)
	if err := os.WriteFile(filepath.Join(cfg.Dirs[0], file), nil, 0o644); err != nil {
		return 0, err
	}
	end := time.Now().Add(cfg.Duration)
	workers := workersPerMount * len(cfg.Dirs)
	wrote := make([]int, workers)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f, err := os.OpenFile(filepath.Join(cfg.Dirs[w%len(cfg.Dirs)], file), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				errs[w] = err
				return
			}
			defer f.Close()
			for ctx.Err() == nil && (cfg.Steps > 0 && wrote[w] < cfg.Steps || cfg.Steps == 0 && time.Now().Before(end)) {
				done := cfg.watch("append")
				_, err := f.WriteString(record(w, wrote[w]))
				if late := done(); err == nil {
					err = late
				}
				if err != nil {
					errs[w] = err
					return
				}
				wrote[w]++
			}
		}()
	}
	wg.Wait()
	for w, e := range errs {
		if e != nil {
			return 0, fmt.Errorf("seed %d, worker %d: %w", cfg.Seed, w, e)
		}
		records += wrote[w]
	}
	for side := range cfg.Dirs {
		b, err := os.ReadFile(filepath.Join(cfg.Dirs[side], file))
		if err != nil {
			return records, err
		}
		if err := checkAppends(b, wrote); err != nil {
			return records, fmt.Errorf("seed %d, read on mount %d: %w", cfg.Seed, side, err)
		}
	}
	return records, os.Remove(filepath.Join(cfg.Dirs[0], file))
}

func record(worker, n int) string {
	return fmt.Sprintf("%d:%d:%s\n", worker, n, strings.Repeat(string(rune('a'+worker)), 3+(n*37)%211))
}

func checkAppends(b []byte, wrote []int) error {
	seen := make([]int, len(wrote))
	for i, line := range bytes.SplitAfter(b, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var w, n int
		if _, err := fmt.Sscanf(string(line), "%d:%d:", &w, &n); err != nil || w < 0 || w >= len(wrote) || record(w, n) != string(line) {
			return fmt.Errorf("line %d is torn: %q", i, line[:min(len(line), 80)])
		}
		if n != seen[w] {
			return fmt.Errorf("worker %d: record %d follows %d: lost or out of order", w, n, seen[w]-1)
		}
		seen[w]++
	}
	for w := range wrote {
		if seen[w] != wrote[w] {
			return fmt.Errorf("worker %d wrote %d records, %d are there", w, wrote[w], seen[w])
		}
	}
	return nil
}
