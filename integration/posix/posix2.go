package posix

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asUser runs f on a thread with another identity; the thread ends with it.
func asUser(t testing.TB, uid, gid int, groups []int, f func() error) {
	t.Helper()
	ok(t, tryAsUser(uid, gid, groups, f))
}

func tryAsUser(uid, gid int, groups []int, f func() error) error {
	ch := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		gs := make([]uint32, len(groups))
		for i, g := range groups {
			gs[i] = uint32(g)
		}
		ch <- func() error {
			// Raw system calls: the ones of package syscall would change every thread.
			var p uintptr
			if len(gs) > 0 {
				p = ptr(&gs[0])
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(gs)), p, 0); e != 0 {
				return fmt.Errorf("setgroups: %w", e)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, ^uintptr(0), uintptr(gid), ^uintptr(0)); e != 0 {
				return fmt.Errorf("setresgid: %w", e)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
				return fmt.Errorf("setresuid: %w", e)
			}
			return f()
		}()
	}()
	return <-ch
}

// acl encodes entries (tag, perm, id) as the kernel's xattr does (linux/posix_acl_xattr.h).
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

const none = 0xffffffff

func acls(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const access, deflt = "system.posix_acl_access", "system.posix_acl_default"
	p := d + "/f"
	write(t, p, "secret")
	ok(t, os.Chmod(p, 0o600))
	err := unix.Setxattr(p, access, acl([3]uint32{1, 6, none}, [3]uint32{2, 4, 1000}, [3]uint32{4, 0, none}, [3]uint32{16, 4, none}, [3]uint32{32, 0, none}), 0)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("no ACLs here")
	}
	ok(t, err)
	equal(t, "the mask shows as group bits", lstat(t, p).Mode&0o777, 0o640)
	asUser(t, 1000, 1000, nil, func() error { _, err := os.ReadFile(p); return err })
	fails(t, "a user not named", tryAsUser(1001, 1001, nil, func() error { _, err := os.ReadFile(p); return err }), syscall.EACCES)
	ok(t, os.Chmod(p, 0o600))
	fails(t, "chmod narrows the mask", tryAsUser(1000, 1000, nil, func() error { _, err := os.ReadFile(p); return err }), syscall.EACCES)
	// Inheritance.
	ok(t, os.Mkdir(d+"/dir", 0o755))
	ok(t, unix.Setxattr(d+"/dir", deflt, acl([3]uint32{1, 7, none}, [3]uint32{2, 6, 1000}, [3]uint32{4, 5, none}, [3]uint32{16, 7, none}, [3]uint32{32, 0, none}), 0))
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	write(t, d+"/dir/f", "shared")
	st := lstat(t, d+"/dir/f")
	equal(t, "mode from the default ACL, not the umask", st.Mode&0o777, 0o640)
	asUser(t, 1000, 1000, nil, func() error { _, err := os.ReadFile(d + "/dir/f"); return err })
	ok(t, os.Mkdir(d+"/dir/sub", 0o777))
	buf := make([]byte, 256)
	n, err := unix.Getxattr(d+"/dir/sub", deflt, buf)
	ok(t, err)
	if n < 4 {
		t.Fatal("a subdirectory did not inherit the default ACL")
	}
	ok(t, unix.Removexattr(d+"/dir", deflt))
	_, err = unix.Getxattr(d+"/dir", deflt, buf)
	fails(t, "a removed default ACL", err, syscall.ENODATA)
}

func names(t testing.TB, f *os.File) []string {
	t.Helper()
	l, err := f.Readdirnames(-1)
	ok(t, err)
	return l
}

func readdirOffsets(t *testing.T, d string) {
	for i := range 300 {
		write(t, fmt.Sprintf("%s/file-%03d", d, i), "")
	}
	fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	ok(t, err)
	defer unix.Close(fd)
	type ent struct {
		name string
		off  int64
	}
	list := func() (l []ent) {
		buf := make([]byte, 2000)
		for {
			n, err := unix.Getdents(fd, buf)
			ok(t, err)
			if n == 0 {
				return l
			}
			for b := buf[:n]; len(b) > 0; {
				reclen := binary.LittleEndian.Uint16(b[16:])
				name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
				l = append(l, ent{name, int64(binary.LittleEndian.Uint64(b[8:]))})
				b = b[reclen:]
			}
		}
	}
	all := list()
	equal(t, "entries with dots", len(all), 302)
	for _, i := range []int{0, 1, 2, 57, 150, 299, 301} {
		_, err := unix.Seek(fd, all[i].off, io.SeekStart)
		ok(t, err)
		rest := list()
		equal(t, fmt.Sprintf("entries after number %d", i), len(rest), 301-i)
		if len(rest) > 0 {
			equal(t, "the next one", rest[0].name, all[i+1].name)
		}
	}
	// Removal and creation in between leave the others' places alone.
	_, err = unix.Seek(fd, all[100].off, io.SeekStart)
	ok(t, err)
	for i := 0; i < 100; i++ {
		if n := all[i].name; n != "." && n != ".." {
			ok(t, os.Remove(d+"/"+n))
		}
	}
	rest := list()
	equal(t, "entries after a removal before them", len(rest), 201)
	_, err = unix.Seek(fd, 0, io.SeekStart)
	ok(t, err)
	seen := map[string]bool{}
	for _, e := range list() {
		if seen[e.name] {
			t.Fatalf("%s twice", e.name)
		}
		seen[e.name] = true
	}
}

func readdirLarge(t *testing.T, d string) {
	const n = 3000
	for i := range n {
		ok(t, os.Symlink("x", fmt.Sprintf("%s/%d", d, i)))
	}
	f, err := os.Open(d)
	ok(t, err)
	defer f.Close()
	seen := map[string]bool{}
	for _, s := range names(t, f) {
		seen[s] = true
	}
	equal(t, "entries", len(seen), n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			es, err := os.ReadDir(d)
			if err != nil || len(es) != n {
				t.Errorf("parallel listing: %d entries, %v", len(es), err)
			}
		}()
	}
	wg.Wait()
}

func fallocate(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.Fallocate(fd, 0, 0, 100000); errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("no fallocate here")
	} else {
		ok(t, err)
	}
	equal(t, "size", lstat(t, d+"/f").Size, 100000)
	ok(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 100000, 50000))
	equal(t, "kept size", lstat(t, d+"/f").Size, 100000)
	_, err = f.WriteAt(bytes.Repeat([]byte("p"), 20000), 0)
	ok(t, err)
	ok(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192))
	b := make([]byte, 20000)
	_, err = f.ReadAt(b, 0)
	ok(t, err)
	want := bytes.Repeat([]byte("p"), 20000)
	clear(want[4096 : 4096+8192])
	if !bytes.Equal(b, want) {
		t.Fatal("bytes around the hole differ")
	}
	fails(t, "punch without keep-size", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, 0, 10), syscall.EOPNOTSUPP)
}

func mmap(t *testing.T, d string) {
	f, err := os.OpenFile(d+"/f", os.O_CREATE|os.O_RDWR, 0o644)
	ok(t, err)
	defer f.Close()
	ok(t, f.Truncate(3*4096+100))
	m, err := unix.Mmap(int(f.Fd()), 0, 3*4096+100, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, err)
	copy(m[4090:], "across a page")
	ok(t, unix.Msync(m, unix.MS_SYNC))
	b := make([]byte, 13)
	_, err = f.ReadAt(b, 4090)
	ok(t, err)
	equal(t, "mapped bytes through read", string(b), "across a page")
	_, err = f.WriteAt([]byte("written"), 8192)
	ok(t, err)
	equal(t, "written bytes through the mapping", string(m[8192:8199]), "written")
	copy(m[12288:], "tail")
	ok(t, unix.Munmap(m))
	ok(t, f.Sync())
	g, err := os.Open(d + "/f")
	ok(t, err)
	defer g.Close()
	_, err = g.ReadAt(b[:4], 12288)
	ok(t, err)
	equal(t, "after munmap and fsync", string(b[:4]), "tail")
	p, err := unix.Mmap(int(g.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	ok(t, err)
	copy(p, "private")
	ok(t, unix.Munmap(p))
	_, err = g.ReadAt(b[:7], 0)
	ok(t, err)
	if string(b[:7]) == "private" {
		t.Fatal("a private mapping was written back")
	}
}

func fsyncs(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	_, err = f.WriteString("durable")
	ok(t, err)
	ok(t, f.Sync())
	ok(t, unix.Fdatasync(int(f.Fd())))
	ok(t, f.Close())
	dir, err := os.Open(d)
	ok(t, err)
	ok(t, dir.Sync())
	ok(t, unix.Syncfs(int(dir.Fd())))
	ok(t, dir.Close())
}

func tmpfile(t *testing.T, d string) {
	fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EISDIR) {
		t.Skip("refused cleanly")
	}
	ok(t, err)
	defer unix.Close(fd)
	_, err = unix.Pwrite(fd, []byte("nameless"), 0)
	ok(t, err)
	es, err := os.ReadDir(d)
	ok(t, err)
	equal(t, "names", len(es), 0)
	ok(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/named", unix.AT_SYMLINK_FOLLOW))
	equal(t, "linked", read(t, d+"/named"), "nameless")
	equal(t, "nlink", lstat(t, d+"/named").Nlink, 1)
}

func beyond4G(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	const off = 5<<30 + 12345
	_, err = f.WriteAt([]byte("far out"), off)
	ok(t, err)
	equal(t, "size", lstat(t, d+"/f").Size, off+7)
	b := make([]byte, 9)
	_, err = f.ReadAt(b, off-2)
	ok(t, err)
	equal(t, "bytes", string(b), "\x00\x00far out")
	ok(t, f.Truncate(4<<30))
	equal(t, "size", lstat(t, d+"/f").Size, 4<<30)
}

func sparse(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("end"), 64<<20)
	ok(t, err)
	ok(t, f.Sync())
	if st := lstat(t, d+"/f"); st.Blocks*512 > 1<<20 {
		t.Fatalf("a file of 3 bytes and a hole of 64 MiB counts %d blocks", st.Blocks)
	}
	write(t, d+"/full", strings.Repeat("x", 100000))
	full, err := os.Open(d + "/full")
	ok(t, err)
	ok(t, full.Sync())
	ok(t, full.Close())
	if st := lstat(t, d+"/full"); st.Blocks*512 < 100000 {
		t.Fatalf("a full file of 100000 bytes counts %d blocks", st.Blocks)
	}
}

func longNames(t *testing.T, d string) {
	n := strings.Repeat("n", 255)
	write(t, d+"/"+n, "x")
	equal(t, "255 bytes", read(t, d+"/"+n), "x")
	fails(t, "256 bytes", os.WriteFile(d+"/"+n+"n", nil, 0o644), syscall.ENAMETOOLONG)
	odd := "name with \n, \xff\xfe and ü"
	write(t, d+"/"+odd, "odd")
	es, err := os.ReadDir(d)
	ok(t, err)
	equal(t, "entries", len(es), 2)
	ok(t, os.Remove(d+"/"+odd))
	// PATH_MAX: 4095 bytes, made piece by piece.
	fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	ok(t, err)
	total := len(d)
	path := d
	for total+251 < 4000 {
		seg := strings.Repeat("p", 250)
		ok(t, unix.Mkdirat(fd, seg, 0o755))
		next, err := unix.Openat(fd, seg, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		ok(t, err)
		unix.Close(fd)
		fd = next
		total += 251
		path += "/" + seg
	}
	unix.Close(fd)
	write(t, path+"/f", "deep")
	equal(t, "a deep path", read(t, path+"/f"), "deep")
	_, err = os.Stat(path + "/" + strings.Repeat("q/", 200))
	fails(t, "longer than PATH_MAX", err, syscall.ENAMETOOLONG)
}

func loops(t *testing.T, d string) {
	ok(t, os.Symlink("b", d+"/a"))
	ok(t, os.Symlink("a", d+"/b"))
	_, err := os.Open(d + "/a")
	fails(t, "a loop of two", err, syscall.ELOOP)
}

func inodeNumbers(t *testing.T, d string) {
	seen := map[uint64]string{}
	for i := range 200 {
		p := fmt.Sprintf("%s/%d", d, i)
		write(t, p, "")
		ino := lstat(t, p).Ino
		if q := seen[ino]; q != "" {
			t.Fatalf("%s has the number of %s", p, q)
		}
		seen[ino] = p
		if i%2 == 0 {
			ok(t, os.Remove(p))
		}
	}
}

func permissions(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := d + "/f"
	write(t, p, "x")
	ok(t, os.Chown(p, 1000, 2000))
	ok(t, os.Chmod(p, 0o640))
	open := func(flags int) func() error {
		return func() error {
			f, err := os.OpenFile(p, flags, 0)
			if err == nil {
				f.Close()
			}
			return err
		}
	}
	asUser(t, 1000, 1000, nil, open(os.O_RDWR))
	asUser(t, 1001, 2000, nil, open(os.O_RDONLY))
	asUser(t, 1001, 1001, []int{5, 2000}, open(os.O_RDONLY)) // supplementary group only
	fails(t, "the group may not write", tryAsUser(1001, 1001, []int{2000}, open(os.O_RDWR)), syscall.EACCES)
	fails(t, "others", tryAsUser(1002, 1002, nil, open(os.O_RDONLY)), syscall.EACCES)
	fails(t, "chmod by another", tryAsUser(1002, 1002, nil, func() error { return unix.Chmod(p, 0o777) }), syscall.EPERM)
	fails(t, "chown by the owner", tryAsUser(1000, 1000, nil, func() error { return unix.Chown(p, 5, -1) }), syscall.EPERM)
	ok(t, os.Mkdir(d+"/closed", 0o700))
	write(t, d+"/closed/in", "")
	fails(t, "search", tryAsUser(1000, 1000, nil, func() error { return unix.Faccessat2(unix.AT_FDCWD, d+"/closed/in", unix.R_OK, unix.AT_EACCESS) }), syscall.EACCES)
	asUser(t, 1000, 1000, nil, func() error { return os.WriteFile(d+"/mine", nil, 0o644) })
	equal(t, "owner of a new file", lstat(t, d+"/mine").Uid, 1000)
}

func sticky(t *testing.T, d string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ok(t, os.Mkdir(d+"/tmp", 0o777))
	ok(t, unix.Chmod(d+"/tmp", 0o1777))
	asUser(t, 1000, 1000, nil, func() error { return os.WriteFile(d+"/tmp/theirs", nil, 0o666) })
	fails(t, "unlink of another's", tryAsUser(1001, 1001, nil, func() error { return unix.Unlink(d + "/tmp/theirs") }), syscall.EPERM)
	fails(t, "rename of another's", tryAsUser(1001, 1001, nil, func() error { return unix.Rename(d+"/tmp/theirs", d+"/tmp/x") }), syscall.EPERM)
	asUser(t, 1000, 1000, nil, func() error { return unix.Unlink(d + "/tmp/theirs") })
}

func locks(t *testing.T, d string) {
	p := d + "/f"
	write(t, p, "0123456789")
	a, err := os.OpenFile(p, os.O_RDWR, 0)
	ok(t, err)
	defer a.Close()
	b, err := os.OpenFile(p, os.O_RDWR, 0)
	ok(t, err)
	defer b.Close()
	ok(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	fails(t, "flock held by another description", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), syscall.EWOULDBLOCK)
	got := make(chan error)
	go func() { got <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-got:
		t.Fatalf("flock was granted twice: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	ok(t, unix.Flock(int(a.Fd()), unix.LOCK_UN))
	select {
	case err := <-got:
		ok(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("the waiter was not woken")
	}
	ok(t, unix.Flock(int(b.Fd()), unix.LOCK_UN))
	// POSIX locks belong to the process: another one must see them.
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 2, Len: 3}
	ok(t, unix.FcntlFlock(a.Fd(), unix.F_SETLK, &lk))
	out, err := exec.Command("python3", "-c", `
import fcntl,os,struct,sys
f=os.open(sys.argv[1],os.O_RDWR)
try:
    fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,3,2); print("granted")
except OSError as e: print("refused")
fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,2,0); print("free range")
r=fcntl.fcntl(f,fcntl.F_GETLK,struct.pack("hhqqi4x",fcntl.F_WRLCK,0,0,0,0))
t,w,s,l,pid=struct.unpack("hhqqi4x",r); print(t==fcntl.F_WRLCK,s,l)
`, p).CombinedOutput()
	if err != nil {
		t.Skipf("python3: %v %s", err, out)
	}
	equal(t, "the other process", string(out), "refused\nfree range\nTrue 2 3\n")
	lk.Type = unix.F_UNLCK
	ok(t, unix.FcntlFlock(a.Fd(), unix.F_SETLK, &lk))
	ofd := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 5}
	ok(t, unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &ofd))
	again := unix.Flock_t{Type: unix.F_WRLCK, Start: 4, Len: 5}
	fails(t, "OFD lock of another description", unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &again), syscall.EAGAIN)
}

func manyWriters(t *testing.T, d string) {
	f, err := os.Create(d + "/f")
	ok(t, err)
	defer f.Close()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 20 {
				if _, err := f.WriteAt(bytes.Repeat([]byte{byte('a' + w)}, 1000), int64(i*8000+w*1000)); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	b := make([]byte, 160000)
	_, err = f.ReadAt(b, 0)
	ok(t, err)
	for i, c := range b {
		if want := byte('a' + i/1000%8); c != want {
			t.Fatalf("byte %d is %q, want %q", i, c, want)
		}
	}
}
