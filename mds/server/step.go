package server

import (
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// accept takes a client's connection.
func (d *Daemon) accept(c *msgr.Conn) msgr.Handler { return d }

func keyOf(c *msgr.Conn) mds.SessionKey { return mds.SessionKey(c.Peer().Instance.Nonce) }

// Frames steps the core with what has arrived on one connection.
func (d *Daemon) Frames(c *msgr.Conn, batch []msgr.Frame) {
	key, inst := keyOf(c), c.Peer().Instance
	if inst.Kind == wire.KindMDS {
		d.peerFrames(c, batch)
		return
	}
	d.mu.Lock()
	if old := d.conns[key]; old != c {
		d.conns[key] = c
		if old != nil {
			go old.Close()
			d.event(mds.Event{Kind: mds.SessionGone, Session: key}) // the new link begins anew
		}
	}
	for i := range batch {
		f := &batch[i]
		d.stats.Frames++
		d.event(mds.Event{Kind: mds.FromSession, Session: key, Tid: f.Tid, Msg: f.Msg, Instance: inst})
	}
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, c) // msgr flushes c itself
}

// Closed: the session's transport ended for good.
func (d *Daemon) Closed(c *msgr.Conn, err error) {
	key := keyOf(c)
	d.mu.Lock()
	if d.conns[key] == c {
		delete(d.conns, key)
		d.event(mds.Event{Kind: mds.SessionGone, Session: key})
	}
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

// event steps the core, or keeps the event for the core to come.
func (d *Daemon) event(ev mds.Event) {
	if d.rank == nil {
		if len(d.early) < 10_000 && !d.ended {
			d.early = append(d.early, ev)
		}
		return
	}
	d.step(ev)
}

// enter is event for those who do not hold the lock.
func (d *Daemon) enter(ev mds.Event) {
	d.mu.Lock()
	d.event(ev)
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

func (d *Daemon) takeTouched() []*msgr.Conn {
	t := d.touched
	d.touched = nil
	return t
}

func flush(touched []*msgr.Conn, but *msgr.Conn) {
	for _, c := range touched {
		if c != but {
			c.Flush()
		}
	}
}

// step applies one event and acts on its effects. The lock is held.
func (d *Daemon) step(ev mds.Event) {
	if d.ended {
		return
	}
	ev.Now = now()
	ev.Wall = wire.TimeOf(time.Now())
	d.stats.Steps++
	eff := d.rank.Step(ev)
	for i := range eff.Logs {
		d.log.WithLevel(level(eff.Logs[i].Level)).Msg(eff.Logs[i].Text)
	}
	if eff.Exit != nil {
		d.damagedLocked(eff.Exit)
		return
	}
	for i := range eff.Journal {
		d.writeJournal(&eff.Journal[i])
	}
	for i := range eff.Objects {
		d.operate(&eff.Objects[i])
	}
	if len(eff.Sends)+len(eff.Hangup) > 0 {
		d.sends(eff.Sends, eff.Hangup, ev.Now)
	}
	if len(eff.Peers) > 0 {
		d.toPeers(eff.Peers, ev.Now)
	}
	for i := range eff.Blocklist {
		d.wg.Add(1)
		go d.blocklist(eff.Blocklist[i])
	}
	if eff.State != d.state {
		d.stateChanged(eff.State)
	}
	d.arm(eff.NextTick, ev.Now)
}

func level(l mds.LogLevel) zerolog.Level {
	return [...]zerolog.Level{zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel}[l]
}

// sends hands messages to their connections while the lease holds; else they wait in order.
func (d *Daemon) sends(list []mds.Send, hangup []mds.SessionKey, at int64) {
	if at >= d.lease.Load() || at < d.quiet || len(d.held) > 0 {
		d.held = append(d.held, list...)
		d.hangup = append(d.hangup, hangup...)
		return
	}
	for i := range list {
		d.sendOne(&list[i])
	}
	for _, k := range hangup {
		d.hang(k)
	}
}

// toPeers is sends for other ranks.
func (d *Daemon) toPeers(list []mds.PeerSend, at int64) {
	if at >= d.lease.Load() || at < d.quiet || len(d.heldFor) > 0 {
		d.heldFor = append(d.heldFor, list...)
		return
	}
	d.sendPeers(list)
}

func (d *Daemon) sendOne(s *mds.Send) {
	c := d.conns[s.To]
	if c == nil {
		return // it went away; what it must know it hears when it comes back
	}
	if err := c.Send(s.Tid, s.Msg); err != nil {
		d.log.Warn().Err(err).Stringer("peer", c.Peer()).Stringer("type", s.Msg.WireType()).Msg("send")
		go c.Close()
		return
	}
	d.touch(c)
}

// touch notes that something was queued on a connection.
func (d *Daemon) touch(c *msgr.Conn) {
	for _, t := range d.touched {
		if t == c {
			return
		}
	}
	d.touched = append(d.touched, c)
}

func (d *Daemon) hang(k mds.SessionKey) {
	c := d.conns[k]
	if c == nil {
		return
	}
	// The last words leave first; the client ends the connection, or we do a little later.
	time.AfterFunc(time.Second, c.Close)
}

// release lets out what waited for the lease.
func (d *Daemon) release(at int64) {
	if len(d.held)+len(d.hangup)+len(d.heldFor) == 0 || at >= d.lease.Load() || at < d.quiet {
		return
	}
	held, hangup := d.held, d.hangup
	d.held, d.hangup = nil, nil
	d.sends(held, hangup, at)
	peers := d.heldFor
	d.heldFor = nil
	d.sendPeers(peers)
}

// arm sets the one timer to when the core next wants to be called.
func (d *Daemon) arm(at, from int64) {
	if at == 0 {
		return
	}
	if d.timer == nil {
		d.timerAt = at
		d.timer = time.AfterFunc(time.Duration(max(at-from, 0)), d.tick)
		return
	}
	// Ticks that come too early cost little, and moving the timer at every step costs more.
	if d.timerAt > from && d.timerAt <= at {
		return
	}
	d.timerAt = at
	d.timer.Reset(time.Duration(max(at-from, int64(time.Millisecond))))
}

func (d *Daemon) tick() {
	d.mu.Lock()
	d.timerAt = 0
	d.release(now())
	d.event(mds.Event{Kind: mds.Tick})
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

// writeJournal writes one run of the journal to its objects.
func (d *Daemon) writeJournal(w *mds.JournalWrite) {
	d.stats.JournalWrites++
	d.stats.JournalBytes += uint64(len(w.Bytes))
	off := w.Off
	pieces := journal.Pieces(off, len(w.Bytes))
	began := time.Now()
	done := func() { d.journaled(off, time.Since(began)) }
	if len(pieces) > 1 {
		left := len(pieces)
		whole := done
		done = func() {
			d.mu.Lock()
			left--
			last := left == 0
			d.mu.Unlock()
			if last {
				whole()
			}
		}
	}
	for _, p := range pieces {
		obj := wire.ObjectID{Pool: d.metaPool(), Name: journal.ObjectName(d.journalPrefix(), p.Index)}
		ops := []wire.ObjOp{{Kind: wire.ObjWrite, Off: uint64(p.Off), Data: w.Bytes[p.Skip : p.Skip+p.Len]}}
		d.writePiece(obj, ops, d.rank.Barrier(), done)
	}
}

// journaled tells the core that a run of the journal is durable.
func (d *Daemon) journaled(off journal.Pos, took time.Duration) {
	d.mu.Lock()
	d.journalTook.Add(int64(took))
	d.event(mds.Event{Kind: mds.JournalDone, Off: off})
	touched := d.takeTouched()
	d.mu.Unlock()
	flush(touched, nil)
}

// fullRetry is how long a journal write waits that found even the OSDs' reserve used up.
const fullRetry = 200 * time.Millisecond

// writePiece writes one object's part of the journal. When even the reserve is full it waits for
// space: what was promised is in memory and in the clients' hands, and purging gives space back.
func (d *Daemon) writePiece(obj wire.ObjectID, ops []wire.ObjOp, barrier wire.Epoch, done func()) {
	d.obj.Submit(obj, ops, objecter.Options{FullTry: true, Barrier: barrier}, func(r objecter.Result, err error) {
		switch {
		case err != nil:
			go d.lost(err)
		case r.Errno == uint32(syscall.ENOSPC):
			d.log.Warn().Stringer("object", obj).Msg("the OSDs are full beyond their reserve: the journal waits for space; delete files or add OSDs")
			time.AfterFunc(fullRetry, func() { d.writePiece(obj, ops, barrier, done) })
		case r.Errno != 0:
			go d.fail(errnoError("write journal", obj, r.Errno))
		default:
			done()
		}
	})
}

// operate submits an object operation of the core.
func (d *Daemon) operate(op *mds.ObjectOp) {
	d.stats.Objects++
	token := op.Token
	d.obj.Submit(op.Obj, op.Ops, objecter.Options{FullTry: op.FullTry, Barrier: op.Barrier}, func(r objecter.Result, err error) {
		if err != nil {
			go d.lost(err)
			return
		}
		d.enter(mds.Event{Kind: mds.ObjectDone, Token: token, Errno: r.Errno, Res: r.Ops})
	})
}

// stateChanged tells the monitors at once.
func (d *Daemon) stateChanged(s clustermap.RankState) {
	d.log.Info().Stringer("state", s).Msg("rank")
	d.state = s
	if s == clustermap.RankStopped {
		close(d.stopped)
		if !d.stopping {
			d.stopping = true
			d.wg.Add(1)
			go d.retired()
		}
	}
	select {
	case d.nudge <- struct{}{}:
	default:
	}
}
