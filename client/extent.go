package client

import (
	"bytes"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// extent is a run of bytes of one object that the store does not have yet.
type extent struct {
	off   uint64 // in the object
	data  []byte
	first uint64 // when the oldest write in it came, by the mount's count: what fsync waits for
}

func (e *extent) end() uint64 { return e.off + uint64(len(e.data)) }

// extents are disjoint and in order. Their bytes may be shared with what a reader has noted
// (Inode.pieces), so a cut-off part never grows in place.
type extents []extent

const (
	growMax   = 256 << 10 // small writes one after the other build up an extent of this size
	joinMax   = 1 << 20   // neighbours are joined to a step of this size on their way out
	joinSmall = 64 << 10  // … if one of them is smaller than this: larger ones are not worth the copy
	maxFlight = 8 << 20   // bytes of one flight, beyond its first extent
)

// find is the first extent that ends behind off.
func (x extents) find(off uint64) int {
	lo, hi := 0, len(x)
	for lo < hi {
		if m := (lo + hi) / 2; x[m].end() > off {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}

// put lays a copy of data over what is there and returns by how many bytes that grew.
func (x extents) put(off uint64, data []byte, seq uint64) (extents, int) {
	end := off + uint64(len(data))
	i := x.find(off)
	if i > 0 && x[i-1].end() == off && (i == len(x) || x[i].off >= end) {
		if p := &x[i-1]; len(p.data)+len(data) <= growMax {
			p.data = append(p.data, data...)
			return x, len(data)
		}
	}
	if i < len(x) && x[i].off <= off && end <= x[i].end() {
		copy(x[i].data[off-x[i].off:], data)
		return x, 0
	}
	e := extent{off, bytes.Clone(data), seq}
	grew := len(data)
	var few [3]extent
	mid := few[:0]
	var right extent
	j := i
	for ; j < len(x) && x[j].off < end; j++ {
		o := &x[j]
		grew -= len(o.data)
		e.first = min(e.first, o.first)
		if o.off < off {
			n := off - o.off
			mid = append(mid, extent{o.off, o.data[:n:n], o.first})
			grew += int(n)
		}
		if o.end() > end {
			right = extent{end, o.data[end-o.off:], o.first}
			grew += len(right.data)
		}
	}
	mid = append(mid, e)
	if len(right.data) > 0 {
		mid = append(mid, right)
	}
	return slices.Replace(x, i, j, mid...), grew
}

// over copies what lies in [off, off+len(dst)) to dst.
func (x extents) over(dst []byte, off uint64) {
	end := off + uint64(len(dst))
	for i := x.find(off); i < len(x) && x[i].off < end; i++ {
		e := &x[i]
		if e.off >= off {
			copy(dst[e.off-off:], e.data)
		} else {
			copy(dst, e.data[off-e.off:])
		}
	}
}

// within reports whether some byte of [off, end) is there.
func (x extents) within(off, end uint64) bool {
	i := x.find(off)
	return i < len(x) && x[i].off < end
}

func (x extents) bytes() (n int) {
	for i := range x {
		n += len(x[i].data)
	}
	return n
}

// oldest is the least first of all.
func (x extents) oldest() uint64 {
	o := ^uint64(0)
	for i := range x {
		o = min(o, x[i].first)
	}
	return o
}

// take splits x into one flight, which begins at the first extent that reaches behind from,
// and the rest. Small neighbours are joined: a hundred writes become one.
func (x extents) take(from uint64) (fly, rest extents) {
	i := x.find(from)
	if i == len(x) {
		i = 0
	}
	n, own := 0, false // own: the last step's bytes are a copy already
	j := i
	for ; j < len(x) && (n == 0 || n+len(x[j].data) <= maxFlight); j++ {
		e := &x[j]
		if k := len(fly); k > 0 {
			p := &fly[k-1]
			if p.end() == e.off && len(p.data)+len(e.data) <= joinMax && (len(p.data) < joinSmall || len(e.data) < joinSmall) {
				if !own {
					p.data, own = append(make([]byte, 0, min(4*(len(p.data)+len(e.data)), joinMax)), p.data...), true
				}
				p.data = append(p.data, e.data...)
				p.first = min(p.first, e.first)
				n += len(e.data)
				continue
			}
			if k == wire.MaxObjOps {
				break
			}
		}
		fly, own = append(fly, *e), false
		n += len(e.data)
	}
	if i == 0 && j == len(x) {
		return fly, nil
	}
	return fly, slices.Delete(x, i, j)
}

// covered reports whether the layers together hold all of [off, end).
func covered(off, end uint64, layers ...extents) bool {
	for off < end {
		at := off
		for _, x := range layers {
			if i := x.find(off); i < len(x) && x[i].off <= off {
				off = x[i].end()
			}
		}
		if off == at {
			return false
		}
	}
	return true
}
