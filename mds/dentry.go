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
	loads   *loads // of a bare home dentry whose inode is being read

	kind    dentryKind
	dirty   bool   // in dir.dirty
	dead    bool   // dropped from the cache
	idle    bool   // in Rank.idle
	indexed bool   // the index knows it as its inode's home
	typ     uint32 // file type bits, so that a listing needs no remote inode
	pins    int32
}

// loads is who waits for the inode of a bare home dentry.
type loads struct{ fns []func() }

func (d *dentry) isNull() bool   { return d.kind == dnNull }
func (d *dentry) String() string { return fmt.Sprintf("dn %v/%s", d.dir.in.rec.Ino, d.name) }
