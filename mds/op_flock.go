package mds

import (
	"slices"

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
			r.grantFileLocks(in, fs.locks.Unlock(q.Lock, q.sess.client()), 0)
			r.reply(q, &wire.Reply{Tid: q.Tid})
			r.tidyFileLocks(in)
			return ok
		}
		r.ticket++
		id := q.set.Owner.Req
		out, woken := fs.locks.Lock(q.Lock, q.sess.client(), id, r.ticket)
		ticket := r.ticket
		r.grantFileLocks(in, woken, 0)
		switch out {
		case filelock.Granted:
			lock := q.Lock
			lock.Ticket = ticket
			q.rest = max(q.rest, in.rest.toward(q.sess.key))
			r.reply(q, &wire.Reply{Tid: q.Tid, Lock: lock})
			return ok
		case filelock.Conflict:
			r.tidyFileLocks(in)
			return eAGAIN
		case filelock.Deadlock:
			r.tidyFileLocks(in)
			return eDEADLK
		}
		// The inode stays while its table has entries (capsHeld), so no pin is needed.
		r.flocking[id] = q
		return r.parkFree(q, "a file lock is held by others")
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
				rep.Lock = wire.FileLock{Type: h.Type, Flock: q.Lock.Flock, Owner: h.Owner.Token, PID: h.PID, Start: h.Start, End: h.End}
			}
		}
		r.reply(q, rep)
		return ok
	},
}

// grantFileLocks answers the requests whose turn has come. after is the end of a dead
// holder, durable before anybody hears of it.
func (r *Rank) grantFileLocks(in *inode, woken []filelock.Waiter, after journal.Pos) {
	for i := range woken {
		w := &woken[i]
		q := r.flocking[w.Req]
		delete(r.flocking, w.Req)
		if q == nil {
			continue
		}
		lock := q.Lock
		lock.Ticket = w.Ticket
		r.send(q.sess, max(after, in.rest.toward(q.sess.key)), uint64(q.Tid), &wire.Reply{Tid: q.Tid, Lock: lock})
		r.finish(q)
	}
}

func (r *Rank) tidyFileLocks(in *inode) {
	if in.file != nil && in.file.locks != nil && in.file.locks.Empty() {
		in.file.locks = nil
		if i := slices.Index(r.lockFiles, in); i >= 0 {
			last := len(r.lockFiles) - 1
			r.lockFiles[i], r.lockFiles[last] = r.lockFiles[last], nil
			r.lockFiles = r.lockFiles[:last]
		}
		r.used(in)
		r.noteStray(in)
	}
}

func (r *Rank) newLockTable(in *inode) {
	in.file.locks = r.flocks.NewTable()
	r.lockFiles = append(r.lockFiles, in)
}

// onLockCancel takes a waiting request back, or undoes the grant that crossed the cancel.
func (r *Rank) onLockCancel(s *session, m *wire.LockCancel) {
	if r.replay != nil { // it has not begun yet
		r.replay.held = slices.DeleteFunc(r.replay.held, func(h heldMsg) bool { return h.s == s && r.cancelled(s, m, h.m) })
		s.live.claims = slices.DeleteFunc(s.live.claims, func(c wire.ReconnectLock) bool {
			return c.Waiting && r.cancelled(s, m, &wire.Request{Op: wire.OpSetlk, Tid: c.Tid})
		})
	}
	for _, q := range s.parked {
		if !r.cancelled(s, m, q.Request) {
			continue
		}
		in, id := q.in, q.set.Owner.Req
		queued := r.flocking[id] == q // else it waits for the inode, or for iflock
		delete(r.flocking, id)
		r.finish(q)
		if queued {
			_, _, woken := in.file.locks.Cancel(s.client(), id)
			r.grantFileLocks(in, woken, 0)
			r.tidyFileLocks(in)
		}
		return
	}
	in := r.inodes[m.Ino]
	if in == nil || in.file == nil || in.file.locks == nil {
		return
	}
	r.grantFileLocks(in, in.file.locks.Unlock(m.Lock, s.client()), 0)
	r.tidyFileLocks(in)
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
			delete(r.flocking, w.Req)
		}
		r.grantFileLocks(in, woken, after)
		r.tidyFileLocks(in)
	}
}
