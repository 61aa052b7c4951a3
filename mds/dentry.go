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
	kind dentryKind
	ino  wire.Ino
	typ  uint32 // file type bits, so that a listing needs no remote inode
	in   *inode

	version uint64 // of its last change; numbers are the dir's
	dirty   bool   // in dir.dirty
	dead    bool   // dropped from the cache

	locks  [1]locker.Lock
	leases []*leaseRec // by session key (F2)
	stamp  stamps
	pins   int32
	idle   bool     // in Rank.idle
	loads  []func() // of a bare home dentry: who waits for the inode
}

func (d *dentry) isNull() bool   { return d.kind == dnNull }
func (d *dentry) String() string { return fmt.Sprintf("dn %v/%s", d.dir.in.rec.Ino, d.name) }
