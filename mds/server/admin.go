package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/objecter"
)

// Register adds the daemon's commands to the registry behind its admin socket.
func (d *Daemon) Register(reg *admin.Registry) {
	ask := func(fn func(r *mds.Rank, args json.RawMessage) (any, error)) admin.Func {
		return func(args json.RawMessage) (any, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.rank == nil {
				return nil, errors.New("this daemon has no rank")
			}
			d.rank.Clock(now())
			return fn(d.rank, args)
		}
	}
	reg.Register("rank", func(json.RawMessage) (any, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		st := map[string]any{"name": d.cfg.Name, "addr": d.self.Addr, "instance": d.self.Instance.String(), "rank": d.num,
			"state": d.state.String(), "lease_ms": (d.lease.Load() - now()) / 1e6, "shell": d.stats}
		if d.rank != nil {
			st["core"] = d.rank.Counts()
			st["memory"] = d.rank.Memory()
		}
		return st, nil
	})
	reg.Register("subtrees", ask(func(r *mds.Rank, _ json.RawMessage) (any, error) { return r.Subtrees(), nil }))
	reg.Register("sessions", ask(func(r *mds.Rank, _ json.RawMessage) (any, error) { return r.DumpSessions(), nil }))
	reg.Register("caps", ask(func(r *mds.Rank, args json.RawMessage) (any, error) { return r.DumpCaps(word(args)) }))
	reg.Register("locks", ask(func(r *mds.Rank, args json.RawMessage) (any, error) { return r.DumpLocks(word(args)) }))
	reg.Register("why", ask(func(r *mds.Rank, args json.RawMessage) (any, error) { return d.waits(word(args)) }))
	reg.Register("trace-on", ask(func(r *mds.Rank, args json.RawMessage) (any, error) {
		if err := r.TraceOn(word(args)); err != nil {
			return nil, err
		}
		d.traceRead = time.Now()
		return r.TraceRead(0), nil
	}))
	reg.Register("trace-read", ask(func(r *mds.Rank, _ json.RawMessage) (any, error) {
		d.traceRead = time.Now()
		return r.TraceRead(4096), nil
	}))
	reg.Register("trace-off", ask(func(r *mds.Rank, _ json.RawMessage) (any, error) {
		b := r.TraceRead(1 << 20)
		r.TraceOff()
		return b, nil
	}))
	reg.Register("objects", func(json.RawMessage) (any, error) { return d.obj.Open(1000), nil })
	reg.Register("slow", func(json.RawMessage) (any, error) { return d.slow.Report(d.cfg.Slow), nil })
}

// word is the first argument: a JSON string, an array of them, or nothing.
func word(args json.RawMessage) string {
	var s string
	if json.Unmarshal(args, &s) == nil {
		return s
	}
	var l []string
	if json.Unmarshal(args, &l) == nil && len(l) > 0 {
		return l[0]
	}
	return ""
}

// Waits is what waits in a rank, and what the rank itself waits for.
type Waits struct {
	Daemon  string            `json:"daemon"`
	Rank    int32             `json:"rank"`
	State   string            `json:"state"`
	LeaseMs int64             `json:"lease_ms"` // of the rank itself, by its beacons; not positive: it may not answer
	Held    int               `json:"held"`     // messages that wait for that lease
	Journal mds.JournalInfo   `json:"journal"`
	Objects []objecter.OpenOp `json:"objects"` // operations that OSDs have not answered
	Waits   []mds.Wait        `json:"waits"`
}

// waits is called with mu held and a rank.
func (d *Daemon) waits(name string) (w Waits, err error) {
	w = Waits{Daemon: "mds." + d.cfg.Name, Rank: int32(d.num), State: d.state.String(), LeaseMs: (d.lease.Load() - now()) / 1e6, Held: len(d.held),
		Journal: d.rank.Journal(), Objects: d.obj.Open(1000)}
	if name == "" {
		w.Waits = d.rank.Why()
	} else {
		w.Waits, err = d.rank.WhyOf(name)
	}
	return w, err
}

// Why lists what waits in the rank, and for whom: for tests that would hang otherwise.
func (d *Daemon) Why() []mds.Wait {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rank == nil {
		return nil
	}
	return d.rank.Why()
}

// Metrics is everything that /metrics shows of this daemon, at one moment.
type Metrics struct {
	State   string
	Rank    int32
	LeaseMs int64
	Held    int
	Shell   Stats
	Counts  mds.Counts
	Gauges  mds.Gauges
	Latency mds.Latency
	Journal watch.Hist // from handing a run out to its being durable
	Moves   uint64     // lock transitions
	Objects objecter.Stats
	Slow    uint64
}

// Metrics reads the counters.
func (d *Daemon) Metrics() (m Metrics) {
	m.Objects, m.Slow = d.obj.Stats(), d.slow.Total()
	d.mu.Lock()
	defer d.mu.Unlock()
	m.State, m.Rank, m.Held, m.Shell = d.state.String(), int32(d.num), len(d.held), d.stats
	m.LeaseMs, m.Journal = (d.lease.Load()-now())/1e6, d.journalTook
	if d.rank != nil {
		m.Counts, m.Gauges, m.Latency, m.Moves = d.rank.Counts(), d.rank.Gauges(), *d.rank.Latency(), d.rank.LockMoves()
	}
	return m
}

// slowLoop looks for requests that wait for longer than the knob slow_op allows, and logs those
// that have ended.
func (d *Daemon) slowLoop() {
	defer d.wg.Done()
	if d.cfg.Slow <= 0 {
		return
	}
	d.obj.SetSlow(d.cfg.Slow, func(s objecter.SlowOp) {
		what := "read"
		if s.Writes {
			what = "write"
		}
		d.late(watch.Slow{What: fmt.Sprintf("%s of object %q in pg %v", what, s.Object, s.PG), For: "mds." + d.cfg.Name, Ms: float64(s.Took.Microseconds()) / 1000,
			Stage: "osd", Owner: fmt.Sprintf("osd.%d", s.OSD)})
	})
	t := time.NewTicker(max(d.cfg.Slow/4, 20*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-d.ctx.Done():
			return
		}
		d.mu.Lock()
		var list []mds.SlowOp
		if d.rank != nil && !d.ended {
			list = d.rank.FindSlow(now(), int64(d.cfg.Slow))
			if !d.traceRead.IsZero() && time.Since(d.traceRead) > traceLimit {
				d.rank.TraceOff() // whoever read it has gone
				d.traceRead = time.Time{}
			}
		}
		d.mu.Unlock()
		for _, s := range list {
			d.late(watch.Slow{What: s.What, For: s.For, Ms: float64(s.TookNs) / 1e6, Stage: s.Stage, Owner: s.Owner})
		}
	}
}

// traceLimit is how long a trace stays on that nobody reads.
const traceLimit = 15 * time.Second

func (d *Daemon) late(s watch.Slow) {
	s.At = time.Now()
	d.slow.Add(s)
	d.log.Warn().Str("op", s.What).Str("for", s.For).Float64("ms", s.Ms).Str("stage", s.Stage).Str("owner", s.Owner).Msg("slow operation")
}
