package fuse_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/client/fakerank"
	"github.com/capstan-fs/capstan/wire"
)

func ino(t *testing.T, p string) wire.Ino {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		t.Fatal(err)
	}
	return wire.Ino(st.Ino)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// acked waits for the answer to a revoke: B1 allows 100 ms, a busy machine more.
func acked(t *testing.T, what string, ch <-chan wire.Message) wire.Message {
	t.Helper()
	select {
	case m := <-ch:
		return m
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: the revoke was not answered", what)
		return nil
	}
}

// B4, B11: what the kernel was asked for, by name. WRITEBACK_CACHE must not be among it.
func TestB11InitFlags(t *testing.T) {
	m := mount(t)
	got := m.s.Negotiated()
	for _, w := range []string{"AUTO_INVAL_DATA", "HANDLE_KILLPRIV_V2", "ATOMIC_O_TRUNC", "DONT_MASK", "READDIRPLUS_AUTO", "ASYNC_DIO",
		"DIRECT_IO_ALLOW_MMAP", "HAS_EXPIRE_ONLY", "EXPORT_SUPPORT", "POSIX_LOCKS", "FLOCK_LOCKS", "POSIX_ACL"} {
		if !strings.Contains(got, w) {
			t.Errorf("INIT lacks %s: %s", w, got)
		}
	}
	if strings.Contains(got, "WRITEBACK_CACHE") {
		t.Errorf("B4: %s", got)
	}
}

// B1: a revoke of every write bit while a WRITE is parked in the store waits for that write
// and for nothing else; its answer carries the new size.
func TestB1RevokeWhileAWriteIsParked(t *testing.T) {
	for _, n := range []int{100, 4096} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m := mount(t)
			f, err := os.OpenFile(m.path("f"), os.O_RDWR|os.O_CREATE, 0o644)
			must(t, err)
			defer f.Close()
			i := ino(t, m.path("f"))
			release := m.rank.Store.Hold()
			defer release()
			done := make(chan error, 1)
			go func() { _, err := f.Write(make([]byte, n)); done <- err }()
			if !fakerank.Wait(func() bool { return m.rank.Store.Parked() > 0 }) {
				t.Fatal("the write did not come")
			}
			ack := m.rank.Revoke(i, caps.FileWr|caps.FileExcl|caps.FileAppend|caps.FileShared|caps.FileCache)
			select {
			case <-ack:
				t.Fatal("answered while the write was in flight")
			case <-time.After(100 * time.Millisecond):
			}
			release()
			must(t, <-done)
			u, ok := acked(t, "write", ack).(*wire.CapUpdate)
			if !ok || u.Dirty == 0 || u.Attr.Size != uint64(n) || u.Retained.Has(caps.FileWr) {
				t.Fatalf("answer %+v", u)
			}
		})
	}
}

// B1: the same while a page READ, an mmap fault and a GETATTR are parked.
func TestB1RevokeWhileReadsAreParked(t *testing.T) {
	m := mount(t)
	must(t, os.WriteFile(m.path("f"), make([]byte, 64<<10), 0o644))
	i := ino(t, m.path("f"))
	f, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	r, err := os.Open(m.path("f"))
	must(t, err)
	defer r.Close()
	release := m.rank.Store.Hold()
	hold := m.rank.HoldOp(wire.OpGetattr)
	var wg sync.WaitGroup
	wg.Add(2)
	go func() { defer wg.Done(); r.ReadAt(make([]byte, 4096), 0) }()
	go func() { defer wg.Done(); touch(t, mem[40<<10:], nil) }()
	if !fakerank.Wait(func() bool { return m.rank.Store.Parked() > 0 }) {
		t.Fatal("no read came")
	}
	time.Sleep(50 * time.Millisecond) // for the other one, which may wait for the same pages
	ack := m.rank.Revoke(i, caps.FileShared|caps.FileCache)
	acked(t, "s and c", ack)
	wg.Add(1)
	go func() { defer wg.Done(); os.Stat(m.path("f")) }()
	ack = m.rank.Revoke(i, caps.FileWr|caps.FileExcl|caps.FileAppend)
	time.Sleep(50 * time.Millisecond)
	release() // as soon as the store answers
	acked(t, "w", ack)
	m.rank.Allow(i)
	hold()
	wg.Wait()
	touch(t, mem, []byte("x")) // a page dirtied after w is gone is written back all the same
	must(t, unix.Msync(mem, unix.MS_SYNC))
}

// touch reads or writes the first byte of mapped memory within a system call. A thread that waited for
// the page with Go code on its stack could not be stopped by the collector, and everybody, those who
// must answer included, would wait for that.
func touch(t *testing.T, mem, b []byte) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	if b == nil {
		_, err = w.Write(mem[:1])
	} else if _, err = w.Write(b); err == nil {
		_, err = r.Read(mem[:1])
	}
	must(t, err)
}

// B3: a cached handle opened before sharing began must not show an old byte, even when the
// other writer sets size and mtime back to what they were.
func TestB3MtimeSetBackDoesNotHideNewData(t *testing.T) {
	m := mount(t)
	must(t, os.WriteFile(m.path("f"), []byte("old!"), 0o644))
	time.Sleep(20 * time.Millisecond) // until the kernel has taken in what our own write said
	i := ino(t, m.path("f"))
	f, err := os.Open(m.path("f"))
	must(t, err)
	defer f.Close()
	b := make([]byte, 4)
	f.ReadAt(b, 0)
	acked(t, "revoke", m.rank.Revoke(i, caps.FileShared|caps.FileCache|caps.FileWr|caps.FileExcl|caps.FileAppend))
	for round := range 5 {
		want := fmt.Sprintf("new%d", round)
		ch := make(chan struct{})
		m.rank.Store.Submit(wire.DataObject(2, i, 0), []wire.ObjOp{{Kind: wire.ObjWrite, Data: []byte(want)}}, 0,
			func(uint32, []wire.ObjResult, error) { close(ch) })
		<-ch
		f.ReadAt(b, 0)
		if string(b) != want {
			t.Fatalf("round %d: read %q, want %q", round, b, want)
		}
	}
}

// B9: signals that are handled end nothing.
func TestB9SignalStorm(t *testing.T) {
	m := mount(t)
	ch := make(chan os.Signal, 100)
	signal.Notify(ch, syscall.SIGUSR1)
	defer signal.Stop(ch)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			case <-ch:
			default:
				syscall.Kill(os.Getpid(), syscall.SIGUSR1)
				time.Sleep(200 * time.Microsecond)
			}
		}
	}()
	for i := range 200 {
		p := m.path(fmt.Sprint("f", i))
		fd, err := syscall.Open(p, syscall.O_RDWR|syscall.O_CREAT, 0o644)
		must(t, err)
		_, err = syscall.Pwrite(fd, []byte("x"), 0)
		must(t, err)
		must(t, syscall.Fsync(fd))
		must(t, syscall.Close(fd))
		must(t, syscall.Rename(p, p+"r"))
	}
	close(stop)
	wg.Wait()
}

// B9: SIGKILL ends a wait, which would have no end by itself, and the request it leaves behind lives on.
func TestB9KillEndsAWait(t *testing.T) {
	m := mount(t)
	release := m.rank.HoldOp(wire.OpMkdir)
	cmd := exec.Command("mkdir", m.path("d"))
	must(t, cmd.Start())
	if !fakerank.Wait(func() bool { return m.rank.Held(wire.OpMkdir) > 0 }) {
		t.Fatal("the mkdir did not arrive")
	}
	time.Sleep(30 * time.Millisecond)
	start := time.Now()
	must(t, cmd.Process.Kill())
	cmd.Wait()
	if d := time.Since(start); d > 30*time.Second {
		t.Fatalf("died after %v", d)
	}
	release()
	if !fakerank.Wait(func() bool { _, err := os.Stat(m.path("d")); return err == nil }) {
		t.Fatal("the request did not live on")
	}
}

// B8: an OFD lock goes with the last close of its description and not before; a POSIX lock
// goes with any close of the file by its process.
func TestB8OwnersOfLocks(t *testing.T) {
	m := mount(t)
	p := m.path("f")
	must(t, os.WriteFile(p, []byte("0123456789"), 0o644))
	i := ino(t, p)
	lk := syscall.Flock_t{Type: syscall.F_WRLCK, Start: 0, Len: 5}
	fd, err := syscall.Open(p, syscall.O_RDWR, 0)
	must(t, err)
	must(t, syscall.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk))
	dup, err := syscall.Dup(fd)
	must(t, err)
	syscall.Close(fd)
	held := func(want int) {
		t.Helper()
		var n int
		for range 1000 {
			if n, _ = m.rank.Locks(i); n == want {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("%d locks held, want %d", n, want)
	}
	held(1)
	syscall.Close(dup)
	held(0)
	a, err := syscall.Open(p, syscall.O_RDWR, 0)
	must(t, err)
	b, err := syscall.Open(p, syscall.O_RDONLY, 0)
	must(t, err)
	lk = syscall.Flock_t{Type: syscall.F_WRLCK, Start: 0, Len: 5}
	must(t, syscall.FcntlFlock(uintptr(a), syscall.F_SETLK, &lk))
	held(1)
	syscall.Close(b)
	held(0)
	syscall.Close(a)
	c, err := syscall.Open(p, syscall.O_RDWR, 0)
	must(t, err)
	must(t, syscall.Flock(c, syscall.LOCK_EX))
	held(1)
	syscall.Close(c)
	held(0)
}

// The mount lives through a rank that dies and one that has forgotten it.
func TestFailoverAndEviction(t *testing.T) {
	m := mount(t)
	must(t, os.WriteFile(m.path("before"), []byte("hello"), 0o644))
	m.rank.SetSafe(false)
	must(t, os.Mkdir(m.path("d"), 0o755))
	must(t, os.WriteFile(m.path("d/f"), nil, 0o644)) // not a byte: it would wait for the watermark
	m.rank.Fail(true)
	b, err := os.ReadFile(m.path("before"))
	if err != nil || string(b) != "hello" {
		t.Fatalf("after failover: %q %v", b, err)
	}
	if !fakerank.Wait(func() bool {
		replayed := 0
		for _, s := range m.rank.Sent() {
			if q, ok := s.(*wire.Request); ok && q.Flags&wire.ReqReplay != 0 {
				replayed++
			}
		}
		return replayed == 2
	}) {
		t.Error("mkdir and create were unsafe and were not replayed")
	}
	m.rank.SetSafe(true)
	f, err := os.OpenFile(m.path("d/f"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	was := m.c.Instance()
	m.rank.Evict()
	if !fakerank.Wait(func() bool { return m.c.Instance() != was }) {
		t.Fatal("no new session after the eviction")
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.EIO) {
		t.Errorf("write through a handle whose lock was lost: %v, want EIO", err)
	}
	must(t, os.WriteFile(m.path("d/g"), []byte("again"), 0o644))
}
