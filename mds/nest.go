package mds

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Recursive statistics: how many bytes, files and directories lie below a directory, and when
// something there changed last.
//
//	header of a dir = sum over its names of what each is counted for
//	a name counts     a file: its size · a directory: its inode's Nest, and itself
//	                  a remote name: its charge, or nothing
//
// That sum is always exact, since name and header change in one entry of one object: no crash
// and no order of flushes can break it. What lags is the copy above: Nest in a directory's
// inode, which is part of its parent's names, says what the parent counts, and the directory's
// own header what it should. A directory in which the two differ owes; who owes is settled
// within Config.NestLagNs, in batches from the leaves up, so that a create pays for no ancestor and a
// busy directory costs each of them one record per batch. (CephFS: rstat and accounted_rstat.)
//
// An inode with several names lives in links/ and is charged to its first back-pointer: that
// remote dentry carries the charge, and Nest of the inode says what it carries. Taking that
// name away leaves the inode without a charge, and so owing (5.1).
//
// Who owed when the rank died is found again: the journal has the header that changed, or the
// head of its first segment lists the inode.
//
// With several ranks the header is the fragment's, its auth's to change under inest wr, and
// the sum over fragments is what Nest must come to; settle becomes the gather of inest.

// nestState is who owes.
type nestState struct {
	owing []*inode   // in order of their coming
	due   int64      // when they are settled; 0: nobody owes
	seek  []wire.Ino // who may owe since before this life, or is being read in order to know
	found int        // of seek, how many are being read
	told  []wire.Ino // directories of which the rank that has their name was told, and has not answered
	pos   journal.Pos
	by    [][]*inode // scratch: one batch by depth
}

func (n *nestRec) add(b nestRec) {
	n.RBytes += b.RBytes
	n.RFiles += b.RFiles
	n.RSubdirs += b.RSubdirs
	n.RCtime = wire.MaxTime(n.RCtime, b.RCtime)
}

// take is the reverse of add, but for time, which never goes back.
func (n *nestRec) take(b nestRec) {
	n.RBytes -= b.RBytes
	n.RFiles -= b.RFiles
	n.RSubdirs -= b.RSubdirs
}

// nest is what the directory above counts of in.
func (in *inode) nest() nestRec {
	if in.rec.Room == nil || in.rec.Room.Nest == nil {
		return nestRec{}
	}
	return *in.rec.Room.Nest
}

// setNest changes it; the caller's entry has the inode's home.
func (r *Rank) setNest(in *inode, v nestRec) {
	if in.rec.Room == nil {
		in.rec.Room = &inodeRoom{}
	}
	if in.rec.Room.Nest == nil {
		in.rec.Room.Nest = &nestRec{}
	}
	*in.rec.Room.Nest = v
}

// dropNest says that nothing is charged for a file with several names.
func (in *inode) dropNest() {
	if in.rec.Room == nil {
		return
	}
	if in.rec.Room.Nest = nil; in.rec.Room.empty() {
		in.rec.Room = nil
	}
}

// counted is what the header of dn's directory counts for it.
func (dn *dentry) counted() nestRec {
	switch {
	case dn.far():
		n := dn.farNest()
		n.RSubdirs++
		return n
	case dn.kind == dnRemote:
		if c := dn.charge(); c != nil {
			return nestRec{RBytes: c.Bytes, RFiles: 1}
		}
		return nestRec{}
	case dn.in.isDir():
		n := dn.in.nest()
		n.RSubdirs++
		return n
	}
	return nestRec{RBytes: dn.in.rec.Size, RFiles: 1}
}

// count adjusts a directory's totals: after dn was bound (+1), before it is unbound (-1).
func (r *Rank) count(dn *dentry, by int) {
	d := dn.dir
	d.hdr.Entries += uint64(by)
	if d.in.isSystem() {
		return // nobody asks for sums there
	}
	if dn.typ == modeDir {
		d.hdr.Subdirs += uint64(by)
	}
	if by > 0 {
		d.hdr.add(dn.counted())
	} else {
		d.hdr.take(dn.counted())
	}
	r.owes(d.in)
}

// resized takes a file's change of size, from old, into the sums; the entry that follows has
// the file's home. One with several names owes (noteChange).
func (r *Rank) resized(in *inode, old uint64) {
	if d := in.home.dir; !d.in.isSystem() && old != in.rec.Size {
		d.hdr.RBytes += in.rec.Size - old
		r.owes(d.in)
	}
}

// noteChange takes the time of an inode's change, about to be journaled with its home dn, into
// the sums; so every kind of update does without knowing it.
func (r *Rank) noteChange(dn *dentry) {
	in, d := dn.in, dn.dir
	if d.in.isSystem() {
		if !in.isDir() && in.rec.Nlink != 0 && in.nest() != chargeOf(in) {
			r.owes(in)
		}
		return
	}
	if d.hdr.RCtime.Before(in.rec.Ctime) {
		d.hdr.RCtime = in.rec.Ctime
		r.owes(d.in)
	}
}

// chargeOf is what a file with several names is to be counted for.
func chargeOf(in *inode) nestRec {
	return nestRec{RBytes: in.rec.Size, RFiles: 1, RCtime: in.rec.Ctime}
}

// charge makes dn, for which nothing is counted now, the name that in is counted at.
func (r *Rank) charge(dn *dentry, in *inode) {
	want := chargeOf(in)
	dn.more = &dentryMore{charge: chargeRec{Bytes: want.RBytes}}
	dn.dir.hdr.add(want)
	r.setNest(in, want)
	r.owes(dn.dir.in)
}

// loseCharge is to be called when dn, a name of in, is about to go for good: a charge on it
// is on no name then.
func (r *Rank) loseCharge(in *inode, dn *dentry) {
	if dn.charge() != nil {
		in.dropNest()
		r.owes(in)
	}
}

// owes notes that the directory above may count in for something else than it is.
func (r *Rank) owes(in *inode) {
	if in.owes || in.rec.Ino == wire.RootIno {
		return
	}
	in.owes = true
	n := &r.nest
	n.owing = append(n.owing, in)
	if n.due == 0 {
		n.due = r.now + r.cfg.NestLagNs
	}
}

// owesIfDifferent looks at a directory whose header and home are known.
func (r *Rank) owesIfDifferent(in *inode) {
	d := in.dir
	if d != nil && d.loaded && !in.stub && in.rec.Nlink != 0 && !in.isSystem() && d.hdr.nestRec != in.nest() {
		r.owes(in)
	}
}

const (
	nestBatch = 512 // who owes that one step settles
	nestEntry = 96  // … of which one entry tells
)

// settleNests brings the sums of a batch up to the root, when it is time.
func (r *Rank) settleNests() {
	n := &r.nest
	if n.due == 0 || r.now < n.due || r.state != stateActive || r.jw == nil {
		return
	}
	r.settleBatch()
}

// settleAll does not wait: the rank is about to stop.
func (r *Rank) settleAll() {
	for len(r.nest.owing) > 0 {
		r.settleBatch()
	}
}

// settleBatch goes from the leaves up: each directory is looked at once, after all below it.
func (r *Rank) settleBatch() {
	n := &r.nest
	k := min(len(n.owing), nestBatch)
	b := &settling{r: r}
	for _, in := range n.owing[:k] {
		b.add(in)
	}
	for depth := len(n.by) - 1; depth >= 0; depth-- {
		for i := 0; i < len(n.by[depth]); i++ {
			b.dir(n.by[depth][i], depth)
		}
		clear(n.by[depth])
		n.by[depth] = n.by[depth][:0]
	}
	b.submit()
	rest := copy(n.owing, n.owing[k:])
	clear(n.owing[rest:])
	n.owing = n.owing[:rest]
	if rest == 0 {
		n.due = 0 // the first that comes sets it; with a rest the next step goes on
	}
}

// settling is one batch.
type settling struct {
	r   *Rank
	ent *entry
}

// add takes one that owes: a directory is filed by its depth, a file is settled at once, since
// it can make a directory owe and not the other way round.
func (b *settling) add(in *inode) {
	r := b.r
	in.owes = false
	switch {
	case in.dead || in.purging || in.rec.Nlink == 0:
		return
	case !in.isDir():
		b.file(in)
		return
	}
	depth := 0
	for at := in; at.home != nil; at = at.parent() {
		if at.stub {
			break
		}
		depth++
	}
	in.owes = true
	for len(r.nest.by) <= depth {
		r.nest.by = append(r.nest.by, nil)
	}
	r.nest.by[depth] = append(r.nest.by[depth], in)
}

// dir tells the directory above what in holds.
func (b *settling) dir(in *inode, depth int) {
	r, d := b.r, in.dir
	in.owes = false
	if in.stub || in.home == nil || !d.loaded {
		r.seekNest(in.ino()) // its home was not read yet in this life
		return
	}
	was := in.nest()
	if was == d.hdr.nestRec {
		return
	}
	up := in.home.dir
	if up.in.ino().IsLinksDir() {
		r.tellSums(in) // its name is another rank's, which counts it
		return
	}
	e := b.entry()
	r.setNest(in, d.hdr.nestRec)
	up.hdr.take(was)
	up.hdr.add(d.hdr.nestRec)
	e.dentry(in.home)
	if !up.in.owes && up.in.ino() != wire.RootIno {
		up.in.owes = true
		r.nest.by[depth-1] = append(r.nest.by[depth-1], up.in)
	}
}

// file charges a file with several names to the first of them.
func (b *settling) file(in *inode) {
	r := b.r
	want := chargeOf(in)
	if !in.home.dir.in.ino().IsLinksDir() || len(in.rec.Backs) == 0 || in.nest() == want {
		return
	}
	back := in.rec.Backs[0]
	at := r.inodes[back.Dir]
	var dn *dentry
	if at != nil && at.dir != nil && at.dir.loaded {
		dn = at.dir.names[back.Name]
	}
	if dn == nil || dn.kind != dnRemote || dn.ino != in.ino() {
		if at != nil && at.dir != nil && at.dir.complete {
			r.uncounted(in)
			return
		}
		r.seekNest(in.ino())
		return
	}
	e := b.entry()
	dn.dir.hdr.take(dn.counted())
	r.charge(dn, in)
	e.dentry(dn)
	e.dentry(in.home)
}

// uncounted gives up on a file whose first name is nowhere: damage, which fsck finds.
func (r *Rank) uncounted(in *inode) {
	r.logf(LogError, "%v lists a first name %v/%q that does not lead to it: it is counted nowhere", in, in.rec.Backs[0].Dir, in.rec.Backs[0].Name)
}

// entry is the one under way; a long batch takes several.
func (b *settling) entry() *entry {
	if b.ent != nil && len(b.ent.dns) >= nestEntry {
		b.submit()
	}
	if b.ent == nil {
		b.ent = b.r.newEntry()
		b.ent.sums = true
	}
	return b.ent
}

func (b *settling) submit() {
	if b.ent == nil {
		return
	}
	b.r.nest.pos = b.r.submit(b.ent)
	b.ent = nil
}

// nestTick is when settleNests must look again.
func (r *Rank) nestTick() int64 {
	if r.state != stateActive {
		return 0
	}
	return r.nest.due
}

// ---- those of before -------------------------------------------------------------------

const nestSeeks = 8 // inodes being read at a time in order to know whether they owe

// recallOwing finds who may owe after a replay: whom the head of the first segment lists (they
// are in seek already) and whom the journal speaks of, but for those that are seen to be settled.
func (r *Rank) recallOwing() {
	listed := map[wire.Ino]bool{}
	all := r.sortedInos()
	for _, ino := range r.nest.seek {
		listed[ino] = true
		if r.inodes[ino] == nil {
			all = append(all, ino)
		}
	}
	slices.Sort(all)
	r.nest.seek = nil
	for _, ino := range all {
		if r.mayOwe(ino, listed[ino]) {
			r.nest.seek = append(r.nest.seek, ino)
		}
	}
}

// mayOwe judges by what the journal showed.
func (r *Rank) mayOwe(ino wire.Ino, listed bool) bool {
	in := r.inodes[ino]
	switch {
	case ino < wire.FirstFreeIno:
		return false
	case in == nil:
		return listed
	case in.rec.Nlink == 0:
		return false
	case !in.isDir():
		return in.home.dir.in.ino().IsLinksDir() && in.nest() != chargeOf(in)
	case in.dir == nil || !in.dir.loaded:
		return listed
	}
	return in.stub || in.dir.hdr.nestRec != in.nest()
}

// seekNest reads what is missing to settle an inode, in the background.
func (r *Rank) seekNest(ino wire.Ino) {
	r.nest.seek = append(r.nest.seek, ino)
	r.seekMore()
}

func (r *Rank) seekMore() {
	n := &r.nest
	for r.state == stateActive && n.found < len(n.seek) && n.found < nestSeeks {
		ino := n.seek[n.found]
		n.found++
		r.openByIno(ino, func(in *inode) {
			if in == nil || in.rec.Nlink == 0 {
				r.sought(ino, nil)
				return
			}
			r.readNest(in)
		})
	}
}

// readNest reads the header of a directory, or the directory that has the first name of a file.
func (r *Rank) readNest(in *inode) {
	in.pins++
	done := func() {
		r.unpinInode(in)
		r.sought(in.ino(), in)
	}
	if in.isDir() {
		d := r.dirOf(in)
		if d.loaded {
			done()
			return
		}
		d.waiters = append(d.waiters, done)
		r.fetchHeader(d)
		return
	}
	if len(in.rec.Backs) == 0 {
		done()
		return
	}
	r.openByIno(in.rec.Backs[0].Dir, func(up *inode) {
		if up == nil || !up.isDir() || len(in.rec.Backs) == 0 {
			if len(in.rec.Backs) > 0 {
				r.uncounted(in)
			}
			r.unpinInode(in)
			r.sought(in.ino(), nil)
			return
		}
		r.whenComplete(r.dirOf(up), done)
	})
}

// sought ends the search for one; in is nil when it is no more.
func (r *Rank) sought(ino wire.Ino, in *inode) {
	n := &r.nest
	for i, x := range n.seek[:n.found] {
		if x == ino {
			n.seek = append(n.seek[:i], n.seek[i+1:]...)
			n.found--
			break
		}
	}
	if in != nil && !in.dead {
		if in.isDir() {
			r.owesIfDifferent(in)
		} else {
			r.owes(in)
			n.due = r.now // before the directory with its name can leave the cache
		}
	}
	r.seekMore()
}

// put appends who owes, for the head of a segment.
func (n *nestState) put(b []byte) []byte {
	b = putArray(b, len(n.owing)+len(n.seek)+len(n.told))
	for _, in := range n.owing {
		b = putUint(b, uint64(in.rec.Ino))
	}
	for _, ino := range n.seek {
		b = putUint(b, uint64(ino))
	}
	for _, ino := range n.told {
		b = putUint(b, uint64(ino))
	}
	return b
}

func (v *nestRec) String() string {
	return fmt.Sprintf("%d bytes, %d files, %d directories, changed at %d.%09d", v.RBytes, v.RFiles, v.RSubdirs, v.RCtime.Sec, v.RCtime.Nsec)
}
