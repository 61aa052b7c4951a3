package store

import (
	"bytes"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/wire"
)

// gated holds writes of the block file back until the gate opens.
type gated struct {
	crashdisk.FS
	gate chan struct{}
}

func (g gated) Open(name string) (crashdisk.File, error) {
	f, err := g.FS.Open(name)
	if name == blockName && err == nil {
		f = gatedFile{f, g.gate}
	}
	return f, err
}

type gatedFile struct {
	crashdisk.File
	gate chan struct{}
}

func (f gatedFile) WriteAt(p []byte, off int64) (int, error) {
	<-f.gate
	return f.File.WriteAt(p, off)
}

// A large write is read back, and built upon, before it has landed; nothing behind it in the
// log is durable before it is.
func TestALargeWriteInFlight(t *testing.T) {
	dir := t.TempDir()
	o := tight()
	mustOpen(t, dir, o).Close()
	gate := make(chan struct{})
	o.FS = gated{crashdisk.OS(dir), gate}
	s := mustOpen(t, dir, o)
	want := fill(64<<10, 'd')
	done := make(chan error, 3)
	submit := func(name string, n uint64, off uint64, data []byte) {
		s.Submit(put(name, n, off, data), func(err error) { done <- err })
	}
	submit("large", 1, 0, want)
	submit("large", 2, 4090, []byte("0123456789")) // over the seam of two blocks in flight
	submit("small", 3, 0, []byte("behind"))
	copy(want[4090:], "0123456789")
	check := func(s *Store, when string) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := s.Read(pgA, "large", 0, got); err != nil || n != len(want) || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes (%v), not what was submitted", when, n, err)
		}
		if n, err := s.Read(pgA, "large", 4097, got[:100]); err != nil || !bytes.Equal(got[:n], want[4097:4197]) {
			t.Fatalf("%s: a ragged part: %v", when, err)
		}
	}
	check(s, "in flight")
	whole := wire.ObjOp{Kind: wire.ObjWrite, Off: 8192 + 5, Data: []byte("x")}
	tx := put("large", 4, 0, nil)
	tx.Objs[0].Muts = []wire.ObjOp{whole}
	if s.Damaged(pgA, &tx.Objs[0]) {
		t.Error("a block in flight is taken for damaged")
	}
	s.mu.Lock()
	landed, durable := s.landed, s.w.Durable()
	s.mu.Unlock()
	if landed != 0 || durable != s.header.Expire.Pos || len(done) != 0 {
		t.Errorf("%d landed, durable to %d, %d told while the write hangs", landed, durable, len(done))
	}
	close(gate)
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	check(s, "landed")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.FS = nil
	s = mustOpen(t, dir, o)
	defer s.Close()
	check(s, "opened again")
}
