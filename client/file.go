package client

import (
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// File is an open file or directory.
type File struct {
	in     *Inode
	gen    uint64 // session generation it was opened in
	rd, wr bool
	app    bool
	Direct bool // the kernel goes around its page cache
	Keep   bool // the kernel's pages may stay over this open

	askedCaps bool    // whether it has security.capability
	errSeen   uint64  // losses reported
	cur       listing // directories
}

// Ino is the file's inode number.
func (f *File) Ino() wire.Ino { return f.in.ino }

const accMode = 3

// modes splits the flags of open(2).
func modes(flags uint32) (rd, wr, app bool) {
	switch flags & accMode {
	case syscall.O_WRONLY:
		wr = true
	case syscall.O_RDWR:
		rd, wr = true, true
	default:
		rd = true
	}
	return rd, wr, wr && flags&syscall.O_APPEND != 0
}

func wantOf(rd, wr, app bool) (want, must caps.Bits) {
	if rd {
		want, must = want|wantRead, must|caps.FileRd
	}
	if wr {
		want, must = want|wantWrite, must|caps.FileWr
	}
	if app {
		want |= caps.FileExcl // its turn comes when it writes
	}
	return want, must
}

func (c *Client) openFile(in *Inode, rd, wr, app bool) *File {
	f := &File{in: in, gen: c.gen, rd: rd, wr: wr, app: app}
	if in.errTold { // else it reports a loss that nobody has heard of, as Linux does
		f.errSeen = in.errSeq
	}
	c.ref(in)
	if rd {
		in.opens.rd++
		in.lastRd = c.now()
	}
	if wr {
		in.opens.wr++
		in.lastWr = c.now() - int64(60*time.Millisecond)
	}
	if rd && wr {
		in.opens.rw++
	}
	if app {
		in.opens.app++
	}
	if in.isReg() {
		c.dirty[in] = struct{}{}
		// Without Fs somebody else may be writing: MIX. A handle cannot change later (F8), so
		// one that writes is direct from the start: through the page cache its bytes would
		// show to other readers of this mount before the store has them, and a read elsewhere
		// that starts after such a read could still find the old ones.
		f.Direct = wr || in.cap.issued&(caps.FileShared|caps.FileExcl) == 0
		f.Keep = in.cap.issued.Has(caps.FileCache) && !in.oldPages
		if !f.Keep && !f.Direct {
			in.pages, in.oldPages = in.oldPages || in.pages, in.oldPages || in.pages
		}
	}
	return f
}

// Open opens by number. A client that holds what the mode needs asks nobody.
func (c *Client) Open(k *Caller, ino wire.Ino, flags uint32, killPriv bool) (*File, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	in, err := c.byIno(ino)
	if err != nil {
		return nil, err
	}
	c.ref(in)
	defer c.unref(in)
	if in.isDir() {
		return c.openFile(in, false, false, false), nil
	}
	rd, wr, app := modes(flags)
	if flags&syscall.O_TRUNC != 0 {
		r := &wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetSize | wire.SetMtimeNow}
		if killPriv {
			r.Set |= wire.SetKillSuid
		}
		cl, err := c.truncate(k, in, r)
		c.doneWith(cl)
		if err != nil {
			return nil, err
		}
	}
	want, must := wantOf(rd, wr, app)
	if !in.isReg() {
		return c.openFile(in, false, false, false), nil
	}
	// Fs besides: with it the open is not of a shared file, and need not be direct.
	if !in.cap.issued.Has(must|caps.FileShared) || !in.usable() {
		cl, err := c.do(k, &wire.Request{Op: wire.OpOpen, Ino: ino, Want: want, OpenFlags: flags})
		c.doneWith(cl)
		if err != nil {
			return nil, err
		}
	}
	return c.openFile(in, rd, wr, app), nil
}

// Create makes a regular file and opens it; one that exists is opened, unless O_EXCL.
func (c *Client) Create(k *Caller, dir wire.Ino, name string, mode, umask, flags uint32) (e Entry, f *File, err error) {
	return c.create(k, &wire.Request{Op: wire.OpCreate, Ino: dir, Name: name, Mode: mode, Umask: umask, OpenFlags: flags})
}

// Tmpfile makes a file without a name in the file system of dir.
func (c *Client) Tmpfile(k *Caller, dir wire.Ino, mode, umask, flags uint32) (e Entry, f *File, err error) {
	return c.create(k, &wire.Request{Op: wire.OpTmpfile, Ino: dir, Mode: mode, Umask: umask, OpenFlags: flags})
}

func (c *Client) create(k *Caller, r *wire.Request) (e Entry, f *File, err error) {
	if len(r.Name) > wire.MaxName {
		return e, nil, errNameTooLong
	}
	rd, wr, app := modes(r.OpenFlags)
	r.Want, _ = wantOf(rd, wr, app)
	c.mu.Lock()
	defer c.unlockFlush()
	d, err := c.byIno(r.Ino)
	if err != nil {
		return e, nil, err
	}
	c.ref(d)
	defer c.unref(d)
	var cl *call
	ended := c.ownChange(d)
	defer func() { ended(err, cl, r.Name) }()
	cl, err = c.do(k, r)
	defer c.doneWith(cl)
	if err != nil {
		return e, nil, err
	}
	in := cl.in
	if in == nil {
		return e, nil, eIO
	}
	if r.OpenFlags&syscall.O_TRUNC != 0 && in.attr.Size > 0 {
		// It existed after all.
		cl, err := c.truncate(k, in, &wire.Request{Op: wire.OpSetattr, Ino: in.ino, Set: wire.SetSize | wire.SetMtimeNow})
		c.doneWith(cl)
		if err != nil {
			return e, nil, err
		}
	}
	if e, err = c.entry(k, in); err != nil {
		return e, nil, err
	}
	return e, c.openFile(in, rd, wr, app), nil
}

// Release closes f. Nothing is waited for: close promises no more than write did.
func (c *Client) Release(f *File) {
	c.mu.Lock()
	in := f.in
	if f.rd {
		in.opens.rd--
	}
	if f.wr {
		in.opens.wr--
	}
	if f.rd && f.wr {
		in.opens.rw--
	}
	if f.app {
		in.opens.app--
	}
	switch {
	case in.at.state != sessOpen || in.cap.job:
	case in.buf != nil:
		if !c.alone(in) && in.opens.wr == 0 {
			c.flushData(in) // somebody may wait for what we have written
		}
	case in.dirty || f.wr && in.opens.wr == 0 && in.cap.told&writeBits != 0:
		c.partWithWriter(in)
	}
	c.unref(in)
	c.unlockFlush()
}

// CloseError is what close(2) reports: that something written through any handle of the file is
// lost, which each open file says once, or that a session was lost with locks, and then all of
// f fails until it is closed (4.13). It waits for nothing: close promises no more than write did.
func (c *Client) CloseError(f *File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.lost()
}

// lost takes the error that f has not reported yet, as Linux's errseq does.
func (f *File) lost() error {
	in := f.in
	if f.errSeen < in.errSeq {
		f.errSeen, in.errTold = in.errSeq, true
		return in.errWhat
	}
	if f.gen < in.lostGen {
		return ErrLost
	}
	return nil
}

// Fsync makes f's data durable on every in-sync replica and its metadata in the journal.
func (c *Client) Fsync(k *Caller, f *File) error {
	c.mu.Lock()
	defer c.unlockFlush()
	return c.fsync(k, f)
}

func (c *Client) fsync(k *Caller, f *File) error {
	in := f.in
	if err := f.lost(); err != nil {
		return err
	}
	if err := c.settleData(k, in); err != nil {
		return err
	}
	if in.dirty && in.cap.id == 0 { // a rank that lost it must hear of it first
		if err := c.need(k, in, f, caps.FileWr, false); err != nil {
			return err
		}
	}
	if in.dirty {
		c.update(in, 0)
	}
	if err := in.at.waitSafe(k, in.at.unsafeTid()); err != nil {
		return err
	}
	return f.lost()
}

// Statfs is the size of the file system.
func (c *Client) Statfs(k *Caller) (wire.Statfs, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	cl, err := c.do(k, &wire.Request{Op: wire.OpStatfs, Ino: wire.RootIno})
	if err != nil {
		return wire.Statfs{}, err
	}
	if cl.reply.Statfs == nil {
		return wire.Statfs{}, eIO
	}
	return *cl.reply.Statfs, nil
}
