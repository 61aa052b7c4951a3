package osdsim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// Options of a run. Everything else is drawn from Seed, the class of faults too.
type Options struct {
	Seed      uint64
	Class     string // of classes; "": Seed decides
	Faults    osd.Fault
	MonFaults MonFault
	Balance   bool // the monitors' balancer is on, in a cluster of more OSDs and PGs (balance.go)
	Verbose   func(format string, args ...any)
	Result    *Result // filled in when not nil
}

// Result is what a run did.
type Result struct {
	Class                     string
	Runs, Ops, Changes, Lives int
	Cuts, CutCrashes, Lost    int
	Rot, Healed, EIO, ByLog   int
	RotPairs                  int // of omaps
	MemberReads               int // answered by members that are not the primary
	Fetched, FetchedBad       int // reads whose bytes came later; were rotten then
	Gone, Revived, Splits     int
	Unjudged                  int // objects whose history was too long for the search (linear.go)
	Virtual                   int64
	Moves                     int     // PGs that the balancer moved
	Off                       float64 // how far from its share an OSD was at the end
}

const (
	ms     = int64(1e6)
	second = int64(1e9)
)

// World is one run.
type World struct {
	opt     Options
	rng     *rand.Rand
	fate    *rand.Rand // of what rots
	now     int64
	seq     uint64
	queue   events
	mon     *Mon
	nodes   []*node
	clients []*client
	cut     map[[2]int]bool // messages from a to b are lost; the monitors are number -1
	healed  bool
	err     error
	nonce   uint64

	history  []*record
	barrier  map[wire.PGID]wire.Epoch // I6: highest barrier of an answered op
	versions map[tidKey]wire.Version  // I5: of answered writes
	fenced   map[versionKey]string    // I6: entries that may never be committed
	rotted   map[rotKey]wire.Version
	changes  int

	plan
	born  map[wire.PGID]birth        // of PGs that came out of others
	watch map[wire.PGID]wire.Version // I1: the newest version that a primary committed
	lost  bool                       // a disk loss that nobody can be blamed for
	res   Result
}

type tidKey struct {
	inst wire.Instance
	tid  wire.Tid
}

type versionKey struct {
	pg wire.PGID
	v  wire.Version
}

type rotKey struct {
	pg   wire.PGID
	name string
}

type event struct {
	at  int64
	seq uint64
	f   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	n := len(*q) - 1
	e := (*q)[n]
	*q = (*q)[:n]
	return e
}

// node is one OSD: its disk outlives its cores.
type node struct {
	w         *World
	id        wire.OSDID
	weight    uint32 // by which CRUSH orders the replicas: another order in every run
	rate      float64
	offset    int64
	store     *osd.MemStore
	core      *osd.OSD
	inst      wire.Instance
	conn      mon.ConnID // of this life to the monitors
	life      uint64
	m         *clustermap.OSDMap // newest delivered
	paused    int64              // until
	slowUntil int64              // its disk
	inbox     []func()           // while paused
	ticks     bool
	commit    bool
}

func (w *World) after(d int64, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, f})
}

func (w *World) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("t=%.3fs: %s", float64(w.now)/1e9, fmt.Sprintf(format, args...))
	}
}

func (w *World) log(format string, args ...any) {
	if w.opt.Verbose != nil {
		w.opt.Verbose("%9.4f "+format, append([]any{float64(w.now) / 1e9}, args...)...)
	}
}

func (w *World) dice(p float64) bool { return w.rng.Float64() < p }

// between is a uniform draw from [a,b).
func (w *World) between(a, b int64) int64 { return a + w.rng.Int64N(b-a) }

// delay of one message: mostly short, sometimes long, so that order is anything.
func (w *World) delay() int64 {
	if w.dice(w.lateMsg) && !w.healed {
		return w.between(ms, 1500*ms)
	}
	return w.between(ms/10, 8*ms)
}

// carry delivers f from a to b unless the network has other plans.
func (w *World) carry(a, b int, f func()) {
	if w.cut[[2]int{a, b}] || w.dice(w.loss) {
		return
	}
	w.after(w.delay(), func() {
		if !w.cut[[2]int{a, b}] {
			f()
		}
	})
	if w.dice(w.loss / 4) {
		w.after(w.delay()+w.between(0, second), f) // a copy, late
	}
}

// Run plays one seed and returns what went wrong.
func Run(opt Options) (err error) {
	w := &World{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 7)), fate: rand.New(rand.NewPCG(opt.Seed, 11)), cut: map[[2]int]bool{}, barrier: map[wire.PGID]wire.Epoch{},
		versions: map[tidKey]wire.Version{}, fenced: map[versionKey]string{}, rotted: map[rotKey]wire.Version{}, watch: map[wire.PGID]wire.Version{}, born: map[wire.PGID]birth{}}
	defer func() {
		if r := recover(); r != nil {
			if w.opt.Verbose != nil {
				panic(r)
			}
			err = fmt.Errorf("t=%.3fs: panic: %v", float64(w.now)/1e9, r)
		}
		if opt.Result != nil {
			w.res.Ops, w.res.Changes, w.res.Virtual = len(w.history), w.changes, w.now
			*opt.Result = w.res
		}
		if err != nil {
			err = fmt.Errorf("class %s: %w", w.res.Class, err)
		}
	}()
	w.drawPlan()
	w.mon = newMon(w, w.pgs, 3, 1+w.rng.IntN(2))
	for i := range w.osds {
		n := &node{w: w, id: wire.OSDID(i), weight: uint32(1+w.rng.IntN(16)) << 14, rate: 1 + 0.0099*w.rng.Float64(), offset: w.between(0, 1000*second)}
		n.store = osd.NewMemStore(w.uuid())
		if w.opt.Balance { // weights that an even spread can follow
			n.weight = 3<<16 + n.weight
		}
		w.nodes = append(w.nodes, n)
		n.start()
	}
	for i := 0; i < 100 && len(w.mon.M.PGs) == 0; i++ {
		w.runFor(100 * ms)
	}
	w.mon.faults = opt.MonFaults
	for i := range w.nclients {
		w.addClient(i)
	}
	w.after(w.between(0, second), w.chaos)
	w.runFor(w.faultTime)
	w.heal()
	for i := 0; i < 240 && w.err == nil && !w.lost && !w.settled(); i++ {
		if i%10 == 9 {
			w.operate()
		}
		w.runFor(second / 2)
	}
	if w.lost {
		w.res.Lost++
		return w.err
	}
	if w.err == nil && !w.settled() {
		w.fail("L1: not settled two minutes after the last fault: %s", w.unsettled())
	}
	if w.err == nil && w.opt.Balance {
		w.balance()
	}
	if w.err == nil {
		w.final()
	}
	return w.err
}

func (w *World) runFor(d int64) {
	end := w.now + d
	for w.err == nil && !w.lost && len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.f()
	}
	w.now = end
}

func (w *World) uuid() (u wire.UUID) {
	for i := range u {
		u[i] = byte(w.rng.Uint32())
	}
	return u
}

// mapChanged spreads a new map, to some soon and to some late.
func (w *World) mapChanged(old, now *clustermap.OSDMap) {
	w.changes++
	if err := check(old, now); err != nil {
		w.fail("%v", err)
	}
	w.divided(old, now)
	w.mustHave(now)
	for _, n := range w.nodes {
		w.sendMap(n)
	}
	w.onChange(old, now)
	for _, c := range w.clients {
		d := c.lag
		if d == 0 {
			d = w.between(ms, c.slow)
		}
		w.after(d, func() { c.newMap(now) })
	}
}

func (w *World) sendMap(n *node) {
	m := w.mon.M
	d := w.delay()
	if w.dice(w.lateMap) && !w.healed {
		d = w.between(0, 2*second)
	}
	if w.cut[[2]int{-1, int(n.id)}] {
		return
	}
	w.after(d, func() {
		if !w.cut[[2]int{-1, int(n.id)}] {
			n.do(func() { n.newMap(m) })
		}
	})
}

// ---- nodes -----------------------------------------------------------------------------

func (n *node) clock() int64 { return n.offset + int64(float64(n.w.now)*n.rate) }

// start begins a life over the disk.
func (n *node) start() {
	w := n.w
	n.life++
	w.nonce++
	n.inst = wire.Instance{Kind: wire.KindOSD, Num: uint32(n.id), Nonce: w.nonce << 32}
	life := n.life
	if w.fetched > 0 {
		n.store.SetSlow(func() bool { return w.dice(w.fetched) }, w.opt.Faults&osd.FaultFetchTorn != 0)
	}
	n.core = osd.New(osd.Config{ID: n.id, Instance: n.inst, LogKeep: 8 + w.rng.IntN(40), Faults: w.opt.Faults,
		StrayNs: 12 * second, RecoveryBytes: []int64{0, 64 << 10, 1 << 20}[w.rng.IntN(3)],
		Logged: w.logged, Committed: w.committed,
		Stored: func(pg wire.PGID, seq uint64, err error) {
			w.after(0, func() {
				if n.life == life {
					n.step(&osd.Event{Kind: osd.EvStored, PG: pg, Seq: seq})
				}
			})
		}}, n.store, n.clock())
	w.log("osd.%d starts life %d, uuid %x", n.id, n.life, n.store.UUID())
	w.res.Lives++
	inst, uuid := n.inst, n.store.UUID()
	n.conn = mon.ConnID(w.nonce)
	var announce func()
	announce = func() {
		if n.life != life {
			return
		}
		n.do(func() {
			if n.life != life {
				return
			}
			var m wire.Message = &wire.OSDStats{ID: n.id, Instance: inst, PGs: n.pgStats()}
			if d := w.mon.M.OSDs[n.id]; d.Instance != inst || !d.Up {
				m = &wire.OSDBoot{ID: n.id, UUID: uuid, Instance: inst, Host: fmt.Sprintf("host%d", n.id), Weight: n.weight}
			}
			n.toMon(m)
			w.sendMap(n)
		})
		w.after(w.between(w.stats/2, w.stats), announce)
	}
	w.after(ms, announce)
	w.after(w.between(0, 100*ms), func() { n.tick(life) })
	w.after(w.between(0, 5*ms), func() { n.commits(life) })
}

// toMon sends m to whoever leads the monitors.
func (n *node) toMon(m wire.Message) {
	conn, inst := n.conn, n.inst
	n.w.carry(int(n.id), -1, func() { n.w.mon.message(conn, inst, m) })
}

// do runs f now, or when the pause is over.
func (n *node) do(f func()) {
	if n.paused > n.w.now {
		n.inbox = append(n.inbox, f)
		return
	}
	f()
}

func (n *node) tick(life uint64) {
	if n.life != life || n.core == nil {
		return
	}
	n.do(func() {
		if n.life == life && n.core != nil {
			n.step(&osd.Event{Kind: osd.EvTick})
		}
	})
	n.w.after(100*ms, func() { n.tick(life) })
}

// commits makes what was submitted durable, some of it, now and then.
func (n *node) commits(life uint64) {
	if n.life != life || n.core == nil {
		return
	}
	if k := n.store.Pending(); k > 0 {
		n.do(func() {
			if n.life != life || n.core == nil {
				return
			}
			if k > 1 && !n.w.healed && n.w.dice(n.w.killAtCommit) { // exactly between two of them
				n.store.Commit(1)
				n.w.crashFor(n, n.w.away())
				return
			}
			n.store.Commit(1 + n.w.rng.IntN(k))
		})
	}
	d := n.w.between(ms/5, 4*ms)
	if n.w.dice(0.01) && !n.w.healed {
		d = n.w.between(0, 300*ms)
	}
	if n.slowUntil > n.w.now {
		d = n.w.between(50*ms, 900*ms)
	}
	n.w.after(d, func() { n.commits(life) })
}

func (n *node) newMap(m *clustermap.OSDMap) {
	if n.core == nil {
		return
	}
	if n.m == nil || n.m.Epoch < m.Epoch {
		n.m = m
	}
	before := n.core.Stats().Splits
	n.step(&osd.Event{Kind: osd.EvMap, Map: m})
	if n.core != nil && n.core.Stats().Splits > before && !n.w.healed && n.w.dice(n.w.killAtSplit) {
		n.w.crashFor(n, n.w.away())
	}
}

// step runs one event and carries its effects out.
func (n *node) step(ev *osd.Event) {
	w := n.w
	if n.core == nil || w.err != nil {
		return
	}
	ev.Now = n.clock()
	n.core.Step(ev)
	e := n.core.Flush()
	n.core.Walk()
	for i := range e.Sends {
		s := &e.Sends[i]
		w.log("osd.%d > osd.%d %v", n.id, s.To, brief(s.Msg))
		to, front, data, from := w.nodes[s.To], encode(s.Msg), concat(s.Data), n.inst
		typ := s.Msg.WireType()
		if !w.healed {
			if typ == wire.TRepl && w.dice(w.killAtRepl) {
				life := n.life
				w.after(0, func() {
					if n.life == life {
						w.crashFor(n, w.away())
					}
				})
				continue // and this one is not sent
			}
		}
		w.carry(int(n.id), int(s.To), func() {
			to.do(func() {
				m, err := wire.Decode(typ, front)
				if err != nil {
					w.fail("decode: %v", err)
					return
				}
				cutting := false // something that this member has and the primary lacks will go
				if f, ok := m.(*wire.ReconFix); ok {
					l := to.store.Log(f.PG).Recs
					cutting = len(l) > 0 && f.Common.Less(l[len(l)-1].Version)
				}
				to.step(&osd.Event{Kind: osd.EvPeer, From: from, Msg: m, Data: data})
				if typ == wire.TReconFix && to.core != nil {
					kill := w.killAtFix
					if cutting {
						w.res.Cuts++
					} else {
						kill /= 4
					}
					if !w.healed && w.dice(kill) {
						if cutting {
							w.res.CutCrashes++
						}
						w.crashFor(to, w.between(20*ms, 300*ms))
					}
				}
			})
		})
	}
	for i := range e.Replies {
		r := &e.Replies[i]
		front, data := encode(r.Msg), concat(r.Data)
		c := w.clients[int(r.Conn)-1]
		tid := r.Tid
		w.carry(int(n.id), 100+c.num, func() {
			m := new(wire.OSDReply)
			if err := wire.Unmarshal(front, m); err != nil || wire.CutResultData(m.Ops, data) != nil {
				w.fail("reply: %v", err)
				return
			}
			c.answered(tid, m)
		})
		if r.Msg.Status == wire.OSDDone {
			w.replied(n, c, tid, r.Msg)
		}
	}
	for i := range e.Fetches {
		n.fetch(e.Fetches[i])
	}
	for _, b := range e.Free { // whoever still refers to it will say nonsense
		for i := range b {
			b[i] = 0xee
		}
	}
	for i := range e.Proposals {
		n.propose(e.Proposals[i])
	}
	for _, id := range e.Failures {
		n.toMon(&wire.OSDFailure{Reporter: n.id, Target: id, Instance: n.m.OSDs[id].Instance, SilentMs: 4000})
	}
	if e.WantEpoch > 0 {
		w.carry(int(n.id), -1, func() { w.sendMap(n) })
	}
	n.core.Done()
}

// fetch is a disk that takes its time, now and then a long one: f's bytes come when much has
// happened in between.
func (n *node) fetch(f osd.Fetch) {
	w, life := n.w, n.life
	late := w.between(ms/5, 20*ms)
	if w.dice(0.1) {
		late = w.between(20*ms, second)
	}
	w.res.Fetched++
	w.after(late, func() {
		if n.life != life {
			return
		}
		n.do(func() {
			if n.life != life || n.core == nil {
				return
			}
			ev := osd.Event{Kind: osd.EvFetched, Seq: f.ID}
			for _, l := range f.Read {
				if ev.Bad {
					l.Drop()
					continue
				}
				b, crc, err := l.Fetch(nil)
				if err != nil {
					ev.Bad = true
					w.res.FetchedBad++
					continue
				}
				ev.Got, ev.CRC = append(ev.Got, b), crc
			}
			n.step(&ev)
		})
	})
}

// propose sends a compare-and-set on its way, which may be a long one.
func (n *node) propose(p osd.Proposal) {
	w := n.w
	cfg := n.m.PGs[p.PG]
	if cfg.Interval != p.Expected {
		return
	}
	w.log("osd.%d proposes pg %v@%d S=%v learners=%v: %s", n.id, p.PG, p.Expected, members(p.InSync), members(p.Learners), p.Reason)
	m, inst, conn := p.CAS(cfg, n.id, n.inst), n.inst, n.conn
	if len(m.AddMembers) > 0 && !w.healed && w.dice(w.cutAtAdd) {
		w.after(w.between(0, 10*ms), func() {
			if !w.healed {
				w.isolate(n, w.between(second, 6*second), 2)
			}
		})
		w.after(0, func() { w.mon.message(conn, inst, m) })
		return
	}
	if !w.healed && w.dice(w.lateCAS) {
		w.after(w.between(50*ms, 4*second), func() { w.mon.message(conn, inst, m) })
		return
	}
	n.toMon(m)
}

// crash ends the life; the disk keeps a prefix per PG.
func (n *node) crash() {
	if n.core == nil {
		return
	}
	n.w.log("osd.%d crashes", n.id)
	n.core, n.inbox, n.paused = nil, nil, 0
	n.life++
	conn := n.conn
	n.w.carry(int(n.id), -1, func() { n.w.mon.step(mon.Gone{From: conn}) })
	n.store = n.store.Crash(func(_ wire.PGID, k int) int { return n.w.rng.IntN(k + 1) })
}

func encode(m wire.Message) []byte {
	b, err := wire.Append(nil, m)
	if err != nil {
		panic(err)
	}
	return b
}

func concat(bs [][]byte) (out []byte) {
	for _, b := range bs {
		out = append(out, b...)
	}
	return out
}

func members(ms []clustermap.Member) (out []string) {
	for _, m := range ms {
		out = append(out, fmt.Sprintf("%d/%x", m.ID, m.UUID[:2]))
	}
	return out
}

func brief(m wire.Message) string {
	switch m := m.(type) {
	case *wire.Repl:
		return fmt.Sprintf("Repl %v@%d after %v: %d, committed %v", m.PG, m.Interval, m.Prev, len(m.Entries), m.Committed)
	case *wire.ReplAck:
		return fmt.Sprintf("Ack %+v", *m)
	case *wire.ReconFix:
		return fmt.Sprintf("ReconFix %v@%d common %v entries %d objects %d", m.PG, m.Interval, m.Common, len(m.Entries), len(m.Objects))
	case *wire.CopyObj:
		return fmt.Sprintf("CopyObj %v@%d %s at %v version %v", m.PG, m.Interval, m.Object.Name, m.At, m.Object.Version)
	}
	return fmt.Sprintf("%v %+v", m.WireType(), m)
}
