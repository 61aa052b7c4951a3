package server

import (
	"encoding/json"
	"errors"

	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/mds"
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
			return fn(d.rank, args)
		}
	}
	reg.Register("rank", func(json.RawMessage) (any, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		st := map[string]any{"name": d.cfg.Name, "addr": d.self.Addr, "instance": d.self.Instance.String(), "rank": d.num,
			"state": d.state.String(), "lease_ms": (d.lease - now()) / 1e6, "shell": d.stats}
		if d.rank != nil {
			st["core"] = d.rank.Counts()
		}
		return st, nil
	})
	reg.Register("sessions", ask(func(r *mds.Rank, _ json.RawMessage) (any, error) { return r.DumpSessions(), nil }))
	reg.Register("caps", ask(func(r *mds.Rank, args json.RawMessage) (any, error) { return r.DumpCaps(word(args)) }))
	reg.Register("locks", ask(func(r *mds.Rank, args json.RawMessage) (any, error) { return r.DumpLocks(word(args)) }))
	reg.Register("why", ask(func(r *mds.Rank, _ json.RawMessage) (any, error) { return r.Why(), nil }))
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

// Why lists what waits in the rank, and for whom: for tests that would hang otherwise.
func (d *Daemon) Why() []mds.Wait {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rank == nil {
		return nil
	}
	return d.rank.Why()
}
