package posix

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Check is one promise.
type Check struct {
	Name string
	Run  func(t *testing.T, dir string)
}

// Checks are all of them, in the order of the subjects.
var Checks = []Check{
	{"create and exclusive create", create},
	{"pread, pwrite and holes", preadPwrite},
	{"truncate up and down", truncate},
	{"O_TRUNC, O_APPEND, O_SYNC, O_DIRECT", openFlags},
	{"mkdir and rmdir", mkdirRmdir},
	{"unlinked open files live on", unlinkedOpen},
	{"rename in all cases", rename},
	{"rename flags", renameFlags},
	{"hard links", links},
	{"symlinks", symlinks},
	{"special files", specials},
	{"chmod, chown and set-id bits", modes},
	{"setgid directories", setgidDir},
	{"times to the nanosecond", times},
	{"times follow changes", timesFollow},
	{"statfs", statfs},
	{"extended attributes", xattrs},
	{"ACLs and their inheritance", acls},
	{"readdir offsets", readdirOffsets},
	{"readdir of a large directory", readdirLarge},
	{"fallocate", fallocate},
	{"mmap", mmap},
	{"fsync of files and directories", fsyncs},
	{"O_TMPFILE", tmpfile},
	{"beyond 4 GiB", beyond4G},
	{"sparse files count their blocks", sparse},
	{"long names and paths", longNames},
	{"symlink loops", loops},
	{"permissions of other users", permissions},
	{"sticky directories", sticky},
	{"flock and fcntl locks", locks},
	{"many writers of one file", manyWriters},
	{"SEEK_HOLE and SEEK_DATA", seeks},
	{"copy_file_range", copyRange},
	{"fallocate ZERO_RANGE", zeroRange},
	{"statx birth time", birth},
	{"times of every call", timesOfEvery},
	{"who may set times", utimeRules},
	{"set-id bits in all cases", setIDRules},
	{"sticky directories and rename", stickyRename},
	{"O_TMPFILE rules", tmpfileRules},
	{"O_PATH", oPath},
	{"limits of names and links", nameLimits},
	{"namespaces and limits of xattrs", xattrRules},
	{"numbers of dot and dot-dot", directoryNumbers},
	{"blocks and statfs", blocksAndDu},
	{"readdir while names come and go", seekdirStable},
	{"mappings and msync", mapsAndMsync},
	{"devices, fifos, sockets", devices},
	{"what open refuses", openRules},
}

// Beyond are promises of Capstan that a local file system does not make.
var Beyond = []Check{
	{"inode numbers are never reused", inodeNumbers},
	{"a copy keeps its holes", copyKeepsHoles},
	{"what shifts bytes is refused", shiftsRefused},
	{"ioctls are refused", noIoctls},
	{"RENAME_WHITEOUT is refused", whiteout},
}

// Run runs each of the checks in its own directory below dir.
func Run(t *testing.T, dir string, checks []Check) {
	for i, c := range checks {
		t.Run(strings.ReplaceAll(c.Name, " ", "_"), func(t *testing.T) {
			d := filepath.Join(dir, fmt.Sprintf("check%02d", i))
			ok(t, os.Mkdir(d, 0o777))
			ok(t, os.Chmod(d, 0o777))
			c.Run(t, d)
			if !t.Failed() {
				ok(t, os.RemoveAll(d))
			}
		})
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fails(t testing.TB, what string, got error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func write(t testing.TB, p, s string) {
	t.Helper()
	ok(t, os.WriteFile(p, []byte(s), 0o644))
}

func read(t testing.TB, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	ok(t, err)
	return string(b)
}

func lstat(t testing.TB, p string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	ok(t, unix.Lstat(p, &st))
	return st
}

func create(t *testing.T, d string) {
	f, err := os.OpenFile(d+"/f", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	ok(t, err)
	ok(t, f.Close())
	_, err = os.OpenFile(d+"/f", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	fails(t, "O_EXCL of an existing name", err, syscall.EEXIST)
	_, err = os.Open(d + "/none")
	fails(t, "open of nothing", err, syscall.ENOENT)
	_, err = os.Open(d + "/f/x")
	fails(t, "a file as directory", err, syscall.ENOTDIR)
	old := unix.Umask(0o027)
	f, err = os.OpenFile(d+"/masked", os.O_CREATE|os.O_RDWR, 0o666)
	unix.Umask(old)
	ok(t, err)
	ok(t, f.Close())
	equal(t, "mode under umask 027", lstat(t, d+"/masked").Mode, unix.S_IFREG|0o640)
	f, err = os.OpenFile(d+"/ronly", os.O_CREATE|os.O_RDWR, 0o444)
	ok(t, err)
	_, err = f.Write([]byte("a creator may write what it created read-only"))
	ok(t, err)
	ok(t, f.Close())
}

func preadPwrite(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	for _, off := range []int64{0, 5000, 4095, 12288, 100} {
		_, err := f.WriteAt([]byte("hello"), off)
		ok(t, err)
	}
	b := make([]byte, 12293)
	_, err = f.ReadAt(b, 0)
	ok(t, err)
	want := make([]byte, 12293)
	for _, off := range []int64{0, 5000, 4095, 12288, 100} {
		copy(want[off:], "hello")
	}
	if !bytes.Equal(b, want) {
		t.Fatal("bytes differ")
	}
	n, _ := f.ReadAt(make([]byte, 10), 12290)
	equal(t, "read across the end", n, 3)
	n, _ = f.ReadAt(make([]byte, 10), 20000)
	equal(t, "read past the end", n, 0)
}

func truncate(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, strings.Repeat("x", 10000))
	ok(t, os.Truncate(p, 5000))
	ok(t, os.Truncate(p, 9000))
	equal(t, "shrunk and grown", read(t, p), strings.Repeat("x", 5000)+strings.Repeat("\x00", 4000))
	ok(t, os.Truncate(p, 0))
	equal(t, "size", lstat(t, p).Size, 0)
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("y"), 8<<20+5)
	ok(t, err)
	ok(t, f.Truncate(8<<20))
	ok(t, f.Truncate(8<<20+10))
	b := make([]byte, 10)
	_, err = f.ReadAt(b, 8<<20)
	ok(t, err)
	equal(t, "cut bytes stay cut", string(b), strings.Repeat("\x00", 10))
	fails(t, "truncate of a directory", os.Truncate(d, 0), syscall.EISDIR)
}

func openFlags(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "something")
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
	ok(t, err)
	ok(t, f.Close())
	equal(t, "O_TRUNC", read(t, p), "")
	for i := range 3 {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0)
		ok(t, err)
		_, err = fmt.Fprintf(f, "line %d\n", i)
		ok(t, err)
		ok(t, f.Close())
	}
	equal(t, "O_APPEND", read(t, p), "line 0\nline 1\nline 2\n")
	fd, err := unix.Open(d+"/direct", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if errors.Is(err, syscall.EINVAL) {
		t.Log("no O_DIRECT here")
		return
	}
	ok(t, err)
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	ok(t, err)
	defer unix.Munmap(buf)
	copy(buf, bytes.Repeat([]byte("d"), 8192))
	n, err := unix.Pwrite(fd, buf, 0)
	ok(t, err)
	equal(t, "O_DIRECT write", n, 8192)
	clear(buf)
	n, err = unix.Pread(fd, buf, 0)
	ok(t, err)
	equal(t, "O_DIRECT read", n, 8192)
	equal(t, "O_DIRECT bytes", string(buf), strings.Repeat("d", 8192))
	f, err = os.OpenFile(p, os.O_RDONLY, 0)
	ok(t, err)
	defer f.Close()
	_, err = f.Write([]byte("x"))
	fails(t, "write to a read-only descriptor", err, syscall.EBADF)
	_, err = unix.Open(d, unix.O_WRONLY, 0)
	fails(t, "open of a directory for writing", err, syscall.EISDIR)
	_, err = unix.Open(p, unix.O_DIRECTORY, 0)
	fails(t, "O_DIRECTORY of a file", err, syscall.ENOTDIR)
}

func mkdirRmdir(t *testing.T, d string) {
	ok(t, os.Mkdir(d+"/a", 0o755))
	equal(t, "nlink of an empty directory", lstat(t, d+"/a").Nlink, 2)
	ok(t, os.Mkdir(d+"/a/b", 0o755))
	equal(t, "nlink with one subdirectory", lstat(t, d+"/a").Nlink, 3)
	fails(t, "mkdir twice", os.Mkdir(d+"/a", 0o755), syscall.EEXIST)
	fails(t, "rmdir of a full directory", unix.Rmdir(d+"/a"), syscall.ENOTEMPTY)
	fails(t, "unlink of a directory", unix.Unlink(d+"/a"), syscall.EISDIR)
	write(t, d+"/f", "")
	fails(t, "rmdir of a file", unix.Rmdir(d+"/f"), syscall.ENOTDIR)
	fails(t, "mkdir below a file", os.Mkdir(d+"/f/x", 0o755), syscall.ENOTDIR)
	fails(t, "mkdir below nothing", os.Mkdir(d+"/no/x", 0o755), syscall.ENOENT)
	fails(t, "rmdir of dot", unix.Rmdir(d+"/a/."), syscall.EINVAL)
	ok(t, unix.Rmdir(d+"/a/b"))
	equal(t, "nlink after rmdir", lstat(t, d+"/a").Nlink, 2)
	ok(t, unix.Rmdir(d+"/a"))
	fails(t, "stat of a removed directory", unix.Lstat(d+"/a", new(unix.Stat_t)), syscall.ENOENT)
	// A removed directory that is still open takes no new names.
	ok(t, os.Mkdir(d+"/gone", 0o755))
	fd, err := unix.Open(d+"/gone", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	ok(t, err)
	defer unix.Close(fd)
	ok(t, unix.Rmdir(d+"/gone"))
	_, err = unix.Openat(fd, "x", unix.O_CREAT|unix.O_WRONLY, 0o644)
	fails(t, "create in a removed directory", err, syscall.ENOENT)
}

func unlinkedOpen(t *testing.T, d string) {
	f, err := os.OpenFile(d+"/f", os.O_CREATE|os.O_RDWR, 0o644)
	ok(t, err)
	defer f.Close()
	_, err = f.WriteString("before")
	ok(t, err)
	ok(t, os.Remove(d+"/f"))
	write(t, d+"/f", "another file")
	_, err = f.WriteAt([]byte(" and after"), 6)
	ok(t, err)
	b := make([]byte, 16)
	_, err = f.ReadAt(b, 0)
	ok(t, err)
	equal(t, "bytes of the unlinked file", string(b), "before and after")
	var st unix.Stat_t
	ok(t, unix.Fstat(int(f.Fd()), &st))
	equal(t, "nlink", st.Nlink, 0)
	equal(t, "size", st.Size, 16)
	ok(t, f.Chmod(0o600))
	ok(t, f.Truncate(3))
	ok(t, unix.Fstat(int(f.Fd()), &st))
	equal(t, "size after truncate", st.Size, 3)
	equal(t, "the other file", read(t, d+"/f"), "another file")
}

func rename(t *testing.T, d string) {
	p := func(s string) string { return filepath.Join(d, s) }
	write(t, p("a"), "A")
	ino := lstat(t, p("a")).Ino
	ok(t, os.Rename(p("a"), p("b")))
	equal(t, "inode number", lstat(t, p("b")).Ino, ino)
	write(t, p("c"), "C")
	ok(t, os.Rename(p("b"), p("c")))
	equal(t, "replaced", read(t, p("c")), "A")
	fails(t, "the old name", unix.Rename(p("b"), p("x")), syscall.ENOENT)
	ok(t, os.MkdirAll(p("d1/sub"), 0o755))
	ok(t, os.Mkdir(p("d2"), 0o755))
	ok(t, os.Rename(p("c"), p("d2/c")))
	ok(t, os.Rename(p("d2/c"), p("c")))
	fails(t, "a directory into itself", unix.Rename(p("d1"), p("d1/sub/x")), syscall.EINVAL)
	fails(t, "onto an ancestor", unix.Rename(p("d1/sub"), p("d1")), syscall.ENOTEMPTY)
	fails(t, "file onto directory", unix.Rename(p("c"), p("d2")), syscall.EISDIR)
	fails(t, "directory onto file", unix.Rename(p("d2"), p("c")), syscall.ENOTDIR)
	fails(t, "directory onto a full one", unix.Rename(p("d2"), p("d1")), syscall.ENOTEMPTY)
	ok(t, unix.Rename(p("d1"), p("d2")))
	equal(t, "moved directory", lstat(t, p("d2")).Nlink, 3)
	ok(t, os.Mkdir(p("d3"), 0o755))
	ok(t, os.Rename(p("d2/sub"), p("d3/sub")))
	equal(t, "nlink of the old parent", lstat(t, p("d2")).Nlink, 2)
	equal(t, "nlink of the new parent", lstat(t, p("d3")).Nlink, 3)
	equal(t, "dot-dot", lstat(t, p("d3/sub/..")).Ino, lstat(t, p("d3")).Ino)
	ok(t, os.Link(p("c"), p("c2")))
	ok(t, unix.Rename(p("c"), p("c2")))
	equal(t, "rename between names of one inode leaves both", lstat(t, p("c")).Nlink, 2)
	ok(t, unix.Rename(p("c"), p("c")))
	// An open file goes on under its new name and when it is replaced.
	f, err := os.Open(p("c"))
	ok(t, err)
	defer f.Close()
	write(t, p("n"), "N")
	ok(t, os.Rename(p("n"), p("c")))
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 0)
	ok(t, err)
	equal(t, "replaced open file", string(b), "A")
	equal(t, "its place", read(t, p("c")), "N")
}

func renameFlags(t *testing.T, d string) {
	r2 := func(a, b string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, filepath.Join(d, a), unix.AT_FDCWD, filepath.Join(d, b), flags)
	}
	write(t, d+"/a", "A")
	write(t, d+"/b", "B")
	fails(t, "NOREPLACE onto a name", r2("a", "b", unix.RENAME_NOREPLACE), syscall.EEXIST)
	ok(t, r2("a", "c", unix.RENAME_NOREPLACE))
	ok(t, r2("b", "c", unix.RENAME_EXCHANGE))
	equal(t, "exchanged", read(t, d+"/b")+read(t, d+"/c"), "AB")
	fails(t, "EXCHANGE with nothing", r2("b", "zz", unix.RENAME_EXCHANGE), syscall.ENOENT)
	ok(t, os.Mkdir(d+"/dir", 0o755))
	write(t, d+"/dir/in", "in")
	ok(t, r2("dir", "b", unix.RENAME_EXCHANGE))
	equal(t, "a directory changed places with a file", read(t, d+"/b/in")+read(t, d+"/dir"), "inA")
	fails(t, "both flags", r2("b", "c", unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), syscall.EINVAL)
}

func links(t *testing.T, d string) {
	write(t, d+"/a", "x")
	ok(t, os.Mkdir(d+"/sub", 0o755))
	ok(t, os.Link(d+"/a", d+"/b"))
	ok(t, os.Link(d+"/b", d+"/sub/c"))
	a, c := lstat(t, d+"/a"), lstat(t, d+"/sub/c")
	equal(t, "one inode", a.Ino, c.Ino)
	equal(t, "nlink", c.Nlink, 3)
	fails(t, "link onto a name", unix.Link(d+"/a", d+"/b"), syscall.EEXIST)
	fails(t, "link of a directory", unix.Link(d+"/sub", d+"/s2"), syscall.EPERM)
	ok(t, os.Remove(d+"/a"))
	write(t, d+"/b", "changed")
	equal(t, "through the other name", read(t, d+"/sub/c"), "changed")
	ok(t, os.Rename(d+"/sub/c", d+"/e"))
	ok(t, os.Remove(d+"/b"))
	equal(t, "nlink at the end", lstat(t, d+"/e").Nlink, 1)
	equal(t, "bytes at the end", read(t, d+"/e"), "changed")
}

func symlinks(t *testing.T, d string) {
	write(t, d+"/f", "target")
	ok(t, os.Symlink("f", d+"/s"))
	equal(t, "through the link", read(t, d+"/s"), "target")
	to, err := os.Readlink(d + "/s")
	ok(t, err)
	equal(t, "readlink", to, "f")
	equal(t, "size of a link", lstat(t, d+"/s").Size, 1)
	long := strings.Repeat("x/", 2000)
	ok(t, os.Symlink(long, d+"/long"))
	to, err = os.Readlink(d + "/long")
	ok(t, err)
	equal(t, "a long target", to, long)
	ok(t, os.Symlink("nowhere", d+"/dangling"))
	_, err = os.Open(d + "/dangling")
	fails(t, "dangling", err, syscall.ENOENT)
	_, err = unix.Open(d+"/s", unix.O_NOFOLLOW|unix.O_RDONLY, 0)
	fails(t, "O_NOFOLLOW", err, syscall.ELOOP)
	ok(t, os.Remove(d+"/s"))
	equal(t, "the target stays", read(t, d+"/f"), "target")
}

func specials(t *testing.T, d string) {
	ok(t, unix.Mkfifo(d+"/fifo", 0o644))
	equal(t, "fifo", lstat(t, d+"/fifo").Mode, unix.S_IFIFO|0o644)
	done := make(chan string)
	go func() {
		b, _ := os.ReadFile(d + "/fifo")
		done <- string(b)
	}()
	ok(t, os.WriteFile(d+"/fifo", []byte("through"), 0))
	equal(t, "through the fifo", <-done, "through")
	ok(t, unix.Mknod(d+"/sock", unix.S_IFSOCK|0o600, 0))
	equal(t, "socket", lstat(t, d+"/sock").Mode, unix.S_IFSOCK|0o600)
	if os.Geteuid() == 0 {
		dev := unix.Mkdev(1, 3)
		if err := unix.Mknod(d+"/null", unix.S_IFCHR|0o666, int(dev)); err != nil {
			t.Logf("device nodes: %v", err)
		} else {
			equal(t, "rdev", lstat(t, d+"/null").Rdev, dev)
		}
	}
}

func modes(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "x")
	for _, m := range []uint32{0o600, 0o777, 0o4755, 0o2755, 0o1644, 0} {
		ok(t, unix.Chmod(p, m))
		equal(t, "mode", lstat(t, p).Mode&0o7777, m)
	}
	if os.Geteuid() != 0 {
		return
	}
	ok(t, unix.Chmod(p, 0o6755))
	ok(t, os.Chown(p, 1234, 5678))
	st := lstat(t, p)
	equal(t, "uid", st.Uid, 1234)
	equal(t, "gid", st.Gid, 5678)
	equal(t, "chown clears set-id bits", st.Mode&0o7777, 0o755)
	ok(t, os.Chown(p, -1, 99))
	equal(t, "uid kept", lstat(t, p).Uid, 1234)
	ok(t, os.Symlink("f", d+"/s"))
	ok(t, os.Lchown(d+"/s", 42, 43))
	equal(t, "lchown", lstat(t, d+"/s").Uid, 42)
	// A write by somebody who may write but does not own the file clears them too.
	ok(t, unix.Chmod(p, 0o6777))
	asUser(t, 1000, 1000, nil, func() error {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Write([]byte("y"))
		return err
	})
	equal(t, "write clears set-id bits", lstat(t, p).Mode&0o7777, 0o777)
}

func setgidDir(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ok(t, os.Mkdir(d+"/g", 0o777))
	ok(t, os.Chown(d+"/g", 0, 77))
	ok(t, unix.Chmod(d+"/g", 0o2777))
	write(t, d+"/g/f", "")
	equal(t, "a file takes the group", lstat(t, d+"/g/f").Gid, 77)
	ok(t, os.Mkdir(d+"/g/sub", 0o755))
	st := lstat(t, d+"/g/sub")
	equal(t, "a directory takes the group", st.Gid, 77)
	equal(t, "and the bit", st.Mode&unix.S_ISGID, unix.S_ISGID)
}

func times(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "x")
	set := func(a, m unix.Timespec) {
		t.Helper()
		ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{a, m}, 0))
	}
	set(unix.Timespec{Sec: 1111, Nsec: 123456789}, unix.Timespec{Sec: 2222, Nsec: 987654321})
	st := lstat(t, p)
	equal(t, "atime", st.Atim, unix.Timespec{Sec: 1111, Nsec: 123456789})
	equal(t, "mtime", st.Mtim, unix.Timespec{Sec: 2222, Nsec: 987654321})
	set(unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Sec: 5, Nsec: 6})
	st = lstat(t, p)
	equal(t, "atime kept", st.Atim.Sec, 1111)
	equal(t, "mtime", st.Mtim, unix.Timespec{Sec: 5, Nsec: 6})
	set(unix.Timespec{Sec: -5, Nsec: 7}, unix.Timespec{Nsec: unix.UTIME_NOW})
	st = lstat(t, p)
	equal(t, "before 1970", st.Atim, unix.Timespec{Sec: -5, Nsec: 7})
	if d := time.Since(time.Unix(st.Mtim.Unix())); d < -time.Minute || d > time.Minute {
		t.Fatalf("UTIME_NOW is %v off", d)
	}
}

func timesFollow(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "x")
	past := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	reset := func(q string) { t.Helper(); ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, q, past, 0)) }
	moved := func(what string, q string, want bool) {
		t.Helper()
		if got := lstat(t, q).Mtim.Sec != 1000; got != want {
			t.Fatalf("%s: mtime moved %v, want %v", what, got, want)
		}
	}
	reset(p)
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	ok(t, err)
	_, err = f.WriteAt([]byte("y"), 0)
	ok(t, err)
	ok(t, f.Close())
	moved("write", p, true)
	reset(p)
	ok(t, os.Truncate(p, 0))
	moved("truncate", p, true)
	reset(p)
	before := lstat(t, p).Ctim
	time.Sleep(15 * time.Millisecond)
	ok(t, os.Chmod(p, 0o600))
	moved("chmod", p, false)
	if lstat(t, p).Ctim == before {
		t.Fatal("chmod left ctime alone")
	}
	reset(d)
	write(t, d+"/new", "")
	moved("create in a directory", d, true)
	reset(d)
	ok(t, os.Rename(d+"/new", d+"/new2"))
	moved("rename in a directory", d, true)
	reset(d)
	ok(t, os.Remove(d+"/new2"))
	moved("unlink in a directory", d, true)
}

func statfs(t *testing.T, d string) {
	var st unix.Statfs_t
	ok(t, unix.Statfs(d, &st))
	if st.Blocks == 0 || st.Bfree > st.Blocks || st.Bsize == 0 || st.Namelen < 255 {
		t.Fatalf("statfs says %+v", st)
	}
}

func xattrs(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "x")
	names := []string{"user.a", "user.b"}
	if os.Geteuid() == 0 {
		names = append(names, "trusted.c", "security.d")
	}
	for _, n := range names {
		ok(t, unix.Setxattr(p, n, []byte("value of "+n), 0))
	}
	buf := make([]byte, 4096)
	for _, n := range names {
		l, err := unix.Getxattr(p, n, buf)
		ok(t, err)
		equal(t, n, string(buf[:l]), "value of "+n)
	}
	l, err := unix.Listxattr(p, buf)
	ok(t, err)
	got := strings.Split(strings.TrimSuffix(string(buf[:l]), "\x00"), "\x00")
	sort.Strings(got)
	for _, n := range names {
		if i := sort.SearchStrings(got, n); i == len(got) || got[i] != n {
			t.Fatalf("listxattr says %v, lacks %s", got, n)
		}
	}
	fails(t, "XATTR_CREATE of an existing one", unix.Setxattr(p, "user.a", nil, unix.XATTR_CREATE), syscall.EEXIST)
	fails(t, "XATTR_REPLACE of none", unix.Setxattr(p, "user.zz", nil, unix.XATTR_REPLACE), syscall.ENODATA)
	ok(t, unix.Removexattr(p, "user.a"))
	_, err = unix.Getxattr(p, "user.a", buf)
	fails(t, "a removed one", err, syscall.ENODATA)
	_, err = unix.Getxattr(p, "user.b", buf[:3])
	fails(t, "a small buffer", err, syscall.ERANGE)
	n, err := unix.Getxattr(p, "user.b", nil)
	ok(t, err)
	equal(t, "size query", n, len("value of user.b"))
	ok(t, unix.Setxattr(p, "user.empty", nil, 0))
	n, err = unix.Getxattr(p, "user.empty", buf)
	ok(t, err)
	equal(t, "an empty value", n, 0)
	ok(t, unix.Setxattr(d, "user.dir", []byte("on a directory"), 0))
	big := bytes.Repeat([]byte("v"), 3000)
	ok(t, unix.Setxattr(p, "user.big", big, 0))
	l, err = unix.Getxattr(p, "user.big", buf)
	ok(t, err)
	equal(t, "a large value", string(buf[:l]), string(big))
}
