package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/capstan-fs/capstan/integration/harness"
)

// refuses runs a command that must fail and name what it failed on.
func refuses(t *testing.T, c *harness.Cluster, words []string, args ...string) {
	t.Helper()
	out, err := c.Run(args...)
	if err == nil {
		t.Fatalf("capstan %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("capstan %s: the message lacks %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	if strings.Contains(out, "goroutine ") {
		t.Errorf("capstan %s died of it:\n%s", strings.Join(args, " "), out)
	}
}

func TestBadMountpointsAreRefused(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refuses(t, c, []string{file, "directory"}, "mount", "--conf", c.Conf(), file)
	refuses(t, c, []string{"/no/such/dir"}, "mount", "--conf", c.Conf(), "/no/such/dir")
	refuses(t, c, []string{m, "mounted"}, "mount", "--conf", c.Conf(), m)
	refuses(t, c, []string{"/no/such.conf"}, "mount", "--conf", "/no/such.conf", t.TempDir())
	refuses(t, c, nil, "umount", t.TempDir())
}

func TestOptionsOfLaterIssuesAreRefused(t *testing.T) {
	c := harness.Up(t)
	for _, o := range [][]string{{"--ranks", "2"}, {"--standbys", "1"}, {"--mons", "3"}} {
		refuses(t, c, []string{o[0]}, append([]string{"dev", "up", "--dir", t.TempDir()}, o...)...)
	}
}

func TestForeignAndNewerDataDirectoriesAreRefused(t *testing.T) {
	a, b := harness.Up(t), harness.Up(t)
	a.Stop()
	// osd.1 of another cluster is put in place of ours.
	if err := os.Rename(filepath.Join(a.Dir, "osd.1"), filepath.Join(a.Dir, "ours")); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	if err := os.Rename(filepath.Join(b.Dir, "osd.1"), filepath.Join(a.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	refuses(t, a, []string{"osd.1", "cluster"}, "dev", "up", "--dir", a.Dir)
	if err := os.RemoveAll(filepath.Join(a.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(a.Dir, "ours"), filepath.Join(a.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	a.Start()
	m := a.Mount()
	if err := os.WriteFile(filepath.Join(m, "x"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The monitor's address is in everybody's configuration, so it cannot just take another one.
func TestPortInUseIsNamed(t *testing.T) {
	c := harness.Up(t)
	addr := c.Proc("mon.a").Addr
	c.Kill("mon.a")
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refuses(t, c, []string{addr}, "dev", "up", "--dir", c.Dir)
}

// A cluster of 1 GiB fills up: ENOSPC, no daemon dies, unlink works, the space comes back.
func TestFullClusterHealsByDeleting(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	chunk := make([]byte, 4<<20)
	for i := range chunk {
		chunk[i] = byte(i * 7)
	}
	var err error
	n := 0
	for ; n < 600; n++ {
		if err = os.WriteFile(filepath.Join(m, fmt.Sprintf("fill%d", n)), chunk, 0o644); err != nil {
			break
		}
	}
	if e := errnoOf(err); e != syscall.ENOSPC {
		t.Fatalf("after %d files of 4 MiB: %v, want ENOSPC", n, err)
	}
	if n < 100 {
		t.Fatalf("full after %d files of 4 MiB in a cluster of 1 GiB", n)
	}
	var before syscall.Statfs_t
	if err := syscall.Statfs(m, &before); err != nil {
		t.Fatal(err)
	}
	for i := range n + 1 {
		if err := os.Remove(filepath.Join(m, fmt.Sprintf("fill%d", i))); err != nil && !os.IsNotExist(err) {
			t.Fatalf("unlink on a full cluster: %v", err)
		}
	}
	within(t, 30, "the space of deleted files", func() bool {
		return os.WriteFile(filepath.Join(m, "again"), chunk, 0o644) == nil && free(t, m) > uint64(n/2)*4<<20
	})
	for _, p := range c.Procs() {
		if p.PID == 0 || syscall.Kill(p.PID, 0) != nil {
			t.Errorf("%s died of it", p.Name)
		}
	}
}
