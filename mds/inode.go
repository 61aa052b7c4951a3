package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// File type bits of a mode.
const (
	modeType   = 0o170000
	modeSocket = 0o140000
	modeLink   = 0o120000
	modeReg    = 0o100000
	modeBlock  = 0o060000
	modeDir    = 0o040000
	modeChar   = 0o020000
	modeFifo   = 0o010000
	modeSUID   = 0o4000
	modeSGID   = 0o2000
	modeSticky = 0o1000
	modePerm   = 0o7777
)

// inode is one cached inode. rec is what the journal and the dirfrag objects hold of it; for
// a directory its contents' part (entries, mtime) is the header of its dir.
type inode struct {
	rec  inodeRec
	rank *Rank
	home *dentry // the dentry that embeds it; nil only for the base directory and a stub
	dir  *dir    // of a directory, once something asked for its contents

	locks  [numInodeLocks]locker.Lock
	ledger caps.Ledger
	file   *fileState // what only inodes in use have

	rest     stamps // of everything but a directory's contents
	contents stamps // of a directory's contents: ifile

	older, newer *inode // list of what may be trimmed

	pins    int32 // requests, purges and object operations that need it in memory
	extra   int32 // bytes of what hangs on it, as they were accounted last (memory.go)
	stub    bool  // after replay: a directory known by its contents only, its home not read yet
	dead    bool  // dropped from the cache: a stale pointer is a bug
	purging bool
	moving  bool // it is being given to another rank (export.go)
	listed  bool
	owes    bool // in Rank.nest: the directory above may not count what it is now
}

// Places in inode.locks, in lock order. isnap, ipolicy, inest and idft join when something
// changes what they protect: snapshots, layouts, fragments, recursive statistics of several ranks
// (of one they change inside a step: nest.go).
const (
	lockFile = iota
	lockAuth
	lockLink
	lockXattr
	lockFlock
	numInodeLocks
)

var inodeLockTypes = [numInodeLocks]locker.Type{locker.IFile, locker.IAuth, locker.ILink, locker.IXattr, locker.IFlock}

func (in *inode) ino() wire.Ino { return in.rec.Ino }
func (in *inode) isDir() bool   { return in.rec.Mode&modeType == modeDir }
func (in *inode) isReg() bool   { return in.rec.Mode&modeType == modeReg }
func (in *inode) isLink() bool  { return in.rec.Mode&modeType == modeLink }

func (in *inode) String() string { return fmt.Sprintf("ino %v", in.rec.Ino) }

// parent is the directory that holds the home dentry.
func (in *inode) parent() *inode {
	if in.home == nil {
		return nil
	}
	return in.home.dir.in
}

// isStray reports whether the inode has no name left.
func (in *inode) isStray() bool { return in.rec.Nlink == 0 }
