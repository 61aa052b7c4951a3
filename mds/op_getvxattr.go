package mds

import (
	"strconv"

	"github.com/capstan-fs/capstan/wire"
)

// dirVxattrs are the virtual xattrs of directories: names and forms are CephFS's, for scripts.
// The recursive ones lag by what happens deeper (nest.go); what lies in the directory itself does not.
var dirVxattrs = map[string]func(b []byte, in *inode) []byte{
	"ceph.dir.entries": func(b []byte, in *inode) []byte { return strconv.AppendUint(b, in.dir.hdr.Entries, 10) },
	"ceph.dir.files": func(b []byte, in *inode) []byte {
		return strconv.AppendUint(b, in.dir.hdr.Entries-in.dir.hdr.Subdirs, 10)
	},
	"ceph.dir.subdirs": func(b []byte, in *inode) []byte { return strconv.AppendUint(b, in.dir.hdr.Subdirs, 10) },
	"ceph.dir.rbytes":  func(b []byte, in *inode) []byte { return strconv.AppendUint(b, in.dir.hdr.RBytes, 10) },
	"ceph.dir.rfiles":  func(b []byte, in *inode) []byte { return strconv.AppendUint(b, in.dir.hdr.RFiles, 10) },
	"ceph.dir.rsubdirs": func(b []byte, in *inode) []byte { // it counts itself
		return strconv.AppendUint(b, in.dir.hdr.RSubdirs+1, 10)
	},
	"ceph.dir.rentries": func(b []byte, in *inode) []byte {
		return strconv.AppendUint(b, in.dir.hdr.RFiles+in.dir.hdr.RSubdirs+1, 10)
	},
	pinXattr: func(b []byte, in *inode) []byte { return strconv.AppendInt(b, int64(in.pinned())-1, 10) },
	"ceph.dir.rctime": func(b []byte, in *inode) []byte {
		t := wire.MaxTime(in.dir.hdr.RCtime, in.attr().Ctime)
		b = append(strconv.AppendInt(b, t.Sec, 10), '.')
		nsec := strconv.FormatUint(1e9+uint64(t.Nsec), 10)
		return append(b, nsec[1:]...)
	},
}

// getvxattr: the value of a virtual xattr. It takes no lock: sums change inside a step, and no
// client may hold them back.
var opGetvxattr = opDesc{
	name: "getvxattr",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		q.in = in
		if !in.isDir() || dirVxattrs[q.Xname] == nil {
			return eNODATA
		}
		return r.header(q, in)
	},
	apply: func(r *Rank, q *request) errno {
		q.restOn(&q.in.rest)
		q.restOn(&q.in.contents)
		q.rest = max(q.rest, r.nest.pos)
		r.reply(q, &wire.Reply{Tid: q.Tid, Value: dirVxattrs[q.Xname](nil, q.in)})
		return ok
	},
}
