package client

import (
	"sync"
	"syscall"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Where data is in a file: an object that is absent, and what an object holds no blocks for,
// is a hole. The store's grain is 4 KiB. Bytes that are buffered here go out first, and with
// Fr or Fw in hand nobody else buffers any.

// dataIn lists the parts of [off, off+n) that hold data, in the order of the file. The lock is
// dropped meanwhile.
func (c *Client) dataIn(k *Caller, in *Inode, off, n uint64) ([]wire.Extent, error) {
	spans := in.spans(off, n)
	o, barrier := c.objects, c.barrier
	c.unlockFlush()
	defer c.mu.Lock()
	g := newGather(len(spans))
	parts := make([][]wire.Extent, len(spans))
	var mu sync.Mutex
	for i, s := range spans {
		o.Submit(s.obj, []wire.ObjOp{{Kind: wire.ObjExtents, Off: s.off, Len: s.len}}, barrier,
			func(errno uint32, res []wire.ObjResult, err error) {
				if errno == uint32(syscall.ENOENT) {
					errno = 0
				} else if errno == 0 && err == nil && len(res) > 0 {
					var es []wire.Extent
					es, err = wire.Extents(res[0].Data)
					mu.Lock()
					parts[i] = es
					mu.Unlock()
				}
				g.end(objErr(s.obj, errno, err))
			})
	}
	if err := c.sleep(k, g.done); err != nil {
		return nil, err
	}
	if g.err != nil {
		return nil, g.err
	}
	var out []wire.Extent
	for i, s := range spans {
		for _, e := range parts[i] {
			from, to := max(e.Off, s.off), min(e.Off+e.Len, s.off+s.len)
			if from >= to {
				continue
			}
			e = wire.Extent{Off: off + s.at + from - s.off, Len: to - from}
			if k := len(out); k > 0 && out[k-1].Off+out[k-1].Len == e.Off {
				out[k-1].Len += e.Len
			} else {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// maxSeekObjects bounds how many objects one lseek asks: what lies behind counts as data,
// which a file system may always say.
const maxSeekObjects = 16384

// Lseek finds the first data, or the first hole, at or behind off. The end of the file counts
// as a hole.
func (c *Client) Lseek(k *Caller, f *File, off uint64, hole bool) (uint64, error) {
	in := f.in
	c.mu.Lock()
	defer c.unlockFlush()
	size, err := c.settle(k, f)
	if err != nil {
		return 0, err
	}
	if off >= size {
		return 0, syscall.ENXIO
	}
	if !in.isReg() {
		if hole {
			return size, nil
		}
		return off, nil
	}
	at, batch := off, uint64(1)
	for asked := uint64(0); at < size && asked < maxSeekObjects; asked, batch = asked+batch, min(2*batch, 256) {
		end := min(size, at+batch*in.osize-at%in.osize)
		es, err := c.dataIn(k, in, at, end-at)
		if err != nil {
			return 0, err
		}
		if !hole {
			if len(es) > 0 {
				return es[0].Off, nil
			}
			at = end
			continue
		}
		for _, e := range es {
			if e.Off > at {
				return at, nil
			}
			at = e.Off + e.Len
		}
		if at < end {
			return at, nil
		}
	}
	switch {
	case hole:
		return min(at, size), nil
	case at >= size:
		return 0, syscall.ENXIO
	}
	return at, nil
}

// settle makes the store tell the truth of f: the caps to look are here, pages that were
// dirtied through a mapping and what is buffered are written. It returns the size.
func (c *Client) settle(k *Caller, f *File) (size uint64, err error) {
	in := f.in
	if f.gen < in.lostGen {
		return 0, ErrLost
	}
	if in.isReg() {
		bits := caps.FileRd
		if !f.rd {
			bits = caps.FileWr
		}
		if err := c.need(k, in, f, bits, false); err != nil {
			return 0, err
		}
		if n := c.notifier; n != nil && in.pages && in.opens.rw > 0 {
			c.unlockFlush()
			n.Pages(in.ino) // dirty ones are written first (F3)
			c.mu.Lock()
		}
		for in.buf != nil || !in.cap.issued.Has(bits) {
			if err := c.settleData(k, in); err != nil {
				return 0, err
			}
			if err := c.need(k, in, f, bits, false); err != nil {
				return 0, err
			}
		}
	}
	if c.mayAttr(in, wire.MaskFile) == NoRight {
		if err := c.fetch(k, in, wire.MaskFile); err != nil {
			return 0, err
		}
	}
	return in.attr.Size, nil
}

// copyChunk is how much is read and written at once, and maxCopy how much one call moves: the
// kernel calls again, and a signal gets its turn.
const (
	copyChunk = 8 << 20
	maxCopy   = 256 << 20
)

// CopyRange copies n bytes from one file into another, or to another place of the same one,
// and says how many it did: fewer at the end of the first. The bytes do not pass the kernel,
// and what is a hole in the first is one in the second.
func (c *Client) CopyRange(k *Caller, from *File, fromOff uint64, to *File, toOff, n uint64) (uint64, error) {
	if !from.rd || !to.wr || to.app {
		return 0, syscall.EBADF
	}
	c.mu.Lock()
	size, err := c.settle(k, from)
	c.unlockFlush()
	if err != nil {
		return 0, err
	}
	if fromOff >= size {
		return 0, nil
	}
	n = min(n, size-fromOff, maxCopy)
	done := uint64(0)
	for done < n {
		m := min(n-done, copyChunk)
		c.mu.Lock()
		data, err := c.dataIn(k, from.in, fromOff+done, m)
		c.unlockFlush()
		if err == nil {
			err = c.copyPart(k, from, fromOff+done, to, toOff+done, m, data)
		}
		if err != nil {
			if done > 0 {
				break // what was done is said; the next call meets the error again
			}
			return 0, err
		}
		done += m
	}
	return done, nil
}

// copyPart copies the parts that hold data and makes holes of the rest.
func (c *Client) copyPart(k *Caller, from *File, fromOff uint64, to *File, toOff, n uint64, data []wire.Extent) error {
	hole := func(at, end uint64) error {
		if at >= end {
			return nil
		}
		return c.Fallocate(k, to, toOff+at-fromOff, end-at, FallocZero)
	}
	at, end := fromOff, fromOff+n
	for _, e := range data {
		if err := hole(at, e.Off); err != nil {
			return err
		}
		b, err := c.read(k, from, e.Off, int(e.Len), false)
		if err != nil {
			return err
		}
		if uint64(len(b)) < e.Len {
			b = append(b[:len(b):len(b)], make([]byte, e.Len-uint64(len(b)))...) // cut by somebody meanwhile
		}
		if _, err := c.Write(k, to, b, toOff+e.Off-fromOff, WriteFlags{Kill: k.UID != 0}); err != nil {
			return err
		}
		at = e.Off + e.Len
	}
	return hole(at, end)
}
