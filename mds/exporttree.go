package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// What lies below a directory on its way (docs/ranks.md). What the importer needs is in the objects before
// it is asked, so that the message has the directory alone, and what clients hold comes home, so that nothing
// of theirs is in it either:
//
//	read      every directory below is read, while all goes on; what cannot be moved is found
//	drain     frozen: requests that name what is below park, every cap comes back but for p, every lease
//	trim      the journal begins anew behind all that: the objects and the index have what is below, and
//	          no replay will come across it (a later one would otherwise flush over what the importer wrote)
//	offer     export.go
//
// An empty directory goes the same way: names that went from it are still in its object, and what was
// moved out of it is still there by the index.
//
// A client with a file open keeps it: its cap ends with the hand-over and it asks the other rank for
// another one (CapExport); so that a name removed there meanwhile does not take the file with it, the
// importer purges nothing for a while (awaitGuests).

// treePhase is how far an export with contents has come.
type treePhase uint8

const (
	treeRead treePhase = iota
	treeDrain
	treeHead // the journal's new beginning is due at the end of the step
	treeTrim
	treeOffer
)

// exportTree is what an export knows of what is below.
type exportTree struct {
	phase  treePhase
	unread []*inode    // directories below that are still to be read
	names  int         // … names in those that were
	rounds int         // how often it was read
	todo   []*inode    // drain: who may still be in use
	leased []*dentry   // … and names with leases
	mark   journal.Pos // trim: where the journal is to begin
}

// maxExport bounds the names below a directory that is handed over: all are looked at in one step, several times.
const maxExport = 100_000

// exportOf is the attempt that in is frozen for, itself or a directory above it; nil: none.
func (r *Rank) exportOf(in *inode) *export {
	if len(r.exports) == 0 {
		return nil
	}
	for at := in; at != nil; at = at.parent() {
		if at.moving {
			return r.exports[at.ino()]
		}
	}
	return nil
}

// planTree brings the export of a directory with contents as far as it comes without its locks: all below is
// read, then frozen.
func (r *Rank) planTree(q *request, in *inode, to wire.Rank, pin int32) errno {
	x := r.exports[in.ino()]
	if e := r.mayTake(q, to, x == nil); e != ok {
		return e
	}
	if x == nil {
		x = &export{in: in, q: q, req: q.set.Owner.Req, to: to, pin: pin}
		x.tree.phase = treeRead
		x.tree.unread = []*inode{in}
		r.exports[in.ino()] = x
	}
	if x.req != q.set.Owner.Req { // another wish for the same directory, which is being read
		x.waiters = append(x.waiters, r.waker(q))
		return r.parkFree(q, whyLeaving)
	}
	if x.tree.phase == treeRead {
		if e := r.readTree(q, x); e != ok {
			return e
		}
		return r.freeze(x)
	}
	return ok
}

// readTree reads what is below, and finds what stands against it.
func (r *Rank) readTree(q *request, x *export) errno {
	t := &x.tree
	for len(t.unread) > 0 {
		in := t.unread[len(t.unread)-1]
		if in.dead { // removed, or pushed out of the cache
			return r.readAgain(x)
		}
		d, e := r.complete(q, in)
		if e != ok {
			return e
		}
		if t.names+d.order.Len() > maxExport {
			return e2BIG
		}
		var bare *dentry
		var subs []*inode
		d.order.Ascend(func(dn *dentry) bool {
			switch {
			case dn.far():
				e = eBUSY // a directory of a third rank: its table has us for who has the name
			case dn.kind == dnRemote:
				e = eMLINK // its inode is at home in our links directory
			case dn.typ != modeDir:
			case dn.in == nil:
				bare = dn
			default:
				subs = append(subs, dn.in)
			}
			return e == ok && bare == nil
		})
		if e != ok {
			return e
		}
		if bare != nil {
			r.loadInode(bare, r.waker(q))
			return r.parkFree(q, "inode is being read")
		}
		t.names += d.order.Len()
		t.unread = append(t.unread[:len(t.unread)-1], subs...)
	}
	return ok
}

// maxRounds is how often what is below is read when it changes, or leaves the cache, while that goes on.
const maxRounds = 5

func (r *Rank) readAgain(x *export) errno {
	t := &x.tree
	if t.rounds++; t.rounds > maxRounds {
		return eBUSY
	}
	t.unread, t.names = append(t.unread[:0], x.in), 0
	r.ready = append(r.ready, x.q)
	return r.parkFree(x.q, "directory is being read")
}

// unread is treeOf's word for a directory that is not in the cache.
const unread = eAGAIN

// treeOf lists the cached inodes below in, itself first. e: something of it is not as readTree left it.
func (r *Rank) treeOf(in *inode) (list []*inode, e errno) {
	list = []*inode{in}
	for i := 0; i < len(list); i++ {
		d := list[i].dir
		if d == nil {
			if list[i].isDir() {
				return nil, unread
			}
			continue
		}
		if !d.complete {
			return nil, unread
		}
		d.order.Ascend(func(dn *dentry) bool {
			switch {
			case dn.far():
				e = eBUSY
			case dn.kind == dnRemote:
				e = eMLINK
			case dn.in != nil:
				list = append(list, dn.in)
			case dn.typ == modeDir:
				e = unread
			}
			return e == ok
		})
		if e != ok {
			return nil, e
		}
	}
	if len(list) > maxExport {
		return nil, e2BIG
	}
	return list, ok
}

// freeze stops all that is below x.in, and asks clients for what they have of it.
func (r *Rank) freeze(x *export) errno {
	list, e := r.treeOf(x.in)
	if e == unread { // what was read changed meanwhile
		return r.readAgain(x)
	}
	if e != ok {
		return e
	}
	for _, in := range list {
		if in.file != nil && in.file.locks != nil && !in.file.locks.Empty() {
			return eBUSY
		}
		if o := r.exports[in.ino()]; o != nil && o != x {
			return eBUSY
		}
	}
	x.tree.phase, x.tree.todo = treeDrain, list
	x.in.moving = true
	for _, in := range list {
		r.engine.Changed(in)
		r.engine.Reissue(in)
		if in.dir != nil {
			r.takeLeases(x, in.dir)
		}
	}
	// Requests that are below already hold locks there, or wait for some: run again they find it frozen.
	for _, s := range r.order {
		for _, q := range s.parked {
			if q != x.q && r.flocking[q.set.Owner.Req] != q {
				r.ready = append(r.ready, q)
			}
		}
	}
	return ok
}

// drained looks whether nothing below is in use any more; it asks for what is.
func (r *Rank) drained(x *export) bool {
	t := &x.tree
	for len(t.leased) > 0 {
		if dn := t.leased[len(t.leased)-1]; !dn.dead && len(dn.leases) > 0 {
			return false
		}
		t.leased = t.leased[:len(t.leased)-1]
	}
	for len(t.todo) > 0 {
		in := t.todo[len(t.todo)-1]
		if !in.dead && !r.still(x, in) {
			return false
		}
		t.todo = t.todo[:len(t.todo)-1]
	}
	return len(r.nest.seek) == 0 // sums that are still looked for could change something below
}

// still reports whether nobody uses in, which is below x.in or that itself, and clients have no more than p of it.
func (r *Rank) still(x *export, in *inode) bool {
	idle := in == x.in || in.pins == 0 // the request that drives it has x.in, and its locks
	for i := range in.locks {
		idle = idle && (in == x.in || in.locks[i].Idle())
	}
	for _, rec := range in.ledger.All() {
		idle = idle && rec.Issued&^caps.Pin == 0
	}
	if !idle || in.stub || in.purging || r.fileBusy(in) {
		return false
	}
	if len(in.rec.Ranges) > 0 {
		n := len(in.rec.Ranges)
		if r.tidyRanges(in); len(in.rec.Ranges) < n {
			ent := r.newEntry()
			ent.inode(in)
			r.submit(ent)
		}
		if len(in.rec.Ranges) > 0 {
			return false
		}
	}
	d := in.dir
	if d == nil {
		return true
	}
	if d.fetching || d.fetchingHeader || d.wantFetch || len(d.waiters) > 0 || len(d.owing) > 0 {
		return false
	}
	for _, dn := range d.names {
		if len(dn.leases) > 0 {
			r.takeLeases(x, d) // names kept when Fs came back (keepNames)
			return false
		}
	}
	for _, dn := range d.names { // behind all leases: which name the map shows first decides nothing
		if dn.pins != 0 || !dn.locks[0].Idle() {
			return false
		}
	}
	return true
}

// takeLeases asks all leases on d's names back.
func (r *Rank) takeLeases(x *export, d *dir) {
	for _, dn := range d.sortedNames() {
		if len(dn.leases) > 0 {
			x.tree.leased = append(x.tree.leased, dn)
		}
		for _, l := range dn.leases {
			if l.asked == 0 {
				r.askLease(l)
			}
		}
	}
}

// trimmed reports whether the objects have all that is below; changed: something happened there since the
// journal began anew (the size of a file was found out, whose writer had died with a rank).
func (r *Rank) trimmed(x *export) (done, changed bool, e errno) {
	list, e := r.treeOf(x.in)
	if e != ok {
		return false, false, e
	}
	x.tree.todo = append(x.tree.todo[:0], list...)
	done = r.drained(x) && !x.in.home.dir.flushing
	for _, in := range list {
		d := in.dir
		done = done && !(d != nil && d.flushing)
		changed = changed || d != nil && d.isDirty || in.owes && in != x.in // what that one owes goes along
	}
	return done && !changed, changed, ok
}

// driveTree takes an export with contents further; true: it may be offered, or committed.
func (r *Rank) driveTree(q *request, x *export) (bool, errno) {
	t := &x.tree
	for {
		switch t.phase {
		case treeDrain:
			if !r.drained(x) {
				return false, r.park(q, "caps and leases come back")
			}
			t.phase = treeHead
		case treeHead:
			return false, r.park(q, "the journal begins anew")
		case treeTrim:
			if r.expire.oldest < t.mark {
				return false, r.park(q, "the directories are being written")
			}
			t.phase = treeOffer
		default:
			done, changed, e := r.trimmed(x)
			switch {
			case e == unread:
				return false, eBUSY
			case e != ok || done:
				return done, e
			case !changed:
				return false, r.park(q, "what is below is looked at") // by somebody who will be told whose it is

			case x.attempt != 0:
				return false, eBUSY
			}
			t.phase = treeDrain
			if t.todo, e = r.treeOf(x.in); e != ok {
				return false, e
			}
		}
	}
}

// beginAnew ends a step in which an export wants the journal to begin behind what is below it: the sums go
// up first, as they change records on their way.
func (r *Rank) beginAnew() {
	if len(r.exports) == 0 {
		return
	}
	for _, x := range r.sortedExports() {
		if x.tree.phase == treeTrim {
			r.expire.due = true // the new beginning may be durable now
		}
		if x.tree.phase != treeHead || !x.alive() {
			continue
		}
		r.settleAll()
		if len(r.nest.seek) > 0 {
			x.tree.phase, x.tree.todo, x.q.why = treeDrain, x.tree.todo[:0], "sums below are still looked for"
			continue
		}
		r.newSegment()
		x.tree.phase, x.tree.mark = treeTrim, r.segs[len(r.segs)-1].at.Pos
		x.q.why = "the directories are being written"
		r.expire.upto = max(r.expire.upto, x.tree.mark)
		r.expire.due = true
	}
}

// treeMoves reports whether an export with contents can be looked at again.
func (r *Rank) treeMoves(x *export) bool {
	switch x.tree.phase {
	case treeDrain:
		return r.drained(x)
	case treeTrim:
		return r.expire.oldest >= x.tree.mark
	case treeOffer:
		return x.acked || x.attempt == 0
	}
	return false
}

// leave ends what clients have of in, which is rank to's as of pos: they are told whom to ask.
func (r *Rank) leave(in *inode, to wire.Rank, pos journal.Pos) {
	for in.ledger.Len() > 0 {
		rec := in.ledger.All()[0]
		s := r.sessionOf(rec.Client)
		if s != nil && s.alive() {
			r.send(s, pos, 0, &wire.CapGrant{Op: wire.CapExport, To: to, Stat: wire.InodeStat{Ino: in.ino(), Cap: &wire.Cap{ID: rec.ID, Seq: rec.Seq, Mseq: rec.Mseq, Barrier: r.barrier}}})
		}
		r.dropCap(in, s, rec)
	}
}

// forgetTree drops what is below x.in, which is another rank's now.
func (r *Rank) forgetTree(x *export, list []*inode, pos journal.Pos) {
	for _, in := range slices.Backward(list) {
		r.leave(in, x.to, pos)
		if in != x.in { // that one goes when the request that holds it is done
			r.forget(in)
		}
	}
}

// unfreeze lets what is below go on: it stays.
func (r *Rank) unfreeze(x *export) {
	if x.tree.phase <= treeRead {
		return
	}
	list := []*inode{x.in}
	for i := 0; i < len(list); i++ {
		r.engine.Changed(list[i])
		r.engine.Reissue(list[i])
		if d := list[i].dir; d != nil {
			d.order.Ascend(func(dn *dentry) bool {
				if dn.kind == dnHome && dn.in != nil {
					list = append(list, dn.in)
				}
				return true
			})
		}
	}
}

// ---- the importer's side ------------------------------------------------------------------

// awaitGuests holds purges back for a while, at an importer and at a rank that has just come back: clients that
// have files open are on their way with the news that those are here. Who is not there after a session's
// validity and as much again for the rank that is to tell it is not heard of any more.
func (r *Rank) awaitGuests() {
	r.strays.guests = r.now + 2*r.validity()
}

// indexWait is somebody who waits until the index leads to where an inode is.
type indexWait struct {
	dn *dentry
	fn func()
}

// whenIndexed runs fn when the objects have dn, its line in the index included.
func (r *Rank) whenIndexed(dn *dentry, fn func()) {
	if !dn.dirty || dn.dead {
		fn()
		return
	}
	r.indexWaits = append(r.indexWaits, indexWait{dn, fn})
	r.flush(dn.dir)
}

// tendIndexWaits looks whose wait is over.
func (r *Rank) tendIndexWaits() {
	if len(r.indexWaits) == 0 {
		return
	}
	list := r.indexWaits
	r.indexWaits = nil
	for _, w := range list {
		r.whenIndexed(w.dn, w.fn)
	}
}

// guestTick is when purges go on.
func (r *Rank) guestTick() int64 {
	if r.now >= r.strays.guests || len(r.strays.maybe) == 0 {
		return 0
	}
	return r.strays.guests
}
