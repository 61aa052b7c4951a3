package mds

import (
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/wire"
)

// Export: the rank that owns an empty directory gives it to another one (docs/ranks.md, 5.4). It is
// driven by the request that asked for it, which holds the directory's locks meanwhile:
//
//	take the locks: caps and leases come home, and nobody changes anything
//	offer ──▶ Imported          the other side has journaled that it may own it
//	commit                      our entry says it does: from here on it does
//	      ──▶ ExportEnd         stamped with that entry
//
// Whatever ends the request before the commit ends the attempt: nothing has happened.

// export is an attempt under way.
type export struct {
	in       *inode
	q        *request
	req      uint64 // … as which it is known: request structs are used again
	to       wire.Rank
	attempt  uint64 // 0: the locks are being taken
	pin      int32
	acked    bool
	cleaning bool // its object is brought up to date first
	refused  errno
	waiters  []func() // requests that name the directory meanwhile
}

func (x *export) alive() bool { return x.q.alive && x.q.set.Owner.Req == x.req }

func (r *Rank) sortedExports() []*export {
	out := make([]*export, 0, len(r.exports))
	for _, x := range r.exports {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b *export) int {
		if a.in.ino() < b.in.ino() {
			return -1
		}
		return 1
	})
	return out
}

// inTransit parks a request that names a directory on its way to another rank by number; the one
// that drives the export goes on.
func (r *Rank) inTransit(q *request, in *inode) errno {
	x := r.exports[in.ino()]
	if x.req == q.set.Owner.Req {
		return ok
	}
	x.waiters = append(x.waiters, r.waker(q))
	return r.parkFree(q, "the directory is on its way to another rank")
}

// nobody owns the locks of an export: a lease of who asks for it is taken back like any other.
const nobody = ^uint64(0)

// leasedNames is how many names of the directory are locked at a time in order to take their leases back.
const leasedNames = 64

// planExport makes q give in, whose names are all known, to rank to.
func (r *Rank) planExport(q *request, in *inode, to wire.Rank, pin int32) errno {
	d := in.dir
	if d.hdr.Entries != 0 {
		return eNOTEMPTY
	}
	if in.file != nil && in.file.locks != nil && !in.file.locks.Empty() {
		return eBUSY // whose waiters and holders know this rank
	}
	x := r.exports[in.ino()]
	if e := r.mayTake(to); e == eINVAL || e != ok && x == nil {
		return e // a rank that fails over meanwhile is waited for
	}
	if x == nil {
		r.exports[in.ino()] = &export{in: in, q: q, req: q.set.Owner.Req, to: to, pin: pin}
		in.moving = true
	}
	for _, l := range []int{lockFile, lockAuth, lockLink, lockXattr, lockFlock} {
		q.set.X(&in.locks[l])
	}
	n := 0
	for _, dn := range d.sortedNames() {
		if len(dn.leases) > 0 && n < leasedNames && q.nDn < len(q.pinnedDn) {
			n++
			q.set.X(&q.pinDentry(dn).locks[0])
		}
	}
	return ok
}

// mayTake reports whether a directory may be given to a rank.
func (r *Rank) mayTake(to wire.Rank) errno {
	if to == r.cfg.Rank {
		return ok
	}
	if r.fsmap == nil {
		return eAGAIN
	}
	in, there := r.fsmap.Ranks[to]
	switch {
	case !there || uint32(to) >= r.fsmap.MaxRanks:
		return eINVAL // there is no such rank
	case in.State != stateActive:
		return eAGAIN
	}
	return ok
}

// export drives the attempt of q, all locks held. gone: it is done, the directory is the other
// rank's, and the entry at q.pos says so.
func (r *Rank) export(q *request, in *inode) (gone bool, e errno) {
	x, d := r.exports[in.ino()], in.dir
	for _, dn := range d.names {
		if len(dn.leases) > 0 {
			r.ready = append(r.ready, q) // a further batch
			return false, r.park(q, "leases on names come back")
		}
	}
	switch {
	case x.attempt == 0 && len(d.dirty) > 0:
		// Names that went are still in the directory's object, and only we know that they are gone.
		x.cleaning = true
		r.flush(d)
		return false, r.park(q, "the directory is being written")
	case x.attempt == 0:
		x.cleaning = false
		r.exportSeq++
		x.attempt = uint64(r.cfg.Epoch)<<32 | r.exportSeq
		r.offer(x)
		fallthrough
	case !x.acked:
		return false, r.park(q, "another rank is asked to take the directory")
	case x.refused != ok:
		return false, x.refused
	case d.flushing || d.fetching || d.fetchingHeader || in.home.dir.flushing:
		// What is on its way to the objects is ours: once the other side owns it, it writes them.
		return false, r.park(q, "the directory is being written")
	}
	r.commitExport(q, x)
	return true, ok
}

// offer says, or says again, what the other side is to take.
func (r *Rank) offer(x *export) {
	in := x.in
	m := &wire.Export{Ino: in.ino(), Attempt: x.attempt, Pin: x.pin, Parent: in.home.dir.in.ino(), Name: in.home.name,
		Path: r.pathOf(in), Dentry: putDentry(nil, in.home), Header: in.dir.hdr.put(nil)}
	if t := r.moves[in.ino()]; t != nil {
		m.Parent, m.Name, m.Path, m.Back = t.Parent, t.Name, t.Path, true
	}
	r.tellPeer(x.to, r.jw.End(), m)
}

// commitExport is the commit point: the name becomes a remote one, or the home in links/ goes, and
// the table says whose the directory is, in one entry.
func (r *Rank) commitExport(q *request, x *export) {
	in, home := x.in, x.in.home
	line := moveRec{Ino: in.ino(), State: moveGiven, Rank: x.to, Attempt: x.attempt, Named: true, Parent: home.dir.in.ino(), Name: home.name, Path: r.pathOf(in)}
	if t := r.moves[in.ino()]; t != nil {
		line.Named, line.Parent, line.Name, line.Path = false, t.Parent, t.Name, t.Path
		r.forgetTold(t)
	}
	ent := r.newEntry()
	if line.Named {
		ent.by(q.sess, q.Tid, in.ino(), q.rest) // else the client is sent on: its request is not done
	}
	r.count(home, -1)
	nest, hash := in.nest(), home.hash
	r.unbind(home)
	delete(r.inodes, in.ino()) // nobody finds it any more …
	r.gone = append(r.gone, in)
	if line.Named {
		home.hash = hash
		r.attachRemote(home, &dentryRec{Kind: dnRemote, Ino: in.ino(), Type: modeDir, Nest: &nest})
		r.count(home, +1)
	}
	ent.dentry(home)
	r.setMove(ent, line)
	q.pos = r.submit(ent)
	for in.ledger.Len() > 0 { // p alone: who has it asks us next, and is sent on
		rec := in.ledger.All()[0]
		r.dropCap(in, r.sessionOf(rec.Client), rec)
	}
	r.tellPeer(x.to, q.pos, &wire.ExportEnd{Ino: in.ino(), Attempt: x.attempt, Won: true})
	r.dropExport(x)
}

// dropExport ends an attempt here.
func (r *Rank) dropExport(x *export) {
	delete(r.exports, x.in.ino())
	x.in.moving = false
	r.engine.Changed(x.in)
	r.engine.Reissue(x.in)
	for _, fn := range x.waiters {
		fn()
	}
}

// cancelExport ends an attempt that has not come to its commit: nothing has happened.
func (r *Rank) cancelExport(x *export) {
	if x.attempt != 0 {
		r.tellPeer(x.to, 0, &wire.ExportEnd{Ino: x.in.ino(), Attempt: x.attempt})
	}
	r.dropExport(x)
}

// tendExports looks after attempts: those whose request ended are over, those that wait for a flush
// or whose rank there is not any more are looked at again. What was given away leaves the cache.
func (r *Rank) tendExports() {
	if len(r.exports)+len(r.gone) == 0 {
		return
	}
	for _, x := range r.sortedExports() {
		if x.alive() && (x.acked || x.cleaning && !x.in.dir.flushing && !x.in.dir.fetching || r.mayTake(x.to) == eINVAL) {
			r.ready = append(r.ready, x.q)
		}
	}
	r.settle()
	for _, x := range r.sortedExports() {
		if !x.alive() {
			r.cancelExport(x)
		}
	}
	r.settle()
	for _, in := range r.gone {
		r.forgetDir(in)
		r.dropInode(in)
	}
	clear(r.gone)
	r.gone = r.gone[:0]
}

// onImported: the other side has it, if we say so.
func (r *Rank) onImported(from wire.Rank, m *wire.Imported) {
	x := r.exports[m.Ino]
	if x == nil || x.attempt != m.Attempt || x.to != from {
		r.onExportAsk(from, &wire.ExportAsk{Ino: m.Ino, Attempt: m.Attempt}) // of a life before, or cancelled
		return
	}
	x.acked, x.refused = true, errno(m.Errno)
	if x.alive() {
		r.ready = append(r.ready, x.q)
	}
}

// onExportAsk answers an importer that does not know how it ended: the table has what was committed
// (XP2), and what is still under way will be told when it ends.
func (r *Rank) onExportAsk(from wire.Rank, m *wire.ExportAsk) {
	if x := r.exports[m.Ino]; x != nil && x.attempt == m.Attempt {
		return
	}
	t := r.moves[m.Ino]
	won := t != nil && t.State == moveGiven && t.Rank == from && t.Attempt == m.Attempt
	r.tellPeer(from, r.jw.End(), &wire.ExportEnd{Ino: m.Ino, Attempt: m.Attempt, Won: won})
}

// onImportEnded: the other side will not ask again. A directory that went back to where its name is
// leaves our table: its number tells whose it is.
func (r *Rank) onImportEnded(from wire.Rank, m *wire.ImportEnded) {
	t := r.moves[m.Ino]
	if t == nil || t.State != moveGiven || t.Rank != from || t.Attempt != m.Attempt {
		return
	}
	t.settled = true
	if !t.Named {
		ent := r.newEntry()
		r.setMove(ent, moveRec{Ino: m.Ino})
		r.submit(ent)
		t.wake()
	}
}

// pathOf is where in is, for people, as far as the cache knows.
func (r *Rank) pathOf(in *inode) string {
	var names []string
	for at := in; at != nil && at.ino() != wire.RootIno; at = at.parent() {
		if t := r.moves[at.ino()]; t != nil && t.State == moveTaken {
			names = append(names, strings.TrimPrefix(t.Path, "/"))
			break
		}
		if at.home == nil {
			names = append(names, "…")
			break
		}
		names = append(names, at.home.name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

// ---- giving back -------------------------------------------------------------------------

// wantBack parks q until the directory that dn, a far name, leads to is ours, or its rank says why not.
func (r *Rank) wantBack(q *request, dn *dentry) errno {
	if q.kept != ok {
		return q.kept
	}
	m, e := r.moveOf(q, dn)
	if e != ok {
		return e
	}
	if len(m.waiters) == 0 {
		r.tellPeer(m.Rank, 0, &wire.GiveBack{Ino: dn.ino})
	}
	wake, id := r.waker(q), q.set.Owner.Req
	m.waiters = append(m.waiters, func() {
		if q.alive && q.set.Owner.Req == id {
			q.kept = m.kept
		}
		wake()
	})
	return r.parkFree(q, "another rank is asked for the directory")
}

// onKept: it stays where it is.
func (r *Rank) onKept(m *wire.Kept) {
	if t := r.moves[m.Ino]; t != nil && t.State == moveGiven {
		t.kept = errno(m.Errno)
		t.wake()
		t.kept = ok
	}
}

// onGiveBack hands a directory to the rank that has its name, as a request of our own would.
func (r *Rank) onGiveBack(from wire.Rank, m *wire.GiveBack) {
	t := r.moves[m.Ino]
	switch {
	case t == nil || t.Rank != from:
		r.tellPeer(from, r.jw.End(), &wire.Kept{Ino: m.Ino, Errno: uint32(eSTALE)})
		return
	case t.State == movePending: // asked before we know that it is ours
		t.waiters = append(t.waiters, func() { r.onGiveBack(from, m) })
		return
	case t.State != moveTaken:
		return // on its way there: its end is told
	}
	for _, q := range r.self.parked {
		if q.Op == opGiveBackNum && q.Ino == m.Ino {
			return
		}
	}
	r.execute(r.self, &wire.Request{Op: opGiveBackNum, Ino: m.Ino}, false)
}

// opGiveBackNum is an operation that no client can ask for.
const opGiveBackNum wire.Op = 255

var opGiveBack = opDesc{
	name: "giveback",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e == ok {
			q.in = in
			q.set.Owner.Client = nobody
			if _, e = r.complete(q, in); e == ok {
				e = r.planExport(q, in, r.moves[q.Ino].Rank, 0)
			}
		}
		return r.sayKept(q, e)
	},
	apply: func(r *Rank, q *request) errno {
		_, e := r.export(q, q.in)
		return r.sayKept(q, e)
	},
}

// sayKept tells who asked that a directory is not given back. Where it was not ours any more the
// one who asked hears of it from whoever has it.
func (r *Rank) sayKept(q *request, e errno) errno {
	if t := r.moves[q.Ino]; e != ok && e != parked && e != redirected && t != nil {
		r.tellPeer(t.Rank, r.jw.End(), &wire.Kept{Ino: q.Ino, Errno: uint32(e)})
	}
	return e
}
