package mds

import (
	"github.com/google/btree"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// dir is the contents of a directory: its one fragment. names holds every cached dentry,
// null ones included; order the present ones by cookie.
//
// loaded: the header is known. complete: every present name is cached, so a name that is not
// is absent. Both are true from birth for a directory made in this life; after a replay a
// dir may hold journaled dentries and a header without being complete.
type dir struct {
	in    *inode
	hdr   headerRec
	names map[string]*dentry
	order *btree.BTreeG[*dentry]

	unborn   bool // made in this life and never flushed: there is no object
	loaded   bool
	complete bool
	fetching bool
	waiters  []func() // for loaded or complete
	owing    map[*session]*owing
	fetchHdr headerRec

	fetchingHeader bool
	purged         []wire.Ino // of a stray directory: their index lines go with the next flush
	wantFetch      bool       // a flush is under way: fetch when it ends

	resident int // home dentries whose inode is cached

	dirty    []*dentry
	isDirty  bool
	since    journal.Pos // start of the oldest entry whose records its object may lack
	last     journal.Pos // end of the newest entry that touched it: what a flush rests on
	flushing bool
	again    journal.Pos // since of what was dirtied while a flush was under way; 0: nothing
}

const btreeDegree = 16

func byHash(a, b *dentry) bool { return a.hash < b.hash }

func (r *Rank) newDir(in *inode) *dir {
	must.Holdf(in.dir == nil, "%v has a dir already", in)
	d := &dir{in: in, names: map[string]*dentry{}, order: btree.NewG(btreeDegree, byHash)}
	in.dir = d
	r.account(in)
	return d
}

// dirOf is the dir of a directory inode, made when it is asked for the first time.
func (r *Rank) dirOf(in *inode) *dir {
	if in.dir == nil {
		r.newDir(in)
	}
	return in.dir
}

// hashName is the wish of a name for a cookie: FNV-1a, 62 bits, above the numbers that
// readdir gives "." and "..". The record stores what the name really got.
func hashName(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(name); i++ {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 29 // FNV leaves the last characters in the low bits: spread them
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 32
	return max(h&(1<<62-1), 3)
}

// cookieFor is a free cookie for name: collisions step on.
func (d *dir) cookieFor(name string) uint64 {
	probe := d.in.rank.seek // a local one would go to the heap
	probe.hash = hashName(name)
	for d.order.Has(probe) {
		probe.hash++
	}
	return probe.hash
}

// dentry is the cached dentry of name; a null one is made when there is none. Only for a
// complete dir, or when a record is about to fill it.
func (r *Rank) dentry(d *dir, name string) *dentry {
	if dn := d.names[name]; dn != nil {
		return dn
	}
	dn := &dentry{dir: d, name: name}
	dn.locks[0].Init(locker.Dn, dn)
	d.names[name] = dn
	r.numDentries++
	r.mem.used += dentryBytes(name)
	r.noteIdle(dn)
	return dn
}

// bind makes a null dentry lead to in. Counts of the header are the caller's.
func (r *Rank) bind(dn *dentry, kind dentryKind, in *inode) {
	must.Holdf(dn.kind == dnNull && kind != dnNull, "bind %v: kind %d to %d", dn, dn.kind, kind)
	if dn.hash == 0 || dn.dir.order.Has(dn) {
		dn.hash = dn.dir.cookieFor(dn.name)
	}
	r.attach(dn, kind, in)
}

// attach is bind for a dentry whose cookie is decided.
func (r *Rank) attach(dn *dentry, kind dentryKind, in *inode) {
	dn.kind, dn.in, dn.ino, dn.typ = kind, in, in.rec.Ino, in.rec.Mode&modeType
	_, taken := dn.dir.order.ReplaceOrInsert(dn)
	if taken {
		must.Holdf(false, "%v: cookie %#x taken", dn, dn.hash)
	}
	if kind == dnHome {
		in.home = dn
		dn.dir.resident++
	} else {
		in.addRemote(dn)
	}
}

// unbind makes dn null. The inode keeps existing; a home dentry's must find another one.
func (r *Rank) unbind(dn *dentry) {
	must.Holdf(dn.kind != dnNull, "unbind %v: null", dn)
	if _, ok := dn.dir.order.Delete(dn); !ok {
		must.Holdf(false, "unbind %v: not in order", dn)
	}
	if dn.in != nil {
		if dn.kind == dnHome {
			if dn.dir.resident--; dn.dir.resident == 0 {
				r.used(dn.dir.in)
			}
			if dn.in.home == dn {
				dn.in.home = nil
			}
		} else {
			dn.in.dropRemote(dn)
		}
	}
	if dn.kind == dnRemote {
		dn.more = nil
	}
	dn.kind, dn.in, dn.ino, dn.typ, dn.indexed = dnNull, nil, 0, 0, false
	r.noteIdle(dn)
}

// Key, Locks and the rest make a dentry a locker.Object; its clients are its leases (F2).

// Key implements locker.Object.
func (d *dentry) Key() locker.Key {
	return locker.Key{Dentry: true, Ino: d.dir.in.rec.Ino, Hash: hashName(d.name), Name: d.name}
}

// Locks implements locker.Object.
func (d *dentry) Locks() []locker.Lock { return d.locks[:] }

// Key implements locker.Object.
func (in *inode) Key() locker.Key { return locker.Key{Ino: in.rec.Ino} }

// Locks implements locker.Object.
func (in *inode) Locks() []locker.Lock { return in.locks[:] }

// newInode makes a cached inode of a record.
func (r *Rank) newInode(rec inodeRec) *inode {
	in := &inode{rec: rec, rank: r}
	for i := range in.locks {
		in.locks[i].Init(inodeLockTypes[i], in)
	}
	if r.inodes[rec.Ino] != nil {
		must.Holdf(false, "%v is in the cache twice", in)
	}
	r.inodes[rec.Ino] = in
	r.mem.used += inodeCost
	r.mem.grown++
	r.account(in)
	return in
}

// dropInode takes in out of the cache; its names are the caller's.
func (r *Rank) dropInode(in *inode) {
	for _, rem := range in.remotes() {
		rem.in = nil
	}
	r.unlist(in)
	delete(r.inodes, in.rec.Ino)
	in.dead = true
	r.mem.used -= inodeCost + int64(in.extra)
	in.extra = 0
}

// noteIdle lists a null dentry that nobody may need any more, for the end of the step.
func (r *Rank) noteIdle(dn *dentry) {
	if !dn.idle {
		dn.idle = true
		r.idle = append(r.idle, dn)
	}
}

// dropIdle forgets listed null dentries that nothing holds: not dirty (its object may still
// have the name), not durable-pending (ES2), no lease, no request, lock at rest.
func (r *Rank) dropIdle() {
	for _, dn := range r.idle {
		dn.idle = false
		if r.mayDrop(dn) {
			r.dropDentry(dn)
		}
	}
	clear(r.idle)
	r.idle = r.idle[:0]
}

func (r *Rank) mayDrop(dn *dentry) bool {
	return dn.kind == dnNull && !dn.dead && !dn.dirty && dn.pins == 0 && len(dn.leases) == 0 && !dn.dir.fetching &&
		!dn.dir.flushing && dn.stamp.pos <= r.durablePos && dn.locks[0].Idle()
}

func (r *Rank) dropDentry(dn *dentry) {
	delete(dn.dir.names, dn.name)
	dn.dead = true
	r.numDentries--
	r.mem.used -= dentryBytes(dn.name)
}

// pinned dentries stay; the last unpin lists a null one for dropping.
func (r *Rank) unpinDentry(dn *dentry) {
	dn.pins--
	must.Holdf(dn.pins >= 0, "%v: unpinned too often", dn)
	if dn.pins == 0 && dn.kind == dnNull {
		r.noteIdle(dn)
	}
}
