package client

import (
	"strings"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// capRec is the client's record of its cap (4.2).
type capRec struct {
	id      uint64 // 0: none
	mseq    uint32
	seq     uint32 // of the last message received
	applied uint32 // highest one whose duties are done: what we echo (Q-a)

	pending     caps.Bits // as told last
	issued      caps.Bits // something new may start under these
	implemented caps.Bits // something may still be using these
	told        caps.Bits // wanted, as the rank knows it
	maxSize     uint64
	askedMax    uint64
	job         bool // a revoke is being worked off
	owed        bool // … and must be answered
	unsaid      bool // an UPDATE found no session to be sent in
}

// noCap forgets in's cap.
func (in *Inode) noCap() {
	if in.cap.id != 0 {
		in.c.ncaps--
	}
	in.cap = capRec{}
}

// groups of attributes with the bits that guard them.
var groups = [...]struct {
	mask         wire.AttrMask
	shared, excl caps.Bits
}{
	{wire.MaskAuth, caps.AuthShared, caps.AuthExcl},
	{wire.MaskLink, caps.LinkShared, caps.LinkExcl},
	{wire.MaskXattr, caps.XattrShared, caps.XattrExcl},
	{wire.MaskFile, caps.FileShared, caps.FileExcl},
}

// writeBits are those whose loss takes the long way of 4.5.
const writeBits = caps.FileWr | caps.FileBuffer | caps.FileExcl | caps.FileAppend

const (
	wantRead   = caps.FileShared | caps.FileCache | caps.FileRd | caps.AuthShared | caps.XattrShared
	wantWrite  = caps.FileShared | caps.FileWr | caps.FileAppend | caps.AuthShared | caps.XattrShared
	wantAppend = wantWrite | caps.FileExcl
)

// wanted is what the open files need. A file without I/O for caps_wanted_delay lets its wish go,
// so that a forgotten descriptor keeps nobody else from caching and buffering (4.2): a tick tells
// the rank, which then takes back what somebody else can use. The next read or write wishes anew.
func (in *Inode) wanted() caps.Bits {
	var w caps.Bits
	now := in.c.now()
	delay := int64(in.c.cfg.WantedDelay)
	if in.parkedRd > 0 || in.nrd > 0 || in.opens.rd > 0 && now-in.lastRd < delay {
		w |= wantRead
	}
	if in.late != (wire.Time{}) || in.parked > 0 || in.nwr > 0 || in.buf != nil || in.opens.wr > 0 && now-in.lastWr < delay {
		w |= wantWrite
		if in.opens.app > 0 && (in.parked > 0 || in.append || now-in.lastWr < int64(time.Second)) {
			w |= caps.FileExcl
		}
	}
	return w
}

// onCap handles GRANT, REVOKE, TRUNC and RANGE.
func (c *Client) onCap(s *session, m *wire.CapGrant) {
	st := &m.Stat
	if st.Cap == nil {
		return
	}
	c.barrier = max(c.barrier, st.Cap.Barrier)
	in := c.inodes[st.Ino]
	if m.Op == wire.CapExport {
		c.onExported(s, in, m.To)
		return
	}
	if in == nil || in.at != s || in.cap.id == 0 && s.state == sessOpen && m.Op != wire.CapGrantOp {
		// We dropped it meanwhile. A GRANT crossed our RELEASE, which the rank ignored then;
		// a REVOKE must not be met with silence (Q-f, Q-g).
		s.releases = append(s.releases, wire.ReleasedCap{Ino: st.Ino, CapID: st.Cap.ID, Mseq: st.Cap.Mseq, IssueSeq: st.Cap.Seq})
		s.sendReleases()
		return
	}
	switch m.Op {
	case wire.CapRange:
		in.cap.maxSize = max(in.cap.maxSize, st.Cap.MaxSize)
		in.changed.wake()
		return
	case wire.CapRevoke:
		if m.Again && in.cap.job && st.Cap.ID == in.cap.id && st.Cap.Seq == in.cap.seq {
			c.sayBusy(in)
			return
		}
	}
	had := in.cap.issued
	in.applyAttr(st)
	c.applyCap(in, st.Cap, m.Op == wire.CapRevoke, true)
	in.settleFresh(had, st)
	in.changed.wake()
}

// onExported takes in that an inode went to another rank with the directory that it lies below. What we had
// of it we gave back before. A file that is open is announced there at once: the rank keeps what has lost
// its last name for those who say so.
func (c *Client) onExported(s *session, in *Inode, to wire.Rank) {
	if in == nil || in.at != s || to < 0 || to >= wire.MaxRanks || to == s.num {
		return // forgotten, or heard of already from the other rank
	}
	in.moveTo(c.sessionWith(to))
	if in.opens != (opens{}) {
		c.start(&wire.Request{Op: wire.OpOpen, Ino: in.ino, Want: in.wanted()}).gone = true // nobody waits for it
	}
}

// sayBusy answers a second ask for what is at work: if an operation at the store is what it
// waits for, the rank can see for itself whether its PG serves anybody (4.7).
func (c *Client) sayBusy(in *Inode) {
	prefix, _, _ := strings.Cut(wire.DataObject(in.pool, in.ino, 0).Name, ".")
	pg, ok := c.objects.Waiting(func(o wire.ObjectID) bool {
		p, _, _ := strings.Cut(o.Name, ".")
		return o.Pool == in.pool && p == prefix
	})
	if ok && (in.nwr+in.nrd > 0 || in.buf != nil) && in.at.state == sessOpen {
		in.at.send(0, &wire.CapBusy{Ino: in.ino, PG: pg})
	}
}

// applyCap takes in the rank's newest word on a cap. owe: it must be answered.
func (c *Client) applyCap(in *Inode, m *wire.Cap, owe, own bool) {
	c.barrier = max(c.barrier, m.Barrier)
	r := &in.cap
	if r.id != m.ID {
		// A new life of the cap: after a release, a stale spell or a failover. What is in
		// progress goes on; what it used is taken back like any other bit.
		if r.id == 0 {
			c.ncaps++
		}
		*r = capRec{id: m.ID, implemented: r.implemented, issued: r.issued, pending: r.pending, job: r.job, owed: r.owed, told: 0}
	}
	r.mseq, r.seq = m.Mseq, m.Seq
	r.maxSize = m.MaxSize
	if r.maxSize < r.askedMax {
		r.askedMax = 0
	}
	if added := m.Pending &^ r.pending; added != 0 {
		if in.isDir() && added&caps.FileShared != 0 {
			in.dirState().gen++ // names learned before are not covered
		}
	}
	r.pending = m.Pending
	r.owed = r.owed || owe
	leaving := r.implemented &^ r.pending
	if !r.job && leaving == 0 {
		r.issued, r.implemented = r.pending, r.pending
		r.applied = r.seq
		c.lateTimes(in)
		if r.owed {
			r.owed = false
			c.update(in, 0)
		}
		return
	}
	if r.job {
		return // the job looks at pending when it is done with what it knew
	}
	r.owed = true
	c.revoke(in)
}

// dirtyFields is the part of an UPDATE that hands dirty fields in.
func (in *Inode) dirtyFields(u *wire.CapUpdate, size uint64) {
	u.Dirty = caps.FileWr
	u.Set = in.dirtySet
	u.TruncSeq = in.tseq
	if in.c.wrong.Has(wrong.SizeUnflushed) && u.Set&wire.SetSize != 0 {
		if in.sizeSaid {
			u.Set &^= wire.SetSize
		}
		in.sizeSaid = true
	}
	u.Attr = wire.SetAttr{Size: size, Mtime: in.attr.Mtime, Ctime: in.attr.Ctime, Atime: in.attr.Atime}
}

// mayHandIn is the size that an UPDATE may hand in now. While data is buffered that is none,
// since a size ahead of its data would outlive us. But fsync insists, a writer that never pauses
// is told by and by, both as far as data is in the store, and when w and x go the size is the
// rank's to tell.
func (c *Client) mayHandIn(in *Inode) (size uint64, ok bool) {
	switch {
	case !in.dirty:
		return 0, false
	case in.buf == nil || in.cap.implemented&(caps.FileWr|caps.FileExcl) == 0:
		return in.attr.Size, true
	case in.buf.insist || c.now()-in.dirtyAt >= int64(c.cfg.DirtyExpire):
		in.buf.insist = false
		return min(in.attr.Size, max(in.lowest(), in.buf.sure)), true
	}
	return 0, false
}

// makeUpdate says where we stand on a cap: bits kept, bits wanted, dirty fields if any.
// A flush draws its tid here and is kept until safe.
func (c *Client) makeUpdate(in *Inode, wantMax uint64) *wire.CapUpdate {
	r, s := &in.cap, in.at
	u := &wire.CapUpdate{Ino: in.ino, CapID: r.id, Seq: r.applied, Mseq: r.mseq, Retained: r.implemented, Wanted: in.wanted(), WantMax: wantMax}
	r.told = u.Wanted
	if size, ok := c.mayHandIn(in); ok {
		in.dirtyFields(u, size)
		in.dirty, in.dirtySet = false, 0
		if size < in.attr.Size {
			in.dirty, in.dirtySet, in.dirtyAt = true, wire.SetSize, c.now()
		}
		in.flushing++
		s.lastTid++
		u.FlushTid = s.lastTid
		s.kept = append(s.kept, &kept{tid: u.FlushTid, flush: u, in: in})
	}
	u.Oldest = s.oldest()
	if in.dir != nil && len(in.dir.keep) > 0 && r.implemented&caps.FileShared == 0 {
		u.Names, in.dir.keep = in.dir.keep, nil
	}
	return u
}

// update sends an UPDATE.
func (c *Client) update(in *Inode, wantMax uint64) {
	if in.cap.id == 0 {
		return
	}
	u, s := c.makeUpdate(in, wantMax), in.at
	if in.cap.unsaid = s.state != sessOpen; !in.cap.unsaid {
		s.send(0, u)
		return
	}
	if wantMax > in.cap.maxSize {
		in.cap.askedMax = 0 // who waits for it asks again when there is somebody to ask
	}
	if u.FlushTid != 0 {
		s.kept[len(s.kept)-1].unsent = true
	}
}

// alone reports whether others hardly work in in's directory: we hold its Fs.
func (c *Client) alone(in *Inode) bool {
	d := c.inodes[in.parent]
	return d != nil && d.cap.issued&caps.FileShared != 0
}

// updateSoon is update for what nobody waits for: it leaves with the next message, or after
// linger. A REVOKE that comes meanwhile is answered behind it. In a directory that we do not
// hold Fs of, others work too: what we still seem to have would cost them a round trip.
func (c *Client) updateSoon(in *Inode) {
	if in.cap.id == 0 {
		return
	}
	if !c.alone(in) {
		c.update(in, 0)
		return
	}
	if u := c.makeUpdate(in, 0); in.at.state == sessOpen {
		in.at.sendSoon(u)
	}
}

// giveUp ends the use of bits that nothing uses any more; the next UPDATE says so (DROP, 4.3).
func (in *Inode) giveUp(bits caps.Bits) {
	r := &in.cap
	r.implemented &^= bits
	r.pending &^= bits
	r.issued &^= bits
	if r.implemented&(caps.FileExcl|caps.FileShared) == 0 {
		in.fresh &^= wire.MaskFile
	}
}

// tellWanted sends an UPDATE if the rank's idea of wanted is not ours.
func (c *Client) tellWanted(in *Inode) {
	if in.cap.id != 0 && (in.wanted() != in.cap.told || in.dirty) {
		c.update(in, 0)
	}
}

// tickInode flushes what is older than a second and lowers what is no longer wanted.
func (c *Client) tickInode(in *Inode, now int64) {
	if in.at.state != sessOpen {
		return
	}
	age := int64(c.cfg.DirtyExpire)
	if in.buf == nil {
		age /= 2
	}
	if in.dirty && now-in.dirtyAt >= age || !in.dirty && in.cap.id != 0 && in.wanted() != in.cap.told {
		c.update(in, 0)
	}
	if !in.dirty && in.buf == nil && in.opens == (opens{}) && in.cap.told == 0 {
		delete(c.dirty, in)
		c.maybeIdle(in)
	}
}

// need waits until all bits of b are issued and usable. It drops no reference: callers take
// theirs after it returns, under the same lock. folio: the caller may own a kernel folio
// that a revoke's invalidation waits for, so the revoke must know of it.
func (c *Client) need(k *Caller, in *Inode, f *File, b caps.Bits, folio bool) error {
	asked := uint32(0)
	first := true
	for {
		if f != nil && f.gen < in.lostGen {
			return ErrLost
		}
		if in.cap.issued.Has(b) && in.usable() {
			return nil
		}
		if in.cap.id == 0 && in.at.state == sessOpen {
			// No cap at all, after an eviction: open again.
			cl, err := c.do(k, &wire.Request{Op: wire.OpOpen, Ino: in.ino, Want: b | in.wanted()})
			c.doneWith(cl)
			if err != nil {
				return err
			}
			continue
		}
		write := b&writeBits != 0
		if write {
			in.parked++
		} else {
			in.parkedRd++
		}
		if folio {
			// A revoke may be waiting for our folio. Once: two WRITEs that tell at each turn
			// wake each other for ever.
			folio = false
			in.changed.wake()
		}
		ev := in.changed.wait()
		if in.at.state == sessOpen && in.usable() && (first || asked != in.cap.seq) && !in.cap.job {
			first, asked = false, in.cap.seq
			if f != nil && write {
				in.lastWr = c.now()
			}
			c.dirty[in] = struct{}{}
			c.update(in, 0)
		}
		k.why = reason{kind: waitCaps, rank: in.at.num, ino: in.ino, bits: b &^ in.cap.issued}
		err := c.await(k, ev)
		if write {
			in.parked--
		} else {
			in.parkedRd--
		}
		if err != nil {
			return err
		}
	}
}

// voidShared forgets what may be taken back in silence: everything but w, x, b. Pages of
// the kernel are then of unknown age.
func (in *Inode) voidShared(stale bool) {
	if stale {
		in.cap.issued &= caps.AnyWrite | caps.Pin
		in.cap.implemented &= caps.AnyWrite | caps.Pin
		in.cap.pending &= caps.AnyWrite | caps.Pin
		for _, g := range groups {
			if in.cap.issued&g.excl == 0 { // what only a fence takes keeps our own value true
				in.fresh &^= g.mask
			}
		}
	}
	if in.pages {
		in.oldPages = true
	}
	if in.dir != nil {
		in.dir.gen++
		in.dir.listing = nil
		in.dir.complete = false
		for _, d := range in.dir.names {
			d.lease = 0
		}
	}
}
