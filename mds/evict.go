package mds

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// The ladder (4.7): ask, ask again at R/2, at R evict. A wait for a client so always ends,
// and the wait has a name: the ask.

// ask is one REVOKE or LeaseRevoke that is not answered yet.
type ask struct {
	rec   *caps.Record
	lease *leaseRec
	since int64
	back  int64 // when its client renewed again after the deadline; 0: not yet
}

// open reports whether the answer is still awaited.
func (r *Rank) askOpen(a *ask) bool {
	if a.lease != nil {
		return !a.lease.gone && a.lease.asked == a.since
	}
	in := r.inodes[wire.Ino(a.rec.Ino)]
	return a.rec.Revoking() && a.rec.RevokedAt == a.since && in != nil && in.ledger.Get(a.rec.Client) == a.rec
}

func (a *ask) client() uint64 {
	if a.lease != nil {
		return a.lease.sess.client()
	}
	return a.rec.Client
}

// owesFence reports whether only a fence can take back what is owed (K2).
func (a *ask) owesFence() bool { return a.rec != nil && a.rec.Owed()&caps.AnyWrite != 0 }

// sessionOf is the session of the ask, ghosts included.
func (r *Rank) sessionOf(client uint64) *session {
	if s := r.sessions[SessionKey(client)]; s != nil {
		return s
	}
	for _, g := range r.ghosts {
		if g.client() == client {
			return g
		}
	}
	return nil
}

// climb takes every due step of the ladder and returns when the next one is due.
func (r *Rank) climb() (next int64) {
	c := &r.clients
	for len(c.first) > 0 {
		a := c.first[0]
		if r.askOpen(&a) {
			if due := a.since + r.deadline()/2; due > r.now {
				next = soonest(next, due)
				break
			}
			r.askAgain(&a)
			c.second = append(c.second, a)
		}
		c.first = c.first[1:]
	}
	next = soonest(next, r.standStill())
	for len(c.second) > 0 {
		a := c.second[0]
		if r.askOpen(&a) {
			if due := a.since + r.deadline(); due > r.now {
				next = soonest(next, due)
				break
			}
			r.overdue(a)
		}
		c.second = c.second[1:]
	}
	keep := c.silent[:0]
	for _, a := range c.silent {
		if r.askOpen(&a) && !r.tookBySilence(&a) {
			keep = append(keep, a)
			if s := r.sessionOf(a.client()); s != nil {
				next = soonest(next, min(max(s.live.lastRenew+r.silence(), r.now+r.deadline()/20), r.now+r.deadline()/4))
			}
		}
	}
	c.silent = keep
	return next
}

func (r *Rank) askAgain(a *ask) {
	s := r.sessions[SessionKey(a.client())]
	if s == nil || !s.alive() {
		return
	}
	if a.lease != nil {
		r.send(s, 0, 0, &wire.LeaseRevoke{Dir: a.lease.dn.dir.in.rec.Ino, Name: a.lease.dn.name, Seq: a.lease.seq})
		return
	}
	a.rec.AskedTwice = true
	in := r.inodes[wire.Ino(a.rec.Ino)]
	r.sendCap(s, in, a.rec, wire.CapRevoke, 0, true) // same seq: it is the same question
}

// overdue decides at R. A session that owes what only a fence takes back is evicted; so is
// one that renews but does not answer. One that is silent and owes only what silence takes
// back gets that time: evicting it would free nothing sooner.
func (r *Rank) overdue(a ask) {
	s := r.sessionOf(a.client())
	switch {
	case s == nil || s.state == sessEvicting || s.state == sessDead:
		r.silent = append(r.silent, a)
	case a.owesFence() || s.live.lastRenew > a.since:
		r.evict(s, "it did not answer a revoke in time")
		r.silent = append(r.silent, a)
	default:
		r.silent = append(r.silent, a)
	}
}

// busy is what a client said that answers BUSY: its flush waits for pg.
type busy struct {
	pg wire.PGID
	at int64 // until when it was looked at
}

// standStill keeps the deadline of who said BUSY where it is while the PG it named is inactive in the
// map that this rank sees: it cannot answer, and evicting it would not help anybody. What was left
// when it said so is left when the PG serves again. That is looked at 20 times per deadline.
func (r *Rank) standStill() (next int64) {
	if len(r.busy) == 0 {
		return 0
	}
	for i := range r.second {
		a := &r.second[i]
		b, ok := r.busy[a.rec]
		if !ok || !r.askOpen(a) {
			continue
		}
		if r.servesNobody(b.pg) {
			a.since += r.now - b.at
			a.rec.RevokedAt = a.since
		}
		r.busy[a.rec] = busy{b.pg, r.now}
		next = r.now + r.deadline()/20
	}
	slices.SortStableFunc(r.second, func(a, b ask) int { return cmp.Compare(a.since, b.since) })
	return next
}

func (r *Rank) servesNobody(pg wire.PGID) bool {
	if r.osdmap == nil {
		return false
	}
	cfg, ok := r.osdmap.PGs[pg]
	pool := r.osdmap.Pools[pg.Pool]
	return ok && (cfg.Primary == wire.NoOSD || len(cfg.InSync) < pool.MinSize)
}

// tookBySilence takes back what is owed when the client has been silent long enough (K2).
func (r *Rank) tookBySilence(a *ask) bool {
	s := r.sessionOf(a.client())
	if s == nil {
		return true
	}
	if a.back == 0 && s.live.lastRenew > a.since+r.deadline() {
		a.back = s.live.lastRenew // what it answers may be right behind
	}
	switch {
	case a.back != 0 && s.state == sessOpen:
		if r.now >= a.back+r.deadline()/2 {
			r.evict(s, "it did not answer a revoke in time") // it came back and still does not answer
		}
	case a.owesFence() && r.now >= a.since+r.deadline(): // it was asked for that behind the first question, which was a matter of silence
		r.evict(s, "it did not answer a revoke in time")
	}
	if r.now < s.live.lastRenew+r.silence() {
		return false
	}
	if a.lease != nil {
		r.dropLease(a.lease)
		return true
	}
	a.rec.Seize(a.rec.Owed() &^ (caps.AnyWrite | caps.FileAppend))
	if in := r.inodes[wire.Ino(a.rec.Ino)]; in != nil {
		r.engine.Changed(in)
	}
	return !a.rec.Revoking()
}

// evict starts the fence of a session. From now on nothing it says counts; what it holds
// goes in evicted, when the fence is complete.
func (r *Rank) evict(s *session, why string) {
	if s.state == sessEvicting || s.state == sessDead || s.state == sessClosing {
		return
	}
	s.live.goodbye = why
	r.counts.Evictions++
	if r.trace != nil {
		r.traced(TraceEvent{Kind: "evict", For: s.instance.String(), Host: s.place(), What: why})
	}
	r.logf(LogWarn, "session %v (%s): evicted: %s", s.instance, s.host, why)
	r.send(s, 0, 0, &wire.Evicted{Reason: why})
	s.state = sessEvicting
	for rec := s.caps.First(); rec != nil; rec = rec.Next() {
		rec.Stale = true
	}
	r.killRequests(s)
	r.eff.Blocklist = append(r.eff.Blocklist, BlocklistAsk{s.instance, why})
	r.eff.Hangup = append(r.eff.Hangup, s.key)
}

// onBlocklisted is the fence's completion at the monitors: everything given from now on
// carries the barrier; then the end of the session is made durable, then its hold ends.
func (r *Rank) onBlocklisted(inst wire.Instance, e wire.Epoch) {
	r.barrier = max(r.barrier, e)
	s := r.sessions[SessionKey(inst.Nonce)]
	if s == nil || s.state != sessEvicting || s.instance != inst {
		return
	}
	// What has no barrier of its own is given behind this: file locks (K1).
	for _, o := range r.order {
		if o.alive() {
			r.send(o, 0, 0, &wire.RenewAck{Barrier: r.barrier})
		}
	}
	if s.caches() {
		// Its close is journaled when its kernel has forgotten what it cached (layGhosts): until
		// then a successor must know that somebody may still look at it. It will not believe
		// what the session says it holds: the fence is older than its maps.
		r.evicted(s, 0)
		return
	}
	pos := r.submitClose(s)
	r.whenDurable(pos, func() { r.evicted(s, pos) })
}

// fenced are the bits that the fence takes back: writes, and reads from the OSDs.
const fenced = caps.AnyWrite | caps.FileAppend | caps.FileRd | caps.FileLazy

// caches reports whether s has something that its kernel may show without asking anybody.
func (s *session) caches() bool {
	if s.live.leases.n > 0 {
		return true
	}
	for rec := s.caps.First(); rec != nil; rec = rec.Next() {
		if rec.Issued&^(fenced|caps.Pin) != 0 {
			return true
		}
	}
	return false
}

// evicted frees what the fence covers: w, b, x and file locks at once, c, s and leases only
// when the client's own kernel has forgotten them (K2).
func (r *Rank) evicted(s *session, pos journal.Pos) {
	if s.state == sessDead {
		return
	}
	s.state = sessDead
	r.removeSession(s)
	r.dropFileLocks(s, pos)
	for rec := s.caps.First(); rec != nil; {
		next := rec.Next()
		in := r.inodes[wire.Ino(rec.Ino)]
		r.recoverRange(in, s)
		rec.Seize(fenced)
		rec.Wanted = 0
		if rec.Issued&^caps.Pin == 0 {
			r.dropCap(in, s, rec)
		} else {
			r.engine.Changed(in)
		}
		rec = next
	}
	if s.caps.Len() == 0 && s.live.leases.n == 0 {
		return
	}
	r.ghosts = append(r.ghosts, s)
}

// layGhosts drops what evicted sessions cached once they have been silent long enough.
func (r *Rank) layGhosts() (next int64) {
	r.ghosts = slices.DeleteFunc(r.ghosts, func(s *session) bool {
		if due := s.live.lastRenew + r.silence(); r.now < due {
			next = soonest(next, due)
			return false
		}
		r.dropAll(s)
		r.submitClose(s)
		return true
	})
	return next
}

// dropAll ends every cap and lease of a session without asking.
func (r *Rank) dropAll(s *session) {
	for s.live.leases.head != nil {
		r.dropLease(s.live.leases.head)
	}
	for rec := s.caps.First(); rec != nil; rec = s.caps.First() {
		r.dropCap(r.inodes[wire.Ino(rec.Ino)], s, rec)
	}
}

// dropCap removes one record.
func (r *Rank) dropCap(in *inode, s *session, rec *caps.Record) {
	delete(r.busy, rec)
	s.caps.Remove(rec)
	in.ledger.Remove(rec.Client)
	r.mem.caps--
	r.mem.used -= capCost
	r.wakeOpens(in) // some may be of requests that died with the session
	r.engine.Changed(in)
	r.capsGone(in)
}
