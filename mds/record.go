package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// Records are what the journal and the dirfrag objects hold. Each is a version byte and a
// msgpack array; a field is only ever added at the end together with a new version.
//
//	object <ino>.00000000.dir   xattr "header" → headerRec
//	                            omap "<name>_head" → dentryRec, the inode inside when this is its home

// inodeRec is everything durable of one inode. A directory's entry count, mtime and change
// counter are in its dir's headerRec instead, so that a create writes no record of the parent.
type inodeRec struct {
	_msgpack   struct{} `msgpack:",as_array"`
	Ino        wire.Ino
	Mode       uint32
	UID, GID   uint32
	Nlink      uint32 // a directory's: 1, 0 when removed; what stat shows is computed
	Rdev       uint32
	Size       uint64
	Sparse     bool
	TruncSeq   uint32
	CutFrom    uint64 // not 0: objects between Size and here may still exist and must be cut (4.15)
	Atime      wire.Time
	Mtime      wire.Time
	Ctime      wire.Time
	Btime      wire.Time
	Change     uint64
	Target     string // of a symlink
	Pool       uint32 // layout of a file
	ObjectSize uint32
	Xattrs     []wire.KV // sorted by key; ACLs are system.posix_acl_*
	Ranges     []rangeRec
	Backs      []backRec  // names that are not the home: remote dentries
	Reach      uint64     // no data object lies at or behind this byte: what purge and truncate must cover
	Room       *inodeRoom `msgpack:"-"` // nil: empty
}

// inodeRoom is what few inodes have, and the room that records have from day one: in memory it
// costs a pointer.
type inodeRoom struct {
	Inline []byte
	Quota  []uint64
	Pin    int32 // of a directory: the rank it is pinned to, + 1; 0: none
	Snaps  []byte
	Nest   *nestRec // what the parent counts of a directory, or the charged name of a file with several (nest.go)
}

func (v *inodeRoom) empty() bool {
	return len(v.Inline) == 0 && len(v.Quota) == 0 && v.Pin == 0 && len(v.Snaps) == 0 && v.Nest == nil
}

// inodeDisk is the whole record as the decoder sees it.
type inodeDisk struct {
	_msgpack struct{} `msgpack:",as_array"`
	inodeRec
	inodeRoom
}

// memory is what of the record stays in the cache.
func (v *inodeDisk) memory() inodeRec {
	rec := v.inodeRec
	if !v.inodeRoom.empty() {
		room := v.inodeRoom
		rec.Room = &room
	}
	rec.tidy()
	return rec
}

// tidy lets go of the empty arrays that a decoder makes.
func (v *inodeRec) tidy() {
	if len(v.Xattrs) == 0 {
		v.Xattrs = nil
	}
	if len(v.Ranges) == 0 {
		v.Ranges = nil
	}
	if len(v.Backs) == 0 {
		v.Backs = nil
	}
}

// rangeRec is a client's write range [0, Max) (4.9).
type rangeRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Session  SessionKey
	Max      uint64
}

// backRec is a back-pointer to one remote name.
type backRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      wire.Ino
	Name     string
}

// dentryRec is one name.
type dentryRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Version  uint64
	Hash     uint64
	Kind     dentryKind
	Ino      wire.Ino
	Type     uint32
	Inode    *inodeDisk // kind home
	Charge   *chargeRec // kind remote, and the inode is charged to this name
	Nest     *nestRec   // kind remote, and it leads to a directory of another rank: what is counted for it
}

// WireVersion is 3 since names of other ranks' directories carry sums.
func (*dentryRec) WireVersion() byte { return 3 }

// nestRec is what a directory holds at any depth, itself left out.
type nestRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	RBytes   uint64   // of files and symlinks
	RFiles   uint64   // all that is no directory, an inode of several names once
	RSubdirs uint64
	RCtime   wire.Time // the newest change; it never goes back
}

// chargeRec is what the directory of a remote name counts for it: one file and so many bytes.
type chargeRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Bytes    uint64
}

// headerRec is what a directory knows of its contents. Version rises with every change of
// the header or of an entry and numbers both.
type headerRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Version  uint64
	Entries  uint64
	Subdirs  uint64
	Mtime    wire.Time
	Ctime    wire.Time
	Change   uint64
	nestRec           // the sum over the names: what each is counted for
	Frags    []uint32 // room: fragment tree
}

const (
	headerXattr = "header"
	headSuffix  = "_head"
)

// dirObject names the object of the one fragment of directory ino.
func (r *Rank) dirObject(ino wire.Ino) wire.ObjectID {
	return wire.ObjectID{Pool: r.cfg.MetaPool, Name: fmt.Sprintf("%x.00000000.dir", uint64(ino))}
}

func (in *inode) xattr(key string) ([]byte, bool) {
	for i := range in.rec.Xattrs {
		if in.rec.Xattrs[i].Key == key {
			return in.rec.Xattrs[i].Val, true
		}
	}
	return nil, false
}

// setXattr returns a new list: replies that show the old one may still be queued.
func setXattr(list []wire.KV, key string, val []byte) []wire.KV {
	out := make([]wire.KV, 0, len(list)+1)
	placed := false
	for _, kv := range list {
		if !placed && kv.Key >= key {
			out, placed = append(out, wire.KV{Key: key, Val: val}), true
		}
		if kv.Key != key {
			out = append(out, kv)
		}
	}
	if !placed {
		out = append(out, wire.KV{Key: key, Val: val})
	}
	return out
}

func dropXattr(list []wire.KV, key string) []wire.KV {
	out := make([]wire.KV, 0, len(list))
	for _, kv := range list {
		if kv.Key != key {
			out = append(out, kv)
		}
	}
	return out
}
