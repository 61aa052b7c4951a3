package msgr

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/wire"
)

// Server accepts connections and sessions on one listener.
type Server struct {
	l      net.Listener
	self   Peer
	accept func(*Conn) Handler
	opt    Options
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept loop and readers

	mu       sync.Mutex
	closed   bool
	conns    map[*Conn]struct{}
	sessions map[sessionKey]*Conn
}

type sessionKey struct {
	instance wire.Instance
	id       wire.UUID
}

// Serve accepts on l until Close. accept is called when a peer has said who it is, before it
// gets an answer; nil refuses the peer.
func Serve(l net.Listener, self Peer, accept func(*Conn) Handler, log zerolog.Logger) *Server {
	return ServeWith(l, self, accept, Options{Log: log})
}

// ServeWith is Serve with options.
func ServeWith(l net.Listener, self Peer, accept func(*Conn) Handler, opt Options) *Server {
	s := &Server{l: l, self: self, accept: accept, opt: opt.withDefaults(),
		conns: map[*Conn]struct{}{}, sessions: map[sessionKey]*Conn{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Add(1)
	go s.loop()
	return s
}

// Addr is the listener's address.
func (s *Server) Addr() string { return s.l.Addr().String() }

func (s *Server) loop() {
	defer s.wg.Done()
	var b Backoff
	for {
		nc, err := s.l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: others may close some.
			s.opt.Log.Warn().Err(err).Str("addr", s.Addr()).Msg("cannot accept connections")
			if !b.Wait(s.ctx) {
				return
			}
			continue
		}
		b.Reset()
		s.wg.Add(1)
		go s.meet(nc)
	}
}

// meet does the hello with one stream and then reads it.
func (s *Server) meet(nc net.Conn) {
	defer s.wg.Done()
	l := newLink(nc)
	var c *Conn
	err := withDeadline(s.ctx, nc, s.opt.HelloTimeout, func() (err error) {
		c, err = s.answer(l)
		return err
	})
	if err != nil {
		nc.Close()
		s.opt.Log.Debug().Err(err).Stringer("from", nc.RemoteAddr()).Msg("no connection came about")
		if c != nil {
			c.finish(err)
			s.drop(c)
		}
		return
	}
	if c.sess == nil {
		c.mu.Lock()
		c.link = l
		if c.closed {
			l.cause = ErrClosed
			nc.Close()
		}
		c.mu.Unlock()
		c.Flush() // what accept has queued
	}
	c.run(l)
	if c.sess == nil {
		s.drop(c)
	}
}

// answer reads the peer's hello and answers it. A Conn with an error must be finished.
func (s *Server) answer(l *link) (*Conn, error) {
	m, err := hear(l)
	if err != nil {
		return nil, err
	}
	hello, ok := m.(*wire.Hello)
	if !ok {
		return nil, s.refuse(l, &wire.HelloRefused{Code: wire.RefusedProtocol, Reason: "the first frame was no hello"})
	}
	if r := check(s.self, s.opt, hello); r != nil {
		return nil, s.refuse(l, r)
	}
	l.rd.known(s.opt.Limits)
	sh := hello.Session
	if sh.Resume {
		return s.resume(l, hello)
	}
	c := newConn(s.self, peerOf(hello), s.opt.Features&hello.Features, s.opt)
	if !sh.ID.IsZero() {
		c.sess = newSession(sh.ID)
		c.sess.server = s
	}
	if c.handler = s.accept(c); c.handler == nil {
		return nil, s.refuse(l, &wire.HelloRefused{Code: wire.RefusedByUser, Reason: s.self.String() + " does not accept " + c.peer.String()})
	}
	if !s.add(c) {
		return c, ErrClosed
	}
	if err := say(l.nc, helloOf(s.self, s.opt, wire.SessionHello{ID: sh.ID})); err != nil {
		return c, err
	}
	if c.sess != nil {
		return c, c.sess.resume(c, l, 0)
	}
	return c, nil
}

// resume gives a known session its new stream. The old one may not have noticed yet that it
// is broken; its reader must be out of the way before we can say what was received. With an
// error the session lives on and waits for the next stream.
func (s *Server) resume(l *link, hello *wire.Hello) (*Conn, error) {
	s.mu.Lock()
	c := s.sessions[sessionKey{hello.Instance, hello.Session.ID}]
	s.mu.Unlock()
	unknown := &wire.HelloRefused{Code: wire.RefusedUnknownSession,
		Reason: s.self.String() + " does not know session " + hello.Session.ID.String()}
	if c == nil {
		return nil, s.refuse(l, unknown)
	}
	c.sess.attach.Lock()
	defer c.sess.attach.Unlock()
	c.mu.Lock()
	old := c.link
	c.mu.Unlock()
	if old != nil {
		c.breakLink(old, errors.New("the peer opened a new stream"))
		<-old.done
	}
	c.mu.Lock()
	received, gone := c.sess.recv, c.closed || c.ended || c.sess.expired || hello.Session.Received > c.sess.sent
	c.mu.Unlock()
	if gone {
		return nil, s.refuse(l, unknown)
	}
	answer := wire.SessionHello{ID: hello.Session.ID, Resume: true, Received: received}
	if err := say(l.nc, helloOf(s.self, s.opt, answer)); err != nil {
		return nil, err
	}
	if err := c.sess.resume(c, l, hello.Session.Received); err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Server) refuse(l *link, r *wire.HelloRefused) error {
	if err := say(l.nc, r); err != nil {
		return err
	}
	return refusal(r)
}

func (s *Server) add(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	if c.sess != nil {
		s.sessions[sessionKey{c.peer.Instance, c.sess.id}] = c
	}
	return true
}

func (s *Server) drop(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.sess != nil {
		delete(s.sessions, sessionKey{c.peer.Instance, c.sess.id})
	}
}

// Close stops accepting, closes every connection and waits for their handlers. It must not
// be called by a handler.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return
	}
	s.closed = true
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	s.cancel()
	s.l.Close()
	for _, c := range conns {
		c.Close()
	}
	s.wg.Wait()
}
