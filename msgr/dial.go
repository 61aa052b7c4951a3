package msgr

import (
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// Dial connects to addr. h may be called before Dial returns.
func Dial(ctx context.Context, net Network, addr string, self Peer, h Handler) (*Conn, error) {
	return DialWith(ctx, net, addr, self, h, Options{})
}

// DialWith is Dial with options.
func DialWith(ctx context.Context, net Network, addr string, self Peer, h Handler, opt Options) (*Conn, error) {
	opt = opt.withDefaults()
	l, hello, err := connect(ctx, net, addr, self, opt, wire.SessionHello{})
	if err != nil {
		return nil, err
	}
	c := newConn(self, peerOf(hello), opt.Features&hello.Features, opt)
	c.handler, c.link = h, l
	go c.run(l)
	return c, nil
}

// DialSession opens a lossless session: a Conn that survives breaks of its stream and redials
// until the peer refuses or Close is called.
func DialSession(ctx context.Context, net Network, addr string, self Peer, h Handler, opt Options) (*Session, error) {
	opt = opt.withDefaults()
	var id wire.UUID
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	l, hello, err := connect(ctx, net, addr, self, opt, wire.SessionHello{ID: id})
	if err != nil {
		return nil, err
	}
	c := newConn(self, peerOf(hello), opt.Features&hello.Features, opt)
	c.handler, c.link = h, l
	c.sess = newSession(id)
	c.sess.dialed, c.sess.net, c.sess.addr = true, net, addr
	go c.run(l)
	return c, nil
}

// connect opens a stream and does the hello.
func connect(ctx context.Context, net Network, addr string, self Peer, opt Options, sh wire.SessionHello) (*link, *wire.Hello, error) {
	nc, err := net.Dial(ctx, addr)
	if err != nil {
		return nil, nil, fmt.Errorf("msgr: dial %s: %w", addr, err)
	}
	l := newLink(nc)
	hello, err := greet(ctx, l, self, opt, sh)
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("msgr: hello with %s: %w", addr, err)
	}
	l.rd.known(opt.Limits)
	return l, hello, nil
}

// Redial dials until it succeeds, ctx ends or the peer refuses.
func Redial(ctx context.Context, net Network, addr string, self Peer, h Handler, opt Options) (*Conn, error) {
	var b Backoff
	for {
		c, err := DialWith(ctx, net, addr, self, h, opt)
		if err == nil || Refused(err) {
			return c, err
		}
		if !b.Wait(ctx) {
			return nil, err
		}
	}
}

// Backoff spaces attempts: each wait is about twice the last one, with jitter so that a
// hundred clients do not come back in step. The zero value begins at 20 ms and ends at 2 s.
type Backoff struct {
	Min, Max time.Duration
	last     time.Duration
}

// Next is the next wait.
func (b *Backoff) Next() time.Duration {
	if b.Min == 0 {
		b.Min = 20 * time.Millisecond
	}
	if b.Max == 0 {
		b.Max = 2 * time.Second
	}
	b.last = min(max(2*b.last, b.Min), b.Max)
	return b.last/2 + mrand.N(b.last/2+1)
}

// Reset begins anew after a success.
func (b *Backoff) Reset() { b.last = 0 }

// Wait waits; false: ctx ended first.
func (b *Backoff) Wait(ctx context.Context) bool {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
