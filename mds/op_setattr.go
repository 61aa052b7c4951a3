package mds

import "github.com/capstan-fs/capstan/wire"

// setattr: mode, owner under iauth x; size and times under ifile x.
var opSetattr = opDesc{
	name: "setattr",
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
		if q.Set&wire.SetSize != 0 {
			if in.isDir() {
				return eISDIR
			}
			if !in.isReg() {
				return eINVAL
			}
			if q.Attr.Size > wire.MaxFileBytes {
				return eFBIG
			}
		}
		if q.Set&(wire.SetMode|wire.SetUID|wire.SetGID|wire.SetKillSuid|wire.SetBtime) != 0 {
			q.set.X(&in.locks[lockAuth])
		}
		if q.Set&(wire.SetSize|wire.SetAtime|wire.SetMtime|wire.SetAtimeNow|wire.SetMtimeNow|wire.SetSparse) != 0 {
			q.set.X(&in.locks[lockFile])
		}
		if q.Set&wire.SetMode != 0 {
			q.set.X(&in.locks[lockXattr]) // the ACL's mask is in the mode
		}
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		in := q.in
		v := &in.rec
		q.restOn(&in.rest)
		if in.isDir() && q.Set&(wire.SetMtime|wire.SetMtimeNow) != 0 {
			q.restOn(&in.contents)
		}
		mode := v.Mode
		cutting := false
		if q.Set&(wire.SetUID|wire.SetGID) != 0 {
			if q.Set&wire.SetUID != 0 {
				v.UID = q.Attr.UID
			}
			if q.Set&wire.SetGID != 0 {
				v.GID = q.Attr.GID
			}
			if !in.isDir() && q.Set&wire.SetMode == 0 {
				mode = killSuid(mode)
			}
		}
		if q.Set&wire.SetMode != 0 {
			mode = mode&modeType | q.Attr.Mode&modePerm
		}
		if q.Set&wire.SetKillSuid != 0 && !in.isDir() {
			mode = killSuid(mode)
		}
		v.Mode = mode
		if q.Set&wire.SetMode != 0 {
			v.Xattrs = chmodACL(v.Xattrs, mode)
		}
		if q.Set&wire.SetSize != 0 {
			cutting = r.setSize(in, q.Attr.Size)
			v.Mtime = r.wall
		}
		if q.Set&wire.SetSparse != 0 {
			v.Sparse = true
		}
		switch {
		case q.Set&wire.SetAtimeNow != 0:
			v.Atime = r.wall
		case q.Set&wire.SetAtime != 0:
			v.Atime = q.Attr.Atime
		}
		switch {
		case q.Set&wire.SetMtimeNow != 0:
			r.setMtime(in, r.wall)
		case q.Set&wire.SetMtime != 0:
			r.setMtime(in, q.Attr.Mtime)
		}
		v.Ctime = wire.MaxTime(v.Ctime, r.wall)
		if q.Set&wire.SetCtime != 0 {
			v.Ctime = wire.MaxTime(v.Ctime, q.Attr.Ctime)
		}
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, in.ino(), q.rest)
		ent.inode(in)
		if in.isDir() {
			ent.header(in.dir)
		}
		q.pos = r.submit(ent)
		if q.Set&wire.SetSize != 0 {
			r.sizeChanged(in)
		}
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll)})
		if cutting {
			r.beginCut(in, q)
			return resting
		}
		return ok
	},
}

// setSize changes the size under ifile x and reports whether objects must be cut: nobody
// holds w or b, so what was written is below the ranges that were given.
func (r *Rank) setSize(in *inode, size uint64) (cutting bool) {
	v := &in.rec
	if size > v.Size {
		v.Sparse = true
	}
	data := r.extent(in)
	cutting = data > size // a file that never had data has nothing to cut
	if cutting {
		v.CutFrom = data
	}
	if size != v.Size || cutting {
		v.TruncSeq++
	}
	old := v.Size
	v.Size = size
	r.resized(in, old)
	v.Ranges = nil // given again, below twice the new size, with the next w
	return cutting
}

func (r *Rank) setMtime(in *inode, t wire.Time) {
	if in.isDir() {
		in.dir.hdr.Mtime = t
		return
	}
	in.rec.Mtime = t
}

// killSuid clears setuid, and setgid of what its group may execute (without that it means
// mandatory locking and stays).
func killSuid(mode uint32) uint32 {
	mode &^= modeSUID
	if mode&0o010 != 0 {
		mode &^= modeSGID
	}
	return mode
}
