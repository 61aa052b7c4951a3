package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

func handleOf(t *testing.T, p string) unix.FileHandle {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, p, 0)
	if err != nil {
		t.Fatalf("name_to_handle_at %s: %v", p, err)
	}
	return h
}

func openHandle(t *testing.T, mnt string, h unix.FileHandle, flags int) (int, error) {
	t.Helper()
	at, err := unix.Open(mnt, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at)
	return unix.OpenByHandleAt(at, h, flags)
}

// readHandle is what the file of h holds, and the path that the kernel thinks it has.
func readHandle(t *testing.T, mnt string, h unix.FileHandle) (text, path string, err error) {
	t.Helper()
	fd, err := openHandle(t, mnt, h, unix.O_RDONLY)
	if err != nil {
		return "", "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 100)
	n, err := unix.Pread(fd, b, 0)
	if err == unix.EISDIR {
		n, err = 0, nil
	}
	if err != nil {
		return "", "", err
	}
	path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return string(b[:n]), path, err
}

func put(t *testing.T, p, s string) {
	t.Helper()
	if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A file handle names an inode for good: on every mount, whatever it is called by now,
// whoever was restarted, until it is deleted. This is what knfsd asks of a file system.
func TestFileHandles(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	mkdir(t, a+"/d/sub")
	for _, n := range []string{"/d/sub/f", "/d/gone", "/d/gone-open", "/d/linked", "/d/early"} {
		put(t, a+n, "text of "+n)
	}
	must(t, os.Symlink("f", a+"/d/sub/sym"))
	must(t, os.Link(a+"/d/linked", a+"/d/sub/other"))
	h := map[string]unix.FileHandle{}
	for _, n := range []string{"", "/d", "/d/sub", "/d/sub/f", "/d/sub/sym", "/d/gone", "/d/gone-open", "/d/linked"} {
		h[n] = handleOf(t, a+n)
	}
	reads := func(when, mnt, name, path string) {
		t.Helper()
		text, p, err := readHandle(t, mnt, h[name])
		want := ""
		if fi, err := os.Stat(mnt + path); err == nil && !fi.IsDir() {
			want = "text of " + name
		}
		if err != nil || text != want {
			t.Fatalf("%s: handle of %s: %q, %v", when, name, text, err)
		}
		// A kernel that knows the directory at its old place learns of the new one at the next lookup.
		if fi, err := os.Stat(mnt + path); err == nil && fi.IsDir() && strings.Contains(when, "fresh") && p != mnt+path {
			t.Errorf("%s: handle of %s opens %s, want %s", when, name, p, mnt+path)
		}
		var st, other unix.Stat_t
		fd, err := openHandle(t, mnt, h[name], unix.O_PATH)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Fstat(fd, &st))
		must(t, unix.Lstat(mnt+path, &other))
		if st.Ino != other.Ino || st.Mode != other.Mode {
			t.Errorf("%s: handle of %s leads to inode %#x, the name to %#x", when, name, st.Ino, other.Ino)
		}
	}
	stale := func(when, mnt, name string) {
		t.Helper()
		if text, _, err := readHandle(t, mnt, h[name]); !errors.Is(err, syscall.ESTALE) {
			t.Errorf("%s: handle of the deleted %s: %q, %v; want ESTALE", when, name, text, err)
		}
	}
	all := func(when, mnt string, at map[string]string) {
		t.Helper()
		for name, path := range at {
			reads(when, mnt, name, path)
		}
		fd, err := openHandle(t, mnt, h["/d/sub/sym"], unix.O_PATH)
		must(t, err)
		defer unix.Close(fd)
		buf := make([]byte, 10)
		if n, err := unix.Readlinkat(fd, "", buf); err != nil || string(buf[:n]) != "f" {
			t.Errorf("%s: the symlink of a handle reads %q, %v", when, buf[:n], err)
		}
	}
	at := map[string]string{"": "", "/d": "/d", "/d/sub": "/d/sub", "/d/sub/f": "/d/sub/f", "/d/linked": "/d/linked"}
	// On b nobody has looked anything up: each handle is an inode that no cache of b knows.
	all("cold, on another mount", b, at)
	all("warm", a, at)

	must(t, os.Mkdir(b+"/e", 0o755))
	must(t, os.Rename(b+"/d/sub", b+"/e/moved"))
	must(t, os.Rename(b+"/e/moved/f", b+"/e/g"))
	must(t, os.Remove(b+"/d/linked")) // the other name stays
	at = map[string]string{"": "", "/d": "/d", "/d/sub": "/e/moved", "/d/sub/f": "/e/g", "/d/linked": "/e/moved/other"}
	all("after renames by another host", b, at)
	all("after renames by another host", a, at)

	open, err := os.Open(a + "/d/gone-open")
	must(t, err)
	defer open.Close()
	must(t, os.Remove(a+"/d/gone"))
	must(t, os.Remove(a+"/d/gone-open"))
	for _, m := range []string{b, a} {
		stale("deleted", m, "/d/gone")
	}
	stale("deleted but open elsewhere", b, "/d/gone-open")
	if text, _, err := readHandle(t, a, h["/d/gone-open"]); err != nil || text != "text of /d/gone-open" {
		t.Errorf("deleted but open here: %q, %v", text, err)
	}
	must(t, open.Close())

	fresh := c.Mount()
	all("a fresh mount", fresh, at)
	stale("a fresh mount", fresh, "/d/gone")
	c.Kill("mds.a")
	c.Start()
	again := c.Mount()
	all("a fresh mount after a restart of the rank", again, at)
	all("an old mount after a restart of the rank", b, at)
	stale("after a restart of the rank", again, "/d/gone")
	stale("after a restart of the rank", again, "/d/gone-open")
	if _, err := os.ReadDir(again + "/e/moved"); err != nil {
		t.Error(err)
	}
	// A number that was never given out.
	like := h["/d/sub/f"]
	bad := unix.NewFileHandle(like.Type(), append([]byte(nil), like.Bytes()...))
	bad.Bytes()[3] ^= 0x40
	if _, err := openHandle(t, again, bad, unix.O_RDONLY); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("handle of a number that nobody has: %v", err)
	}
}

// A sub-directory that is mounted is a root: nothing above it can be reached, and it stays
// the root wherever others move it.
func TestSubdirMounts(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	mkdir(t, m+"/pods/one/in")
	put(t, m+"/secret", "secret")
	put(t, m+"/pods/one/f", "one")
	put(t, m+"/pods/one/in/g", "g")
	must(t, os.Symlink("one", m+"/pods/sym"))
	must(t, os.Link(m+"/secret", m+"/pods/one/shared"))
	secret, above, inside := handleOf(t, m+"/secret"), handleOf(t, m+"/pods"), handleOf(t, m+"/pods/one/in/g")

	put(t, m+"/other", "other")
	other := handleOf(t, m+"/other")
	s := c.Mount("--subdir", "/pods/one")
	list := func(want string) {
		t.Helper()
		es, err := os.ReadDir(s)
		must(t, err)
		var names []string
		for _, e := range es {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Fatalf("the mounted sub-directory lists %q, want %q", got, want)
		}
	}
	list("f in shared")
	put(t, s+"/in/new", "new")
	if b, err := os.ReadFile(m + "/pods/one/in/new"); err != nil || string(b) != "new" {
		t.Fatalf("%q, %v", b, err)
	}
	var in, root, up unix.Stat_t
	must(t, unix.Lstat(m+"/pods/one", &in))
	must(t, unix.Lstat(s, &root))
	must(t, unix.Lstat(s+"/in/..", &up))
	if root.Ino != in.Ino || up.Ino != in.Ino {
		t.Errorf("root has inode %#x, in/.. %#x, want %#x", root.Ino, up.Ino, in.Ino)
	}
	// Handles: those of what is inside work, all others are stale.
	if text, p, err := readHandle(t, s, inside); err != nil || text != "g" {
		t.Errorf("handle inside: %q %q %v", text, p, err)
	}
	fd, err := openHandle(t, s, handleOf(t, s+"/in"), unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, err)
	unix.Close(fd)
	if text, _, err := readHandle(t, s, secret); err != nil || text != "secret" {
		t.Errorf("handle of a file with one name inside: %q %v", text, err)
	}
	for what, h := range map[string]unix.FileHandle{"a file outside": other, "the directory above": above, "the volume's root": handleOf(t, m)} {
		fd, err := openHandle(t, s, h, unix.O_PATH)
		if err == nil {
			var st unix.Stat_t
			must(t, unix.Fstat(fd, &st))
			unix.Close(fd)
			if st.Ino == root.Ino {
				continue // node 1 is our root
			}
		}
		if !errors.Is(err, syscall.ESTALE) {
			t.Errorf("handle of %s: %v, want ESTALE", what, err)
		}
	}
	// Changes of others show; the root follows its inode.
	put(t, m+"/pods/one/late", "late")
	list("f in late shared")
	must(t, os.Rename(m+"/pods/one", m+"/elsewhere"))
	put(t, s+"/after", "after")
	if b, err := os.ReadFile(m + "/elsewhere/after"); err != nil || string(b) != "after" {
		t.Fatalf("%q, %v", b, err)
	}
	// … also over a restart of the rank.
	c.Kill("mds.a")
	c.Start()
	put(t, s+"/after2", "after2")
	list("after after2 f in late shared")
	// A removed root is an empty directory that takes no names.
	must(t, os.RemoveAll(m+"/elsewhere"))
	if err := os.WriteFile(s+"/x", nil, 0o644); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("create in a removed root: %v", err)
	}
	list("")

	for sub, words := range map[string][]string{
		"/pods/none":  {"/pods/none", "no such file"},
		"/secret":     {"/secret", "not a directory"},
		"/pods/sym":   {"/pods/sym", "not a directory"},
		"/pods/../..": {".."},
	} {
		refuses(t, c, words, "mount", "--conf", c.Conf(), "--subdir", sub, t.TempDir())
	}
	c.Unmount(s)
}

// More open files than a process may have descriptors: none of them costs the mount one.
func TestManyOpenFiles(t *testing.T) {
	const n = 12_000
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n + 2000, Max: max(old.Max, n+2000)}); err != nil {
		t.Skipf("descriptors for ourselves: %v", err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	c := harness.Up(t, harness.Limit(15*time.Minute)) // 48 000 operations, on however slow a machine
	m := c.Mount()
	fds := make([]int, n)
	for i := range fds {
		dir := filepath.Join(m, fmt.Sprint(i%10))
		if i < 10 {
			must(t, os.Mkdir(dir, 0o755))
		}
		fd, err := unix.Open(fmt.Sprintf("%s/%d", dir, i), unix.O_CREAT|unix.O_RDWR, 0o644)
		if err != nil {
			t.Fatalf("open file %d: %v", i, err)
		}
		fds[i] = fd
	}
	for _, pid := range c.MountPIDs() {
		own, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		must(t, err)
		if len(own) > 200 {
			t.Errorf("the mount process has %d descriptors", len(own))
		}
	}
	for i, fd := range fds {
		if _, err := unix.Pwrite(fd, fmt.Appendf(nil, "%08d", i), 0); err != nil {
			t.Fatalf("write to file %d: %v", i, err)
		}
	}
	b := make([]byte, 8)
	for i, fd := range fds {
		if _, err := unix.Pread(fd, b, 0); err != nil || string(b) != fmt.Sprintf("%08d", i) {
			t.Fatalf("file %d reads %q, %v", i, b, err)
		}
		must(t, unix.Close(fd))
	}
}
