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

// used moves in to the young end of the list of what may be trimmed. Who holds caps, and a
// directory with cached inodes below, is not in it: it comes back when the last of them goes.
func (r *Rank) used(in *inode) {
	if r.newest == in || in.dead {
		return
	}
	r.unlist(in)
	if in.ledger.Len() > 0 || in.dir != nil && in.dir.resident > 0 {
		return
	}
	in.older, r.newest = r.newest, in
	if in.older != nil {
		in.older.newer = in
	} else {
		r.oldest = in
	}
	in.listed = true
}

// old moves in to the end that is trimmed next.
func (r *Rank) old(in *inode) {
	if in.dead || in.ledger.Len() > 0 {
		return
	}
	r.unlist(in)
	in.newer, r.oldest = r.oldest, in
	if in.newer != nil {
		in.newer.older = in
	} else {
		r.newest = in
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
// per step, so that no step is long, and more than have come.
func (r *Rank) trim() {
	m := &r.mem
	look := 64 + 2*m.grown
	m.grown = 0
	bound := r.cfg.CacheBytes - r.cfg.CacheBytes/32
	if m.used <= bound {
		m.starved = false
		return
	}
	if m.rest > 0 { // nothing could go: look again after a while
		m.rest--
		return
	}
	in := r.oldest
	before := r.counts.Trimmed
	for n := 0; in != nil && m.used > bound && n < look; n++ {
		next := in.newer
		switch {
		case r.mayTrim(in):
			up := in.home.dir
			r.trimInode(in)
			if up.resident == 0 && r.oldest == up.in {
				next = up.in // its bare names go with it
			}
		case in.ledger.Len() > 0 || in.dir != nil && in.dir.resident > 0:
			r.unlist(in)
		default:
			r.used(in) // look at it again when its turn comes round
		}
		in = next
	}
	if m.starved = r.counts.Trimmed == before; m.starved {
		m.rest = 16
		for i := 0; i < len(r.dirtyDirs) && i < 4; i++ {
			r.flush(r.dirtyDirs[i]) // what was changed may go when its directory's object has it
		}
	}
}

// mayTrim reports whether in is clean, held by nobody, and, if a directory, without a cached
// inode below.
func (r *Rank) mayTrim(in *inode) bool {
	if in.dead || in.pins != 0 || in.owes || in.stub || in.home == nil || in.home.dir.in == r.base || r.capsHeld(in) || r.fileBusy(in) ||
		in.purging || in.rec.Nlink == 0 || r.exportOf(in) != nil || in.rest.pos > r.durablePos || in.home.dirty || in.home.pins != 0 || in.home.dir.flushing {
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
	in.home.in = nil
	up := in.home.dir
	up.resident--
	r.dropInode(in)
	r.counts.Trimmed++
	if up.resident == 0 {
		r.old(up.in) // nothing but bare names left: they go with it
	}
}

// loadInode reads the inode of a bare home dentry; fn runs when it is there, or cannot be had.
func (r *Rank) loadInode(dn *dentry, fn func()) {
	if dn.more != nil {
		dn.more.fns = append(dn.more.fns, fn)
		return
	}
	dn.more = &dentryMore{fns: []func(){fn}}
	dn.pins++
	get := []wire.ObjOp{{Kind: wire.ObjOmapGet, Keys: []string{dn.name + headSuffix}}}
	r.object(0, r.dirObject(dn.dir.in.ino()), get, func(e uint32, res []wire.ObjResult) {
		var val []byte
		if e == 0 && len(res) == 1 && len(res[0].Pairs) == 1 {
			val = res[0].Pairs[0].Val
		}
		r.loadedInode(dn, e, val)
	})
}

// loadedInode takes the record in that was read for a bare dentry, and wakes who waits for it.
// False: it cannot be read, and the rank ends.
func (r *Rank) loadedInode(dn *dentry, e uint32, val []byte) bool {
	if e != 0 || val == nil {
		r.damaged(fmt.Errorf("mds: read %v: errno %d", dn, e))
		return false
	}
	if dn.kind == dnHome && dn.in == nil {
		var rec dentryRec
		err := wire.Unmarshal(val, &rec)
		if err != nil || rec.Kind != dnHome || rec.Ino != dn.ino || rec.Inode == nil {
			r.damaged(fmt.Errorf("mds: record of %v is not its inode %v: %v", dn, dn.ino, err))
			return false
		}
		in := r.inodes[rec.Ino]
		if in == nil {
			in = r.newInode(rec.Inode.memory())
		} else {
			in.rec, in.stub = rec.Inode.memory(), false
			r.account(in)
		}
		dn.in, in.home, dn.indexed = in, dn, true
		dn.dir.resident++
		r.used(in)
		r.loaded(in)
	}
	fns := dn.more.fns
	dn.more = nil
	r.unpinDentry(dn)
	for _, fn := range fns {
		fn()
	}
	return true
}
