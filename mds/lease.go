package mds

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// leaseRec is one dentry lease (4.12): the client may trust the name's binding, or its
// absence, while its session is valid. It ends with the client's answer or its silence.
type leaseRec struct {
	dn   *dentry
	sess *session
	seq  uint32

	asked int64 // when LeaseRevoke was sent, 0: not
	twice bool
	gone  bool
	kept  bool // given with a change of the holder's own, whose xlock has not come to rest yet
	forFs bool // Fs of the directory counts as held until this has ended (owing)

	prev, next *leaseRec // list of the session
}

// leaseList is the leases of a session, oldest first.
type leaseList struct {
	head, tail *leaseRec
	n, asked   int
}

// oldest is the one that was given first and is not asked back yet. Those that are asked back
// make room at the head: a client that is slow to answer must not make each lease dearer.
func (l *leaseList) oldest() *leaseRec {
	for n := l.n; n > 0; n-- {
		x := l.head
		if x.asked == 0 {
			return x
		}
		if x != l.tail {
			l.head, l.head.next.prev = x.next, nil
			x.prev, x.next, l.tail.next = l.tail, nil, x
			l.tail = x
		}
	}
	return nil
}

func (l *leaseList) add(x *leaseRec) {
	x.prev = l.tail
	if l.tail != nil {
		l.tail.next = x
	} else {
		l.head = x
	}
	l.tail = x
	l.n++
}

func (l *leaseList) remove(x *leaseRec) {
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		l.head = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		l.tail = x.prev
	}
	x.prev, x.next = nil, nil
	l.n--
	if x.asked != 0 {
		l.asked--
	}
}

func (d *dentry) leaseOf(s *session) (int, *leaseRec) {
	i, ok := slices.BinarySearchFunc(d.leases, s.key, func(l *leaseRec, k SessionKey) int { return cmp.Compare(l.sess.key, k) })
	if ok {
		return i, d.leases[i]
	}
	return i, nil
}

// leaseFor gives s a lease on the name, or nil: the row of dn must allow it, and a client
// that holds Fs on the directory needs none. A reply that repeats a lease repeats its seq.
func (r *Rank) leaseFor(dn *dentry, s *session) *wire.Lease {
	if s == nil || dn.hasFs(s) || locker.Allowed(dn, s.client())&locker.Lease == 0 {
		return nil
	}
	return r.lease(dn, s, false)
}

// hasFs: s may trust every name of the directory.
func (d *dentry) hasFs(s *session) bool {
	rec := d.dir.in.ledger.Get(s.client())
	return rec != nil && rec.Pending.Has(caps.FileShared)
}

// lease is a lease whatever the row says; with own it does not count until the row is at rest.
func (r *Rank) lease(dn *dentry, s *session, own bool) *wire.Lease {
	if s == nil || s.state != sessOpen || dn.dead {
		return nil
	}
	i, l := dn.leaseOf(s)
	if l != nil && l.asked != 0 {
		return nil
	}
	// A seq per reply: an ack of an earlier revoke must not end a lease given later.
	r.leaseSeq++
	if l == nil {
		l = &leaseRec{dn: dn, sess: s}
		dn.leases = slices.Insert(dn.leases, i, l)
		s.live.leases.add(l)
		r.mem.used += leaseCost
		r.engine.Changed(dn)
		if s.live.leases.n-s.live.leases.asked > maxLeases {
			r.askLease(s.live.leases.oldest())
		}
	}
	l.seq = r.leaseSeq
	l.kept = own
	out := &wire.Lease{Dir: dn.dir.in.rec.Ino, Name: dn.name, Seq: l.seq}
	if !dn.isNull() {
		out.Ino = dn.ino
	}
	return out
}

// mine reports whether the next to change the name is who has the lease: it need not be asked
// back for that. The change is the holder's own, nobody else's can come before it, and the
// answer tells the holder what the name leads to from then on. Asking would cost a round trip
// of every create whose name was looked up before, and a kernel that trusts names could not
// give this one up while the request is parked (F5).
func (l *leaseRec) mine() bool {
	by, ok := l.dn.locks[0].NextX()
	if !ok {
		return l.kept // on the way from the xlock to a row that allows it; nobody comes before
	}
	return by.Client == l.sess.client() && l.asked == 0
}

// leaseOwn is leaseFor for the author of a change that was just made: the row will allow it
// when the xlock is gone. Not when somebody waits for the name, who would ask for it at once.
func (r *Rank) leaseOwn(dn *dentry, s *session) *wire.Lease {
	if dn.locks[0].Contended() {
		return nil
	}
	return r.leaseMoved(dn, s)
}

// leaseMoved is leaseOwn for the new name of a rename, in any case: the author's kernel may
// trust the new name as it did the old one.
func (r *Rank) leaseMoved(dn *dentry, s *session) *wire.Lease {
	if s == nil || dn.hasFs(s) {
		return nil
	}
	return r.lease(dn, s, true)
}

// owing is a session that has answered a REVOKE of Fs with names to be kept, of which n are being
// changed by others at this moment. Their xlock was taken when Fs covered the name, so it does not
// wait for a lease that comes now: Fs counts as held until these leases are given up.
type owing struct {
	n     int
	capID uint64
	mseq  uint32
	seq   uint32
}

// keepNames turns a client's trust in names from Fs of their directory to leases: it goes on
// without a gap. What a row does not allow is asked back like any other lease. A kernel that
// was told of the names need not hear of the change, and an author of changes keeps what it
// knows of a directory that others work in. It returns the bits that count as held still.
func (r *Rank) keepNames(s *session, in *inode, m *wire.CapUpdate) caps.Bits {
	o := r.dirOf(in).owing[s]
	for _, n := range m.Names[:min(len(m.Names), wire.MaxKept)] {
		if !wire.ValidName(n) || len(n) > wire.MaxName {
			continue
		}
		dn := r.dentry(in.dir, n)
		r.lease(dn, s, true)
		if _, l := dn.leaseOf(s); l != nil && !l.forFs {
			if by, ok := dn.locks[0].NextX(); ok && by.Client != s.client() {
				l.forFs = true
				if l.asked == 0 {
					r.askLease(l)
				}
				if o == nil {
					o = &owing{}
					if in.dir.owing == nil {
						in.dir.owing = map[*session]*owing{}
					}
					in.dir.owing[s] = o
				}
				o.n++
			}
		}
		r.engine.Changed(dn)
		r.engine.Reissue(dn)
	}
	if o == nil {
		return 0
	}
	o.capID, o.mseq, o.seq = m.CapID, m.Mseq, m.Seq
	return caps.FileShared
}

// owesLess ends what one lease had to do with Fs of its directory.
func (r *Rank) owesLess(l *leaseRec) {
	d := l.dn.dir
	o := d.owing[l.sess]
	if o.n--; o.n > 0 {
		return
	}
	delete(d.owing, l.sess)
	rec := d.in.ledger.Get(l.sess.client())
	if rec == nil || !rec.Current(o.capID, o.mseq) {
		return
	}
	rec.Answer(o.seq, rec.Issued&^caps.FileShared)
	if !rec.Revoking() {
		delete(r.busy, rec)
	}
	r.engine.Changed(d.in)
	r.engine.Reissue(d.in)
}

// keepLeases lets the author keep its leases on the names that it holds x: until the row is
// at rest they stand in nobody's way, and then it most often allows them.
func (q *request) keepLeases() {
	for _, dn := range q.pinnedDn[:q.nDn] {
		if len(dn.leases) > 0 && dn.locks[0].HeldBy(q.set.Owner) == locker.X {
			if _, l := dn.leaseOf(q.sess); l != nil && l.asked == 0 {
				l.kept = true
			}
		}
	}
}

// recheckLeases looks again at the names that q was to change: a lease of its author that
// counted for nothing meanwhile counts again.
func (r *Rank) recheckLeases(q *request) {
	for _, dn := range q.pinnedDn[:q.nDn] {
		if len(dn.leases) > 0 {
			if _, l := dn.leaseOf(q.sess); l != nil {
				r.engine.Changed(dn)
				r.engine.Reissue(dn)
			}
		}
	}
}

// dropLease forgets a lease and lets the name's lock know.
func (r *Rank) dropLease(l *leaseRec) {
	if l.gone {
		return
	}
	l.gone = true
	if i, at := l.dn.leaseOf(l.sess); at == l {
		l.dn.leases = slices.Delete(l.dn.leases, i, i+1)
	}
	l.sess.live.leases.remove(l)
	r.mem.used -= leaseCost
	r.engine.Changed(l.dn)
	if l.forFs {
		r.owesLess(l)
	}
	if l.dn.kind == dnNull {
		r.noteIdle(l.dn) // nothing else may hold it any more
	}
}

// reissueDentry asks back the leases that the row of dn no longer allows.
func (r *Rank) reissueDentry(dn *dentry) {
	if _, ok := dn.locks[0].NextX(); !ok {
		for _, l := range dn.leases {
			l.kept = false // the row is at rest: it allows the lease, or it does not
		}
	}
	for _, l := range dn.leases {
		if l.asked != 0 || l.mine() || locker.Allowed(dn, l.sess.client())&locker.Lease != 0 {
			continue
		}
		r.askLease(l)
	}
}

// askLease asks one back.
func (r *Rank) askLease(l *leaseRec) {
	if l == nil {
		return
	}
	l.asked = r.now
	l.sess.live.leases.asked++
	if r.trace != nil {
		r.traced(TraceEvent{Kind: "lease-revoke", ino: l.dn.dir.in.rec.Ino, Name: l.dn.name, For: l.sess.instance.String(), Host: l.sess.place()})
	}
	r.send(l.sess, 0, 0, &wire.LeaseRevoke{Dir: l.dn.dir.in.rec.Ino, Name: l.dn.name, Seq: l.seq})
	r.first = append(r.first, ask{lease: l, since: r.now})
}

// maxLeases bounds the names that one session keeps in the cache, absent ones above all.
const maxLeases = 10_000

// onLeaseAck ends a lease, unless the client speaks of an earlier one.
func (r *Rank) onLeaseAck(s *session, m *wire.LeaseAck) {
	in := r.inodes[m.Dir]
	if in == nil || in.dir == nil {
		return
	}
	if dn := in.dir.names[m.Name]; dn != nil {
		if _, l := dn.leaseOf(s); l != nil && l.seq == m.Seq {
			r.dropLease(l)
		}
	}
}
