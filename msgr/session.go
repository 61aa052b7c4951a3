package msgr

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// Session is a Conn made by DialSession or accepted from one: numbered frames, none lost and
// none doubled while both processes live. Queued counts what the peer has not acknowledged.
type Session = Conn

// LinkWatcher is what a Handler of sessions may implement as well, to show or to measure
// breaks. Nothing has to be done: the session goes on by itself.
type LinkWatcher interface {
	LinkDown(c *Conn, err error)
	LinkUp(c *Conn)
}

// How a session ends without an error of its own; see also ErrUnknownSession.
var (
	ErrGoodbye  = errors.New("the peer ended the session")
	ErrLingered = errors.New("session's peer did not come back")
)

// An acknowledgement of its own is sent when that much has arrived and nothing was sent that
// could carry it.
const (
	ackFrames = 32
	ackBytes  = 64 << 10
)

// session is the lossless part of a Conn; its fields are guarded by Conn.mu.
type session struct {
	id        wire.UUID
	sent      uint64   // number of the last frame
	unacked   [][]byte // frames sent-len+1 … sent, as they are on the wire
	recv      uint64   // number of the last frame received
	acked     uint64   // what the last frame we sent acknowledged
	recvBytes int      // received since
	chunk     []byte   // new frames are encoded here; kept alive by unacked
	expired   bool
	broken    bool // it has lost a stream before
	linger    *time.Timer

	attach sync.Mutex // server: one hello at a time

	dialed    bool
	net       Network
	addr      string
	ctx       context.Context // ends with Close
	cancelCtx context.CancelFunc
	server    *Server
}

func newSession(id wire.UUID) *session {
	s := &session{id: id}
	s.ctx, s.cancelCtx = context.WithCancel(context.Background())
	return s
}

func (s *session) cancel() { s.cancelCtx() }

// send encodes a frame, keeps it and queues it when there is a stream. Frames stay as they
// are: one that is sent again carries an old ack, which does no harm.
func (s *session) send(c *Conn, h *header, m wire.Message, data [][]byte) error {
	h.seq, h.ack = s.sent+1, s.recv
	if need := headerSize + 512 + int(h.dataLen); cap(s.chunk)-len(s.chunk) < need {
		s.chunk = make([]byte, 0, max(need, chunkSize))
	}
	room := s.chunk[len(s.chunk):len(s.chunk):cap(s.chunk)]
	b, err := encode(room, h, m)
	if err != nil {
		return err
	}
	for _, d := range data {
		b = append(b, d...)
	}
	if cap(b) == cap(room) {
		s.chunk = s.chunk[:len(s.chunk)+len(b)]
	}
	s.sent++
	s.acked, s.recvBytes = s.recv, 0
	s.unacked = append(s.unacked, b)
	c.queued.Add(int64(len(b)))
	if c.link != nil {
		c.out.appendSegment(b)
	}
	return nil
}

// control queues a frame that has no number.
func (s *session) control(c *Conn, m wire.Message) {
	if c.link == nil {
		return
	}
	h := headerOf(0, m, nil)
	h.ack = s.recv
	if _, err := c.out.frame(&h, m, nil); err == nil {
		s.acked, s.recvBytes = s.recv, 0
	}
}

func (s *session) goodbye(c *Conn) { s.control(c, &wire.Goodbye{}) }

// forget drops what the peer has.
func (s *session) forget(c *Conn, ack uint64) error {
	first := s.sent - uint64(len(s.unacked)) + 1
	if ack > s.sent {
		return fmt.Errorf("%w: %v acknowledges frame %d, the last one sent is %d", ErrBadFrame, c.peer, ack, s.sent)
	}
	n, freed := 0, 0
	for ; first+uint64(n) <= ack; n++ {
		freed += len(s.unacked[n])
		s.unacked[n] = nil
	}
	if n > 0 {
		s.unacked = s.unacked[n:]
		if len(s.unacked) == 0 {
			s.unacked = nil
		}
		c.queued.Add(int64(-freed))
	}
	return nil
}

// received goes over a batch: acknowledgements are taken, control frames and frames that
// were here already are removed.
func (s *session) received(c *Conn, d *reader) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := 0
	for i := range d.batch[:d.n] {
		h, f := &d.heads[i], &d.batch[i]
		if err == nil {
			err = s.forget(c, h.ack)
		}
		switch {
		case err != nil || h.typ == wire.TSessionAck:
		case h.typ == wire.TGoodbye:
			err = ErrGoodbye
		case h.seq == s.recv+1:
			s.recv++
			s.recvBytes += h.size()
			if keep != i {
				d.batch[keep], *f = *f, Frame{}
			}
			keep++
			continue
		case h.seq == 0 || h.seq > s.recv+1:
			err = fmt.Errorf("%w: %v from %v has number %d, expected %d", ErrBadFrame, h.typ, c.peer, h.seq, s.recv+1)
		}
		if f.pooled {
			Recycle(f.Data)
		}
		*f = Frame{}
	}
	d.n = keep
	return err
}

// ackIfDue is called after a batch was handled, when the replies have been queued.
func (s *session) ackIfDue(c *Conn) {
	c.mu.Lock()
	if s.recv-s.acked >= ackFrames || s.recvBytes >= ackBytes {
		s.control(c, &wire.SessionAck{})
	}
	c.mu.Unlock()
}

// lost is called by the reader when its stream has ended. The dialling side returns with the
// next stream; nil: the reader's work is over.
func (s *session) lost(c *Conn, l *link, err error) *link {
	c.mu.Lock()
	c.link = nil
	s.broken = true
	c.out.reset() // all of it is in unacked
	over := c.closed || c.ended || errors.Is(err, ErrGoodbye)
	if !over && !s.dialed {
		s.linger = time.AfterFunc(c.opt.Linger, func() { s.expire(c) })
	}
	c.mu.Unlock()
	if over {
		close(l.done)
		c.finish(err)
		return nil
	}
	c.opt.Log.Debug().Stringer("peer", c.peer).Err(err).Msg("session lost its stream")
	if w, ok := c.handler.(LinkWatcher); ok {
		w.LinkDown(c, err)
	}
	close(l.done)
	if !s.dialed {
		return nil
	}
	next, err := s.redial(c)
	if err != nil {
		c.finish(err)
		return nil
	}
	return next
}

func (s *session) redial(c *Conn) (*link, error) {
	var b Backoff
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, ErrClosed
		}
		c.mu.Lock()
		sh := wire.SessionHello{ID: s.id, Resume: true, Received: s.recv}
		c.mu.Unlock()
		l, hello, err := connect(s.ctx, s.net, s.addr, c.self, c.opt, sh)
		if err == nil {
			if hello.Instance != c.peer.Instance {
				err = fmt.Errorf("%w: %v answers at %s, the session is with %v", ErrUnknownSession, hello.Instance, s.addr, c.peer.Instance)
			} else {
				err = s.resume(c, l, hello.Session.Received)
			}
			if err == nil {
				return l, nil
			}
			l.nc.Close()
			return nil, err
		}
		if Refused(err) {
			return nil, err
		}
		if !b.Wait(s.ctx) {
			return nil, ErrClosed
		}
	}
}

// resume makes l the session's stream and queues what the peer has not received.
func (s *session) resume(c *Conn, l *link, received uint64) error {
	c.mu.Lock()
	if c.closed || c.ended || s.expired {
		c.mu.Unlock()
		return ErrClosed
	}
	if err := s.forget(c, received); err != nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrUnknownSession, err)
	}
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
	}
	c.out.reset()
	for _, b := range s.unacked {
		c.out.appendSegment(b)
	}
	s.acked = s.recv // the hello said it
	c.link = l
	c.mu.Unlock()
	if w, ok := c.handler.(LinkWatcher); ok && s.broken {
		w.LinkUp(c)
	}
	c.Flush()
	return nil
}

func (s *session) expire(c *Conn) {
	c.mu.Lock()
	if c.link != nil || s.linger == nil {
		c.mu.Unlock()
		return
	}
	s.expired = true
	c.mu.Unlock()
	c.finish(ErrLingered)
}

// end is called once, when the session is over for good.
func (s *session) end(c *Conn) {
	s.cancelCtx()
	c.mu.Lock()
	if s.linger != nil {
		s.linger.Stop()
	}
	s.unacked = nil
	c.mu.Unlock()
	c.queued.Store(0)
	if s.server != nil {
		s.server.drop(c)
	}
}
