package mds

import (
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// create, mkdir, mknod, symlink: a new inode at home under a name that is absent.
var opCreate = opDesc{
	name: "create",
	plan: func(r *Rank, q *request) errno {
		d, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		if d.in.isStray() {
			q.restOn(&d.in.rest) // so is the removal, if it is another's
			return eNOENT        // a removed directory takes no names
		}
		if q.Op == wire.OpSymlink && (q.Target == "" || len(q.Target) > wire.MaxSymlink) {
			if q.Target == "" {
				return eNOENT
			}
			return eNAMETOOLONG
		}
		dn, e := r.nameOf(q, d, q.Name)
		if e != ok {
			return e
		}
		q.dn = dn
		if r.cfg.Wrong.Has(wrong.ExclTwice) {
			q.OpenFlags &^= oEXCL
		}
		if q.Op == wire.OpCreate && !dn.isNull() && q.OpenFlags&oEXCL == 0 {
			// Somebody else was faster: an open of what is there. It changes nothing, so a
			// resend may run again.
			q.set.Rd(&dn.locks[0])
			if dn.far() {
				q.restOn(&dn.stamp)
				return eISDIR
			}
			q.in, e = r.target(q, dn)
			return e
		}
		if r.full() && dn.isNull() {
			return eNOSPC
		}
		if e := r.admit(q); e != ok {
			return e
		}
		q.set.X(&dn.locks[0])
		q.set.Rd(&d.in.locks[lockAuth])
		q.set.Wr(&d.in.locks[lockFile])
		q.in = nil
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		dn := q.dn
		dir := dn.dir.in
		q.restOn(&dn.stamp)
		if !dn.isNull() {
			if q.Op == wire.OpCreate && q.OpenFlags&oEXCL == 0 {
				if q.in.isDir() {
					return eISDIR
				}
				if !r.mayOpen(q.in, q.sess, q.Want) {
					return r.parkOpen(q)
				}
				r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, q.in, wire.MaskAll), Lease: r.leaseFor(dn, q.sess)})
				return ok
			}
			return eEXIST
		}
		ino, e := r.allocIno(q)
		if e != ok {
			return e
		}
		q.restOn(&dir.rest)
		rec, e := r.newRecord(q, dir, ino)
		if e != ok {
			return e
		}
		in := r.newInode(rec)
		r.bind(dn, dnHome, in)
		r.count(dn, +1)
		if in.isDir() {
			r.bornEmpty(in)
		}
		r.touchDir(dn.dir)
		if q.Op == wire.OpCreate {
			r.rangeForNew(in, q.sess, q.Want)
		}
		r.claim(q, in)
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, ino, q.rest)
		ent.dentry(dn)
		if in.dir != nil {
			ent.header(in.dir) // its times; and an object for every directory
		}
		q.pos = r.submit(ent)
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll), Lease: r.leaseOwn(dn, q.sess), Dir: r.showDir(q, dn.dir)})
		return ok
	},
}

// tmpfile: a new inode without a name, at home in strays; it lives while it is open or until
// link gives it a name.
var opTmpfile = opDesc{
	name: "tmpfile",
	plan: func(r *Rank, q *request) errno {
		d, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		if r.full() {
			return eNOSPC
		}
		q.in = d.in
		q.set.Rd(&d.in.locks[lockAuth])
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		ino, e := r.allocIno(q)
		if e != ok {
			return e
		}
		stray, e := r.strayDentry(q, ino)
		if e != ok {
			return e
		}
		q.restOn(&q.in.rest)
		rec, e := r.newRecord(q, q.in, ino)
		if e != ok {
			return e
		}
		rec.Nlink = 0
		in := r.newInode(rec)
		r.bind(stray, dnHome, in)
		r.count(stray, +1)
		r.rangeForNew(in, q.sess, q.Want)
		r.claim(q, in)
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, ino, q.rest)
		ent.dentry(stray)
		q.pos = r.submit(ent)
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll)})
		r.noteStray(in)
		return ok
	},
}

// Open flags that ranks look at: Linux's.
const (
	oEXCL = 0o200
)

// newRecord is the record of an inode made by q in dir: owner, setgid directories, the mode
// through umask or default ACL.
func (r *Rank) newRecord(q *request, dir *inode, ino wire.Ino) (inodeRec, errno) {
	typ := uint32(modeReg)
	switch q.Op {
	case wire.OpMkdir:
		typ = modeDir
	case wire.OpSymlink:
		typ = modeLink
	case wire.OpMknod:
		typ = q.Mode & modeType
		switch typ {
		case 0:
			typ = modeReg
		case modeReg, modeFifo, modeSocket, modeChar, modeBlock:
		default:
			return inodeRec{}, eINVAL
		}
	}
	now := r.wall
	rec := inodeRec{Ino: ino, Mode: typ | q.Mode&modePerm, UID: q.UID, GID: q.GID, Nlink: 1,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Change: 1}
	switch typ {
	case modeReg:
		rec.Pool, rec.ObjectSize = r.cfg.DataPool, r.cfg.ObjectSize
	case modeLink:
		rec.Target, rec.Size, rec.Mode = q.Target, uint64(len(q.Target)), modeLink|0o777
	case modeChar, modeBlock:
		rec.Rdev = q.Rdev
	}
	if dir.rec.Mode&modeSGID != 0 {
		rec.GID = dir.rec.GID
		if typ == modeDir {
			rec.Mode |= modeSGID
		}
	}
	if typ != modeLink {
		inheritACL(&rec, dir, q.Umask)
	}
	return rec, ok
}

// touchDir notes a change of the directory's set of entries.
func (r *Rank) touchDir(d *dir) {
	h := &d.hdr
	h.Mtime = r.wall
	h.Ctime = wire.MaxTime(h.Ctime, r.wall)
	h.Change++
	h.RCtime = wire.MaxTime(h.RCtime, h.Ctime)
	r.owes(d.in)
}

// bornEmpty gives a new directory its contents: none, and that is all there is to know.
func (r *Rank) bornEmpty(in *inode) {
	d := r.newDir(in)
	d.loaded, d.complete, d.unborn = true, true, true
	d.hdr.Mtime, d.hdr.Ctime = in.rec.Mtime, in.rec.Ctime
}
