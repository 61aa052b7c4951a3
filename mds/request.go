package mds

import (
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// errno is a Linux error number: what a reply carries.
type errno uint32

// The ones that operations answer with. parked is not an errno: the request waits and will
// run again from its top.
const (
	ok           errno = 0
	ePERM        errno = 1
	eNOENT       errno = 2
	eINTR        errno = 4
	eIO          errno = 5
	e2BIG        errno = 7
	eAGAIN       errno = 11
	eACCES       errno = 13
	eBUSY        errno = 16
	eEXIST       errno = 17
	eXDEV        errno = 18
	eNOTDIR      errno = 20
	eISDIR       errno = 21
	eINVAL       errno = 22
	eFBIG        errno = 27
	eNOSPC       errno = 28
	eROFS        errno = 30
	eMLINK       errno = 31
	eRANGE       errno = 34
	eDEADLK      errno = 35
	eNAMETOOLONG errno = 36
	eNOLCK       errno = 37
	eNOSYS       errno = 38
	eNOTEMPTY    errno = 39
	eNODATA      errno = 61
	eOVERFLOW    errno = 75
	eOPNOTSUPP   errno = 95
	eSTALE       errno = 116

	parked     errno = 1 << 31
	resting    errno = 1<<31 + 1 // answered, but it keeps a lock (ES6): finish comes later
	redirected errno = 1<<31 + 2 // another rank owns what it names: request.to
)

// opDesc describes an operation. A request runs it from the top each time it is woken:
//
//	plan   looks the objects up, fetches what is missing (parked), names the locks
//	apply  with all locks held and the same lookups still true (no step lies between):
//	       checks, changes the cache, submits the entry, replies
//
// plan and apply return ok, an errno to answer with, or parked.
type opDesc struct {
	name  string
	plan  func(r *Rank, q *request) errno
	apply func(r *Rank, q *request) errno
}

// ops is the table of operations; each is described in its own file.
var ops [256]*opDesc

func init() {
	ops[wire.OpLookup] = &opLookup
	ops[wire.OpGetattr] = &opGetattr
	ops[wire.OpGetxattrs] = &opGetxattrs
	ops[wire.OpGetvxattr] = &opGetvxattr
	ops[wire.OpReaddir] = &opReaddir
	ops[wire.OpCreate] = &opCreate
	ops[wire.OpMkdir] = &opCreate
	ops[wire.OpMknod] = &opCreate
	ops[wire.OpSymlink] = &opCreate
	ops[wire.OpTmpfile] = &opTmpfile
	ops[wire.OpUnlink] = &opUnlink
	ops[wire.OpRmdir] = &opUnlink
	ops[wire.OpLink] = &opLink
	ops[wire.OpRename] = &opRename
	ops[wire.OpSetattr] = &opSetattr
	ops[wire.OpSetxattr] = &opSetxattr
	ops[wire.OpRmxattr] = &opSetxattr
	ops[wire.OpStatfs] = &opStatfs
	ops[opGiveBackNum] = &opGiveBack
}

// request is one operation of a session on its way.
type request struct {
	*wire.Request
	sess *session
	op   *opDesc
	set  locker.LockSet
	why  string // whom it waits for, for people

	began int64 // when it was taken; 0: its time was noted
	late  slowNote

	alive   bool
	inList  bool // in sess.parked …
	slot    int  // … there
	replied bool
	replay  bool // clientreplay: never answered early

	admitted bool // it has waited for room in the cache
	windowed bool // the inodes of its part of a listing were read

	// What plan found, for apply.
	in     *inode
	in2    *inode
	dn     *dentry
	dn2    *dentry
	home   *dentry
	home2  *dentry
	rest   journal.Pos // what an early reply rests on besides its own entry
	sought wire.Ino    // the number that is looked for in the index
	misses int         // … how often in vain
	seen   wire.Rank   // … who has it, + 1
	pos    journal.Pos // its entry
	kept   errno       // why another rank does not give a directory back
	mapped int64       // since when a newer map is waited for
	far    *wire.Far   // of a lookup: what it finds is another rank's
	to     wire.Rank   // who owns what it names, of one that is redirected
	since  int64       // when it was queued for a file lock
	place  uint64      // … its ticket
	told   bool        // … and its client knows it

	pinnedIn [6]*inode
	pinnedDn [8]*dentry
	nIn, nDn int
}

// request takes a request from the session's FIFO.
func (r *Rank) request(s *session, m *wire.Request) {
	s.announce(m.Oldest)
	if len(s.done) > maxDone {
		r.evict(s, "it does not say what it has heard of")
		return
	}
	r.counts.Requests++
	s.live.lastWork = r.now
	op := ops[m.Op]
	if op == nil || m.Op == opGiveBackNum {
		r.send(s, 0, uint64(m.Tid), &wire.Reply{Tid: m.Tid, Errno: uint32(eNOSYS)})
		return
	}
	if m.Flags&(wire.ReqReplay|wire.ReqRetry) != 0 && m.Op.Mutates() {
		if ino, done := s.isDone(m.Tid); done {
			r.answerDone(s, m, ino)
			return
		}
		for _, p := range s.parked {
			if p.Tid == m.Tid {
				return // it is on its way already
			}
		}
	}
	r.execute(s, m, false)
}

// maxDone bounds a completed set, which must fit into the head of a segment: half a minute of
// changes behind one that waits.
const maxDone = 150_000

// execute makes a request of m and runs it. replay: it belongs to clientreplay.
func (r *Rank) execute(s *session, m *wire.Request, replay bool) *request {
	r.releaseInline(s, m.Release)
	q := r.newRequest(s, m, replay)
	r.run(q)
	return q
}

// newRequest is m on its way, not run yet.
func (r *Rank) newRequest(s *session, m *wire.Request, replay bool) *request {
	var q *request
	if n := len(r.freeReqs); n > 0 {
		q = r.freeReqs[n-1]
		r.freeReqs = r.freeReqs[:n-1]
	} else {
		q = &request{}
	}
	r.reqSeq++
	q.Request, q.sess, q.op, q.alive, q.replay = m, s, ops[m.Op], true, replay
	q.set.Owner = locker.Owner{Client: uint64(s.key), Req: r.reqSeq}
	q.set.User = q
	q.began = max(r.now, 1)
	return q
}

// run drives q from its top until it is answered or parked.
func (r *Rank) run(q *request) {
	if !q.alive || q.replied { // gone, or answered and resting: it was woken twice
		return
	}
	r.unpin(q)
	q.set.Begin()
	q.rest = 0
	if r.inQuiet(q) {
		r.parkFree(q, "sessions of before are silent: what they cache must not change yet")
		return
	}
	e := q.op.plan(r, q)
	if e == ok {
		if done, _ := q.set.Acquire(r.engine); !done {
			r.recheckLeases(q) // it may have left a queue for one that comes before
			r.park(q, "lock")
			return
		}
		e = q.op.apply(r, q)
	}
	if e == resting {
		r.took(q)
		r.unpark(q) // answered: the end of its session does not end what it still does
		return
	}
	if e == parked {
		must.Holdf(q.inList, "%v parked without a reason", q.Op)
		return
	}
	if e == redirected {
		// It waits for what is under way: a client takes the other rank for the only one that it needs to
		// ask whether what it did to the inode is safe.
		r.send(q.sess, r.jw.End(), uint64(q.Tid), &wire.Redirect{Tid: q.Tid, Ino: q.Ino, Rank: q.to})
		r.counts.Redirects++
		r.finish(q)
		return
	}
	if e != ok {
		// A refusal shows state like any other answer: it rests on what it saw.
		must.Holdf(!q.replied, "%v answered twice", q.Op)
		r.send(q.sess, q.rest, uint64(q.Tid), &wire.Reply{Tid: q.Tid, Errno: uint32(e)})
	}
	r.finish(q)
}

// finish ends q: locks and pins go.
func (r *Rank) finish(q *request) {
	r.took(q)
	q.keepLeases()
	q.set.Release(r.engine)
	r.recheckLeases(q)
	r.unpin(q)
	r.unpark(q)
	replay := q.replay
	set := q.set
	*q = request{}
	q.set = set // its slices are worth keeping
	r.freeReqs = append(r.freeReqs, q)
	if replay {
		r.replay.waits = false
		r.replayNext()
	}
}

// unpark takes q from its session's list of what waits.
func (r *Rank) unpark(q *request) {
	if !q.inList {
		return
	}
	q.inList = false
	l := q.sess.parked
	must.Holdf(l[q.slot] == q, "%v: another request is in its slot", q.Op)
	last := l[len(l)-1] // takes its slot: a session may have very many that wait for locks
	l[q.slot], last.slot = last, q.slot
	l[len(l)-1] = nil
	q.sess.parked = l[:len(l)-1]
}

// park notes that q waits; who wakes it runs it again from its top.
func (r *Rank) park(q *request, why string) errno {
	q.why = why
	if r.trace != nil {
		r.tracePark(q, why)
	}
	if !q.inList {
		r.counts.Parked++
		q.inList, q.slot = true, len(q.sess.parked)
		q.sess.parked = append(q.sess.parked, q)
	}
	return parked
}

// parkFree is park for what is not a lock: nothing is held meanwhile.
func (r *Rank) parkFree(q *request, why string) errno {
	q.set.Release(r.engine)
	r.recheckLeases(q)
	return r.park(q, why)
}

// waker returns a function that runs q again in the next settle, once, if it still lives.
func (r *Rank) waker(q *request) func() {
	id := q.set.Owner.Req
	return func() {
		if q.alive && q.set.Owner.Req == id {
			r.ready = append(r.ready, q)
		}
	}
}

// killRequests ends everything a dead session waits for: nothing times out holding a lock.
func (r *Rank) killRequests(s *session) {
	s.replay = nil
	for len(s.parked) > 0 {
		q := s.parked[len(s.parked)-1]
		if id := q.set.Owner.Req; r.flocking[id] == q {
			// Its place in the queue goes with it: a grant would look for a request that is no more.
			r.leftQueue(id)
			if in := q.in; in.file != nil && in.file.locks != nil {
				_, _, woken := in.file.locks.Cancel(s.client(), id, q.place)
				r.grantFileLocks(in, woken, 0)
				r.tidyFileLocks(in)
			}
		}
		if q.replay {
			q.replay = false
			r.replay.waits = false // Step goes on with the next one
		}
		r.finish(q)
	}
}

// pinInode keeps in in the cache until q's run ends or starts again.
func (q *request) pinInode(in *inode) *inode {
	in.pins++
	q.pinnedIn[q.nIn] = in
	q.nIn++
	return in
}

func (q *request) pinDentry(dn *dentry) *dentry {
	dn.pins++
	q.pinnedDn[q.nDn] = dn
	q.nDn++
	return dn
}

func (r *Rank) unpin(q *request) {
	for i := range q.pinnedIn[:q.nIn] {
		r.unpinInode(q.pinnedIn[i])
		q.pinnedIn[i] = nil
	}
	for i := range q.pinnedDn[:q.nDn] {
		r.unpinDentry(q.pinnedDn[i])
		q.pinnedDn[i] = nil
	}
	q.nIn, q.nDn = 0, 0
}

// restOn makes the answer wait for what others did to dn (toward the asking session).
func (q *request) restOn(t *stamps) { q.rest = max(q.rest, t.toward(q.sess.key)) }

// ---- what plans are made of ------------------------------------------------------------

// inodeOf is the inode that the request names by number.
func (r *Rank) inodeOf(q *request, ino wire.Ino) (*inode, errno) {
	in := r.inodes[ino]
	if in == nil || in.stub {
		return nil, r.absent(q, ino)
	}
	if in.isSystem() || in.purging {
		return nil, eSTALE // strays and links/ are not for clients
	}
	if x := r.exportOf(in); x != nil {
		if e := r.inTransit(q, x); e != ok {
			return nil, e
		}
	}
	return q.pinInode(in), ok
}

// absent is what becomes of a request that names an inode that is not in the cache: another rank has it, or
// it is read. Its number comes from a file handle, from a time when it was ours, from a resent request.
func (r *Rank) absent(q *request, ino wire.Ino) errno {
	if m := r.moves[ino]; m != nil {
		switch m.State {
		case movePending:
			return r.undecided(q, m)
		case moveGiven:
			return r.elsewhere(q, ino, m.Rank)
		}
		return r.lookFor(q, ino)
	}
	giver := r.giver(ino)
	switch {
	case giver == wire.NoRank:
		return r.awaitMap(q)
	case giver != r.cfg.Rank && ino < wire.FirstFreeIno:
		return r.elsewhere(q, ino, giver)
	case q.sought == ino && q.seen > 0:
		at := q.seen - 1
		q.sought = 0 // asked again it is looked for again
		return r.elsewhere(q, ino, at)
	}
	return r.lookFor(q, ino)
}

// lookFor looks ino up in the index and runs q again when it is there, or is nowhere: then it is
// stale. An index line may lead to where the inode was while the line was on its way, so it
// takes two misses.
func (r *Rank) lookFor(q *request, ino wire.Ino) errno {
	if q.sought != ino {
		q.sought, q.misses, q.seen = ino, 0, 0
	}
	if q.misses == 2 || ino < wire.FirstFreeIno {
		return eSTALE
	}
	id, wake := q.set.Owner.Req, r.waker(q)
	r.locate(ino, 0, func(p place) {
		if p.in == nil && q.alive && q.set.Owner.Req == id && q.sought == ino {
			if p.m != nil { // decided, it is looked for again
				p.m.waiters = append(p.m.waiters, wake)
				q.why = whyArriving
				return
			}
			q.misses++
			q.seen = p.rank + 1
		}
		wake()
	})
	return r.parkFree(q, "inode is being looked for by number")
}

// dirOfRequest is the directory that the request names, complete. A directory that is gone has no names.
func (r *Rank) dirOfRequest(q *request, ino wire.Ino) (*dir, errno) {
	in, e := r.inodeOf(q, ino)
	if e != ok {
		return nil, e
	}
	if !in.isDir() {
		return nil, eNOTDIR
	}
	return r.complete(q, in)
}

func (r *Rank) complete(q *request, in *inode) (*dir, errno) {
	d := r.dirOf(in)
	if d.complete {
		return d, ok
	}
	if e := r.admit(q); e != ok {
		return nil, e
	}
	r.fetch(d)
	d.waiters = append(d.waiters, r.waker(q))
	return nil, r.parkFree(q, "directory is being read")
}

// nameOf is the dentry of a name in a complete dir, a null one when the name is absent.
func (r *Rank) nameOf(q *request, d *dir, name string) (*dentry, errno) {
	if len(name) > wire.MaxName {
		return nil, eNAMETOOLONG
	}
	if !wire.ValidName(name) {
		return nil, eINVAL
	}
	dn := q.pinDentry(r.dentry(d, name))
	return dn, ok
}

// target is the inode that dn leads to; a remote one may have to be read from links/ first.
func (r *Rank) target(q *request, dn *dentry) (*inode, errno) {
	if dn.isNull() {
		return nil, eNOENT
	}
	if dn.in == nil {
		if dn.kind == dnHome {
			if e := r.admit(q); e != ok {
				return nil, e
			}
			r.loadInode(dn, r.waker(q))
			return nil, r.parkFree(q, "inode is being read")
		}
		if dn.far() {
			return nil, eXDEV
		}
		in := r.inodes[dn.ino]
		if in == nil || in.stub {
			d := r.linksDir(dn.ino)
			if !d.complete {
				_, e := r.complete(q, d.in)
				return nil, e
			}
			if home := d.names[strayName(dn.ino)]; home != nil && home.kind == dnHome && home.in == nil {
				r.loadInode(home, r.waker(q))
				return nil, r.parkFree(q, "inode is being read")
			}
			r.logf(LogError, "%v leads to ino %v, which links/ does not have", dn, dn.ino)
			return nil, eIO
		}
		dn.in = in
		in.addRemote(dn)
	}
	return q.pinInode(dn.in), ok
}

func (r *Rank) shard(ino wire.Ino) int { return int(uint64(ino) % wire.SystemShards) }
