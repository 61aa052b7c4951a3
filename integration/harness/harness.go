// Package harness runs real clusters for tests: the capstan binary, separate processes on
// loopback TCP, kernel mounts. Everything it starts it ends, by pid, and every mount it makes
// it detaches, also when a test hangs: each cluster has a watchdog that dumps what the
// daemons wait for and every goroutine, then unmounts.
package harness

import (
	"bytes"
	"context"
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

	"github.com/capstan-fs/capstan/internal/admin"
)

var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("CAPSTAN_BIN"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "capstan-bin")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "capstan")
	args := []string{"build", "-o", bin}
	if os.Getenv("CAPSTAN_RACE") != "" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/capstan-fs/capstan/cmd/capstan")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// Binary is $CAPSTAN_BIN, or cmd/capstan built once per test process; CAPSTAN_RACE builds it
// with the race detector.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// NeedMount skips a test where no FUSE mount can be made.
func NeedMount(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
}

// Proc is one line of `capstan dev status --json`.
type Proc struct {
	Name  string `json:"name"`
	Role  string `json:"role"`
	PID   int    `json:"pid"`
	Addr  string `json:"addr"`
	State string `json:"state"`
}

// Cluster is a running `capstan dev` cluster.
type Cluster struct {
	Dir    string
	bin    string
	t      testing.TB
	mounts []string
}

// Option changes how a cluster is made.
type Option func(*options)

type options struct {
	args  []string
	limit time.Duration
}

// Args adds flags to `capstan dev up`.
func Args(a ...string) Option { return func(o *options) { o.args = append(o.args, a...) } }

// Limit sets when the watchdog acts (default 4 minutes).
func Limit(d time.Duration) Option { return func(o *options) { o.limit = d } }

// Up makes a cluster in a fresh directory and ends it with the test.
func Up(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	NeedMount(t)
	o := options{limit: 4 * time.Minute}
	for _, f := range opts {
		f(&o)
	}
	dir, err := os.MkdirTemp("/var/tmp", "capstan-test")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Dir: dir, bin: Binary(t), t: t}
	dog := time.AfterFunc(o.limit, c.bark)
	t.Cleanup(func() {
		dog.Stop()
		c.end()
		if t.Failed() && os.Getenv("CAPSTAN_KEEP") != "" {
			t.Logf("kept: %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	c.Start(o.args...)
	return c
}

// Start runs `capstan dev up` on the cluster's directory (again).
func (c *Cluster) Start(args ...string) {
	c.t.Helper()
	c.Must(append([]string{"dev", "up", "--dir", c.Dir}, args...)...)
}

// Stop runs `capstan dev down`.
func (c *Cluster) Stop() {
	c.t.Helper()
	c.Must("dev", "down", "--dir", c.Dir)
}

// Run runs one capstan command and returns what it printed.
func (c *Cluster) Run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), "CAPSTAN_CONF="+c.Conf())
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Must is Run for commands that have to succeed.
func (c *Cluster) Must(args ...string) string {
	c.t.Helper()
	out, err := c.Run(args...)
	if err != nil {
		c.t.Fatalf("capstan %s: %v\n%s\n%s", strings.Join(args, " "), err, out, c.logs())
	}
	return out
}

// Conf is the cluster's configuration file.
func (c *Cluster) Conf() string { return filepath.Join(c.Dir, "capstan.conf") }

// Mount mounts the cluster once more and returns the mountpoint.
func (c *Cluster) Mount(args ...string) string {
	c.t.Helper()
	mnt, err := os.MkdirTemp("/var/tmp", "capstan-mnt")
	if err != nil {
		c.t.Fatal(err)
	}
	c.mounts = append(c.mounts, mnt)
	c.Must(append([]string{"mount", "--conf", c.Conf(), mnt}, args...)...)
	return mnt
}

// Unmount takes a mount down cleanly.
func (c *Cluster) Unmount(mnt string) {
	c.t.Helper()
	c.Must("umount", mnt)
}

// Procs lists the daemons.
func (c *Cluster) Procs() []Proc {
	c.t.Helper()
	var ps []Proc
	out := c.Must("dev", "status", "--dir", c.Dir, "--json")
	if err := json.Unmarshal([]byte(out), &ps); err != nil {
		c.t.Fatalf("dev status --json: %v\n%s", err, out)
	}
	return ps
}

// Proc finds a daemon by name, as in osd.0.
func (c *Cluster) Proc(name string) Proc {
	c.t.Helper()
	for _, p := range c.Procs() {
		if p.Name == name {
			return p
		}
	}
	c.t.Fatalf("no daemon %s in dev status", name)
	return Proc{}
}

// Kill sends SIGKILL to the daemons named, or to all of them, and waits until they are gone.
func (c *Cluster) Kill(names ...string) {
	c.t.Helper()
	var pids []int
	for _, p := range c.Procs() {
		want := len(names) == 0
		for _, n := range names {
			want = want || n == p.Name
		}
		if want && p.PID > 0 && syscall.Kill(p.PID, syscall.SIGKILL) == nil {
			pids = append(pids, p.PID)
		}
	}
	for _, pid := range pids {
		for range 500 {
			if syscall.Kill(pid, 0) != nil {
				break
			}
			// The first thread is a zombie before the others have let go of what is locked.
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			if bytes.Contains(b, []byte(") Z ")) && len(threads) <= 1 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// MountPIDs are the processes that serve this cluster's mounts.
func (c *Cluster) MountPIDs() []int {
	var pids []int
	ents, _ := os.ReadDir("/proc")
	for _, e := range ents {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		b, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if bytes.HasPrefix(b, []byte(c.bin+"\x00mount\x00")) && bytes.Contains(b, []byte(c.Dir)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// KillMounts sends SIGKILL to the processes that serve mounts, then detaches the mountpoints.
func (c *Cluster) KillMounts() {
	for _, pid := range c.MountPIDs() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, m := range c.mounts {
		unix.Unmount(m, unix.MNT_DETACH)
	}
}

func (c *Cluster) end() {
	for _, m := range c.mounts {
		if _, err := c.Run("umount", m); err != nil {
			unix.Unmount(m, unix.MNT_DETACH)
		}
	}
	for _, pid := range c.MountPIDs() {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	c.fsck()
	if out, err := c.Run("dev", "down", "--dir", c.Dir); err != nil {
		c.t.Logf("dev down: %v\n%s", err, out)
	}
	for _, pid := range c.MountPIDs() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if c.t.Failed() {
		c.t.Log(c.logs())
	}
	for _, m := range c.mounts {
		unix.Unmount(m, unix.MNT_DETACH)
		os.Remove(m)
	}
}

// fsck proves the tree that a test leaves, beside its rank, when the test went well and left
// the cluster whole. A cluster of seeded bugs may be anything.
func (c *Cluster) fsck() {
	var st struct {
		PGs struct {
			Total int `json:"total"`
			Clean int `json:"clean"`
		} `json:"pgs"`
	}
	var ps []Proc
	out, err := c.Run("dev", "status", "--dir", c.Dir, "--json")
	if c.t.Failed() || c.t.Skipped() || err != nil || json.Unmarshal([]byte(out), &ps) != nil || len(ps) == 0 {
		return
	}
	for _, p := range ps {
		if p.PID == 0 {
			return
		}
	}
	out, err = c.Run("status", "--json")
	if err != nil || json.Unmarshal([]byte(out), &st) != nil || st.PGs.Clean < st.PGs.Total || strings.Contains(out, `"WRONG"`) {
		return
	}
	begun := time.Now()
	out, err = c.Run("fsck")
	if err == nil {
		c.t.Logf("fsck: %s (%v)", strings.TrimSpace(out), time.Since(begun).Round(time.Millisecond))
		return
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 4 {
		c.t.Errorf("the tree that the test leaves is not sound:\n%s", out)
		return
	}
	c.t.Logf("fsck came to no end: %v\n%s", err, out)
}

// Why says what waits in the rank and for whom, out of the admin sockets of the mds.
func (c *Cluster) Why() string {
	var sb strings.Builder
	socks, _ := filepath.Glob(filepath.Join(c.Dir, "mds.*", admin.SocketName))
	for _, s := range socks {
		for _, cmd := range []string{"rank", "why"} {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			v, err := admin.Call(ctx, s, cmd, nil)
			cancel()
			fmt.Fprintf(&sb, "%s: %s: %s", s, cmd, v)
			if err != nil {
				fmt.Fprintf(&sb, " %v", err)
			}
			sb.WriteByte('\n')
		}
	}
	return sb.String()
}

// bark dumps every process's goroutines into its log (SIGQUIT), prints them and lets go of
// the mounts, so that a hung system call returns and the test fails with a report.
func (c *Cluster) bark() {
	fmt.Fprintf(os.Stderr, "watchdog: %s took too long\n%s", c.t.Name(), c.Why())
	for _, pid := range c.MountPIDs() {
		syscall.Kill(pid, syscall.SIGQUIT)
	}
	if out, err := c.Run("dev", "status", "--dir", c.Dir, "--json"); err == nil {
		var ps []Proc
		json.Unmarshal([]byte(out), &ps)
		for _, p := range ps {
			if p.PID > 0 {
				syscall.Kill(p.PID, syscall.SIGQUIT)
			}
		}
	}
	time.Sleep(time.Second)
	for _, m := range c.mounts {
		unix.Unmount(m, unix.MNT_DETACH)
	}
	fmt.Fprintln(os.Stderr, c.logs())
	panic("watchdog: " + c.t.Name())
}

// logs returns the tail of every log file.
func (c *Cluster) logs() string {
	var sb strings.Builder
	files, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if len(b) > 6000 {
			b = b[len(b)-6000:]
		}
		fmt.Fprintf(&sb, "==> %s\n%s\n", f, b)
	}
	return sb.String()
}

// WaitClean waits until every PG has all its replicas in sync, as `capstan status --json`
// tells it.
func (c *Cluster) WaitClean(limit time.Duration) {
	c.t.Helper()
	var out string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var st struct {
			PGs struct {
				Total int `json:"total"`
				Clean int `json:"clean"`
			} `json:"pgs"`
		}
		out = c.Must("status", "--json")
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			c.t.Fatalf("status --json: %v\n%s", err, out)
		}
		if st.PGs.Total > 0 && st.PGs.Clean == st.PGs.Total {
			return
		}
	}
	c.t.Fatalf("the PGs did not become clean within %v:\n%s", limit, out)
}
