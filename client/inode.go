package client

import (
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Inode is one file, directory or other thing as this client knows it. All fields are
// guarded by Client.mu.
type Inode struct {
	c   *Client
	ino wire.Ino
	at  *session // with the rank that owns it, as far as is known

	attr   wire.Attr
	fresh  wire.AttrMask // groups that are current while the bit behind them is issued
	ever   wire.AttrMask // groups that were ever known
	target string        // symlink
	pool   uint32
	osize  uint64 // bytes per object
	tseq   uint32 // truncations seen
	xattrs []wire.KV
	hasACL bool

	parent wire.Ino // how it was reached last: a hint for a new rank
	name   string

	nlookup   uint64   // references of the kernel
	known     bool     // the kernel has named it in a request: an invalidation will find it
	attrUntil int64    // the kernel may trust attributes until then
	shownBy   *Inode   // the kernel first heard of it in a listing of this directory, with timeouts
	pages     bool     // the kernel may have pages
	paged     uint64   // counts what may have given it some
	oldPages  bool     // … which may be older than what is true now
	refs      int      // ours: open files, calls on their way
	lru       *lruList // the list it is in: Client.idle, Client.byKernel, or none
	lruNext   *Inode
	lruPrev   *Inode

	changed  event // caps, in-flight counts, flushing
	cap      capRec
	opens    opens
	unlinked bool // perhaps, by others: the kernel is asked to forget it when nobody uses it any more
	nrd      int  // reads under Fr in flight
	nwr      int  // writes under Fw in flight
	append   bool
	parked   int // WRITEs waiting for bits not issued; they may own folios

	parkedRd int // reads that wait for Fr
	cutting  int // our own SETATTR(size) is at the rank

	jobAt time.Time // when the revoke that is worked off came

	born           *kept   // the request that made it, until it is durable
	buf            *buffer // written, and not in the store; nil: nothing
	lastRd, lastWr int64
	late           wire.Time // pages were stored without Fw then: mtime is still to be told
	dirty          bool
	dirtySet       wire.SetMask
	dirtyAt        int64
	flushing       int
	resent         bool   // … to a new incarnation of the rank, some of them
	lostGen        uint64 // session generation that lost locks of it: files opened before fail
	errSeq         uint64 // counts losses of what was not durable: each open file says so once
	errWhat        error  // the last one
	errTold        bool   // one of them did

	blocks    uint64 // st_blocks of a sparse file, summed over its objects
	blocksFor uint64 // … as of this change count; 0: not known
	writes    uint64 // counts changes of the content, from 1
	told      told   // what the kernel was shown last

	locks    []wire.FileLock // granted
	locksVer uint64          // counts changes of locks

	dir *dirState

	sizeSaid bool // of a seeded bug: the rank was told a size once
}

// opens counts open files by what they need.
type opens struct{ rd, wr, rw, app int }

func (c *Client) inodeFor(i wire.Ino) *Inode {
	in := c.inodes[i]
	if in == nil {
		in = &Inode{c: c, ino: i, at: c.rank0, writes: 1}
		c.inodes[i] = in
	}
	return in
}

// moveTo notes which rank owns in. A rank that gave it away has taken back what it had granted, but
// for an answer that may still be on its way to us: nothing of it counts any more.
func (in *Inode) moveTo(s *session) {
	if in.at == s {
		return
	}
	in.at = s
	if in.cap.id != 0 {
		in.voidShared(true)
		in.noCap()
		in.changed.wake()
	}
}

// lose notes that something written is gone for good, and why.
func (in *Inode) lose(why error) {
	in.errSeq++
	in.errWhat, in.errTold = why, false
}

func (in *Inode) isDir() bool { return in.attr.Mode&0170000 == 0040000 }
func (in *Inode) isReg() bool { return in.attr.Mode&0170000 == 0100000 }

func (c *Client) ref(in *Inode) {
	in.refs++
	in.unlist()
}

func (c *Client) unref(in *Inode) {
	in.refs--
	c.maybeIdle(in)
}

// maybeIdle lets go of an inode that nobody uses: at once when its last name is gone, so
// that the rank can purge it, else when newer idle ones push it out.
func (c *Client) maybeIdle(in *Inode) {
	if in.refs > 0 || in == c.root || c.inodes[in.ino] != in {
		return
	}
	if in.nlookup > 0 {
		if !in.isDir() {
			c.byKernel.push(in)
			if in.unlinked {
				in.unlinked = false
				c.prune(in.ino)
			}
		}
		return
	}
	if in.ever&wire.MaskLink != 0 && in.attr.Nlink == 0 && !in.cap.job && !c.discardUnlinked(in) {
		return
	}
	if in.buf != nil || in.dirty || in.late != (wire.Time{}) || in.flushing > 0 || in.cap.job {
		return
	}
	if in.ever&wire.MaskLink != 0 && in.attr.Nlink == 0 || in.cap.id == 0 {
		c.drop(in)
		return
	}
	if !in.isDir() && in.cap.implemented&caps.LinkShared == 0 { // others may have unlinked it: its space waits for us
		c.drop(in)
		in.at.flushSoon()
		return
	}
	c.idle.push(in)
	for c.idle.n > c.cfg.MaxIdle {
		c.drop(c.idle.first())
	}
}

// drop forgets an inode and queues the release of its cap.
func (c *Client) drop(in *Inode) {
	in.unlist()
	delete(c.inodes, in.ino)
	delete(c.dirty, in)
	delete(c.toldDirs, in)
	if in.cap.id != 0 {
		s := in.at
		s.releases = append(s.releases, wire.ReleasedCap{Ino: in.ino, CapID: in.cap.id, Mseq: in.cap.mseq, IssueSeq: in.cap.seq})
		in.noCap()
		if len(s.releases) >= 64 {
			s.sendReleases()
		} else if in.attr.Nlink == 0 {
			s.flushSoon() // the rank waits with purging it
		}
	}
}

func (s *session) sendReleases() {
	if len(s.releases) == 0 || s.state != sessOpen {
		return
	}
	s.send(0, &wire.CapRelease{Caps: s.releases})
	s.releases = nil
}

// Forget takes back n references of the kernel.
func (c *Client) Forget(ino wire.Ino, n uint64) {
	c.mu.Lock()
	if in := c.inodes[ino]; in != nil {
		in.nlookup -= min(n, in.nlookup)
		if in.nlookup == 0 {
			in.known, in.attrUntil, in.pages, in.oldPages, in.shownBy = false, 0, false, false, nil
			c.maybeIdle(in)
		}
	}
	c.unlockFlush()
}

// capsOf counts the caps that the rank of s has given.
func (c *Client) capsOf(s *session) (n int) {
	for _, in := range c.inodes {
		if in.cap.id != 0 && in.at == s {
			n++
		}
	}
	return n
}

// onRecall trims idle inodes to what the rank would like, and asks the kernel for more: those that
// were used least recently, of both.
func (c *Client) onRecall(s *session, m *wire.Recall) {
	n := c.ncaps
	if len(c.sessions) > 1 {
		n = c.capsOf(s)
	}
	for left := c.idle.n; left > 0 && n > int(m.Max); left-- {
		in := c.idle.first()
		if in.at != s {
			c.idle.push(in) // of another rank, which has not asked
			continue
		}
		if in.cap.id != 0 {
			n--
		}
		c.drop(in)
	}
	if n <= int(m.Max) || c.notifier == nil {
		return
	}
	var inos []wire.Ino
	for left := c.byKernel.n; left > 0 && n > int(m.Max); left-- {
		in := c.byKernel.first()
		c.byKernel.push(in) // the kernel may refuse: another is asked for next time
		if in.cap.id != 0 && in.at == s {
			inos = append(inos, in.ino)
			n--
		}
	}
	c.prune(inos...)
}

// prune asks the kernel to forget inodes that nobody has open.
func (c *Client) prune(inos ...wire.Ino) {
	if nt := c.notifier; nt != nil && len(inos) > 0 {
		go func() {
			for _, i := range inos {
				nt.Prune(i)
			}
		}()
	}
}

// applyStat takes in what a message of s shows of an inode: its rank owns it.
func (c *Client) applyStat(s *session, st *wire.InodeStat) *Inode {
	in := c.inodeFor(st.Ino)
	in.moveTo(s)
	had, before := in.cap.issued, in.cap
	in.applyAttr(st)
	if st.Cap != nil {
		c.applyCap(in, st.Cap, false, false)
		if r := &in.cap; r.issued != before.issued || r.pending != before.pending || r.maxSize != before.maxSize {
			in.changed.wake() // a GRANT would have said it, had there been no answer to say it with
		}
	}
	in.settleFresh(had, st)
	return in
}

// applyAttr merges attributes: what we changed and have not handed in is newer than what
// the rank says; a truncation it tells of is newer than our size.
func (in *Inode) applyAttr(st *wire.InodeStat) {
	a, m := &in.attr, &st.Attr
	if t := m.Mode & 0170000; t != 0 {
		a.Mode = a.Mode&07777 | t
	}
	if in.ever == 0 {
		a.Rdev, a.Btime = m.Rdev, m.Btime
		in.target, in.pool, in.osize = st.Target, st.Pool, uint64(st.ObjectSize)
	}
	if st.Pool != 0 {
		in.pool = st.Pool
	}
	if st.ObjectSize != 0 {
		in.osize = uint64(st.ObjectSize)
	}
	if st.Valid&wire.MaskAuth != 0 {
		a.Mode, a.UID, a.GID, a.Btime, a.Rdev = m.Mode, m.UID, m.GID, m.Btime, m.Rdev
		in.hasACL = st.HasACL
	}
	if st.Valid&wire.MaskLink != 0 {
		a.Nlink = m.Nlink
	}
	if st.HasXattrs {
		in.xattrs, in.hasACL = st.Xattrs, st.HasACL
	}
	switch {
	case st.Valid&wire.MaskFile != 0:
		in.applyFile(st)
	case st.TruncSeq > in.tseq && st.Cap != nil && st.Cap.Pending.Has(caps.FileWr):
		// Others write as well, so the size is not the rank's to tell. But what we write from now on comes
		// after this truncation: a flush that knows of older ones only changes no size.
		in.applyCut(st)
	}
	a.Ctime = wire.MaxTime(a.Ctime, m.Ctime)
	a.Change = max(a.Change, m.Change)
	in.ever |= st.Valid
}

func (in *Inode) applyFile(st *wire.InodeStat) {
	a, m := &in.attr, &st.Attr
	// Our size and times may be newer. Of a flush on its way that is so only while the rank
	// has us hold Fw all along: after we gave it up, the rank had the flush when it said this.
	// But a new incarnation speaks of the file before it has run the resent flush.
	ours := in.dirty || in.nwr > 0 ||
		in.flushing > 0 && (in.resent || st.Cap != nil && (in.cap.pending&st.Cap.Pending).Has(caps.FileWr))
	switch {
	case st.TruncSeq > in.tseq:
		in.applyCut(st)
	case st.TruncSeq < in.tseq:
		return // queued before a truncation that we know of
	case ours:
		a.Size = max(a.Size, m.Size)
	default:
		if a.Size != m.Size {
			in.writes++
		}
		a.Size = m.Size
	}
	a.Sparse = a.Sparse && ours || m.Sparse
	a.Atime = m.Atime
	if ours {
		a.Mtime = wire.MaxTime(a.Mtime, m.Mtime)
	} else {
		a.Mtime = m.Mtime
	}
}

// applyCut takes a truncation in that is newer than those we know of.
func (in *Inode) applyCut(st *wire.InodeStat) {
	in.tseq = st.TruncSeq
	if in.attr.Size != st.Attr.Size {
		in.writes++
	}
	in.attr.Size = st.Attr.Size
}

// settleFresh keeps fresh true: a group is fresh when its bit was there before and nothing
// says otherwise, or when its value came with this message.
func (in *Inode) settleFresh(had caps.Bits, st *wire.InodeStat) {
	valid := st.Valid
	if !st.HasXattrs {
		valid &^= wire.MaskXattr // current, and not shown
	}
	for _, g := range groups {
		if valid&g.mask != 0 {
			in.fresh |= g.mask
		} else if had&(g.shared|g.excl) == 0 {
			in.fresh &^= g.mask
		}
	}
}

// lruList is a list of inodes, the one that was used least recently first. An inode is in one
// list at most: while somebody here uses it in none, so that it comes to the end of one after.
type lruList struct {
	head Inode
	n    int
}

func (l *lruList) init() { l.head.lruNext, l.head.lruPrev = &l.head, &l.head }

// push puts in behind all others.
func (l *lruList) push(in *Inode) {
	in.unlist()
	p := l.head.lruPrev
	p.lruNext, in.lruPrev = in, p
	in.lruNext, l.head.lruPrev = &l.head, in
	in.lru = l
	l.n++
}

// unlist takes in out of the list that it is in, if any.
func (in *Inode) unlist() {
	if in.lru == nil {
		return
	}
	in.lruPrev.lruNext, in.lruNext.lruPrev = in.lruNext, in.lruPrev
	in.lruNext, in.lruPrev = nil, nil
	in.lru.n--
	in.lru = nil
}

func (l *lruList) first() *Inode { return l.head.lruNext }
