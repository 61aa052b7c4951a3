package fuse_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/client/fakerank"
	"github.com/capstan-fs/capstan/fuse"
	"github.com/capstan-fs/capstan/wire"
)

// warmed makes d/f and waits until the directory is calm and the kernel trusts its names.
func warmed(t *testing.T, m *mounted) {
	t.Helper()
	must(t, os.Mkdir(m.path("d"), 0o755))
	must(t, os.WriteFile(m.path("d/f"), []byte("hello"), 0o644))
	var st unix.Stat_t
	if !fakerank.Wait(func() bool {
		unix.Lstat(m.path("d/f"), &st)
		before := fuse.Upcalls()
		unix.Lstat(m.path("d/f"), &st)
		return fuse.Upcalls() == before
	}) {
		t.Fatal("a stat again and again always asks the mount process")
	}
}

// Warm: a stat costs no upcall, and neither it nor open, read and close an RPC.
func TestWarmCostsNothing(t *testing.T) {
	m := mount(t, "name_cache")
	warmed(t, m)
	var st unix.Stat_t
	b := make([]byte, 16)
	round := func() {
		must(t, unix.Lstat(m.path("d/f"), &st))
		if unix.Lstat(m.path("d/absent"), &st) != unix.ENOENT {
			t.Fatal("absent is there")
		}
		fd, err := unix.Open(m.path("d/f"), unix.O_RDONLY, 0)
		must(t, err)
		_, err = unix.Read(fd, b)
		must(t, err)
		must(t, unix.Close(fd))
	}
	round()
	round()
	rpcs := len(m.rank.Sent())
	for range 200 {
		round()
	}
	for _, q := range m.rank.Sent()[rpcs:] {
		if _, ok := q.(*wire.Request); ok {
			t.Errorf("a warm operation asked the rank: %+v", q)
		}
	}
	// Timeouts end, so upcalls are counted over less than one, and the best of some tries.
	if !fakerank.Wait(func() bool {
		must(t, unix.Lstat(m.path("d/f"), &st))
		unix.Lstat(m.path("d/absent"), &st)
		before := fuse.Upcalls()
		for range 100 {
			unix.Lstat(m.path("d/f"), &st)
			unix.Lstat(m.path("d/absent"), &st)
		}
		return fuse.Upcalls() == before
	}) {
		t.Error("200 warm stats were never without an upcall")
	}
}

// A revoke of Fs is answered with the names that the kernel trusts, to be kept under leases;
// nothing waits for the kernel, even while a request of the mount is parked in the directory
// (F5: an expiry in its way would wait until the timeouts end).
func TestB2FsGoesNamesStay(t *testing.T) {
	m := mount(t, "name_cache")
	warmed(t, m)
	d := ino(t, m.path("d"))
	release := m.rank.HoldOp(wire.OpMkdir)
	done := make(chan error, 1)
	go func() { done <- os.Mkdir(m.path("d/parked"), 0o755) }()
	if !fakerank.Wait(func() bool { return m.rank.Held(wire.OpMkdir) > 0 }) {
		t.Fatal("mkdir did not come")
	}
	u, ok := acked(t, "Fs", m.rank.Revoke(d, caps.FileShared)).(*wire.CapUpdate)
	if !ok || len(u.Names) == 0 || u.Retained.Has(caps.FileShared) {
		t.Errorf("answer %+v: want names kept", u)
	}
	release()
	must(t, <-done)
}
