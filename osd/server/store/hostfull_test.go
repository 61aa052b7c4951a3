package store

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// A host's file system that others have filled makes the store full in time, and what was on its
// way waits for room: the store does not fail, and loses nothing.
func TestAFullHostIsWaitedFor(t *testing.T) {
	mnt := t.TempDir()
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	var s *Store
	t.Cleanup(func() {
		if s != nil {
			s.Close() // of a test that failed: nothing else may keep the file system busy
		}
		if err := syscall.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mnt, "store")
	s, err := Open(dir, Options{Create: true, Bytes: 1 << 30, WALBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	pg := wire.PGID{Pool: 1}
	n := uint64(0)
	data := bytes.Repeat([]byte("full"), 1<<20)
	write := func(name string) chan error {
		n++
		done := make(chan error, 1)
		s.Submit(&osd.Txn{PG: pg, Objs: []osd.ObjTxn{{Name: name, Version: wire.Version{Interval: 1, N: n}, Muts: []wire.ObjOp{{Kind: wire.ObjWrite, Data: data, DataLen: uint32(len(data))}}}}}, func(err error) { done <- err })
		return done
	}
	if err := <-write("before"); err != nil {
		t.Fatal(err)
	}
	if total, used := s.Space(); total > 96<<20 || used > total/100*90 {
		t.Errorf("%d of %d bytes on a host with 96 MiB", used, total)
	}
	filler := filepath.Join(mnt, "filler")
	fill := func() {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(data)
		}
		f.Close()
	}
	fill()
	for end := time.Now().Add(time.Minute); ; { // the last look may be from before
		total, used := s.Space()
		if used >= total/100*98 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d bytes on a full host", used, total)
		}
		time.Sleep(hostEvery / 10)
	}
	stuck := func(name string) chan error {
		late, was := make(chan error, 1), s.Counters().HostFull
		go func() { late <- <-write(name) }()
		for s.Counters().HostFull == was {
			select {
			case err := <-late:
				t.Fatalf("%s: written where there is no room: %v", name, err)
			case <-time.After(10 * time.Millisecond):
			}
		}
		return late
	}
	late := stuck("late")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := <-late; err != nil {
		t.Fatalf("after there was room again: %v", err)
	}
	if at := s.HostFull(); time.Since(at) > time.Hour {
		t.Errorf("no room was found at %v", at)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Who closes the store does not wait for room.
	fill()
	late = stuck("never")
	s.StopWaiting()
	if err := <-late; err == nil {
		t.Error("written where there is no room")
	}
	if err := s.Close(); err == nil {
		t.Error("closed without a word")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"before", "late"} {
		got := make([]byte, len(data))
		if k, err := s.Read(pg, name, 0, got); err != nil || !bytes.Equal(got[:k], data) {
			t.Errorf("%s: %d bytes, %v", name, k, err)
		}
	}
}
