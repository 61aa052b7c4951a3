package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

func setPin(dir, rank string) error { return unix.Setxattr(dir, "ceph.dir.pin", []byte(rank), 0) }

// A directory that is pinned to another rank while it is empty is served by that rank: two mounts
// work in it, locks go between them, and each rank that dies is replaced without the other's
// directories, or what they hold, noticing more than a pause.
func TestAPinnedDirectory(t *testing.T) {
	t.Parallel()
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--ranks", "2", "--standbys", "2", "--beacon-interval", "500ms"))
	a, b := c.Mount(), c.Mount()
	held := awaitHolders(t, c, 2, 2)
	pin := func(dir, rank string, want error) {
		t.Helper()
		if err := setPin(dir, rank); !errors.Is(err, want) {
			t.Fatalf("pin %s to %s: %v, want %v", filepath.Base(dir), rank, err, want)
		}
	}
	in := func(m string, names ...string) string { return filepath.Join(append([]string{m, "d"}, names...)...) }
	put := func(path, text string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	same := func(path, text string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	must(t, os.Mkdir(in(a), 0o755))
	if _, err := os.Stat(in(b, "f")); !os.IsNotExist(err) { // b believes that from now on
		t.Fatal(err)
	}
	pin(in(a), "7", unix.EINVAL)
	pin(in(a), "1", nil)
	if got := vxattr(t, in(b), "pin"); got != "1" {
		t.Errorf("pin %q", got)
	}
	put(in(a, "f"), "one")
	same(in(b, "f"), "one")
	must(t, os.Mkdir(in(b, "sub"), 0o755))
	must(t, os.Rename(in(b, "f"), in(b, "sub", "g")))
	same(in(a, "sub", "g"), "one")
	must(t, os.Link(in(a, "sub", "g"), in(a, "twin")))
	if err := os.Rename(in(a, "twin"), filepath.Join(a, "twin")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("rename over the bound: %v", err)
	}
	if err := os.Rename(in(a), filepath.Join(a, "e")); !errors.Is(err, unix.EXDEV) {
		t.Errorf("rename of the bound: %v", err)
	}
	if out := c.Must("fs", "subtrees", "--dir", c.Dir); !strings.Contains(out, "rank 1   /d") {
		t.Errorf("fs subtrees says\n%s", out)
	}

	// A lock that is held and one that is waited for outlive the rank.
	put(in(a, "lock"), "")
	won := make(chan *os.File)
	flock(t, in(a, "lock"), won)
	holder := <-won
	flock(t, in(b, "lock"), won)
	c.Kill(held[1])
	put(in(a, "after1"), "two")
	same(in(b, "after1"), "two")
	select {
	case <-won:
		t.Error("two hold one lock")
	default:
	}
	must(t, holder.Close())
	(<-won).Close()
	c.Kill(held[0])
	put(in(b, "after0"), "three") // rank 1 does not care
	put(filepath.Join(b, "top"), "four")
	same(filepath.Join(a, "top"), "four")
	same(in(a, "after0"), "three")
	awaitHolders(t, c, 2, 0)

	// The rank owns something, so it stays; emptied, the directory goes back.
	refuses(t, c, []string{"rank 1", "fs subtrees"}, "fs", "set", "ranks", "1")
	pin(in(a), "-1", unix.EMLINK) // sub/g and twin are one inode, which stays with its rank
	if err := unix.Rmdir(in(a)); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("rmdir: %v", err)
	}
	want := "5" // sub/g, which is twin and counts once, lock, after1, after0, top
	for end := time.Now().Add(60 * time.Second); vxattr(t, a, "rfiles") != want; {
		if time.Now().After(end) {
			t.Fatalf("%s files below the root", vxattr(t, a, "rfiles"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	left, err := os.ReadDir(in(b))
	must(t, err)
	for _, e := range left {
		must(t, os.RemoveAll(in(b, e.Name())))
	}
	pin(in(a), "-1", nil)
	put(in(b, "home"), "five")
	same(in(a, "home"), "five")
	must(t, os.Mkdir(filepath.Join(a, "e"), 0o755))
	pin(filepath.Join(a, "e"), "1", nil)
	must(t, unix.Rmdir(filepath.Join(b, "e")))
	if _, err := os.Stat(filepath.Join(a, "e")); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
}
