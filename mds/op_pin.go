package mds

import (
	"strconv"

	"github.com/capstan-fs/capstan/wire"
)

// ceph.dir.pin: the rank that is to own a directory and what is made below it; -1: whoever owns the
// directory above. Setting it hands the directory over, which must be empty as yet (export.go).

const pinXattr = "ceph.dir.pin"

var opSetPin = opDesc{
	name: "setpin",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		want, e := r.pinWanted(q, in)
		if e != ok {
			return e
		}
		q.in = in
		q.set.Owner.Client = nobody
		taken := r.moves[in.ino()]
		if taken == nil && (want < 0 || want == r.cfg.Rank) || taken != nil && want == r.cfg.Rank {
			q.set.X(&in.locks[lockXattr])
			return ok // nothing moves
		}
		if r.full() {
			return eNOSPC
		}
		if _, e := r.complete(q, in); e != ok {
			return e
		}
		if taken != nil {
			// It goes by way of the rank that has its name, which the client is sent to.
			return r.planExport(q, in, taken.Rank, 0)
		}
		return r.planExport(q, in, want, int32(want)+1)
	},
	apply: func(r *Rank, q *request) errno {
		in := q.in
		q.restOn(&in.rest)
		x := r.exports[in.ino()]
		if x == nil {
			return r.notePin(q, in)
		}
		back := r.moves[in.ino()] != nil
		gone, e := r.export(q, in)
		switch {
		case !gone:
			return e
		case back:
			q.to = x.to
			return redirected
		}
		q.replied = true
		r.send(q.sess, q.pos, uint64(q.Tid), &wire.Reply{Tid: q.Tid}) // not early: whom to ask next is not to be taken back
		return ok
	},
}

// pinWanted reads the rank that a directory is to be pinned to.
func (r *Rank) pinWanted(q *request, in *inode) (wire.Rank, errno) {
	switch {
	case !in.isDir():
		return 0, eNOTDIR
	case in == r.root || in.isStray():
		return 0, eINVAL // there is nothing above the root that it could be handed back to
	case q.Op == wire.OpRmxattr:
		return wire.NoRank, ok
	}
	n, err := strconv.ParseInt(string(q.Xval), 10, 32)
	if err != nil || n < -1 || n >= wire.MaxRanks {
		return 0, eINVAL
	}
	return wire.Rank(n), ok
}

// notePin keeps the wish for a directory that stays.
func (r *Rank) notePin(q *request, in *inode) errno {
	pin := int32(0)
	if want, _ := r.pinWanted(q, in); want >= 0 {
		pin = int32(want) + 1
	}
	if in.pinned() == pin {
		r.replyNoChange(q)
		return ok
	}
	r.setPin(in, pin)
	ent := r.newEntry()
	ent.by(q.sess, q.Tid, in.ino(), q.rest)
	ent.inode(in)
	q.pos = r.submit(ent)
	r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll)})
	return ok
}

// pinned is the rank that a directory is pinned to, + 1.
func (in *inode) pinned() int32 {
	if in.rec.Room == nil {
		return 0
	}
	return in.rec.Room.Pin
}

func (r *Rank) setPin(in *inode, pin int32) {
	if in.pinned() == pin {
		return
	}
	if in.rec.Room == nil {
		in.rec.Room = &inodeRoom{}
	}
	if in.rec.Room.Pin = pin; in.rec.Room.empty() {
		in.rec.Room = nil
	}
}
