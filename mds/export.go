package mds

import (
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Export: the rank that owns a directory gives it to another one (docs/ranks.md, 5.4). It is driven by
// the request that asked for it, which holds the directory's locks meanwhile; what lies below one with
// contents is looked after before (exporttree.go):
//
//	take the locks: caps and leases come home, and nobody changes anything
//	offer ──▶ Imported          the other side has journaled that it may own it
//	commit                      our entry says it does: from here on it does
//	      ──▶ ExportEnd         stamped with that entry
//
// Whatever ends the request before the commit ends the attempt: nothing has happened.

// export is an attempt under way.
type export struct {
	in      *inode
	q       *request
	req     uint64 // … as which it is known: request structs are used again
	to      wire.Rank
	attempt uint64 // 0: the locks are being taken
	pin     int32
	acked   bool
	refused errno
	waiters []func() // requests that name the directory meanwhile
	tree    exportTree
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
func (r *Rank) inTransit(q *request, x *export) errno {
	if x.req == q.set.Owner.Req {
		return ok
	}
	x.waiters = append(x.waiters, r.waker(q))
	return r.parkFree(q, whyLeaving)
}

// nobody owns the locks of an export: a lease of who asks for it is taken back like any other.
const nobody = ^uint64(0)

// planExport makes q give in to rank to.
func (r *Rank) planExport(q *request, in *inode, to wire.Rank, pin int32) errno {
	if e := r.planTree(q, in, to, pin); e != ok {
		return e
	}
	for _, l := range []int{lockFile, lockAuth, lockLink, lockXattr, lockFlock} {
		q.set.X(&in.locks[l])
	}
	return ok
}

// mayTake reports whether a directory may be given to a rank. One that is failing over is waited for: before an
// attempt begins here, later like any peer. (EAGAIN would not do: the kernel makes EOPNOTSUPP of it.)
func (r *Rank) mayTake(q *request, to wire.Rank, begins bool) errno {
	switch {
	case to == r.cfg.Rank:
		return ok
	case r.fsmap == nil:
	case !r.there(to):
		return eINVAL
	case r.fsmap.Ranks[to].State == stateActive:
		return ok
	}
	if !begins {
		return ok
	}
	r.mapWaits = append(r.mapWaits, mapWait{r.now + mapPatience, r.waker(q)})
	return r.parkFree(q, whyNotActive)
}

// there reports whether a rank is, or should be.
func (r *Rank) there(n wire.Rank) bool {
	if r.fsmap == nil {
		return true
	}
	_, there := r.fsmap.Ranks[n]
	return there && uint32(n) < r.fsmap.MaxRanks
}

// export drives the attempt of q, all locks held. gone: it is done, the directory is the other
// rank's, and the entry at q.pos says so.
func (r *Rank) export(q *request, in *inode) (gone bool, e errno) {
	x := r.exports[in.ino()]
	if done, e := r.driveTree(q, x); !done {
		return false, e
	}
	switch {
	case x.attempt == 0:
		r.exportSeq++
		x.attempt = uint64(r.cfg.Epoch)<<32 | r.exportSeq
		r.offer(x)
		fallthrough
	case !x.acked:
		return false, r.park(q, "another rank is asked to take the directory")
	case x.refused != ok:
		return false, x.refused
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
	list, e := r.treeOf(in)
	must.Holdf(e == ok, "%v: errno %d of what is below it", in, e)
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
	r.forgetTree(x, list, q.pos)
	r.tellPeer(x.to, q.pos, &wire.ExportEnd{Ino: in.ino(), Attempt: x.attempt, Won: true})
	r.dropExport(x)
}

// dropExport ends an attempt here.
func (r *Rank) dropExport(x *export) {
	delete(r.exports, x.in.ino())
	x.in.moving = false
	if !slices.Contains(r.gone, x.in) {
		r.unfreeze(x)
	}
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
		if x.alive() && (r.treeMoves(x) || !r.there(x.to) && x.to != r.cfg.Rank) {
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
	return r.parkFree(q, whyAskedBack)
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
			if _, e = r.complete(q, in); e == ok && in.dir.hdr.Entries != 0 {
				e = eNOTEMPTY // it is asked for in order to be removed
			} else if e == ok {
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
