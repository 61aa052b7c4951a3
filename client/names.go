package client

import (
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// dirState is what the client knows of a directory's names.
type dirState struct {
	gen      uint64 // begins anew whenever Fs comes or goes: names of another gen are not covered by it
	own      uint64 // counts our own changes of names, so that a listing in progress notices
	names    map[string]*dentry
	complete bool            // under Fs, every name is in names
	listing  []wire.DirEntry // the same with cookies, in their order; nil when not known
	told     toldNames       // what the kernel may trust of it
	keep     []string        // names to be kept under leases when Fs is given up
}

// dentry is one name; ino 0: it does not exist.
type dentry struct {
	ino   wire.Ino
	gen   uint64 // covered by Fs while dir.gen is the same
	lease int64  // boottime until which it is covered by a lease
}

func (in *Inode) dirState() *dirState {
	if in.dir == nil {
		in.dir = &dirState{gen: 1, names: map[string]*dentry{}}
	}
	return in.dir
}

// sweep forgets a name that nothing covers.
func (d *dirState) sweep(name string, e *dentry) {
	if e.lease == 0 && e.gen != d.gen {
		delete(d.names, name)
	}
}

// unlease ends what a lease says of a name.
func (d *dirState) unlease(name string) {
	if e := d.names[name]; e != nil {
		e.lease = 0
		d.sweep(name, e)
	}
}

const maxNames = 200_000 // of one directory; beyond it those not covered are dropped

// learn notes what a reply said of a name, if something covers it.
func (c *Client) learn(dir *Inode, name string, ino wire.Ino, l *wire.Lease, sent int64) {
	if name == "" || name == "." || name == ".." { // the last two: by number (handle.go)
		return
	}
	d := dir.dirState()
	e := d.names[name]
	fs := dir.cap.issued&caps.FileShared != 0
	if in := c.inodes[ino]; in != nil && ino != 0 {
		in.parent, in.name = dir.ino, name // a hint, whether anything covers the name or not
	}
	if !fs && l == nil {
		if e != nil {
			delete(d.names, name)
		}
		return
	}
	if e == nil {
		if len(d.names) >= maxNames && !d.complete {
			clear(d.names)
		}
		e = &dentry{}
		d.names[name] = e
	}
	e.ino, e.gen, e.lease = ino, 0, 0
	if fs {
		e.gen = d.gen
	}
	if l != nil {
		e.lease = sent // counted from when the request that earned it was sent (4.12)
	}
}

// changedName notes our own change of a name: kept under Fs as known to be so, and the
// listing with its cookies is void.
func (c *Client) changedName(dir *Inode, name string, ino wire.Ino, l *wire.Lease, sent int64) {
	d := dir.dirState()
	d.own++
	d.listing = nil
	c.learn(dir, name, ino, l, sent)
	// The directory's size and times moved at the rank; ours are not current unless told.
	dir.fresh &^= wire.MaskFile
}

// applyReply takes in everything a reply shows, in the order of the session.
func (c *Client) applyReply(cl *call) {
	m, r := cl.reply, cl.req
	var dir *Inode
	if m.Dir != nil {
		dir = c.applyStat(cl.s, m.Dir)
	}
	if m.Dir2 != nil {
		c.applyStat(cl.s, m.Dir2)
	}
	if m.Target != nil {
		cl.in = c.applyStat(cl.s, m.Target)
		c.ref(cl.in)
	}
	if f := m.Far; f != nil && m.Errno == 0 && m.Target == nil && f.Rank >= 0 && f.Rank < wire.MaxRanks {
		cl.in = c.farInode(f)
		c.ref(cl.in)
	}
	switch r.Op {
	case wire.OpLookup, wire.OpCreate, wire.OpMkdir, wire.OpMknod, wire.OpSymlink, wire.OpLink, wire.OpUnlink, wire.OpRmdir, wire.OpRename:
	case wire.OpOpen:
		if m.Errno == 0 && cl.in != nil {
			cl.in.cap.told |= r.Want
		}
		return
	case wire.OpReaddir:
		if d := c.inodes[r.Ino]; d != nil && m.Errno == 0 {
			c.learnListing(cl.s, d, m, cl.sent)
			cl.shown = c.ageOf(d)
		}
		return
	default:
		return
	}
	if dir == nil || dir.ino != r.Ino {
		if dir = c.inodes[r.Ino]; dir == nil {
			return
		}
	}
	had := m.Dir != nil && m.Dir.Ino == dir.ino && m.Dir.Valid&wire.MaskFile != 0
	switch {
	case r.Op == wire.OpLookup:
		if m.Errno == 0 && cl.in != nil {
			c.learn(dir, r.Name, cl.in.ino, m.Lease, cl.sent)
		} else if m.Errno == uint32(eNOENT) {
			c.learn(dir, r.Name, 0, m.Lease, cl.sent)
		}
		return
	case m.Errno != 0:
		return
	case r.Op == wire.OpUnlink || r.Op == wire.OpRmdir:
		c.changedName(dir, r.Name, 0, m.Lease, cl.sent)
		if cl.in == nil {
			break
		}
		if r.Op == wire.OpRmdir {
			cl.in.attr.Nlink = 0
		}
	case r.Op == wire.OpRename:
		c.renamed(dir, cl, m.Lease)
	case cl.in != nil:
		c.changedName(dir, r.Name, cl.in.ino, m.Lease, cl.sent)
		if r.Op == wire.OpCreate {
			cl.in.cap.told |= r.Want
		}
		if r.Op == wire.OpMkdir && cl.in.cap.issued&caps.FileShared != 0 {
			// Nobody else can have put a name there before we were told of it.
			d := cl.in.dirState()
			d.complete, d.listing = true, []wire.DirEntry{}
		}
	}
	if had {
		dir.fresh |= wire.MaskFile
	}
	if m.Dir2 != nil && m.Dir2.Valid&wire.MaskFile != 0 {
		if nd := c.inodes[m.Dir2.Ino]; nd != nil {
			nd.fresh |= wire.MaskFile
		}
	}
}

// farInode is the directory of another rank that a name leads to: attributes and caps are that
// rank's to give.
func (c *Client) farInode(f *wire.Far) *Inode {
	in := c.inodeFor(f.Ino)
	in.moveTo(c.sessionWith(f.Rank))
	if in.ever == 0 {
		in.attr.Mode |= 0040000
	}
	return in
}

// renamed moves what is known of two names. The reply does not say what they lead to now,
// so unless both were known before, both are forgotten: two names of one inode stay as they
// are.
func (c *Client) renamed(dir *Inode, cl *call, l *wire.Lease) {
	r := cl.req
	nd := c.inodes[r.NewDir]
	if nd == nil {
		nd = dir
	}
	if !cl.gone { // else the kernel was told, or is about to be, that nothing moved
		moved(dir.dirState(), r.Name, nd.dirState(), r.NewName, r.RenameFlags&wire.RenameExchange != 0, c.now())
	}
	for _, d := range []*Inode{dir, nd} {
		if len(d.dirState().told.until) > 0 {
			c.toldDirs[d] = struct{}{}
		}
	}
	from, okFrom := c.cover(dir, r.Name)
	to, okTo := c.cover(nd, r.NewName)
	known := okFrom && okTo && from != 0
	if known && from == to {
		return
	}
	set := func(d *Inode, name string, ino wire.Ino, l *wire.Lease) {
		c.changedName(d, name, ino, l, cl.sent)
		if !known {
			delete(d.dir.names, name)
			d.dir.complete = false // absent from names must mean absent
		}
	}
	if r.RenameFlags&wire.RenameExchange == 0 {
		to = 0
	}
	set(dir, r.Name, to, nil)
	set(nd, r.NewName, from, l)
}

// cover is mayName without the clock: what we believe of a name.
func (c *Client) cover(dir *Inode, name string) (wire.Ino, bool) {
	d := dir.dir
	if d == nil {
		return 0, false
	}
	fs := dir.cap.issued&caps.FileShared != 0
	e := d.names[name]
	if e != nil && (e.gen == d.gen && fs || e.lease > c.now()) {
		return e.ino, true
	}
	return 0, fs && d.complete
}

// doneWith drops the reference that a call's reply holds for its waiter.
func (c *Client) doneWith(cl *call) {
	if cl != nil && cl.in != nil {
		c.unref(cl.in)
		cl.in = nil
	}
}

// Entry is what a name operation tells the kernel. The kernel has one more reference on Ino
// for it. TTL: how long it may trust the name, or with ENOENT its absence; Told must follow.
type Entry struct {
	Ino  wire.Ino
	Attr Attr
	TTL  time.Duration

	at int64 // when TTL was computed
}

// At is when TTL was computed, for Late.
func (e *Entry) At() int64 { return e.at }

// dirFor finds a directory (or any inode) the kernel names.
func (c *Client) byIno(ino wire.Ino) (*Inode, error) {
	in := c.inodes[ino]
	if in == nil {
		return nil, eSTALE
	}
	in.known, in.shownBy = true, nil
	if in.lru == &c.byKernel {
		c.byKernel.push(in) // used
	}
	return in, nil
}

// Lookup finds name in dir.
func (c *Client) Lookup(k *Caller, dir wire.Ino, name string) (e Entry, err error) {
	if len(name) > wire.MaxName {
		return e, errNameTooLong
	}
	if name == "." || name == ".." {
		return c.lookupByNumber(k, dir, name)
	}
	c.mu.Lock()
	defer c.unlockFlush()
	d, err := c.byIno(dir)
	if err != nil {
		return e, err
	}
	if c.wrong != 0 {
		if e, lied, err := c.lieOfName(k, dir, name); lied {
			return e, err
		}
		defer func() { c.keepName(dir, name, &e, err) }()
	}
	ino, right := c.mayName(d, name)
	in := c.inodes[ino]
	if right == NoRight || ino != 0 && (in == nil || in.cap.id == 0) {
		c.ref(d)
		defer c.unref(d)
		cl, err := c.do(k, &wire.Request{Op: wire.OpLookup, Ino: dir, Name: name})
		defer c.doneWith(cl)
		switch {
		case err == eNOENT:
			in = nil
		case err != nil:
			return e, err
		case cl.in == nil:
			return e, eIO
		default:
			in = cl.in
		}
	}
	if in == nil {
		if ino, right := c.mayName(d, name); ino == 0 {
			e.TTL, e.at = c.tell(k, d, name, right)
		}
		return e, eNOENT
	}
	shown := in.told
	e, err = c.entry(k, in)
	// The wait for attributes, if there was one, may have changed what the name leads to.
	if at, right := c.mayName(d, name); err == nil && at == in.ino && in.steady(shown) {
		e.TTL, e.at = c.tell(k, d, name, right)
	}
	return e, err
}

// steady: what the kernel was shown last of an inode is still so, so that it does not wait
// for pages to go before it takes an answer's timeouts in.
func (in *Inode) steady(shown told) bool {
	return !in.pages || shown.size == in.attr.Size && shown.mtime == in.attr.Mtime && !in.oldPages
}

// entry counts the kernel's reference and fills what it wants to know. Attributes never
// known must be asked for: a size of 0 would cut the kernel's pages.
func (c *Client) entry(k *Caller, in *Inode) (Entry, error) {
	c.ref(in)
	defer c.unref(in)
	const all = wire.MaskAuth | wire.MaskLink | wire.MaskFile
	if in.ever&all != all {
		if err := c.fetch(k, in, all); err != nil {
			return Entry{}, err
		}
	}
	in.nlookup++
	return Entry{Ino: in.ino, Attr: c.attrOf(in)}, nil
}

// Make describes a new thing for a directory.
type Make struct {
	Mode   uint32 // with type bits
	Umask  uint32
	Rdev   uint32
	Target string // symlink
}

// Mknod makes whatever Mode says: directory, symlink, file without opening it, device.
func (c *Client) Mknod(k *Caller, dir wire.Ino, name string, mk Make) (e Entry, err error) {
	if len(name) > wire.MaxName {
		return e, errNameTooLong
	}
	if len(mk.Target) > wire.MaxSymlink {
		return e, errNameTooLong
	}
	r := &wire.Request{Op: wire.OpMknod, Ino: dir, Name: name, Mode: mk.Mode, Umask: mk.Umask, Rdev: mk.Rdev}
	switch mk.Mode & 0170000 {
	case 0040000:
		r.Op = wire.OpMkdir
	case 0120000:
		r.Op, r.Target = wire.OpSymlink, mk.Target
	}
	return c.nameOp(k, r, true)
}

// Link gives other one more name.
func (c *Client) Link(k *Caller, other, dir wire.Ino, name string) (Entry, error) {
	if len(name) > wire.MaxName {
		return Entry{}, errNameTooLong
	}
	return c.nameOp(k, &wire.Request{Op: wire.OpLink, Ino: dir, Name: name, Other: other}, true)
}

// Unlink removes a name of anything but a directory.
func (c *Client) Unlink(k *Caller, dir wire.Ino, name string) error {
	if c.wrong.Has(wrong.UnlinkFrees) {
		c.cutFirst(k, dir, name)
	}
	_, err := c.nameOp(k, &wire.Request{Op: wire.OpUnlink, Ino: dir, Name: name}, false)
	return err
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(k *Caller, dir wire.Ino, name string) error {
	_, err := c.nameOp(k, &wire.Request{Op: wire.OpRmdir, Ino: dir, Name: name}, false)
	return err
}

// Rename moves a name; flags are those of wire.
func (c *Client) Rename(k *Caller, dir wire.Ino, name string, ndir wire.Ino, nname string, flags uint32) error {
	if len(nname) > wire.MaxName {
		return errNameTooLong
	}
	if c.wrong.Has(wrong.RenameGap) && flags == 0 {
		c.removeFirst(k, ndir, nname)
	}
	_, err := c.nameOp(k, &wire.Request{Op: wire.OpRename, Ino: dir, Name: name, NewDir: ndir, NewName: nname, RenameFlags: flags}, false)
	return err
}

func (c *Client) nameOp(k *Caller, r *wire.Request, entry bool) (e Entry, err error) {
	c.mu.Lock()
	defer c.unlockFlush()
	d, err := c.byIno(r.Ino)
	if err != nil {
		return e, err
	}
	c.ref(d)
	defer c.unref(d)
	dirs := []*Inode{d}
	if r.NewDir != 0 && r.NewDir != r.Ino {
		nd, err := c.byIno(r.NewDir)
		if err != nil {
			return e, err
		}
		c.ref(nd)
		defer c.unref(nd)
		dirs = append(dirs, nd)
	}
	var cl *call
	ended := c.ownChange(dirs...)
	defer func() { ended(err, cl, r.Name, r.NewName) }()
	switch r.Op {
	case wire.OpUnlink, wire.OpRmdir, wire.OpRename:
		c.releaseLink(d, r)
	}
	cl, err = c.do(k, r)
	defer c.doneWith(cl)
	if err != nil && len(r.Release) > 0 { // the kernel does not count the name as gone, and Ls is
		if in := c.inodes[r.Release[0].Ino]; in != nil && in.attrUntil > c.now() && c.notifier != nil {
			in.attrUntil = 0
			c.ref(in)
			c.voidAttrs(in)
			c.unref(in)
		}
	}
	if err != nil || !entry {
		return e, err
	}
	if cl.in == nil {
		return e, eIO
	}
	return c.entry(k, cl.in)
}

// releaseLink gives up Ls of what is being unlinked or renamed along with the request: the rank
// need not ask for it.
func (c *Client) releaseLink(d *Inode, r *wire.Request) {
	ino, ok := c.cover(d, r.Name)
	in := c.inodes[ino]
	mine := func() bool {
		return in.cap.id != 0 && !in.cap.job && !in.dirty && in.cap.implemented&caps.LinkShared != 0 && in.at == d.at && in.at.state == sessOpen
	}
	if !ok || in == nil || !mine() {
		return
	}
	c.lose(in, caps.LinkShared)
	in.cap.issued &^= caps.LinkShared
	// The kernel trusts its nlink. Of a last name it lowers that itself when the answer comes;
	// else others may change it from now on, and the kernel must forget it first.
	if in.attrUntil > c.now() && c.notifier != nil && (r.Op == wire.OpRename || in.attr.Nlink > 1) {
		in.attrUntil = 0
		c.ref(in)
		c.voidAttrs(in)
		c.unref(in)
		if !mine() || in.attrUntil > c.now() || in.cap.issued&caps.LinkShared != 0 {
			return // something came between: the rank asks
		}
	}
	in.cap.implemented &^= caps.LinkShared
	in.cap.pending &^= caps.LinkShared
	r.Release = append(r.Release, *c.makeUpdate(in, 0))
}
