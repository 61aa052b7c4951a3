package posix

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// grain is larger than any block size that decides where a hole may begin.
const grain = 64 << 10

// dataMap lists the data of f as SEEK_DATA and SEEK_HOLE tell it.
func dataMap(t *testing.T, f *os.File) string {
	t.Helper()
	var b strings.Builder
	for off := int64(0); ; {
		d, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			return b.String()
		}
		ok(t, err)
		h, err := unix.Seek(int(f.Fd()), d, unix.SEEK_HOLE)
		ok(t, err)
		fmt.Fprintf(&b, "%d-%d ", d/grain, (h+grain-1)/grain)
		off = h
	}
}

func seeks(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	put := func(at int64) {
		_, err := f.WriteAt(bytes.Repeat([]byte("x"), grain), at*grain)
		ok(t, err)
	}
	equal(t, "an empty file", dataMap(t, f), "")
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
	fails(t, "SEEK_HOLE at the end", err, syscall.ENXIO)
	put(1)
	put(3)
	put(4)
	put(150) // in an object of its own
	ok(t, f.Truncate(400*grain))
	equal(t, "a file with holes", dataMap(t, f), "1-2 3-5 150-151 ")
	h, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
	ok(t, err)
	equal(t, "the first hole", h, 0)
	h, err = unix.Seek(int(f.Fd()), 3*grain+5, unix.SEEK_DATA)
	ok(t, err)
	equal(t, "data where there is data", h, 3*grain+5)
	for _, off := range []int64{400 * grain, 500 * grain} {
		for _, w := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			_, err = unix.Seek(int(f.Fd()), off, w)
			fails(t, "a seek at or behind the end", err, syscall.ENXIO)
		}
	}
	_, err = unix.Seek(int(f.Fd()), -1, unix.SEEK_DATA)
	if err == nil {
		t.Fatal("a negative offset was taken")
	}
	// Dirty through a mapping, not through write.
	m, err := unix.Mmap(int(f.Fd()), 10*grain, grain, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, err)
	defer unix.Munmap(m)
	for i := range m {
		m[i] = 'm'
	}
	equal(t, "a mapped page is data", dataMap(t, f), "1-2 3-5 10-11 150-151 ")
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 3*grain, grain); !errors.Is(err, syscall.EOPNOTSUPP) {
		ok(t, err)
		equal(t, "after a punch", dataMap(t, f), "1-2 4-5 10-11 150-151 ")
	}
	ok(t, f.Truncate(4*grain))
	equal(t, "after truncate", dataMap(t, f), "1-2 ")
}

func copyRange(t *testing.T, d string) {
	a, err := os.Create(d + "/a")
	ok(t, err)
	defer a.Close()
	b, err := os.Create(d + "/b")
	ok(t, err)
	defer b.Close()
	rng := rand.New(rand.NewSource(1))
	src := make([]byte, 9<<20+12345)
	rng.Read(src[:5<<20])
	clear(src[1<<20 : 2<<20])
	rng.Read(src[8<<20:])
	for _, r := range [][2]int{{0, 1 << 20}, {2 << 20, 5 << 20}, {8 << 20, len(src)}} {
		_, err := a.WriteAt(src[r[0]:r[1]], int64(r[0]))
		ok(t, err)
	}
	cp := func(from, to *os.File, off, at int64, n int) int {
		t.Helper()
		total := 0
		for total < n {
			o1, o2 := off+int64(total), at+int64(total)
			k, err := unix.CopyFileRange(int(from.Fd()), &o1, int(to.Fd()), &o2, n-total, 0)
			ok(t, err)
			if k == 0 {
				break
			}
			total += k
		}
		return total
	}
	equal(t, "bytes copied", cp(a, b, 0, 0, len(src)+1000), len(src))
	same := func(what string, f *os.File, want []byte) {
		t.Helper()
		got := make([]byte, len(want)+1)
		n, _ := f.ReadAt(got, 0)
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("%s: the copy differs (%d bytes of %d)", what, n, len(want))
		}
	}
	same("whole", b, src)
	// Into the middle, at odd offsets; holes of the source blot out what was there.
	want := bytes.Clone(src)
	copy(want[4<<20+7:], src[(1<<20)-11:3<<20])
	equal(t, "bytes copied", cp(a, b, 1<<20-11, 4<<20+7, 2<<20+11), 2<<20+11)
	same("middle", b, want)
	// Within one file.
	copy(want[100:], want[6<<20+1:7<<20])
	cp(b, b, 6<<20+1, 100, 1<<20-1)
	same("within one file", b, want)
	off1, off2 := int64(0), int64(100)
	_, err = unix.CopyFileRange(int(b.Fd()), &off1, int(b.Fd()), &off2, 1000, 0)
	fails(t, "overlapping ranges", err, syscall.EINVAL)
	// Past the end it makes a hole; mtime moves, set-id bits go as with write.
	past := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, d+"/b", past, 0))
	cp(a, b, 0, int64(len(src))+1<<20, 5000)
	want = append(want, make([]byte, 1<<20)...)
	want = append(want, src[:5000]...)
	same("past the end", b, want)
	if lstat(t, d+"/b").Mtim.Sec == 1000 {
		t.Fatal("copy_file_range left mtime alone")
	}
	ro, err := os.Open(d + "/b")
	ok(t, err)
	defer ro.Close()
	off1, off2 = 0, 0
	_, err = unix.CopyFileRange(int(a.Fd()), &off1, int(ro.Fd()), &off2, 10, 0)
	fails(t, "into a read-only descriptor", err, syscall.EBADF)
	app, err := os.OpenFile(d+"/b", os.O_WRONLY|os.O_APPEND, 0)
	ok(t, err)
	defer app.Close()
	off1, off2 = 0, 0
	_, err = unix.CopyFileRange(int(a.Fd()), &off1, int(app.Fd()), &off2, 10, 0)
	fails(t, "into an O_APPEND descriptor", err, syscall.EBADF)
	// Dirty pages of a mapping are copied, and a mapping of the target sees the copy.
	m, err := unix.Mmap(int(a.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, err)
	defer unix.Munmap(m)
	copy(m, "through a mapping")
	m2, err := unix.Mmap(int(b.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	ok(t, err)
	defer unix.Munmap(m2)
	_ = m2[0]
	cp(a, b, 0, 0, 17)
	equal(t, "from mapping to mapping", string(m2[:17]), "through a mapping")
	if os.Geteuid() == 0 {
		ok(t, unix.Chmod(d+"/b", 0o6777))
		ok(t, unix.Chmod(d+"/a", 0o644))
		asUser(t, 1000, 1000, nil, func() error {
			f, err := os.Open(d + "/a")
			if err != nil {
				return err
			}
			defer f.Close()
			g, err := os.OpenFile(d+"/b", os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer g.Close()
			o1, o2 := int64(0), int64(0)
			_, err = unix.CopyFileRange(int(f.Fd()), &o1, int(g.Fd()), &o2, 10, 0)
			return err
		})
		equal(t, "set-id bits after a copy by another", lstat(t, d+"/b").Mode&0o7777, 0o777)
	}
}

// copyKeepsHoles: a file system may fill the holes of what it copies; Capstan does not.
func copyKeepsHoles(t *testing.T, d string) {
	a, err := os.Create(d + "/a")
	ok(t, err)
	defer a.Close()
	b, err := os.Create(d + "/b")
	ok(t, err)
	defer b.Close()
	for _, at := range []int64{2, 70, 200} {
		_, err = a.WriteAt(bytes.Repeat([]byte("x"), grain), at*grain)
		ok(t, err)
	}
	ok(t, a.Truncate(300*grain))
	for off := int64(0); off < 300*grain; {
		o1, o2 := off, off
		n, err := unix.CopyFileRange(int(a.Fd()), &o1, int(b.Fd()), &o2, int(300*grain-off), 0)
		ok(t, err)
		if n == 0 {
			t.Fatalf("the copy ends at %d", off)
		}
		off += int64(n)
	}
	equal(t, "size", lstat(t, d+"/b").Size, 300*grain)
	equal(t, "data of the copy", dataMap(t, b), "2-3 70-71 200-201 ")
}

func zeroRange(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	fd := int(f.Fd())
	want := bytes.Repeat([]byte("z"), 5<<20)
	_, err = f.WriteAt(want, 0)
	ok(t, err)
	if err := unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 1); errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("no ZERO_RANGE here")
	}
	same := func(what string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		n, _ := f.ReadAt(got, 0)
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("%s: bytes differ (%d of %d)", what, n, len(want))
		}
		equal(t, what+": size", lstat(t, d+"/f").Size, int64(len(want)))
	}
	want[0] = 0
	ok(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 4<<20-100, 5000))
	clear(want[4<<20-100 : 4<<20+4900])
	same("across objects")
	ok(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 5<<20-10, 1<<20))
	clear(want[5<<20-10:])
	same("past the end, size kept")
	ok(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 5<<20-20, 1<<20))
	clear(want[5<<20-20:])
	want = append(want, make([]byte, 1<<20-20)...)
	same("past the end")
	ok(t, unix.Fallocate(fd, 0, 0, 7<<20))
	want = append(want, make([]byte, 7<<20-len(want))...)
	same("mode 0 grows and keeps")
	fails(t, "a length of 0", unix.Fallocate(fd, 0, 0, 0), syscall.EINVAL)
	fails(t, "a negative offset", unix.Fallocate(fd, 0, -1, 10), syscall.EINVAL)
	fails(t, "a range beyond all files", unix.Fallocate(fd, 0, 1<<62, 1<<62), syscall.EFBIG)
	ro, err := os.Open(d + "/f")
	ok(t, err)
	defer ro.Close()
	fails(t, "of a read-only descriptor", unix.Fallocate(int(ro.Fd()), 0, 0, 10), syscall.EBADF)
}

// shifted: what moves bytes within a file is refused, never half done.
func shiftsRefused(t *testing.T, d string) {
	write(t, d+"/f", strings.Repeat("x", 3*4096))
	f, err := os.OpenFile(d+"/f", os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_UNSHARE_RANGE} {
		fails(t, fmt.Sprintf("fallocate mode %#x", mode), unix.Fallocate(int(f.Fd()), mode, 4096, 4096), syscall.EOPNOTSUPP)
	}
	equal(t, "bytes", read(t, d+"/f"), strings.Repeat("x", 3*4096))
}

func birth(t *testing.T, d string) {
	p := d + "/f"
	before := time.Now().Add(-time.Second)
	write(t, p, "x")
	btime := func() unix.Statx_t {
		t.Helper()
		var st unix.Statx_t
		ok(t, unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL, &st))
		return st
	}
	st := btime()
	if st.Mask&unix.STATX_BTIME == 0 {
		t.Skip("no birth time here")
	}
	b := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
	if b.Before(before) || b.After(time.Now().Add(time.Second)) {
		t.Fatalf("born %v, made about %v", b, before)
	}
	ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0))
	ok(t, os.Chmod(p, 0o600))
	write(t, p, "again")
	ok(t, os.Rename(p, d+"/g"))
	ok(t, os.Link(d+"/g", p))
	equal(t, "birth after everything else changed", btime().Btime, st.Btime)
	if st := btime(); st.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS || st.Nlink != 2 {
		t.Fatalf("statx says %+v", st)
	}
}

// noIoctls: attributes of chattr and other ioctls are refused in a way that tools understand.
func noIoctls(t *testing.T, d string) {
	write(t, d+"/f", "x")
	for _, p := range []string{d + "/f", d} {
		fd, err := unix.Open(p, unix.O_RDONLY, 0)
		ok(t, err)
		for _, req := range []uint{unix.FS_IOC_GETFLAGS, 0x80107601 /* FS_IOC_GETVERSION */, 0x5401 /* TCGETS */, 0x1234} {
			var v [64]byte
			_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), ptr8(&v[0]))
			if e != syscall.ENOTTY && e != syscall.EOPNOTSUPP && e != syscall.EINVAL {
				t.Errorf("ioctl %#x on %s: %v", req, p, e)
			}
		}
		unix.Close(fd)
	}
}

// timesOfEvery checks which times each call moves, of the inode and of its directory. m and c
// stand for mtime and ctime, M and C for those of the directory.
func timesOfEvery(t *testing.T, d string) {
	dir, p := d+"/dir", d+"/dir/f"
	ok(t, os.Mkdir(dir, 0o755))
	write(t, p, "0123456789")
	ok(t, os.Mkdir(dir+"/sub", 0o755))
	write(t, dir+"/victim", "")
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	for _, x := range []struct {
		what string
		do   func() error
		want string
	}{
		{"write", func() error { _, err := f.WriteAt([]byte("x"), 3); return err }, "mc"},
		{"write of nothing", func() error { _, err := f.Write(nil); return err }, ""},
		{"read", func() error { _, err := f.ReadAt(make([]byte, 3), 0); return err }, ""},
		{"ftruncate", func() error { return f.Truncate(5) }, "mc"},
		{"ftruncate to the same size", func() error { return f.Truncate(5) }, "mc"},
		{"chmod", func() error { return f.Chmod(0o640) }, "c"},
		{"chown to nobody", func() error { return unix.Fchown(int(f.Fd()), -1, os.Getgid()) }, "c"},
		{"setxattr", func() error { return unix.Fsetxattr(int(f.Fd()), "user.x", []byte("1"), 0) }, "c"},
		{"removexattr", func() error { return unix.Fremovexattr(int(f.Fd()), "user.x") }, "c"},
		{"utimes", func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 5}, {Nsec: unix.UTIME_OMIT}}, 0)
		}, "c"},
		{"link", func() error { return os.Link(p, dir+"/l") }, "cMC"},
		{"unlink of a link", func() error { return os.Remove(dir + "/l") }, "cMC"},
		{"rename", func() error { return os.Rename(p, p+"2") }, "cMC"},
		{"rename back", func() error { return os.Rename(p+"2", p) }, "cMC"},
		{"rename over", func() error { return os.Rename(dir+"/victim", dir+"/victim2") }, "MC"},
		{"create", func() error { return os.WriteFile(dir+"/n", nil, 0o644) }, "MC"},
		{"mkdir", func() error { return os.Mkdir(dir+"/s", 0o755) }, "MC"},
		{"rmdir", func() error { return os.Remove(dir + "/s") }, "MC"},
		{"symlink", func() error { return os.Symlink("x", dir+"/y") }, "MC"},
		{"mknod", func() error { return unix.Mkfifo(dir+"/fifo", 0o644) }, "MC"},
		{"create below", func() error { return os.WriteFile(dir+"/sub/n", nil, 0o644) }, ""},
		{"open with O_TRUNC", func() error { return os.WriteFile(p, nil, 0) }, "mc"},
		{"stat", func() error { _, err := os.Stat(p); return err }, ""},
		{"readdir", func() error { _, err := os.ReadDir(dir); return err }, ""},
		{"fallocate", func() error { return unix.Fallocate(int(f.Fd()), 0, 0, 9000) }, "mc"},
	} {
		var a, a2 unix.Stat_t
		ok(t, unix.Fstat(int(f.Fd()), &a))
		b := lstat(t, dir)
		time.Sleep(11 * time.Millisecond) // the grain of ext4's clock is a jiffy
		if err := x.do(); err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		ok(t, unix.Fstat(int(f.Fd()), &a2))
		b2 := lstat(t, dir)
		got := ""
		if a2.Mtim != a.Mtim {
			got += "m"
		}
		if a2.Ctim != a.Ctim {
			got += "c"
		}
		if b2.Mtim != b.Mtim {
			got += "M"
		}
		if b2.Ctim != b.Ctim {
			got += "C"
		}
		if got != x.want {
			t.Errorf("%s moved the times %q, want %q", x.what, got, x.want)
		}
	}
}

// utimeRules: who may set times to what.
func utimeRules(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := d + "/f"
	write(t, p, "x")
	ok(t, os.Chmod(p, 0o666))
	ok(t, os.Chown(p, 1000, 1000))
	set := func(uid int, a, m int64) error {
		return tryAsUser(uid, uid, nil, func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 9, Nsec: a}, {Sec: 9, Nsec: m}}, 0)
		})
	}
	ok(t, set(1000, 1, 1))
	ok(t, set(1001, unix.UTIME_NOW, unix.UTIME_NOW)) // a writer may say "now"
	fails(t, "a writer sets a time", set(1001, 1, 1), syscall.EPERM)
	fails(t, "a writer sets one to now", set(1001, unix.UTIME_NOW, unix.UTIME_OMIT), syscall.EPERM)
	ok(t, set(1001, unix.UTIME_OMIT, unix.UTIME_OMIT))
	ok(t, os.Chmod(p, 0o644))
	fails(t, "a reader says now", set(1001, unix.UTIME_NOW, unix.UTIME_NOW), syscall.EACCES)
	fails(t, "nonsense", set(1000, 2_000_000_000, 1), syscall.EINVAL)
	ok(t, os.Symlink("f", d+"/s"))
	ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, d+"/s", []unix.Timespec{{Sec: 7}, {Sec: 8}}, unix.AT_SYMLINK_NOFOLLOW))
	equal(t, "mtime of a symlink", lstat(t, d+"/s").Mtim.Sec, 8)
	far := int64(1) << 33 // behind 2038 and 2106
	ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: far}, {Sec: far, Nsec: 999999999}}, 0))
	equal(t, "a time far off", lstat(t, p).Mtim, unix.Timespec{Sec: far, Nsec: 999999999})
}

// setIDRules: when set-id bits go, and when they stay.
func setIDRules(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := d + "/f"
	fresh := func(mode uint32) {
		t.Helper()
		os.Remove(p)
		write(t, p, "0123456789")
		ok(t, unix.Chmod(p, mode))
	}
	is := func(what string, want uint32) {
		t.Helper()
		equal(t, what, lstat(t, p).Mode&0o7777, want)
	}
	user := func(f func() error) { t.Helper(); asUser(t, 1000, 1000, nil, f) }
	fresh(0o6777)
	user(func() error { return os.Truncate(p, 3) })
	is("truncate by another", 0o777)
	fresh(0o6777)
	user(func() error {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
		if err == nil {
			f.Close()
		}
		return err
	})
	is("O_TRUNC by another", 0o777)
	fresh(0o6777)
	ok(t, os.Truncate(p, 3))
	is("truncate by root", 0o6777)
	fresh(0o6777)
	ok(t, os.Chown(p, 1000, 1000))
	is("chown by root", 0o777)
	ok(t, unix.Chmod(p, 0o6777))
	user(func() error { return os.Chown(p, -1, 1000) })
	is("chgrp by the owner", 0o777)
	// A setgid bit for a group that the caller is not in does not stick.
	ok(t, os.Chown(p, 1000, 4242))
	user(func() error { return unix.Chmod(p, 0o2755) })
	is("chmod g+s without the group", 0o755)
	ok(t, os.Mkdir(d+"/dir", 0o777))
	ok(t, unix.Chmod(d+"/dir", 0o7777))
	ok(t, os.Chown(d+"/dir", 5, 6))
	equal(t, "a directory keeps its bits over chown", lstat(t, d+"/dir").Mode&0o7777, 0o7777)
	fails(t, "chgrp to a foreign group", tryAsUser(1000, 1000, nil, func() error { return os.Chown(p, -1, 77) }), syscall.EPERM)
	user(func() error { return nil })
	asUser(t, 1000, 1000, []int{77}, func() error { return os.Chown(p, -1, 77) })
	equal(t, "chgrp to a supplementary group", lstat(t, p).Gid, 77)
}

// stickyRename: the owner of the directory may, the owner of a file may, nobody else; also
// not by replacing.
func stickyRename(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := d + "/s"
	ok(t, os.Mkdir(s, 0o777))
	ok(t, os.Chown(s, 1002, 1002))
	ok(t, unix.Chmod(s, 0o1777))
	make_ := func(name string, uid int) {
		t.Helper()
		asUser(t, uid, uid, nil, func() error { return os.WriteFile(s+"/"+name, nil, 0o666) })
	}
	make_("a", 1000)
	make_("b", 1001)
	fails(t, "replacing another's", tryAsUser(1001, 1001, nil, func() error { return unix.Rename(s+"/b", s+"/a") }), syscall.EPERM)
	fails(t, "exchanging with another's", tryAsUser(1001, 1001, nil, func() error {
		return unix.Renameat2(unix.AT_FDCWD, s+"/b", unix.AT_FDCWD, s+"/a", unix.RENAME_EXCHANGE)
	}), syscall.EPERM)
	asUser(t, 1002, 1002, nil, func() error { return unix.Rename(s+"/b", s+"/a") }) // the directory's owner
	asUser(t, 0, 0, nil, func() error { return unix.Unlink(s + "/a") })
	asUser(t, 1001, 1001, nil, func() error { return os.Mkdir(s+"/sub", 0o777) })
	fails(t, "rmdir of another's", tryAsUser(1000, 1000, nil, func() error { return unix.Rmdir(s + "/sub") }), syscall.EPERM)
}

func whiteout(t *testing.T, d string) {
	write(t, d+"/a", "A")
	err := unix.Renameat2(unix.AT_FDCWD, d+"/a", unix.AT_FDCWD, d+"/b", unix.RENAME_WHITEOUT)
	fails(t, "RENAME_WHITEOUT", err, syscall.EINVAL)
	equal(t, "nothing moved", read(t, d+"/a"), "A")
}

func tmpfileRules(t *testing.T, d string) {
	fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o600)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("refused cleanly")
	}
	ok(t, err)
	defer unix.Close(fd)
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/named", unix.AT_SYMLINK_FOLLOW)
	fails(t, "link of a file opened with O_EXCL", err, syscall.ENOENT)
	var st unix.Stat_t
	ok(t, unix.Fstat(fd, &st))
	equal(t, "nlink", st.Nlink, 0)
	fd2, err := unix.Open(d, unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	ok(t, err)
	defer unix.Close(fd2)
	if os.Geteuid() == 0 { // by AT_EMPTY_PATH, and over an existing name not
		write(t, d+"/there", "")
		fails(t, "link onto a name", unix.Linkat(fd2, "", unix.AT_FDCWD, d+"/there", unix.AT_EMPTY_PATH), syscall.EEXIST)
		ok(t, unix.Linkat(fd2, "", unix.AT_FDCWD, d+"/new", unix.AT_EMPTY_PATH))
		ok(t, unix.Fstat(fd2, &st))
		equal(t, "nlink with a name", st.Nlink, 1)
		ok(t, unix.Linkat(fd2, "", unix.AT_FDCWD, d+"/new2", unix.AT_EMPTY_PATH))
		equal(t, "nlink with two", lstat(t, d+"/new").Nlink, 2)
	}
}

func oPath(t *testing.T, d string) {
	write(t, d+"/f", "x")
	ok(t, os.Symlink("f", d+"/s"))
	fd, err := unix.Open(d+"/f", unix.O_PATH, 0)
	ok(t, err)
	defer unix.Close(fd)
	_, err = unix.Pread(fd, make([]byte, 1), 0)
	fails(t, "read of an O_PATH descriptor", err, syscall.EBADF)
	var st unix.Stat_t
	ok(t, unix.Fstat(fd, &st))
	equal(t, "inode", st.Ino, lstat(t, d+"/f").Ino)
	equal(t, "through /proc", read(t, fmt.Sprintf("/proc/self/fd/%d", fd)), "x")
	sd, err := unix.Open(d+"/s", unix.O_PATH|unix.O_NOFOLLOW, 0)
	ok(t, err)
	defer unix.Close(sd)
	ok(t, unix.Fstat(sd, &st))
	equal(t, "a symlink itself", st.Mode&unix.S_IFMT, unix.S_IFLNK)
	ok(t, os.Remove(d+"/f"))
	equal(t, "unlinked, through /proc", read(t, fmt.Sprintf("/proc/self/fd/%d", fd)), "x")
}

func nameLimits(t *testing.T, d string) {
	long := d + "/" + strings.Repeat("n", 256)
	write(t, d+"/f", "")
	fails(t, "mkdir", os.Mkdir(long, 0o755), syscall.ENAMETOOLONG)
	fails(t, "symlink", os.Symlink("x", long), syscall.ENAMETOOLONG)
	fails(t, "link", os.Link(d+"/f", long), syscall.ENAMETOOLONG)
	fails(t, "rename", os.Rename(d+"/f", long), syscall.ENAMETOOLONG)
	fails(t, "stat", unix.Lstat(long, new(unix.Stat_t)), syscall.ENAMETOOLONG)
	fails(t, "unlink", unix.Unlink(long), syscall.ENAMETOOLONG)
	ok(t, os.Symlink(strings.Repeat("t", 4095), d+"/s"))
	fails(t, "a target of 4096 bytes", unix.Symlink(strings.Repeat("t", 4096), d+"/s2"), syscall.ENAMETOOLONG)
	fails(t, "an empty target", unix.Symlink("", d+"/s3"), syscall.ENOENT)
	fails(t, "an empty name", unix.Mkdir("", 0o755), syscall.ENOENT)
	// 40 symlinks are followed, 41 are a loop.
	write(t, d+"/l0", "end")
	for i := 1; i <= 41; i++ {
		ok(t, os.Symlink(fmt.Sprintf("l%d", i-1), fmt.Sprintf("%s/l%d", d, i)))
	}
	equal(t, "40 links", read(t, d+"/l40"), "end")
	_, err := os.Open(d + "/l41")
	fails(t, "41 links", err, syscall.ELOOP)
}

func xattrRules(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "x")
	set := func(name string, n int) error { return unix.Setxattr(p, name, make([]byte, n), 0) }
	fails(t, "a name of 256 bytes", set("user."+strings.Repeat("x", 251), 1), syscall.ERANGE)
	ok(t, set("user."+strings.Repeat("x", 250), 1))
	if err := set("user.toobig", 65537); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("a value of 65537 bytes: %v", err)
	}
	fails(t, "no namespace", set("plain", 1), syscall.EOPNOTSUPP)
	fails(t, "an unknown namespace", set("other.x", 1), syscall.EOPNOTSUPP)
	fails(t, "an unknown system one", set("system.none", 1), syscall.EOPNOTSUPP)
	ok(t, os.Symlink("f", d+"/s"))
	fails(t, "user. on a symlink", unix.Lsetxattr(d+"/s", "user.a", []byte("1"), 0), syscall.EPERM)
	ok(t, unix.Mkfifo(d+"/fifo", 0o644))
	fails(t, "user. on a fifo", unix.Lsetxattr(d+"/fifo", "user.a", []byte("1"), 0), syscall.EPERM)
	_, err := unix.Getxattr(p, "user.none", make([]byte, 10))
	fails(t, "one that is not there", err, syscall.ENODATA)
	if os.Geteuid() != 0 {
		return
	}
	ok(t, unix.Setxattr(p, "trusted.t", []byte("1"), 0))
	ok(t, os.Chmod(p, 0o644))
	asUser(t, 1000, 1000, nil, func() error {
		if _, err := unix.Getxattr(p, "trusted.t", make([]byte, 10)); !errors.Is(err, syscall.ENODATA) {
			return fmt.Errorf("trusted. read by a user: %v", err)
		}
		buf := make([]byte, 1000)
		n, err := unix.Listxattr(p, buf)
		if err != nil {
			return err
		}
		if bytes.Contains(buf[:n], []byte("trusted.")) {
			return fmt.Errorf("a user is shown %q", buf[:n])
		}
		if err := unix.Setxattr(p, "user.a", nil, 0); !errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("user. set by one who may not write: %v", err)
		}
		if err := unix.Setxattr(p, "trusted.a", nil, 0); !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("trusted. set by a user: %v", err)
		}
		return nil
	})
}

func directoryNumbers(t *testing.T, d string) {
	ok(t, os.Mkdir(d+"/a", 0o755))
	ok(t, os.Mkdir(d+"/a/b", 0o755))
	dots := func(p string) map[string]uint64 {
		t.Helper()
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		ok(t, err)
		defer unix.Close(fd)
		buf := make([]byte, 4096)
		n, err := unix.Getdents(fd, buf)
		ok(t, err)
		out := map[string]uint64{}
		for b := buf[:n]; len(b) > 0; {
			reclen := int(b[16]) | int(b[17])<<8
			name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
			ino := uint64(0)
			for i := 7; i >= 0; i-- {
				ino = ino<<8 | uint64(b[i])
			}
			out[name] = ino
			b = b[reclen:]
		}
		return out
	}
	m := dots(d + "/a")
	equal(t, ".", m["."], lstat(t, d+"/a").Ino)
	equal(t, "..", m[".."], lstat(t, d).Ino)
	equal(t, "b", m["b"], lstat(t, d+"/a/b").Ino)
	ok(t, os.Rename(d+"/a/b", d+"/b"))
	equal(t, ".. after a rename", dots(d + "/b")[".."], lstat(t, d).Ino)
	equal(t, "nlink after a rename", lstat(t, d+"/a").Nlink, 2)
	ok(t, os.Mkdir(d+"/c", 0o755))
	ok(t, unix.Renameat2(unix.AT_FDCWD, d+"/c", unix.AT_FDCWD, d+"/a", unix.RENAME_EXCHANGE))
	equal(t, "nlink after an exchange", lstat(t, d).Nlink, 5)
}

func blocksAndDu(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 1<<20), 0)
	ok(t, err)
	ok(t, f.Sync())
	blocks := lstat(t, d+"/f").Blocks * 512
	if blocks < 1<<20 || blocks > 2<<20 {
		t.Fatalf("1 MiB counts %d bytes", blocks)
	}
	var st unix.Statfs_t
	ok(t, unix.Fstatfs(int(f.Fd()), &st))
	if st.Bavail > st.Bfree || st.Files != 0 && st.Ffree > st.Files {
		t.Fatalf("statfs says %+v", st)
	}
}

// seekdirStable: a place in a directory stays one while names come and go around it.
func seekdirStable(t *testing.T, d string) {
	for i := range 500 {
		write(t, fmt.Sprintf("%s/f%03d", d, i), "")
	}
	f, err := os.Open(d)
	ok(t, err)
	defer f.Close()
	first, err := f.Readdirnames(100)
	ok(t, err)
	seen := map[string]int{}
	for _, n := range first {
		seen[n]++
		ok(t, os.Remove(d+"/"+n))
	}
	for i := range 200 {
		write(t, fmt.Sprintf("%s/new%03d", d, i), "")
	}
	for {
		more, err := f.Readdirnames(50)
		for _, n := range more {
			seen[n]++
		}
		if err == io.EOF {
			break
		}
		ok(t, err)
	}
	for i := range 500 {
		if n := seen[fmt.Sprintf("f%03d", i)]; n != 1 {
			t.Fatalf("f%03d was seen %d times", i, n)
		}
	}
	for n, k := range seen {
		if k != 1 {
			t.Fatalf("%s was seen %d times", n, k)
		}
	}
}

func mapsAndMsync(t *testing.T, d string) {
	f, err := os.OpenFile(d+"/f", os.O_CREATE|os.O_RDWR, 0o644)
	ok(t, err)
	defer f.Close()
	ok(t, f.Truncate(8192+10))
	a, err := unix.Mmap(int(f.Fd()), 0, 8192+10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, err)
	b, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	ok(t, err)
	copy(a[100:], "one page, two maps")
	equal(t, "the other mapping", string(b[100:118]), "one page, two maps")
	ok(t, unix.Msync(a, unix.MS_ASYNC))
	ok(t, unix.Msync(a, unix.MS_SYNC|unix.MS_INVALIDATE))
	mt := lstat(t, d+"/f").Mtim
	time.Sleep(11 * time.Millisecond)
	a[5] = 'x'
	ok(t, unix.Msync(a, unix.MS_SYNC))
	if lstat(t, d+"/f").Mtim == mt {
		t.Fatal("a store through a mapping and msync left mtime alone")
	}
	// Bytes behind the end in the last page are not the file's.
	a = a[:cap(a)]
	ok(t, unix.Munmap(b))
	ok(t, unix.Munmap(a))
	equal(t, "size", lstat(t, d+"/f").Size, 8192+10)
	ro, err := os.Open(d + "/f")
	ok(t, err)
	defer ro.Close()
	_, err = unix.Mmap(int(ro.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
	fails(t, "a writable mapping of a read-only descriptor", err, syscall.EACCES)
	runtime.KeepAlive(f)
}

func devices(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, x := range map[string]struct {
		mode uint32
		dev  uint64
	}{"chr": {unix.S_IFCHR | 0o640, unix.Mkdev(10, 300)}, "blk": {unix.S_IFBLK | 0o600, unix.Mkdev(259, 70000)}, "fifo": {unix.S_IFIFO | 0o600, 0}, "reg": {unix.S_IFREG | 0o600, 0}} {
		if err := unix.Mknod(d+"/"+name, x.mode, int(x.dev)); err != nil {
			if errors.Is(err, syscall.EPERM) {
				t.Skip("no device nodes here")
			}
			t.Fatal(err)
		}
		st := lstat(t, d+"/"+name)
		equal(t, name+" mode", st.Mode, x.mode)
		equal(t, name+" rdev", st.Rdev, x.dev)
	}
	fails(t, "mknod of a directory", unix.Mknod(d+"/dir", unix.S_IFDIR|0o755, 0), syscall.EPERM)
	fails(t, "a device by a user", tryAsUser(1000, 1000, nil, func() error { return unix.Mknod(d+"/x", unix.S_IFCHR|0o600, 1) }), syscall.EPERM)
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	ok(t, err)
	defer unix.Close(s)
	ok(t, os.Chdir(d)) // a socket's path is short
	defer os.Chdir("/")
	ok(t, unix.Bind(s, &unix.SockaddrUnix{Name: "sock"}))
	ok(t, unix.Listen(s, 1))
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	ok(t, err)
	defer unix.Close(c)
	ok(t, unix.Connect(c, &unix.SockaddrUnix{Name: "sock"}))
	_, err = os.Open(d + "/sock")
	fails(t, "open of a socket", err, syscall.ENXIO)
}

// openRules: what open refuses.
func openRules(t *testing.T, d string) {
	write(t, d+"/f", "x")
	ok(t, os.Symlink("nowhere", d+"/dangling"))
	ok(t, os.Mkdir(d+"/dir", 0o755))
	for _, x := range []struct {
		what  string
		path  string
		flags int
		want  syscall.Errno
	}{
		{"O_CREAT|O_EXCL on a dangling symlink", "dangling", unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, syscall.EEXIST},
		{"O_CREAT on a directory", "dir", unix.O_CREAT | unix.O_RDONLY, syscall.EISDIR},
		{"O_CREAT with a slash at the end", "new/", unix.O_CREAT | unix.O_WRONLY, syscall.EISDIR},
		{"a file with a slash", "f/", unix.O_RDONLY, syscall.ENOTDIR},
		{"O_TRUNC of a directory", "dir", unix.O_TRUNC | unix.O_WRONLY, syscall.EISDIR},
		{"O_DIRECTORY|O_CREAT", "new", unix.O_DIRECTORY | unix.O_CREAT, syscall.EINVAL},
		{"O_NOFOLLOW", "dangling", unix.O_NOFOLLOW | unix.O_RDONLY, syscall.ELOOP},
	} {
		fd, err := unix.Open(d+"/"+x.path, x.flags, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		fails(t, x.what, err, x.want)
	}
	fd, err := unix.Open(d+"/dangling", unix.O_CREAT|unix.O_WRONLY, 0o644)
	ok(t, err)
	unix.Close(fd)
	if _, err := os.Lstat(d + "/nowhere"); err != nil {
		t.Fatal("O_CREAT through a dangling symlink made nothing")
	}
	f, err := os.OpenFile(d+"/f", os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND)
	ok(t, err)
	_, err = f.WriteString("yz")
	ok(t, err)
	equal(t, "appended after F_SETFL", read(t, d+"/f"), "xyz")
	fails(t, "truncate to a negative size", unix.Ftruncate(int(f.Fd()), -1), syscall.EINVAL)
	_, err = unix.Pread(int(f.Fd()), make([]byte, 1), -1)
	fails(t, "pread at a negative offset", err, syscall.EINVAL)
}
