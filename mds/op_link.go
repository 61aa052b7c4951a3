package mds

import "github.com/capstan-fs/capstan/wire"

// link: another name. At the second one the inode moves to links/ and every name becomes
// remote; it never moves back (5.1). A tmpfile gets its first name by moving out of strays.
var opLink = opDesc{
	name: "link",
	plan: func(r *Rank, q *request) errno {
		d, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		if d.in.isStray() {
			q.restOn(&d.in.rest) // so is the removal, if it is another's
			return eNOENT
		}
		in, e := r.inodeOf(q, q.Other)
		if e != ok {
			return e
		}
		if in.isDir() {
			return ePERM
		}
		if r.full() {
			return eNOSPC
		}
		dn, e := r.nameOf(q, d, q.Name)
		if e != ok {
			return e
		}
		q.dn, q.in, q.home = dn, in, nil
		q.set.X(&dn.locks[0])
		q.set.Wr(&d.in.locks[lockFile])
		q.set.X(&in.locks[lockLink])
		if in.rec.Nlink == 1 && !isLinksDir(in.home.dir.in.ino()) {
			// Re-homing changes no binding; the x on the old name only keeps others out.
			q.pinDentry(in.home)
			q.set.X(&in.home.locks[0])
			q.home, e = r.linksDentry(q, in.ino())
			return e
		}
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		dn, in := q.dn, q.in
		q.restOn(&dn.stamp)
		q.restOn(&dn.dir.in.rest)
		q.restOn(&in.rest)
		if !dn.isNull() {
			return eEXIST
		}
		switch {
		case in.purging:
			return eNOENT
		case in.rec.Nlink >= wire.MaxLink || in.backBytes() > maxBacks:
			return eMLINK
		}
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, in.ino(), q.rest)
		v := &in.rec
		v.Ctime = wire.MaxTime(v.Ctime, r.wall)
		switch {
		case v.Nlink == 0:
			stray := in.home
			r.count(stray, -1)
			r.unbind(stray)
			ent.dentry(stray)
			r.bind(dn, dnHome, in)
		case q.home != nil:
			old := in.home
			r.unbind(old)
			r.bind(q.home, dnHome, in)
			r.count(q.home, +1)
			r.bind(old, dnRemote, in)
			r.bind(dn, dnRemote, in)
			v.Backs = []backRec{{Dir: old.dir.in.ino(), Name: old.name}, {Dir: dn.dir.in.ino(), Name: dn.name}}
			old.dir.hdr.take(nestRec{RBytes: v.Size, RFiles: 1}) // its own bytes become its charge
			r.charge(old, in)
			ent.dentry(old)
			ent.dentry(q.home)
		default:
			r.bind(dn, dnRemote, in)
			v.Backs = append(v.Backs[:len(v.Backs):len(v.Backs)], backRec{Dir: dn.dir.in.ino(), Name: dn.name})
			ent.dentry(in.home)
		}
		v.Nlink++
		v.Change++
		r.count(dn, +1)
		r.touchDir(dn.dir)
		ent.dentry(dn)
		q.pos = r.submit(ent)
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll), Lease: r.leaseOwn(dn, q.sess)})
		return ok
	},
}

// maxBacks bounds the back-pointers of one inode, for its record must fit into an entry.
const maxBacks = 1 << 20

func (in *inode) backBytes() (n int) {
	for i := range in.rec.Backs {
		n += 16 + len(in.rec.Backs[i].Name)
	}
	return n
}
