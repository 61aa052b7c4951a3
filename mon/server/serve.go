package server

import (
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

const tickEvery = 100 * time.Millisecond

// conn is a daemon's or client's connection while this monitor leads.
type conn struct {
	id ConnID
	c  *msgr.Conn

	// Guarded by Daemon.mu.
	subscribed bool
	osd        wire.Epoch // newest sent
	fs         wire.Epoch
	mon        wire.Epoch
}

// ConnID names a connection to the core.
type ConnID = mon.ConnID

// proposal waits for raft.
type proposal struct {
	term uint64
	mon.Proposal
}

type verifyJob struct{ term, n uint64 }

type handler struct{ d *Daemon }

func (d *Daemon) accept(*msgr.Conn) msgr.Handler { return handler{d} }

// Frames steps the core through a batch under one lock.
func (h handler) Frames(c *msgr.Conn, batch []msgr.Frame) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range batch {
		f := &batch[i]
		if h.quorum(c, f) {
			continue
		}
		if d.leader == nil {
			_ = c.Send(f.Tid, &wire.MonNotLeader{Leader: d.leaderAddr()})
			continue
		}
		cn := d.known(c)
		if m, ok := f.Msg.(*wire.MonSubscribe); ok {
			d.subscribe(cn, m, f.Tid)
			continue
		}
		d.step(mon.Message{From: cn.id, Peer: c.Peer().Instance, Tid: f.Tid, Msg: f.Msg})
	}
	d.flushAll(c)
}

// quorum answers what monitors ask each other. Letting one in takes several commits, so a
// goroutine does it; the joiner asks one question at a time.
func (h handler) quorum(c *msgr.Conn, f *msgr.Frame) bool {
	switch m := f.Msg.(type) {
	case *wire.MonHello:
		_ = c.Send(f.Tid, h.d.standing())
	case *wire.MonJoin:
		if h.d.leader == nil {
			return false
		}
		tid := f.Tid
		h.d.loop(func() { _ = c.SendNow(tid, h.d.admit(m)) })
	default:
		return false
	}
	return true
}

// Closed tells the core.
func (h handler) Closed(c *msgr.Conn, _ error) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	cn, ok := c.User().(*conn)
	if !ok || d.conns[cn.id] != cn {
		return
	}
	delete(d.conns, cn.id)
	delete(d.flush, cn)
	if d.leader != nil {
		d.step(mon.Gone{From: cn.id})
		d.flushAll(nil)
	}
}

// known gives a connection its number, anew after each change of leadership.
func (d *Daemon) known(c *msgr.Conn) *conn {
	if cn, ok := c.User().(*conn); ok && d.conns[cn.id] == cn {
		return cn
	}
	d.lastID++
	cn := &conn{id: d.lastID, c: c}
	c.SetUser(cn)
	d.conns[cn.id] = cn
	return cn
}

// step runs the core and does what it wants; with mu held.
func (d *Daemon) step(ev mon.Event) {
	eff := d.leader.Step(d.now(), ev)
	for _, s := range eff.Send {
		if cn := d.conns[s.To]; cn != nil {
			_ = cn.c.Send(s.Tid, s.Msg) // a connection that broke asks again on its next one
			d.flush[cn] = struct{}{}
		}
	}
	for _, p := range eff.Propose {
		d.queue = append(d.queue, proposal{term: d.term, Proposal: p})
	}
	if len(eff.Propose) > 0 {
		poke(d.queued)
	}
	if eff.Verify != 0 {
		d.job = verifyJob{d.term, eff.Verify} // the core asks for one at a time; one of an earlier term is moot
		poke(d.verify)
	}
}

// flushAll writes to every connection that got something, except the one whose reader does.
func (d *Daemon) flushAll(own *msgr.Conn) {
	for cn := range d.flush {
		if cn.c != own {
			cn.c.Flush()
		}
		delete(d.flush, cn)
	}
}

// event steps the core from one of the loops, if it is still the one meant.
func (d *Daemon) event(term uint64, ev mon.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leader == nil || term != d.term {
		return
	}
	d.step(ev)
	d.flushAll(nil)
}

// proposer hands proposals to raft, all that are queued at once, and their outcomes to the
// core in raft's order.
func (d *Daemon) proposer() {
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.queued:
		}
		d.mu.Lock()
		ps := d.queue
		d.queue = nil
		d.mu.Unlock()
		type future interface {
			Error() error
			Response() any
		}
		fs := make([]future, len(ps))
		for i, p := range ps {
			d.log.Debug().Stringer("change", p.Change).Msg("proposed")
			fs[i] = d.raft.Load().Apply(mon.EncodeChange(p.Change), 0)
		}
		for i, f := range fs {
			ev := mon.Committed{ID: ps[i].ID}
			if ev.Err = f.Error(); ev.Err == nil {
				a := f.Response().(applied)
				ev.State, ev.Err = a.state, a.err
				if a.err != nil {
					d.log.Debug().Err(a.err).Msg("refused")
				} else {
					d.log.Debug().Stringer("change", ps[i].Change).Uint64("osd", uint64(a.state.OSD.Epoch)).Uint64("fs", uint64(a.state.FS.Epoch)).Msg("committed")
				}
			}
			d.event(ps[i].term, ev)
		}
	}
}

// verifier confirms the leadership for beacon acks (rule LS).
func (d *Daemon) verifier() {
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.verify:
			d.mu.Lock()
			j := d.job
			d.mu.Unlock()
			if err := d.raft.Load().VerifyLeader().Error(); err == nil {
				d.event(j.term, mon.Verified{Verify: j.n})
			}
		}
	}
}

func (d *Daemon) ticker() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-t.C:
			d.mu.Lock()
			if d.leader != nil {
				d.step(mon.Tick{})
				d.flushAll(nil)
			}
			d.mu.Unlock()
		}
	}
}

// pusher sends maps when they have changed.
func (d *Daemon) pusher() {
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.push:
		}
		d.mu.Lock()
		if d.leader != nil {
			s := d.fsm.now()
			deltas := map[wire.Epoch][]byte{}
			for _, cn := range d.conns {
				if cn.subscribed && d.sendMaps(cn, s, deltas, false, 0) {
					cn.c.Flush()
				}
			}
		}
		d.mu.Unlock()
	}
}

// subscribe answers with what is newer than the sender has. What was sent on this connection
// counts as had, for it may be on its way; epoch 0 asks for everything again.
func (d *Daemon) subscribe(cn *conn, m *wire.MonSubscribe, tid uint64) {
	if !cn.subscribed || m.OSDEpoch == 0 {
		cn.osd = m.OSDEpoch
	}
	if !cn.subscribed || m.FSEpoch == 0 {
		cn.fs = m.FSEpoch
	}
	cn.subscribed = true
	d.sendMaps(cn, d.fsm.now(), nil, true, tid)
	d.flush[cn] = struct{}{}
}

// sendMaps queues what cn lacks. Deltas from the same epoch are made once a round.
func (d *Daemon) sendMaps(cn *conn, s mon.State, deltas map[wire.Epoch][]byte, always bool, tid uint64) bool {
	m := &wire.MonMaps{Cluster: s.OSD.Cluster}
	if s.OSD.Epoch > cn.osd {
		m.OSDBase, m.OSDDelta, m.OSDFull = d.osdBytes(cn.osd, s.OSD, deltas)
		always = true
	}
	if s.FS.Epoch > cn.fs {
		m.FSMap = s.FS.Encode()
		always = true
	}
	if s.Mon.Epoch > cn.mon {
		m.MonMap = s.Mon.Encode()
		always = true
	}
	if !always || cn.c.Send(tid, m) != nil {
		return false
	}
	cn.osd, cn.fs, cn.mon = max(cn.osd, s.OSD.Epoch), max(cn.fs, s.FS.Epoch), max(cn.mon, s.Mon.Epoch)
	return true
}

func (d *Daemon) osdBytes(have wire.Epoch, m *clustermap.OSDMap, deltas map[wire.Epoch][]byte) (base wire.Epoch, delta, full []byte) {
	b, ok := deltas[have]
	if !ok {
		if old := d.fsm.mapAt(have); old != nil {
			b = m.EncodeDelta(old)
		} else {
			b = m.Encode()
			have = 0
		}
		if deltas != nil {
			deltas[have] = b
		}
	}
	if have == 0 {
		return 0, nil, b
	}
	return have, b, nil
}
