package fuse_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

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
	m := mount(t)
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

// With no_name_cache the kernel asks for each name each time, and no name is ever kept for it.
func TestNoNameCache(t *testing.T) {
	m := mount(t, "no_name_cache")
	must(t, os.Mkdir(m.path("d"), 0o755))
	must(t, os.WriteFile(m.path("d/f"), nil, 0o644))
	d := ino(t, m.path("d"))
	const looks = 50
	var st unix.Stat_t
	if n := asks(func() {
		for range looks {
			must(t, unix.Lstat(m.path("d/f"), &st))
			if unix.Lstat(m.path("d/no"), &st) != unix.ENOENT {
				t.Fatal("no is there")
			}
		}
	}); n != 4*looks {
		t.Errorf("%d looks at two names of a directory cost %d LOOKUPs, want %d", looks, n, 4*looks)
	}
	if u, ok := acked(t, "Fs", m.rank.Revoke(d, caps.FileShared)).(*wire.CapUpdate); !ok || len(u.Names) != 0 {
		t.Errorf("answer %+v: want no names kept", u)
	}
}

// A revoke of Fs is answered with the names that the kernel trusts, to be kept under leases;
// nothing waits for the kernel, even while a request of the mount is parked in the directory
// (F5: an expiry in its way would wait until the timeouts end).
func TestB2FsGoesNamesStay(t *testing.T) {
	m := mount(t)
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

// uncovered makes d/f, of which neither Fs nor a lease tells: its LOOKUPs go to the rank.
func uncovered(t *testing.T, m *mounted) wire.Ino {
	t.Helper()
	must(t, os.Mkdir(m.path("d"), 0o755))
	d := ino(t, m.path("d"))
	acked(t, "Fs", m.rank.Revoke(d, caps.FileShared))
	must(t, os.WriteFile(m.path("d/f"), nil, 0o644))
	ino(t, m.path("d/f"))
	return d
}

// asks is how many LOOKUPs f makes the kernel send.
func asks(f func()) uint64 {
	before := fuse.Ops()["LOOKUP"]
	f()
	return fuse.Ops()["LOOKUP"] - before
}

// starve starts a program whose request of op is parked, and is then answered while the program has no
// processor to take the answer in with. It must end by itself when feed is called.
func starve(t *testing.T, m *mounted, op wire.Op, before func(), prog string, args ...string) (pid int, feed func()) {
	t.Helper()
	var cpus unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &cpus))
	if cpus.Count() < 2 {
		t.Skip("needs a processor to keep busy and another one")
	}
	cpu := 0
	for !cpus.IsSet(cpu) {
		cpu++
	}
	cpus.Zero()
	cpus.Set(cpu)
	release := m.rank.HoldOp(op)
	asker := exec.Command(prog, args...)
	must(t, asker.Start())
	done := make(chan error, 1)
	go func() { done <- asker.Wait() }()
	if !fakerank.Wait(func() bool { return m.rank.Held(op) > 0 }) {
		t.Fatal("the request did not come")
	}
	pid = asker.Process.Pid
	must(t, unix.SchedSetAttr(pid, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0))
	must(t, unix.SchedSetaffinity(pid, &cpus))
	busy := exec.Command("sh", "-c", "while :; do :; done")
	must(t, busy.Start())
	t.Cleanup(func() { busy.Process.Kill(); busy.Wait() })
	must(t, unix.SchedSetaffinity(busy.Process.Pid, &cpus))
	if err := unix.Setpriority(unix.PRIO_PROCESS, busy.Process.Pid, -20); err != nil {
		t.Skip("needs to raise a priority: ", err)
	}
	before()
	release()
	if !fakerank.Wait(func() bool { b, _ := os.ReadFile(procOf(pid, "stat")); return len(b) == 0 || stateIn(b) == 'R' }) {
		t.Fatal("the request was not answered")
	}
	return pid, func() {
		t.Helper()
		if was, err := unix.SchedGetAttr(pid, 0); err == nil && was.Policy != unix.SCHED_IDLE {
			t.Errorf("the thread that was helped is left with scheduling policy %d", was.Policy)
		}
		busy.Process.Kill()
		unix.SchedSetAttr(pid, &unix.SchedAttr{}, 0) // as before, if it is still there
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(30 * time.Second):
			t.Fatal("the program does not end")
		}
	}
}

// N3: a thread was answered, and gets no processor to take the answer in. Until it has, the name that
// it was told of is not given back; and since we wait for it, it runs before others.
func TestN3AThreadThatDoesNotRun(t *testing.T) {
	m := mount(t, "name_cache=always")
	d := uncovered(t, m)
	_, feed := starve(t, m, wire.OpLookup, func() { m.rank.Allow(d) /* from now on the name may be trusted */ }, "stat", m.path("d/f"))
	acked(t, "the name", m.rank.RevokeLease(d, "f"))
	feed()
	if n := asks(func() { ino(t, m.path("d/f")) }); n == 0 {
		t.Error("the name was given back, and the kernel trusts it")
	}
}

// listable is a mount whose kernel has heard of nothing but its root, in which d has files 0, 1, …
func listable(t *testing.T, files int) (*mounted, []wire.Ino) {
	t.Helper()
	r := fakerank.New()
	var names []string
	for i := range files {
		names = append(names, strconv.Itoa(i))
	}
	inos := r.MakeFiles("d", names...)
	return mountRank(t, r), inos
}

// After a listing the first stat of each row costs nothing, though the kernel had never heard of it.
func TestRowsAreTrusted(t *testing.T) {
	const files = 20
	if !fakerank.Wait(func() bool { // timeouts end: a slow machine needs some tries
		m, _ := listable(t, files)
		f, err := os.Open(m.path("d"))
		must(t, err)
		defer f.Close()
		names, err := f.Readdirnames(-1)
		must(t, err)
		if len(names) != files {
			t.Fatalf("listed %q", names)
		}
		before := fuse.Upcalls()
		for _, n := range names {
			var st unix.Stat_t
			must(t, unix.Fstatat(int(f.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW))
		}
		return fuse.Upcalls() == before
	}) {
		t.Error("a listing and a stat of each row always ask the mount process for more than rows")
	}
}

// What the kernel trusts of a row, and has never named itself, goes with the cap.
func TestRowsAreTakenBack(t *testing.T) {
	m, inos := listable(t, 3)
	f, err := os.Open(m.path("d"))
	must(t, err)
	defer f.Close()
	_, err = f.Readdirnames(-1)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstatat(int(f.Fd()), "1", &st, 0))
	changedElsewhere(t, m, inos[1])
	must(t, unix.Fstatat(int(f.Fd()), "1", &st, 0))
	if st.Mode&0o777 != 0o600 {
		t.Errorf("mode %o after another host's change to 600", st.Mode)
	}
}

// changedElsewhere gives another host the mode, which it sets to 600.
func changedElsewhere(t *testing.T, m *mounted, i wire.Ino) {
	t.Helper()
	acked(t, "attributes", m.rank.Revoke(i, caps.AuthShared))
	m.rank.Change(i, func(st *wire.InodeStat) { st.Attr.Mode = unix.S_IFREG | 0o600 })
	m.rank.Allow(i)
}

// A lister was answered, and gets no processor to take the rows in: the kernel cannot void attributes
// of what it has not heard of, so they are not given back before it has.
func TestRowsOfAThreadThatDoesNotRun(t *testing.T) {
	m, inos := listable(t, 3)
	_, feed := starve(t, m, wire.OpReaddir, func() {}, "ls", "-U", m.path("d"))
	changedElsewhere(t, m, inos[1])
	feed()
	var st unix.Stat_t
	must(t, unix.Lstat(m.path("d/1"), &st))
	if st.Mode&0o777 != 0o600 {
		t.Errorf("mode %o after another host's change to 600", st.Mode)
	}
}

func procOf(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }

func stateIn(stat []byte) byte { return stat[bytes.LastIndexByte(stat, ')')+2] }

// A thread in a pid namespace below ours (a pod's, where the mount is the host's) is known here by a
// number of ours: it gets timeouts, and is watched like any other.
func TestPodsAreTrustedWithNames(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("needs unshare(1)")
	}
	m := mount(t)
	warmed(t, m)
	const looks = 300
	cmd := exec.Command(unshare, "--pid", "--fork", "sh", "-c", "i=0; while [ $i -lt 300 ]; do ! [ -e d/absent ] || exit 9; i=$((i+1)); done")
	cmd.Dir = m.dir
	if n := asks(func() {
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}); n >= looks {
		t.Errorf("%d looks at a name cost %d LOOKUPs", looks, n)
	}
}
