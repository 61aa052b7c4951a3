package server

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

const peerQueue = 256 // messages kept while a line is dialed; the core repeats the rest

// peerLine is the way to one life of another OSD. Each side dials its own.
type peerLine struct {
	d       *Daemon
	id      wire.OSDID
	inst    wire.Instance
	addr    string
	conn    *msgr.Conn
	dialing bool
	refused bool // its host says that nobody listens
	queue   []osd.Send
	retryAt time.Time
}

// sendPeer is best effort; called with mu held.
func (d *Daemon) sendPeer(s *osd.Send) {
	o, ok := d.m.OSD(s.To)
	if !ok {
		return
	}
	p := d.peers[s.To]
	if p == nil || p.inst != o.Instance {
		if p != nil && p.conn != nil {
			p.conn.Close()
		}
		p = &peerLine{d: d, id: s.To, inst: o.Instance, addr: o.Addr}
		d.peers[s.To] = p
	}
	if p.conn != nil {
		err := p.conn.Send(0, s.Msg, s.Data...)
		if err == nil {
			d.touch(p.conn)
		}
		if !errors.Is(err, msgr.ErrClosed) {
			return
		}
		p.conn = nil // Closed may have come before dial had taken it, and comes no more
	}
	if len(p.queue) < peerQueue {
		p.queue = append(p.queue, *s)
	}
	p.redial()
}

// redial dials unless that is under way or was tried a moment ago; called with mu held.
func (p *peerLine) redial() {
	if p.dialing || p.d.closed || time.Now().Before(p.retryAt) {
		return
	}
	p.dialing = true
	p.d.wg.Add(1)
	go p.dial()
}

func (p *peerLine) dial() {
	d := p.d
	defer d.wg.Done()
	ctx, cancel := context.WithTimeout(d.ctx, 3*time.Second)
	c, err := msgr.DialWith(ctx, d.cfg.Net, p.addr, d.self, p, lineOptions(d.cfg.Log))
	cancel()
	if err == nil && c.Peer().Instance != p.inst {
		c.Close()
		err = msgr.ErrClosed
	}
	d.mu.Lock()
	p.dialing = false
	p.refused = err != nil && errors.Is(err, syscall.ECONNREFUSED)
	if err != nil || d.closed || d.peers[p.id] != p {
		p.retryAt = time.Now().Add(200 * time.Millisecond)
		p.queue = nil // older than the next resend by then
		if o, ok := d.m.OSD(p.id); p.refused && ok && o.Instance == p.inst && d.peers[p.id] == p && !d.closed {
			d.reportFailure(p.id) // of this life; the map may know the next one by now
		}
		d.mu.Unlock()
		if err == nil {
			c.Close()
		}
		return
	}
	p.conn = c
	for i := range p.queue {
		_ = c.Send(0, p.queue[i].Msg, p.queue[i].Data...)
	}
	p.queue = nil
	d.mu.Unlock()
	c.Flush()
}

// Frames implements msgr.Handler: nothing is sent back on this line.
func (p *peerLine) Frames(*msgr.Conn, []msgr.Frame) {}

// Closed implements msgr.Handler. A process that died closes its streams at once, and its
// host refuses the next: who asks then knows of the death without waiting for heartbeats.
func (p *peerLine) Closed(c *msgr.Conn, _ error) {
	d := p.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.conn != c {
		return
	}
	p.conn = nil
	if o, ok := d.m.OSD(p.id); ok && o.Up && o.Instance == p.inst && d.peers[p.id] == p {
		p.redial()
	}
}
