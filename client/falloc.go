package client

import (
	"syscall"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

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
	if k.UID != 0 { // as before a write; the kernel does not say so here
		if err := c.killPriv(k, in); err != nil {
			return err
		}
	}
	if err := c.killFileCaps(k, f); err != nil {
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
	if mode&(FallocPunch|FallocZero) != 0 {
		// What is buffered goes first: it would come to light again behind the zeros.
		for in.buf != nil || !in.cap.issued.Has(caps.FileWr) {
			if err := c.settleData(k, in); err != nil {
				return err
			}
			if err := c.need(k, in, f, caps.FileWr, false); err != nil {
				return err
			}
		}
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
		var left *gather // its caller was killed
		c.unlockFlush()
		for len(spans) > 0 && err == nil {
			m := min(len(spans), 128)
			k.why = reason{kind: waitObjects, ino: in.ino}
			g := zeroAll(o, spans[:m], barrier)
			if err = c.sleep(k, g.done); err == nil {
				err = g.err
			} else {
				left = g
			}
			spans = spans[m:]
		}
		c.mu.Lock()
		if left != nil {
			c.outlives(in, left, nil)
		}
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
