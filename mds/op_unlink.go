package mds

import "github.com/capstan-fs/capstan/wire"

// unlink, rmdir: the name goes; at nlink 0 the inode becomes a stray until nobody uses it.
var opUnlink = opDesc{
	name: "unlink",
	plan: func(r *Rank, q *request) errno {
		d, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		dn, e := r.nameOf(q, d, q.Name)
		if e != ok {
			return e
		}
		q.dn, q.in = dn, nil
		q.set.X(&dn.locks[0])
		if dn.isNull() {
			return ok
		}
		if dn.far() {
			q.restOn(&dn.stamp)
			if q.Op == wire.OpUnlink {
				return eISDIR
			}
			return r.wantBack(q, dn) // its owner knows whether it is empty
		}
		in, e := r.target(q, dn)
		if e != ok {
			return e
		}
		q.in = in
		q.set.Wr(&d.in.locks[lockFile])
		return r.planLoss(q, in, q.Op == wire.OpRmdir)
	},
	apply: func(r *Rank, q *request) errno {
		dn, in := q.dn, q.in
		q.restOn(&dn.stamp)
		if dn.isNull() {
			return eNOENT
		}
		q.restOn(&dn.dir.in.rest)
		q.restOn(&in.rest)
		if q.Op == wire.OpRmdir {
			if !in.isDir() {
				return eNOTDIR
			}
			q.restOn(&in.contents)
			if in.dir.hdr.Entries != 0 {
				return eNOTEMPTY
			}
		} else if in.isDir() {
			return eISDIR
		}
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, in.ino(), q.rest)
		r.loseName(ent, dn, in)
		r.touchDir(dn.dir)
		q.pos = r.submit(ent)
		rep := &wire.Reply{Tid: q.Tid, Dir: r.showDir(q, dn.dir), Lease: r.leaseOwn(dn, q.sess)}
		if in.ledger.Get(uint64(q.sess.key)) != nil {
			rep.Target = r.show(q, in, wire.MaskAll)
		}
		r.reply(q, rep)
		r.noteStray(in)
		return ok
	},
}

// planLoss names what taking one name from in needs: its link count, and when it was the
// last name the dentries of its old and new home. A directory must be known whole.
func (r *Rank) planLoss(q *request, in *inode, asDir bool) errno {
	q.set.X(&in.locks[lockLink])
	if in.isDir() {
		if !asDir {
			return ok // apply answers EISDIR
		}
		if _, e := r.complete(q, in); e != ok {
			return e
		}
		q.set.Rd(&in.locks[lockFile])
	}
	if in.rec.Nlink > 1 {
		return ok
	}
	if in.home.dir.in != r.base && isLinksDir(in.home.dir.in.ino()) {
		q.set.X(&in.home.locks[0])
	}
	_, e := r.strayDentry(q, in.ino())
	return e
}

// loseName takes dn from in and puts both into ent. At nlink 0 the inode moves to its stray
// dentry; an inode with other names loses a back-pointer.
func (r *Rank) loseName(ent *entry, dn *dentry, in *inode) {
	wasHome := dn.kind == dnHome
	r.count(dn, -1)
	if !wasHome {
		r.loseCharge(in, dn)
		dropBack(in, dn)
	}
	r.unbind(dn)
	ent.dentry(dn)
	in.rec.Ctime = wire.MaxTime(in.rec.Ctime, r.wall)
	in.rec.Nlink--
	in.rec.Change++
	if in.rec.Nlink > 0 {
		ent.dentry(in.home)
		return
	}
	if !wasHome {
		home := in.home
		r.count(home, -1)
		r.unbind(home)
		ent.dentry(home)
	}
	stray := r.dentry(r.strayDir(in.ino()), strayName(in.ino()))
	r.bind(stray, dnHome, in)
	r.count(stray, +1)
	ent.dentry(stray)
}

func dropBack(in *inode, dn *dentry) {
	dir, name := dn.dir.in.ino(), dn.name
	out := make([]backRec, 0, len(in.rec.Backs))
	for _, b := range in.rec.Backs {
		if b.Dir != dir || b.Name != name {
			out = append(out, b)
		}
	}
	in.rec.Backs = out
}
