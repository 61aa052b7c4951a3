package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// A trace of lock transitions and cap messages, switched on while somebody reads it. Switched
// off it costs a comparison with nil per transition and message. What is not read in time gives
// way and is counted.

// TraceEvent is one line of `capstan trace`. Fields that an event has not are left out.
type TraceEvent struct {
	Seq   uint64 `json:"seq"`
	Us    int64  `json:"us"`   // µs on the rank's clock; only differences mean anything
	Kind  string `json:"kind"` // lock, park, grant, revoke, revoke-again, trunc, range, update, release, lease-revoke, evict
	Ino   string `json:"ino"`
	Name  string `json:"name,omitempty"` // dentry locks, parked requests
	Lock  string `json:"lock,omitempty"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	For   string `json:"client,omitempty"`
	Host  string `json:"host,omitempty"`
	Caps  string `json:"caps,omitempty"`   // pending after a message to a client; retained by one from it
	Want  string `json:"wanted,omitempty"` // update
	Dirty string `json:"dirty,omitempty"`  // update
	Bits  uint32 `json:"cap_seq,omitempty"`
	What  string `json:"what,omitempty"` // park: the request and why

	ino wire.Ino
}

// maxTrace bounds what waits to be read.
const maxTrace = 65536

type tracer struct {
	ino     wire.Ino // 0: all
	seq     uint64   // of the next event
	events  []TraceEvent
	dropped uint64
}

// TraceOn begins a trace of one inode (and of dentries in it), or of all when name is empty. A
// trace that is on already gives way to it.
func (r *Rank) TraceOn(name string) error {
	t := &tracer{}
	if name != "" {
		in, err := r.find(name)
		if err != nil {
			return err
		}
		t.ino = in.rec.Ino
	}
	r.trace = t
	r.engine.Trace = r.traceLock
	return nil
}

// TraceOff ends it.
func (r *Rank) TraceOff() { r.trace, r.engine.Trace = nil, nil }

// TraceBatch is what has been traced since it was last asked for.
type TraceBatch struct {
	Events  []TraceEvent `json:"events"`
	Dropped uint64       `json:"dropped"` // since the trace began
	On      bool         `json:"on"`
}

// TraceRead takes up to max events out.
func (r *Rank) TraceRead(max int) TraceBatch {
	t := r.trace
	if t == nil {
		return TraceBatch{Events: []TraceEvent{}}
	}
	n := min(max, len(t.events))
	b := TraceBatch{Events: append([]TraceEvent{}, t.events[:n]...), Dropped: t.dropped, On: true}
	t.events = t.events[:copy(t.events, t.events[n:])]
	return b
}

func (r *Rank) traced(ev TraceEvent) {
	t := r.trace
	if t.ino != 0 && ev.ino != t.ino {
		return
	}
	ev.Seq, ev.Us, ev.Ino = t.seq, r.now/1000, ev.ino.String()
	t.seq++
	if len(t.events) >= maxTrace {
		t.dropped++
		return
	}
	t.events = append(t.events, ev)
}

func (r *Rank) traceLock(l *locker.Lock, from, to string) {
	k := l.Object().Key()
	r.traced(TraceEvent{Kind: "lock", ino: k.Ino, Name: k.Name, Lock: l.Type().String(), From: from, To: to})
}

var traceKinds = map[wire.CapOp]string{wire.CapGrantOp: "grant", wire.CapRevoke: "revoke", wire.CapTrunc: "trunc", wire.CapRange: "range"}

func (r *Rank) traceCap(s *session, rec *caps.Record, op wire.CapOp, again bool) {
	kind := traceKinds[op]
	if again {
		kind += "-again"
	}
	r.traced(TraceEvent{Kind: kind, ino: wire.Ino(rec.Ino), For: s.instance.String(), Host: s.place(), Caps: rec.Pending.String(), Bits: rec.Seq})
}

func (r *Rank) traceUpdate(s *session, m *wire.CapUpdate) {
	ev := TraceEvent{Kind: "update", ino: m.Ino, For: s.instance.String(), Host: s.place(), Caps: m.Retained.String(), Want: m.Wanted.String(), Bits: m.Seq}
	if m.Dirty != 0 {
		ev.Dirty = m.Dirty.String()
	}
	r.traced(ev)
}

func (r *Rank) tracePark(q *request, why string) {
	what := fmt.Sprintf("%v: %s", q, why)
	if l := q.set.WaitingOn(); l != nil && why == "lock" {
		what += fmt.Sprintf(" %v", l)
	}
	r.traced(TraceEvent{Kind: "park", ino: q.Ino, Name: q.Name, For: q.sess.instance.String(), Host: q.sess.place(), What: what})
}
