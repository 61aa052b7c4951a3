package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// fileLock is a row of `capstan locks --json`.
type fileLock struct {
	Kind    string
	Ticket  uint64
	Waiting bool
	Told    bool
}

func fileLocks(t *testing.T, c *harness.Cluster, path string) (held, waiting []fileLock) {
	t.Helper()
	var v struct {
		FileLocks []fileLock `json:"file_locks"`
	}
	must(t, json.Unmarshal([]byte(c.Must("locks", "--json", "--conf", c.Conf(), path)), &v))
	for _, l := range v.FileLocks {
		if l.Waiting {
			waiting = append(waiting, l)
		} else {
			held = append(held, l)
		}
	}
	return held, waiting
}

// flock waits for an exclusive lock in a thread of its own and says on won that it has it.
func flock(t *testing.T, path string, won chan<- *os.File) {
	f, err := os.Open(path)
	must(t, err)
	go func() {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Error(path, err)
		}
		won <- f
	}()
}

func ticketOf(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var ticket uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x8008ca01, uintptr(unsafe.Pointer(&ticket))); e != 0 {
		t.Fatalf("the ticket of %s: %v", f.Name(), e)
	}
	return ticket
}

// kill -9 of the rank with 30 waiters on three mounts, queued in turn: the successor serves
// them in the order in which they came. They are processes: a signal of Go's own scheduler
// would send a thread to the end of the queue.
func TestLockQueueOutlivesTheRank(t *testing.T) {
	harness.NeedMount(t)
	bin, err := exec.LookPath("flock")
	if err != nil {
		t.Skip("needs flock(1)")
	}
	c := harness.Up(t, harness.Args("--osds", "1"))
	mnts := []string{c.Mount(), c.Mount(), c.Mount()}
	path := filepath.Join(mnts[0], "f")
	must(t, os.WriteFile(path, nil, 0o644))
	holder, err := os.Open(filepath.Join(mnts[2], "f"))
	must(t, err)
	defer holder.Close()
	must(t, unix.Flock(int(holder.Fd()), unix.LOCK_EX))
	served := filepath.Join(t.TempDir(), "served")
	const n = 30
	var want strings.Builder
	var cmds []*exec.Cmd
	for i := range n {
		cmd := exec.Command(bin, filepath.Join(mnts[i%3], "f"), "sh", "-c", fmt.Sprintf("echo %d >>%s", i, served))
		must(t, cmd.Start())
		cmds = append(cmds, cmd)
		fmt.Fprintln(&want, i)
		within(t, 20, "a waiter is queued", func() bool { _, w := fileLocks(t, c, path); return len(w) == i+1 })
	}
	var before []fileLock
	within(t, 20, "each client knows its waiters' places", func() bool {
		_, before = fileLocks(t, c, path)
		return !slices.ContainsFunc(before, func(l fileLock) bool { return !l.Told })
	})
	c.Kill("mds.a")
	c.Start()
	within(t, 30, "the queue is what it was", func() bool { _, after := fileLocks(t, c, path); return fmt.Sprint(before) == fmt.Sprint(after) })
	if b, _ := os.ReadFile(served); len(b) > 0 {
		t.Fatalf("served beside the holder: %s", b)
	}
	old := ticketOf(t, holder)
	must(t, unix.Flock(int(holder.Fd()), unix.LOCK_UN))
	for _, cmd := range cmds {
		must(t, cmd.Wait())
	}
	b, err := os.ReadFile(served)
	must(t, err)
	if string(b) != want.String() {
		t.Fatalf("served in the order %q", strings.Fields(string(b)))
	}
	must(t, unix.Flock(int(holder.Fd()), unix.LOCK_EX))
	if now := ticketOf(t, holder); now <= old {
		t.Fatalf("ticket %d after %d", now, old)
	}
}

// A stopped mount that holds a lock is fenced for those who wait, within V or R, whichever is
// longer, and what the fence takes: then the next has it, and the stopped one knows after.
func TestStoppedHolderIsFenced(t *testing.T) {
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--osds", "1", "--session-validity", "3s", "--revoke-deadline", "2s"))
	a, b := c.Mount(), c.Mount()
	must(t, os.WriteFile(filepath.Join(a, "f"), []byte("x"), 0o644))
	held := make(chan *os.File, 1)
	f, err := os.OpenFile(filepath.Join(b, "f"), os.O_RDWR, 0)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	old := ticketOf(t, f)
	pid := server(t, c, b)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	start := time.Now()
	flock(t, filepath.Join(a, "f"), held)
	var next *os.File
	select {
	case next = <-held:
	case <-time.After(20 * time.Second):
		syscall.Kill(pid, syscall.SIGCONT)
		t.Fatalf("not granted: %s", c.Why())
	}
	took := time.Since(start)
	t.Logf("granted after %v", took)
	if took < time.Second {
		t.Error("granted before the holder can have been fenced")
	}
	if took > 8*time.Second { // max(R + fence, V + K) is 4 s; this machine is shared
		t.Errorf("granted after %v", took)
	}
	if now := ticketOf(t, next); now <= old {
		t.Errorf("ticket %d after %d", now, old)
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	within(t, 20, "the fenced holder's writes fail", func() bool { _, err := f.Write([]byte("y")); return errors.Is(err, syscall.EIO) })
	f.Close()
	next.Close()
}

// The holder reads its ticket by xattr (a command under flock(1) too) and by ioctl; nobody else does.
func TestLockTicket(t *testing.T) {
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--osds", "1"))
	a, b := c.Mount(), c.Mount()
	pa, pb := filepath.Join(a, "f"), filepath.Join(b, "f")
	must(t, os.WriteFile(pa, nil, 0o644))
	xattr := func(p string) (uint64, error) {
		buf := make([]byte, 32)
		n, err := unix.Getxattr(p, "capstan.lock.ticket", buf)
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(string(buf[:n]), 10, 64)
	}
	if _, err := xattr(pa); !errors.Is(err, unix.ENODATA) {
		t.Fatalf("without a lock: %v", err)
	}
	f, err := os.OpenFile(pa, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var last uint64
	for _, take := range []func(ty int16) error{
		func(ty int16) error {
			return unix.Flock(int(f.Fd()), map[int16]int{unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[ty])
		},
		func(ty int16) error { return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: ty}) },
		func(ty int16) error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: ty}) },
	} {
		must(t, take(unix.F_WRLCK))
		x, err := xattr(pa)
		must(t, err)
		if y := ticketOf(t, f); x != y || x <= last {
			t.Fatalf("xattr %d, ioctl %d, before %d", x, y, last)
		}
		last = x
		if _, err := xattr(pb); !errors.Is(err, unix.ENODATA) {
			t.Fatalf("on the other mount: %v", err)
		}
		must(t, take(unix.F_UNLCK))
		if _, err := xattr(pa); !errors.Is(err, unix.ENODATA) {
			t.Fatalf("after the unlock: %v", err)
		}
	}
	bin, err := exec.LookPath("flock")
	if err != nil {
		t.Skip("needs flock(1)")
	}
	out, err := exec.Command(bin, pb, "cat", "/dev/null").CombinedOutput()
	must(t, err)
	if gf, err := exec.LookPath("getfattr"); err == nil {
		out, err = exec.Command(bin, pb, gf, "--only-values", "-n", "capstan.lock.ticket", pb).Output()
		n, perr := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
		if err != nil || perr != nil || n <= last {
			t.Fatalf("under flock(1): %q %v", out, err)
		}
	}
}

// Three hundred threads on three mounts queue for one flock: each is granted it in the order of the
// queue, which their tickets prove. bench/locks does it, and shows how long it took.
func TestLongLockQueueIsServedInItsOrder(t *testing.T) {
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--osds", "1"))
	tool := filepath.Join(t.TempDir(), "locks")
	if out, err := exec.Command("go", "build", "-o", tool, "../bench/locks").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := fmt.Sprintf("%s locks --conf %s --json \"$1\"", harness.Binary(t), c.Conf())
	cmd := exec.Command(tool, "-n", "10", "-hold", "0", "-waiters", "300", "-list", list, c.Mount(), c.Mount(), c.Mount())
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // a signal of Go's own would send a thread to the end of the queue
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	must(t, err)
}
