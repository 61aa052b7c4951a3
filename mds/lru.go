package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

func (r *Rank) unpinInode(in *inode) {
	in.pins--
	must.Holdf(in.pins >= 0, "%v: unpinned too often", in)
	if in.pins == 0 {
		r.used(in)
		r.noteStray(in)
	}
}

// used moves in to the young end of the list of what may be trimmed.
func (r *Rank) used(in *inode) {
	if r.newest == in || in.dead {
		return
	}
	r.unlist(in)
	in.older, r.newest = r.newest, in
	if in.older != nil {
		in.older.newer = in
	} else {
		r.oldest = in
	}
	in.listed = true
}

func (r *Rank) unlist(in *inode) {
	if !in.listed {
		return
	}
	if in.older != nil {
		in.older.newer = in.newer
	} else {
		r.oldest = in.newer
	}
	if in.newer != nil {
		in.newer.older = in.older
	} else {
		r.newest = in.older
	}
	in.older, in.newer, in.listed = nil, nil, false
}

// trim drops inodes that nobody uses, oldest first, while the cache is over its bound: a few
// per step, so that no step is long.
func (r *Rank) trim() {
	over := len(r.inodes) - r.cfg.MaxInodes
	if over <= 0 {
		return
	}
	if r.trimRest > 0 { // nothing could go: look again after a while
		r.trimRest--
		return
	}
	in := r.oldest
	before := r.counts.Trimmed
	for n := 0; in != nil && over > 0 && n < 64; n++ {
		next := in.newer
		if r.mayTrim(in) {
			r.trimInode(in)
			over--
		} else {
			r.used(in) // look at it again when its turn comes round
		}
		in = next
	}
	if r.counts.Trimmed == before {
		r.trimRest = 64
	}
}

// mayTrim reports whether in is clean, held by nobody, and, if a directory, without a cached
// inode below.
func (r *Rank) mayTrim(in *inode) bool {
	if in.dead || in.pins != 0 || in.stub || in.home == nil || in.home.dir.in == r.base || r.capsHeld(in) || r.fileBusy(in) ||
		in.purging || in.rec.Nlink == 0 || in.rest.pos > r.durablePos || in.home.dirty || in.home.pins != 0 || in.home.dir.flushing {
		return false
	}
	for i := range in.locks {
		if !in.locks[i].Idle() {
			return false
		}
	}
	d := in.dir
	if d == nil {
		return true
	}
	if d.resident != 0 || d.isDirty || d.fetching || d.fetchingHeader || d.flushing || len(d.waiters) != 0 || in.contents.pos > r.durablePos {
		return false
	}
	for _, dn := range d.names {
		if dn.pins != 0 || dn.idle || len(dn.leases) != 0 || !dn.locks[0].Idle() || dn.stamp.pos > r.durablePos {
			return false
		}
	}
	return true
}

// trimInode forgets a clean inode. Its home dentry stays, bare: the directory goes on knowing
// all its names, and the record is read when somebody asks for the inode. The names of a
// directory go together with it.
func (r *Rank) trimInode(in *inode) {
	if d := in.dir; d != nil {
		for _, dn := range d.sortedNames() {
			if dn.kind != dnNull {
				r.unbind(dn)
			}
			r.dropDentry(dn)
		}
	}
	for _, rem := range in.remotes {
		rem.in = nil
	}
	in.remotes = nil
	in.home.in = nil
	in.home.dir.resident--
	r.unlist(in)
	delete(r.inodes, in.rec.Ino)
	in.dead = true
	r.counts.Trimmed++
}

// loadInode reads the inode of a bare home dentry; fn runs when it is there, or cannot be had.
func (r *Rank) loadInode(dn *dentry, fn func()) {
	if dn.loads = append(dn.loads, fn); len(dn.loads) > 1 {
		return
	}
	dn.pins++
	get := []wire.ObjOp{{Kind: wire.ObjOmapGet, Keys: []string{dn.name + headSuffix}}}
	r.object(0, r.dirObject(dn.dir.in.ino()), get, func(e uint32, res []wire.ObjResult) {
		if e != 0 || len(res) != 1 || len(res[0].Pairs) != 1 {
			r.damaged(fmt.Errorf("mds: read %v: errno %d", dn, e))
			return
		}
		if dn.kind == dnHome && dn.in == nil {
			var rec dentryRec
			err := wire.Unmarshal(res[0].Pairs[0].Val, &rec)
			if err != nil || rec.Kind != dnHome || rec.Ino != dn.ino || rec.Inode == nil {
				r.damaged(fmt.Errorf("mds: record of %v is not its inode %v: %v", dn, dn.ino, err))
				return
			}
			in := r.inodes[rec.Ino]
			if in == nil {
				in = r.newInode(*rec.Inode)
			} else {
				in.rec, in.stub = *rec.Inode, false
			}
			dn.in, in.home, in.indexed = in, dn, dn
			dn.dir.resident++
			r.used(in)
			r.loaded(in)
		}
		fns := dn.loads
		dn.loads = nil
		r.unpinDentry(dn)
		for _, fn := range fns {
			fn()
		}
	})
}
