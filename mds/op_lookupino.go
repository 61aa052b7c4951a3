package mds

import "github.com/capstan-fs/capstan/wire"

// Lookup of "." and ".." finds an inode by number: what a file handle holds
// (name_to_handle_at, knfsd) when no cache knows the inode any more. The index says where it
// is at home. A number is never given out twice, so it needs no generation; one that is gone,
// or has no name left, is stale.
//
// Request.Other, when set, is the root of the asker's mount: what has no name at or below it
// is stale too, or a handle would lead out of a mounted sub-directory. What is above a directory of
// another rank's name is not known here: such a handle is stale in a mount of what lies above.

func (r *Rank) planByNumber(q *request) errno {
	in, e := r.inodeOf(q, q.Ino)
	if e != ok {
		return e
	}
	q.far = nil
	if q.Name == ".." {
		if !in.isDir() {
			return eNOTDIR
		}
		if m := r.moves[in.ino()]; m != nil && m.State == moveTaken && q.Other == 0 {
			q.far, q.dn, q.in = &wire.Far{Ino: m.Parent, Rank: m.Rank}, nil, nil
			return ok
		}
		if p := in.parent(); p != nil && !p.isSystem() { // else the root's, or of one that is removed
			if in, e = r.inodeOf(q, p.ino()); e != ok {
				return e
			}
		}
	}
	if in.isStray() {
		q.rest = max(q.rest, r.stampFor(in, q.sess, wire.MaskLink))
		return eSTALE
	}
	if q.Other != 0 {
		inside, e := r.below(q, in, q.Other)
		if e != ok {
			return e
		}
		if !inside {
			return eSTALE
		}
	}
	q.dn, q.in = nil, in
	if in.isDir() {
		return r.header(q, in)
	}
	return ok
}

// below reports whether in has a name at or below directory top. The home of an inode with
// several names says nothing of where they are; its back-pointers do.
func (r *Rank) below(q *request, in *inode, top wire.Ino) (bool, errno) {
	if len(in.rec.Backs) == 0 {
		return r.under(q, in, top)
	}
	for _, b := range in.rec.Backs {
		d := r.inodes[b.Dir]
		if d == nil {
			if e := r.lookFor(q, b.Dir); e != eSTALE {
				return false, e
			}
			r.logf(LogError, "%v has a name in %v, which is nowhere", in, b.Dir)
			continue
		}
		if yes, e := r.under(q, d, top); yes || e != ok {
			return yes, e
		}
	}
	return false, ok
}

// under walks up from in. What is above a cached inode is cached, but after a replay perhaps
// as a stub that does not know its own place yet.
func (r *Rank) under(q *request, in *inode, top wire.Ino) (bool, errno) {
	for ; in != nil; in = in.parent() {
		if in.ino() == top {
			return true, ok
		}
		if in.stub && in.home == nil {
			return false, r.lookFor(q, in.ino())
		}
	}
	return false, ok
}
