package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds/filelock"
	"github.com/capstan-fs/capstan/wire"
)

func (r *Rank) initCaps() {
	r.busy = map[*caps.Record]busy{}
	r.flocking = map[uint64]*request{}
	r.flocks = filelock.NewGraph(r.cfg.Epoch, r.cfg.MaxFileLocks, r.cfg.Wrong)
	r.capID = uint64(r.cfg.Epoch) << 40 // a message that names a cap of another life must not fit one of ours (Q-d)
}

// fromSession takes everything of the conversation but requests.
func (r *Rank) fromSession(s *session, ev *Event) {
	if m, isOpen := ev.Msg.(*wire.SessionOpen); isOpen {
		r.onSessionOpen(s, ev, m)
		return
	}
	if m, isRec := ev.Msg.(*wire.Reconnect); isRec {
		r.onReconnect(s, ev, m)
		return
	}
	if s == nil || s.state == sessDead || s.state == sessEvicting || s.state == sessClosing {
		if s == nil {
			r.eff.Sends = append(r.eff.Sends, Send{ev.Session, 0, &wire.Evicted{Reason: "no session"}})
		}
		return
	}
	switch m := ev.Msg.(type) {
	case *wire.Renew:
		r.onRenew(s, m)
	case *wire.CapUpdate:
		r.onCapUpdate(s, m)
	case *wire.CapRelease:
		r.onCapRelease(s, m)
	case *wire.CapBusy:
		r.onCapBusy(s, m)
	case *wire.LeaseAck:
		r.onLeaseAck(s, m)
	case *wire.LockCancel:
		r.onLockCancel(s, m)
	case *wire.SessionClose:
		r.onSessionClose(s, ev.Tid)
	default:
		// A peer's mistake must not end the rank.
		r.logf(LogWarn, "session %v: unexpected %v", s.instance, ev.Msg.WireType())
	}
}

// onSessionOpen makes a session; SessionOpened leaves when the open is durable (ES3), so that
// a successor knows whom to expect.
func (r *Rank) onSessionOpen(s *session, ev *Event, m *wire.SessionOpen) {
	if r.osdmap != nil && r.osdmap.IsBlocklisted(m.Instance) {
		r.eff.Sends = append(r.eff.Sends, Send{ev.Session, ev.Tid, &wire.Evicted{Reason: "the instance is fenced"}})
		return
	}
	if s != nil {
		r.openAgain(s, ev)
		return
	}
	if m.Instance.Nonce == 0 || SessionKey(m.Instance.Nonce) != ev.Session {
		r.eff.Sends = append(r.eff.Sends, Send{ev.Session, ev.Tid, &wire.Evicted{Reason: "the session's key is not its instance's nonce"}})
		return
	}
	if r.state != clustermap.RankActive {
		r.opens = append(r.opens, *ev)
		return
	}
	r.sessionSeq++
	s = &session{key: ev.Session, seq: r.sessionSeq, instance: m.Instance, host: m.Host, state: sessOpening}
	s.live.lastRenew, s.live.lastWork = r.now, r.now
	r.addSession(s)
	e := r.newEntry()
	e.opened = append(e.opened, s)
	pos := r.submit(e)
	tid := ev.Tid
	r.whenDurable(pos, func() {
		if s.state == sessOpening {
			s.state = sessOpen
			r.sendOpened(s, tid, pos)
		}
	})
}

// openAgain answers who asks for the session that it has: the answer got lost, with a transport or
// with the rank before us. Its client counts its validity from this message on.
func (r *Rank) openAgain(s *session, ev *Event) {
	switch {
	case s.state == sessReconnect && s.live.parts == 0 && s.caps.Len()+len(s.live.claims) == 0:
		r.lastAnswer = r.now // it has heard of nothing, so it holds nothing
	case s.state == sessOpen || s.state == sessStale:
	default:
		return
	}
	s.state = sessOpen
	s.live.lastRenew, s.live.lastWork, s.live.refused = r.now, r.now, 0
	for rec := s.caps.First(); rec != nil; rec = rec.Next() {
		rec.Stale = false
		r.engine.Changed(r.inodes[wire.Ino(rec.Ino)])
	}
	if r.state != clustermap.RankActive {
		r.opens = append(r.opens, *ev)
		r.maybeReconnected()
		return
	}
	r.sendOpened(s, ev.Tid, 0)
}

func (r *Rank) sendOpened(s *session, tid uint64, pos journal.Pos) {
	m := &wire.SessionOpened{
		RankInstance: r.cfg.Instance,
		ValidityMs:   uint32(r.validity() / 1e6), KernelMs: uint32(r.kernel() / 1e6),
		Barrier:    r.barrier,
		LayoutPool: r.cfg.DataPool, ObjectSize: r.cfg.ObjectSize,
	}
	if r.root != nil { // only rank 0 has it
		st, stamp := r.statFor(r.root, s, wire.MaskAll, 0)
		m.RootStat = *st
		pos = max(pos, stamp)
	}
	r.send(s, pos, tid, m)
}

// replayOpens takes the opens that came before the rank was active.
func (r *Rank) replayOpens() {
	opens := r.opens
	r.opens = nil
	for i := range opens {
		r.onSessionOpen(r.sessions[opens[i].Session], &opens[i], opens[i].Msg.(*wire.SessionOpen))
	}
}

// onRenew extends the session. The ack names the renewal it answers: the client counts its
// validity from when it sent that one. A late renewal is answered "stale", and what was not
// taken meanwhile is granted again.
func (r *Rank) onRenew(s *session, m *wire.Renew) {
	s.live.lastRenew = r.now
	ack := &wire.RenewAck{Seq: m.Seq, Barrier: r.barrier}
	if s.state != sessStale {
		r.send(s, 0, 0, ack)
		return
	}
	s.state = sessOpen
	s.live.refused = 0
	ack.Stale = true
	r.send(s, 0, 0, ack)
	for rec := s.caps.First(); rec != nil; rec = rec.Next() {
		rec.Stale = false
		// What was taken by silence the client may still believe in: it hears what it has.
		rec.Seq++
		in := r.inodes[wire.Ino(rec.Ino)]
		op := wire.CapGrantOp
		if rec.Revoking() {
			op = wire.CapRevoke
			rec.NarrowAt = rec.Seq
		}
		r.sendCap(s, in, rec, op, 0, false)
		r.engine.Changed(in)
		r.engine.Reissue(in)
	}
}

// becomeStale stops granting to a session whose validity has passed.
func (r *Rank) becomeStale(s *session) {
	s.state = sessStale
	r.logf(LogInfo, "session %v (%s) is stale", s.instance, s.host)
	for rec := s.caps.First(); rec != nil; rec = rec.Next() {
		rec.Stale = true
		r.engine.Changed(r.inodes[wire.Ino(rec.Ino)])
	}
}

// onSessionClose ends a session whose client has flushed and released everything.
func (r *Rank) onSessionClose(s *session, tid uint64) {
	r.killRequests(s)
	r.dropFileLocks(s, 0)
	r.dropAll(s)
	pos := r.submitClose(s)
	r.send(s, pos, tid, &wire.SessionClosed{})
	s.state = sessClosing
	r.whenDurable(pos, func() { r.goodbye(s) })
}

func (r *Rank) goodbye(s *session) {
	r.drain() // its SessionClosed leaves first
	s.state = sessDead
	r.removeSession(s)
	r.eff.Hangup = append(r.eff.Hangup, s.key)
}

// submitClose journals the end of a session: its completed set may be dropped.
func (r *Rank) submitClose(s *session) journal.Pos {
	e := r.newEntry()
	e.closed = append(e.closed, s.key)
	return r.submit(e)
}

// sessionGone: the transport has ended for good. The client may have died or lost its way;
// what it holds stays until it renews, is asked and does not answer, or autoclose.
func (r *Rank) sessionGone(key SessionKey) {
	r.opens = slices.DeleteFunc(r.opens, func(e Event) bool { return e.Session == key })
	if s := r.sessions[key]; s != nil && s.state == sessReconnect {
		r.undeclare(s)
	}
}

// tickSessions does what is due: stale sessions, the ladder, silence, turns, reconnect.
func (r *Rank) tickSessions() {
	var next int64
	r.paySafe()
	r.tellPlaces()
	for i := 0; i < len(r.order); i++ {
		s := r.order[i]
		switch s.state {
		case sessOpen:
			due := s.live.lastRenew + r.staleAfter()
			if due <= r.now {
				r.becomeStale(s)
				next = soonest(next, r.tickStale(s))
				continue
			}
			next = soonest(next, due)
		case sessStale:
			next = soonest(next, r.tickStale(s))
		}
	}
	next = soonest(next, r.climb())
	next = soonest(next, r.layGhosts())
	next = soonest(next, r.turnLoners())
	next = soonest(next, r.tickReconnect())
	next = soonest(next, r.tickRecall())
	next = soonest(next, r.endQuiet())
	r.nextSession = next
}

// tickStale evicts a silent session when nothing was heard of it for long, or when somebody
// has waited R for one of its file locks: only its fence frees them.
func (r *Rank) tickStale(s *session) (next int64) {
	due := s.live.lastRenew + r.autoclose()
	if due <= r.now {
		r.evict(s, "it was not heard of for long")
		return 0
	}
	since := r.wantedSince(s)
	if since == 0 {
		return due
	}
	if since+r.deadline() <= r.now {
		r.evict(s, "it is silent and others wait for its file locks")
		return 0
	}
	return min(due, since+r.deadline())
}

// sessionTick is when tickSessions has something to do, as far as is known: what a step adds
// is due no sooner than the quantum of a turn, so a coarse clock is added while somebody is
// asked.
func (r *Rank) sessionTick() int64 {
	next := r.nextSession
	if next == 0 && len(r.order) > 0 {
		next = r.now + r.validity()/5
	}
	if len(r.first) > 0 {
		next = soonest(next, r.first[0].since+r.deadline()/2)
	}
	if len(r.second) > 0 {
		next = soonest(next, r.second[0].since+r.deadline())
	}
	next = soonest(next, r.lonerNext)
	if len(r.owing) > 0 {
		next = soonest(next, r.owing[0].owedAt)
	}
	if len(r.untold) > 0 {
		next = soonest(next, r.untold[0].due)
	}
	if r.window != 0 {
		next = soonest(next, r.windowEnd())
	}
	if len(r.mem.crowded) > 0 {
		next = soonest(next, r.now+recallEvery)
	}
	if r.silentUntil > r.now {
		next = soonest(next, r.silentUntil)
	}
	if next == 0 {
		next = r.now + 1e9 // nobody is here: a look now and then (it was one each millisecond, 7 % of a processor)
	}
	return max(next, r.now+1e6)
}
