package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// The rules of reference/fuse.md §5 that need two real mounts of a real cluster.
func TestFuseRules(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	playScenes(t, a, b, []scene{
		{"DirectoryMovedElsewhere", movedElsewhere},
		{"B2OneDirectoryTwoMounts", ruleB2},
		{"B3EqualSizeAndMtime", ruleB3},
		{"B5AppendsBesideAMapping", ruleB5},
		{"B9SignalStorm", ruleB9},
		{"B9KillLeavesNoWaiter", ruleB9Kill},
		{"B12TruncateOfDirtyPages", ruleB12},
	})
}

// scene is played in a directory of its own that two mounts show.
type scene struct {
	name string
	run  func(t *testing.T, a, b string)
}

func playScenes(t *testing.T, a, b string, scenes []scene) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			mkdir(t, filepath.Join(a, s.name))
			s.run(t, filepath.Join(a, s.name), filepath.Join(b, s.name))
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A rename whose last component is a directory that another host has moved: the kernel finds
// the directory's dentry at the old place while it holds the lock that moving it needs.
func movedElsewhere(t *testing.T, a, b string) {
	mkdir(t, filepath.Join(a, "p/d/sub"))
	mkdir(t, filepath.Join(a, "q"))
	_, err := os.Stat(filepath.Join(b, "p/d/sub"))
	must(t, err)
	cwd, err := os.Open(filepath.Join(b, "p/d"))
	must(t, err)
	defer cwd.Close()
	for range 5 {
		must(t, os.Rename(filepath.Join(a, "p/d"), filepath.Join(a, "moved")))
		must(t, os.Rename(filepath.Join(b, "moved"), filepath.Join(b, "q/d")))
		must(t, os.WriteFile(filepath.Join(b, "q/d/sub/f"), []byte("x"), 0o644))
		must(t, os.Rename(filepath.Join(a, "q/d"), filepath.Join(a, "p/d")))
	}
	var x, y unix.Stat_t
	must(t, unix.Stat(filepath.Join(b, "p/d"), &x))
	must(t, unix.Fstat(int(cwd.Fd()), &y))
	if x.Ino != y.Ino {
		t.Fatalf("the directory is %#x by name and %#x by descriptor", x.Ino, y.Ino)
	}
	must(t, unix.Mkdirat(int(cwd.Fd()), "through-the-old-descriptor", 0o755))
	_, err = os.Stat(filepath.Join(a, "p/d/through-the-old-descriptor"))
	must(t, err)
}

// B2: both create, look up and unlink in one directory, below which something is bound: what
// one made the other finds, what one removed the other misses, and nobody stalls.
func ruleB2(t *testing.T, a, b string) {
	mkdir(t, filepath.Join(a, "dir/place"))
	mkdir(t, filepath.Join(a, "bound"))
	must(t, os.WriteFile(filepath.Join(a, "bound/inside"), nil, 0o644))
	place := filepath.Join(b, "dir/place")
	must(t, unix.Mount(filepath.Join(b, "bound"), place, "", unix.MS_BIND, ""))
	defer unix.Unmount(place, unix.MNT_DETACH)
	end := time.Now().Add(3 * time.Second)
	var slowest atomic.Int64
	var ops atomic.Int64
	timed := func(f func() error) error {
		start := time.Now()
		err := f()
		ops.Add(1)
		for d := int64(time.Since(start)); ; {
			if was := slowest.Load(); d <= was || slowest.CompareAndSwap(was, d) {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			mine, other := a, b
			if w%2 == 1 {
				mine, other = b, a
			}
			for i := 0; time.Now().Before(end) && !t.Failed(); i++ {
				n := fmt.Sprintf("dir/w%d-%d", w, i%7)
				if err := timed(func() error { return os.WriteFile(filepath.Join(mine, n), nil, 0o644) }); err != nil {
					t.Error(err)
				}
				if err := timed(func() error { _, err := os.Lstat(filepath.Join(other, n)); return err }); err != nil {
					t.Error("missing:", err)
				}
				if err := timed(func() error { return os.Remove(filepath.Join(mine, n)) }); err != nil {
					t.Error(err)
				}
				if err := timed(func() error { _, err := os.Lstat(filepath.Join(other, n)); return err }); !errors.Is(err, syscall.ENOENT) {
					t.Error("stale:", n, err)
				}
			}
		}()
	}
	wg.Wait()
	t.Logf("%d operations, the slowest took %v", ops.Load(), time.Duration(slowest.Load()))
	if d := time.Duration(slowest.Load()); d > 8*time.Second { // nobody waits for a timeout or a deadline of ours
		t.Errorf("an operation took %v", d)
	}
	if _, err := os.Stat(filepath.Join(place, "inside")); err != nil {
		t.Error("the bind mount is gone:", err)
	}
}

// B3: a reader with a cached handle, opened before sharing began, while a writer elsewhere
// sets size and mtime back each time: a read that starts later shows no old byte.
func ruleB3(t *testing.T, a, b string) {
	pa, pb := filepath.Join(a, "f"), filepath.Join(b, "f")
	const size = 9000
	fill := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, size) }
	must(t, os.WriteFile(pa, fill(0), 0o644))
	back := []unix.Timespec{{Sec: 1_000_000_000}, {Sec: 1_000_000_000}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, pa, back, 0))
	r, err := os.Open(pb)
	must(t, err)
	defer r.Close()
	got := make([]byte, size)
	for range 3 {
		_, err := r.ReadAt(got, 0)
		must(t, err)
	}
	w, err := os.OpenFile(pa, os.O_RDWR, 0)
	must(t, err)
	defer w.Close()
	for i := 1; i <= 150; i++ {
		_, err := w.WriteAt(fill(i), 0)
		must(t, err)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, pa, back, 0))
		_, err = r.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, fill(i)) {
			t.Fatalf("round %d: the kept handle reads %q, want %q", i, got[0], fill(i)[0])
		}
		if i%5 == 0 {
			whole, err := os.ReadFile(pb)
			must(t, err)
			if !bytes.Equal(whole, fill(i)) {
				t.Fatalf("round %d: a fresh handle reads %q, want %q", i, whole[0], fill(i)[0])
			}
			var st unix.Stat_t
			must(t, unix.Stat(pb, &st))
			if st.Mtim.Sec != back[1].Sec {
				t.Fatalf("round %d: mtime %d, want %d: a flush came behind the utimes", i, st.Mtim.Sec, back[1].Sec)
			}
		}
	}
}

// B5: records of odd length by O_APPEND, by F_SETFL and through a mount that has the file
// mapped: each stands there once and whole.
func ruleB5(t *testing.T, a, b string) {
	must(t, os.WriteFile(filepath.Join(a, "log"), bytes.Repeat([]byte("#"), 5000), 0o644))
	m, err := os.OpenFile(filepath.Join(b, "log"), os.O_RDWR, 0)
	must(t, err)
	defer m.Close()
	mem, err := unix.Mmap(int(m.Fd()), 0, 5000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	end := time.Now().Add(2500 * time.Millisecond)
	var wg sync.WaitGroup
	const workers = 4
	var wrote [workers]int
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			dir, flags := a, os.O_WRONLY
			if w%2 == 1 {
				dir = b
			}
			if w < 2 {
				flags |= os.O_APPEND
			}
			f, err := os.OpenFile(filepath.Join(dir, "log"), flags, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if w >= 2 {
				if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
					t.Error(err)
				}
			}
			for time.Now().Before(end) {
				rec := fmt.Sprintf("%d:%d:%s\n", w, wrote[w], strings.Repeat("x", 1+wrote[w]*53%397))
				if _, err := unix.Write(int(f.Fd()), []byte(rec)); err != nil { // os.File would refuse none, but writes at its own idea of the end
					t.Error(err)
					return
				}
				wrote[w]++
			}
		}()
	}
	for i := 0; time.Now().Before(end); i++ {
		mem[i%4999] = '#' // a page that is dirty while others append behind it
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	for _, dir := range []string{a, b} {
		all, err := os.ReadFile(filepath.Join(dir, "log"))
		must(t, err)
		var seen [workers]int
		for _, line := range strings.SplitAfter(strings.TrimLeft(string(all), "#"), "\n") {
			if line == "" {
				continue
			}
			var w, n int
			if _, err := fmt.Sscanf(line, "%d:%d:", &w, &n); err != nil || w < 0 || w >= workers || n != seen[w] ||
				line != fmt.Sprintf("%d:%d:%s\n", w, n, strings.Repeat("x", 1+n*53%397)) {
				t.Fatalf("%s: torn, lost or doubled, seen %v: %.60q", dir, seen, line)
			}
			seen[w]++
		}
		if seen != wrote {
			t.Fatalf("%s: %v records there, %v written", dir, seen, wrote)
		}
	}
	t.Logf("records: %v", wrote)
}

// B9: signals end nothing but a waiting lock, even while another mount takes the caps away.
func ruleB9(t *testing.T, a, b string) {
	ch := make(chan os.Signal, 100)
	signal.Notify(ch, syscall.SIGUSR1)
	defer signal.Stop(ch)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					syscall.Kill(os.Getpid(), syscall.SIGUSR1)
					time.Sleep(300 * time.Microsecond)
				}
			}
		}()
	}
	work := func(dir string) {
		defer wg.Done()
		for i := range 150 {
			p := filepath.Join(dir, fmt.Sprintf("f%d", i%10))
			fd, err := syscall.Open(p, syscall.O_RDWR|syscall.O_CREAT, 0o644)
			if err == nil {
				_, err = syscall.Pwrite(fd, []byte("x"), int64(i))
				if e := syscall.Fsync(fd); err == nil {
					err = e
				}
				if e := syscall.Close(fd); err == nil {
					err = e
				}
			}
			if err != nil {
				t.Errorf("%s: %v", p, err)
				break
			}
			if err := syscall.Rename(p, p+"r"); err != nil && err != syscall.ENOENT { // the other may have been first
				t.Errorf("rename %s: %v", p, err)
				break
			}
		}
	}
	var both sync.WaitGroup
	for _, d := range []string{a, b} {
		wg.Add(1)
		both.Add(1)
		go func() { defer both.Done(); work(d) }()
	}
	both.Wait()
	close(stop)
	wg.Wait()
}

// B9: SIGKILL ends a wait, which would have no end by itself, and leaves no waiter.
func ruleB9Kill(t *testing.T, a, b string) {
	must(t, os.WriteFile(filepath.Join(a, "f"), nil, 0o644))
	h, err := os.Open(filepath.Join(b, "f"))
	must(t, err)
	defer h.Close()
	must(t, unix.Flock(int(h.Fd()), unix.LOCK_EX))
	bin, err := exec.LookPath("flock")
	if err != nil {
		t.Skip("needs flock(1)")
	}
	cmd := exec.Command(bin, filepath.Join(a, "f"), "true")
	must(t, cmd.Start())
	time.Sleep(300 * time.Millisecond)
	start := time.Now()
	must(t, cmd.Process.Kill())
	cmd.Wait()
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it died after %v", d)
	}
	must(t, unix.Flock(int(h.Fd()), unix.LOCK_UN))
	// The dead one's request may be on its way back still, and be granted for a moment.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(h.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the dead waiter has the lock: %v", err)
		}
	}
	must(t, unix.Flock(int(h.Fd()), unix.LOCK_UN))
	if out, err := exec.Command(bin, "-n", filepath.Join(a, "f"), "true").CombinedOutput(); err != nil {
		t.Fatalf("the dead waiter holds the lock: %v %s", err, out)
	}
}

// B12: ftruncate of a file with dirty mapped pages while the other mount writes it: no
// deadlock, and what was cut off does not come back.
func ruleB12(t *testing.T, a, b string) {
	const size, cut = 64 << 10, 8 << 10
	f, err := os.OpenFile(filepath.Join(a, "f"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		w, err := os.OpenFile(filepath.Join(b, "f"), os.O_RDWR, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := w.WriteAt([]byte("b"), int64(i%cut)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	start := time.Now()
	rounds := 0
	for ; rounds < 5 || rounds < 40 && time.Since(start) < 4*time.Second; rounds++ {
		for i := 0; i < size; i += 4096 {
			mem[i] = byte(rounds)
		}
		must(t, f.Truncate(cut))
		must(t, f.Truncate(size))
		got, err := os.ReadFile(filepath.Join(b, "f"))
		must(t, err)
		if len(got) != size {
			t.Fatalf("round %d: size %d, want %d", rounds, len(got), size)
		}
		if i := bytes.IndexFunc(got[cut:], func(r rune) bool { return r != 0 }); i >= 0 {
			t.Fatalf("round %d: byte %d of what was cut off is back", rounds, cut+i)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d rounds in %v", rounds, time.Since(start))
}

// servers finds the process that serves a mountpoint.
func server(t *testing.T, c *harness.Cluster, mnt string) int {
	t.Helper()
	for _, pid := range c.MountPIDs() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(b, []byte(mnt)) {
			return pid
		}
	}
	t.Fatalf("nobody serves %s", mnt)
	return 0
}

// B6 and 4.7: a mount process that is stopped, or killed, delays others by a bounded time,
// and serves nothing old afterwards.
func TestSilentMounts(t *testing.T) {
	c := harness.Up(t, harness.Args("--session-validity", "3s", "--revoke-deadline", "2s"))
	a, b := c.Mount("-o", "name_cache=always"), c.Mount("-o", "name_cache=always")
	t.Run("B6StoppedWithWarmCaches", func(t *testing.T) { ruleB6(t, c, a, b) })
	t.Run("KilledWithCaps", func(t *testing.T) { killedWithCaps(t, c, a, b) })
}

func ruleB6(t *testing.T, c *harness.Cluster, a, b string) {
	pa, pb := filepath.Join(a, "f"), filepath.Join(b, "f")
	must(t, os.WriteFile(pa, []byte("old"), 0o644))
	must(t, os.WriteFile(filepath.Join(a, "gone"), nil, 0o644))
	h, err := os.Open(pb)
	must(t, err)
	defer h.Close()
	buf := make([]byte, 3)
	warm := func() {
		for range 3 {
			_, err := h.ReadAt(buf, 0)
			must(t, err)
			_, err = os.Stat(pb)
			must(t, err)
			_, err = os.Stat(filepath.Join(b, "gone"))
			must(t, err)
		}
	}
	warm()
	time.Sleep(200 * time.Millisecond)
	warm()
	pid := server(t, c, b)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	stopped := time.Now()
	cont := sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
	defer cont()
	// Look on the stopped mount all the time; each look blocks when the kernel's caches end.
	type look struct {
		at  time.Time
		old bool
	}
	var mu sync.Mutex
	looks := map[string][]look{}
	done := make(chan struct{})
	var wg sync.WaitGroup
	watch := func(what string, old func() bool) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				l := look{at: time.Now()}
				l.old = old()
				mu.Lock()
				looks[what] = append(looks[what], l)
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	watch("mode", func() bool { st, err := os.Stat(pb); return err == nil && st.Mode().Perm() == 0o644 })
	watch("bytes", func() bool { b := make([]byte, 3); _, err := h.ReadAt(b, 0); return err == nil && string(b) == "old" })
	watch("name", func() bool { _, err := os.Lstat(filepath.Join(b, "gone")); return err == nil })
	changed := map[string]time.Time{}
	var cmu sync.Mutex
	var cw sync.WaitGroup
	change := func(what string, f func() error) {
		cw.Add(1)
		go func() {
			defer cw.Done()
			err := f()
			cmu.Lock()
			changed[what] = time.Now()
			cmu.Unlock()
			if err != nil {
				t.Error(what, err)
			}
		}()
	}
	change("mode", func() error { return os.Chmod(pa, 0o600) })
	change("bytes", func() error { return os.WriteFile(pa, []byte("new"), 0o644) })
	change("name", func() error { return os.Remove(filepath.Join(a, "gone")) })
	cw.Wait()
	for what, at := range changed {
		t.Logf("%s changed %v after the stop", what, at.Sub(stopped))
		if d := at.Sub(stopped); d > 20*time.Second {
			t.Errorf("%s: a stopped mount delayed the change by %v", what, d)
		}
	}
	time.Sleep(1200 * time.Millisecond) // beyond K: whatever still looks is looking at caches
	cont()
	time.Sleep(500 * time.Millisecond)
	close(done)
	wg.Wait()
	for what, ls := range looks {
		for _, l := range ls {
			if l.old && l.at.After(changed[what]) {
				t.Errorf("%s: a look %v after the change had returned shows what was before", what, l.at.Sub(changed[what]))
				break
			}
		}
		t.Logf("%s: %d looks", what, len(ls))
	}
}

func killedWithCaps(t *testing.T, c *harness.Cluster, a, b string) {
	pa, pb := filepath.Join(a, "w"), filepath.Join(b, "w")
	f, err := os.OpenFile(pb, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer f.Close()
	var wrote atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := f.WriteAt([]byte("0123456789"), wrote.Load()*10); err != nil {
				ended <- err
				return
			}
			wrote.Add(1)
		}
	}()
	for wrote.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	must(t, f.Sync())
	synced := wrote.Load() - 1 // the writer goes on beside it
	must(t, syscall.Kill(server(t, c, b), syscall.SIGKILL))
	killed := time.Now()
	select {
	case err := <-ended:
		if e := errnoOf(err); e != syscall.ENOTCONN && e != syscall.ECONNABORTED && e != syscall.EIO {
			t.Errorf("a write on the killed mount: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("a write on the killed mount hangs")
	}
	if _, err := os.Stat(pb); errnoOf(err) != syscall.ENOTCONN {
		t.Errorf("stat on the killed mount: %v", err)
	}
	n := wrote.Load()
	got, err := os.ReadFile(pa)
	must(t, err)
	t.Logf("the dead mount's file was readable %v after the kill: %d bytes, %d acknowledged", time.Since(killed), len(got), n*10)
	if d := time.Since(killed); d > 20*time.Second {
		t.Errorf("a dead mount delayed a read by %v", d)
	}
	if int64(len(got)) < min(synced, 20)*10 || !bytes.Equal(got, bytes.Repeat([]byte("0123456789"), int(n)+1)[:len(got)]) {
		t.Errorf("%d bytes are there, %d were acknowledged and %d fsynced", len(got), n*10, min(synced, 20)*10)
	}
	must(t, os.WriteFile(pa, []byte("on"), 0o644))
}
