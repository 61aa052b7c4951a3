package mds

import (
	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// onCapUpdate is the client's side of a cap: the answer to a REVOKE, what it wants now, dirty
// fields to be written back, a wish for a larger write range; any of them, in one message.
func (r *Rank) onCapUpdate(s *session, m *wire.CapUpdate) {
	s.announce(m.Oldest)
	if r.trace != nil {
		r.traceUpdate(s, m)
	}
	if s.state == sessReconnect || m.Replay || s.unplaced(m.Ino) {
		r.collectFlush(s, m)
		return
	}
	in := r.inodes[m.Ino]
	if in == nil {
		return // Q-g: we forgot it only after the client gave it up
	}
	rec := in.ledger.Get(s.client())
	if rec == nil || !rec.Current(m.CapID, m.Mseq) {
		// Q-d: it speaks of another cap. But a flush whose tid a later watermark would cover must
		// not be dropped in silence: sent between the client's reconnect and its hearing of the
		// new id, it is as good as one under that, if the bound that stands now allows it.
		if m.Dirty != 0 && rec != nil && rec.MayFlush(m.Dirty) {
			r.applyFlush(s, in, m, rec.Issued)
		} else if m.Dirty != 0 {
			r.logf(LogWarn, "session %v: flush of %v on %v under a cap that is no more", s.instance, m.Dirty, in)
		}
		return
	}
	if len(m.Names) > 0 && in.isDir() {
		if d := r.dirOf(in); !d.complete { // after a takeover: Fs counts as held until the names can be looked at
			r.fetch(d)
			d.waiters = append(d.waiters, func() {
				if s.alive() {
					r.onCapUpdate(s, m)
				}
			})
			return
		}
	}
	before := rec.Issued
	flush := m.Dirty != 0 && rec.MayFlush(m.Dirty) // FW: by the bound before this message shrinks it
	if m.Dirty != 0 && !flush {
		r.logf(LogWarn, "session %v: flush of %v on %v under %v refused", s.instance, m.Dirty, in, rec.Issued)
	}
	still := caps.Pin
	if in.isDir() && before.Has(caps.FileShared) && !m.Retained.Has(caps.FileShared) {
		still |= r.keepNames(s, in, m)
	}
	rec.Answer(m.Seq, m.Retained|still)
	if !rec.Revoking() {
		delete(r.busy, rec)
	}
	if rec.Issued&(caps.FileWr|caps.FileBuffer) == 0 {
		rec.MaxSize = 0 // its range goes with the next entry of the inode
	}
	if flush {
		r.applyFlush(s, in, m, before)
	}
	r.wanted(in, rec, m.Wanted)
	if m.WantMax > rec.MaxSize && rec.MaxSize != 0 {
		r.growRange(s, in, rec, m.WantMax)
	}
	if rec.Issued != before {
		r.engine.Changed(in)
	}
	if rec.Wanted&^rec.Pending != 0 || in.awaited() {
		r.engine.Reissue(in)
	}
}

// applyFlush writes dirty fields back under a forced wr (FW). It is applied once per (session,
// tid) (Q-h), and a size of before a truncate changes no size.
func (r *Rank) applyFlush(s *session, in *inode, m *wire.CapUpdate, had caps.Bits) {
	if m.FlushTid != 0 {
		if _, done := s.isDone(m.FlushTid); done {
			r.noteUnsafe(s, m.FlushTid, r.durablePos)
			r.advanceSafe()
			return
		}
	}
	l := &in.locks[lockFile]
	forced := r.engine.Force(l, s.client())
	v := &in.rec
	exact := had.Has(caps.FileExcl) // the sole user sets times, others only raise them
	if m.Set&wire.SetSize != 0 && m.TruncSeq == v.TruncSeq && in.isReg() {
		// Nobody was given leave to write behind Reach.
		old := v.Size
		v.Size = max(v.Size, min(m.Attr.Size, v.Reach))
		r.resized(in, old)
	}
	if m.Set&wire.SetMtime != 0 {
		v.Mtime = merged(v.Mtime, m.Attr.Mtime, exact)
	}
	if m.Set&wire.SetAtime != 0 {
		v.Atime = merged(v.Atime, m.Attr.Atime, exact)
	}
	if m.Set&wire.SetCtime != 0 {
		v.Ctime = wire.MaxTime(v.Ctime, m.Attr.Ctime)
	}
	if m.Set&wire.SetSparse != 0 {
		v.Sparse = true
	}
	r.tidyRanges(in)
	e := r.newEntry()
	e.by(s, m.FlushTid, v.Ino, 0)
	e.inode(in)
	r.submit(e)
	if forced {
		r.engine.Unforce(l, s.client())
	}
}

func merged(old, now wire.Time, exact bool) wire.Time {
	if exact {
		return now
	}
	return wire.MaxTime(old, now)
}

// wanted takes the client's present wishes, which replace the old ones.
func (r *Rank) wanted(in *inode, rec *caps.Record, w caps.Bits) {
	w &= in.issuable()
	if w&^rec.Pending != 0 {
		in.ledger.Ask(rec.Client)
	}
	if w != rec.Wanted {
		rec.Wanted = w
		r.engine.Changed(in)
	}
}

// onCapRelease drops caps under which nothing is dirty.
func (r *Rank) onCapRelease(s *session, m *wire.CapRelease) {
	for i := range m.Caps {
		c := &m.Caps[i]
		in := r.inodes[c.Ino]
		if in == nil {
			continue
		}
		rec := in.ledger.Get(s.client())
		if rec == nil || !rec.Current(c.CapID, c.Mseq) || !rec.Releasable(c.IssueSeq) {
			continue // Q-d, Q-f: given again meanwhile
		}
		s.live.recall.owed = max(0, s.live.recall.owed-1)
		if r.trace != nil {
			r.traced(TraceEvent{Kind: "release", ino: c.Ino, For: s.instance.String(), Host: s.place()})
		}
		r.dropCap(in, s, rec)
	}
}

// onCapBusy: the flush that a revoke waits for waits itself, for a PG.
func (r *Rank) onCapBusy(s *session, m *wire.CapBusy) {
	in := r.inodes[m.Ino]
	if in == nil {
		return
	}
	if rec := in.ledger.Get(s.client()); rec != nil && rec.Revoking() && rec.AskedTwice {
		r.busy[rec] = busy{m.PG, r.now}
		r.nextSession = soonest(r.nextSession, r.now+r.deadline()/20)
	}
}

// releaseInline takes the bits that a client gives up with a request, before the request's
// locks are taken: that saves the revoke.
func (r *Rank) releaseInline(s *session, list []wire.CapUpdate) {
	for i := range list {
		r.onCapUpdate(s, &list[i])
	}
}

// capsGone looks whether an inode that lost a cap can go.
func (r *Rank) capsGone(in *inode) {
	if in.ledger.Len() > 0 {
		return
	}
	if in.isStray() {
		r.noteStray(in)
	} else if n := len(in.rec.Ranges); n > 0 && in.home != nil && r.jw != nil {
		// Nobody can write any more: without ranges the inode may leave the cache.
		if r.tidyRanges(in); len(in.rec.Ranges) < n {
			e := r.newEntry()
			e.inode(in)
			r.submit(e)
		}
	}
	r.used(in) // it may be trimmed from now on
}

var _ = locker.None

// sizeChanged tells those who may keep clean pages that the file was cut: what lies behind
// is not the file's any more (4.3, TRUNC). Nobody holds r or w now; who gets them next hears
// of it with the grant.
func (r *Rank) sizeChanged(in *inode) {
	for _, rec := range in.ledger.All() {
		s := r.capOwner(rec)
		if s == nil || !s.alive() || rec.Issued&caps.FileCache == 0 {
			continue
		}
		rec.Seq++
		r.sendCap(s, in, rec, wire.CapTrunc, 0, false)
	}
}
