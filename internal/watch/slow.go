package watch

import (
	"sync"
	"time"
)

// Slow is an operation that took longer than the knob slow_op allows, and why.
type Slow struct {
	At    time.Time `json:"at"`    // when it ended
	What  string    `json:"what"`  // the operation and its object
	For   string    `json:"for"`   // who asked for it
	Ms    float64   `json:"ms"`    // from its arrival to its answer
	Stage string    `json:"stage"` // where most of that went; docs/seeing.md lists them
	Owner string    `json:"owner"` // whom it waited for there
}

// Ring keeps the newest Slows of one daemon. It is safe for use by any number of goroutines.
type Ring struct {
	mu    sync.Mutex
	ops   [256]Slow
	total uint64
}

// Add notes one; the oldest gives way.
func (r *Ring) Add(s Slow) {
	r.mu.Lock()
	r.ops[r.total%uint64(len(r.ops))] = s
	r.total++
	r.mu.Unlock()
}

// Report is a Ring's content for people and programs.
type Report struct {
	ThresholdMs float64 `json:"threshold_ms"` // 0: nothing is noted
	Total       uint64  `json:"total"`        // since the daemon's start
	Dropped     uint64  `json:"dropped"`      // of them no longer kept
	Ops         []Slow  `json:"ops"`          // the newest first
}

// Report reads the ring out.
func (r *Ring) Report(threshold time.Duration) Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.total, uint64(len(r.ops)))
	out := Report{ThresholdMs: float64(threshold.Microseconds()) / 1000, Total: r.total, Dropped: r.total - n, Ops: make([]Slow, 0, n)}
	for i := range n {
		out.Ops = append(out.Ops, r.ops[(r.total-1-i)%uint64(len(r.ops))])
	}
	return out
}

// Total counts what was ever noted.
func (r *Ring) Total() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// Since counts what ended after t and is still kept.
func (r *Ring) Since(t time.Time) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range min(r.total, uint64(len(r.ops))) {
		if r.ops[i].At.After(t) {
			n++
		}
	}
	return n
}
