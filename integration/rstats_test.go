package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// Two mounts change a tree, and what every directory of it says of itself becomes what du and
// find say, on both, also over the death of the metadata daemon.
func TestRecursiveStatistics(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	root := filepath.Join(a, "tree")
	write := func(p string, n int) { must(t, os.WriteFile(p, bytes.Repeat([]byte("x"), n), 0o644)) }
	for _, d := range []string{"a/b/c/d/e", "a/x", "z/y"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for i := range 40 {
		write(filepath.Join(a, "tree/a/b/c/d/e", fmt.Sprint("f", i)), 1000*i)
		write(filepath.Join(b, "tree/z/y", fmt.Sprint("g", i)), 7*i)
	}
	must(t, os.Symlink("somewhere/else", filepath.Join(root, "a/x/link")))
	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(root, names)
	must(t, err)
	if strings.Contains(string(names[:n]), "ceph.") {
		t.Errorf("listed: %q", names[:n])
	}
	told(t, a, b, "tree")

	// One file, two names: it counts where the first is, then where the other one is.
	must(t, os.Link(filepath.Join(b, "tree/a/b/c/d/e/f9"), filepath.Join(b, "tree/z/twin")))
	sums(t, b, "tree/z", 7*40*39/2, 40)
	must(t, os.Remove(filepath.Join(root, "a/b/c/d/e/f9")))
	sums(t, b, "tree/z", 7*40*39/2+9000, 41)
	told(t, a, b, "tree")

	must(t, os.Rename(filepath.Join(b, "tree/a/b/c"), filepath.Join(b, "tree/z/moved")))
	must(t, os.Truncate(filepath.Join(a, "tree/z/moved/d/e/f30"), 5))
	must(t, os.RemoveAll(filepath.Join(a, "tree/a/x")))
	write(filepath.Join(b, "tree/z/late"), 12345)
	c.Kill("mds.a")
	c.Start()
	told(t, a, b, "tree")

	// A handle that stays open: its size arrives with the write-back.
	f, err := os.Create(filepath.Join(b, "tree/z/open"))
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 100_000))
	must(t, err)
	told(t, a, b, "tree")

	before := vxattr(t, filepath.Join(a, "tree"), "rctime")
	must(t, os.Remove(filepath.Join(a, "tree/z/moved/d/e/f30")))
	eventually(t, "rctime shows a removal deep below", func() string {
		if now := vxattr(t, filepath.Join(b, "tree"), "rctime"); now <= before {
			return now + ", before it was " + before
		}
		return ""
	})
	for _, name := range []string{"nonsense", "rbytes"} {
		if _, err := unix.Getxattr(filepath.Join(a, map[string]string{"nonsense": "tree", "rbytes": "tree/z/late"}[name]), "ceph.dir."+name, nil); err != unix.ENODATA {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func vxattr(t *testing.T, p, name string) string {
	t.Helper()
	buf := make([]byte, 64)
	n, err := unix.Getxattr(p, "ceph.dir."+name, buf)
	if err != nil {
		t.Fatalf("%s of %s: %v", name, p, err)
	}
	return string(buf[:n])
}

// eventually waits for what lags; the limit only says that it never came.
func eventually(t *testing.T, what string, wrong func() string) {
	t.Helper()
	var last string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if last = wrong(); last == "" {
			return
		}
	}
	t.Fatalf("%s: %s", what, last)
}

func sums(t *testing.T, mount, dir string, size, files int) {
	t.Helper()
	eventually(t, dir, func() string {
		got := vxattr(t, filepath.Join(mount, dir), "rbytes") + " bytes, " + vxattr(t, filepath.Join(mount, dir), "rfiles") + " files"
		if want := fmt.Sprintf("%d bytes, %d files", size, files); got != want {
			return got + ", want " + want
		}
		return ""
	})
}

// told compares every directory below with what find and du say on the other mount.
func told(t *testing.T, a, b, tree string) {
	t.Helper()
	type below struct{ size, files, dirs, own, subdirs int }
	all := map[string]*below{}
	out, err := exec.Command("find", filepath.Join(b, tree), "-printf", "%y %s %P\\n").Output()
	must(t, err)
	for line := range strings.Lines(string(out)) {
		kind, size, path := "", 0, ""
		if n, err := fmt.Sscanf(line, "%s %d %s", &kind, &size, &path); n < 2 {
			t.Fatalf("find printed %q: %v", line, err)
		}
		if kind == "d" {
			all[path] = &below{dirs: 1}
		}
		for at, direct := path, true; at != ""; direct = false {
			if at = filepath.Dir(at); at == "." {
				at = ""
			}
			up := all[at] // find shows a directory before what is in it
			if direct {
				up.own++
			}
			switch {
			case kind != "d":
				up.size += size
				up.files++
			default:
				up.dirs++
				if direct {
					up.subdirs++
				}
			}
		}
	}
	out, err = exec.Command("sh", "-c", `find "$1" ! -type d -print0 | du -bc --files0-from=- | tail -1`, "du", filepath.Join(b, tree)).Output()
	must(t, err)
	if got := strings.Fields(string(out))[0]; got != strconv.Itoa(all[""].size) {
		t.Fatalf("du says %s, find %d", got, all[""].size)
	}
	for path, w := range all {
		want := []int{w.size, w.files, w.dirs, w.files + w.dirs, w.own, w.subdirs, w.own - w.subdirs}
		for _, m := range []string{a, b} {
			eventually(t, path, func() string {
				var got []int
				for _, name := range []string{"rbytes", "rfiles", "rsubdirs", "rentries", "entries", "subdirs", "files"} {
					n, err := strconv.Atoi(vxattr(t, filepath.Join(m, tree, path), name))
					must(t, err)
					got = append(got, n)
				}
				if !slices.Equal(got, want) {
					return fmt.Sprintf("%v, du and find say %v", got, want)
				}
				return ""
			})
		}
	}
}
