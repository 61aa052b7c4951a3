package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/scene"
	"github.com/capstan-fs/capstan/wire"
)

// rank is the far end of the session: it prints what it hears and says what the scene says.
// Only the handshake and the renewals it does by itself, until told not to.
type rank struct {
	w *world

	mu      sync.Mutex
	inst    wire.Instance
	self    wire.Instance // of the client, now
	state   clustermap.RankState
	changed chan struct{}
	link    *link
	manual  bool // SessionOpen and Reconnect are answered by the scene
	deaf    bool // renewals are not answered

	nodes    map[wire.Ino]*node
	nextIno  wire.Ino
	capID    uint64
	asked    []*wire.Request // unanswered
	renewal  uint64          // last one heard
	declared []*wire.Reconnect
}

// node is an inode with the one cap that the client has on it.
type node struct {
	ino     wire.Ino
	attr    wire.Attr
	tseq    uint32
	id      uint64
	seq     uint32
	pending caps.Bits
	max     uint64
}

func newRank(w *world) *rank {
	r := &rank{
		w: w, inst: wire.Instance{Kind: wire.KindMDS, Nonce: 1}, state: clustermap.RankActive,
		changed: make(chan struct{}), nodes: map[wire.Ino]*node{}, nextIno: 0x1000,
	}
	r.nodes[wire.RootIno] = &node{ino: wire.RootIno, attr: wire.Attr{Mode: 0o40755, Nlink: 2}, max: 1 << 22}
	return r
}

func (r *rank) make(name string, dir bool, size uint64) wire.Ino {
	n := &node{ino: r.nextIno, attr: wire.Attr{Mode: 0o100644, Nlink: 1, Size: size}, max: 1 << 22}
	if dir {
		n.attr.Mode, n.attr.Nlink = 0o40755, 2
	}
	r.nextIno++
	r.nodes[n.ino] = n
	r.w.mu.Lock()
	r.w.names[n.ino] = name
	r.w.mu.Unlock()
	r.w.inos[name] = n.ino
	return n.ino
}

// show is n with a cap of these bits; the next seq.
func (r *rank) show(n *node, b caps.Bits, valid wire.AttrMask) *wire.InodeStat {
	if n.id == 0 {
		r.capID++
		n.id, n.seq = r.capID, 0
	}
	n.seq++
	n.pending = b
	return &wire.InodeStat{
		HasXattrs: valid&wire.MaskXattr != 0 && b.Has(caps.XattrShared),
		Ino:       n.ino, Valid: valid, Attr: n.attr, Pool: 2, ObjectSize: 1 << 22, TruncSeq: n.tseq,
		Cap: &wire.Cap{ID: n.id, Seq: n.seq, Pending: b, MaxSize: n.max},
	}
}

// ---- Cluster ---------------------------------------------------------------------------

func (r *rank) Rank(wire.Rank) (string, wire.Instance, clustermap.RankState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "rank", r.inst, r.state
}

func (r *rank) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *rank) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *rank) Objects(self wire.Instance) Objects {
	if self == r.self {
		r.w.say("client goes on as the instance that was fenced")
	}
	r.self = self
	r.w.lives++
	if r.w.lives > 1 {
		r.w.say("client begins life %d", r.w.lives)
		// The map that shows the fence ends the old life's operations, with a lock held that
		// making a new line to the store takes.
		ended := make(chan struct{})
		go func() {
			r.w.store.finish("", ErrClosed)
			close(ended)
		}()
		<-ended
	}
	return handle{r.w.store, r.w.lives}
}

type link struct {
	r    *rank
	recv Receiver
	once sync.Once
}

func (r *rank) Dial(_ context.Context, _ string, _ wire.Instance, recv Receiver) (Link, error) {
	l := &link{r: r, recv: recv}
	r.mu.Lock()
	r.link = l
	r.mu.Unlock()
	return l, nil
}

func (l *link) Flush() {}
func (l *link) Close() { l.once.Do(func() { go l.recv.Closed(nil) }) }

// Send is called under the client's lock: answers leave from goroutines.
func (l *link) Send(_ uint64, m wire.Message) error {
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link != l {
		return nil
	}
	r.hear(l, m)
	return nil
}

func (r *rank) tell(m wire.Message) {
	r.mu.Lock()
	l := r.link
	r.mu.Unlock()
	if l == nil {
		panic("the rank has no session")
	}
	l.recv.Messages([]wire.Message{m})
}

// ---- what it hears -----------------------------------------------------------------------

func (r *rank) hear(l *link, m wire.Message) {
	switch m := m.(type) {
	case *wire.SessionOpen:
		if r.manual {
			r.w.say("session open")
			return
		}
		go l.recv.Messages([]wire.Message{r.opened()})
	case *wire.Renew:
		r.renewal = m.Seq
		if !r.deaf {
			go l.recv.Messages([]wire.Message{&wire.RenewAck{Seq: m.Seq}})
		}
	case *wire.Request:
		for i := range m.Release {
			r.w.say("  inline %s", r.update(&m.Release[i]))
		}
		q := *m
		r.asked = slices.DeleteFunc(r.asked, func(o *wire.Request) bool { return o.Tid == m.Tid })
		r.asked = append(r.asked, &q)
		r.w.say("%s", r.request(m))
	case *wire.CapUpdate:
		r.w.say("%s", r.update(m))
	case *wire.CapRelease:
		list := m.Caps
		slices.SortFunc(list, func(a, b wire.ReleasedCap) int { return int(a.Ino) - int(b.Ino) })
		var out []string
		for _, c := range list {
			out = append(out, fmt.Sprintf("%s@%d", r.w.name(c.Ino), c.IssueSeq))
		}
		r.w.say("release %s", strings.Join(out, " "))
	case *wire.CapBusy:
		r.w.say("busy %s pg %v", r.w.name(m.Ino), m.PG)
	case *wire.LeaseAck:
		r.w.say("lease of %s/%s given back", r.w.name(m.Dir), m.Name)
	case *wire.LockCancel:
		r.w.say("cancel %s of %s", tid(m.Tid), r.w.name(m.Ino))
	case *wire.Reconnect:
		r.reconnect(m)
	default:
		r.w.say("%T", m)
	}
}

func (r *rank) opened() *wire.SessionOpened {
	return &wire.SessionOpened{
		RankInstance: r.inst, ValidityMs: 15000, KernelMs: 5000, LayoutPool: 2, ObjectSize: 1 << 22,
		RootStat: *r.show(r.nodes[wire.RootIno], caps.AllShared&^caps.FileShared, wire.MaskAll),
	}
}

func tid(t wire.Tid) string {
	if t&wire.ReadTid != 0 {
		return fmt.Sprintf("r%d", t&^wire.ReadTid)
	}
	return fmt.Sprintf("%d", t)
}

func (r *rank) request(m *wire.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v %s", tid(m.Tid), m.Op, r.w.name(m.Ino))
	if m.Name != "" {
		b.WriteString("/" + m.Name)
	}
	if m.Xname != "" {
		b.WriteString(" " + m.Xname)
	}
	if m.Op == wire.OpSetattr && m.Set&wire.SetSize != 0 {
		fmt.Fprintf(&b, " size=%d", m.Attr.Size)
	}
	if m.Op == wire.OpSetlk {
		what := [...]string{"unlock", "shared", "lock"}[m.Lock.Type]
		fmt.Fprintf(&b, " %s owner=%d", what, m.Lock.Owner)
		if m.Lock.Start != 0 || m.Lock.End != EndOfFile {
			fmt.Fprintf(&b, " %d-%d", m.Lock.Start, m.Lock.End)
		}
		if m.Lock.Wait {
			b.WriteString(" wait")
		}
	}
	if m.Want != 0 {
		fmt.Fprintf(&b, " want %v", m.Want)
	}
	if m.Flags&wire.ReqReplay != 0 {
		b.WriteString(" replay")
	}
	if m.Flags&wire.ReqRetry != 0 {
		b.WriteString(" retry")
	}
	if m.GivenIno != 0 && m.Flags != 0 {
		b.WriteString(" given " + r.w.name(m.GivenIno))
	}
	return b.String()
}

// update prints an UPDATE and shrinks the node's bound as Q-b has it.
func (r *rank) update(u *wire.CapUpdate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "update %s@%d keeps %v wants %v", r.w.name(u.Ino), u.Seq, u.Retained, u.Wanted)
	if u.WantMax != 0 {
		fmt.Fprintf(&b, " max %d", u.WantMax)
	}
	if u.FlushTid != 0 {
		fmt.Fprintf(&b, " flush %s size=%d", tid(u.FlushTid), u.Attr.Size)
		if n := r.nodes[u.Ino]; n != nil && u.TruncSeq == n.tseq {
			n.attr.Size = max(n.attr.Size, u.Attr.Size)
		}
	}
	if u.Replay {
		b.WriteString(" replay")
	}
	if n := r.nodes[u.Ino]; n != nil && u.CapID == n.id && u.Seq == n.seq {
		n.pending &= u.Retained
	}
	return b.String()
}

func (r *rank) reconnect(m *wire.Reconnect) {
	slices.SortFunc(m.Caps, func(a, b wire.ReconnectCap) int { return int(a.Ino) - int(b.Ino) })
	for _, c := range m.Caps {
		if c.Ino != wire.RootIno {
			r.w.say("declares %s %v", r.w.name(c.Ino), c.Issued)
		}
	}
	for _, l := range m.Locks {
		what := "holds"
		if l.Waiting {
			what = "waits for, as " + tid(l.Tid) + ","
			r.asked = append(r.asked, &wire.Request{Tid: l.Tid, Op: wire.OpSetlk, Ino: l.Ino, Lock: l.Lock})
		}
		more := ""
		if l.Lock.Start != 0 || l.Lock.End != EndOfFile {
			more += fmt.Sprintf(" %d-%d", l.Lock.Start, l.Lock.End)
		}
		if l.Lock.Type == wire.LockRead {
			more += " shared"
		}
		if l.Waiting && l.Lock.Ticket != 0 {
			more += fmt.Sprintf(" with ticket %d", l.Lock.Ticket)
		}
		if l.WaitedUs > 0 {
			more += fmt.Sprintf(" for %d ms", l.WaitedUs/1000)
		}
		r.w.say("declares that owner %d %s %s%s", l.Lock.Owner, what, r.w.name(l.Ino), more)
	}
	if m.Last {
		r.w.say("declares no more, oldest %s", tid(m.Oldest))
	}
}

// ---- what it says ------------------------------------------------------------------------

// take removes the oldest unanswered request of op.
func (r *rank) take(op wire.Op) *wire.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, q := range r.asked {
		if q.Op == op {
			r.asked = slices.Delete(r.asked, i, i+1)
			return q
		}
	}
	panic(fmt.Sprintf("no %v is unanswered", op))
}

func groups4(s string) (m wire.AttrMask) {
	if s == "" {
		return wire.MaskAll
	}
	for i, l := range "ALXF" {
		if strings.ContainsRune(s, l) {
			m |= 1 << i
		}
	}
	return m
}

// reply answers a request: `reply create ino=a caps=pFs early`. What it names and the world
// does not know yet is made.
func (r *rank) reply(cmd scene.Command, opName string, num func(string, uint64) uint64) {
	var op wire.Op
	for o := wire.OpLookup; o <= wire.OpGetvxattr; o++ {
		if o.String() == opName {
			op = o
		}
	}
	q := r.take(op)
	m := &wire.Reply{Tid: q.Tid, Early: cmd.Has("early"), Safe: wire.Tid(num("safe", 0)), End: true}
	bits := func(key string, n *node) caps.Bits {
		if cmd.Opt(key) == "" {
			return n.pending
		}
		b, err := caps.Parse(cmd.Opt(key))
		if err != nil {
			panic(err)
		}
		return b
	}
	if e := cmd.Opt("errno"); e != "" {
		m.Errno = uint32(map[string]syscall.Errno{"ENOENT": syscall.ENOENT, "EAGAIN": syscall.EAGAIN, "EINTR": syscall.EINTR, "ESTALE": syscall.ESTALE, "ENODATA": syscall.ENODATA}[e])
	}
	if cmd.Opt("dir") != "" {
		d := r.nodes[q.Ino]
		m.Dir = r.show(d, bits("dir", d), groups4(cmd.Opt("dirvalid")))
	}
	target := q.Ino
	if name := cmd.Opt("ino"); name != "" {
		i, ok := r.w.inos[name]
		if !ok {
			i = r.make(name, op == wire.OpMkdir, 0)
		}
		target = i
	} else if q.Name != "" {
		target = 0
	}
	if n := r.nodes[target]; n != nil && m.Errno == 0 && op != wire.OpSetlk && op != wire.OpReaddir {
		if op == wire.OpSetattr && q.Set&wire.SetSize != 0 {
			n.attr.Size = q.Attr.Size
			n.tseq++
		}
		if op == wire.OpSetattr && q.Set&wire.SetMode != 0 {
			n.attr.Mode = n.attr.Mode&^0o7777 | q.Attr.Mode
		}
		n.attr.Size = num("size", n.attr.Size)
		n.attr.Nlink = uint32(num("nlink", uint64(n.attr.Nlink)))
		m.Target = r.show(n, bits("caps", n), groups4(cmd.Opt("valid")))
		if x := cmd.Opt("xattr"); x != "" {
			k, v, _ := strings.Cut(x, ":")
			m.Target.HasXattrs, m.Target.Xattrs = true, []wire.KV{{Key: k, Val: []byte(v)}}
		}
	}
	if cmd.Has("lease") {
		m.Lease = &wire.Lease{Dir: q.Ino, Name: q.Name, Ino: target, Seq: 1}
	}
	for i, name := range cmd.List("entries") {
		m.Entries = append(m.Entries, wire.DirEntry{Name: name, Ino: wire.Ino(0x9000 + i), Mode: 0o100000, Cookie: q.Cookie + uint64(i) + 10})
	}
	m.End = !cmd.Has("more")
	r.tell(m)
}

func (r *rank) command(cmd scene.Command, arg func(int) string, num func(string, uint64) uint64, ino func(int) wire.Ino) {
	cap := func(op wire.CapOp, again bool) {
		n := r.nodes[ino(1)]
		b, err := caps.Parse(arg(2))
		if err != nil {
			panic(err)
		}
		if again {
			n.seq--
		}
		if cmd.Has("anew") {
			n.id = 0
		}
		if n.id == 0 && op == wire.CapRevoke {
			n.id = num("id", 0)
		}
		n.max = num("max", n.max)
		n.attr.Size = num("size", n.attr.Size)
		valid := wire.AttrMask(0)
		if op == wire.CapGrantOp {
			valid = groups4(cmd.Opt("valid"))
		}
		st := r.show(n, b, valid)
		st.Cap.Barrier = wire.Epoch(num("barrier", 0))
		r.tell(&wire.CapGrant{Op: op, Again: again, Stat: *st})
	}
	switch arg(0) {
	case "grants":
		cap(wire.CapGrantOp, false)
	case "revokes": // to what is left
		cap(wire.CapRevoke, cmd.Has("again"))
	case "ranges":
		n := r.nodes[ino(1)]
		n.max = num("max", 0)
		r.tell(&wire.CapGrant{Op: wire.CapRange, Stat: wire.InodeStat{Ino: n.ino, Cap: &wire.Cap{ID: n.id, Seq: n.seq, Pending: n.pending, MaxSize: n.max}}})
	case "forgets": // a release, or a declared cap that it cannot place
		r.nodes[ino(1)].id = 0
	case "safe":
		r.tell(&wire.Safe{Tid: wire.Tid(num("to", 0))})
	case "queues": // the oldest of the locks that wait
		q := r.take(wire.OpSetlk)
		r.asked = append([]*wire.Request{q}, r.asked...)
		r.tell(&wire.LockQueued{Tid: q.Tid, Ticket: num("ticket", 0)})
	case "recalls":
		r.tell(&wire.Recall{Max: uint32(num("max", 0))})
	case "takes-lease":
		r.tell(&wire.LeaseRevoke{Dir: ino(1), Name: arg(2), Seq: 1})
	case "is":
		r.mu.Lock()
		r.deaf = arg(1) == "deaf"
		r.mu.Unlock()
	case "renews":
		r.mu.Lock()
		s := r.renewal
		r.deaf = false
		r.mu.Unlock()
		r.tell(&wire.RenewAck{Seq: s, Stale: cmd.Has("stale")})
	case "evicts":
		clear(r.asked)
		r.asked = nil
		for _, n := range r.nodes {
			n.id, n.seq = 0, 0
		}
		r.tell(&wire.Evicted{Reason: "scene"})
	case "dies": // a successor takes over, with caps of its own; it answers by `rank knows`
		r.mu.Lock()
		r.inst.Nonce++
		r.link = nil
		r.asked = nil
		for _, n := range r.nodes {
			n.id, n.seq, n.pending = 0, 0, 0
		}
		r.state = clustermap.RankReconnect
		if cmd.Has("silently") {
			r.state = clustermap.RankFailed
		}
		r.change()
		r.mu.Unlock()
	case "returns":
		r.mu.Lock()
		r.state = clustermap.RankReconnect
		r.change()
		r.mu.Unlock()
	case "knows": // the session
		r.mu.Lock()
		r.state = clustermap.RankActive
		r.change()
		r.mu.Unlock()
		r.tell(&wire.Reconnected{Known: true, RankInstance: r.inst})
	case "knows-nobody":
		r.mu.Lock()
		r.state = clustermap.RankActive
		r.change()
		r.mu.Unlock()
		r.tell(&wire.Reconnected{RankInstance: r.inst})
	default:
		panic("the rank cannot do that")
	}
}
