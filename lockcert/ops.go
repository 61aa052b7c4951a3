package lockcert

import (
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Ops are the system calls a worker makes. Kernel makes them; the wrong implementations of
// wrong.go stand between, to show that a check notices.
type Ops interface {
	Open(path string, flags int, mode uint32) (fd int, err error)
	Dup(fd int) (int, error)
	Close(fd int) error
	Pread(fd int, b []byte, off int64) (int, error)
	Pwrite(fd int, b []byte, off int64) (int, error)
	Write(fd int, b []byte) (int, error)
	Ftruncate(fd int, size int64) error
	Seek(fd int, off int64, whence int) (int64, error)
	Fstat(fd int, st *unix.Stat_t) error
	Lstat(path string, st *unix.Stat_t) error
	Chmod(path string, mode uint32) error
	Utimes(path string, sec int64) error
	Setxattr(path, name, val string) error
	Getxattr(path, name string) (string, error)
	Symlink(target, path string) error
	Readlink(path string) (string, error)
	Link(old, new string) error
	Unlink(path string) error
	Rename(old, new string, flags uint) error
	Mkdir(path string, mode uint32) error
	Rmdir(path string) error
	ReadDir(path string) ([]string, error)
	Mmap(fd, size, flags int) ([]byte, error)
	Flock(fd int, how int) error
	Fcntl(fd int, cmd int, lk *unix.Flock_t) error
}

// Kernel makes the system calls as they are.
type Kernel struct{}

func (Kernel) Open(path string, flags int, mode uint32) (int, error) {
	return unix.Open(path, flags|unix.O_CLOEXEC, mode)
}
func (Kernel) Dup(fd int) (int, error)                        { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }
func (Kernel) Close(fd int) error                             { return unix.Close(fd) }
func (Kernel) Pread(fd int, b []byte, off int64) (int, error) { return unix.Pread(fd, b, off) }
func (Kernel) Pwrite(fd int, b []byte, off int64) (int, error) {
	return unix.Pwrite(fd, b, off)
}
func (Kernel) Write(fd int, b []byte) (int, error) { return unix.Write(fd, b) }
func (Kernel) Ftruncate(fd int, size int64) error  { return unix.Ftruncate(fd, size) }
func (Kernel) Seek(fd int, off int64, whence int) (int64, error) {
	return unix.Seek(fd, off, whence)
}
func (Kernel) Fstat(fd int, st *unix.Stat_t) error      { return unix.Fstat(fd, st) }
func (Kernel) Lstat(path string, st *unix.Stat_t) error { return unix.Lstat(path, st) }
func (Kernel) Chmod(path string, mode uint32) error     { return unix.Chmod(path, mode) }
func (Kernel) Utimes(path string, sec int64) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: sec}, {Sec: sec}}, 0)
}
func (Kernel) Setxattr(path, name, val string) error {
	return unix.Setxattr(path, name, []byte(val), 0)
}
func (Kernel) Getxattr(path, name string) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Getxattr(path, name, b)
	return string(b[:max(n, 0)]), err
}
func (Kernel) Symlink(target, path string) error { return unix.Symlink(target, path) }
func (Kernel) Readlink(path string) (string, error) {
	b := make([]byte, 256)
	n, err := unix.Readlink(path, b)
	return string(b[:max(n, 0)]), err
}
func (Kernel) Link(old, new string) error { return unix.Link(old, new) }
func (Kernel) Unlink(path string) error   { return unix.Unlink(path) }
func (Kernel) Rename(old, new string, flags uint) error {
	if flags == 0 {
		return unix.Rename(old, new)
	}
	return unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, new, flags)
}
func (Kernel) Mkdir(path string, mode uint32) error { return unix.Mkdir(path, mode) }
func (Kernel) Rmdir(path string) error              { return unix.Rmdir(path) }

// ReadDir lists a directory through a descriptor of its own: one pass, no rewinding.
func (Kernel) ReadDir(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}
func (Kernel) Mmap(fd, size, flags int) ([]byte, error) {
	return unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
}
func (Kernel) Flock(fd int, how int) error { return unix.Flock(fd, how) }
func (Kernel) Fcntl(fd int, cmd int, lk *unix.Flock_t) error {
	return unix.FcntlFlock(uintptr(fd), cmd, lk)
}

// now is CLOCK_MONOTONIC, which all processes of a host read alike: times of different
// workers can be compared.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime: %v", err))
	}
	return ts.Nano()
}

func sleepUntil(at int64) { time.Sleep(time.Duration(at - now())) }
