package store

import (
	"math/bits"

	"github.com/capstan-fs/capstan/internal/must"
)

// allocator knows which blocks of the block file are taken: one bit each. It hands out runs,
// next fit, so that what is written together lies together. A block has three states here:
// free, taken, and taken but promised back (pending), which the store keeps count of.
type allocator struct {
	words []uint64
	total uint32 // blocks, the header block among them
	free  uint32
	next  uint32
}

// extent is a run of blocks.
type extent struct{ phys, n uint32 }

func newAllocator(blocks uint32) *allocator {
	a := &allocator{words: make([]uint64, (blocks+63)/64), total: blocks, free: blocks}
	for b := blocks; b < uint32(len(a.words)*64); b++ {
		a.words[b/64] |= 1 << (b % 64) // behind the end: never free
	}
	a.take(extent{0, 1}) // the header
	a.next = 1
	return a
}

func (a *allocator) taken(b uint32) bool { return a.words[b/64]>>(b%64)&1 == 1 }

// valid reports whether e lies in the file, behind the header.
func (a *allocator) valid(e extent) bool {
	return e.phys > 0 && e.n > 0 && uint64(e.phys)+uint64(e.n) <= uint64(a.total)
}

// anyTaken reports whether a block of e is in use already.
func (a *allocator) anyTaken(e extent) bool {
	for b := e.phys; b < e.phys+e.n; b++ {
		if a.taken(b) {
			return true
		}
	}
	return false
}

func (a *allocator) take(e extent) {
	for b := e.phys; b < e.phys+e.n; b++ {
		if a.taken(b) {
			must.Holdf(false, "block %d is taken twice", b)
		}
		a.words[b/64] |= 1 << (b % 64)
	}
	a.free -= e.n
}

func (a *allocator) release(e extent) {
	for b := e.phys; b < e.phys+e.n; b++ {
		if b == 0 || !a.taken(b) {
			must.Holdf(false, "block %d is released but was not taken", b)
		}
		a.words[b/64] &^= 1 << (b % 64)
	}
	a.free += e.n
}

// alloc takes n blocks in as few runs as next fit finds and appends them to dst. The caller
// made sure that n are free.
func (a *allocator) alloc(dst []extent, n uint32) []extent {
	must.Holdf(n <= a.free, "allocate %d blocks, %d free", n, a.free)
	for n > 0 {
		at, ok := a.find(a.next)
		if !ok {
			at, ok = a.find(1)
			must.Holdf(ok, "%d blocks are free but none is found", a.free)
		}
		e := extent{at, 1}
		for e.n < n && at+e.n < a.total && !a.taken(at+e.n) {
			e.n++
		}
		a.take(e)
		dst = append(dst, e)
		n -= e.n
		a.next = at + e.n
	}
	return dst
}

// find returns the first free block at or behind from.
func (a *allocator) find(from uint32) (uint32, bool) {
	if from >= a.total {
		return 0, false
	}
	w := int(from / 64)
	x := ^a.words[w] >> (from % 64) << (from % 64)
	for x == 0 {
		if w++; w == len(a.words) {
			return 0, false
		}
		x = ^a.words[w]
	}
	return uint32(w*64 + bits.TrailingZeros64(x)), true
}
