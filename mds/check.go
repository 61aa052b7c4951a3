package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// mustHold walks the whole cache: the invariants beside each structure. Tests run it after
// every step.
func (r *Rank) mustHold() {
	must.Holdf(!r.ent.busy, "an entry was begun and not submitted")
	must.Holdf(len(r.ready) == 0, "requests are ready after a step")
	r.mustHoldCaps()
	r.mustHoldMoves()
	dentries := 0
	for ino, in := range r.inodes {
		must.Holdf(in.rec.Ino == ino && !in.dead, "%v is filed under %v", in, ino)
		must.Holdf(in.home != nil || in == r.base || in.stub, "%v has no home", in)
		if in.home != nil {
			must.Holdf(in.home.in == in && in.home.kind == dnHome && !in.home.dead, "%v: home %v leads elsewhere", in, in.home)
			must.Holdf(in.home.dir.in.rec.Ino != ino, "%v is its own parent", in)
		}
		must.Holdf(in.rec.Nlink != 0 || in.home == nil || in.home.dir.in == r.inodes[r.strayIno(in)], "%v has nlink 0 outside of strays", in)
		must.NoErr(in.ledger.Check(), "%v", in)
		for _, rem := range in.remotes() {
			must.Holdf(rem.in == in && rem.kind == dnRemote && !rem.dead, "%v: remote %v leads elsewhere", in, rem)
		}
		if in.dir != nil {
			dentries += r.checkDir(in.dir)
		}
	}
	must.Holdf(dentries == r.numDentries, "%d dentries, %d counted", dentries, r.numDentries)
	for i, d := range r.dirtyDirs {
		must.Holdf(d.isDirty && !d.in.dead, "%v is listed as dirty", d.in)
		must.Holdf(i == 0 || r.dirtyDirs[i-1].since <= d.since, "dirty directories out of order")
	}
}

func (r *Rank) checkDir(d *dir) int {
	present, subdirs, resident := 0, 0, 0
	for name, dn := range d.names {
		must.Holdf(dn.name == name && dn.dir == d && !dn.dead, "%v is filed under %q", dn, name)
		if dn.kind == dnNull {
			must.Holdf(dn.in == nil && dn.ino == 0, "null %v leads to %v", dn, dn.ino)
			continue
		}
		present++
		if dn.typ == modeDir {
			subdirs++
		}
		got, has := d.order.Get(dn)
		must.Holdf(has && got == dn, "%v is not in order", dn)
		must.Holdf(dn.version <= d.hdr.Version, "%v version %d, directory %d", dn, dn.version, d.hdr.Version)
		if dn.kind == dnHome {
			must.Holdf(dn.in != nil || !dn.dirty, "%v is dirty and bare", dn)
			must.Holdf(dn.in == nil || dn.in.home == dn && !dn.in.dead, "home %v: its inode lives elsewhere", dn)
			if dn.in != nil {
				resident++
			} else {
				must.Holdf(r.inodes[dn.ino] == nil || r.inodes[dn.ino].stub, "%v is bare, its inode is cached", dn)
			}
		}
		if dn.in != nil {
			must.Holdf(dn.in.rec.Ino == dn.ino, "%v leads to %v, says %v", dn, dn.in, dn.ino)
		}
	}
	must.Holdf(d.resident == resident, "%v: %d resident inodes, %d counted", d.in, resident, d.resident)
	must.Holdf(d.order.Len() == present, "%v: %d names, %d in order", d.in, present, d.order.Len())
	r.checkNest(d)
	if d.complete && r.replay == nil {
		must.Holdf(d.hdr.Entries == uint64(present), "%v: %d names, header says %d", d.in, present, d.hdr.Entries)
		if d.in.rec.Nlink != 0 && !d.in.isSystem() {
			must.Holdf(d.hdr.Subdirs == uint64(subdirs), "%v: %d subdirectories, header says %d", d.in, subdirs, d.hdr.Subdirs)
		}
	}
	for _, dn := range d.dirty {
		must.Holdf(dn.dirty && !dn.dead, "%v is listed as dirty", dn)
	}
	return len(d.names)
}

// checkNest: the header counts what the names count for, and who differs from what the
// directory above counts for it is known to.
func (r *Rank) checkNest(d *dir) {
	if r.replay != nil || d.in.stub || d.in.isSystem() || d.in.rec.Nlink == 0 || !d.loaded {
		return
	}
	in := d.in
	if in.rec.Ino != wire.RootIno && d.hdr.nestRec != in.nest() {
		must.Holdf(in.owes || slices.Contains(r.nest.seek, in.rec.Ino), "%v holds %v, above it counts as %v, and nobody knows", in, &d.hdr.nestRec, in.nest())
	}
	var sum nestRec
	for _, dn := range d.names {
		if dn.kind == dnHome && dn.in == nil {
			return // bare: its record is in the object
		}
		if dn.kind == dnNull {
			continue
		}
		n := dn.counted()
		if dn.kind == dnHome {
			n.RCtime = wire.MaxTime(n.RCtime, dn.in.rec.Ctime)
		}
		sum.add(n)
		if c := dn.charge(); c != nil && dn.in != nil {
			must.Holdf(dn.in.nest().RBytes == c.Bytes && dn.in.rec.Backs[0] == backRec{Dir: in.ino(), Name: dn.name}, "%v is charged at %v, which its inode does not say", dn.in, dn)
		}
	}
	h := d.hdr.nestRec
	must.Holdf(!d.complete || !h.RCtime.Before(sum.RCtime), "%v: changed at %v, a name at %v", in, h.RCtime, sum.RCtime)
	h.RCtime = sum.RCtime
	must.Holdf(!d.complete || h == sum, "%v: header counts %v, its names %v", in, &h, &sum)
}
