package mds

import (
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// world is a rank with everything around it faked: an object store, a journal whose writes
// end when a seeded coin says so, and clients that answer what they are asked. The seed
// decides every order, so the same seed gives the same run.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	cfg   Config
	r     *Rank
	now   int64
	store map[string]*object

	writes  []JournalWrite
	ops     []ObjectOp
	inbox   []Event // from clients to the rank: FIFO per session
	clients []*client
	trace   []string
	keep    bool // keep a trace
	hold    bool // the journal does not move
	done    int  // journal writes that ended
	dead    bool
	between func() // what happens before each object that fsck reads
	recon   bool   // its clients have not reconnected yet
	rk      *ranks // of several ranks (ranks_world_test.go); nil: it is alone
}

type object struct {
	data []byte
	x    map[string][]byte
	omap map[string][]byte
}

type client struct {
	w       *world
	key     SessionKey
	inst    wire.Instance
	tid     wire.Tid
	rtid    wire.Tid
	open    bool
	gone    bool
	replies map[wire.Tid]*wire.Reply
	order   []wire.Tid // replies in order of arrival
	unsafe  []*wire.Request
	early   map[wire.Tid]*wire.Reply
	caps    map[wire.Ino]*wire.Cap
	names   map[wire.Ino]hint
	leases  map[string]wire.Ino
	evicted bool
	passive bool // does not answer revokes
	msgs    []wire.Message
	known   bool
}

type hint struct {
	parent wire.Ino
	name   string
}

func newWorld(t testing.TB, seed int64) *world {
	w := &world{t: t, rng: rand.New(rand.NewSource(seed)), store: map[string]*object{}, now: 1e9}
	w.cfg = Config{MetaPool: 1, DataPool: 2, ObjectSize: 1 << 12, Create: true, Incarnation: 1, InoRanges: []uint64{1}, Check: true,
		SegmentBytes: 4 << 10, MaxSegments: 3, LogLevel: LogWarn, Instance: wire.Instance{Kind: wire.KindMDS, Nonce: 99}, Epoch: 1}
	w.boot()
	return w
}

func (w *world) boot() {
	w.r = New(w.cfg)
	w.dead = false
	w.step(Event{Kind: Start})
	w.until("rank active", func() bool { return w.r.State() == clustermap.RankActive })
}

func (w *world) step(ev Event) {
	if w.dead {
		return
	}
	w.now += 1000
	ev.Now, ev.Wall = w.now, wire.Time{Sec: w.now / 1e9, Nsec: uint32(w.now % 1e9)}
	if w.keep {
		w.trace = append(w.trace, fmt.Sprintf("event %d %d %T", ev.Kind, ev.Session, ev.Msg))
	}
	eff := w.r.Step(ev)
	for _, l := range eff.Logs {
		w.t.Logf("rank: %s", l.Text)
	}
	if eff.Exit != nil {
		w.t.Fatalf("rank exits: %v", eff.Exit)
	}
	for _, j := range eff.Journal {
		w.writes = append(w.writes, JournalWrite{j.Off, append([]byte(nil), j.Bytes...)})
	}
	w.ops = append(w.ops, eff.Objects...)
	if w.keep {
		for _, j := range eff.Journal {
			w.trace = append(w.trace, fmt.Sprintf("  journal %d %x", j.Off, j.Bytes))
		}
		for _, o := range eff.Objects {
			w.trace = append(w.trace, fmt.Sprintf("  object %v %+v", o.Obj, o.Ops))
		}
	}
	if w.rk != nil {
		w.rk.post(w, eff.Peers)
	} else if len(eff.Peers) > 0 {
		w.t.Fatalf("a lone rank says %T to mds.%d", eff.Peers[0].Msg, eff.Peers[0].To)
	}
	for _, b := range eff.Blocklist {
		w.inbox = append(w.inbox, Event{Kind: Blocklisted, Instance: b.Instance, Epoch: 7})
	}
	for _, s := range eff.Sends {
		if w.keep {
			b, _ := wire.Append(nil, s.Msg)
			w.trace = append(w.trace, fmt.Sprintf("  send %d %d %T %x", s.To, s.Tid, s.Msg, b))
		}
		for _, c := range w.clients {
			if c.key == s.To && !c.gone {
				c.receive(s.Tid, s.Msg)
			}
		}
	}
}

// progress does one random thing that is possible; false when there is none.
func (w *world) progress() bool {
	if w.rk != nil {
		return w.rk.progress()
	}
	acts := w.acts()
	if len(acts) == 0 {
		return false
	}
	acts[w.rng.Intn(len(acts))]()
	return true
}

// acts are the things that may happen next.
func (w *world) acts() (acts []func()) {
	if !w.hold {
		for i := range w.writes {
			acts = append(acts, func() { w.endWrite(i) })
		}
	}
	seen := map[string]bool{}
	for i := range w.ops {
		name := w.ops[i].Obj.String()
		if !seen[name] { // one object's operations are in order
			seen[name] = true
			acts = append(acts, func() { w.endOp(i) })
		}
	}
	from := map[SessionKey]bool{}
	for i := range w.inbox {
		k := w.inbox[i].Session
		if !from[k] {
			from[k] = true
			acts = append(acts, func() {
				ev := w.inbox[i]
				w.inbox = append(w.inbox[:i:i], w.inbox[i+1:]...)
				w.step(ev)
			})
		}
	}
	return acts
}

func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	idle := 0
	for n := 0; !cond(); n++ {
		if !w.progress() {
			// Time alone may help: stickiness, turns, ladders.
			w.tick(100e6)
			if idle++; idle > 600 {
				w.t.Fatalf("%s: nothing moves any more\n%s", what, w.dump())
			}
		}
		if n > 500_000 {
			w.t.Fatalf("%s: never\n%s", what, w.dump())
		}
	}
}

// tick lets time pass, for all ranks alike.
func (w *world) tick(ns int64) {
	all := []*world{w}
	if w.rk != nil {
		all = w.rk.w
	}
	for _, x := range all {
		x.now += ns
		x.step(Event{Kind: Tick})
	}
}

// quiet lets everything that is under way end.
func (w *world) quiet() {
	for w.progress() {
	}
}

func (w *world) endWrite(i int) {
	j := w.writes[i]
	if w.rk != nil && w.rk.at("journal write", w.cfg.Rank) && w.dead {
		return // it died before it, or with a part of it
	}
	w.writes = append(w.writes[:i:i], w.writes[i+1:]...)
	w.putJournal(j, len(j.Bytes))
	w.done++
	if w.rk != nil && w.rk.at("journal written", w.cfg.Rank) && w.dead {
		return // it died with the write
	}
	w.step(Event{Kind: JournalDone, Off: j.Off})
}

func (w *world) putJournal(j JournalWrite, n int) {
	for _, p := range journal.Pieces(j.Off, n) {
		o := w.object(wire.ObjectID{Pool: 1, Name: journal.ObjectName(w.r.journalPrefix(), p.Index)}, true)
		o.write(p.Off, j.Bytes[p.Skip:p.Skip+p.Len])
	}
}

func (w *world) endOp(i int) {
	op := w.ops[i]
	w.ops = append(w.ops[:i:i], w.ops[i+1:]...)
	e, res := w.apply(op.Obj, op.Ops)
	w.step(Event{Kind: ObjectDone, Token: op.Token, Errno: e, Res: res})
}

// crash forgets the rank. What was on its way to disk may be there or not, or in part.
func (w *world) crash() {
	for _, j := range w.writes {
		switch w.rng.Intn(3) {
		case 0:
			w.putJournal(j, len(j.Bytes))
		case 1:
			w.putJournal(j, w.rng.Intn(len(j.Bytes)+1))
		}
	}
	stopped := map[string]bool{}
	for _, op := range w.ops {
		if n := op.Obj.String(); !stopped[n] {
			if stopped[n] = w.rng.Intn(2) == 0; !stopped[n] {
				w.apply(op.Obj, op.Ops)
			}
		}
	}
	w.writes, w.ops, w.inbox = nil, nil, nil
	w.dead = true
	if w.rk != nil {
		w.rk.lost(w)
	}
	w.cfg.Create = false
	w.cfg.Incarnation++
	w.cfg.Epoch++
}

// nextLife starts the next holder.
func (w *world) nextLife() {
	w.cfg.Instance.Nonce++
	w.r = New(w.cfg)
	w.dead = false
	if w.rk != nil {
		w.step(Event{Kind: Maps, FSMap: w.rk.fsmap})
	}
	w.step(Event{Kind: Start})
}

// restart brings a new holder up and lets the clients reconnect.
func (w *world) restart() {
	w.nextLife()
	w.until("reconnect", func() bool {
		return w.r.State() == clustermap.RankReconnect || w.r.State() == clustermap.RankActive
	})
	for _, c := range w.clients {
		if c.open && !c.gone {
			c.reconnect()
		}
	}
	w.until("rank active again", func() bool { return w.r.State() == clustermap.RankActive })
	for _, c := range w.clients {
		if c.open && !c.gone {
			c.retry()
		}
	}
}

func (w *world) dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "state %d durable %d, %d writes, %d ops, %d afters\n", w.r.state, w.r.durablePos, len(w.writes), len(w.ops), len(w.r.afters))
	for _, s := range w.r.order {
		fmt.Fprintf(&b, "session %d state %d\n", s.key, s.state)
		for _, q := range s.parked {
			fmt.Fprintf(&b, "  parked %v %v/%q: %s", q.Op, q.Ino, q.Name, q.why)
			if l := q.set.WaitingOn(); l != nil {
				fmt.Fprintf(&b, " %v", l.Describe())
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// ---- objects ---------------------------------------------------------------------------

func (w *world) object(id wire.ObjectID, make_ bool) *object {
	o := w.store[id.String()]
	if o == nil && make_ {
		o = &object{x: map[string][]byte{}, omap: map[string][]byte{}}
		w.store[id.String()] = o
	}
	return o
}

func (o *object) write(off int, b []byte) {
	if n := off + len(b); n > len(o.data) {
		o.data = append(o.data, make([]byte, n-len(o.data))...)
	}
	copy(o.data[off:], b)
}

func (w *world) apply(id wire.ObjectID, ops []wire.ObjOp) (uint32, []wire.ObjResult) {
	res := make([]wire.ObjResult, len(ops))
	o := w.object(id, false)
	for i := range ops {
		op := &ops[i]
		switch op.Kind {
		case wire.ObjCreate, wire.ObjSetXattr, wire.ObjOmapSet, wire.ObjWriteFull, wire.ObjWrite, wire.ObjTruncate:
			o = w.object(id, true)
		default:
			if o == nil {
				res[i].Errno = 2
				return 2, res
			}
		}
		switch op.Kind {
		case wire.ObjCreate:
		case wire.ObjRead:
			if op.Off < uint64(len(o.data)) {
				res[i].Data = append([]byte(nil), o.data[op.Off:min(op.Off+op.Len, uint64(len(o.data)))]...)
			}
		case wire.ObjStat:
			res[i].Size = uint64(len(o.data))
		case wire.ObjWriteFull:
			o.data = append([]byte(nil), op.Data...)
		case wire.ObjWrite:
			o.write(int(op.Off), op.Data)
		case wire.ObjTruncate:
			if op.Off < uint64(len(o.data)) {
				o.data = o.data[:op.Off]
			}
		case wire.ObjRemove:
			delete(w.store, id.String())
			o = nil
		case wire.ObjSetXattr:
			o.x[op.Key] = append([]byte(nil), op.Data...)
		case wire.ObjGetXattrs:
			for _, k := range keys(o.x) {
				res[i].Pairs = append(res[i].Pairs, wire.KV{Key: k, Val: o.x[k]})
			}
		case wire.ObjOmapSet:
			for _, kv := range op.Pairs {
				o.omap[kv.Key] = append([]byte(nil), kv.Val...)
			}
		case wire.ObjOmapRemove:
			for _, k := range op.Keys {
				delete(o.omap, k)
			}
		case wire.ObjOmapGet:
			for _, k := range op.Keys {
				if v, have := o.omap[k]; have {
					res[i].Pairs = append(res[i].Pairs, wire.KV{Key: k, Val: v})
				}
			}
		case wire.ObjOmapRange:
			for _, k := range keys(o.omap) {
				if k <= op.From && op.From != "" {
					continue
				}
				if len(res[i].Pairs) == int(op.Max) {
					res[i].More = true
					break
				}
				res[i].Pairs = append(res[i].Pairs, wire.KV{Key: k, Val: o.omap[k]})
			}
		default:
			w.t.Fatalf("object op %v", op.Kind)
		}
	}
	return 0, res
}

func keys(m map[string][]byte) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// ---- clients ---------------------------------------------------------------------------

func (w *world) client() *client {
	c := &client{w: w, key: SessionKey(100 + len(w.clients)), replies: map[wire.Tid]*wire.Reply{}, early: map[wire.Tid]*wire.Reply{},
		caps: map[wire.Ino]*wire.Cap{}, names: map[wire.Ino]hint{}, leases: map[string]wire.Ino{}}
	c.inst = wire.Instance{Kind: wire.KindClient, Num: uint32(len(w.clients)), Nonce: uint64(c.key)}
	w.clients = append(w.clients, c)
	c.post(0, &wire.SessionOpen{Instance: c.inst, Host: "test"})
	w.until("session open", func() bool { return c.open })
	return c
}

func (c *client) post(tid wire.Tid, m wire.Message) {
	c.w.inbox = append(c.w.inbox, Event{Kind: FromSession, Session: c.key, Tid: uint64(tid), Msg: m})
}

func (c *client) receive(tid uint64, m wire.Message) {
	c.msgs = append(c.msgs, m)
	switch m := m.(type) {
	case *wire.SessionOpened:
		c.open = true
	case *wire.Reply:
		c.replies[m.Tid] = m
		c.order = append(c.order, m.Tid)
		if m.Early {
			c.early[m.Tid] = m
		} else {
			c.forget(func(q *wire.Request) bool { return q.Tid == m.Tid })
		}
		if m.Lease != nil {
			c.leases[fmt.Sprintf("%v/%s", m.Lease.Dir, m.Lease.Name)] = m.Lease.Ino
		}
		for _, st := range []*wire.InodeStat{m.Target, m.Dir} {
			if st != nil && st.Cap != nil {
				c.caps[st.Ino] = st.Cap
			}
		}
		for i := range m.Entries {
			if st := m.Entries[i].Stat; st != nil && st.Cap != nil {
				c.caps[st.Ino] = st.Cap
			}
		}
	case *wire.Safe:
		c.forget(func(q *wire.Request) bool { return q.Tid <= m.Tid && c.early[q.Tid] != nil })
	case *wire.CapGrant:
		if m.Stat.Cap == nil {
			return
		}
		if m.Op == wire.CapExport {
			delete(c.caps, m.Stat.Ino)
			return
		}
		c.caps[m.Stat.Ino] = m.Stat.Cap
		if m.Op == wire.CapRevoke && !c.passive {
			c.post(0, &wire.CapUpdate{Ino: m.Stat.Ino, CapID: m.Stat.Cap.ID, Seq: m.Stat.Cap.Seq, Mseq: m.Stat.Cap.Mseq, Retained: m.Stat.Cap.Pending})
		}
	case *wire.LeaseRevoke:
		delete(c.leases, fmt.Sprintf("%v/%s", m.Dir, m.Name))
		if !c.passive {
			c.post(0, &wire.LeaseAck{Dir: m.Dir, Name: m.Name, Seq: m.Seq})
		}
	case *wire.Reconnected:
		c.known = m.Known
	case *wire.Evicted:
		c.evicted = true
	}
}

func (c *client) forget(which func(*wire.Request) bool) {
	keep := c.unsafe[:0]
	for _, q := range c.unsafe {
		if !which(q) {
			keep = append(keep, q)
		}
	}
	c.unsafe = keep
}

func (c *client) oldest() wire.Tid {
	o := c.tid + 1
	for _, q := range c.unsafe {
		o = min(o, q.Tid)
	}
	return o
}

// ask sends a request and returns its tid.
func (c *client) ask(m *wire.Request) wire.Tid {
	if m.Op.Mutates() {
		c.tid++
		m.Tid = c.tid
		c.unsafe = append(c.unsafe, m)
	} else {
		c.rtid++
		m.Tid = wire.ReadTid | c.rtid
	}
	m.Oldest = c.oldest()
	c.post(m.Tid, m)
	return m.Tid
}

func (c *client) wait(tid wire.Tid) *wire.Reply {
	c.w.t.Helper()
	c.w.until(fmt.Sprintf("reply to client %d tid %#x", c.key, uint64(tid)), func() bool { return c.replies[tid] != nil })
	return c.replies[tid]
}

// do is ask and wait.
func (c *client) do(m *wire.Request) *wire.Reply {
	c.w.t.Helper()
	return c.wait(c.ask(m))
}

// must is do that wants success.
func (c *client) must(m *wire.Request) *wire.Reply {
	c.w.t.Helper()
	rep := c.do(m)
	if rep.Errno != 0 {
		c.w.t.Fatalf("%v %v/%q: errno %d", m.Op, m.Ino, m.Name, rep.Errno)
	}
	return rep
}

func (c *client) fails(m *wire.Request, e errno) {
	c.w.t.Helper()
	if rep := c.do(m); rep.Errno != uint32(e) {
		c.w.t.Fatalf("%v %v/%q: errno %d, want %d", m.Op, m.Ino, m.Name, rep.Errno, e)
	}
}

func (c *client) made(m *wire.Request, rep *wire.Reply) wire.Ino {
	c.names[rep.Target.Ino] = hint{m.Ino, m.Name}
	return rep.Target.Ino
}

func (c *client) mkdir(dir wire.Ino, name string) wire.Ino {
	c.w.t.Helper()
	m := &wire.Request{Op: wire.OpMkdir, Ino: dir, Name: name, Mode: 0o755}
	return c.made(m, c.must(m))
}

func (c *client) create(dir wire.Ino, name string) wire.Ino {
	c.w.t.Helper()
	m := &wire.Request{Op: wire.OpCreate, Ino: dir, Name: name, Mode: 0o644, OpenFlags: oEXCL}
	return c.made(m, c.must(m))
}

func (c *client) lookup(dir wire.Ino, name string) wire.Ino {
	c.w.t.Helper()
	rep := c.do(&wire.Request{Op: wire.OpLookup, Ino: dir, Name: name})
	if rep.Errno == uint32(eNOENT) {
		return 0
	}
	if rep.Errno != 0 {
		c.w.t.Fatalf("lookup %v/%q: errno %d", dir, name, rep.Errno)
	}
	return rep.Target.Ino
}

func (c *client) stat(ino wire.Ino) wire.Attr {
	c.w.t.Helper()
	return c.must(&wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskAll}).Target.Attr
}

func (c *client) list(dir wire.Ino) []string {
	c.w.t.Helper()
	var names []string
	for cookie := uint64(0); ; {
		rep := c.must(&wire.Request{Op: wire.OpReaddir, Ino: dir, Cookie: cookie, Max: 3})
		for _, e := range rep.Entries {
			names = append(names, e.Name)
			cookie = e.Cookie
		}
		if rep.End {
			sort.Strings(names)
			return names
		}
	}
}

// drop gives up every cap that the client holds.
func (c *client) drop(ino wire.Ino) {
	if cp := c.caps[ino]; cp != nil {
		delete(c.caps, ino)
		c.post(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: ino, CapID: cp.ID, Mseq: cp.Mseq, IssueSeq: cp.Seq}}})
	}
}

func (c *client) reconnect() {
	m := &wire.Reconnect{Instance: c.inst, Oldest: c.oldest(), Last: true}
	var inos []wire.Ino
	for ino := range c.caps {
		inos = append(inos, ino)
	}
	sort.Slice(inos, func(i, j int) bool { return inos[i] < inos[j] })
	for _, ino := range inos {
		h := c.names[ino]
		m.Caps = append(m.Caps, wire.ReconnectCap{Ino: ino, Parent: h.parent, Name: h.name, Issued: c.caps[ino].Pending})
	}
	c.caps = map[wire.Ino]*wire.Cap{}
	for _, q := range c.unsafe {
		if rep := c.early[q.Tid]; rep != nil {
			dup := *q
			dup.Flags |= wire.ReqReplay
			if rep.Target != nil {
				dup.GivenIno = rep.Target.Ino
			}
			dup.Oldest = c.oldest()
			c.post(q.Tid, &dup)
		}
	}
	c.post(0, m)
}

// retry resends what was never answered.
func (c *client) retry() {
	for _, q := range c.unsafe {
		if c.early[q.Tid] == nil {
			dup := *q
			dup.Flags |= wire.ReqRetry
			c.post(q.Tid, &dup)
		}
	}
}

var _ = caps.None
