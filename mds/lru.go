package mds

import "github.com/capstan-fs/capstan/internal/must"

func (r *Rank) unpinInode(in *inode) {
	in.pins--
	must.Holdf(in.pins >= 0, "%v: unpinned too often", in)
	if in.pins == 0 {
		r.used(in)
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

func (r *Rank) mayTrim(in *inode) bool {
	if in.dead || in.pins != 0 || in.stub || in.home == nil || in.home.dir.in == r.base || r.capsHeld(in) || r.fileBusy(in) ||
		in.purging || in.rec.Nlink == 0 || in.rest.pos > r.durablePos {
		return false
	}
	dn := in.home
	if dn.dirty || dn.pins != 0 || len(dn.leases) != 0 || dn.dir.fetching || dn.dir.flushing || !dn.locks[0].Idle() {
		return false
	}
	for i := range in.locks {
		if !in.locks[i].Idle() {
			return false
		}
	}
	if d := in.dir; d != nil {
		if len(d.names) != 0 || d.isDirty || d.fetching || d.flushing || len(d.waiters) != 0 || in.contents.pos > r.durablePos {
			return false // its children go first
		}
	}
	for _, rem := range in.remotes {
		if rem.pins != 0 {
			return false
		}
	}
	return true
}

// trimInode forgets a clean inode and its home dentry; the directory is complete no more.
func (r *Rank) trimInode(in *inode) {
	for _, rem := range in.remotes {
		rem.in = nil
	}
	in.remotes = nil
	dn := in.home
	d := dn.dir
	r.unlist(in)
	delete(r.inodes, in.rec.Ino)
	in.dead = true
	d.order.Delete(dn)
	r.dropDentry(dn)
	d.complete = false
	r.counts.Trimmed++
	// Null and remote dentries of an incomplete directory say nothing that a fetch would
	// not; they go with the last home dentry so that the directory itself can go.
	if !d.isDirty {
		r.dropLeaves(d)
	}
}

// dropLeaves forgets clean dentries that hold no inode in the cache when no home dentry is left.
func (r *Rank) dropLeaves(d *dir) {
	if d.order.Len() > 0 {
		all := true
		d.order.Ascend(func(x *dentry) bool {
			all = x.kind == dnRemote
			return all
		})
		if !all {
			return
		}
	}
	for _, x := range d.sortedNames() {
		if x.pins != 0 || x.dirty || len(x.leases) != 0 || !x.locks[0].Idle() || x.stamp.pos > r.durablePos {
			continue
		}
		if x.kind == dnRemote {
			r.unbindRemote(x)
		}
		r.dropDentry(x)
	}
}
