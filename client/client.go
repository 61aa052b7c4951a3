package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/boottime"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// What ends a call besides the rank's own errno, which travels as syscall.Errno.
var (
	ErrInterrupted = errors.New("client: abandoned by its caller")
	ErrLost        = errors.New("client: the session was lost, with what it had not yet made durable")
	ErrClosed      = errors.New("client: closed")
	ErrObject      = errors.New("client: the object store failed")
)

// Link is a lossless ordered session with one rank. Send queues; Flush lets it go.
type Link interface {
	Send(tid uint64, m wire.Message) error
	Flush()
	Close()
}

// Receiver gets what a Link brings: batches in order, then Closed once.
type Receiver interface {
	Messages(batch []wire.Message)
	Closed(err error)
}

// Ranks says where a rank is; one that there should not be is in state none. Changed is closed at
// the next change.
type Ranks interface {
	Rank(r wire.Rank) (addr string, inst wire.Instance, state clustermap.RankState)
	Changed() <-chan struct{}
}

// ObjDone gets the outcome of an object operation: err for transport-level ends only.
type ObjDone func(errno uint32, res []wire.ObjResult, err error)

// Objects is the object store as this instance sees it; *objecter.Objecter through an adapter.
type Objects interface {
	Submit(obj wire.ObjectID, ops []wire.ObjOp, barrier wire.Epoch, done ObjDone)
	// Waiting names a PG that an operation on one of these objects waits for.
	Waiting(about func(wire.ObjectID) bool) (wire.PGID, bool)
	Close()
}

// Cluster is everything a client needs of the world outside.
type Cluster interface {
	Ranks
	Dial(ctx context.Context, addr string, self wire.Instance, r Receiver) (Link, error)
	Objects(self wire.Instance) Objects // called again with a new instance after an eviction
}

// Notifier is told what the kernel's caches may not keep. Calls come without a lock of this
// package. Attrs never blocks (F2); Pages may, until page I/O of the inode is answered (F1).
type Notifier interface {
	Attrs(ino wire.Ino)
	Pages(ino wire.Ino)
	Prune(ino wire.Ino) // drop it if nobody uses it
}

// Config of a Client.
type Config struct {
	Cluster Cluster
	Host    string // for people: host name and mountpoint
	Log     zerolog.Logger
	Wrong   wrong.Set // seeded bugs, for scoring test suites
	MaxIdle int       // inodes kept that the kernel has forgotten; 0: 8192

	DirtyExpire time.Duration // buffered data and times are durable after this; 0: 1 s
	DirtyMax    int64         // bytes buffered at most, of all files; 0: 64 MiB; negative: none
	WantedDelay time.Duration // an open file without I/O for so long wants no caps any more; 0: 5 s

	Now func() int64 // nil: CLOCK_BOOTTIME in ns; scenes bring their own
}

// Caller says for whom a call is made and how it may be given up: Cancel is closed when a
// signal arrived, and only if Killed then says so is the wait abandoned (B9).
type Caller struct {
	UID, GID, PID uint32
	Cancel        <-chan struct{}
	Killed        func(pid uint32) bool

	Op  string   // for people: the kernel's request …
	Ino wire.Ino // … and its object
	why reason   // what it is about to sleep for
}

// Client is one mount's sessions, cache and I/O. Its methods may be called from any goroutine.
type Client struct {
	cfg Config
	log zerolog.Logger
	now func() int64 // ns of a clock that runs on while the machine sleeps

	mu       sync.Mutex
	inst     wire.Instance
	gen      uint64 // lives of the client: an eviction by any rank begins a new one
	objects  Objects
	notifier Notifier
	namer    Namer // the same one, if its kernel can be trusted with names

	inodes   map[wire.Ino]*Inode
	root     *Inode
	idle     lruList // nobody uses them, and the kernel has forgotten them
	byKernel lruList // the kernel knows them, and nobody has them open; no directories

	rank0    *session
	sessions []*session // with each rank that was ever asked, by rank
	kernel   int64      // K, ns: as the ranks say
	barrier  wire.Epoch // the highest that any of them named
	wb       writeback

	toldDirs map[*Inode]struct{} // whose names the kernel may trust
	answers  uint64              // with timeouts of names, so far
	ncaps    int                 // caps held: inodes with a cap id
	dirty    map[*Inode]struct{} // have fields to flush or a wanted to lower
	closed   chan struct{}
	closing  bool
	wg       sync.WaitGroup

	sleepers sleepers

	wrong wrong.Set // seeded bugs: see wrong.go
	lies  lies
}

// New makes a client and opens its session; it returns when the rank has answered.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.MaxIdle == 0 {
		cfg.MaxIdle = 8192
	}
	if cfg.DirtyExpire == 0 {
		cfg.DirtyExpire = time.Second
	}
	if cfg.DirtyMax == 0 {
		cfg.DirtyMax = 64 << 20
	}
	if cfg.WantedDelay == 0 {
		cfg.WantedDelay = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = boottime.Now
	}
	c := &Client{
		cfg: cfg, log: cfg.Log, now: cfg.Now,
		inodes:   map[wire.Ino]*Inode{},
		dirty:    map[*Inode]struct{}{},
		toldDirs: map[*Inode]struct{}{},
		closed:   make(chan struct{}),
		gen:      1,
		wrong:    cfg.Wrong,
		wb:       writeback{bufs: map[*Inode]struct{}{}},
	}
	c.idle.init()
	c.byKernel.init()
	c.sleepers.init()
	c.inst = newInstance()
	c.objects = cfg.Cluster.Objects(c.inst)
	c.mu.Lock()
	c.rank0 = c.sessionWith(0)
	c.root = c.inodeFor(wire.RootIno)
	c.root.refs++
	c.mu.Unlock()
	c.wg.Add(1)
	go c.runTicks()
	for {
		c.mu.Lock()
		ch, ok := c.rank0.sess.wait(), c.rank0.state == sessOpen
		c.mu.Unlock()
		if ok {
			return c, nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			c.abandon()
			return nil, ctx.Err()
		}
	}
}

func newInstance() wire.Instance {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	n := binary.LittleEndian.Uint64(b[:])
	return wire.Instance{Kind: wire.KindClient, Num: uint32(n >> 40), Nonce: n}
}

// SetNotifier connects the kernel; before it is set there is none.
func (c *Client) SetNotifier(n Notifier) {
	c.mu.Lock()
	c.notifier = n
	c.namer, _ = n.(Namer)
	c.mu.Unlock()
}

// Instance is who this client is at present.
func (c *Client) Instance() wire.Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inst
}

// Close flushes, gives everything back and ends the session. ctx bounds how long it tries.
func (c *Client) Close(ctx context.Context) error {
	err := c.Sync(ctx)
	c.mu.Lock()
	for in := range c.dirty {
		in.opens = opens{}
		c.tellWanted(in)
	}
	for _, in := range c.inodes {
		if in.cap.id != 0 && !in.dirty && in.flushing == 0 {
			in.at.releases = append(in.at.releases, wire.ReleasedCap{Ino: in.ino, CapID: in.cap.id, Mseq: in.cap.mseq, IssueSeq: in.cap.seq})
			in.noCap()
		}
	}
	c.closing = true
	open := slices.Clone(c.sessions)
	for _, s := range open {
		s.sendReleases()
		if s.state == sessOpen {
			s.send(0, &wire.SessionClose{})
		}
	}
	c.unlockFlush()
	for _, s := range open {
		for err == nil {
			c.mu.Lock()
			ch, done := s.sess.wait(), s.state != sessOpen
			c.mu.Unlock()
			if done {
				break
			}
			select {
			case <-ch:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
	}
	c.abandon()
	return err
}

// abandon ends the client without a word to anybody.
func (c *Client) abandon() {
	c.mu.Lock()
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	var links []Link
	for _, s := range c.sessions {
		if s.link != nil {
			links = append(links, s.link)
			s.link = nil
		}
	}
	c.mu.Unlock()
	for _, l := range links {
		l.Close()
	}
	c.wg.Wait()
	c.objects.Close()
}

// runTicks flushes what is old enough, lowers what is no longer wanted, sends
// releases, renews, and notices when the process was stopped.
func (c *Client) runTicks() {
	defer c.wg.Done()
	period := c.tickPeriod()
	t := time.NewTicker(period)
	defer t.Stop()
	last := c.now()
	for {
		select {
		case <-t.C:
		case <-c.closed:
			return
		}
		c.watchTold()
		now := c.now()
		c.mu.Lock()
		if k := c.kernel; now-last > int64(period)+k/10 && k > 0 {
			c.wasStopped(last, now)
		}
		last = now
		for _, s := range c.sessions {
			s.renewIfDue(now)
		}
		c.tickData(now)
		for in := range c.dirty {
			c.tickInode(in, now)
		}
		for _, s := range c.sessions {
			s.sendReleases()
		}
		c.unlockFlush()
	}
}

// wasStopped handles a process that stood still: a reply whose timeout was computed before
// may have been written after, so what the kernel was told lately is taken back (B6).
func (c *Client) wasStopped(before, now int64) {
	n := c.notifier
	if n == nil {
		return
	}
	c.expireAll()
	var inos []wire.Ino
	for _, in := range c.inodes {
		if in.attrUntil != 0 && in.attrUntil+int64(now-before) > now {
			inos = append(inos, in.ino)
			in.attrUntil = 0
		}
	}
	go func() {
		for _, i := range inos {
			n.Attrs(i)
		}
	}()
}

// event is something that can be waited for again and again: wait returns a channel that
// the next wake closes.
type event struct{ ch chan struct{} }

func (e *event) wait() <-chan struct{} {
	if e.ch == nil {
		e.ch = make(chan struct{})
	}
	return e.ch
}

func (e *event) wake() {
	if e.ch != nil {
		close(e.ch)
		e.ch = nil
	}
}

// sleep waits for ch, or until the caller is killed, or for ever.
func (c *Client) sleep(k *Caller, ch <-chan struct{}) error {
	w := c.lieDown(k)
	defer c.getUp(k, w)
	select {
	case <-ch:
		return nil
	case <-k.Cancel:
	case <-c.closed:
		return ErrClosed
	}
	// A signal, once: the kernel tells of the first only, so look for a SIGKILL from time to time.
	for d := 10 * time.Millisecond; ; d = min(2*d, 300*time.Millisecond) {
		if k.Killed == nil || k.Killed(k.PID) {
			return ErrInterrupted
		}
		t := time.NewTimer(d)
		select {
		case <-ch:
			t.Stop()
			return nil
		case <-c.closed:
			t.Stop()
			return ErrClosed
		case <-t.C:
		}
	}
}

// await unlocks, waits for ch and locks again.
func (c *Client) await(k *Caller, ch <-chan struct{}) error {
	c.unlockFlush()
	err := c.sleep(k, ch)
	c.mu.Lock()
	return err
}

const (
	eIO     = syscall.EIO
	eNOENT  = syscall.ENOENT
	eSTALE  = syscall.ESTALE
	eNODATA = syscall.ENODATA
)
