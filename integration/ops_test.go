package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/wire"
)

// says runs a command that must succeed and say the words.
func says(t *testing.T, c *harness.Cluster, words []string, args ...string) string {
	t.Helper()
	out := c.Must(args...)
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("capstan %s: the answer lacks %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// Whoever is called at night has these: each verb answers, in JSON too, and a wrong word says
// which would be right.
func TestOperatorSees(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	dir := mkdir(t, filepath.Join(m, "d"))
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("hi"); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	ino := fmt.Sprintf("%#x", st.Ino)
	path := f.Name()
	for _, v := range []struct {
		words []string
		args  []string
	}{
		{[]string{"health   ok", "osd.2", "active"}, []string{"status"}},
		{[]string{m, "open"}, []string{"sessions"}},
		{[]string{ino, "d/f", m}, []string{"caps", path}},
		{[]string{ino}, []string{"caps", ino}},
		{[]string{ino}, []string{"caps", "/d/f"}},
		{[]string{ino, "ifile", "iauth", "dentry"}, []string{"locks", path}},
		{[]string{"nothing waits"}, []string{"why"}},
		{[]string{"nothing waits"}, []string{"why", path}},
		{[]string{"sessions", "why"}, []string{"daemon", "mds.a"}},
		{[]string{"lease_ms", "active"}, []string{"daemon", "mds.a", "rank"}},
		{[]string{m}, []string{"daemon", m, "status"}},
		{[]string{"osd.0", "up"}, []string{"osd", "tree"}},
		{[]string{"osd.0", "of"}, []string{"osd", "df"}},
		{[]string{"active"}, []string{"fs", "dump"}},
		{[]string{"1.0", "PRIMARY"}, []string{"pg", "ls"}},
		{[]string{"none"}, []string{"blocklist", "ls"}},
		{nil, []string{"sync", path}},
	} {
		says(t, c, v.words, v.args...)
		if out := c.Must(append(v.args, "--json")...); !json.Valid([]byte(out)) {
			t.Errorf("capstan %s --json: no JSON:\n%s", strings.Join(v.args, " "), out)
		}
	}
	refuses(t, c, []string{"no Capstan mount", "inode number"}, "caps", "/etc/passwd")
	refuses(t, c, []string{"0x9999", "cache"}, "locks", "0x9999")
	refuses(t, c, []string{"osd.7", "osd.0, osd.1"}, "daemon", "osd.7")
	refuses(t, c, []string{"frobnicate", "rank, sessions"}, "daemon", "mds.a", "frobnicate")
	refuses(t, c, []string{"/etc", "no Capstan mount"}, "sync", "/etc")
	refuses(t, c, []string{"stats", "status"}, "stats")
	refuses(t, c, []string{"osd.7"}, "osd", "out", "osd.7")

	// The mount is busy with our own open file.
	refuses(t, c, []string{m, "busy", fmt.Sprintf("(pid %d)", os.Getpid()), "--lazy"}, "umount", m)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the refused umount did harm: %v", err)
	}

	// One OSD less: status says what is wrong and what helps.
	c.Kill("osd.1")
	within(t, 20, "a warning about osd.1", func() bool {
		out := c.Must("status")
		return strings.Contains(out, "warning  osd.1 is down") && strings.Contains(out, "capstan dev up") && strings.Contains(out, "too few replicas") && strings.Contains(out, "OSD_DOWN")
	})
	before := c.Procs()
	c.Start()
	for i, p := range c.Procs() {
		if same := p.PID == before[i].PID; same == (p.Name == "osd.1") {
			t.Errorf("dev up after the death of osd.1: %+v became %+v", before[i], p)
		}
	}
	c.WaitClean(60 * time.Second)
	says(t, c, []string{"health   ok"}, "status")
}

// sync is exact: what was written through the mount survives all of it being killed.
func TestSyncVerbIsExact(t *testing.T) {
	c := harness.Up(t, harness.Args("--session-validity", "3s")) // the dead mount is waited for
	m := c.Mount()
	for i := range 50 {
		if err := os.WriteFile(filepath.Join(m, fmt.Sprintf("f%d", i)), []byte(strings.Repeat("x", 1000+i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.Must("sync", m)
	c.KillMounts()
	c.Kill()
	c.Start()
	m = c.Mount()
	for i := range 50 {
		b, err := os.ReadFile(filepath.Join(m, fmt.Sprintf("f%d", i)))
		if err != nil || len(b) != 1000+i {
			t.Errorf("f%d: %d bytes, %v", i, len(b), err)
		}
	}
}

// Two hands start the same cluster at once: one of them does, the other is told or finds it up.
// Down is idempotent; a mount while nobody runs ends soon, and names who does not answer.
func TestDevVerbsBearHaste(t *testing.T) {
	c := harness.Up(t)
	c.Stop()
	c.Must("dev", "down", "--dir", c.Dir)
	mon := c.Proc("mon.a").Addr
	began := time.Now()
	refuses(t, c, []string{"no monitor answers", "running"}, "mount", "--conf", c.Conf(), t.TempDir())
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("mount without monitors took %v (mon.a was at %s)", d, mon)
	}
	var wg sync.WaitGroup
	var outs [2]string
	var errs [2]error
	for i := range 2 {
		wg.Go(func() { outs[i], errs[i] = c.Run("dev", "up", "--dir", c.Dir) })
	}
	wg.Wait()
	for i := range 2 {
		if errs[i] != nil && !strings.Contains(outs[i], "in use by another capstan process") {
			t.Errorf("dev up %d: %v\n%s", i, errs[i], outs[i])
		}
	}
	if errs[0] != nil && errs[1] != nil {
		t.Fatal("neither came up")
	}
	if n := len(c.Procs()); n != 5 {
		t.Errorf("%d daemons", n)
	}
	m := c.Mount()
	if err := os.WriteFile(filepath.Join(m, "x"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// demo is a running `capstan demo`.
type demo struct {
	cmd *exec.Cmd
	out *os.File
}

func startDemo(t *testing.T, dir string) *demo {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{cmd: exec.Command(harness.Binary(t), "demo", "--dir", dir), out: out}
	d.cmd.Stdout, d.cmd.Stderr = out, out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
	})
	within(t, 30, "demo", func() bool { return strings.Contains(d.said(), "Capstan is up") })
	return d
}

func (d *demo) said() string {
	b, _ := os.ReadFile(d.out.Name())
	return string(b)
}

// stop is Ctrl-C: it must end soon and with 0.
func (d *demo) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	d.cmd.Process.Signal(syscall.SIGINT)
	err := d.cmd.Wait()
	if took := time.Since(began); err != nil || took > 18*time.Second { // 20 s is where it would give up
		t.Fatalf("Ctrl-C: %v after %v:\n%s", err, took, d.said())
	}
}

// The demo's whole life: from nothing, stopped, again, killed, again, stopped while in use.
func TestDemo(t *testing.T) {
	harness.NeedMount(t)
	harness.Binary(t)
	dir, err := os.MkdirTemp("/var/tmp", "capstan-demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mnt := filepath.Join(dir, "mnt")
	d := startDemo(t, dir)
	if err := durable(mnt, "a", []byte("first")); err != nil {
		t.Fatal(err)
	}
	d.stop(t)

	d = startDemo(t, dir) // nothing was dirty: a clean stop needs no flush to end
	d.stop(t)

	d = startDemo(t, dir)
	if err := durable(mnt, "b", []byte("second")); err != nil {
		t.Fatal(err)
	}
	d.cmd.Process.Kill()
	d.cmd.Wait()

	d = startDemo(t, dir) // over the dead mount
	for name, want := range map[string]string{"a": "first", "b": "second"} {
		if got, err := os.ReadFile(filepath.Join(mnt, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	f, err := os.Create(filepath.Join(mnt, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.stop(t)
	if out := d.said(); !strings.Contains(out, "busy") || !strings.Contains(out, fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("a busy mount was detached without a word:\n%s", out)
	}
	if _, err := f.WriteString("x"); err == nil {
		t.Error("a write to a stopped demo succeeded")
	}

	// Somebody else's file system there is not touched.
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(harness.Binary(t), "demo", "--dir", dir).CombinedOutput()
	if err := errors.Join(unix.Unmount(mnt, 0)); err != nil {
		t.Errorf("the tmpfs is gone: %v", err)
	}
	if err == nil || !strings.Contains(string(out), "tmpfs is mounted there already") {
		t.Errorf("demo over a tmpfs: %v\n%s", err, out)
	}
}

// Without root the mount goes by way of fusermount3.
func TestMountWithoutRoot(t *testing.T) {
	harness.NeedMount(t)
	helper, err := exec.LookPath("fusermount3")
	if err != nil {
		t.Skip("fusermount3 is not installed")
	}
	if fi, err := os.Stat(helper); err != nil || fi.Mode()&os.ModeSetuid == 0 {
		t.Skip("fusermount3 is not setuid root")
	}
	if fi, err := os.Stat("/dev/fuse"); err != nil || fi.Mode().Perm()&0o006 != 0o006 {
		t.Skip("/dev/fuse is for root only")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	const nobody = 65534
	home, err := os.MkdirTemp("/var/tmp", "capstan-nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	bin := filepath.Join(home, "capstan")
	if out, err := exec.Command("cp", harness.Binary(t), bin).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	mnt := filepath.Join(home, "mnt")
	for _, d := range []string{home, mkdir(t, mnt)} {
		if err := errors.Join(os.Chown(d, nobody, nobody), os.Chmod(d, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	as := func(args ...string) (string, error) {
		cmd := exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=+all", "--"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	c := harness.Up(t)
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mnt, unix.MNT_DETACH) })
	if out, err := as(bin, "mount", "--conf", c.Conf(), "--log", filepath.Join(home, "log"), mnt); err != nil {
		t.Fatalf("mount as nobody: %v\n%s", err, out)
	}
	// The volume's root is root's: make a place for nobody through a mount of root.
	m := c.Mount()
	pub := mkdir(t, filepath.Join(m, "pub"))
	if err := os.Chmod(pub, 0o777); err != nil {
		t.Fatal(err)
	}
	if out, err := as("sh", "-ec", "echo hi > "+mnt+"/pub/x; cat "+mnt+"/pub/x; "+bin+" sync "+mnt); err != nil || out != "hi\n" {
		t.Errorf("write as nobody: %v\n%s", err, out)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(pub, "x"), &st); err != nil || st.Uid != nobody {
		t.Errorf("the file belongs to %d, %v", st.Uid, err)
	}
	if out, err := as("sh", "-c", "exec 5< "+mnt+"/pub/x; "+bin+" umount "+mnt); err == nil || !strings.Contains(out, "busy") {
		t.Errorf("umount of a busy mount as nobody: %v\n%s", err, out)
	}
	if out, err := as(bin, "umount", mnt); err != nil {
		t.Errorf("umount as nobody: %v\n%s", err, out)
	}
}

// Beyond the largest file there is EFBIG at once. (A write there waited for a range that no rank
// gives, found by stress-ng's fsize.)
func TestWritesBeyondTheLargestFileAreRefused(t *testing.T) {
	c := harness.Up(t, harness.Args("--osds", "1"))
	f, err := os.Create(filepath.Join(c.Mount(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), wire.MaxFileBytes-1); err != nil {
		t.Error(err)
	}
	for _, off := range []int64{wire.MaxFileBytes, 1 << 45, 1<<63 - 2} {
		if _, err := f.WriteAt([]byte("x"), off); errnoOf(err) != syscall.EFBIG {
			t.Errorf("write at %d: %v", off, err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, off, 1); errnoOf(err) != syscall.EFBIG {
			t.Errorf("fallocate at %d: %v", off, err)
		}
	}
}
