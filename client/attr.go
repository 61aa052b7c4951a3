package client

import (
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

const errNameTooLong = syscall.ENAMETOOLONG

// Attr is what the kernel is shown of an inode, and for how long it may keep it.
type Attr struct {
	wire.Attr
	Ino    wire.Ino
	Blocks uint64 // of 512 bytes
	TTL    time.Duration
}

// told is the size and mtime the kernel was shown last. sure: nothing of ours was going on
// that makes it ignore an answer.
type told struct {
	size  uint64
	mtime wire.Time
	sure  bool
}

// attrOf makes the answer from the cache; the caller has seen to it that it may.
func (c *Client) attrOf(in *Inode) Attr {
	a := Attr{Attr: in.attr, Ino: in.ino, Blocks: (in.attr.Size + 511) / 512}
	sums := true
	switch {
	case !in.isReg():
		a.Blocks = 0
		if in.isDir() {
			a.Blocks = 8
		}
	case in.attr.Sparse:
		if sums = in.blocksFor == in.writes; sums {
			a.Blocks = in.blocks
		}
	}
	if sums {
		a.TTL = time.Duration(c.kernelAttr(in))
	}
	in.told = told{a.Size, a.Mtime, in.nwr == 0 && c.now()-in.lastWr > int64(5*time.Millisecond)}
	return a
}

// fetch asks the rank until the groups of mask have been seen current after the call began. A
// group may be missing from the answer: meanwhile a GRANT made us its only user, and our own
// copy is the truth; or the lock moved on between, and we ask again.
func (c *Client) fetch(k *Caller, in *Inode, mask wire.AttrMask) error {
	for try := 0; ; try++ {
		cl, err := c.do(k, &wire.Request{Op: wire.OpGetattr, Ino: in.ino, Mask: mask})
		c.doneWith(cl)
		if err != nil {
			return err
		}
		miss := mask
		if t := cl.reply.Target; t != nil {
			miss &^= t.Valid
		}
		if miss == 0 || c.mayAttr(in, miss) != NoRight {
			return nil
		}
		if miss == wire.MaskFile && in.cap.job && in.usable() && in.cap.implemented&(caps.FileExcl|caps.FileShared) != 0 {
			return nil // not yet given up: nobody else has changed it
		}
		if try == 200 {
			c.log.Error().Stringer("ino", in.ino).Uint8("groups", uint8(miss)).Stringer("caps", in.cap.issued).Msg("the rank does not show attributes that it was asked for")
			return eIO
		}
		// A lock on its way from us to others: what it waits for comes soon.
		t := time.NewTimer(time.Duration(min(try, 50)) * 200 * time.Microsecond)
		c.unlockFlush()
		<-t.C
		c.mu.Lock()
	}
}

const statMask = wire.MaskAuth | wire.MaskLink | wire.MaskFile

// Getattr is what stat shows. Without Fs its answer makes the kernel drop pages that may be
// older: by another size or mtime, else by an invalidation here (B3, F9).
//
// The invalidation comes only when both are what the kernel was shown last. It makes the
// kernel ignore the attributes of answers on their way, this one included: harmless when
// they say nothing new, but a size that has grown would be missed by the read() that asks.
func (c *Client) Getattr(k *Caller, ino wire.Ino) (Attr, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	in, err := c.byIno(ino)
	if err != nil {
		return Attr{}, err
	}
	c.ref(in)
	defer c.unref(in)
	if c.wrong != 0 {
		if a, lied := c.lieOfAttr(in); lied {
			return a, nil
		}
		defer c.keepAttr(in)
	}
	if c.mayAttr(in, statMask) == NoRight {
		if err := c.fetch(k, in, statMask); err != nil {
			return Attr{}, err
		}
	}
	if in.isReg() && in.attr.Sparse && in.blocksFor != in.writes {
		if err := c.countBlocks(k, in); err != nil {
			return Attr{}, err
		}
	}
	if in.oldPages && c.notifier != nil && in.told.sure && in.told.size == in.attr.Size && in.told.mtime == in.attr.Mtime {
		in.oldPages, in.pages = false, in.cap.issued.Has(caps.FileCache)
		a := c.attrOf(in)
		a.TTL, in.attrUntil = 0, 0
		n := c.notifier
		c.unlockFlush()
		k.why = reason{kind: waitKernel, ino: ino}
		w := c.lieDown(k)
		n.Pages(ino)
		c.getUp(k, w)
		c.mu.Lock()
		return a, nil
	}
	return c.attrOf(in), nil
}

// SetAttr are the changes of a setattr.
type SetAttr struct {
	Set  wire.SetMask
	Attr wire.SetAttr
}

// ioBits are given up with a SETATTR(size) (B12).
const ioBits = caps.FileRd | writeBits

// Setattr changes attributes at the rank. The answer has no timeout: the kernel does not
// check a SETATTR's reply against invalidations that overtook it.
func (c *Client) Setattr(k *Caller, ino wire.Ino, s SetAttr) (Attr, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	in, err := c.byIno(ino)
	if err != nil {
		return Attr{}, err
	}
	c.ref(in)
	defer c.unref(in)
	r := &wire.Request{Op: wire.OpSetattr, Ino: ino, Set: s.Set, Attr: s.Attr}
	var cl *call
	if s.Set&wire.SetSize != 0 && in.isReg() {
		cl, err = c.truncate(k, in, r)
	} else {
		if s.Set&timeBits != 0 {
			if c.setTimes(in, s) {
				a := c.attrOf(in)
				a.TTL = 0
				return a, nil
			}
			// Our own earlier writes come before in the one tid order, or their mtime would
			// overwrite the one asked for.
			if err := c.settleWrites(k, in); err != nil {
				return Attr{}, err
			}
		}
		cl, err = c.do(k, r)
	}
	defer c.doneWith(cl)
	if err != nil {
		return Attr{}, err
	}
	if cl.in != nil {
		in = cl.in
	}
	if c.mayAttr(in, statMask) == NoRight && (cl.reply.Target == nil || cl.reply.Target.Valid&statMask != statMask) {
		if err := c.fetch(k, in, statMask); err != nil {
			return Attr{}, err
		}
	}
	a := c.attrOf(in)
	a.TTL = 0
	return a, nil
}

// timeBits are what utimes changes.
const timeBits = wire.SetMtime | wire.SetMtimeNow | wire.SetAtime | wire.SetAtimeNow

// setTimes changes mtime and atime under Fx, where nobody else can look: they are flushed with
// the rest. A copy that sets times after it wrote costs no request, and its data stays buffered.
func (c *Client) setTimes(in *Inode, s SetAttr) bool {
	if s.Set&^(timeBits|wire.SetCtime) != 0 || !in.isReg() || in.cap.job || in.nwr > 0 ||
		c.mayAttr(in, wire.MaskFile) == NoRight || !in.cap.issued.Has(caps.FileExcl|caps.FileWr) {
		return false
	}
	now := wire.TimeOf(time.Now())
	switch {
	case s.Set&wire.SetMtimeNow != 0:
		in.attr.Mtime = now
	case s.Set&wire.SetMtime != 0:
		in.attr.Mtime = s.Attr.Mtime
	}
	switch {
	case s.Set&wire.SetAtimeNow != 0:
		in.attr.Atime, in.dirtySet = now, in.dirtySet|wire.SetAtime
	case s.Set&wire.SetAtime != 0:
		in.attr.Atime, in.dirtySet = s.Attr.Atime, in.dirtySet|wire.SetAtime
	}
	in.attr.Ctime = wire.MaxTime(in.attr.Ctime, now)
	if s.Set&wire.SetCtime != 0 {
		in.attr.Ctime = wire.MaxTime(in.attr.Ctime, s.Attr.Ctime)
	}
	c.makeDirty(in)
	return true
}

// settleWrites waits for our writes, in flight and buffered, and queues what they made dirty.
func (c *Client) settleWrites(k *Caller, in *Inode) error {
	for in.nwr > 0 || in.buf != nil {
		c.flushData(in)
		if err := c.await(k, in.changed.wait()); err != nil {
			return err
		}
	}
	if in.dirty {
		c.update(in, 0)
	}
	return nil
}

// truncate sends SETATTR(size) with everything released inline that the rank would have to
// ask back: while it is parked the kernel holds write-back of the inode, and an invalidation
// could block on that (F4, B12).
func (c *Client) truncate(k *Caller, in *Inode, r *wire.Request) (*call, error) {
	in.cutting++
	in.changed.wake()
	defer func() { in.cutting-- }()
	give := in.cap.implemented & ioBits
	if give != 0 && !in.cap.job && in.at.state == sessOpen {
		in.cap.issued &^= ioBits
		for in.nwr > 0 || in.nrd > 0 || in.buf != nil {
			c.flushData(in)
			if err := c.await(k, in.changed.wait()); err != nil {
				if !in.cap.job {
					in.cap.issued = in.cap.pending
				}
				return nil, err
			}
		}
		if !in.cap.job && in.cap.id != 0 {
			in.giveUp(ioBits)
			r.Release = append(r.Release, *c.makeUpdate(in, 0))
		}
	}
	if in.dirty {
		c.update(in, 0)
	}
	if r.Attr.Size > in.attr.Size {
		r.Set |= wire.SetSparse
	}
	cl, err := c.do(k, r)
	in.writes++
	return cl, err
}
