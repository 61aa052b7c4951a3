package mds

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// capWorld is one rank, the objects it stores things in, and clients that follow the rules
// of section 4. Everything happens in one thread under a clock that the test moves.
type capWorld struct {
	t       *testing.T
	r       *Rank
	now     int64
	objs    map[wire.ObjectID]*testObj
	pending []pendingWork // completions of the shell's work and messages, in order
	clients map[SessionKey]*capClient
	order   []*capClient
	hold    bool // journal writes and object operations do not end by themselves
	fenced  map[wire.Instance]wire.Epoch
	epoch   wire.Epoch
	noFence bool
	blocks  []BlocklistAsk
	log     strings.Builder
	tick    int64
	state   clustermap.RankState

	grace    int64 // G of the next rank, 0: its default
	slowDisk bool  // journal writes end when asked to (one), everything else by itself
	spy      spy
}

// spy hears what passes between the rank and the world; nil functions hear nothing.
type spy struct {
	toClient, fromClient func(c *capClient, tid wire.Tid, m wire.Message)
	lost                 func(c *capClient, m wire.Message) // it is deaf
	journal              func(off journal.Pos, n int, done bool)
	fenced               func(inst wire.Instance, e wire.Epoch)
}

// pendingWork is one thing under way; those of one lane keep their order.
type pendingWork struct {
	lane string
	fn   func()
}

func (w *capWorld) later(lane string, fn func()) {
	w.pending = append(w.pending, pendingWork{lane, fn})
}

// one ends something that is under way, any lane's first.
func (w *capWorld) one(pick func(n int) int) bool {
	if len(w.pending) == 0 {
		return false
	}
	lane := w.pending[pick(len(w.pending))].lane
	for i := range w.pending {
		if w.pending[i].lane == lane {
			fn := w.pending[i].fn
			w.pending = append(w.pending[:i:i], w.pending[i+1:]...)
			fn()
			return true
		}
	}
	return false
}

type testObj struct {
	data  []byte
	omap  map[string][]byte
	xattr map[string][]byte
}

// capClient is a client that answers by itself unless told to be mute.
type capClient struct {
	queued  map[wire.Tid]uint64 // places of waiting file locks
	w       *capWorld
	name    string
	key     SessionKey
	inst    wire.Instance
	mute    bool                    // answers no REVOKE and renews nothing
	loose   bool                    // it does not take in all that it hears
	stuck   bool                    // answers no REVOKE and renews all the same
	deaf    bool                    // nothing reaches it
	deafTo  func(wire.Message) bool // nobody waits for these any more
	dirty   map[wire.Ino]*wire.CapUpdate
	caps    map[wire.Ino]*clientCap
	reply   map[wire.Tid]*wire.Reply
	lease   map[string]uint32
	tid     wire.Tid
	read    wire.Tid
	safe    wire.Tid
	open    *wire.SessionOpened
	gone    string
	barrier wire.Epoch
	quiet   bool // no log lines
	recon   *wire.Reconnected
	want    map[wire.Ino]caps.Bits
	acks    int

	lastRevoked uint32 // seq of the last lease revoke
	renames     bool   // it is the one that renames in this scene
}

type clientCap struct {
	id            uint64
	seq           uint32
	mseq          uint32
	bits          caps.Bits
	max           uint64
	size          uint64
	tseq          uint32
	barrier       wire.Epoch
	pendingAnswer bool
}

func newCapWorld(t *testing.T) *capWorld {
	w := &capWorld{t: t, now: 1e9, objs: map[wire.ObjectID]*testObj{}, clients: map[SessionKey]*capClient{},
		fenced: map[wire.Instance]wire.Epoch{}, epoch: 10}
	w.boot(true, 5)
	return w
}

// boot starts a rank over the objects.
func (w *capWorld) boot(create bool, epoch wire.Epoch) {
	w.pending = nil
	w.r = New(Config{Rank: 0, Instance: wire.Instance{Kind: wire.KindMDS, Nonce: uint64(epoch)}, Incarnation: journal.Incarnation(epoch),
		MetaPool: 1, DataPool: 2, Create: create, InoRanges: []uint64{1}, Barrier: w.epoch, Epoch: epoch, GraceNs: w.grace, Check: true})
	blocked := map[wire.Instance]clustermap.BlockEntry{}
	for inst := range w.fenced {
		blocked[inst] = clustermap.BlockEntry{}
	}
	w.step(Event{Kind: Maps, OSDMap: &clustermap.OSDMap{Blocklist: blocked}})
	w.step(Event{Kind: Start})
}

func (w *capWorld) step(ev Event) {
	ev.Now = w.now
	ev.Wall = wire.Time{Sec: w.now / 1e9, Nsec: uint32(w.now % 1e9)}
	eff := w.r.Step(ev)
	for _, jw := range eff.Journal {
		off, b := jw.Off, append([]byte(nil), jw.Bytes...)
		if w.spy.journal != nil {
			w.spy.journal(off, len(b), false)
		}
		w.later("journal", func() {
			if w.spy.journal != nil {
				w.spy.journal(off, len(b), true)
			}
			at := 0
			for _, p := range journal.Pieces(off, len(b)) {
				o := w.obj(wire.ObjectID{Pool: 1, Name: journal.ObjectName("journal.0", p.Index)})
				end := int(p.Off) + p.Len
				if len(o.data) < end {
					o.data = append(o.data, make([]byte, end-len(o.data))...)
				}
				copy(o.data[p.Off:], b[at:at+p.Len])
				at += p.Len
			}
			w.step(Event{Kind: JournalDone, Off: off})
		})
	}
	for _, op := range eff.Objects {
		op := op
		w.later(op.Obj.Name, func() {
			e, res := w.do(op.Obj, op.Ops)
			w.step(Event{Kind: ObjectDone, Token: op.Token, Errno: e, Res: res})
		})
	}
	for _, b := range eff.Blocklist {
		w.blocks = append(w.blocks, b)
		if !w.noFence {
			w.later("mon", func() { w.fence(b.Instance) })
		}
	}
	w.tick, w.state = eff.NextTick, eff.State
	if eff.Exit != nil {
		w.t.Fatalf("rank exits: %v", eff.Exit)
	}
	sends := append([]Send(nil), eff.Sends...)
	for _, s := range sends {
		// Through the codec: what is sent must be encodable, and nobody may share memory.
		b, err := wire.Append(nil, s.Msg)
		if err != nil {
			w.t.Fatal(err)
		}
		m, err := wire.Decode(s.Msg.WireType(), b)
		if err != nil {
			w.t.Fatal(err)
		}
		if c := w.clients[s.To]; c != nil && c.deaf && w.spy.lost != nil {
			w.spy.lost(c, m)
		} else if c != nil && !c.deaf {
			w.later("to "+c.name, func() {
				if w.spy.toClient != nil {
					w.spy.toClient(c, wire.Tid(s.Tid), m)
				}
				c.receive(wire.Tid(s.Tid), m)
			})
		}
	}
	if !w.hold {
		w.run()
	}
}

// run lets everything that is under way end.
func (w *capWorld) run() {
	if w.hold {
		return
	}
	w.hold = true
	for n := 0; len(w.pending) > 0; n++ {
		if n > 200000 {
			w.t.Fatalf("no rest:\n%s", w.log.String())
		}
		next := 0
		for w.slowDisk && next < len(w.pending) && w.pending[next].lane == "journal" {
			next++
		}
		if next == len(w.pending) {
			break
		}
		w.one(func(int) int { return next })
	}
	w.hold = false
}

// pass lets time pass in steps that the rank asks for.
func (w *capWorld) pass(d int64) {
	end := w.now + d
	for w.now < end {
		next := end
		if w.tick != 0 && w.tick < next {
			next = max(w.tick, w.now+1e6)
		}
		for t := w.now/1e9 + 1; t*1e9 < next; t++ {
			next = t * 1e9 // clients renew every second
		}
		w.now = min(next, end)
		for _, c := range w.order {
			if !c.mute && !c.deaf && c.open != nil && c.gone == "" && w.now%5e9 < 1e9 {
				c.send(0, &wire.Renew{Seq: uint64(w.now)})
			}
		}
		w.step(Event{Kind: Tick})
	}
}

func (w *capWorld) fence(inst wire.Instance) {
	w.epoch++
	w.fenced[inst] = w.epoch
	w.logf("mon: %s fenced in epoch %d", w.nameOf(inst), w.epoch)
	if w.spy.fenced != nil {
		w.spy.fenced(inst, w.epoch)
	}
	w.step(Event{Kind: Blocklisted, Instance: inst, Epoch: w.epoch})
}

func (w *capWorld) nameOf(inst wire.Instance) string {
	if c := w.clients[SessionKey(inst.Nonce)]; c != nil {
		return c.name
	}
	return inst.String()
}

func (w *capWorld) logf(f string, a ...any) { fmt.Fprintf(&w.log, f+"\n", a...) }

// story returns what was logged since the last call and compares it.
func (w *capWorld) story(want string) {
	w.t.Helper()
	got := strings.TrimSpace(w.log.String())
	w.log.Reset()
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(want), "\n") {
		lines = append(lines, strings.TrimSpace(l))
	}
	if want = strings.Join(lines, "\n"); got != want {
		w.t.Fatalf("what happened:\n%s\n\nexpected:\n%s", got, want)
	}
}

func (w *capWorld) obj(id wire.ObjectID) *testObj {
	o := w.objs[id]
	if o == nil {
		o = &testObj{omap: map[string][]byte{}, xattr: map[string][]byte{}}
		w.objs[id] = o
	}
	return o
}

func sortedPairs(m map[string][]byte, from string) (out []wire.KV) {
	for k, v := range m {
		if k > from {
			out = append(out, wire.KV{Key: k, Val: v})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

func (w *capWorld) do(id wire.ObjectID, ops []wire.ObjOp) (uint32, []wire.ObjResult) {
	res := make([]wire.ObjResult, len(ops))
	for i := range ops {
		op := &ops[i]
		if w.objs[id] == nil && (!op.Kind.Mutates() || op.Kind == wire.ObjRemove || op.Kind == wire.ObjOmapRemove) {
			res[i].Errno = uint32(eNOENT)
			return uint32(eNOENT), res
		}
		o := w.obj(id)
		switch op.Kind {
		case wire.ObjRead:
			if op.Off < uint64(len(o.data)) {
				end := uint64(len(o.data))
				if op.Len > 0 {
					end = min(end, op.Off+op.Len)
				}
				res[i].Data = append([]byte(nil), o.data[op.Off:end]...)
			}
		case wire.ObjStat:
			res[i].Size = uint64(len(o.data))
		case wire.ObjWriteFull:
			o.data = append([]byte(nil), op.Data...)
		case wire.ObjTruncate:
			for uint64(len(o.data)) < op.Off {
				o.data = append(o.data, 0)
			}
			o.data = o.data[:op.Off]
		case wire.ObjRemove:
			delete(w.objs, id)
		case wire.ObjGetXattrs:
			res[i].Pairs = sortedPairs(o.xattr, "")
		case wire.ObjSetXattr:
			o.xattr[op.Key] = append([]byte(nil), op.Data...)
		case wire.ObjOmapGet:
			for _, k := range op.Keys {
				if v, there := o.omap[k]; there {
					res[i].Pairs = append(res[i].Pairs, wire.KV{Key: k, Val: v})
				}
			}
		case wire.ObjOmapRange:
			p := sortedPairs(o.omap, op.From)
			if op.Max > 0 && len(p) > int(op.Max) {
				p, res[i].More = p[:op.Max], true
			}
			res[i].Pairs = p
		case wire.ObjOmapSet:
			for _, kv := range op.Pairs {
				o.omap[kv.Key] = append([]byte(nil), kv.Val...)
			}
		case wire.ObjOmapRemove:
			for _, k := range op.Keys {
				delete(o.omap, k)
			}
		case wire.ObjCreate:
		default:
			w.t.Fatalf("test world: no %v", op.Kind)
		}
	}
	return 0, res
}

// client makes one and opens its session.
func (w *capWorld) client(name string) *capClient {
	key := SessionKey(len(w.order) + 1)
	c := &capClient{w: w, name: name, key: key, inst: wire.Instance{Kind: wire.KindClient, Num: uint32(key), Nonce: uint64(key)},
		caps: map[wire.Ino]*clientCap{}, reply: map[wire.Tid]*wire.Reply{}, queued: map[wire.Tid]uint64{}, lease: map[string]uint32{}, dirty: map[wire.Ino]*wire.CapUpdate{}, want: map[wire.Ino]caps.Bits{}}
	w.clients[key] = c
	w.order = append(w.order, c)
	c.send(1, &wire.SessionOpen{Instance: c.inst, Host: name})
	if c.open == nil {
		w.t.Fatalf("%s: no session", name)
	}
	return c
}

func (c *capClient) send(tid wire.Tid, m wire.Message) {
	b, err := wire.Append(nil, m)
	if err != nil {
		c.w.t.Fatal(err)
	}
	m2, err := wire.Decode(m.WireType(), b)
	if err != nil {
		c.w.t.Fatal(err)
	}
	deliver := func() {
		if c.w.spy.fromClient != nil {
			c.w.spy.fromClient(c, tid, m2)
		}
		c.w.step(Event{Kind: FromSession, Session: c.key, Tid: uint64(tid), Msg: m2, Instance: c.inst})
	}
	if c.w.hold {
		c.w.later("from "+c.name, deliver)
		return
	}
	deliver()
}

// request sends one and returns its tid.
func (c *capClient) request(q wire.Request) wire.Tid {
	if q.Op.Mutates() {
		c.tid++
		q.Tid = c.tid
	} else {
		c.read++
		q.Tid = c.read | wire.ReadTid
	}
	if q.UID == 0 && q.Mode == 0 {
		q.Mode = 0o644
	}
	c.send(q.Tid, &q)
	return q.Tid
}

// call sends a request that must be answered at once.
func (c *capClient) call(q wire.Request) *wire.Reply {
	c.w.t.Helper()
	tid := c.request(q)
	rep := c.reply[tid]
	if rep == nil {
		c.w.t.Fatalf("%s %v: no answer\n%s", c.name, q.Op, c.w.log.String())
	}
	return rep
}

func (c *capClient) must(q wire.Request) *wire.Reply {
	c.w.t.Helper()
	rep := c.call(q)
	if rep.Errno != 0 {
		c.w.t.Fatalf("%s %v: errno %d", c.name, q.Op, rep.Errno)
	}
	return rep
}

func (c *capClient) logf(f string, a ...any) {
	if !c.quiet {
		c.w.logf("%s "+f, append([]any{c.name}, a...)...)
	}
}

// hear watches Q-a: of one cap, each message has the seq after the one before, but a REVOKE that
// is sent again, and a RANGE, which carry the last one's.
func (c *capClient) hear(st *wire.InodeStat, same bool) {
	k := c.caps[st.Ino]
	if k == nil || k.id != st.Cap.ID || c.deafTo != nil {
		return
	}
	want := k.seq + 1
	if same {
		want = k.seq
	}
	if st.Cap.Seq != want && !(c.loose && st.Cap.Seq > want) {
		c.w.t.Fatalf("Q-a: %s hears seq %d of its cap on %v after %d\n%s", c.name, st.Cap.Seq, st.Ino, k.seq, c.w.log.String())
	}
}

func (c *capClient) install(st *wire.InodeStat) *clientCap {
	if st == nil || st.Cap == nil {
		return nil
	}
	k := c.caps[st.Ino]
	if k == nil || k.id != st.Cap.ID {
		old := k
		k = &clientCap{id: st.Cap.ID}
		if old != nil {
			k.bits = old.bits
		}
		c.caps[st.Ino] = k
	}
	k.seq, k.mseq, k.max, k.barrier = st.Cap.Seq, st.Cap.Mseq, st.Cap.MaxSize, st.Cap.Barrier
	if st.Valid&wire.MaskFile != 0 {
		// While it has had w all along, what it wrote itself may be newer than what the rank says.
		if own := k.size; (k.bits & st.Cap.Pending).Has(caps.FileWr) && st.TruncSeq == k.tseq {
			k.size = max(own, st.Attr.Size)
		} else {
			k.size = st.Attr.Size
		}
	}
	k.tseq = max(k.tseq, st.TruncSeq)
	return k
}

func (c *capClient) receive(tid wire.Tid, m wire.Message) {
	if c.deafTo != nil && c.deafTo(m) {
		return
	}
	switch m := m.(type) {
	case *wire.SessionOpened:
		c.open = m
		c.install(&m.RootStat)
		c.caps[m.RootStat.Ino].bits = m.RootStat.Cap.Pending
	case *wire.Reply:
		if c.reply[m.Tid] != nil {
			return // of a resent request: its caller went home long ago
		}
		c.reply[m.Tid] = m
		for _, st := range []*wire.InodeStat{m.Dir, m.Target} {
			if st != nil && st.Cap != nil {
				c.hear(st, false)
			}
			if k := c.install(st); k != nil {
				if leaving := k.bits &^ st.Cap.Pending; leaving != 0 && !k.pendingAnswer {
					c.answer(st.Ino, k, st.Cap.Pending)
				} else if !k.pendingAnswer {
					k.bits = st.Cap.Pending
				}
			}
		}
		if m.Lease != nil {
			c.lease[fmt.Sprintf("%d/%s", m.Lease.Dir, m.Lease.Name)] = m.Lease.Seq
		}
		if m.Lock.Ticket != 0 {
			c.logf("locked %d", m.Tid&^wire.ReadTid)
		}
	case *wire.CapGrant:
		st := &m.Stat
		k := c.caps[st.Ino]
		if k == nil {
			c.send(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: st.Ino, CapID: st.Cap.ID, Mseq: st.Cap.Mseq, IssueSeq: st.Cap.Seq}}})
			return
		}
		again := ""
		if m.Again {
			again = " again"
		}
		c.logf("%v%s %v", m.Op, again, st.Cap.Pending)
		c.hear(st, m.Again || m.Op == wire.CapRange)
		k = c.install(st)
		if m.Op == wire.CapRange {
			return
		}
		if leaving := k.bits &^ st.Cap.Pending; leaving != 0 || m.Op == wire.CapRevoke {
			if c.mute || c.stuck {
				k.pendingAnswer = true
				return
			}
			c.answer(st.Ino, k, st.Cap.Pending)
			return
		}
		k.bits = st.Cap.Pending
	case *wire.LeaseRevoke:
		delete(c.lease, fmt.Sprintf("%d/%s", m.Dir, m.Name))
		c.logf("lease of %s revoked", m.Name)
		c.lastRevoked = m.Seq
		if !c.mute {
			c.send(0, &wire.LeaseAck{Dir: m.Dir, Name: m.Name, Seq: m.Seq})
		}
	case *wire.Safe:
		c.safe = max(c.safe, m.Tid)
	case *wire.RenewAck:
		c.barrier = max(c.barrier, m.Barrier)
		if m.Stale {
			c.logf("renewed after being stale")
		}
	case *wire.Evicted:
		c.gone = m.Reason
		c.logf("evicted: %s", m.Reason)
	case *wire.SessionClosed:
		c.gone = "closed"
	case *wire.Reconnected:
		c.recon = m
	case *wire.LockQueued:
		c.queued[m.Tid] = m.Ticket
	case *wire.Recall:
		c.logf("recall to %d", m.Max)
	default:
		c.w.t.Fatalf("%s: %T", c.name, m)
	}
}

// answer gives bits up, with what is dirty under them.
func (c *capClient) answer(ino wire.Ino, k *clientCap, keep caps.Bits) {
	leaving := k.bits &^ keep
	k.bits = keep
	k.pendingAnswer = false
	u := &wire.CapUpdate{}
	if d := c.dirty[ino]; d != nil && leaving&(caps.FileWr|caps.FileExcl) != 0 {
		u = d
		delete(c.dirty, ino)
		c.tid++
		u.FlushTid = c.tid
	}
	u.Ino, u.CapID, u.Seq, u.Mseq, u.Retained, u.Wanted = ino, k.id, k.seq, k.mseq, k.bits, c.want[ino]
	c.send(0, u)
}

// wants tells new wishes.
func (c *capClient) wants(ino wire.Ino, b caps.Bits) {
	c.want[ino] = b
	k := c.caps[ino]
	c.send(0, &wire.CapUpdate{Ino: ino, CapID: k.id, Seq: k.seq, Mseq: k.mseq, Retained: k.bits, Wanted: b})
}

// write notes dirty attributes: the data itself went to the objects.
func (c *capClient) write(ino wire.Ino, size uint64) {
	c.w.t.Helper()
	k := c.caps[ino]
	if !k.bits.Has(caps.FileWr) || size > k.max {
		c.w.t.Fatalf("%s writes to %d under %v, max %d", c.name, size, k.bits, k.max)
	}
	c.dirty[ino] = &wire.CapUpdate{Dirty: caps.FileWr, TruncSeq: k.tseq, Set: wire.SetSize | wire.SetMtime,
		Attr: wire.SetAttr{Size: size, Mtime: wire.Time{Sec: c.w.now / 1e9}}}
	k.size = size
	c.w.obj(wire.DataObject(2, ino, 0)).data = make([]byte, size)
}

const (
	wR = caps.FileShared | caps.FileCache | caps.FileRd | caps.AuthShared | caps.XattrShared
	wW = caps.FileShared | caps.FileWr | caps.FileAppend | caps.AuthShared | caps.XattrShared
	wA = wW | caps.FileExcl
)

func (c *capClient) create(name string, want caps.Bits) wire.Ino {
	c.w.t.Helper()
	rep := c.must(wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: name, Mode: 0o644, Want: want})
	c.want[rep.Target.Ino] = want
	return rep.Target.Ino
}

func (c *capClient) openFile(ino wire.Ino, want caps.Bits) *wire.Reply {
	c.w.t.Helper()
	c.want[ino] = want
	return c.must(wire.Request{Op: wire.OpOpen, Ino: ino, Want: want})
}

func (c *capClient) has(ino wire.Ino, want string) {
	c.w.t.Helper()
	if k := c.caps[ino]; k == nil || k.bits.String() != want {
		c.w.t.Fatalf("%s has %v, want %s\n%s", c.name, k, want, c.w.log.String())
	}
}
