package objecter

import (
	"context"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// line is the connection with one life of one OSD, or the attempt to make it.
type line struct {
	o    *Objecter
	id   wire.OSDID
	inst wire.Instance
	addr string
	conn *msgr.Conn // nil: being dialed
	dead bool       // the map has no such life any more
	shy  time.Time  // until then it is asked for nothing as a member
}

// lineTo finds or starts the line; called with mu held.
func (o *Objecter) lineTo(d clustermap.OSD) *line {
	if l := o.lines[d.ID]; l != nil && l.inst == d.Instance {
		return l
	}
	l := &line{o: o, id: d.ID, inst: d.Instance, addr: d.Addr}
	o.lines[d.ID] = l
	o.wg.Add(1)
	go l.dial()
	return l
}

// dial tries until it succeeds or the map moves on.
func (l *line) dial() {
	o := l.o
	defer o.wg.Done()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		ctx, cancel := context.WithTimeout(o.ctx, 5*time.Second)
		c, err := msgr.Dial(ctx, o.cfg.Net, l.addr, o.cfg.Self, l)
		cancel()
		if err == nil && c.Peer().Instance != l.inst {
			o.cfg.Log.Info().Stringer("osd", l.inst).Stringer("found", c.Peer().Instance).Msg("another life answers at this address")
			c.Close()
			err = msgr.ErrClosed
		}
		o.mu.Lock()
		if o.closed || l.dead || o.lines[l.id] != l {
			o.mu.Unlock()
			if err == nil {
				c.Close()
			}
			return
		}
		if err == nil {
			l.conn = c
			o.resend(func(q *op) bool { return q.line == l })
			return
		}
		o.mu.Unlock()
		o.cfg.Log.Debug().Err(err).Stringer("osd", l.inst).Str("addr", l.addr).Msg("dial")
		select {
		case <-time.After(wait):
		case <-o.ctx.Done():
			return
		}
	}
}

func (l *line) flush() {
	l.o.mu.Lock()
	c := l.conn
	l.o.mu.Unlock()
	if c != nil {
		c.Flush()
	}
}

// Frames implements msgr.Handler.
func (l *line) Frames(_ *msgr.Conn, batch []msgr.Frame) {
	for i := range batch {
		l.o.answered(l, &batch[i])
	}
}

// Closed implements msgr.Handler: whatever was on this connection goes to a new one.
func (l *line) Closed(c *msgr.Conn, _ error) {
	o := l.o
	o.mu.Lock()
	if l.conn != c || o.closed {
		o.mu.Unlock()
		return
	}
	if o.lines[l.id] == l {
		delete(o.lines, l.id)
	}
	l.dead = true
	o.resend(func(q *op) bool {
		q.spread = q.spread && q.line != l // the primary may be well
		return q.line == l
	})
}
