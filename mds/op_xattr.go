package mds

import (
	"strings"

	"github.com/capstan-fs/capstan/wire"
)

// Flags of setxattr, as Linux's.
const (
	xattrCREATE  = 1
	xattrREPLACE = 2
)

// setxattr and rmxattr: ixattr x; an access ACL is mirrored in the mode, so iauth x too.
var opSetxattr = opDesc{
	name: "setxattr",
	plan: func(r *Rank, q *request) errno {
		if q.Xname == pinXattr {
			return opSetPin.plan(r, q)
		}
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		q.in = in
		if e := checkXattrName(in, q.Xname); e != ok {
			return e
		}
		if len(q.Xval) > wire.MaxXattrValue {
			return eRANGE
		}
		if r.full() && q.Op == wire.OpSetxattr {
			return eNOSPC
		}
		if in.isDir() {
			if e := r.header(q, in); e != ok {
				return e
			}
		}
		q.set.X(&in.locks[lockXattr])
		if q.Xname == xattrACLAccess {
			q.set.X(&in.locks[lockAuth])
		}
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		if q.Xname == pinXattr {
			return opSetPin.apply(r, q)
		}
		in := q.in
		v := &in.rec
		q.restOn(&in.rest)
		_, have := in.xattr(q.Xname)
		mode, list := v.Mode, v.Xattrs
		remove := q.Op == wire.OpRmxattr
		if isACL(q.Xname) && !remove {
			if len(q.Xval) == 0 {
				remove = true
			} else {
				acl, err := parseACL(q.Xval)
				if err != nil {
					return eINVAL
				}
				if q.Xname == xattrACLAccess {
					mode = acl.applyToMode(mode)
					remove = acl.equalsMode()
					have = have || remove
				}
			}
		}
		switch {
		case remove && !have:
			if isACL(q.Xname) {
				r.replyNoChange(q)
				return ok
			}
			return eNODATA
		case remove:
			list = dropXattr(list, q.Xname)
		case q.OpenFlags&xattrCREATE != 0 && have:
			return eEXIST
		case q.OpenFlags&xattrREPLACE != 0 && !have:
			return eNODATA
		default:
			list = setXattr(list, q.Xname, q.Xval)
		}
		size := 0
		for i := range list {
			size += len(list[i].Key) + len(list[i].Val)
		}
		if size > wire.MaxXattrs {
			return eNOSPC
		}
		v.Mode, v.Xattrs = mode, list
		v.Ctime = wire.MaxTime(v.Ctime, r.wall)
		ent := r.newEntry()
		ent.by(q.sess, q.Tid, in.ino(), q.rest)
		ent.inode(in)
		q.pos = r.submit(ent)
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll)})
		return ok
	},
}

// replyNoChange answers a mutating request that had nothing to do: no entry, nothing unsafe.
func (r *Rank) replyNoChange(q *request) {
	r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, q.in, wire.MaskAll)})
}

func checkXattrName(in *inode, name string) errno {
	if len(name) > wire.MaxXattrName {
		return eRANGE
	}
	switch {
	case isACL(name):
		if in.isLink() || name == xattrACLDefault && !in.isDir() {
			if in.isLink() {
				return eOPNOTSUPP
			}
			return eACCES
		}
		return ok
	case strings.HasPrefix(name, "user."):
		if !in.isDir() && !in.isReg() {
			return ePERM
		}
		if name == "user." {
			return eINVAL
		}
		return ok
	case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "security."):
		return ok
	}
	return eOPNOTSUPP
}
