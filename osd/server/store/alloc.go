package store

import (
	"math/bits"

	"github.com/capstan-fs/capstan/internal/must"
)

// allocator knows which blocks of the block file are taken: one bit each. A block has three
// states here: free, taken, and taken but promised back (pending), which the store keeps count
// of.
//
// Large runs are given out first fit, one behind the other, so that what is written together
// lies together; small ones take the smallest hole that fits among the next few chunks, from a
// cursor of their own: they fill what churn has left and leave long runs whole. What no single
// run holds is put together of the longest ones seen. frag_test.go says what that comes to.
type allocator struct {
	words  []uint64
	chunk  []uint16 // free blocks of each chunk: full ones are skipped without a look
	total  uint32   // blocks, the header block among them
	free   uint32
	cursor [2]uint32 // where the last large and the last small run ended
}

const (
	chunkBlocks = 1024 // 4 MiB
	largeRun    = 64   // blocks from which a run is a large one
	smallLook   = 4    // chunks with room that are looked at for a small run
	largeLook   = 256  // and for a large one
)

// extent is a run of blocks.
type extent struct{ phys, n uint32 }

func newAllocator(blocks uint32) *allocator {
	chunks := (uint64(blocks) + chunkBlocks - 1) / chunkBlocks
	a := &allocator{words: make([]uint64, chunks*(chunkBlocks/64)), chunk: make([]uint16, chunks), total: blocks, free: blocks}
	for c := range a.chunk {
		a.chunk[c] = uint16(min(chunkBlocks, uint64(blocks)-uint64(c)*chunkBlocks))
	}
	for b := uint64(blocks); b < uint64(len(a.words))*64; b++ {
		a.words[b/64] |= 1 << (b % 64) // behind the end: never free
	}
	a.take(extent{0, 1}) // the header
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
		a.chunk[b/chunkBlocks]--
	}
	a.free -= e.n
}

func (a *allocator) release(e extent) {
	for b := e.phys; b < e.phys+e.n; b++ {
		if b == 0 || !a.taken(b) {
			must.Holdf(false, "block %d is released but was not taken", b)
		}
		a.words[b/64] &^= 1 << (b % 64)
		a.chunk[b/chunkBlocks]++
	}
	a.free += e.n
}

// alloc takes n blocks in few runs and appends them to dst. The caller made sure that n are free.
func (a *allocator) alloc(dst []extent, n uint32) []extent {
	must.Holdf(n <= a.free, "allocate %d blocks, %d free", n, a.free)
	for n > 0 {
		e := a.find(n)
		must.Holdf(e.n > 0, "%d blocks are free but none is found", a.free)
		e.n = min(e.n, n)
		a.take(e)
		dst = append(dst, e)
		n -= e.n
	}
	return dst
}

// find looks for a run of n: the first one that is long enough, or the smallest such one when
// n is small; without one the longest that it has seen.
func (a *allocator) find(n uint32) (best extent) {
	cur, look := &a.cursor[0], largeLook
	if n < largeRun {
		cur, look = &a.cursor[1], smallLook
	}
	chunks := uint32(len(a.chunk))
	first := *cur / chunkBlocks % chunks
	for k := range chunks + 1 { // the first chunk once more: what lies before the cursor
		c := (first + k) % chunks
		if a.chunk[c] == 0 {
			continue
		}
		at, end := uint64(c)*chunkBlocks, min(uint64(c+1)*chunkBlocks, uint64(a.total))
		if k == 0 {
			at = max(at, uint64(*cur)%uint64(a.total))
		}
		for at < end {
			e := a.run(uint32(at), uint32(end), n)
			if e.n == 0 {
				break
			}
			at = uint64(e.phys) + uint64(e.n)
			switch {
			case e.n < n && best.n < n && e.n > best.n, e.n >= n && best.n < n, e.n >= n && e.n < best.n:
				best = e
			}
			if best.n == n {
				look = 0
				break
			}
		}
		if look--; look <= 0 && best.n > 0 {
			break
		}
	}
	*cur = best.phys + min(best.n, n)
	return best
}

// run returns the first run of free blocks at or behind from and before end. It is cut where it
// is longer than need be known: behind n for large ones, a little later for small ones.
func (a *allocator) run(from, end, n uint32) extent {
	b := a.next(from, end, 0)
	if b == end {
		return extent{}
	}
	limit := uint32(min(uint64(b)+uint64(max(n, largeRun)), uint64(a.total)))
	return extent{b, a.next(b, limit, ^uint64(0)) - b}
}

// next finds the first block in [from, end) that is free (flip 0) or taken (flip ^0), or end.
func (a *allocator) next(from, end uint32, flip uint64) uint32 {
	if from >= end {
		return end
	}
	w := int(from / 64)
	x := ^(a.words[w] ^ flip) >> (from % 64) << (from % 64)
	for x == 0 {
		if w++; w*64 >= int(end) {
			return end
		}
		x = ^(a.words[w] ^ flip)
	}
	return uint32(min(w*64+bits.TrailingZeros64(x), int(end)))
}
