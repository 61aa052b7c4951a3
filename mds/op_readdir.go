package mds

import "github.com/capstan-fs/capstan/wire"

const (
	readdirMax   = 1024
	readdirBytes = 1 << 20 // about; xattrs come along with Xs
)

// readdir: entries in cookie order under the directory's ifile rd. What is readable now of
// each inode comes along; nothing is taken back from anybody for it.
var opReaddir = opDesc{
	name: "readdir",
	plan: func(r *Rank, q *request) errno {
		d, e := r.dirOfRequest(q, q.Ino)
		if e != ok {
			return e
		}
		if e := r.admit(q); e != ok {
			return e
		}
		if e := r.loadWindow(q, d); e != ok {
			return e
		}
		q.in = d.in
		q.set.Rd(&d.in.locks[lockFile])
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		d := q.in.dir
		n := r.listMax(q.Max)
		rep := &wire.Reply{Tid: q.Tid, End: true, Entries: make([]wire.DirEntry, 0, min(n, d.order.Len()))}
		q.restOn(&q.in.contents) // the set: names that are not there any more included
		q.restOn(&q.in.rest)
		size := 0
		r.seek.hash = q.Cookie + 1
		d.order.AscendGreaterOrEqual(r.seek, func(dn *dentry) bool {
			if len(rep.Entries) == n || size > readdirBytes {
				rep.End = false
				return false
			}
			q.restOn(&dn.stamp)
			e := wire.DirEntry{Name: dn.name, Ino: dn.ino, Mode: dn.typ, Cookie: dn.hash}
			in := dn.in
			if in == nil {
				if in = r.inodes[dn.ino]; in != nil && in.stub {
					in = nil
				}
			}
			if in != nil && (!in.isDir() || in.dir != nil && in.dir.loaded) {
				st, stamp := r.statFor(in, q.sess, wire.MaskAll, 0)
				e.Stat = st
				for i := range st.Xattrs {
					size += len(st.Xattrs[i].Key) + len(st.Xattrs[i].Val)
				}
				size += 160 + len(st.Target)
				q.rest = max(q.rest, stamp)
				e.Lease = r.leaseFor(dn, q.sess)
			}
			rep.Entries = append(rep.Entries, e)
			size += 40 + 2*len(dn.name)
			return true
		})
		rep.Dir = r.show(q, q.in, wire.MaskAll)
		// The client knows whether it held Fs since cookie 0; the rank only says that this
		// part ends the listing and that Fs is held now.
		rep.Complete = rep.End && q.Cookie == 0
		r.reply(q, rep)
		return ok
	},
}
