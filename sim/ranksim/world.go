package ranksim

import (
	"container/heap"
	"fmt"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Params are what is not the core's own. Times in ns.
type Params struct {
	Net     int64 // from a daemon's socket to another's
	Journal int64 // a journal write until it is durable
	Object  int64 // an operation of the object store
	Frame   int64 // what a message in or out, a journal write or an object operation costs the rank's shell in CPU
	Costs   *Costs
}

// Defaults are those of a cluster on one switch with flash. Frame is what the daemon costs beyond its core:
// docs/performance.md has where it comes from.
func Defaults() Params {
	return Params{Net: 30_000, Journal: 250_000, Object: 250_000, Frame: 40_000}
}

// World is n ranks over one store, and clients.
type World struct {
	p       Params
	now     int64
	seq     uint64
	queue   events
	store   store
	ranks   []*rank
	clients []*client
	fsmap   *clustermap.FSMap
	lines   map[[2]wire.Rank]bool // a session from the first to the second is open, or on its way
	err     error
}

// happening is something at a time; of one time, in the order in which it was planned.
type happening struct {
	at  int64
	seq uint64
	do  func()
}

type events []happening

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(happening)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = happening{}
	*e = old[:len(old)-1]
	return x
}

func (w *World) after(d int64, do func()) {
	w.seq++
	heap.Push(&w.queue, happening{w.now + d, w.seq, do})
}

// rank is a core with a processor of its own: it works off one event after the other.
type rank struct {
	w      *World
	n      wire.Rank
	core   *mds.Rank
	inst   wire.Instance
	inbox  []mds.Event
	busy   bool
	tick   int64 // the one that is planned, 0: none
	state  clustermap.RankState
	worked int64 // ns of its processor so far
	steps  int
}

// New is a world of n ranks, all active, with an empty tree.
func New(n int, p Params) (*World, error) {
	w := &World{p: p, now: 1e9, store: store{}, lines: map[[2]wire.Rank]bool{}}
	w.fsmap = (&clustermap.FSMap{Epoch: 5, MaxRanks: uint32(n), NextInoRange: uint64(n) + 1}).Clone()
	for i := range n {
		w.fsmap.Ranks[wire.Rank(i)] = clustermap.RankInfo{State: clustermap.RankActive, Created: true, InoRanges: []uint64{uint64(i) + 1}}
	}
	for i := range n {
		r := &rank{w: w, n: wire.Rank(i), inst: wire.Instance{Kind: wire.KindMDS, Num: uint32(i), Nonce: 1000 + uint64(i)}}
		r.core = mds.New(mds.Config{Rank: r.n, Instance: r.inst, Incarnation: 1, MetaPool: 1, DataPool: 2, Create: true, InoRanges: []uint64{uint64(i) + 1},
			Epoch: 5, CacheBytes: 16 << 30, MaxCaps: 1 << 30, LogLevel: mds.LogError, LingerNs: 200_000, SafeRideNs: 10_000_000})
		w.ranks = append(w.ranks, r)
		r.give(mds.Event{Kind: mds.Maps, FSMap: w.fsmap})
		r.give(mds.Event{Kind: mds.Start})
	}
	return w, w.until(60e9, "all ranks to be active", func() bool {
		for _, r := range w.ranks {
			if r.state != clustermap.RankActive {
				return false
			}
		}
		return true
	})
}

// until lets things happen until cond holds, for at most limit ns of virtual time.
func (w *World) until(limit int64, what string, cond func() bool) error {
	for end := w.now + limit; !cond(); {
		if w.err != nil {
			return w.err
		}
		if len(w.queue) == 0 || w.queue[0].at > end {
			return fmt.Errorf("ranksim: waited %d ms for %s", limit/1e6, what)
		}
		w.next()
	}
	return w.err
}

// run lets d ns pass.
func (w *World) run(d int64) error {
	for end := w.now + d; w.err == nil; w.next() {
		if len(w.queue) == 0 || w.queue[0].at > end {
			w.now = end
			break
		}
	}
	return w.err
}

func (w *World) next() {
	h := heap.Pop(&w.queue).(happening)
	w.now = h.at
	h.do()
}

// give puts an event into a rank's queue.
func (r *rank) give(ev mds.Event) {
	r.inbox = append(r.inbox, ev)
	if !r.busy {
		r.work()
	}
}

// work takes the next event: its effects are seen when it is over.
func (r *rank) work() {
	if len(r.inbox) == 0 || r.w.err != nil {
		return
	}
	ev := r.inbox[0]
	r.inbox = r.inbox[1:]
	r.busy = true
	w := r.w
	ev.Now, ev.Wall = w.now, wire.Time{Sec: w.now / 1e9, Nsec: uint32(w.now % 1e9)}
	c := class(&ev)
	began := w.p.Costs.begin()
	eff := r.core.Step(ev)
	cost := w.p.Costs.end(c, began)
	frames := len(eff.Sends) + len(eff.Peers) + len(eff.Journal) + len(eff.Objects)
	if ev.Kind == mds.FromSession || ev.Kind == mds.FromPeer {
		frames++
	}
	cost += int64(frames) * w.p.Frame
	out := keep(eff) // the core uses the slices again
	r.worked += cost
	r.steps++
	w.after(cost, func() {
		r.busy = false
		r.effects(&out)
		r.work()
	})
}

// keep copies what a step wants done.
func keep(e *mds.Effects) mds.Effects {
	out := *e
	out.Sends = append([]mds.Send(nil), e.Sends...)
	out.Peers = append([]mds.PeerSend(nil), e.Peers...)
	out.Objects = append([]mds.ObjectOp(nil), e.Objects...)
	out.Journal = nil
	for _, j := range e.Journal {
		out.Journal = append(out.Journal, mds.JournalWrite{Off: j.Off, Bytes: append([]byte(nil), j.Bytes...)})
	}
	return out
}

func (r *rank) effects(e *mds.Effects) {
	w := r.w
	if e.Exit != nil {
		w.err = fmt.Errorf("ranksim: rank %d ends: %w", r.n, e.Exit)
		return
	}
	r.state = e.State
	for _, j := range e.Journal {
		w.after(w.p.Journal, func() { r.journal(j) })
	}
	for _, o := range e.Objects {
		w.after(w.p.Object, func() { r.object(o) })
	}
	for _, s := range e.Sends {
		w.after(w.p.Net, func() { w.clients[s.To-1].hear(r.n, s.Msg) })
	}
	for _, p := range e.Peers {
		r.post(p)
	}
	if t := e.NextTick; t != 0 && (r.tick == 0 || t < r.tick) {
		r.tick = t
		w.after(max(0, t-w.now), func() {
			if r.tick == t {
				r.tick = 0
				r.give(mds.Event{Kind: mds.Tick})
			}
		})
	}
}

func (r *rank) journal(j mds.JournalWrite) {
	for _, p := range journal.Pieces(j.Off, len(j.Bytes)) {
		id := wire.ObjectID{Pool: 1, Name: journal.ObjectName(mds.JournalPrefix(r.n), p.Index)}
		op := []wire.ObjOp{{Kind: wire.ObjWrite, Off: uint64(p.Off), Len: uint64(p.Len), Data: j.Bytes[p.Skip : p.Skip+p.Len]}}
		if _, _, err := r.w.store.apply(id, op); err != nil {
			r.w.err = err
		}
	}
	r.give(mds.Event{Kind: mds.JournalDone, Off: j.Off})
}

func (r *rank) object(o mds.ObjectOp) {
	errno, res, err := r.w.store.apply(o.Obj, o.Ops)
	if err != nil {
		r.w.err = err
	}
	r.give(mds.Event{Kind: mds.ObjectDone, Token: o.Token, Errno: errno, Res: res})
}

// post sends to another rank. Without a session it is lost, and one is opened: both hear of it, and say
// again what matters.
func (r *rank) post(p mds.PeerSend) {
	w, to := r.w, r.w.ranks[p.To]
	line := [2]wire.Rank{r.n, p.To}
	open, known := w.lines[line]
	switch {
	case open:
		w.after(w.p.Net, func() {
			to.give(mds.Event{Kind: mds.FromPeer, Rank: r.n, Instance: r.inst, Msg: p.Msg})
		})
	case !known:
		w.lines[line] = false
		w.after(2*w.p.Net, func() {
			w.lines[line] = true
			r.give(mds.Event{Kind: mds.PeerUp, Rank: p.To})
			to.give(mds.Event{Kind: mds.PeerUp, Rank: r.n})
		})
	}
}
