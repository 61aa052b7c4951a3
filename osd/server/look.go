package server

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store"
	"github.com/capstan-fs/capstan/wire"
)

// Register adds the daemon's commands to the registry behind its admin socket.
func (d *Daemon) Register(reg *admin.Registry) {
	reg.Register("pgs", func(json.RawMessage) (any, error) { return d.Query(), nil })
	reg.Register("ops", func(json.RawMessage) (any, error) { return d.Ops(), nil })
	reg.Register("stats", func(json.RawMessage) (any, error) { return d.Stats(), nil })
	reg.Register("perf", func(json.RawMessage) (any, error) { return d.Perf(), nil })
	reg.Register("store", func(json.RawMessage) (any, error) { return d.StoreState(), nil })
	reg.Register("slow", func(json.RawMessage) (any, error) { return d.slow.Report(d.cfg.Slow), nil })
}

// StoreState is what `capstan daemon osd.N store` shows.
type StoreState struct {
	Dir      string         `json:"dir"`
	Total    uint64         `json:"total_bytes"` // of the block file, or as many as its host has room for
	Used     uint64         `json:"used_bytes"`
	HostFull bool           `json:"host_full"` // writes wait: the host's file system has no room
	Counters store.Counters `json:"counters"`
}

// StoreState looks at the store.
func (d *Daemon) StoreState() StoreState {
	x := StoreState{Dir: d.cfg.Dir}
	x.Total, x.Used = d.store.Space()
	if s, ok := d.store.(*store.Store); ok {
		x.Counters, x.HostFull = s.Counters(), time.Since(s.HostFull()) < 2*time.Second
	}
	return x
}

// hostWatch says in the log that writes wait for room on the host's disk, and that they do no more.
type hostWatch struct{ full bool }

func (w *hostWatch) look(d *Daemon) {
	s, ok := d.store.(*store.Store)
	if !ok {
		return
	}
	full := time.Since(s.HostFull()) < 2*time.Second
	switch {
	case full && !w.full:
		d.log.Error().Str("dir", d.cfg.Dir).Msg("no space left on device: writes wait until the host's file system has room again")
	case w.full && !full:
		d.log.Info().Str("dir", d.cfg.Dir).Msg("the host's file system has room again")
	}
	w.full = full
}

// Ops lists the operations under way.
func (d *Daemon) Ops() []osd.OpState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.core.Ops(now(), 1000)
}

// late logs and keeps a slow operation.
func (d *Daemon) late(s *osd.SlowOp) {
	x := watch.Slow{At: time.Now(), What: s.What, For: s.For, Ms: float64(s.TookNs) / 1e6, Stage: s.Stage, Owner: s.Owner}
	d.slow.Add(x)
	d.log.Warn().Str("op", x.What).Str("for", x.For).Float64("ms", x.Ms).Str("stage", x.Stage).Str("owner", x.Owner).Msg("slow operation")
}

// Metrics is everything that /metrics shows of this daemon, at one moment.
type Metrics struct {
	Stats       osd.Stats
	Latency     osd.Latency
	PGs         map[string]int
	Epoch       wire.Epoch
	Total, Used uint64
	Missing     int // objects that learners here still lack
	InFlight    int // operations under way
	Store       store.Counters
	Slow        uint64
}

// Metrics reads the counters.
func (d *Daemon) Metrics() (m Metrics) {
	m.Total, m.Used = d.store.Space()
	m.Slow = d.slow.Total()
	if s, ok := d.store.(*store.Store); ok {
		m.Store = s.Counters()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m.Stats, m.Latency, m.PGs, m.Epoch = d.core.Stats(), *d.core.Latency(), d.core.PGCounts(), d.core.Epoch()
	m.Missing = d.core.Missing()
	m.InFlight = d.core.InFlight()
	return m
}

// Perf is one row of `capstan osd perf`. Times are upper bounds of their share of all operations
// since the start, within a factor of two.
type Perf struct {
	OSD      string  `json:"osd"`
	Ops      uint64  `json:"ops"`
	InFlight int     `json:"in_flight"`
	Read50   float64 `json:"read_p50_ms"`
	Read99   float64 `json:"read_p99_ms"`
	Write50  float64 `json:"write_p50_ms"`
	Write99  float64 `json:"write_p99_ms"`
	Sync50   float64 `json:"commit_p50_ms"`
	Sync99   float64 `json:"commit_p99_ms"`
	Slow     uint64  `json:"slow_ops"`
}

// Perf sums up how fast this OSD is.
func (d *Daemon) Perf() Perf {
	m := d.Metrics()
	ms := func(h *watch.Hist, q float64) float64 { return float64(h.Quantile(q)) / 1e6 }
	return Perf{OSD: fmt.Sprintf("osd.%d", d.cfg.ID), Ops: m.Stats.Ops, InFlight: m.InFlight, Read50: ms(&m.Latency.Reads, 0.5), Read99: ms(&m.Latency.Reads, 0.99),
		Write50: ms(&m.Latency.Writes, 0.5), Write99: ms(&m.Latency.Writes, 0.99), Sync50: ms(&m.Store.CommitTook, 0.5), Sync99: ms(&m.Store.CommitTook, 0.99), Slow: m.Slow}
}
