package client

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// check walks all of x: in order, disjoint, nothing empty.
func (x extents) check(t *testing.T) {
	t.Helper()
	for i := range x {
		if len(x[i].data) == 0 || i > 0 && x[i-1].end() > x[i].off {
			t.Fatalf("extent %d of %d: [%d,%d) behind %v", i, len(x), x[i].off, x[i].end(), x[max(i-1, 0)].off)
		}
	}
}

// Random writes, flights and readers against a plain array: what is buffered is what was
// written last; what is in flight never changes; a flight carries at most what a vector may; a
// reader's pieces stay right for what was there when it noted them.
func TestExtentsAgainstAnArray(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const size = 4000
		var want, have [size]byte // what must be read; what landed
		ob := &objBuf{}
		var flown []byte
		for step := range 400 {
			switch k := rng.IntN(10); {
			case k < 7:
				off := rng.IntN(size - 1)
				n := 1 + rng.IntN(min(size-off, 1+rng.IntN(300)))
				if rng.IntN(3) == 0 && len(ob.dirty) > 0 { // behind another one
					off = int(ob.dirty[rng.IntN(len(ob.dirty))].end())
					n = min(n, size-off)
				}
				if n <= 0 {
					continue
				}
				data := make([]byte, n)
				for i := range data {
					data[i] = byte(1 + rng.IntN(255))
				}
				before := ob.dirty.bytes()
				var grew int
				ob.dirty, grew = ob.dirty.put(uint64(off), data, uint64(step))
				clear(data) // the caller's buffer is its own again
				if got := ob.dirty.bytes() - before; got != grew {
					t.Fatalf("seed %d step %d: grew by %d, says %d", seed, step, got, grew)
				}
				ob.dirty.over(want[off:off+n], uint64(off))
				for i := off; i < off+n; i++ {
					if want[i] == 0 {
						t.Fatalf("seed %d step %d: byte %d was not taken", seed, step, i)
					}
				}
			case k < 9 && ob.fly == nil && len(ob.dirty) > 0:
				ob.fly, ob.dirty = ob.dirty.take(ob.from)
				ob.fly.check(t)
				if len(ob.fly) == 0 || len(ob.fly) > wire.MaxObjOps {
					t.Fatalf("seed %d step %d: a flight of %d steps", seed, step, len(ob.fly))
				}
				ob.from = ob.fly[len(ob.fly)-1].end()
				flown = flown[:0]
				for _, e := range ob.fly {
					flown = append(flown, e.data...)
				}
			case ob.fly != nil:
				var now []byte
				for _, e := range ob.fly {
					now = append(now, e.data...)
				}
				if !bytes.Equal(now, flown) {
					t.Fatalf("seed %d step %d: bytes in flight changed", seed, step)
				}
				ob.fly.over(have[:], 0)
				ob.fly = nil
			}
			ob.dirty.check(t)
			got := have
			ob.fly.over(got[:], 0)
			ob.dirty.over(got[:], 0)
			if got != want {
				t.Fatalf("seed %d step %d: a read sees something else than what was written", seed, step)
			}
			lo := rng.IntN(size)
			hi := lo + 1 + rng.IntN(size-lo)
			all := true
			for i := lo; i < hi; i++ {
				all = all && (ob.dirty.within(uint64(i), uint64(i+1)) || ob.fly.within(uint64(i), uint64(i+1)))
			}
			if covered(uint64(lo), uint64(hi), ob.dirty, ob.fly) != all {
				t.Fatalf("seed %d step %d: covered [%d,%d) is not %v", seed, step, lo, hi, all)
			}
		}
		// Everything lands in the end, whatever its place.
		for n := 0; len(ob.dirty) > 0 || ob.fly != nil; n++ {
			if ob.fly == nil {
				ob.fly, ob.dirty = ob.dirty.take(ob.from)
				ob.from = ob.fly[len(ob.fly)-1].end()
			}
			ob.fly.over(have[:], 0)
			ob.fly = nil
			if n > size {
				t.Fatal("flights never end")
			}
		}
		if have != want {
			t.Fatalf("seed %d: the store has something else than what was written", seed)
		}
	}
}

// Many small writes beside each other leave as few steps, and big ones are not copied.
func TestSmallNeighboursLeaveTogether(t *testing.T) {
	var x extents
	page := make([]byte, 4096)
	for _, i := range rand.New(rand.NewPCG(5, 5)).Perm(1024) {
		x, _ = x.put(uint64(i)*4096, page, 1)
	}
	fly, rest := x.take(0)
	if len(rest) > 0 || len(fly) > 8 {
		t.Fatalf("4 MiB of pages: %d steps, %d extents stay", len(fly), len(rest))
	}
	x, _ = extents(nil).put(0, make([]byte, 1<<20), 1)
	x, _ = x.put(1<<20, make([]byte, 1<<20), 1)
	first := &x[0].data[0]
	if fly, _ = x.take(0); len(fly) != 2 || &fly[0].data[0] != first {
		t.Fatalf("two writes of 1 MiB: %d steps", len(fly))
	}
}
