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
		s.live.lastRenew, s.live.lastWork = r.now, r.now
	}
	for _, s := range slices.Clone(r.order) {
		if r.osdmap != nil && r.osdmap.IsBlocklisted(s.instance) {
			// The rank before us evicted it and died before its caches had ended.
			r.evict(s, "the instance is fenced")
			r.silentUntil = r.now + slack(r.validity()+r.kernel()+r.leaseGrace())
		}
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
	if r.osdmap != nil && r.osdmap.IsBlocklisted(s.instance) {
		r.evict(s, "the instance is fenced") // by the holder before us, who died before the close was durable
		return
	}
	s.live.lastRenew, r.lastAnswer = r.now, r.now
	s.announce(m.Oldest)
	s.live.last = s.live.last || m.Last
	s.live.parts++
	r.claimLocks(s, m.Locks)
	said := s.live.said
	for i := range m.Caps {
		c := m.Caps[i]
		s.live.parts++
		r.openByHint(c.Ino, c.Parent, c.Name, func(p place) {
			if said != s.live.said {
				// it says so again
			} else if p.in == nil && p.rank != wire.NoRank {
				s.live.left = append(s.live.left, leftCap{c.Ino, p.rank})
			} else {
				r.reclaim(s, p.in, &c)
			}
			s.live.parts--
			r.maybeReconnected()
		})
	}
	s.live.parts--
	r.maybeReconnected()
}

// undeclare forgets what a session has said so far whose link ended before the reconnect did: it says
// all of it again over the next one. The caps stay, which are no more for being said twice.
func (r *Rank) undeclare(s *session) {
	s.live.said++
	s.live.last, s.live.unplaced, s.live.left, s.replay = false, nil, nil, nil
	r.dropClaims(s, func(*lockClaim) bool { return true })
}

// leftCap is a cap of an inode that went to another rank in the life before; its client may not have heard.
type leftCap struct {
	ino wire.Ino
	to  wire.Rank
}

// reclaim installs a cap that the client says it has, under a new id. What the rows do not
// allow it is asked back as soon as they are known.
func (r *Rank) reclaim(s *session, in *inode, c *wire.ReconnectCap) {
	if s.state != sessReconnect || c.Ino != wire.RootIno && c.Ino < wire.FirstFreeIno {
		return
	}
	if in == nil {
		// Its create may not have been durable: a request resent by the same client makes it
		// again, and then its cap is put there.
		s.live.unplaced = append(s.live.unplaced, *c)
		return
	}
	r.place(s, in, c)
}

func (r *Rank) place(s *session, in *inode, c *wire.ReconnectCap) {
	if in.ledger.Get(s.client()) != nil {
		return
	}
	rec := r.capFor(in, s)
	has := c.Issued&in.issuable() | caps.Pin
	if in.rangeRec(s) == 0 {
		has &^= caps.AnyWrite | caps.FileAppend // nobody is told of w before its range is durable
	}
	rec.Show(has)
	if err := in.ledger.Exclusive(); err != nil {
		// One of two does not speak the truth. The fence ends what it may write, and the quiet
		// what it may cache.
		r.logf(LogError, "session %v claims %v: %v", s.instance, has, err)
		rec.Seize(caps.FileMask)
		r.silentUntil = max(r.silentUntil, r.now+slack(r.validity()+r.kernel()))
		r.evict(s, "what it says it holds others hold")
		return
	}
	rec.Wanted = c.Wanted & in.issuable()
	if rec.Issued&caps.FileWr != 0 {
		rec.MaxSize = in.rangeRec(s)
	}
	r.reclaimed = append(r.reclaimed, in)
}

// claim gives the client that has made in again, with the number it had, the cap that it says
// it had on it all along.
func (r *Rank) claim(q *request, in *inode) {
	if !q.replay {
		return
	}
	s := q.sess
	i := slices.IndexFunc(s.live.unplaced, func(c wire.ReconnectCap) bool { return c.Ino == in.ino() })
	if i < 0 {
		return
	}
	c := s.live.unplaced[i]
	s.live.unplaced = slices.Delete(s.live.unplaced, i, i+1)
	if c.Issued&caps.FileWr != 0 && in.rangeRec(s) == 0 {
		r.setRange(in, s, roundUp(1, uint64(in.rec.ObjectSize))) // what the lost entry gave it
	}
	r.place(s, in, &c)
	r.chooseRows()
	r.sendCap(s, in, in.ledger.Get(s.client()), wire.CapGrantOp, 0, false)
}

// unplaced reports whether a cap that s says it has on ino has found no place yet.
func (s *session) unplaced(ino wire.Ino) bool {
	return slices.ContainsFunc(s.live.unplaced, func(c wire.ReconnectCap) bool { return c.Ino == ino })
}

// dropUnplaced tells clients to let go of what nobody made again.
func (r *Rank) dropUnplaced() {
	for _, s := range r.order {
		for _, c := range s.live.unplaced {
			r.logf(LogWarn, "session %v: cap on %v cannot be placed", s.instance, c.Ino)
			r.capID++
			r.send(s, 0, 0, &wire.CapGrant{Op: wire.CapRevoke, Stat: wire.InodeStat{Ino: c.Ino, Cap: &wire.Cap{ID: r.capID, Seq: 1, Barrier: r.barrier}}})
		}
		s.live.unplaced = nil
	}
}

// collectFlush keeps an un-acked flush for clientreplay: it and the unsafe requests run in
// one tid order.
func (r *Rank) collectFlush(s *session, m *wire.CapUpdate) {
	if m.Dirty == 0 {
		return
	}
	if r.window != 0 || s.unplaced(m.Ino) {
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
		r.logf(LogWarn, "session %v: resent flush on %v, which is not there", s.instance, m.Ino)
		return
	}
	// That the bound allowed it was seen when it came first; the bits may have been given up
	// in the same message. What they went to then rests on this flush, so nobody has it.
	var had caps.Bits
	rec := in.ledger.Get(s.client())
	if rec != nil {
		had = rec.Issued
	}
	r.applyFlush(s, in, m, had)
	if rec != nil && had&caps.FileWr == 0 {
		rec.Seq++                                                          // Q-a
		r.sendCap(s, in, rec, wire.CapGrantOp, had&caps.FileShared, false) // what it heard at Reconnected was older
	}
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
		if s.state == sessReconnect && !s.live.last { // who has spoken waits with us for what is still being read
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

// leaseGrace is G: for so long the rank before us may have acknowledged renewals.
func (r *Rank) leaseGrace() int64 { return r.cfg.GraceNs }

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
		for _, l := range s.live.left {
			r.send(s, 0, 0, &wire.CapGrant{Op: wire.CapExport, To: l.to, Stat: wire.InodeStat{Ino: l.ino, Cap: &wire.Cap{Barrier: r.barrier}}})
		}
		s.live.left = nil
	}
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

// inQuiet holds a change back while silent sessions of before may still cache what it would
// change. The tick that ends the quiet wakes it.
func (r *Rank) inQuiet(q *request) bool {
	if r.now >= r.silentUntil || !q.Op.Mutates() && q.Op != opGiveBackNum || q.replay {
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
		r.reissueAll() // writers may have w again
	}
	return 0
}

// reissueAll looks again at what every client may have.
func (r *Rank) reissueAll() {
	for _, ino := range r.sortedInos() {
		if in := r.inodes[ino]; in.ledger.Len() > 0 {
			r.engine.Changed(in)
			r.engine.Reissue(in)
		}
	}
}
