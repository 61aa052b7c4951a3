package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
)

// A day of churn on a disk that is nine tenths full: objects of 64 KiB to 4 MiB come in writes
// of 64 KiB to 1 MiB, blocks of others are overwritten one by one, objects go, freed blocks
// come back with the next checkpoint; until twenty times the disk has been written. The bound:
// a piece of an object holds 8 blocks on the average, overwritten ones counted, which are most
// of the pieces (plain next fit: 4.1).
func TestFragmentationIsBoundedByTheAllocator(t *testing.T) {
	for seed := range uint64(2) {
		const total, writes = 16 << 10, 20 // blocks; times the disk
		rng := rand.New(rand.NewPCG(seed, 5))
		a := newAllocator(total)
		var objs [][]uint32
		var freed []extent
		live, written := 0, 0
		checkpoint := func() {
			for _, e := range freed {
				a.release(e)
			}
			freed = freed[:0]
		}
		alloc := func(o []uint32, n int) []uint32 {
			if a.free < uint32(n) {
				checkpoint()
			}
			for _, e := range a.alloc(nil, uint32(n)) {
				for i := range e.n {
					o = append(o, e.phys+i)
				}
			}
			written += n
			return o
		}
		drop := func() {
			k := rng.IntN(len(objs))
			for _, b := range objs[k] {
				freed = append(freed, extent{b, 1})
			}
			live -= len(objs[k])
			objs[k] = objs[len(objs)-1]
			objs = objs[:len(objs)-1]
		}
		for step := 0; written < total*writes; step++ {
			want := 16 << rng.IntN(7)
			for live+want > total*9/10-512 {
				drop()
			}
			var o []uint32
			for len(o) < want {
				o = alloc(o, min(16<<rng.IntN(5), want-len(o)))
			}
			objs, live = append(objs, o), live+want
			for range rng.IntN(12) { // small overwrites, one at a time
				o := objs[rng.IntN(len(objs))]
				i := rng.IntN(len(o))
				old := o[i]
				copy(o[i:], alloc(nil, 1))
				freed = append(freed, extent{old, 1})
			}
			if step%8 == 0 || len(freed) > total/16 {
				checkpoint()
			}
		}
		blocks, pieces := 0, 0
		for _, o := range objs {
			n := 1
			for i := 1; i < len(o); i++ {
				if o[i] != o[i-1]+1 {
					n++
				}
			}
			blocks, pieces = blocks+len(o), pieces+n
		}
		t.Logf("seed %d: %d objects, %.1f blocks to a piece", seed, len(objs), float64(blocks)/float64(pieces))
		if blocks < 8*pieces {
			t.Errorf("seed %d: fragmented beyond the bound", seed)
		}
	}
}

// Objects that are overwritten block by block all day are put together again: no more than
// MaxRuns pieces when the checkpoints have caught up, with the bytes that were written.
func TestScatteredObjectsArePutTogether(t *testing.T) {
	o := tight()
	o.FS = crashdisk.New(1)
	o.DirtyBytes = 4 << 20
	s := mustOpen(t, "sim", o)
	rng := rand.New(rand.NewPCG(1, 2))
	const size, objects = 1 << 20, 4
	want := map[string][]byte{}
	n := uint64(0)
	for i := range objects {
		name := fmt.Sprint("o", i)
		n++
		want[name] = fill(size, byte('a'+i))
		if err := storetest.Do(s, put(name, n, 0, want[name])); err != nil {
			t.Fatal(err)
		}
	}
	runs := func() (most int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for name := range want {
			obj, err := s.object(s.pg(pgA), name)
			if err != nil {
				t.Fatal(err)
			}
			k := 1
			for i := 1; i < len(obj.refs); i++ {
				if obj.refs[i].phys != obj.refs[i-1].phys+1 {
					k++
				}
			}
			most = max(most, k)
		}
		return most
	}
	worst := 0
	for round := range 40 {
		for range 20 {
			name := fmt.Sprint("o", rng.IntN(objects))
			at := rng.IntN(size/BlockBytes)*BlockBytes + rng.IntN(1000)
			b := fill(100, byte(rng.Uint32()))
			n++
			copy(want[name][at:], b)
			if err := storetest.Do(s, put(name, n, uint64(at), b)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if round > 20 {
			worst = max(worst, runs())
		}
	}
	for range objects + 1 {
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("during the churn at most %d pieces of %d blocks, then %d; %d KiB moved", worst, size/BlockBytes, runs(), s.Counters().Moved>>10)
	if worst > 2*64 || runs() > 64 {
		t.Errorf("%d pieces during the churn, %d when it is over", worst, runs())
	}
	if err := s.verify(); err != nil {
		t.Error(err)
	}
	for range 2 {
		for name, b := range want {
			got := make([]byte, size)
			if _, err := s.Read(pgA, name, 0, got); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s has other bytes (%v)", name, err)
			}
		}
		o.FS.(*crashdisk.Disk).Kill()
		s.Close()
		s = mustOpen(t, "sim", o)
	}
	s.Close()
}

// What was deleted is given back to the file system, what lies beside it is not.
func TestSpaceIsGivenBack(t *testing.T) {
	o := tight()
	dir := t.TempDir()
	s := mustOpen(t, dir, o)
	defer func() { s.Close() }()
	for i := range uint64(8) {
		if err := storetest.Do(s, put(fmt.Sprint("o", i), i+1, 0, fill(1<<20, byte('a'+i)))); err != nil {
			t.Fatal(err)
		}
		if err := storetest.Do(s, put(fmt.Sprint("small", i), i+1, 0, fill(100, byte('a'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	full := onDisk(t, dir)
	for i := range uint64(8) {
		if i != 5 {
			if err := storetest.Do(s, del(fmt.Sprint("o", i), 20+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if s.Counters().Punched == 0 {
		t.Skip("this file system makes no holes")
	}
	if left := onDisk(t, dir); left > full-6<<20 {
		t.Errorf("%d KiB on disk, %d KiB after 7 MiB were deleted", full>>10, left>>10)
	}
	check := func() {
		t.Helper()
		for i := range uint64(8) {
			b := make([]byte, 100)
			if _, err := s.Read(pgA, fmt.Sprint("small", i), 0, b); err != nil || !bytes.Equal(b, fill(100, byte('a'+i))) {
				t.Errorf("small%d: %v or other bytes", i, err)
			}
		}
		b := make([]byte, 1<<20)
		if _, err := s.Read(pgA, "o5", 0, b); err != nil || !bytes.Equal(b, fill(1<<20, 'f')) {
			t.Errorf("o5: %v or other bytes", err)
		}
		if err := s.verify(); err != nil {
			t.Error(err)
		}
	}
	check()
	s.Close()
	s = mustOpen(t, dir, o)
	check()
}

func onDisk(t *testing.T, dir string) int64 {
	t.Helper()
	return allocatedBytes(t, dir+"/"+blockName)
}

// A store opened with a larger size has it, keeps it when it is opened with a smaller one, and
// is not damaged by a crash in between.
func TestTheBlockFileGrows(t *testing.T) {
	disk := crashdisk.New(9)
	o := tight()
	o.FS, o.Bytes = disk, 1<<20
	s := mustOpen(t, "sim", o)
	if err := storetest.Do(s, put("a", 1, 0, fill(700<<10, 'a'))); err != nil {
		t.Fatal(err)
	}
	s.Close()
	o.Bytes = 4 << 20
	disk.CrashAt(1) // the growth itself
	if _, err := Open("sim", o); err == nil {
		t.Fatal("no crash")
	}
	disk.Recover()
	s = mustOpen(t, "sim", o)
	if err := storetest.Do(s, put("b", 2, 0, fill(2<<20, 'b'))); err != nil {
		t.Fatal(err)
	}
	disk.Crash()
	s.Close()
	disk.Recover()
	o.Bytes = 1 << 20
	s = mustOpen(t, "sim", o)
	defer s.Close()
	if total, _ := s.Space(); total != 4<<20 {
		t.Errorf("%d bytes in all", total)
	}
	for name, want := range map[string][]byte{"a": fill(700<<10, 'a'), "b": fill(2<<20, 'b')} {
		b := make([]byte, len(want))
		if _, err := s.Read(pgA, name, 0, b); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %v or other bytes", name, err)
		}
	}
	if err := s.verify(); err != nil {
		t.Error(err)
	}
}

func allocatedBytes(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
