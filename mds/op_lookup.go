package mds

import (
	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// lookup: the name's binding under dn rd, and what is known of the inode at no cost. The
// name may be absent: ENOENT with a negative lease. "." and ".." are asked by number, for
// those who hold a file handle (op_lookupino.go).
var opLookup = opDesc{
	name: "lookup",
	plan: func(r *Rank, q *request) errno {
		if q.Name == "." || q.Name == ".." {
			return r.planByNumber(q)
		}
		d, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		dn, e := r.nameOf(q, d, q.Name)
		if e != ok {
			return e
		}
		q.dn = dn
		q.set.Rd(&dn.locks[0])
		q.far = nil
		if dn.far() {
			q.in = nil
			return r.planFar(q, dn)
		}
		if !dn.isNull() {
			q.in, e = r.target(q, dn)
			if e == ok && q.in.isDir() {
				e = r.header(q, q.in)
			}
			return e
		}
		q.in = nil
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		rep := &wire.Reply{Tid: q.Tid}
		if q.dn != nil {
			q.restOn(&q.dn.stamp)
			rep.Lease = r.leaseFor(q.dn, q.sess)
		}
		if q.far != nil {
			rep.Far = q.far
		} else if q.in == nil {
			rep.Errno = uint32(eNOENT)
		} else {
			rep.Target = r.show(q, q.in, wire.MaskAll)
		}
		r.reply(q, rep)
		return ok
	},
}

// planFar finds whose the directory is that a far name leads to.
func (r *Rank) planFar(q *request, dn *dentry) errno {
	m, e := r.moveOf(q, dn)
	if e != ok {
		return e
	}
	q.far = &wire.Far{Ino: dn.ino, Rank: m.Rank}
	return ok
}

// show is a's InodeStat for the asker, with what caps cost nothing; the answer rests on it.
func (r *Rank) show(q *request, in *inode, mask wire.AttrMask) *wire.InodeStat {
	if q.replay {
		return nil // nobody waits for this answer: a cap given in it would be given to nobody
	}
	st, stamp := r.statFor(in, q.sess, mask, q.Want)
	q.rest = max(q.rest, stamp)
	return st
}

// showDir shows a directory's new size, link count and times to the author of the change that
// q has just submitted, if it holds Fs and so needs not ask for what it can know. Nothing is
// waited for: with others' changes on their way the reply shows no directory (ES2).
func (r *Rank) showDir(q *request, d *dir) *wire.InodeStat {
	rec := d.in.ledger.Get(q.sess.client())
	if rec == nil || rec.Pending&caps.FileShared == 0 || rec.Revoking() || rec.Stale {
		return nil
	}
	if r.stampFor(d.in, q.sess, wire.MaskFile) > max(q.rest, r.durablePos) {
		return nil
	}
	st := &wire.InodeStat{Ino: d.in.ino(), Valid: wire.MaskFile | wire.MaskLink, Attr: d.in.attr()}
	return st
}

// reply answers q; it leaves when the journal has what the answer rests on. An update's
// answer is early: it does not wait for its own entry, except in clientreplay.
func (r *Rank) reply(q *request, rep *wire.Reply) {
	stamp := q.rest
	if q.pos != 0 {
		rep.Early = !q.replay
		if q.replay {
			stamp = max(stamp, q.pos)
		}
	}
	q.replied = true
	if stamp <= r.durablePos {
		r.ride(q.sess, rep)
		if rep.Early && r.urgent == q.pos {
			r.urgent = r.urgentBefore // nobody waits for this entry
		}
	}
	r.send(q.sess, stamp, uint64(q.Tid), rep)
}

// answerDone answers a resent request whose effect is in the completed set.
func (r *Rank) answerDone(s *session, m *wire.Request, ino wire.Ino) {
	rep := &wire.Reply{Tid: m.Tid}
	stamp := r.durablePos
	for _, u := range s.unsafe {
		if u.tid == m.Tid {
			stamp = u.pos // not early this time: what the first answer rested on is not known any more
		}
	}
	if in := r.inodes[ino]; in != nil && !in.stub && !in.purging && m.Flags&wire.ReqReplay == 0 && m.Op != wire.OpUnlink && m.Op != wire.OpRmdir {
		st, at := r.statFor(in, s, wire.MaskAll, m.Want)
		rep.Target, stamp = st, max(stamp, at)
	}
	r.send(s, stamp, uint64(m.Tid), rep)
}
