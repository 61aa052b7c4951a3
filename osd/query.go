package osd

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// PGState is what `pg query` shows of a PG at one OSD. Waits names everything that somebody
// waits for, and whom (L1).
type PGState struct {
	PG          string              `json:"pg"`
	OSD         wire.OSDID          `json:"osd"`
	Role        string              `json:"role"`
	Interval    uint64              `json:"interval"`
	Active      bool                `json:"active"`
	InSync      []clustermap.Member `json:"in_sync"`
	Learners    []clustermap.Member `json:"learners,omitempty"`
	Primary     wire.OSDID          `json:"primary"`
	Tail        string              `json:"log_tail"`
	Last        string              `json:"log_last"`
	Durable     string              `json:"durable"`
	Committed   string              `json:"committed"`
	LeaseGiven  int64               `json:"lease_given_ms,omitempty"` // how long it still runs
	Uncommitted int                 `json:"uncommitted"`
	Parked      int                 `json:"parked_ops"`
	Objects     int                 `json:"objects"`
	Bytes       uint64              `json:"bytes"`           // of the store, that their data takes here
	PGNum       uint32              `json:"pg_num"`          // of the pool, that the PG is divided for here
	Missing     int                 `json:"missing_objects"` // here, or at a primary: in all that are being filled
	Filling     []Filling           `json:"filling,omitempty"`
	Healing     int                 `json:"healing_objects"`
	Healed      uint64              `json:"healed_objects"`
	Broken      int                 `json:"broken_objects"`         // no good copy is left, or nobody knows which is good
	BrokenNames []string            `json:"broken_names,omitempty"` // the first of these
	Scrub       ScrubSum            `json:"scrub"`
	Waits       []string            `json:"waits,omitempty"`
}

// Filling is a learner as its primary sees it.
type Filling struct {
	OSD     wire.OSDID `json:"osd"`
	How     string     `json:"how"`             // log, copy; empty: not begun
	Missing uint64     `json:"missing_objects"` // of which some may turn out to be there
}

// filling says how far learners are. By copy, names that were not compared yet count as missing.
func (p *pg) filling() (out []Filling) {
	for _, q := range p.peers {
		if !q.learner || q == p.pending {
			continue
		}
		f := Filling{OSD: q.m.ID, Missing: q.missing}
		switch {
		case !q.confirmed:
			f.Missing = uint64(p.o.store.Count(p.id))
		case q.byLog:
			f.How = "log"
		default:
			f.How = "copy"
			if n := p.o.store.Count(p.id) - q.listed; n > 0 && !q.copied {
				f.Missing += uint64(n)
			}
		}
		out = append(out, f)
	}
	return out
}

// Query reports all PGs, in order.
func (o *OSD) Query(now int64) []PGState {
	o.now = max(o.now, now)
	out := make([]PGState, 0, len(o.order))
	for _, p := range o.order {
		out = append(out, p.state())
	}
	return out
}

func (p *pg) state() PGState {
	o := p.o
	s := PGState{PG: p.id.String(), OSD: o.cfg.ID, Role: p.role.String(), Interval: p.interval, Active: p.active, InSync: p.cfg.InSync,
		Learners: p.cfg.Learners, Primary: p.cfg.Primary, Tail: p.tail.String(), Last: p.last.String(), Durable: p.durable.String(),
		Committed: p.committed.String(), Uncommitted: len(p.log) - p.after(p.committed), Missing: len(p.learn.missing), Healing: len(p.healing), Healed: p.healed, Scrub: p.scrubbed}
	s.Objects, s.Bytes, s.PGNum = o.store.Count(p.id), o.store.Bytes(p.id), p.pgNum
	s.Broken, s.BrokenNames = p.brokenNames()
	if p.primary() {
		s.Filling = p.filling()
		for _, f := range s.Filling {
			s.Missing += int(f.Missing)
		}
	}
	if left := p.leaseUntil - o.now; left > 0 {
		s.LeaseGiven = left / 1e6
	}
	wait := func(f string, a ...any) { s.Waits = append(s.Waits, fmt.Sprintf(f, a...)) }
	for _, ob := range p.parked {
		s.Parked += len(ob.queue)
		if len(ob.queue) > 0 {
			wait("object %q: %d ops of %v wait for %s", ob.name, len(ob.queue), ob.queue[0].inst, ob.queue[0].why)
		}
	}
	s.Parked += len(p.waitActive) + len(p.waitMin)
	switch p.role {
	case roleMember, roleLearner:
		if p.cfg.Primary == wire.NoOSD {
			wait("no member is up to be primary: monitors")
		}
		if p.role == roleLearner && !p.learn.started {
			wait("osd.%d to start the copy", p.cfg.Primary)
		} else if len(p.learn.missing) > 0 && o.copyRoom() == 0 {
			wait("room on osd.%d for %d objects of osd.%d", o.cfg.ID, len(p.learn.missing), p.cfg.Primary)
		} else if len(p.learn.missing) > 0 {
			wait("%d objects of osd.%d", len(p.learn.missing), p.cfg.Primary)
		}
		return s
	case roleNone:
		return s
	}
	if !p.active {
		for _, q := range p.peers {
			if !q.learner && !q.confirmed {
				up := "up"
				if !o.m.OSDs[q.m.ID].Up {
					up = "down"
				}
				wait("osd.%d (%s) to reconcile to %v", q.m.ID, up, p.last)
			}
		}
		if s.LeaseGiven > 0 {
			wait("the lease given to %v to run out in %d ms", p.leaseTo, s.LeaseGiven)
		}
	}
	if n := p.minSize(); len(p.cfg.InSync) < n {
		wait("min_size: %d of %d members in sync, %d writes wait", len(p.cfg.InSync), n, len(p.waitMin))
	}
	for _, q := range p.peers {
		if p.active && (!q.learner || q == p.pending) && q.acked.Less(p.last) {
			wait("osd.%d to acknowledge (%v, last is %v)", q.m.ID, q.acked, p.last)
		}
		if p.active && (!q.learner || q == p.pending) && q.leaseUntil <= o.now && len(p.parked) > 0 {
			wait("osd.%d to grant a lease", q.m.ID)
		}
	}
	if p.pending != nil {
		wait("monitors to add osd.%d", p.pending.m.ID)
	}
	slices.Sort(s.Waits)
	return s
}
