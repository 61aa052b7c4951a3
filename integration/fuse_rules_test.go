package integration

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// The rules of reference/fuse.md that need two real mounts of a real cluster.
func TestFuseRules(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	for _, r := range []struct {
		name string
		run  func(t *testing.T, a, b string)
	}{
		{"DirectoryMovedElsewhere", movedElsewhere},
	} {
		t.Run(r.name, func(t *testing.T) {
			mkdir(t, filepath.Join(a, r.name))
			r.run(t, filepath.Join(a, r.name), filepath.Join(b, r.name))
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
