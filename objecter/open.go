package objecter

import (
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// OpenOp is an operation that no OSD has answered yet.
type OpenOp struct {
	Tid     uint64 `json:"tid"`
	Object  string `json:"object"`
	Pool    uint32 `json:"pool"`
	PG      string `json:"pg"`
	OSD     int32  `json:"osd"` // whom it is for; -1: the PG has none that is up
	Writes  bool   `json:"writes"`
	Sent    bool   `json:"sent"` // false: no connection, or refused and to be sent again
	SinceMs int64  `json:"since_ms"`
	Me      string `json:"client"` // the instance by which the OSD knows it
}

// Open lists up to max of the operations that are open, the oldest first.
func (o *Objecter) Open(max int) []OpenOp {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := []OpenOp{}
	now := time.Now()
	for q := o.head; q != nil && len(out) < max; q = q.next {
		x := OpenOp{Tid: uint64(q.tid), Object: q.obj.Name, Pool: q.obj.Pool, PG: q.pg.String(), OSD: int32(wire.NoOSD), Sent: q.sent,
			SinceMs: now.Sub(q.at).Milliseconds(), Me: o.cfg.Self.Instance.String()}
		for i := range q.ops {
			x.Writes = x.Writes || q.ops[i].Kind.Mutates()
		}
		if q.line != nil {
			x.OSD = int32(q.line.id)
		}
		out = append(out, x)
	}
	return out
}

// SlowOp is an operation that took longer than the limit of SetSlow.
type SlowOp struct {
	Object string
	PG     wire.PGID
	OSD    wire.OSDID // who answered
	Writes bool
	Resent bool
	Took   time.Duration
}

// SetSlow makes the objecter tell f of every operation that took longer than limit; 0: of none.
// f is called from a connection's goroutine and must not block.
func (o *Objecter) SetSlow(limit time.Duration, f func(SlowOp)) {
	o.mu.Lock()
	o.slowLimit, o.slow = limit, f
	o.mu.Unlock()
}

// ended notes how long q took; mu is held. It returns what is to be told, if anything.
func (o *Objecter) ended(q *op, l *line) (SlowOp, bool) {
	d := time.Since(q.at)
	o.stats.Took.Add(int64(d))
	if o.slow == nil || o.slowLimit == 0 || d < o.slowLimit {
		return SlowOp{}, false
	}
	s := SlowOp{Object: q.obj.Name, PG: q.pg, OSD: l.id, Resent: q.resent, Took: d}
	for i := range q.ops {
		s.Writes = s.Writes || q.ops[i].Kind.Mutates()
	}
	return s, true
}
