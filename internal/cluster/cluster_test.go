package cluster

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/wire"
)

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, wanted %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not say %q", err, p)
		}
	}
}

// A directory belongs to one daemon of one cluster; every mix-up is told by name, and nothing
// in it is touched.
func TestDataDirectoryIsOnesOwn(t *testing.T) {
	us, them := wire.UUID{1}, wire.UUID{2}
	dir := filepath.Join(t.TempDir(), "osd.0")
	d, err := Claim(dir, us, "osd", "osd.0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Claim(dir, us, "osd", "osd.0")
	wantError(t, err, dir, "in use by another capstan process")
	d.Close()
	d, err = Claim(dir, wire.UUID{}, "osd", "osd.0")
	if err != nil || d.Meta.Cluster != us.String() {
		t.Fatalf("claimed again: %v %+v", err, d)
	}
	d.Close()
	_, err = Claim(dir, them, "osd", "osd.0")
	wantError(t, err, dir, "belongs to cluster "+us.String(), them.String(), "choose another directory")
	_, err = Claim(dir, us, "osd", "osd.1")
	wantError(t, err, "belongs to osd.0", "osd.1")

	if err := writeMeta(dir, Meta{Cluster: us.String(), Role: "osd", Name: "osd.0", Format: Format + 1}); err != nil {
		t.Fatal(err)
	}
	_, err = Claim(dir, us, "osd", "osd.0")
	wantError(t, err, dir, "data format 2", "newer capstan")
	if err := os.WriteFile(filepath.Join(dir, MetaFile), []byte("\x00\x01"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Claim(dir, us, "osd", "osd.0")
	wantError(t, err, dir, "damaged")

	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Claim(home, us, "osd", "osd.0")
	wantError(t, err, home, "not empty", "choose an empty one")
	if _, err := os.Stat(filepath.Join(home, MetaFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a meta file was written into somebody's home")
	}
	_, err = Claim("", us, "osd", "osd.0")
	wantError(t, err, "osd.0", "--data", "osd_data")
}

// A pid that was given to somebody else after our daemon died must never be signalled.
func TestOnlyTheVeryProcessIsStopped(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	start := startTime(pid)
	if start == 0 {
		t.Fatal("no start time")
	}
	stranger := Process{Name: "osd.0", PID: pid, Start: start - 1}
	if stranger.Alive() {
		t.Error("another life of the pid counts as ours")
	}
	if err := stop([]Process{stranger}, time.Second); err != nil || startTime(pid) != start {
		t.Fatalf("the stranger was stopped (%v)", err)
	}
	path := filepath.Join(t.TempDir(), "p.json")
	ours := Process{Name: "osd.0", Role: "osd", PID: pid, Start: start, Addr: "a:1"}
	if err := ours.save(path); err != nil {
		t.Fatal(err)
	}
	if got, err := loadProcess(path); err != nil || got != ours || !got.Alive() {
		t.Fatalf("%+v %v", got, err)
	}
	if err := stop([]Process{ours}, 5*time.Second); err != nil || ours.Alive() {
		t.Errorf("ours lives on (%v)", err)
	}
}

// One that ignores SIGTERM is killed, and nobody waits for it for ever.
func TestDeafProcessIsKilled(t *testing.T) {
	cmd := exec.Command("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 8)) // the trap is set
	p := Process{Name: "x", PID: cmd.Process.Pid, Start: startTime(cmd.Process.Pid)}
	if err := stop([]Process{p}, 50*time.Millisecond); err != nil || p.Alive() {
		t.Error(err)
	}
	_ = cmd.Wait()
}

func TestMountpointMessages(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CheckMountpoint(dir); err != nil {
		t.Error(err)
	}
	wantError(t, CheckMountpoint(file), file, "no directory")
	wantError(t, CheckMountpoint(dir+"/none"), "does not exist", "mkdir -p")
	wantError(t, CheckMountpoint("/proc"), "/proc", "busy", "proc is mounted there")
	wantError(t, Unmount(dir, false), dir, "nothing is mounted there")
	wantError(t, Unmount("/proc", false), "no Capstan volume")
	if got := unescape(`/a\040b\134c`); got != `/a b\c` {
		t.Errorf("unescaped %q", got)
	}
}

func TestDevDirectoryMessages(t *testing.T) {
	_, err := OpenDev(t.TempDir())
	wantError(t, err, "holds no cluster", "capstan dev up")
	var over conf.Overrides
	d, err := newDev(filepath.Join(t.TempDir(), "d"), &over)
	if err != nil {
		t.Fatal(err)
	}
	d, err = OpenDev(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(d.runPath("x")), 0o755); err != nil {
		t.Fatal(err)
	}
	rows := d.Status()
	if len(rows) != 5 || rows[0].Name != "mds.a" || rows[4] != (DevStatus{Name: "osd.2", Role: "osd", State: "down"}) {
		t.Errorf("%+v", rows)
	}
	if err := d.Down(); err != nil {
		t.Errorf("down of what is down: %v", err)
	}
	d.Conf.Cluster = wire.UUID{9}
	if err := d.Conf.Save(d.ConfPath()); err != nil {
		t.Fatal(err)
	}
	_, err = OpenDev(d.Dir)
	wantError(t, err, d.ConfPath(), "restore one of the two")
}

func TestPortInUseIsExplained(t *testing.T) {
	err := explain("osd.0", "127.0.0.1:6800", "osd_listen", &os.SyscallError{Syscall: "bind", Err: syscall.EADDRINUSE})
	wantError(t, err, "osd.0", "127.0.0.1:6800", "in use by another process", "osd_listen")
}
