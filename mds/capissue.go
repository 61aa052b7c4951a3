package mds

import (
	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// What a client may hold is what the rows of the inode's locks allow it; what it gets of
// that is what it wants, and in replies the shared bits besides.

// issuable are the bits this rank gives out. The others would only make it faster: Ax, Lx and
// Xx are not missed by a client that goes to the rank instead.
const issuable = caps.Pin | caps.AuthShared | caps.LinkShared | caps.XattrShared |
	caps.FileShared | caps.FileExcl | caps.FileCache | caps.FileRd | caps.FileWr | caps.FileAppend | caps.FileBuffer

const issuableDir = caps.Pin | caps.AuthShared | caps.LinkShared | caps.XattrShared | caps.FileShared

func (in *inode) issuable() caps.Bits {
	if in.isReg() {
		return issuable
	}
	return issuableDir
}

// allowed is what client c may hold of in, by the present rows.
func (in *inode) allowed(c uint64) caps.Bits {
	if in.rank.exportOf(in) != nil {
		return caps.Pin // on its way to another rank, it and all above it
	}
	b := locker.Allowed(in, c)
	if b.Has(caps.FileWr) {
		b |= caps.FileAppend // a travels with w
	}
	if in.rank.now < in.rank.silentUntil {
		// Silent sessions of before may cache what would change. Who had w all along keeps it:
		// beside it nobody cached anything (C2).
		var had caps.Bits
		if rec := in.ledger.Get(c); rec != nil {
			had = rec.Issued
		}
		b &^= (caps.AnyWrite | caps.FileAppend) &^ had
	}
	return b&in.issuable() | caps.Pin
}

// likes is what a record is to have of what is allowed: what the client wants, and for the
// loner that writes everything there is, since nobody else can use it meanwhile.
func (in *inode) likes(rec *caps.Record) caps.Bits {
	b := rec.Pending | rec.Wanted
	if in.ledger.LonerOf() == rec.Client && rec.Wanted&(caps.FileWr|caps.FileExcl|caps.FileBuffer) != 0 {
		b |= caps.FileMask
	}
	return b
}

// settleFor adds to what a client wants of in and lets the locks move at once, as far as
// they can without an answer from anybody: a reply should carry what a GRANT would bring a
// moment later.
func (r *Rank) settleFor(in *inode, rec *caps.Record, wanted caps.Bits) {
	r.wanted(in, rec, rec.Wanted|wanted)
	if rec.Wanted&^in.allowed(rec.Client) == 0 || r.ent.busy {
		return
	}
	r.showing = rec
	r.engine.Settle()
	r.showing = nil
}

// capFor is the record of s on in, made when missing.
func (r *Rank) capFor(in *inode, s *session) *caps.Record {
	rec := in.ledger.Get(s.client())
	if rec == nil {
		r.capID++
		rec = &caps.Record{Client: s.client(), Ino: uint64(in.rec.Ino), ID: r.capID, Stale: s.state == sessStale}
		r.unlist(in) // what a client holds does not go
		in.ledger.Put(rec)
		s.caps.Add(rec)
		r.mem.caps++
		r.mem.used += capCost
		r.engine.Changed(in)
	}
	return rec
}

// issueCaps adds or refreshes the cap of s on in for a reply: at least p, what it wants, and
// the shared bits that the rows allow at no cost. nil for the rank itself.
func (r *Rank) issueCaps(in *inode, s *session, wanted caps.Bits) *wire.Cap {
	c, _ := r.issue(in, s, wanted, caps.AllShared)
	return c
}

// issue returns the cap and the bits that this reply adds to it.
func (r *Rank) issue(in *inode, s *session, wanted, like caps.Bits) (*wire.Cap, caps.Bits) {
	if s == nil || !s.alive() {
		return nil, 0
	}
	rec := r.capFor(in, s)
	if wanted != 0 {
		r.settleFor(in, rec, wanted)
	}
	may := (in.likes(rec) | like) & in.allowed(rec.Client)
	gain := may &^ rec.Pending
	if gain.Has(caps.FileWr) && !r.rangeOf(in, s, rec) {
		gain &^= caps.FileWr | caps.FileAppend
	}
	if rec.Revoking() || rec.Stale || in.moving {
		gain = 0
	}
	rec.Show(gain)
	r.served(in, rec)
	return r.capOf(rec), gain
}

func (r *Rank) capOf(rec *caps.Record) *wire.Cap {
	return &wire.Cap{ID: rec.ID, Seq: rec.Seq, Mseq: rec.Mseq, Pending: rec.Pending, MaxSize: rec.MaxSize, Barrier: r.barrier}
}

// groups of attributes, with the lock and the shared bit of each.
var groups = [...]struct {
	mask   wire.AttrMask
	lock   locker.Type
	shared caps.Bits
	excl   caps.Bits
}{
	{wire.MaskAuth, locker.IAuth, caps.AuthShared, caps.AuthExcl},
	{wire.MaskLink, locker.ILink, caps.LinkShared, caps.LinkExcl},
	{wire.MaskXattr, locker.IXattr, caps.XattrShared, caps.XattrExcl},
	{wire.MaskFile, locker.IFile, caps.FileShared, caps.FileExcl},
}

// groupsOf are the groups whose trust comes with bits.
func groupsOf(b caps.Bits) (m wire.AttrMask) {
	for i := range groups {
		if b&(groups[i].shared|groups[i].excl) != 0 {
			m |= groups[i].mask
		}
	}
	return m
}

// newest are the groups whose newest value this rank has, toward client c: nobody may have
// changed it locally. What c itself may change it knows better than we.
func (in *inode) newest(c uint64) wire.AttrMask {
	var out caps.Bits
	for _, rec := range in.ledger.All() {
		out |= rec.Issued
	}
	m := wire.MaskAll
	if out&caps.AnyWrite == 0 && (in.file == nil || !in.file.probing) {
		return m
	}
	if out&caps.AuthExcl != 0 {
		m &^= wire.MaskAuth
	}
	if out&caps.LinkExcl != 0 {
		m &^= wire.MaskLink
	}
	if out&caps.XattrExcl != 0 {
		m &^= wire.MaskXattr
	}
	if out&(caps.FileExcl|caps.FileWr|caps.FileBuffer) != 0 || in.file != nil && in.file.probing {
		m &^= wire.MaskFile
	}
	return m
}

// statFor shows in to s in a reply, with its cap: the groups of mask, those that come with
// new bits, and whatever may be read at no cost. The stamp covers all that it shows.
func (r *Rank) statFor(in *inode, s *session, mask wire.AttrMask, wanted caps.Bits) (*wire.InodeStat, journal.Pos) {
	like := caps.AllShared
	if in.isDir() && mask&wire.MaskFile == 0 && r.stampFor(in, s, wire.MaskFile) > r.durablePos {
		// The contents rest on somebody else's entry that is still on its way. Nobody asked
		// for them, so nobody shall wait for it.
		like &^= caps.FileShared
	}
	st := &wire.InodeStat{}
	var gain caps.Bits
	st.Cap, gain = r.issue(in, s, wanted, like)
	show := mask
	if in.isDir() && mask == wire.MaskAll {
		show &^= wire.MaskFile // only when it is asked for, or comes with a bit: it rests on more
	}
	show |= groupsOf(gain)
	if s != nil && in.isDir() && r.stampFor(in, s, wire.MaskFile) <= r.durablePos {
		show |= wire.MaskFile
	}
	st.Valid = show & (in.newestFor(s) | groupsOf(gain))
	stamp := r.showStat(in, s, st, gain.Has(caps.XattrShared))
	if st.Cap != nil && st.Cap.Pending&caps.FileWr != 0 {
		stamp = max(stamp, in.rangeStamp())
	}
	return st, stamp
}

func (in *inode) newestFor(s *session) wire.AttrMask {
	if s == nil {
		return in.newest(0)
	}
	return in.newest(s.client())
}

// showStat fills the facts and the attributes of st.Valid; the stamp is what they rest on.
func (r *Rank) showStat(in *inode, s *session, st *wire.InodeStat, xattrs bool) journal.Pos {
	st.Ino = in.rec.Ino
	st.Attr = in.attr()
	switch {
	case !in.isDir():
	case in.dir == nil || !in.dir.loaded: // after a takeover: its entries are not counted yet
		st.Valid &^= wire.MaskFile | wire.MaskLink
	case st.Valid&wire.MaskFile != 0:
		st.Valid |= wire.MaskLink // the link count of a directory is a count of its entries: Fs covers it
	}
	st.Target = in.rec.Target
	st.Pool, st.ObjectSize, st.TruncSeq = in.rec.Pool, in.rec.ObjectSize, in.rec.TruncSeq
	_, access := in.xattr(xattrACLAccess)
	_, def := in.xattr(xattrACLDefault)
	st.HasACL = access || def
	if xattrs {
		st.HasXattrs, st.Xattrs = true, in.rec.Xattrs
	}
	return r.stampFor(in, s, st.Valid)
}

// sendCap sends a cap message. gain are the bits it adds: attributes come with them.
func (r *Rank) sendCap(s *session, in *inode, rec *caps.Record, op wire.CapOp, gain caps.Bits, again bool) {
	if r.trace != nil {
		r.traceCap(s, rec, op, again)
	}
	switch {
	case again:
		r.counts.AskedAgain++
	case op == wire.CapRevoke:
		r.counts.Revokes++
	case op == wire.CapGrantOp:
		r.counts.Grants++
	}
	m := &wire.CapGrant{Op: op, Again: again}
	m.Stat.Ino = in.rec.Ino
	m.Stat.Cap = r.capOf(rec)
	var stamp journal.Pos
	if op != wire.CapRevoke { // a REVOKE shows nothing and waits for nothing (ES3)
		m.Stat.Valid = in.newest(rec.Client) | groupsOf(gain)
		if in.isDir() {
			m.Stat.Valid &^= wire.MaskFile &^ groupsOf(gain)
		}
		stamp = r.showStat(in, s, &m.Stat, gain.Has(caps.XattrShared))
		if rec.Pending.Has(caps.FileWr) {
			stamp = max(stamp, in.rangeStamp())
		}
	}
	r.send(s, stamp, 0, m)
}

// reissue brings what the clients of in are told in line with the rows: REVOKE what is not
// allowed any more, GRANT what they want and may have now.
func (r *Rank) reissue(in *inode) {
	for _, rec := range in.ledger.All() {
		s := r.capOwner(rec)
		r.reissueOne(in, s, rec)
	}
	r.wakeOpens(in)
}

func (r *Rank) reissueOne(in *inode, s *session, rec *caps.Record) {
	if rec.IssueSeq == 0 {
		return // a reply will be the first that the client hears of this cap
	}
	if s != nil && s.state == sessReconnect {
		return // others still say what they hold: the rows are chosen when all have spoken
	}
	allowed := in.allowed(rec.Client)
	may := in.likes(rec) & allowed
	if s == nil || !s.alive() || r.state < stateActive { // before: what it would show may be older than a flush to come
		may &= rec.Pending
	}
	if (may &^ rec.Pending).Has(caps.FileWr) && (s == nil || rec.Revoking() || rec.Pending&^allowed != 0 || !r.rangeOf(in, s, rec)) {
		may &^= caps.FileWr | caps.FileAppend
	}
	if rec == r.showing || in.moving || in.opensBy(rec.Client) {
		may &= rec.Pending // a reply carries the rest in a moment
	}
	before := rec.Pending
	open := rec.Revoking()
	switch rec.Tell(may|caps.Pin, r.now) {
	case caps.Grant:
		r.sendCap(s, in, rec, wire.CapGrantOp, rec.Pending&^before, false)
		r.served(in, rec)
	case caps.Revoke:
		a := ask{rec: rec, since: rec.RevokedAt}
		if s == nil || !s.alive() {
			r.silent = append(r.silent, a)
			return
		}
		if s.state == sessStale && r.now >= s.live.lastRenew+r.silence() && !open {
			// Silent for long: what silence takes back is taken at the next tick.
			r.silent = append(r.silent, a)
			r.nextSession = r.now + 1
		}
		r.sendCap(s, in, rec, wire.CapRevoke, 0, false)
		if !open {
			r.first = append(r.first, a)
		}
	}
}

// served: rec was told what it has. If that ends the loner's wait, its quantum begins.
func (r *Rank) served(in *inode, rec *caps.Record) {
	if rec.Client == in.ledger.LonerOf() && in.isReg() && in.ledger.Served(r.now) {
		r.engine.Changed(in)
	}
}

// capsHeld reports whether a client holds anything of in: it may not leave the cache then.
func (r *Rank) capsHeld(in *inode) bool {
	return in.ledger.Len() > 0 || in.file != nil && in.file.locks != nil && !in.file.locks.Empty()
}
