package fakerank

import (
	"context"
	"hash/fnv"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// Grants are the bits it gives by default.
const (
	fileBits = caps.AllShared | caps.FileCache | caps.FileRd | caps.FileWr | caps.FileAppend | caps.FileExcl
	dirBits  = caps.AllShared
)

// Pool and ObjectSize of its files.
const (
	Pool       = 2
	ObjectSize = 4 << 20
)

// Rank is the fake; it implements client.Cluster for any number of clients that do not mind
// each other.
type Rank struct {
	Store *Store

	// ValidityMs and KernelMs are V and K.
	ValidityMs, KernelMs uint32
	// ObjectBytes, when set before the first session, replaces ObjectSize.
	ObjectBytes uint32

	mu      sync.Mutex
	inst    wire.Instance
	state   clustermap.RankState
	changed chan struct{}
	nodes   map[wire.Ino]*node
	next    wire.Ino
	capID   uint64
	links   map[*link]bool
	known   map[wire.Instance]bool

	deaf    bool // does not answer renewals
	noSafe  bool // holds the watermark back
	held    map[wire.Op][]func()
	holding map[wire.Op]bool
	deny    map[wire.Ino]caps.Bits // bits not given out
	acks    []*ackWait
	log     []wire.Message // what clients sent, without renewals
	done    map[wire.Tid]bool
	safeTo  wire.Tid
}

type node struct {
	st       wire.InodeStat
	parent   *node
	children map[string]*node
	cap      wire.Cap
	locks    []wire.FileLock
	waiters  []*waiter
}

type waiter struct {
	l   *link
	req *wire.Request
}

type ackWait struct {
	ino   wire.Ino
	lease string // it is a name that was asked for
	id    uint64
	seq   uint32
	done  chan wire.Message
}

// New makes a rank with an empty root directory that everybody may write to.
func New() *Rank {
	r := &Rank{
		Store: NewStore(), ValidityMs: 15000, KernelMs: 5000,
		inst: wire.Instance{Kind: wire.KindMDS, Nonce: 1}, state: clustermap.RankActive, changed: make(chan struct{}),
		nodes: map[wire.Ino]*node{}, next: wire.FirstFreeIno, links: map[*link]bool{}, known: map[wire.Instance]bool{},
		held: map[wire.Op][]func(){}, holding: map[wire.Op]bool{}, deny: map[wire.Ino]caps.Bits{}, done: map[wire.Tid]bool{},
	}
	n := r.make(nil, 0040777, &wire.Request{})
	n.st.Ino = wire.RootIno
	n.st.Attr.Nlink = 2
	delete(r.nodes, r.next)
	r.nodes[wire.RootIno] = n
	return r
}

// ---- client.Cluster --------------------------------------------------------------------

// Rank implements client.Ranks.
func (r *Rank) Rank(wire.Rank) (string, wire.Instance, clustermap.RankState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "fake", r.inst, r.state
}

// Changed implements client.Ranks.
func (r *Rank) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Objects implements client.Cluster.
func (r *Rank) Objects(wire.Instance) client.Objects { return r.Store }

type link struct {
	r    *Rank
	self wire.Instance
	recv client.Receiver
	mu   sync.Mutex
	in   []wire.Message
	out  []wire.Message
	wake chan struct{}
	quit chan struct{}
	once sync.Once
}

// Dial implements client.Cluster.
func (r *Rank) Dial(_ context.Context, _ string, self wire.Instance, recv client.Receiver) (client.Link, error) {
	l := &link{r: r, self: self, recv: recv, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	r.mu.Lock()
	r.links[l] = true
	r.mu.Unlock()
	go l.run()
	return l, nil
}

func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Send copies the message by encoding it, as a wire would.
func (l *link) Send(_ uint64, m wire.Message) error {
	b, err := wire.Append(nil, m)
	if err != nil {
		return err
	}
	c, err := wire.Decode(m.WireType(), b)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.in = append(l.in, c)
	l.mu.Unlock()
	return nil
}

func (l *link) Flush() { l.poke() }
func (l *link) Close() { l.once.Do(func() { close(l.quit) }) }

func (l *link) send(m wire.Message) {
	b, err := wire.Append(nil, m)
	if err != nil {
		panic(err)
	}
	c, err := wire.Decode(m.WireType(), b)
	if err != nil {
		panic(err)
	}
	l.mu.Lock()
	l.out = append(l.out, c)
	l.mu.Unlock()
	l.poke()
}

func (l *link) run() {
	for {
		select {
		case <-l.wake:
		case <-l.quit:
			l.r.mu.Lock()
			delete(l.r.links, l)
			l.r.mu.Unlock()
			l.recv.Closed(nil)
			return
		}
		l.mu.Lock()
		in := l.in
		l.in = nil
		l.mu.Unlock()
		l.r.mu.Lock()
		for _, m := range in {
			l.r.handle(l, m)
		}
		l.r.mu.Unlock()
		l.mu.Lock()
		out := l.out
		l.out = nil
		l.mu.Unlock()
		if len(out) > 0 {
			l.recv.Messages(out)
		}
	}
}

// ---- hooks -----------------------------------------------------------------------------

// HoldOp parks requests of op until the returned function runs them.
func (r *Rank) HoldOp(op wire.Op) (release func()) {
	r.mu.Lock()
	r.holding[op] = true
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.holding[op] = false
		h := r.held[op]
		delete(r.held, op)
		for _, f := range h {
			f()
		}
		r.mu.Unlock()
	}
}

// Held is how many requests of op are parked.
func (r *Rank) Held(op wire.Op) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.held[op])
}

// Revoke takes bits of ino back from all clients and returns where the answer will come:
// the CapUpdate or CapRelease. Until Allow the bits are not given out again.
func (r *Rank) Revoke(ino wire.Ino, bits caps.Bits) <-chan wire.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodes[ino]
	r.deny[ino] |= bits
	n.cap.Pending &^= bits
	n.cap.Seq++
	w := &ackWait{ino: ino, id: n.cap.ID, seq: n.cap.Seq, done: make(chan wire.Message, 1)}
	r.acks = append(r.acks, w)
	c := n.cap
	for l := range r.links {
		l.send(&wire.CapGrant{Op: wire.CapRevoke, Stat: wire.InodeStat{Ino: ino, Cap: &c}})
	}
	return w.done
}

// RevokeLease asks all clients for the lease on a name and returns where the answer will come.
func (r *Rank) RevokeLease(dir wire.Ino, name string) <-chan wire.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &ackWait{ino: dir, lease: name, done: make(chan wire.Message, 1)}
	r.acks = append(r.acks, w)
	for l := range r.links {
		l.send(&wire.LeaseRevoke{Dir: dir, Name: name})
	}
	return w.done
}

// Allow ends a Revoke's ban and grants everything.
func (r *Rank) Allow(ino wire.Ino) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.deny, ino)
	n := r.nodes[ino]
	if n == nil || n.cap.ID == 0 {
		return
	}
	st := r.stat(n)
	for l := range r.links {
		l.send(&wire.CapGrant{Op: wire.CapGrantOp, Stat: *st})
	}
}

// Change edits the truth behind the clients' backs.
func (r *Rank) Change(ino wire.Ino, f func(st *wire.InodeStat)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.nodes[ino].st)
}

// Attr is the truth.
func (r *Rank) Attr(ino wire.Ino) wire.Attr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[ino].st.Attr
}

// MakeFiles makes directory dir with empty files, of which no client has heard, and returns their
// numbers.
func (r *Rank) MakeFiles(dir string, names ...string) (inos []wire.Ino) {
	r.mu.Lock()
	defer r.mu.Unlock()
	root := r.nodes[wire.RootIno]
	d := r.make(root, syscall.S_IFDIR|0o755, &wire.Request{})
	root.children[dir] = d
	root.st.Attr.Nlink++
	for _, name := range names {
		f := r.make(d, syscall.S_IFREG|0o644, &wire.Request{})
		d.children[name] = f
		inos = append(inos, f.st.Ino)
	}
	return inos
}

// Locks is how many locks and waiters ino has.
func (r *Rank) Locks(ino wire.Ino) (held, waiting int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.nodes[ino].locks), len(r.nodes[ino].waiters)
}

// SetSafe holds the watermark back, or lets it go.
func (r *Rank) SetSafe(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noSafe = !on
	if on {
		for l := range r.links {
			l.send(&wire.Safe{Tid: r.safeTo})
		}
	}
}

// SetDeaf makes it ignore renewals.
func (r *Rank) SetDeaf(on bool) {
	r.mu.Lock()
	r.deaf = on
	r.mu.Unlock()
}

// Fail replaces the rank by a successor that remembers what keep says and asks for the rest.
func (r *Rank) Fail(knowSessions bool) {
	r.mu.Lock()
	r.inst.Nonce++
	if !knowSessions {
		clear(r.known)
	}
	for _, n := range r.nodes {
		n.cap = wire.Cap{}
		n.locks, n.waiters = nil, nil
	}
	clear(r.held)
	links := r.links
	r.links = map[*link]bool{}
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	for l := range links {
		l.Close()
	}
}

// Evict tells every client that it is gone.
func (r *Rank) Evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.known)
	for _, n := range r.nodes {
		n.cap = wire.Cap{}
		n.locks = nil
	}
	for l := range r.links {
		l.send(&wire.Evicted{Reason: "test"})
	}
}

// Sent is what the clients sent so far, renewals left out.
func (r *Rank) Sent() []wire.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Wait polls for a condition; tests have no better way to see a request arrive.
func Wait(what func() bool) bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if what() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// ---- the rank --------------------------------------------------------------------------

func (r *Rank) make(parent *node, mode uint32, q *wire.Request) *node {
	now := wire.TimeOf(time.Now())
	n := &node{parent: parent, st: wire.InodeStat{
		Ino: r.next, Pool: Pool, ObjectSize: ObjectSize, Target: q.Target,
		Attr: wire.Attr{Mode: mode, UID: q.UID, GID: q.GID, Nlink: 1, Rdev: q.Rdev, Atime: now, Mtime: now, Ctime: now, Btime: now},
	}}
	if r.ObjectBytes != 0 {
		n.st.ObjectSize = r.ObjectBytes
	}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.children = map[string]*node{}
		n.st.Attr.Nlink = 2
	}
	if n.st.Attr.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		n.st.Attr.Size = uint64(len(q.Target))
	}
	if parent != nil && parent.st.Attr.Mode&syscall.S_ISGID != 0 {
		n.st.Attr.GID = parent.st.Attr.GID
		if n.children != nil {
			n.st.Attr.Mode |= syscall.S_ISGID
		}
	}
	if q.GivenIno != 0 {
		n.st.Ino = q.GivenIno
	} else {
		r.next++
	}
	r.nodes[n.st.Ino] = n
	return n
}

func (r *Rank) stat(n *node) *wire.InodeStat {
	st := n.st
	st.Valid = wire.MaskAll
	st.HasXattrs = true
	if n.cap.ID == 0 {
		r.capID++
		n.cap = wire.Cap{ID: r.capID}
	}
	bits := fileBits
	if n.children != nil {
		bits = dirBits
		st.Attr.Size = uint64(len(n.children))
	}
	n.cap.Pending |= bits &^ r.deny[st.Ino]
	n.cap.Seq++
	n.cap.MaxSize = max(n.cap.MaxSize, 2*st.Attr.Size+uint64(st.ObjectSize))
	c := n.cap
	st.Cap = &c
	return &st
}

func (r *Rank) handle(l *link, m wire.Message) {
	if m.WireType() != wire.TRenew {
		r.log = append(r.log, m)
	}
	switch m := m.(type) {
	case *wire.SessionOpen:
		r.known[l.self] = true
		l.send(&wire.SessionOpened{
			RankInstance: r.inst, ValidityMs: r.ValidityMs, KernelMs: r.KernelMs, LayoutPool: Pool, ObjectSize: ObjectSize,
			RootStat: *r.stat(r.nodes[wire.RootIno]),
		})
	case *wire.SessionClose:
		l.send(&wire.SessionClosed{})
	case *wire.Renew:
		if !r.deaf {
			l.send(&wire.RenewAck{Seq: m.Seq})
		}
	case *wire.Request:
		if r.holding[m.Op] {
			r.held[m.Op] = append(r.held[m.Op], func() { r.request(l, m) })
			return
		}
		r.request(l, m)
	case *wire.CapUpdate:
		r.update(l, m)
	case *wire.CapRelease:
		for _, c := range m.Caps {
			r.ack(c.Ino, c.CapID, c.IssueSeq, m)
			if n := r.nodes[c.Ino]; n != nil && n.cap.ID == c.CapID && n.cap.Seq == c.IssueSeq {
				n.cap = wire.Cap{}
			}
		}
	case *wire.LeaseAck:
		for i, w := range r.acks {
			if w.ino == m.Dir && w.lease == m.Name {
				w.done <- m
				r.acks = slices.Delete(r.acks, i, i+1)
				break
			}
		}
	case *wire.LockCancel:
		n := r.nodes[m.Ino]
		for i, w := range n.waiters {
			if w.req.Tid == m.Tid {
				n.waiters = slices.Delete(n.waiters, i, i+1)
				l.send(&wire.Reply{Tid: m.Tid, Errno: uint32(syscall.EINTR)})
				break
			}
		}
	case *wire.Reconnect:
		if !r.known[l.self] {
			if m.Last {
				l.send(&wire.Reconnected{Known: false, RankInstance: r.inst})
			}
			return
		}
		for _, c := range m.Caps {
			if n := r.nodes[c.Ino]; n != nil {
				st := r.stat(n)
				l.send(&wire.CapGrant{Op: wire.CapGrantOp, Stat: *st})
			}
		}
		for _, k := range m.Locks {
			if n := r.nodes[k.Ino]; n != nil && !k.Waiting {
				n.locks = append(n.locks, k.Lock)
			} else if n != nil {
				n.waiters = append(n.waiters, &waiter{l, &wire.Request{Tid: k.Tid, Op: wire.OpSetlk, Ino: k.Ino, Lock: k.Lock}})
			}
		}
		if m.Last {
			l.send(&wire.Reconnected{Known: true, RankInstance: r.inst})
		}
	}
}

func (r *Rank) ack(ino wire.Ino, id uint64, seq uint32, m wire.Message) {
	for i, w := range r.acks {
		if w.ino == ino && w.lease == "" && w.id == id && seq >= w.seq {
			w.done <- m
			r.acks = slices.Delete(r.acks, i, i+1)
			return
		}
	}
}

func (r *Rank) safe(l *link, t wire.Tid) {
	r.safeTo = max(r.safeTo, t)
	if !r.noSafe {
		l.send(&wire.Safe{Tid: r.safeTo})
	}
}

func (r *Rank) update(l *link, u *wire.CapUpdate) {
	n := r.nodes[u.Ino]
	if n == nil {
		return
	}
	if u.Dirty != 0 {
		a := &n.st.Attr
		if u.TruncSeq == n.st.TruncSeq && u.Set&wire.SetSize != 0 {
			a.Size = max(a.Size, u.Attr.Size)
		}
		if u.Set&wire.SetMtime != 0 {
			a.Mtime = wire.MaxTime(a.Mtime, u.Attr.Mtime)
		}
		a.Sparse = a.Sparse || u.Set&wire.SetSparse != 0
		a.Ctime = wire.MaxTime(a.Ctime, u.Attr.Ctime)
	}
	if u.FlushTid != 0 {
		r.safe(l, u.FlushTid)
	}
	if u.CapID != n.cap.ID {
		return
	}
	if u.Seq == n.cap.Seq {
		n.cap.Pending &= u.Retained
	}
	if u.WantMax > 0 {
		n.cap.MaxSize = max(n.cap.MaxSize, 2*(u.WantMax+1))
		c := n.cap
		l.send(&wire.CapGrant{Op: wire.CapRange, Stat: wire.InodeStat{Ino: u.Ino, Cap: &c}})
	}
	r.ack(u.Ino, u.CapID, u.Seq, u)
	if miss := u.Wanted & fileBits &^ n.cap.Pending &^ r.deny[u.Ino]; miss != 0 && n.children == nil {
		l.send(&wire.CapGrant{Op: wire.CapGrantOp, Stat: *r.stat(n)})
	}
}

// dirChanged takes Fs back from nobody: it is generous. Its own client learns by replies.
func touch(n *node) {
	now := wire.TimeOf(time.Now())
	n.st.Attr.Mtime, n.st.Attr.Ctime = now, now
}

func cookie(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()>>1 | 4
}

func (r *Rank) request(l *link, q *wire.Request) {
	rep := &wire.Reply{Tid: q.Tid}
	defer func() {
		if rep == nil {
			return
		}
		if q.Op.Mutates() && rep.Errno == 0 {
			rep.Early = q.Flags&wire.ReqReplay == 0
			l.send(rep)
			if q.Flags&wire.ReqReplay == 0 {
				r.safe(l, q.Tid)
			}
			return
		}
		l.send(rep)
	}()
	for i := range q.Release {
		r.update(l, &q.Release[i])
	}
	n := r.nodes[q.Ino]
	if n == nil {
		rep.Errno = uint32(syscall.ESTALE)
		return
	}
	if q.Flags&wire.ReqReplay != 0 && r.done[q.Tid] {
		return
	}
	if e := r.exec(l, q, n, rep); e == errParked {
		rep = nil
	} else if e != 0 {
		rep.Errno = uint32(e)
	} else if q.Op.Mutates() {
		r.done[q.Tid] = true
	}
}

const errParked = syscall.Errno(1 << 20)
