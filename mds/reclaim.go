package mds

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// File locks over a failover (4.13). They are in no journal: clients say what they hold and
// what they wait for. Tables stay frozen until all of that is in them, which is when the rank
// becomes active: a file may be one that clientreplay makes again.

// lockClaim is one declaration. The inode is pinned from when it was found.
type lockClaim struct {
	wire.ReconnectLock
	in    *inode
	asked int64 // of a waiter: when it asked, as far as its client can tell
}

// claimLocks notes what a session declares and looks for the files.
func (r *Rank) claimLocks(s *session, locks []wire.ReconnectLock) {
	said := s.live.said
	for _, l := range locks {
		s.live.parts++
		asked := r.now - int64(min(l.WaitedUs, 1<<40))*1000
		r.openByIno(l.Ino, func(in *inode) {
			s.live.parts--
			if in != nil && (in.isSystem() || in.purging) {
				in = nil
			}
			if s.state != sessDead && said == s.live.said {
				if in != nil {
					in.pins++
				}
				s.live.claims = append(s.live.claims, lockClaim{l, in, asked})
			} // else it was fenced meanwhile, or says so again
			r.maybeReconnected()
		})
	}
}

// reclaimLocks rebuilds grants and queues, before anything new is heard: grants as they are
// declared, then the waiters of all sessions in the order of their tickets, then those who
// had not heard of theirs, by when they asked. Who is being fenced has its locks until it is.
func (r *Rank) reclaimLocks() {
	type waiter struct {
		s *session
		c lockClaim
	}
	var queue []waiter
	for _, s := range r.order {
		claims := s.live.claims
		s.live.claims = nil
		for _, c := range claims {
			if c.in != nil {
				defer r.unpinInode(c.in)
			} else {
				c.in = r.inodes[c.Ino] // clientreplay may have made it
			}
			switch {
			case s.state == sessDead || s.state == sessClosing:
			case c.Waiting:
				if s.alive() && !r.cfg.Wrong.Has(wrong.WaiterLostOnRestart) {
					queue = append(queue, waiter{s, c})
				}
			default:
				r.redeclare(s, &c)
			}
		}
	}
	ticketOf := func(w waiter) uint64 { return w.c.Lock.Ticket - 1 } // 0, not known: last
	slices.SortStableFunc(queue, func(a, b waiter) int {
		return cmp.Or(cmp.Compare(ticketOf(a), ticketOf(b)), cmp.Compare(a.c.asked, b.c.asked), cmp.Compare(a.s.seq, b.s.seq), cmp.Compare(a.c.Tid, b.c.Tid))
	})
	if r.cfg.Wrong.Has(wrong.QueueLostOnRestart) {
		slices.Reverse(queue)
		for i := range queue {
			queue[i].c.Lock.Ticket = 0
		}
	}
	var late []waiter
	for _, w := range queue {
		if !r.requeue(w.s, &w.c) {
			late = append(late, w)
		}
	}
	r.flocks.Thaw()
	for _, in := range slices.Clone(r.lockFiles) {
		r.grantFileLocks(in, in.file.locks.Settle(), 0)
		r.tidyFileLocks(in)
	}
	for _, w := range late {
		if w.s.alive() {
			w.c.Lock.Wait = true
			r.request(w.s, &wire.Request{Tid: w.c.Tid, Op: wire.OpSetlk, Ino: w.c.Ino, Lock: w.c.Lock, Oldest: w.s.oldest})
		}
	}
}

// dropClaims forgets what a session that is gone had declared.
func (r *Rank) dropClaims(s *session, which func(*lockClaim) bool) {
	s.live.claims = slices.DeleteFunc(s.live.claims, func(c lockClaim) bool {
		if !which(&c) {
			return false
		}
		if c.in != nil {
			r.unpinInode(c.in)
		}
		return true
	})
}

// redeclare puts a grant back.
func (r *Rank) redeclare(s *session, c *lockClaim) {
	if r.cfg.Wrong.Has(wrong.LockLostOnRestart) {
		return
	}
	if c.in == nil || c.in.stub {
		r.logf(LogError, "session %v: its file lock on %v, which is not there, is lost", s.instance, c.Ino)
		return
	}
	if c.in.fileState().locks == nil {
		r.newLockTable(c.in)
	}
	if err := c.in.file.locks.Redeclare(c.Lock, s.client()); err != nil {
		r.logf(LogError, "session %v, %v: %v", s.instance, c.Ino, err)
	}
	r.tidyFileLocks(c.in)
}

// requeue puts a waiter back at the place of its ticket; false: it has none, and is asked for
// as if it were new.
func (r *Rank) requeue(s *session, c *lockClaim) bool {
	if c.Lock.Ticket == 0 || c.in == nil || c.in.stub {
		return false
	}
	c.Lock.Wait = true
	q := r.newRequest(s, &wire.Request{Tid: c.Tid, Op: wire.OpSetlk, Ino: c.Ino, Lock: c.Lock, Oldest: s.oldest}, false)
	q.in = c.in
	if c.in.fileState().locks == nil {
		r.newLockTable(c.in)
	}
	id := q.set.Owner.Req
	if err := c.in.file.locks.RedeclareWaiter(c.Lock, s.client(), id); err != nil {
		r.logf(LogError, "session %v, %v: %v", s.instance, c.Ino, err)
		r.tidyFileLocks(c.in)
		r.finish(q)
		return false
	}
	q.place, q.told = c.Lock.Ticket, true
	r.awaitFileLock(q, id)
	return true
}
