package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// rename: one entry moves the binding and disposes of what it replaces. dn is the source
// name, dn2 the destination; in what moves, in2 what is replaced (or exchanged).
var opRename = opDesc{
	name: "rename",
	plan: func(r *Rank, q *request) errno {
		if q.RenameFlags&^(wire.RenameNoReplace|wire.RenameExchange) != 0 ||
			q.RenameFlags == wire.RenameNoReplace|wire.RenameExchange {
			return eINVAL
		}
		sd, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		dd, e := r.dirOfRequest(q, q.NewDir)
		if e != ok {
			return e
		}
		if q.dn, e = r.nameOf(q, sd, q.Name); e != ok {
			return e
		}
		if q.dn2, e = r.nameOf(q, dd, q.NewName); e != ok {
			return e
		}
		q.in, q.in2 = nil, nil
		q.set.X(&q.dn.locks[0])
		q.set.X(&q.dn2.locks[0])
		if q.dn.isNull() {
			return ok
		}
		if q.in, e = r.target(q, q.dn); e != ok {
			q.restOn(&q.dn.stamp)
			return e
		}
		q.set.Wr(&sd.in.locks[lockFile])
		q.set.Wr(&dd.in.locks[lockFile])
		q.set.X(&q.in.locks[lockLink])
		if q.dn2.far() {
			q.restOn(&q.dn2.stamp)
			switch {
			case q.RenameFlags&wire.RenameNoReplace != 0:
				return eEXIST
			case q.RenameFlags == 0 && !q.in.isDir():
				return eISDIR
			}
			return eXDEV
		}
		if !q.dn2.isNull() {
			if q.in2, e = r.target(q, q.dn2); e != ok {
				return e
			}
			if q.in2 != q.in && q.RenameFlags == 0 {
				if e := r.planLoss(q, q.in2, q.in2.isDir()); e != ok {
					return e
				}
			} else if q.in2 != q.in {
				q.set.X(&q.in2.locks[lockLink])
			}
		}
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		src, dst, in, old := q.dn, q.dn2, q.in, q.in2
		q.restOn(&src.stamp)
		q.restOn(&dst.stamp)
		q.restOn(&src.dir.in.rest)
		q.restOn(&dst.dir.in.rest)
		if src.isNull() {
			return eNOENT
		}
		q.restOn(&in.rest)
		if dst.dir.in.isStray() {
			return eNOENT
		}
		if in.isDir() || old != nil && old.isDir() {
			// That nothing moves below itself rests on where the directories above are.
			q.restOnPath(dst.dir.in)
			q.restOnPath(src.dir.in)
		}
		exchange := q.RenameFlags&wire.RenameExchange != 0
		if old != nil {
			q.restOn(&old.rest)
		}
		// The shape of the tree cannot change inside this step, so a walk up decides.
		if in.isDir() && r.isBelow(dst.dir.in, in) {
			return eINVAL
		}
		if exchange {
			if old == nil {
				return eNOENT
			}
			if old.isDir() && r.isBelow(src.dir.in, old) {
				return eINVAL
			}
		} else if old != nil {
			if q.RenameFlags&wire.RenameNoReplace != 0 {
				return eEXIST
			}
			if old != in {
				switch {
				case old.isDir() && r.isBelow(src.dir.in, old):
					return eNOTEMPTY
				case in.isDir() && !old.isDir():
					return eNOTDIR
				case !in.isDir() && old.isDir():
					return eISDIR
				case old.isDir():
					q.restOn(&old.contents)
					if old.dir.hdr.Entries != 0 {
						return eNOTEMPTY
					}
				}
			}
		}
		if old == in { // two names of one inode, or the same name twice: nothing happens
			r.replyNoChange(q)
			return ok
		}
		if r.cfg.Wrong.Has(wrong.LostRename) && r.counts.Requests%3 == 0 {
			r.replyNoChange(q)
			return ok
		}
		if in.backBytes() > maxBacks+1<<19 || old != nil && exchange && old.backBytes() > maxBacks+1<<19 {
			return eMLINK // short names that become long ones
		}
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, in.ino(), q.rest)
		if exchange {
			r.exchange(ent, src, dst)
		} else {
			if old != nil {
				r.loseName(ent, dst, old)
			}
			r.moveName(ent, src, dst)
		}
		r.touchDir(src.dir)
		if dst.dir != src.dir {
			r.touchDir(dst.dir)
		}
		q.pos = r.submit(ent)
		rep := &wire.Reply{Tid: q.Tid, Dir: r.showDir(q, src.dir)}
		if dst.dir != src.dir {
			rep.Dir2 = r.showDir(q, dst.dir)
		}
		shown := in
		if old != nil && !exchange {
			shown = old
		}
		if shown.ledger.Get(uint64(q.sess.key)) != nil {
			rep.Target = r.show(q, shown, wire.MaskAll)
		}
		rep.Lease = r.leaseMoved(dst, q.sess)
		if exchange {
			r.leaseMoved(src, q.sess) // so that it is asked back before the name changes; the author needs no word of it
		}
		r.reply(q, rep)
		if old != nil {
			r.noteStray(old)
		}
		return ok
	},
}

// moveName gives what src leads to the name dst, which is null.
func (r *Rank) moveName(ent *entry, src, dst *dentry) {
	in, kind, charge := src.in, src.kind, src.charge()
	if kind == dnRemote {
		moveBack(in, src, dst)
	}
	r.count(src, -1)
	r.unbind(src)
	r.bindMoved(dst, kind, in, charge)
	in.rec.Ctime = wire.MaxTime(in.rec.Ctime, r.wall)
	in.rec.Change++
	ent.dentry(src)
	ent.dentry(dst)
	ent.dentry(in.home) // the back-pointers of one that lives in links/
}

// exchange swaps what two names lead to.
func (r *Rank) exchange(ent *entry, a, b *dentry) {
	ia, ka, ca := a.in, a.kind, a.charge()
	ib, kb, cb := b.in, b.kind, b.charge()
	if ka == dnRemote {
		moveBack(ia, a, b)
	}
	if kb == dnRemote {
		moveBack(ib, b, a)
	}
	r.count(a, -1)
	r.count(b, -1)
	r.unbind(a)
	r.unbind(b)
	r.bindMoved(b, ka, ia, ca)
	r.bindMoved(a, kb, ib, cb)
	for _, x := range [...]struct {
		in *inode
		dn *dentry
	}{{ia, b}, {ib, a}} {
		x.in.rec.Ctime = wire.MaxTime(x.in.rec.Ctime, r.wall)
		x.in.rec.Change++
		ent.dentry(x.dn)
		ent.dentry(x.in.home)
	}
}

// bindMoved is bind for what has left another name, whose charge comes along.
func (r *Rank) bindMoved(dn *dentry, kind dentryKind, in *inode, charge *chargeRec) {
	r.bind(dn, kind, in)
	if charge != nil {
		dn.more = &dentryMore{charge: *charge}
	}
	r.count(dn, +1)
}

// moveBack lets a back-pointer follow its name. It keeps its place in the list, for the first
// one is charged.
func moveBack(in *inode, from, to *dentry) {
	old := backRec{Dir: from.dir.in.ino(), Name: from.name}
	in.rec.Backs = slices.Clone(in.rec.Backs) // the journal's encoder and queued replies may look at the old list
	for i := range in.rec.Backs {
		if in.rec.Backs[i] == old {
			in.rec.Backs[i] = backRec{Dir: to.dir.in.ino(), Name: to.name}
			return
		}
	}
	in.rec.Backs = append(in.rec.Backs, backRec{Dir: to.dir.in.ino(), Name: to.name}) // it was not listed: damage, which this mends
}

// restOnPath makes the answer wait for what others did to the names above in.
func (q *request) restOnPath(in *inode) {
	for ; in != nil && in.home != nil; in = in.parent() {
		q.restOn(&in.home.stamp)
	}
}

// isBelow reports whether in is dir or lies below it.
func (r *Rank) isBelow(in, dir *inode) bool {
	for ; in != nil; in = in.parent() {
		if in == dir {
			return true
		}
	}
	return false
}
