package mds

import (
	"strings"

	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/wire"
)

// Latency is how long requests took, by operation: from when the rank took one until its answer
// was made. Waits holds those that had to wait for something.
type Latency struct {
	Ops   [opKinds]watch.Hist
	Waits watch.Hist
}

// opKinds is more than there are operations.
const opKinds = 32

// SlowOp is a request that took longer than it may, and whom it waited for.
type SlowOp struct {
	What, For, Stage, Owner string
	TookNs                  int64
}

// slowNote is what was seen of a request while it was late: its owner is gone when it ends.
type slowNote struct {
	set          bool
	stage, owner string
}

// took notes that q is answered.
func (r *Rank) took(q *request) {
	if q.began == 0 {
		return
	}
	d := r.now - q.began
	q.began = 0
	if int(q.Op) < opKinds {
		r.latency.Ops[q.Op].Add(d)
	}
	if q.why == "" {
		return
	}
	r.latency.Waits.Add(d)
	if q.late.set {
		r.slow = append(r.slow, SlowOp{What: q.String(), For: r.nameOfSession(q.sess), Stage: q.late.stage, Owner: q.late.owner, TookNs: d})
	}
}

func (r *Rank) nameOfSession(s *session) string { return s.instance.String() + " " + s.place() }

// FindSlow looks for requests that have waited for longer than limit (ns) and notes why, once
// each; then it hands over those that have ended since. The shell calls it now and then: what
// is fast pays nothing for it. Who stands in the queue of a file lock is not among them: an
// application keeps that, for as long as it likes (`capstan locks` and `why` show the wait).
func (r *Rank) FindSlow(now, limit int64) []SlowOp {
	r.Clock(now)
	for _, s := range r.order {
		for _, q := range s.parked {
			if q.late.set || q.began == 0 || r.now-q.began < limit || r.flocking[q.set.Owner.Req] == q {
				continue
			}
			w := r.waitOf(q)
			var owners []string
			for _, on := range w.On {
				owners = append(owners, on.Text)
			}
			q.late = slowNote{true, w.Stage, strings.Join(owners, "; ")}
		}
	}
	list := r.slow
	r.slow = nil
	return list
}

// Latency shows the durations so far.
func (r *Rank) Latency() *Latency { return &r.latency }

// LockMoves counts lock transitions.
func (r *Rank) LockMoves() uint64 { return r.engine.Moves }

// Gauges are sizes of the present moment.
type Gauges struct {
	Inodes, Dentries, Caps, Leases, Parked, Asks, Ghosts int
	JournalBytes                                         uint64 // not yet trimmed
	Sessions                                             map[string]int
}

// Gauges counts what the rank has in memory.
func (r *Rank) Gauges() Gauges {
	g := Gauges{Inodes: len(r.inodes), Dentries: r.numDentries, Ghosts: len(r.ghosts), Sessions: map[string]int{}}
	for _, n := range sessionStates {
		g.Sessions[n] = 0
	}
	for _, s := range r.order {
		g.Caps += s.caps.Len()
		g.Leases += s.live.leases.n
		g.Parked += len(s.parked)
		g.Sessions[s.state.String()]++
	}
	for _, list := range [][]ask{r.first, r.second, r.silent} {
		for i := range list {
			if r.askOpen(&list[i]) {
				g.Asks++
			}
		}
	}
	if r.jw != nil && len(r.segs) > 0 {
		g.JournalBytes = uint64(r.jw.End() - r.segs[0].at.Pos)
	}
	return g
}

// OpName is the name of the operation that Latency.Ops[i] counts, "" for none.
func OpName(i int) string {
	if n := wire.Op(i).String(); i > 0 && n != "op?" {
		return n
	}
	return ""
}
