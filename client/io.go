package client

import (
	"slices"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Read reads n bytes at off for a read() that bypasses the kernel's pages, or, of a handle
// that does not, for the page cache.
func (c *Client) Read(k *Caller, f *File, off uint64, n int) ([]byte, error) {
	return c.read(k, f, off, n, !f.Direct)
}

// ReadPage is Read for the kernel's page cache, whatever the handle: a page fault of a direct
// handle's mapping is one too.
func (c *Client) ReadPage(k *Caller, f *File, off uint64, n int) ([]byte, error) {
	return c.read(k, f, off, n, true)
}

// read: a READ for the page cache never waits for a cap (B3): without Fc its pages are marked
// as of unknown age, and the next GETATTR sees to it that they go. A direct read may wait,
// and does, for Fr.
func (c *Client) read(k *Caller, f *File, off uint64, n int, page bool) ([]byte, error) {
	in := f.in
	c.mu.Lock()
	defer c.unlockFlush()
	if f.gen < in.lostGen {
		return nil, ErrLost
	}
	if !in.isReg() || in.osize == 0 {
		return nil, syscall.EINVAL
	}
	if !page {
		if err := c.need(k, in, f, caps.FileRd, false); err != nil {
			return nil, err
		}
	} else {
		in.pages = true
		in.paged++
		if !in.cap.issued.Has(caps.FileCache) || !c.usable() {
			in.oldPages = true
		}
	}
	counted := in.cap.issued.Has(caps.FileRd) && c.usable()
	if counted {
		in.nrd++
		defer func() {
			if in.nrd--; in.nrd == 0 {
				in.changed.wake()
			}
		}()
	}
	exact := c.mayAttr(in, wire.MaskFile) != NoRight
	size := in.attr.Size
	if exact {
		if off >= size {
			return nil, nil
		}
		n = int(min(uint64(n), size-off))
	}
	spans := in.spans(off, uint64(n))
	o, barrier := c.objects, c.barrier
	c.unlockFlush()
	r := readAll(o, spans, barrier)
	k.why = reason{kind: waitObjects, ino: in.ino}
	err := c.sleep(k, r.done)
	c.mu.Lock()
	if err == nil {
		err = r.err
	}
	if err != nil {
		return nil, err
	}
	if exact {
		return join(spans, r.parts, uint64(n)), nil
	}
	// Somebody else may have made the file longer than we know: bytes that are there count,
	// and before a direct read says that the file ends, the rank is asked.
	end := off + r.dataEnd()
	size = in.attr.Size
	if !page && max(end, size) < off+uint64(n) {
		if counted {
			in.nrd--
			in.changed.wake()
		}
		err := c.fetch(k, in, wire.MaskFile)
		if counted {
			in.nrd++
		}
		if err != nil {
			return nil, err
		}
		size = in.attr.Size
	}
	end = max(end, size)
	if end <= off {
		return nil, nil
	}
	return join(spans, r.parts, min(uint64(n), end-off)), nil
}

// WriteFlags qualify a write.
type WriteFlags struct {
	Append   bool // O_APPEND: the offset is ours to choose (B5)
	FromMmap bool // WRITE_CACHE: pages written back; waits for no cap
	Kill     bool // clear setuid and setgid
	Sync     bool // O_DSYNC or O_SYNC

	torn bool // half of an append that a seeded bug tears
}

// Write writes data at off, or at the true end, and returns when every in-sync replica has
// it. What it changes of size and mtime is dirty under Fw until flushed.
func (c *Client) Write(k *Caller, f *File, data []byte, off uint64, fl WriteFlags) (int, error) {
	in := f.in
	if len(data) == 0 {
		return 0, nil
	}
	if c.wrong != 0 {
		if n, lied, err := c.writeWrongly(k, f, data, &off, &fl); lied {
			return n, err
		}
	}
	c.mu.Lock()
	defer c.unlockFlush()
	if f.gen < in.lostGen {
		return 0, ErrLost
	}
	if !in.isReg() || in.osize == 0 {
		return 0, syscall.EINVAL
	}
	if fl.Kill {
		if err := c.killPriv(k, in); err != nil {
			return 0, err
		}
	}
	if !f.Direct || fl.FromMmap {
		in.pages = true
		in.paged++
		if !in.cap.issued.Has(caps.FileCache) || !c.usable() {
			in.oldPages = true
		}
	}
	if fl.FromMmap {
		return c.writeBack(k, in, data, off)
	}
	if err := c.killFileCaps(k, f); err != nil {
		return 0, err
	}
	if fl.Append {
		if !f.app { // F_SETFL O_APPEND after the open
			f.app = true
			in.opens.app++
		}
		for in.append {
			k.why = reason{kind: waitTurn, ino: in.ino}
			if err := c.await(k, in.changed.wait()); err != nil {
				return 0, err
			}
		}
		in.append = true
		defer func() { in.append = false; in.changed.wake() }()
	}
	end, err := c.admit(k, f, &off, uint64(len(data)), fl.Append)
	if err != nil {
		return 0, err
	}
	in.nwr++ // from here to the flush of what it changed, w is not given up
	in.lastWr = c.now()
	err = c.store(k, in, data, off)
	in.lastWr = c.now()
	if err == nil {
		c.wrote(in, off, end)
	}
	if in.nwr--; in.nwr == 0 {
		in.changed.wake()
	}
	if err != nil {
		return 0, err
	}
	if fl.Sync {
		if err := c.fsync(k, f); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// admit waits until the write may begin: Fw, for an append Fx and with it the true size, and
// a write range that reaches its end. A WRITE that waits for bits is counted as parked: a
// revoke's invalidation must not wait for the folio it owns.
func (c *Client) admit(k *Caller, f *File, off *uint64, n uint64, app bool) (end uint64, err error) {
	in := f.in
	bits := caps.FileWr
	if app {
		bits |= caps.FileExcl
	}
	for {
		if err := c.need(k, in, f, bits, true); err != nil {
			return 0, err
		}
		if app {
			if in.fresh&wire.MaskFile == 0 {
				if err := c.fetch(k, in, wire.MaskFile); err != nil {
					return 0, err
				}
				if in.fresh&wire.MaskFile == 0 && in.cap.issued.Has(bits) {
					in.fresh |= wire.MaskFile // asked under Fx: nobody else can have changed it
				}
				continue
			}
			*off = in.attr.Size
		}
		end = *off + n
		if end > wire.MaxFileBytes {
			return 0, syscall.EFBIG // no rank gives a range that reaches there
		}
		if end <= in.cap.maxSize {
			if end > in.cap.maxSize/2 && in.cap.askedMax < in.cap.maxSize && !in.cap.job {
				in.cap.askedMax = in.cap.maxSize // once per range, ahead of need
				c.update(in, in.cap.maxSize)
			}
			return end, nil
		}
		// The rank answers this even while a REVOKE of w is out (Q-e).
		if in.cap.askedMax < end {
			in.cap.askedMax = end
			c.update(in, end)
		}
		k.why = reason{kind: waitRange, ino: in.ino}
		if err := c.await(k, in.changed.wait()); err != nil {
			return 0, err
		}
	}
}

// store writes to the OSDs; the lock is dropped meanwhile. The data is copied, since a
// caller that is killed leaves its buffer behind while the store may still send it again.
func (c *Client) store(k *Caller, in *Inode, data []byte, off uint64) error {
	spans := in.spans(off, uint64(len(data)))
	o, barrier, gen := c.objects, c.barrier, c.gen
	c.unlockFlush()
	b := buffers.Get().(*[]byte)
	*b = append((*b)[:0], data...)
	g := writeAll(o, spans, *b, barrier)
	k.why = reason{kind: waitObjects, ino: in.ino}
	err := c.sleep(k, g.done)
	if err == nil {
		err = g.err
		buffers.Put(b)
	}
	c.mu.Lock()
	if gen != c.gen {
		return ErrLost // the new life has not the right to say what the old one wrote
	}
	if err != nil && err != ErrInterrupted {
		return err
	}
	if err == ErrInterrupted {
		// It may yet reach the store: the size must not be less than what is there.
		c.wrote(in, off, off+uint64(len(data)))
	}
	return err
}

// wrote notes what a finished write changed.
func (c *Client) wrote(in *Inode, off, end uint64) {
	if off > in.attr.Size && !in.attr.Sparse {
		in.attr.Sparse = true
		in.dirtySet |= wire.SetSparse
	}
	if end > in.attr.Size {
		in.attr.Size = end
		in.dirtySet |= wire.SetSize
	}
	now := wire.TimeOf(time.Now())
	in.attr.Mtime = now
	in.attr.Ctime = wire.MaxTime(in.attr.Ctime, now)
	in.writes++
	c.makeDirty(in)
}

func (c *Client) makeDirty(in *Inode) {
	if !in.dirty {
		in.dirty, in.dirtyAt = true, c.now()
		c.dirty[in] = struct{}{}
	}
}

// writeBack stores pages dirtied through mmap, at once whatever caps are held, and never
// past the end: bytes there would come to light when the file grows.
func (c *Client) writeBack(k *Caller, in *Inode, data []byte, off uint64) (int, error) {
	n := len(data)
	if off >= in.attr.Size {
		return n, nil
	}
	data = data[:min(uint64(n), in.attr.Size-off)]
	in.nwr++
	err := c.store(k, in, data, off)
	switch {
	case err != nil:
	case in.cap.implemented&caps.FileWr != 0:
		c.wrote(in, off, off+uint64(len(data)))
	case in.cap.id != 0:
		// The time of it can only be told under Fw. It is asked for, which also makes others
		// drop the bytes that they read before.
		in.late = wire.TimeOf(time.Now())
		c.dirty[in] = struct{}{}
	}
	if in.nwr--; in.nwr == 0 {
		in.changed.wake()
	}
	return n, err
}

// lateTimes hands in the time of pages that were stored without Fw, now that it may be here.
func (c *Client) lateTimes(in *Inode) {
	if in.late == (wire.Time{}) || !in.cap.issued.Has(caps.FileWr) {
		return
	}
	in.attr.Mtime = wire.MaxTime(in.attr.Mtime, in.late)
	in.attr.Ctime = wire.MaxTime(in.attr.Ctime, in.late)
	in.late = wire.Time{}
	in.writes++
	c.makeDirty(in)
}

// fileCaps are the privileges that running the file gives; whoever changes it ends them.
const fileCaps = "security.capability"

// killFileCaps removes them before a write: the kernel does not see a direct one coming.
// Without Xs it asks once per open file.
func (c *Client) killFileCaps(k *Caller, f *File) error {
	in := f.in
	has := func(all []wire.KV) bool {
		return slices.ContainsFunc(all, func(x wire.KV) bool { return x.Key == fileCaps })
	}
	all := in.xattrs
	if c.mayAttr(in, wire.MaskXattr) == NoRight {
		if f.askedCaps {
			return nil
		}
		var err error
		if all, err = c.xattrsOf(k, in.ino); err != nil {
			return err
		}
		f.askedCaps = true
	}
	if !has(all) {
		return nil
	}
	cl, err := c.do(k, &wire.Request{Op: wire.OpRmxattr, Ino: in.ino, Xname: fileCaps})
	c.doneWith(cl)
	if err == eNODATA {
		err = nil
	}
	return err
}

// killPriv clears setuid, setgid and file capabilities before a write by somebody who may
// not keep them.
func (c *Client) killPriv(k *Caller, in *Inode) error {
	if c.mayAttr(in, wire.MaskAuth) == NoRight {
		if err := c.fetch(k, in, wire.MaskAuth); err != nil {
			return err
		}
	}
	if m := in.attr.Mode; m&04000 != 0 || m&02010 == 02010 {
		cl, err := c.do(k, &wire.Request{Op: wire.OpSetattr, Ino: in.ino, Set: wire.SetKillSuid})
		c.doneWith(cl)
		if err != nil {
			return err
		}
	}
	return nil
}

// Modes of Fallocate, as the kernel has them.
const (
	FallocKeepSize = 1
	FallocPunch    = 2
	FallocZero     = 16
)

// Fallocate makes room, punches holes or zeroes. Space itself is not reserved: a store that
// replicates and copies on write could not keep such a promise.
func (c *Client) Fallocate(k *Caller, f *File, off, n uint64, mode uint32) error {
	in := f.in
	switch mode {
	case 0, FallocKeepSize, FallocPunch | FallocKeepSize, FallocZero, FallocZero | FallocKeepSize:
	default:
		return syscall.EOPNOTSUPP
	}
	if off+n < off || off+n > 1<<63-1 || mode&FallocKeepSize == 0 && off+n > wire.MaxFileBytes {
		return syscall.EFBIG
	}
	if mode == FallocKeepSize {
		return nil
	}
	if mode == 0 && n > 64<<20 {
		st, err := c.Statfs(k)
		if err != nil {
			return err
		}
		if n > st.Avail {
			return syscall.ENOSPC
		}
	}
	c.mu.Lock()
	defer c.unlockFlush()
	if f.gen < in.lostGen {
		return ErrLost
	}
	if err := c.need(k, in, f, caps.FileWr, false); err != nil {
		return err
	}
	// The size must be the true one: it may only grow.
	for in.fresh&wire.MaskFile == 0 || in.cap.issued&(caps.FileShared|caps.FileExcl) == 0 {
		if err := c.fetch(k, in, wire.MaskFile); err != nil {
			return err
		}
		if err := c.need(k, in, f, caps.FileWr, false); err != nil {
			return err
		}
		break
	}
	size := in.attr.Size
	grow := mode&FallocKeepSize == 0 && off+n > size
	if grow {
		if _, err := c.admit(k, f, &off, n, false); err != nil {
			return err
		}
	}
	in.nwr++
	in.lastWr = c.now()
	var err error
	if stop := min(off+n, max(size, in.attr.Size)); mode&(FallocPunch|FallocZero) != 0 && off < stop {
		spans := in.spans(off, stop-off)
		o, barrier := c.objects, c.barrier
		c.unlockFlush()
		for len(spans) > 0 && err == nil {
			m := min(len(spans), 128)
			g := zeroAll(o, spans[:m], barrier)
			k.why = reason{kind: waitObjects, ino: in.ino}
			if err = c.sleep(k, g.done); err == nil {
				err = g.err
			}
			spans = spans[m:]
		}
		c.mu.Lock()
	}
	if err == nil {
		end := in.attr.Size
		if grow {
			end = off + n
		}
		if !in.attr.Sparse {
			in.attr.Sparse = true
			in.dirtySet |= wire.SetSparse
		}
		c.wrote(in, in.attr.Size, end)
	}
	if in.nwr--; in.nwr == 0 {
		in.changed.wake()
	}
	return err
}

// Lseek answers SEEK_DATA and SEEK_HOLE as if the whole file were data, which is allowed.
func (c *Client) Lseek(k *Caller, f *File, off uint64, hole bool) (uint64, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	in := f.in
	if c.mayAttr(in, wire.MaskFile) == NoRight {
		if err := c.fetch(k, in, wire.MaskFile); err != nil {
			return 0, err
		}
	}
	switch {
	case off >= in.attr.Size:
		return 0, syscall.ENXIO
	case hole:
		return in.attr.Size, nil
	}
	return off, nil
}
