package mds

import (
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
			fs.locks = r.flocks.NewTable()
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
		r.used(in)
	}
}

// onLockCancel takes a waiting request back, or undoes the grant that crossed the cancel.
func (r *Rank) onLockCancel(s *session, m *wire.LockCancel) {
	in := r.inodes[m.Ino]
	if in == nil || in.file == nil || in.file.locks == nil {
		return
	}
	for _, q := range s.parked {
		if q.Tid != m.Tid || q.Op != wire.OpSetlk {
			continue
		}
		_, queued, woken := in.file.locks.Cancel(s.client(), q.set.Owner.Req)
		delete(r.flocking, q.set.Owner.Req)
		r.send(s, 0, uint64(q.Tid), &wire.Reply{Tid: q.Tid, Errno: uint32(eINTR)})
		r.finish(q)
		if queued {
			r.grantFileLocks(in, woken, 0)
		}
		r.tidyFileLocks(in)
		return
	}
	r.grantFileLocks(in, in.file.locks.Unlock(m.Lock, s.client()), 0)
	r.tidyFileLocks(in)
}

// dropFileLocks forgets what a session holds and awaits. A dead one's are given on only
// behind the position that ends it, which follows its fence.
func (r *Rank) dropFileLocks(s *session, after journal.Pos) {
	for rec := s.caps.First(); rec != nil; rec = rec.Next() {
		in := r.inodes[wire.Ino(rec.Ino)]
		if in == nil || in.file == nil || in.file.locks == nil || !in.file.locks.Holds(s.client()) {
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
