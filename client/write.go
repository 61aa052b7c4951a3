package client

import (
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// WriteFlags qualify a write.
type WriteFlags struct {
	Append   bool // O_APPEND: the offset is ours to choose (B5)
	FromMmap bool // WRITE_CACHE: pages written back; waits for no cap
	Kill     bool // clear setuid and setgid
	Sync     bool // O_DSYNC or O_SYNC

	torn bool // half of an append that a seeded bug tears
}

// Write writes data at off, or at the true end: under Fb into the buffer, else to every in-sync
// replica before it returns. What it changes of size and mtime is dirty until flushed.
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
		if !in.cap.issued.Has(caps.FileCache) || !in.usable() {
			in.oldPages = true
		}
	}
	if fl.FromMmap {
		return c.writePages(k, in, data, off)
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
	if err := c.writeOut(k, f, data, off, fl.Append); err != nil {
		return 0, err
	}
	if fl.Sync {
		if err := c.fsync(k, f); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// writeOut admits a write and puts its bytes where they belong. Whatever had to be waited for
// may have changed everything: it is looked at from the start again.
func (c *Client) writeOut(k *Caller, f *File, data []byte, off uint64, app bool) error {
	in := f.in
	for {
		end, err := c.admit(k, f, &off, uint64(len(data)), app)
		if err != nil {
			return err
		}
		switch {
		case c.mayBuffer(in):
			if !c.hasRoom(len(data)) {
				k.why = reason{kind: waitObjects, ino: in.ino}
				if err := c.await(k, c.wb.room.wait()); err != nil {
					return err
				}
				continue
			}
			in.lastWr = c.now()
			c.hold(in, data, off)
			c.wrote(in, off, end)
			return nil
		case in.unborn(), in.holds(off, end):
			// Buffered before b went. It goes first, or it would come behind this write.
			c.flushData(in)
			k.why = in.stored()
			if err := c.await(k, in.changed.wait()); err != nil {
				return err
			}
			continue
		}
		in.nwr++ // from here to the flush of what it changed, w is not given up
		in.lastWr = c.now()
		err = c.store(k, in, data, off)
		in.lastWr = c.now()
		if err == nil {
			c.wb.full = false
			c.wrote(in, off, end)
		}
		if in.nwr--; in.nwr == 0 {
			in.changed.wake()
		}
		return err
	}
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
		k.why = reason{kind: waitRange, rank: in.at.num, ino: in.ino}
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
	c.wb.through++
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
	if err == ErrInterrupted {
		c.outlives(in, g, func() {
			if in.cap.implemented&caps.FileWr != 0 {
				c.wrote(in, off, off+uint64(len(data)))
			}
		})
	}
	return err
}

// outlives: who waited for the writes of g was killed, and the store may carry them out for as long
// as it likes. Until it has, w is not given up, or they would come behind what others write; then
// follows what they changed, if anything.
func (c *Client) outlives(in *Inode, g *gather, then func()) {
	in.nwr++
	c.ref(in)
	gen := c.gen
	go func() {
		select {
		case <-g.done:
		case <-c.closed:
			return
		}
		c.mu.Lock()
		if gen == c.gen && g.err == nil && then != nil {
			then()
		}
		if in.nwr--; in.nwr == 0 {
			in.changed.wake()
		}
		c.unref(in)
		c.unlockFlush()
	}()
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
	in.dirtySet |= wire.SetMtime | wire.SetCtime
	if !in.dirty {
		in.dirty, in.dirtyAt = true, c.now()
		c.dirty[in] = struct{}{}
	}
}

// writePages takes pages dirtied through mmap, at once whatever caps are held, and never past
// the end: bytes there would come to light when the file grows. It may wait for the store.
func (c *Client) writePages(k *Caller, in *Inode, data []byte, off uint64) (int, error) {
	n := len(data)
	if off >= in.attr.Size {
		return n, nil
	}
	data = data[:min(uint64(n), in.attr.Size-off)]
	end := off + uint64(len(data))
	if c.mayBuffer(in) && end <= in.cap.maxSize {
		c.hasRoom(n) // pages that are written back are not held up; they only push
		c.hold(in, data, off)
		c.wrote(in, off, end)
		return n, nil
	}
	for in.unborn() || in.holds(off, end) {
		c.flushData(in)
		k.why = in.stored()
		if err := c.await(k, in.changed.wait()); err != nil {
			return 0, err
		}
	}
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
