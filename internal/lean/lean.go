package lean

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

const (
	every    = 200 * time.Millisecond
	patience = 15 // idle turns before a processor is given back
	gcGrowth = 300
)

// Run fits the process until ctx ends; most is the largest number of processors, 0: all.
func Run(ctx context.Context, most int) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcGrowth) // live heaps are small, and most garbage is whole buffers
	}
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	if n := runtime.GOMAXPROCS(0); most <= 0 || most > n {
		most = n
	}
	g := governor{procs: 1, most: most}
	runtime.GOMAXPROCS(g.procs)
	go func() {
		t := time.NewTicker(every)
		defer t.Stop()
		at, cpu := time.Now(), cpuTime()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			now, used := time.Now(), cpuTime()
			if g.turn(float64(used-cpu) / float64(now.Sub(at))) {
				runtime.GOMAXPROCS(g.procs)
			}
			at, cpu = now, used
		}
	}()
}

// Memory lets the collector keep the process to so many bytes: rare collections while there is
// room, more of them near the limit. It is a soft limit: what is alive stays alive.
func Memory(limit int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// governor decides how many processors are in use.
type governor struct {
	procs, most int
	idle        int // turns in which one less would have done
}

// turn takes how many processors' time was used since the last one, and reports a change.
func (g *governor) turn(used float64) bool {
	if used > 0.8*float64(g.procs) && g.procs < g.most {
		g.procs, g.idle = min(2*g.procs, g.most), 0
		return true
	}
	if g.procs == 1 || used > 0.5*float64(g.procs/2) {
		g.idle = 0
		return false
	}
	if g.idle++; g.idle < patience {
		return false
	}
	g.procs, g.idle = g.procs/2, 0
	return true
}

func cpuTime() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
