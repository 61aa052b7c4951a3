package mds

import (
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds/filelock"
	"github.com/capstan-fs/capstan/wire"
)

func init() {
	ops[wire.OpSetlk] = &opSetlk
	ops[wire.OpGetlk] = &opGetlk
}

// flockTable is the file locks of one inode.
type flockTable = filelock.Table

// setlk: take or drop a range (4.13). iflock guards the table, for the moment of the change
// only: a request that waits is a ticket in the table and holds nothing.
var opSetlk = opDesc{
	name: "setlk",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		if q.Lock.Type > wire.LockWrite || !q.Lock.Flock && q.Lock.Start > q.Lock.End {
			return eINVAL
		}
		q.in = in
		q.set.X(&in.locks[lockFlock])
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		in := q.in
		fs := in.fileState()
		if fs.locks == nil {
			r.newLockTable(in)
		}
		if q.Lock.Type == wire.LockUnlock {
			woken, full := fs.locks.Unlock(q.Lock, q.sess.client())
			if full {
				return eNOLCK
			}
			r.grantFileLocks(in, woken, 0)
			r.reply(q, &wire.Reply{Tid: q.Tid})
			r.tidyFileLocks(in)
			return ok
		}
		id := q.set.Owner.Req
		out, ticket, woken := fs.locks.Lock(q.Lock, q.sess.client(), id)
		r.grantFileLocks(in, woken, 0)
		switch out {
		case filelock.Granted:
			lock := q.Lock
			lock.Ticket = ticket
			q.rest = max(q.rest, in.rest.toward(q.sess.key))
			r.reply(q, &wire.Reply{Tid: q.Tid, Lock: lock})
			return ok
		case filelock.Conflict:
			r.refusedFileLock(in, q)
			r.tidyFileLocks(in)
			return eAGAIN
		case filelock.Full:
			r.tidyFileLocks(in)
			return eNOLCK
		case filelock.Deadlock:
			r.tidyFileLocks(in)
			return eDEADLK
		}
		q.place = ticket
		r.tellPlaceLater(q)
		return r.awaitFileLock(q, id)
	},
}

// getlk: who stands in the way.
var opGetlk = opDesc{
	name: "getlk",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		q.in = in
		q.set.Rd(&in.locks[lockFlock])
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		rep := &wire.Reply{Tid: q.Tid}
		if fs := q.in.file; fs != nil && fs.locks != nil {
			if h, found := fs.locks.Test(q.Lock, q.sess.client()); found {
				rep.Lock = wire.FileLock{Type: h.Type, Flock: q.Lock.Flock, Owner: h.Owner.Token, Start: h.Start, End: h.End}
				if r.sameHost(q.sess, h.Owner.Client) {
					rep.Lock.PID = h.PID // of another host's it would name a process that is not meant
				}
			}
		}
		r.reply(q, rep)
		return ok
	},
}

// awaitFileLock parks q, which the table has queued. The inode stays while its table has
// entries (capsHeld), so no pin is needed.
func (r *Rank) awaitFileLock(q *request, id uint64) errno {
	r.flocking[id] = q
	if q.sess.queued == nil {
		q.sess.queued = map[wire.Tid]*request{}
	}
	q.sess.queued[q.Tid] = q
	q.since = r.now
	r.nextSession = soonest(r.nextSession, r.now+r.deadline()) // who is in its way may be silent: see wantedSince
	return r.parkFree(q, "a file lock is held by others")
}

// sameHost reports whether a process id of the other client's host means something to s.
func (r *Rank) sameHost(s *session, client uint64) bool {
	o := r.sessionOf(client)
	if o == nil {
		return false
	}
	a, _, _ := strings.Cut(s.host, ":")
	b, _, _ := strings.Cut(o.host, ":")
	return a == b
}

// refusedFileLock notes that a lock of a stale session was in somebody's way who would not
// wait: who asks again and again waits too.
func (r *Rank) refusedFileLock(in *inode, q *request) {
	in.file.locks.Holders(q.Lock, q.sess.client(), func(client uint64) {
		if s := r.sessions[SessionKey(client)]; s != nil && s.state == sessStale && s.live.refused == 0 {
			s.live.refused = r.now
			r.nextSession = soonest(r.nextSession, r.now+r.deadline())
		}
	})
}

// wantedSince is when the first of those began to wait for whom a file lock of s is in the
// way; 0: nobody. It decides when a stale session must go (4.7): one in whose way it is
// waits no longer than R, or V where that ends later.
func (r *Rank) wantedSince(s *session) int64 {
	since := s.live.refused
	for _, in := range r.lockFiles {
		in.file.locks.Blocked(s.client(), func(w *filelock.Waiter) bool {
			q := r.flocking[w.Req]
			if q == nil || q.sess == s {
				return false
			}
			since = soonest(since, max(q.since, 1)) // those behind it came later
			return true
		})
	}
	return since
}

// grantFileLocks answers the requests whose turn has come. after is the end of a dead
// holder, durable before anybody hears of it.
func (r *Rank) grantFileLocks(in *inode, woken []filelock.Waiter, after journal.Pos) {
	for i := range woken {
		w := &woken[i]
		q := r.leftQueue(w.Req)
		if q == nil {
			continue
		}
		r.forgetPlaces()
		lock := q.Lock
		lock.Ticket = w.Ticket
		r.send(q.sess, max(after, in.rest.toward(q.sess.key)), uint64(q.Tid), &wire.Reply{Tid: q.Tid, Lock: lock})
		r.finish(q)
	}
}

func (r *Rank) tidyFileLocks(in *inode) {
	if in.file != nil && in.file.locks != nil && in.file.locks.Empty() {
		in.file.locks = nil
		i, last := in.file.lockAt, len(r.lockFiles)-1
		r.lockFiles[i], r.lockFiles[last] = r.lockFiles[last], nil
		r.lockFiles = r.lockFiles[:last]
		if i < last {
			r.lockFiles[i].file.lockAt = i
		}
		r.used(in)
		r.noteStray(in)
	}
}

func (r *Rank) newLockTable(in *inode) {
	in.file.locks, in.file.lockAt = r.flocks.NewTable(), len(r.lockFiles)
	r.lockFiles = append(r.lockFiles, in)
}

// onLockCancel takes a waiting request back. One that was answered is over: to undo a grant
// that crossed the cancel would also take what its owner had there before (a read lock that was
// to become a write lock), so the client takes it as granted, or gives it back itself.
func (r *Rank) onLockCancel(s *session, m *wire.LockCancel) {
	if r.replay != nil { // it has not begun yet
		r.replay.held = slices.DeleteFunc(r.replay.held, func(h heldMsg) bool { return h.s == s && r.cancelled(s, m, h.m) })
		r.dropClaims(s, func(c *lockClaim) bool {
			return c.Waiting && r.cancelled(s, m, &wire.Request{Op: wire.OpSetlk, Tid: c.Tid})
		})
	}
	if q := s.queued[m.Tid]; q != nil {
		r.cancelled(s, m, q.Request)
		in, id, place := q.in, q.set.Owner.Req, q.place
		r.leftQueue(id)
		r.finish(q)
		_, _, woken := in.file.locks.Cancel(s.client(), id, place)
		r.grantFileLocks(in, woken, 0)
		r.tidyFileLocks(in)
		return
	}
	for _, q := range s.parked { // it waits for the inode, or for iflock
		if r.cancelled(s, m, q.Request) {
			r.finish(q)
			return
		}
	}
}

// leftQueue forgets that a request waits in the queue of a file lock; nil: it does not.
func (r *Rank) leftQueue(id uint64) *request {
	q := r.flocking[id]
	if q != nil {
		delete(r.flocking, id)
		delete(q.sess.queued, q.Tid)
	}
	return q
}

// cancelled reports whether q is what m takes back, and answers it then.
func (r *Rank) cancelled(s *session, m *wire.LockCancel, q *wire.Request) bool {
	if q.Tid != m.Tid || q.Op != wire.OpSetlk {
		return false
	}
	r.send(s, 0, uint64(q.Tid), &wire.Reply{Tid: q.Tid, Errno: uint32(eINTR)})
	return true
}

// dropFileLocks forgets what a session holds and awaits. A dead one's are given on only
// behind the position that ends it, which follows its fence.
func (r *Rank) dropFileLocks(s *session, after journal.Pos) {
	for _, in := range slices.Clone(r.lockFiles) { // also where it has no cap any more
		if in.file.locks == nil || !in.file.locks.Holds(s.client()) {
			continue
		}
		woken, dropped := in.file.locks.DropClient(s.client())
		for _, w := range dropped {
			r.leftQueue(w.Req)
		}
		r.grantFileLocks(in, woken, after)
		r.tidyFileLocks(in)
	}
}
