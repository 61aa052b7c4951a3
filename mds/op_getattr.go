package mds

import (
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// getattr: rd on each lock whose attributes were asked for; that asks them back from clients
// that may be changing them.
var opGetattr = opDesc{
	name: "getattr",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		q.in = in
		if in.isDir() {
			if e := r.header(q, in); e != ok {
				return e
			}
		}
		q.rdGroups(in, q.Mask)
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, q.in, wire.MaskAll)})
		return ok
	},
}

// getxattrs is getattr of the xattrs, for clients that want the values.
var opGetxattrs = opDesc{
	name: "getxattrs",
	plan: func(r *Rank, q *request) errno {
		q.Mask |= wire.MaskXattr
		return opGetattr.plan(r, q)
	},
	apply: func(r *Rank, q *request) errno {
		st := r.show(q, q.in, wire.MaskAll)
		st.HasXattrs, st.Xattrs = true, q.in.rec.Xattrs
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: st})
		return ok
	},
}

// rdGroups names the locks that cover the attribute groups of mask. A directory's link count
// is a sum over its contents, which ifile covers.
func (q *request) rdGroups(in *inode, mask wire.AttrMask) {
	if mask&wire.MaskFile != 0 || mask&wire.MaskLink != 0 && in.isDir() {
		q.set.Rd(&in.locks[lockFile])
	}
	if mask&wire.MaskAuth != 0 {
		q.set.Rd(&in.locks[lockAuth])
	}
	if mask&wire.MaskLink != 0 {
		q.set.Rd(&in.locks[lockLink])
	}
	if mask&wire.MaskXattr != 0 {
		q.set.Rd(&in.locks[lockXattr])
	}
}

// header makes sure that a directory's counts and times are known.
func (r *Rank) header(q *request, in *inode) errno {
	d := r.dirOf(in)
	if d.loaded {
		return ok
	}
	r.fetchHeader(d)
	d.waiters = append(d.waiters, r.waker(q))
	return r.parkFree(q, "directory header is being read")
}

// attr shows the newest value of every attribute; which of them the reader may rely on is
// the caller's to say.
func (in *inode) attr() wire.Attr {
	v := &in.rec
	a := wire.Attr{Mode: v.Mode, UID: v.UID, GID: v.GID, Nlink: v.Nlink, Rdev: v.Rdev, Size: v.Size, Sparse: v.Sparse,
		Atime: v.Atime, Mtime: v.Mtime, Ctime: v.Ctime, Btime: v.Btime, Change: v.Change}
	if !in.isDir() || in.dir == nil {
		return a
	}
	h := &in.dir.hdr
	a.Size = h.Entries
	a.Mtime = h.Mtime
	a.Ctime = wire.MaxTime(v.Ctime, h.Ctime)
	a.Change += h.Change
	if v.Nlink != 0 {
		a.Nlink = 2 + uint32(h.Subdirs)
	}
	return a
}

// stampFor is what a message to s (nil: to anybody) rests on that shows these groups of in.
func (r *Rank) stampFor(in *inode, s *session, mask wire.AttrMask) journal.Pos {
	var key SessionKey
	if s != nil {
		key = s.key
	}
	p := in.rest.toward(key)
	if in.isDir() && mask&(wire.MaskFile|wire.MaskLink) != 0 {
		p = max(p, in.contents.toward(key))
	}
	return p
}
