package client

import (
	"fmt"
	"sync"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// Whoever sleeps in here is listed with what it sleeps for, so that `capstan why` can name the
// owner of the wait of a process. What is answered without sleeping pays nothing for it.

// waitKind is what somebody waits for.
type waitKind uint8

const (
	waitLocal   waitKind = iota // something of this mount: another operation on the same inode
	waitRequest                 // the rank's answer to a request
	waitCaps                    // caps that the rank must grant
	waitRange                   // a write range that the rank must grow
	waitSafe                    // the rank's journal
	waitObjects                 // the OSDs
	waitTurn                    // an append of this mount that comes first
	waitKernel                  // an invalidation that the kernel has not finished
	numWaitKinds
)

var waitNames = [numWaitKinds]string{"local", "request", "caps", "range", "safe", "osd", "turn", "kernel"}

// reason qualifies it.
type reason struct {
	kind waitKind
	rank wire.Rank
	ino  wire.Ino
	bits caps.Bits
	call *call
}

// sleeper is one that sleeps now.
type sleeper struct {
	k          Caller
	why        reason
	since      time.Time
	prev, next *sleeper
}

// sleepers is the list of them and how long they slept.
type sleepers struct {
	mu    sync.Mutex
	head  sleeper // of a ring
	free  *sleeper
	took  [numWaitKinds]watch.Hist
	limit time.Duration
	late  watch.Ring
}

func (s *sleepers) init() { s.head.prev, s.head.next = &s.head, &s.head }

// lie down: k sleeps from now on, for k.why.
func (c *Client) lieDown(k *Caller) *sleeper {
	s := &c.sleepers
	now := time.Now()
	s.mu.Lock()
	w := s.free
	if w == nil {
		w = &sleeper{}
	} else {
		s.free = w.next
	}
	*w = sleeper{k: Caller{PID: k.PID, Op: k.Op, Ino: k.Ino}, why: k.why, since: now, prev: s.head.prev, next: &s.head}
	w.prev.next, w.next.prev = w, w
	s.mu.Unlock()
	return w
}

// getUp ends it.
func (c *Client) getUp(k *Caller, w *sleeper) {
	s := &c.sleepers
	d := time.Since(w.since)
	s.mu.Lock()
	w.prev.next, w.next.prev = w.next, w.prev
	s.took[w.why.kind].Add(int64(d))
	slow := s.limit > 0 && d >= s.limit && !w.why.ofFileLock()
	why, op, owner := w.why, w.k, ""
	if slow {
		owner = why.owner()
	}
	*w = sleeper{next: s.free}
	s.free = w
	s.mu.Unlock()
	k.why = reason{}
	if slow {
		c.tellLate(op, why, owner, d)
	}
}

func (c *Client) tellLate(k Caller, why reason, owner string, d time.Duration) {
	x := watch.Slow{At: time.Now(), What: fmt.Sprintf("%s of ino %v", k.opName(), k.Ino), For: fmt.Sprintf("pid %d", k.PID), Ms: float64(d.Microseconds()) / 1000,
		Stage: waitNames[why.kind], Owner: owner}
	c.sleepers.late.Add(x)
	c.log.Warn().Str("op", x.What).Str("for", x.For).Float64("ms", x.Ms).Str("stage", x.Stage).Str("owner", x.Owner).Msg("slow operation")
}

func (k *Caller) opName() string {
	if k.Op == "" {
		return "operation"
	}
	return k.Op
}

// ofFileLock reports whether it waits for applications, who keep a file lock as long as they like: that
// is not slow.
func (w reason) ofFileLock() bool {
	return w.kind == waitRequest && w.call != nil && w.call.req.Op == wire.OpSetlk && w.call.req.Lock.Wait
}

func (w reason) owner() string {
	switch w.kind {
	case waitRequest:
		return fmt.Sprintf("mds rank %d: %v tid %d ino %v %q", w.call.s.num, w.call.req.Op, w.call.req.Tid&^wire.ReadTid, w.call.req.Ino, w.call.req.Name)
	case waitCaps:
		return fmt.Sprintf("mds rank %d, to grant %v of ino %v", w.rank, w.bits, w.ino)
	case waitRange:
		return fmt.Sprintf("mds rank %d, to let ino %v be written further", w.rank, w.ino)
	case waitSafe:
		return fmt.Sprintf("mds rank %d, to have its journal on disk", w.rank)
	case waitObjects:
		return fmt.Sprintf("the OSDs: objects of ino %v", w.ino)
	case waitTurn:
		return fmt.Sprintf("an append of this mount to ino %v that came first", w.ino)
	case waitKernel:
		return fmt.Sprintf("this host's kernel, to drop its pages of ino %v", w.ino)
	}
	return "another operation of this mount on the same inode"
}

// Waiting is one operation that sleeps in a mount.
type Waiting struct {
	PID     uint32 `json:"pid"` // thread that made the system call; 0: this mount itself
	Op      string `json:"op"`  // FUSE request
	Ino     string `json:"ino"`
	SinceMs int64  `json:"since_ms"`
	For     string `json:"for"`           // request, caps, range, safe, osd, turn, kernel, local
	On      string `json:"on"`            // the same in words
	On2     string `json:"on_ino"`        // inode that the wait is about
	Tid     uint64 `json:"tid,omitempty"` // request
	Bits    string `json:"caps,omitempty"`
}

// Giving is a revoke that the mount is working off.
type Giving struct {
	Ino     string `json:"ino"`
	Caps    string `json:"caps"`
	SinceMs int64  `json:"since_ms"`
	Writes  int    `json:"writes"` // under way, which must end first
	Reads   int    `json:"reads"`
	Parked  int    `json:"parked"` // writers that wait for caps and may own pages
	On      string `json:"on"`
}

// SessionReport is one session of a mount.
type SessionReport struct {
	Rank    int32  `json:"rank"`
	State   string `json:"session"` // none, opening, reconnecting, open
	With    string `json:"with"`    // instance
	ValidMs int64  `json:"valid_ms"`
	Kept    int    `json:"kept"` // requests and flushes that are not safe yet
}

// Report is everything that waits in a mount. Session, Rank and ValidMs are those of rank 0.
type Report struct {
	Client   string            `json:"client"`  // instance, as the rank and the OSDs know it
	Session  string            `json:"session"` // none, opening, reconnecting, open
	Rank     string            `json:"rank"`    // instance it is with
	ValidMs  int64             `json:"valid_ms"`
	Sessions []SessionReport   `json:"sessions"` // of each rank, 0 included
	Waits    []Waiting         `json:"waits"`
	Giving   []Giving          `json:"giving"`
	Objects  []objecter.OpenOp `json:"objects"`
}

var sessNames = [...]string{sessNone: "none", sessOpening: "opening", sessReconnecting: "reconnecting", sessOpen: "open"}

// Waits reports what waits.
func (c *Client) Waits() Report {
	r := Report{Waits: []Waiting{}, Giving: []Giving{}, Objects: []objecter.OpenOp{}}
	now := time.Now()
	s := &c.sleepers
	s.mu.Lock()
	for w := s.head.next; w != &s.head; w = w.next {
		x := Waiting{PID: w.k.PID, Op: w.k.opName(), Ino: w.k.Ino.String(), SinceMs: now.Sub(w.since).Milliseconds(), For: waitNames[w.why.kind], On: w.why.owner()}
		if w.why.ino != 0 {
			x.On2 = w.why.ino.String()
		}
		if w.why.call != nil {
			x.Tid, x.On2 = uint64(w.why.call.req.Tid), w.why.call.req.Ino.String()
		}
		if w.why.bits != 0 {
			x.Bits = w.why.bits.String()
		}
		r.Waits = append(r.Waits, x)
	}
	s.mu.Unlock()
	c.mu.Lock()
	r.Client, r.Session, r.Rank, r.ValidMs = c.inst.String(), sessNames[c.rank0.state], c.rank0.rank.String(), (c.rank0.valid-c.now())/1e6
	for _, s := range c.sessions {
		r.Sessions = append(r.Sessions, SessionReport{Rank: int32(s.num), State: sessNames[s.state], With: s.rank.String(), ValidMs: (s.valid - c.now()) / 1e6, Kept: len(s.kept)})
	}
	for _, in := range c.inodes {
		if !in.cap.job {
			continue
		}
		g := Giving{Ino: in.ino.String(), Caps: (in.cap.implemented &^ in.cap.pending).String(), SinceMs: now.Sub(in.jobAt).Milliseconds(),
			Writes: in.nwr, Reads: in.nrd, Parked: in.parked}
		switch {
		case in.nwr > 0 || in.nrd > 0:
			g.On = fmt.Sprintf("the OSDs: %d writes and %d reads of ino %v are under way", in.nwr, in.nrd, in.ino)
		default:
			g.On = fmt.Sprintf("this host's kernel, to drop its pages of ino %v, or data to be written back", in.ino)
		}
		r.Giving = append(r.Giving, g)
	}
	o := c.objects
	c.mu.Unlock()
	if x, ok := o.(interface{ Open(int) []objecter.OpenOp }); ok {
		r.Objects = x.Open(1000)
	}
	return r
}

// SetSlow makes the client log and keep waits that take longer than limit; 0: none.
func (c *Client) SetSlow(limit time.Duration) {
	c.sleepers.mu.Lock()
	c.sleepers.limit = limit
	c.sleepers.mu.Unlock()
}

// Slow is what it kept.
func (c *Client) Slow() watch.Report {
	c.sleepers.mu.Lock()
	limit := c.sleepers.limit
	c.sleepers.mu.Unlock()
	return c.sleepers.late.Report(limit)
}

// Metrics is what /metrics shows of a client, at one moment.
type Metrics struct {
	Waits               map[string]watch.Hist // by what was waited for
	Inodes, Open, Dirty int
	Kept                int // requests and flushes that are not safe yet
	Revoking            int
	ValidMs             int64
	Lives               uint64 // of the session: more than 1 after an eviction
	Slow                uint64
	Objects             objecter.Stats
}

// Metrics reads the counters.
func (c *Client) Metrics() Metrics {
	m := Metrics{Waits: map[string]watch.Hist{}, Slow: c.sleepers.late.Total()}
	c.sleepers.mu.Lock()
	for i, h := range c.sleepers.took {
		m.Waits[waitNames[i]] = h
	}
	c.sleepers.mu.Unlock()
	c.mu.Lock()
	m.Inodes, m.ValidMs, m.Lives = len(c.inodes), (c.rank0.valid-c.now())/1e6, c.gen
	for _, s := range c.sessions {
		m.Kept += len(s.kept)
	}
	for _, in := range c.inodes {
		if in.opens != (opens{}) {
			m.Open++
		}
		if in.dirty {
			m.Dirty++
		}
		if in.cap.job {
			m.Revoking++
		}
	}
	o := c.objects
	c.mu.Unlock()
	if x, ok := o.(interface{ Stats() objecter.Stats }); ok {
		m.Objects = x.Stats()
	}
	return m
}
