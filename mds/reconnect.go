package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// Reconnect (sections 6 and 7): the sessions that the journal knows say what they hold. Their
// caps are believed: they were given by our predecessor, whose rules are ours. Nothing is
// granted before all have spoken or the silent ones are fenced.

const (
	windowAfterLast = 3e9 // the window ends so long after the last answering client
)

// startReconnect waits for the sessions of before; without any there is nothing to wait for.
func (r *Rank) startReconnect() {
	r.barrier = max(r.barrier, r.cfg.Barrier)
	r.flocks.Freeze()
	r.window, r.lastAnswer = r.now, r.now
	for _, s := range r.order {
		s.live.lastRenew = r.now
	}
	early := r.early
	r.early = nil
	for i := range early {
		r.onMessage(&early[i])
	}
	r.maybeReconnected()
}

// tooEarly keeps what comes while the journal is still being read: nobody is known yet.
func (r *Rank) tooEarly(ev *Event) bool {
	if r.state >= clustermap.RankReconnect {
		return false
	}
	r.early = append(r.early, *ev)
	return true
}

func (r *Rank) windowEnd() int64 {
	return min(r.lastAnswer+windowAfterLast, r.window+min(r.deadline(), 10e9))
}

// onReconnect takes one part of what a session holds.
func (r *Rank) onReconnect(s *session, ev *Event, m *wire.Reconnect) {
	if s == nil || s.state != sessReconnect || r.window == 0 {
		if s != nil && s.alive() {
			// It lost its transport's memory while we live on: what it says it holds and what
			// we think may differ, and nothing tells which messages it saw.
			r.evict(s, "it lost the thread of its session")
		}
		r.eff.Sends = append(r.eff.Sends, Send{ev.Session, ev.Tid, &wire.Reconnected{RankInstance: r.cfg.Instance, Barrier: r.barrier}})
		return
	}
	s.live.lastRenew, r.lastAnswer = r.now, r.now
	s.announce(m.Oldest)
	s.live.claims = append(s.live.claims, m.Locks...)
	s.live.last = s.live.last || m.Last
	s.live.parts++
	for i := range m.Caps {
		c := m.Caps[i]
		s.live.parts++
		r.openByHint(c.Ino, c.Parent, c.Name, func(in *inode) {
			r.reclaim(s, in, &c)
			s.live.parts--
			r.maybeReconnected()
		})
	}
	s.live.parts--
	r.maybeReconnected()
}

// reclaim installs a cap that the client says it has, under a new id. What the rows do not
// allow it is asked back as soon as they are known.
func (r *Rank) reclaim(s *session, in *inode, c *wire.ReconnectCap) {
	if s.state != sessReconnect {
		return
	}
	r.capID++
	if in == nil {
		// It cannot be placed: the client must let it go.
		r.logf(LogWarn, "session %v: cap on %v cannot be placed", s.instance, c.Ino)
		r.send(s, 0, 0, &wire.CapGrant{Op: wire.CapRevoke, Stat: wire.InodeStat{Ino: c.Ino, Cap: &wire.Cap{ID: r.capID, Seq: 1, Barrier: r.barrier}}})
		return
	}
	if in.ledger.Get(s.client()) != nil {
		return
	}
	rec := r.capFor(in, s)
	rec.Show(c.Issued&caps.All | caps.Pin)
	rec.Wanted = c.Wanted & in.issuable()
	if rec.Issued&caps.FileWr != 0 {
		rec.MaxSize = in.rangeRec(s)
	}
	r.reclaimed = append(r.reclaimed, in)
}

// collectFlush keeps an un-acked flush for clientreplay: it and the unsafe requests run in
// one tid order.
func (r *Rank) collectFlush(s *session, m *wire.CapUpdate) {
	if m.Dirty == 0 {
		return
	}
	if r.window != 0 {
		s.replay = append(s.replay, replayItem{tid: m.FlushTid, flush: m})
		return
	}
	r.replayFlush(s, m)
}

// replayFlush applies a resent flush. Its cap id is of another life; the bound is ours (FW).
func (r *Rank) replayFlush(s *session, m *wire.CapUpdate) {
	if m.FlushTid != 0 {
		if _, done := s.isDone(m.FlushTid); done {
			r.noteUnsafe(s, m.FlushTid, r.durablePos)
			r.advanceSafe()
			return
		}
	}
	in := r.inodes[m.Ino]
	if in == nil || in.stub || in.home == nil {
		return
	}
	rec := in.ledger.Get(s.client())
	if rec == nil || !rec.MayFlush(m.Dirty) {
		r.logf(LogWarn, "session %v: resent flush on %v without its cap", s.instance, m.Ino)
		return
	}
	r.applyFlush(s, in, m, rec.Issued)
}

// tickReconnect ends the window: who was silent is fenced. The rank goes on when they are.
func (r *Rank) tickReconnect() int64 {
	if r.window == 0 {
		return 0
	}
	if due := r.windowEnd(); r.now < due {
		return due
	}
	silent := false
	for _, s := range slices.Clone(r.order) {
		if s.state == sessReconnect && !(s.live.last && s.live.parts == 0) {
			silent = true
			r.evict(s, "it did not reconnect in time")
		}
	}
	if silent {
		// What they cache is not known to us. Until their kernels have forgotten it, nobody
		// may change what they could be looking at.
		r.silentUntil = r.window + slack(r.validity()+r.kernel()+r.leaseGrace())
	}
	r.maybeReconnected()
	return r.now + 1e9
}

// leaseGrace is G: three beacons of a second.
func (r *Rank) leaseGrace() int64 { return 3e9 }

// maybeReconnected goes on when every session of before has spoken or is fenced.
func (r *Rank) maybeReconnected() {
	if r.window == 0 || r.state != clustermap.RankReconnect {
		return
	}
	for _, s := range r.order {
		if s.state == sessEvicting || s.state == sessReconnect && !(s.live.last && s.live.parts == 0) {
			return
		}
	}
	r.window = 0
	r.chooseRows()
	for _, s := range r.order {
		if s.state != sessReconnect {
			continue
		}
		s.state = sessOpen
		for rec := s.caps.First(); rec != nil; rec = rec.Next() {
			r.sendCap(s, r.inodes[wire.Ino(rec.Ino)], rec, wire.CapGrantOp, 0, false)
		}
		r.send(s, 0, 0, &wire.Reconnected{Known: true, RankInstance: r.cfg.Instance, Barrier: r.barrier})
	}
	r.reclaimLocks()
	for _, ino := range r.sortedInos() {
		if in := r.inodes[ino]; len(in.rec.Ranges) > 0 && in.home != nil {
			r.recoverUnknown(in)
		}
	}
	r.recovered()
}

// recovered goes on to clientreplay when no size is being recovered any more.
func (r *Rank) recovered() {
	if r.state == clustermap.RankReconnect && r.window == 0 && r.probing == 0 {
		r.reconnectDone()
	}
}

func (r *Rank) sortedInos() []wire.Ino {
	list := make([]wire.Ino, 0, len(r.inodes))
	for ino := range r.inodes {
		list = append(list, ino)
	}
	slices.Sort(list)
	return list
}

// chooseRows sets the file locks of reclaimed inodes to rows that hold what clients say they
// have (5.7): exclusive or caching beside writing means a loner, several writers mean mix.
func (r *Rank) chooseRows() {
	table := locker.IFile.Table()
	excl, _ := table.State("excl")
	mix, _ := table.State("mix")
	for _, in := range r.reclaimed {
		if in.dead {
			continue
		}
		var loner uint64
		writers, others := 0, 0
		for _, rec := range in.ledger.All() {
			f := rec.Issued & caps.FileMask
			switch {
			case f&(caps.FileExcl|caps.FileBuffer) != 0, f&caps.FileWr != 0:
				loner = rec.Client
				writers++
			case f != 0:
				others++
			}
		}
		switch {
		case writers == 0:
		case writers == 1 && others == 0:
			in.ledger.SetLoner(loner, r.now)
			in.locks[lockFile].BeginReplica(excl)
		default:
			in.locks[lockFile].BeginReplica(mix)
		}
		r.engine.Changed(in)
		r.engine.Reissue(in)
	}
	r.reclaimed = nil
}

// reclaimLocks rebuilds the file locks by ticket. New tickets are higher: their upper half is
// the epoch of this start.
func (r *Rank) reclaimLocks() {
	var files []*inode
	for _, s := range r.order {
		for _, c := range s.live.claims {
			in := r.inodes[c.Ino]
			if in == nil || in.stub || s.state != sessOpen {
				continue
			}
			fs := in.fileState()
			if fs.locks == nil {
				fs.locks = r.flocks.NewTable()
				files = append(files, in)
			}
			if c.Waiting {
				continue // its request is resent and queues again
			}
			if err := fs.locks.Redeclare(c.Lock, s.client()); err != nil {
				r.logf(LogError, "session %v, %v: %v", s.instance, c.Ino, err)
			}
			r.ticket = max(r.ticket, c.Lock.Ticket)
		}
		s.live.claims = nil
	}
	r.flocks.Thaw()
	for _, in := range files {
		r.grantFileLocks(in, in.file.locks.Settle(), 0)
		r.tidyFileLocks(in)
	}
}

// inQuiet holds a change back while silent sessions of before may still cache what it would
// change. The tick that ends the quiet wakes it.
func (r *Rank) inQuiet(q *request) bool {
	if r.now >= r.silentUntil || !q.Op.Mutates() || q.replay {
		return false
	}
	r.hushed = append(r.hushed, r.waker(q))
	return true
}

// endQuiet runs what was held back.
func (r *Rank) endQuiet() (next int64) {
	if r.now < r.silentUntil {
		return r.silentUntil
	}
	for _, wake := range r.hushed {
		wake()
	}
	r.hushed = nil
	if r.silentUntil != 0 {
		r.silentUntil = 0
		for _, ino := range r.sortedInos() { // writers may have w again
			if in := r.inodes[ino]; in.ledger.Len() > 0 {
				r.engine.Changed(in)
				r.engine.Reissue(in)
			}
		}
	}
	return 0
}
