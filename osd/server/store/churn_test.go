package store

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
)

// A day of churn on a store that is kept nine tenths full, on the simulated disk: objects of 64 KiB
// to 1 MiB come in pieces of 64 to 256 KiB, others are overwritten a few hundred bytes at a time,
// objects go, the process dies now and then; until the disk has been written ten times over (a disk
// of 1 TB and 115 MB/s all day). Bounds, in counts: a piece of an object has 2 blocks on the average
// all along (3.3 as measured), an object at rest no more than
// MaxRuns (64) pieces, what the store says is used is what
// the objects have, and all bytes are those that were written. CAPSTAN_REAL=1: a disk of 256 MiB,
// written thirty times over.
func TestADayOfChurnLeavesPiecesLong(t *testing.T) {
	size, over := int64(24<<20), 10
	if os.Getenv("CAPSTAN_REAL") != "" {
		size, over = 256<<20, 30
	}
	if testing.Short() {
		over = 3
	}
	disk := crashdisk.New(5)
	o := tight()
	o.FS, o.Bytes, o.DirtyBytes, o.DirtyObjects, o.CacheObjects = disk, size, 4<<20, 64, 4096
	o.WALBytes, o.DirectBytes = 4<<20, 32<<10
	s := mustOpen(t, "sim", o)
	defer func() { s.Close() }()
	rng := rand.New(rand.NewPCG(3, 4))
	type object struct {
		name string
		b    []byte
	}
	var objs []*object
	live, written, version, names := int64(0), int64(0), uint64(0), 0
	do := func(x *object, off int, b []byte) {
		version++
		if err := storetest.Do(s, put(x.name, version, uint64(off), b)); err != nil {
			t.Fatal(err)
		}
		copy(x.b[off:], b)
		written += int64(len(b)+BlockBytes-1) / BlockBytes * BlockBytes
	}
	noise := func(n int) []byte {
		b := make([]byte, n)
		v := rng.Uint64()
		for i := range b {
			b[i] = byte(v >> (i % 8 * 8))
		}
		return b
	}
	pieces := func() (blocks, runs, most int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, x := range objs {
			y, err := s.object(s.pg(pgA), x.name)
			if err != nil {
				t.Fatal(err)
			}
			n, last := 0, uint32(0)
			for _, r := range y.refs {
				if r.phys != 0 {
					blocks++
					if r.phys != last+1 {
						n++
					}
					last = r.phys
				}
			}
			runs, most = runs+n, max(most, n)
		}
		return blocks, runs, most
	}
	sound := func() {
		t.Helper()
		if err := s.verify(); err != nil {
			t.Fatal(err)
		}
		for _, x := range objs {
			got := make([]byte, len(x.b))
			if n, err := s.Read(pgA, x.name, 0, got); err != nil || n != len(x.b) || crc32.ChecksumIEEE(got) != crc32.ChecksumIEEE(x.b) {
				t.Fatalf("%s: %d bytes, %v, or others than were written", x.name, n, err)
			}
		}
	}
	worst, most := 1e9, 0
	next := size
	for written < size*int64(over) {
		n := 64 << 10 << rng.IntN(5)
		for live+int64(n) > size*9/10-2<<20 {
			k := rng.IntN(len(objs))
			version++
			if err := storetest.Do(s, del(objs[k].name, version)); err != nil {
				t.Fatal(err)
			}
			live -= int64(len(objs[k].b))
			objs[k] = objs[len(objs)-1]
			objs = objs[:len(objs)-1]
		}
		names++
		x := &object{fmt.Sprint("o", names), make([]byte, n)}
		objs, live = append(objs, x), live+int64(n)
		for off := 0; off < n; {
			k := min(64<<10<<rng.IntN(3), n-off)
			do(x, off, noise(k))
			off += k
		}
		for range rng.IntN(30) {
			y := objs[rng.IntN(len(objs))]
			k := 100 + rng.IntN(900)
			do(y, rng.IntN(len(y.b)-k), noise(k))
		}
		if written >= next {
			next += size
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			blocks, runs, m := pieces()
			worst, most = min(worst, float64(blocks)/float64(runs)), max(most, m)
			if rng.IntN(3) == 0 {
				disk.Kill()
				s.Close()
				s = mustOpen(t, "sim", o)
				sound()
			}
		}
	}
	for range 2 * len(objs) { // one object is put together with each
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	blocks, runs, m := pieces()
	_, used := s.Space()
	t.Logf("%d MiB written to %d MiB: %d objects, at worst %.1f blocks to a piece and %d pieces of one object; at rest %.1f and %d; %d MiB moved", written>>20, size>>20, len(objs), worst, most,
		float64(blocks)/float64(runs), m, s.Counters().Moved>>20)
	if worst < 2 || m > 64 || most > 4*64 {
		t.Error("fragmented beyond the bounds")
	}
	if used != uint64(blocks)*BlockBytes {
		t.Errorf("%d bytes used, the objects have %d", used, blocks*BlockBytes)
	}
	sound()
}
