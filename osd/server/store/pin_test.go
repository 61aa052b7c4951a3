package store

import (
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
)

// The blocks of a removed object are not given to another while somebody who began to read it
// has not finished; others go on reading and writing meanwhile.
func TestAReaderKeepsFreedBlocks(t *testing.T) {
	o := tight()
	o.FS, o.Bytes = crashdisk.New(1), 4<<20
	s := mustOpen(t, "sim", o)
	defer s.Close()
	const size = 3 << 20
	if err := storetest.Do(s, put("old", 1, 0, fill(size, 'o'))); err != nil {
		t.Fatal(err)
	}
	room := func(n int) []byte { return make([]byte, n) }
	_, reading, err := s.Start(pgA, "old", 0, size, room)
	if err != nil || reading == nil {
		t.Fatal(reading, err)
	}
	if err := storetest.Do(s, del("old", 2)); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go s.Submit(put("new", 3, 0, fill(size, 'n')), func(err error) { written <- err })
	for s.Counters().Checkpoints == 0 || !s.pins.waited.Load() { // the checkpoint for its space
		select {
		case err := <-written:
			t.Fatalf("written over what is being read (%v)", err)
		default:
			runtime.Gosched()
		}
	}
	if b, l, err := s.Start(pgA, "old", 0, 9, room); err != nil || l != nil || len(b) > 0 {
		t.Errorf("a removed object: %q %v %v", b, l, err)
	}
	b, _, err := reading.Fetch(room)
	if err != nil || !bytes.Equal(b, fill(size, 'o')) {
		t.Errorf("%v, or other bytes", err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(pgA, "new", 0, b); n != size || err != nil || !bytes.Equal(b, fill(size, 'n')) {
		t.Errorf("the new one: %d bytes, %v", n, err)
	}
}

// The sum of blocks is the sum of their bytes.
func TestSumsOfBlocksAddUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var all []byte
	sum := uint32(0)
	for range 20 {
		b := make([]byte, BlockBytes)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		all = append(all, b...)
		sum = appendBlockCRC(sum, crc32.Checksum(b, castagnoli))
		if want := crc32.Checksum(all, castagnoli); sum != want {
			t.Fatalf("%d blocks: %08x, not %08x", len(all)/BlockBytes, sum, want)
		}
	}
}

// A damaged block is found by a read that was begun as by any other.
func TestABegunReadFindsRot(t *testing.T) {
	disk := crashdisk.New(2)
	o := tight()
	o.FS = disk
	s := mustOpen(t, "sim", o)
	defer s.Close()
	if err := storetest.Do(s, put("a", 1, 0, fill(100_000, 'a'))); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	room := func(n int) []byte { return make([]byte, n) }
	_, l, err := s.Start(pgA, "a", 0, 100_000, room)
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	if err := disk.Corrupt(blockName, func(b []byte) []byte {
		b[bytes.IndexByte(b, 'a')+BlockBytes*3] ^= 1
		return b
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Fetch(room); err == nil || s.Counters().BadBlocks != 1 {
		t.Errorf("%v; %d bad blocks counted", err, s.Counters().BadBlocks)
	}
}
