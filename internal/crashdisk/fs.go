package crashdisk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// File is an open file.
type File interface {
	ReadAt(p []byte, off int64) (int, error) // io.EOF at the end
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error // bytes and size, as fdatasync
	Size() (int64, error)
	// Punch gives the space of a range back; it reads as zeros. As durable as a write, and an error
	// where the file system cannot.
	Punch(off, n int64) error
	Close() error
}

// FS is one directory of files. Errors of missing and present files are fs.ErrNotExist and
// fs.ErrExist.
type FS interface {
	Open(name string) (File, error)
	Create(name string) (File, error) // must not exist
	Rename(from, to string) error     // replaces
	Remove(name string) error
	List() ([]string, error) // sorted
	SyncDir() error
}

// OS is the real directory dir.
func OS(dir string) FS { return osFS(dir) }

// ReadOnly is the real directory dir, of which nothing can be changed.
func ReadOnly(dir string) FS { return roFS{osFS(dir)} }

type roFS struct{ osFS }

func (d roFS) Open(name string) (File, error) { return d.open(name, os.O_RDONLY) }
func (d roFS) Create(name string) (File, error) {
	return nil, &fs.PathError{Op: "create", Path: d.path(name), Err: fs.ErrPermission}
}
func (d roFS) Rename(from, _ string) error {
	return &fs.PathError{Op: "rename", Path: d.path(from), Err: fs.ErrPermission}
}
func (d roFS) Remove(name string) error {
	return &fs.PathError{Op: "remove", Path: d.path(name), Err: fs.ErrPermission}
}

func (d roFS) OpenDirect(name string) (File, error) {
	return nil, &fs.PathError{Op: "open", Path: d.path(name), Err: fs.ErrPermission}
}

type osFS string

func (d osFS) path(name string) string { return filepath.Join(string(d), name) }

func (d osFS) Open(name string) (File, error) { return d.open(name, os.O_RDWR) }
func (d osFS) Create(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}
func (d osFS) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d osFS) Remove(name string) error     { return os.Remove(d.path(name)) }

// OpenDirect opens a file to be written past the page cache (O_DIRECT): bytes, memory and place
// in multiples of the device's blocks. An error where the file system cannot.
func (d osFS) OpenDirect(name string) (File, error) { return d.open(name, os.O_WRONLY|unix.O_DIRECT) }

func (d osFS) open(name string, flags int) (File, error) {
	f, err := os.OpenFile(d.path(name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osFS) List() ([]string, error) {
	es, err := os.ReadDir(string(d))
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names, err
}

func (d osFS) SyncDir() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

// Sync is fdatasync: size and bytes, not the times, which would cost a journal commit.
func (f osFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
	}
}

// ReadCached fills p from the page cache; false: a part of it would have to come from the disk.
func (f osFile) ReadCached(p []byte, off int64) bool {
	n, err := unix.Preadv2(int(f.Fd()), [][]byte{p}, off, unix.RWF_NOWAIT)
	return err == nil && n == len(p)
}

// NoReadAhead makes every read one of what was asked for.
func (f osFile) NoReadAhead() { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) } // a hint

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Punch makes a hole.
func (f osFile) Punch(off, n int64) error {
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		return &fs.PathError{Op: "punch", Path: f.Name(), Err: err}
	}
	return nil
}
