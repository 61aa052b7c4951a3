package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// dentryKind says what a name leads to.
type dentryKind uint8

const (
	dnNull   dentryKind = iota // the name is known to be absent (kept until durable and flushed: ES2)
	dnHome                     // the inode is embedded here
	dnRemote                   // the inode's home is elsewhere (links/)
)

// dentry is one name in a dir. in is set when the inode is cached; a home dentry without it is
// bare: clean, its record in the directory's object (lru.go).
type dentry struct {
	dir  *dir
	name string
	hash uint64 // its cookie: order within the directory, position in a listing; stored in the record
	ino  wire.Ino
	in   *inode

	version uint64 // of its last change; numbers are the dir's
	locks   [1]locker.Lock
	leases  []*leaseRec // by session key
	stamp   stamps
	more    *dentryMore // nil with nearly all

	kind    dentryKind
	dirty   bool   // in dir.dirty
	dead    bool   // dropped from the cache
	idle    bool   // in Rank.idle
	indexed bool   // the index knows it as its inode's home
	typ     uint32 // file type bits, so that a listing needs no remote inode
	pins    int32
}

// dentryMore is what few dentries have: a bare home one whose inode is being read, who waits for
// it; a remote one that its inode is charged to (nest.go), how much of it; one that leads to a
// directory of another rank, what lies below that.
type dentryMore struct {
	fns    []func()
	charge chargeRec
	nest   nestRec
}

// far reports whether the name leads to a directory that is another rank's (moves.go): only those
// have a name and no inode here.
func (d *dentry) far() bool { return d.kind == dnRemote && d.typ == modeDir }

// farNest is what is counted for a far name, itself left out.
func (d *dentry) farNest() nestRec {
	if d.more == nil {
		return nestRec{}
	}
	return d.more.nest
}

// charge is what the directory counts for a remote name; nil: nothing.
func (d *dentry) charge() *chargeRec {
	if d.kind != dnRemote || d.more == nil || d.far() {
		return nil
	}
	return &d.more.charge
}

func (d *dentry) isNull() bool   { return d.kind == dnNull }
func (d *dentry) String() string { return fmt.Sprintf("dn %v/%s", d.dir.in.rec.Ino, d.name) }
