package client

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/capstan-fs/capstan/wire"
)

// File data: block i of ObjectSize bytes lives in wire.DataObject(pool, ino, i). A hole is an
// object that is absent or ends early.

// span is the part of a file range that lies in one object.
type span struct {
	obj      wire.ObjectID
	off, len uint64 // in the object
	at       uint64 // in the range
}

func (in *Inode) spans(off, n uint64) []span {
	var out []span
	for at := uint64(0); at < n; {
		o := (off + at) % in.osize
		l := min(in.osize-o, n-at)
		out = append(out, span{wire.DataObject(in.pool, in.ino, (off+at)/in.osize), o, l, at})
		at += l
	}
	return out
}

// gather waits for several object operations.
type gather struct {
	left atomic.Int32
	done chan struct{}
	mu   sync.Mutex
	err  error
}

func newGather(n int) *gather {
	g := &gather{done: make(chan struct{})}
	g.left.Store(int32(n))
	return g
}

func (g *gather) end(err error) {
	if err != nil {
		g.mu.Lock()
		if g.err == nil {
			g.err = err
		}
		g.mu.Unlock()
	}
	if g.left.Add(-1) == 0 {
		close(g.done)
	}
}

func objErr(obj wire.ObjectID, errno uint32, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %v: %w", ErrObject, obj, err)
	}
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// reading is a read of several objects on its way. A piece may be shorter than its span; the
// rest reads as zeros.
type reading struct {
	*gather
	spans []span
	parts [][]byte
}

func readAll(o Objects, spans []span, barrier wire.Epoch) *reading {
	r := &reading{newGather(len(spans)), spans, make([][]byte, len(spans))}
	for i := range spans {
		s := &spans[i]
		o.Submit(s.obj, []wire.ObjOp{{Kind: wire.ObjRead, Off: s.off, Len: s.len}}, barrier, func(errno uint32, res []wire.ObjResult, err error) {
			if err == nil && errno == 0 && len(res) > 0 {
				d := res[0].Data
				r.parts[i] = d[:min(uint64(len(d)), s.len)]
			}
			if errno == uint32(syscall.ENOENT) {
				errno = 0
			}
			r.end(objErr(s.obj, errno, err))
		})
	}
	return r
}

// dataEnd is where data ends in the range, as far as the objects show.
func (r *reading) dataEnd() (end uint64) {
	for i, p := range r.parts {
		if len(p) > 0 {
			end = r.spans[i].at + uint64(len(p))
		}
	}
	return end
}

// join makes n bytes of the pieces, zeros where there are none. own: they will be written to,
// so that one piece alone is copied, too.
func join(spans []span, parts [][]byte, n uint64, own bool) []byte {
	if !own && len(parts) == 1 && uint64(len(parts[0])) >= n {
		return parts[0][:n]
	}
	out := make([]byte, n)
	for i, p := range parts {
		if at := spans[i].at; at < n {
			copy(out[at:], p)
		}
	}
	return out
}

// buffers for what a WRITE hands to the store: the kernel's buffer is used again as soon as
// the WRITE is answered, and a caller killed in between is answered early.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 128<<10); return &b }}

// writeAll puts data into the store and returns a gather to wait for.
func writeAll(o Objects, spans []span, data []byte, barrier wire.Epoch) *gather {
	g := newGather(len(spans))
	for _, s := range spans {
		d := data[s.at : s.at+s.len]
		o.Submit(s.obj, []wire.ObjOp{{Kind: wire.ObjWrite, Off: s.off, Len: s.len, DataLen: uint32(s.len), Data: d}}, barrier,
			func(errno uint32, _ []wire.ObjResult, err error) { g.end(objErr(s.obj, errno, err)) })
	}
	return g
}

// zeroAll makes a range read as zeros and gives its space back.
func zeroAll(o Objects, spans []span, barrier wire.Epoch) *gather {
	g := newGather(len(spans))
	for _, s := range spans {
		o.Submit(s.obj, []wire.ObjOp{{Kind: wire.ObjZero, Off: s.off, Len: s.len}}, barrier,
			func(errno uint32, _ []wire.ObjResult, err error) {
				if errno == uint32(syscall.ENOENT) {
					errno = 0
				}
				g.end(objErr(s.obj, errno, err))
			})
	}
	return g
}

// maxStats bounds how many objects one stat of a sparse file asks; beyond it the rest is
// taken to be like what was seen.
const maxStats = 16384

// countBlocks sums what a sparse file's objects occupy, behind what is buffered. The lock is
// dropped meanwhile.
func (c *Client) countBlocks(k *Caller, in *Inode) error {
	if err := c.settleData(k, in); err != nil {
		return err
	}
	size, osize, at := in.attr.Size, in.osize, in.writes
	if osize == 0 || size == 0 {
		in.blocks, in.blocksFor = 0, at
		return nil
	}
	o, barrier := c.objects, c.barrier
	n := (size + osize - 1) / osize
	m := min(n, maxStats)
	c.unlockFlush()
	var sum atomic.Uint64
	var err error
	for i := uint64(0); i < m && err == nil; {
		batch := min(m-i, 256)
		g := newGather(int(batch))
		for ; batch > 0; batch, i = batch-1, i+1 {
			obj := wire.DataObject(in.pool, in.ino, i)
			o.Submit(obj, []wire.ObjOp{{Kind: wire.ObjStat}}, barrier, func(errno uint32, res []wire.ObjResult, err error) {
				if errno == 0 && err == nil && len(res) > 0 {
					sum.Add(res[0].Allocated)
				}
				if errno == uint32(syscall.ENOENT) {
					errno = 0
				}
				g.end(objErr(obj, errno, err))
			})
		}
		k.why = reason{kind: waitObjects, ino: in.ino}
		err = c.sleep(k, g.done)
		if err == nil {
			err = g.err
		}
	}
	c.mu.Lock()
	if err == nil {
		in.blocks, in.blocksFor = sum.Load()/m*n/512+sum.Load()%m/512, at
		if m == n {
			in.blocks = (sum.Load() + 511) / 512
		}
	}
	return err
}
