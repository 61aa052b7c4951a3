package msgr

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/capstan-fs/capstan/wire"
)

// Peer is what a hello says of one side.
type Peer struct {
	Instance wire.Instance
	Addr     string    // where it listens; empty: nowhere
	Cluster  wire.UUID // zero: not known yet
}

func (p Peer) String() string {
	if p.Addr == "" {
		return p.Instance.String()
	}
	return p.Instance.String() + " at " + p.Addr
}

// Handler receives what arrives on a connection. Both methods run on the connection's reader
// goroutine, one at a time, and must not wait for the network: replies are queued with Send
// and leave together when Frames returns.
type Handler interface {
	// Frames gets up to 64 frames in order. The slice and every Frame.Data belong to the
	// reader again when it returns.
	Frames(c *Conn, batch []Frame)
	// Closed is called once, after the last Frames. ErrClosed: this side closed it.
	Closed(c *Conn, err error)
}

// Errors of Send and Closed.
var (
	ErrClosed = errors.New("connection closed")
	ErrFull   = errors.New("output queue full")
)

// Conn is one connection to a peer. Its methods may be called by any goroutine.
type Conn struct {
	self     Peer
	peer     Peer
	features uint64
	opt      Options
	handler  Handler
	user     atomic.Pointer[any]
	queued   atomic.Int64

	mu     sync.Mutex
	link   *link // nil: a session between two streams
	out    *queue
	spare  *queue
	closed bool // by this side
	ended  bool // Closed was or is being called
	sess   *session
}

// link is one stream of a Conn. Writing belongs to whoever set the flag.
type link struct {
	nc      net.Conn
	rd      reader
	wr      tryWriter // nil: only blocking writes
	writing bool      // guarded by Conn.mu
	done    chan struct{}
	cause   error // why it was broken from this side; guarded by Conn.mu
}

func newLink(nc net.Conn) *link {
	l := &link{nc: nc, wr: tryWriterOf(nc), done: make(chan struct{})}
	l.rd.init(nc, helloLimits)
	return l
}

func newConn(self, peer Peer, features uint64, opt Options) *Conn {
	return &Conn{self: self, peer: peer, features: features, opt: opt, out: &queue{}, spare: &queue{}}
}

// Peer is the other side, as its hello said.
func (c *Conn) Peer() Peer { return c.peer }

// Self is this side.
func (c *Conn) Self() Peer { return c.self }

// Features are those that both sides have.
func (c *Conn) Features() uint64 { return c.features }

// Lossless reports whether c is a session.
func (c *Conn) Lossless() bool { return c.sess != nil }

// SetUser attaches the shell's own state; User returns it, or nil.
func (c *Conn) SetUser(v any) { c.user.Store(&v) }

// User returns what SetUser stored.
func (c *Conn) User() any {
	if p := c.user.Load(); p != nil {
		return *p
	}
	return nil
}

// Queued is how many bytes wait: to be written or, in a session, to be acknowledged. The
// shell decides what too many are; above Options.MaxQueued Send refuses.
func (c *Conn) Queued() int { return int(c.queued.Load()) }

func (c *Conn) String() string { return fmt.Sprintf("connection with %v", c.peer) }

// Send encodes m and queues it; Flush, or the return of Handler.Frames, writes it. Data
// slices are read until they are written: the caller must not change them any more.
func (c *Conn) Send(tid uint64, m wire.Message, data ...[]byte) error {
	h := headerOf(tid, m, data)
	if int(h.dataLen) > c.opt.Limits.Data {
		return fmt.Errorf("msgr: send %v to %v: %w: %d bytes of data", h.typ, c.peer, ErrTooLarge, h.dataLen)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(&h, m, data)
}

// SendOwned is Send of data that came from Buffer and that nobody else knows: it is recycled
// when it has been written. When Send refuses, or the stream breaks, the collector gets it.
func (c *Conn) SendOwned(tid uint64, m wire.Message, data ...[]byte) error {
	if c.sess != nil {
		return c.Send(tid, m, data...) // kept until the peer acknowledges it
	}
	h := headerOf(tid, m, data)
	return c.sendOwned(&h, m, data)
}

// SendSummed is SendOwned of data whose crc32c (Castagnoli) the caller knows.
func (c *Conn) SendSummed(tid uint64, m wire.Message, crc uint32, data []byte) error {
	if c.sess != nil {
		return c.Send(tid, m, data)
	}
	h := header{typ: m.WireType(), tid: tid, dataLen: uint32(len(data)), dataCRC: crc}
	return c.sendOwned(&h, m, [][]byte{data})
}

func (c *Conn) sendOwned(h *header, m wire.Message, data [][]byte) error {
	if int(h.dataLen) > c.opt.Limits.Data {
		return fmt.Errorf("msgr: send %v to %v: %w: %d bytes of data", h.typ, c.peer, ErrTooLarge, h.dataLen)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.sendLocked(h, m, data); err != nil {
		return err
	}
	c.out.owned = append(c.out.owned, data...)
	return nil
}

func (c *Conn) sendLocked(h *header, m wire.Message, data [][]byte) error {
	if c.closed || c.ended {
		return fmt.Errorf("msgr: send %v to %v: %w", h.typ, c.peer, ErrClosed)
	}
	if c.queued.Load() > int64(c.opt.MaxQueued) {
		return fmt.Errorf("msgr: send %v to %v: %w: %d bytes", h.typ, c.peer, ErrFull, c.queued.Load())
	}
	if c.sess != nil {
		return c.sess.send(c, h, m, data)
	}
	n, err := c.out.frame(h, m, data)
	c.queued.Add(int64(n))
	return err
}

// SendNow is Send and Flush.
func (c *Conn) SendNow(tid uint64, m wire.Message, data ...[]byte) error {
	if err := c.Send(tid, m, data...); err != nil {
		return err
	}
	c.Flush()
	return nil
}

// Flush writes what the stream takes at once and leaves the rest to a goroutine. It never
// waits for the peer.
func (c *Conn) Flush() {
	c.mu.Lock()
	l := c.link
	if l == nil || l.writing || c.out.empty() {
		c.mu.Unlock()
		return
	}
	l.writing = true
	for rounds := 0; ; rounds++ {
		q := c.takeLocked()
		c.mu.Unlock()
		// Other senders may keep the queue filled for ever; nobody is to write for them all. Nor is
		// whoever flushes to copy megabytes: it may be the one who serves everybody.
		if l.wr == nil || rounds > 3 || q.bytes > readSize*4 {
			go c.writeRest(l, q)
			return
		}
		n, err := l.wr.tryWrite(q.rest())
		q.advance(n)
		c.wrote(n)
		if err != nil {
			c.breakLink(l, err)
			return
		}
		if !q.empty() {
			go c.writeRest(l, q)
			return
		}
		c.mu.Lock()
		if c.writtenLocked(l, q) {
			c.mu.Unlock()
			return
		}
	}
}

// writeRest is the writer goroutine: it waits for the stream, and ends with the queue.
func (c *Conn) writeRest(l *link, q *queue) {
	for {
		for !q.empty() {
			n, err := writeBlocking(l, q.rest())
			q.advance(n)
			c.wrote(n)
			if err != nil {
				c.breakLink(l, err)
				return // l.writing stays set: nobody writes to a broken link
			}
		}
		c.mu.Lock()
		if c.writtenLocked(l, q) {
			c.mu.Unlock()
			return
		}
		q = c.takeLocked()
		c.mu.Unlock()
	}
}

// writeBlocking writes the first segments, up to a large one.
func writeBlocking(l *link, segs [][]byte) (int, error) {
	if l.wr != nil {
		k := 1
		for k < len(segs) && k < maxIovecs && len(segs[k-1]) < quick {
			k++
		}
		if segs = segs[:k]; k == 1 {
			return l.nc.Write(segs[0])
		}
	}
	bufs := net.Buffers(append([][]byte(nil), segs...))
	n, err := bufs.WriteTo(l.nc)
	return int(n), err
}

func (c *Conn) wrote(n int) {
	if c.sess == nil {
		c.queued.Add(int64(-n))
	}
}

func (c *Conn) takeLocked() *queue {
	q := c.out
	if c.spare != nil {
		c.out, c.spare = c.spare, nil
	} else {
		c.out = &queue{}
	}
	return q
}

// writtenLocked ends the writing of q and reports whether the writer may go.
func (c *Conn) writtenLocked(l *link, q *queue) bool {
	q.reset()
	c.spare = q
	if c.link == l && !c.out.empty() {
		return false
	}
	l.writing = false
	return true
}

// breakLink ends a stream from this side; its reader notices and does the rest.
func (c *Conn) breakLink(l *link, err error) {
	c.mu.Lock()
	if l.cause == nil {
		l.cause = err
	}
	c.mu.Unlock()
	l.nc.Close()
}

// Close ends the connection. What is queued is offered to the stream once and not waited
// for. Handler.Closed follows with ErrClosed, from the reader; Close does not wait for it.
func (c *Conn) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	if c.sess != nil && !c.ended {
		c.sess.goodbye(c)
	}
	c.closed = true
	l := c.link
	c.mu.Unlock()
	c.Flush()
	if c.sess != nil {
		c.sess.cancel()
	}
	if l != nil {
		c.breakLink(l, ErrClosed)
	} else if c.sess != nil && !c.sess.dialed {
		go c.finish(ErrClosed) // nobody reads; the handler may hold its lock just now
	}
}

// finish tells the handler, once.
func (c *Conn) finish(err error) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	if c.closed {
		err = ErrClosed
	}
	c.mu.Unlock()
	if c.sess != nil {
		c.sess.end(c)
	}
	c.handler.Closed(c, err)
}
