package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// A client that is stopped (SIGSTOP), or whose host is cut off, while it may write a file in one
// of three ways. What each makes others wait is bounded by the knobs (V4; docs/locks.md):
//
//	max(R + F, (V + V/3)·1.01)
//
// with V session_validity, R revoke_deadline and F the fence: one change of the OSD map at the
// monitors, the end of the session in the rank's journal, and a look at the file's last objects.
const (
	silentV = 3 * time.Second
	silentR = 2 * time.Second
)

// A cluster of our own takes some milliseconds for F; how long a loaded machine takes for that,
// and for our own wake-up, is not what this is about.
const silentAllowance = 20 * time.Second

func silentBound() time.Duration {
	return max(silentR, (silentV+silentV/3)*101/100) + silentAllowance
}

// silentCase is how the holder comes to hold what it holds.
type silentCase struct {
	holds string // file bits that it must have …
	lacks string // … and must not
	begin func(s *silentScene)
	late  func(s *silentScene) error // what it is in the middle of when it wakes
}

type silentScene struct {
	t      *testing.T
	c      *harness.Cluster
	holder string   // mountpoint
	ours   string   // path as the holder sees it
	theirs string   // as another host does
	f, g   *os.File // the holder's; and in Fw the other's
}

var silentCases = map[string]silentCase{
	// Others write the file, too: each write goes to the OSDs.
	"Fw": {holds: "w", lacks: "xb", begin: func(s *silentScene) {
		if s.g == nil {
			var err error
			s.g, err = os.OpenFile(s.theirs, os.O_RDWR, 0)
			must(s.t, err)
			s.t.Cleanup(func() { s.g.Close() })
		}
		for _, f := range []*os.File{s.g, s.f} {
			_, err := f.WriteAt([]byte("old"), 0)
			must(s.t, err)
		}
	}, late: func(s *silentScene) error { _, err := s.f.WriteAt([]byte("LATE"), 0); return err }},
	// It is alone, and has bytes that are nowhere else.
	"Fb": {holds: "xwb", begin: func(s *silentScene) {
		_, err := s.f.WriteAt([]byte("old, and LATE"), 0)
		must(s.t, err)
	}, late: func(s *silentScene) error { return s.f.Sync() }},
	// It is alone, and only the times are its own to tell.
	"Fx": {holds: "x", begin: func(s *silentScene) {
		must(s.t, s.f.Sync())
		must(s.t, os.Chtimes(s.ours, time.Unix(1e9, 0), time.Unix(1e9, 0)))
	}, late: func(s *silentScene) error { return s.f.Sync() }},
}

// capsOf is what the rank says that a mount may use of a file: by number, since who looks for a
// path asks for attributes.
func capsOf(t *testing.T, c *harness.Cluster, ino uint64, mnt string) string {
	t.Helper()
	var v struct {
		Caps []struct{ Host, Issued string }
	}
	must(t, json.Unmarshal([]byte(c.Must("caps", "--json", "--conf", c.Conf(), fmt.Sprintf("%#x", ino))), &v))
	for _, r := range v.Caps {
		if strings.Contains(r.Host, mnt) {
			_, f, _ := strings.Cut(r.Issued, "F")
			return f
		}
	}
	return ""
}

func TestSilentHolders(t *testing.T) {
	c := harness.Up(t, harness.Args("--osds", "1", "--session-validity", silentV.String(), "--revoke-deadline", silentR.String()))
	other := c.Mount()
	must(t, os.Mkdir(filepath.Join(other, "elsewhere"), 0o755)) // of which no holder knows anything
	ways := []struct {
		name  string
		ready func(t *testing.T) (mount func(...string) string, silence func(mnt string), wake func(mnt string))
	}{
		{"stopped", func(t *testing.T) (func(...string) string, func(string), func(string)) {
			// While a mount is stopped nothing may be executed, nor looked for by its command line: a child
			// closes our files on its way to exec, and FLUSH waits for the mount. So nothing runs beside it.
			var pid int
			mount := func(args ...string) string {
				mnt := c.Mount(args...)
				pid = server(t, c, mnt)
				return mnt
			}
			return mount, func(string) { stopProcess(t, pid) }, func(string) { must(t, syscall.Kill(pid, syscall.SIGCONT)) }
		}},
		{"cut", func(t *testing.T) (func(...string) string, func(string), func(string)) {
			h := c.NewHost(t)
			return h.Mount, func(string) { h.Cut() }, func(string) { h.Heal() }
		}},
	}
	for _, way := range ways {
		run := func(name string, scene func(s *silentScene, silence, wake func(string))) {
			t.Run(way.name+"/"+name, func(t *testing.T) {
				mount, silence, wake := way.ready(t)
				dir := way.name + name // of its own: no other case waits for what it caches of the root
				must(t, os.Mkdir(filepath.Join(other, dir), 0o755))
				holder := mount("--dirty-expire", "1m", "--caps-wanted-delay", "1h") // it says nothing by itself
				s := &silentScene{t: t, c: c, holder: holder, ours: filepath.Join(holder, dir, "f"), theirs: filepath.Join(other, dir, "f")}
				must(t, os.WriteFile(s.ours, []byte("old"), 0o644))
				var err error
				s.f, err = os.OpenFile(s.ours, os.O_RDWR, 0)
				must(t, err)
				defer s.f.Close()
				must(t, s.f.Sync())
				scene(s, silence, wake)
			})
		}
		for bits, sc := range silentCases {
			run(bits, func(s *silentScene, silence, wake func(string)) { silentHolder(s, sc, silence, wake) })
		}
		run("NobodyAsks", nobodyAsks)
	}
}

// stopProcess returns when every thread has stopped: on a busy machine one may answer a REVOKE
// long after the signal was sent.
func stopProcess(t *testing.T, pid int) {
	t.Helper()
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	within(t, 60, "every thread to stop", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		must(t, err)
		for _, f := range tasks {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // it has ended
			}
			if _, state, ok := strings.Cut(string(b), ") "); !ok || state[0] != 'T' {
				return false
			}
		}
		return len(tasks) > 0
	})
}

// has makes the holder hold what the case is about.
func (s *silentScene) has(sc silentCase) {
	fi, err := s.f.Stat()
	must(s.t, err)
	within(s.t, 30, "the holder has F"+sc.holds, func() bool {
		sc.begin(s)
		has := capsOf(s.t, s.c, fi.Sys().(*syscall.Stat_t).Ino, s.holder)
		for _, b := range sc.holds {
			if !strings.ContainsRune(has, b) {
				return false
			}
		}
		return !strings.ContainsAny(has, sc.lacks)
	})
}

func silentHolder(s *silentScene, sc silentCase, silence, wake func(string)) {
	t := s.t
	s.has(sc)
	silence(s.holder)
	woken := sync.OnceFunc(func() { wake(s.holder) })
	defer woken()
	began := time.Now()

	// A file that another mount keeps waiting for is read, and then changed.
	_, err := os.ReadFile(s.theirs)
	if err == nil {
		err = os.Chmod(s.theirs, 0o600)
	}
	waited := time.Since(began)
	must(t, err)
	t.Logf("waited %v", waited.Round(time.Millisecond))
	if waited < silentR {
		t.Errorf("the wait ended after %v, before the fence can have begun", waited)
	}
	if limit := silentBound(); waited > limit {
		t.Errorf("the wait took %v, the bound is %v: %s", waited, limit, s.c.Why())
	}
	must(t, os.WriteFile(s.theirs, []byte("new"), 0o600))
	stamp := time.Unix(1.5e9, 0)
	must(t, os.Chtimes(s.theirs, stamp, stamp))
	changed := time.Now()

	// What it is about to do when it comes back, and its readers, begin before.
	late := make(chan error, 1)
	go func() { late <- sc.late(s) }()
	stop := make(chan struct{})
	seen := make(chan error, 1)
	go func() { seen <- holdersReader(s, changed, stop) }()
	time.Sleep(100 * time.Millisecond) // nothing rests on it: they may begin after the wake-up as well
	woken()

	var lateErr error
	select {
	case lateErr = <-late:
	case <-time.After(60 * time.Second):
		t.Fatal("the late write hangs")
	}
	select {
	case err := <-seen:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		close(stop)
		t.Fatal("the holder's reader never saw the new bytes")
	}
	// A write that was asked for before and said that it failed must not be there. One that the
	// mount's next life has done is a new one, and then everybody sees it.
	for _, p := range []string{s.theirs, s.ours} {
		got, err := os.ReadFile(p)
		must(t, err)
		want := "new"
		if s.lateIsWrite(sc) && lateErr == nil {
			want = "LATE"
		}
		if string(got) != want {
			t.Errorf("%s has %q, want %q; the late write said: %v", p, got, want, lateErr)
		}
		st, err := os.Stat(p)
		must(t, err)
		if want == "new" && !st.ModTime().Equal(stamp) || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mtime %v mode %v, want %v 0600", p, st.ModTime(), st.Mode(), stamp)
		}
	}
	if !s.lateIsWrite(sc) && lateErr == nil {
		t.Error("fsync says that all is well, and what the mount held was lost with its session")
	}
}

// nobodyAsks: what a silent holder has stays its own for as long as nobody asks for it, though others
// work beside it, and it loses nothing. In the long form its session ends after 20 V (4.7, autoclose).
func nobodyAsks(s *silentScene, silence, wake func(string)) {
	t, sc := s.t, silentCases["Fb"]
	s.has(sc)
	silence(s.holder)
	woken := sync.OnceFunc(func() { wake(s.holder) })
	defer woken()
	quiet, want := silentBound()-silentAllowance+silentR, "old, and LATE" // longer than anybody would have waited
	if long() {
		quiet, want = 25*silentV, "old"
	}
	for began := time.Now(); time.Since(began) < quiet; time.Sleep(100 * time.Millisecond) {
		must(t, os.WriteFile(filepath.Join(filepath.Dir(s.theirs), "../elsewhere/f"), []byte("x"), 0o644))
	}
	woken()
	// A read of the other's asks the holder, who has its say first: it comes back with what it has.
	err := s.f.Sync()
	if lost := err != nil; lost != long() {
		t.Errorf("fsync after %v of silence: %v", quiet, err)
	}
	got, err := os.ReadFile(s.theirs)
	must(t, err)
	if string(got) != want {
		t.Errorf("the file has %q, want %q", got, want)
	}
}

func (s *silentScene) lateIsWrite(sc silentCase) bool { return sc.holds == "w" }

// holdersReader reads on the silent mount until it sees the new bytes. A read that began after
// the change had returned may fail; it may not show what was there before.
func holdersReader(s *silentScene, changed time.Time, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		b := make([]byte, 16)
		began := time.Now()
		n, err := unix.Pread(int(s.f.Fd()), b, 0) // one system call: ReadAt goes on behind a short one
		got := string(b[:max(n, 0)])
		switch {
		case n > 0 && strings.HasPrefix(got, "old") && began.After(changed):
			return fmt.Errorf("a read %v after the change had returned shows %q", began.Sub(changed), got)
		case n > 0 && (got == "new" || strings.HasPrefix(got, "LATE")):
			return nil
		case n > 0 && !strings.HasPrefix(got, "old"):
			return fmt.Errorf("a read shows %q, which was never there (%v)", got, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
