package client

import (
	"syscall"

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
	in.lastRd = c.now()
	if !page {
		if err := c.need(k, in, f, caps.FileRd, false); err != nil {
			return nil, err
		}
	} else {
		in.pages = true
		in.paged++
		if !in.cap.issued.Has(caps.FileCache) || !in.usable() {
			in.oldPages = true
		}
	}
	counted := in.cap.issued.Has(caps.FileRd) && in.usable()
	if counted {
		in.nrd++
		defer func() {
			if in.nrd--; in.nrd == 0 {
				in.changed.wake()
			}
		}()
	}
	for {
		exact := c.mayAttr(in, wire.MaskFile) != NoRight
		size := in.attr.Size
		if exact {
			if off >= size {
				return nil, nil
			}
			n = int(min(uint64(n), size-off))
		}
		out, end, err := c.fill(k, in, off, uint64(n), exact)
		if err != nil || exact {
			return out, err
		}
		// Somebody else may have made the file longer than we know: bytes that are there count,
		// and before a direct read says that the file ends, the rank is asked.
		end = max(end, size)
		if !page && end < off+uint64(n) {
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
		}
		if end < min(in.attr.Size, off+uint64(n)) {
			// It has grown since the bytes were read: those there now are not the zeros of then.
			continue
		}
		if end <= off {
			return nil, nil
		}
		return out[:min(uint64(n), end-off)], nil
	}
}

// fill returns n bytes at off: what is buffered, from the store what is not, and zeros where
// there is neither. end is where data ends, as far as that shows.
func (c *Client) fill(k *Caller, in *Inode, off, n uint64, exact bool) (out []byte, end uint64, err error) {
	mine, all := in.pieces(off, n)
	if all && len(mine) > 0 {
		out = make([]byte, n)
		lay(out, mine)
		return out, off + n, nil
	}
	spans := in.spans(off, n)
	o, barrier := c.objects, c.barrier
	c.unlockFlush()
	r := readAll(o, spans, barrier)
	k.why = reason{kind: waitObjects, ino: in.ino}
	err = c.sleep(k, r.done)
	c.mu.Lock()
	if err == nil {
		err = r.err
	}
	if err != nil {
		return nil, 0, err
	}
	// What was buffered at the start may have landed meanwhile, behind the store's read; what
	// has come since is newer.
	now, _ := in.pieces(off, n)
	out = join(spans, r.parts, n, len(mine)+len(now) > 0)
	end = off + r.dataEnd()
	for _, p := range [...]extents{mine, now} {
		lay(out, p)
		for i := range p {
			end = max(end, off+p[i].end())
		}
	}
	return out, end, nil
}
