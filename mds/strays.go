package mds

import (
	"fmt"
	"strconv"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// System directories. The base directory has the home dentries of root, of the links
// directories and of the stray ones, so that all of these are inodes like any other. Its own
// inode is made up at every start; its dirfrag object is 2.00000000.dir for rank 0. Every rank has
// its own base, stray and links directories; only that of rank 0 has the root.
//
// A stray is an inode of nlink 0. Its dentry in the stray directory is also its place in the
// purge queue: it stays, journaled, until no client can use the inode, its objects are gone
// from the OSDs, and the entry that removes it is submitted. So a crash at any point only
// makes the next holder delete again what may be gone already.

const baseIno wire.Ino = 2 // of rank 0

const (
	rootName = "root"
)

func strayDirName(shard int) string { return fmt.Sprintf("stray%d", shard) }
func linksDirName(shard int) string { return fmt.Sprintf("links%d", shard) }

// strayName names an inode in its stray or links directory.
func strayName(ino wire.Ino) string { return strconv.FormatUint(uint64(ino), 16) }

func isLinksDir(ino wire.Ino) bool { return ino.IsLinksDir() }

func (r *Rank) systemDir(ino wire.Ino) *dir {
	in := r.inodes[ino]
	if in == nil || !in.isDir() {
		must.Holdf(false, "system directory %v is missing", ino)
	}
	return r.dirOf(in)
}

func (r *Rank) strayDir(ino wire.Ino) *dir {
	return r.systemDir(wire.StrayDir(r.cfg.Rank, r.shard(ino)))
}

func (r *Rank) linksDir(ino wire.Ino) *dir {
	return r.systemDir(wire.LinksDir(r.cfg.Rank, r.shard(ino)))
}

// strayDentry is the dentry that ino gets at nlink 0, its directory complete. Nobody looks
// names up there, so it needs no lock; requests cannot meet in it as they hold ilink x.
func (r *Rank) strayDentry(q *request, ino wire.Ino) (*dentry, errno) {
	d := r.strayDir(ino)
	if !d.complete {
		_, e := r.complete(q, d.in)
		return nil, e
	}
	return q.pinDentry(r.dentry(d, strayName(ino))), ok
}

// linksDentry is the dentry that ino gets at its second name.
func (r *Rank) linksDentry(q *request, ino wire.Ino) (*dentry, errno) {
	d := r.linksDir(ino)
	if !d.complete {
		_, e := r.complete(q, d.in)
		return nil, e
	}
	return q.pinDentry(r.dentry(d, strayName(ino))), ok
}

// strayIno is the directory that keeps in at nlink 0.
func (r *Rank) strayIno(in *inode) wire.Ino {
	return wire.StrayDir(r.cfg.Rank, r.shard(in.ino()))
}

// isSystem reports whether in belongs to the file system itself.
func (in *inode) isSystem() bool { return in.rec.Ino != wire.RootIno && in.rec.Ino < wire.FirstFreeIno }
