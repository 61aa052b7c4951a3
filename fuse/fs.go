package fuse

import (
	"bytes"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// fileSystem answers the kernel's requests.
type fileSystem struct {
	fuse.RawFileSystem // answers ENOSYS to what is not here
	c                  *client.Client
	log                zerolog.Logger
	fhs                handles
	places             places
	wrong              wrong.Set // seeded bugs
	dev                *device
}

func newFileSystem(c *client.Client, _ options, log zerolog.Logger) *fileSystem {
	return &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), c: c, log: log, places: newPlaces(c.Root())}
}

func (fs *fileSystem) ino(n uint64) wire.Ino { return fs.places.ino(n) }

func (fs *fileSystem) String() string { return "capstan" }

// caller is who asks. The channel that go-fuse has for INTERRUPT is not used: see device.cancel.
func (fs *fileSystem) caller(h *fuse.InHeader) client.Caller {
	op := h.Opcode % numOps
	opCounts[op].Add(1)
	return client.Caller{UID: h.Uid, GID: h.Gid, PID: h.Pid, Cancel: fs.dev.cancel(h.Unique), Killed: fs.killed, Op: opNames[op], Ino: fs.ino(h.NodeId)}
}

func (fs *fileSystem) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	k := fs.caller(h)
	e, err := fs.c.Lookup(&k, fs.ino(h.NodeId), name)
	if e.TTL > 0 {
		if err == nil {
			fs.entry(h.NodeId, name, out, &e)
		} // else node id 0: the absence may be trusted
		return fs.tell(&k, h, name, out, &e, err)
	}
	if err != nil {
		return status(err)
	}
	fs.entry(h.NodeId, name, out, &e)
	return fuse.OK
}

// entry fills what the kernel is told of a name.
func (fs *fileSystem) entry(dir uint64, name string, out *fuse.EntryOut, e *client.Entry) {
	fillEntry(out, e)
	if name == "." && dir == rootNode {
		out.NodeId, out.Generation = rootNode, 0
		return
	}
	if e.Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	id, fresh := fs.places.show(dir, name, e.Ino)
	out.NodeId = id
	if id == rootNode {
		out.Generation = 0 // the kernel's own idea of it
	}
	if fresh {
		out.SetAttrTimeout(0) // an invalidation would miss it
	}
}

func (fs *fileSystem) Forget(nodeid, nlookup uint64) {
	fs.places.forget(nodeid, nlookup)
	fs.c.Forget(fs.ino(nodeid), nlookup)
}

func (fs *fileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	a, err := fs.c.Getattr(&k, fs.ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	fillAttr(&out.Attr, &a)
	out.SetTimeout(a.TTL)
	return fuse.OK
}

func (fs *fileSystem) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	a, err := fs.c.Getattr(&k, fs.ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	fillStatx(&out.Statx, &a)
	out.SetTimeout(a.TTL)
	return fuse.OK
}

func (fs *fileSystem) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	a, err := fs.c.Setattr(&k, fs.ino(in.NodeId), setattr(in))
	if err != nil {
		return status(err)
	}
	fillAttr(&out.Attr, &a)
	out.SetTimeout(a.TTL)
	return fuse.OK
}

func (fs *fileSystem) made(dir uint64, name string, e client.Entry, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return status(err)
	}
	fs.entry(dir, name, out, &e)
	out.SetAttrTimeout(0) // the kernel does not know it yet: an invalidation would miss it
	return fuse.OK
}

func (fs *fileSystem) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	e, err := fs.c.Mknod(&k, fs.ino(in.NodeId), name, client.Make{Mode: in.Mode, Umask: in.Umask, Rdev: in.Rdev})
	return fs.made(in.NodeId, name, e, err, out)
}

func (fs *fileSystem) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	e, err := fs.c.Mknod(&k, fs.ino(in.NodeId), name, client.Make{Mode: in.Mode&07777 | unix.S_IFDIR, Umask: in.Umask})
	return fs.made(in.NodeId, name, e, err, out)
}

func (fs *fileSystem) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	k := fs.caller(h)
	e, err := fs.c.Mknod(&k, fs.ino(h.NodeId), name, client.Make{Mode: 0777 | unix.S_IFLNK, Target: target})
	return fs.made(h.NodeId, name, e, err, out)
}

func (fs *fileSystem) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	e, err := fs.c.Link(&k, fs.ino(in.Oldnodeid), fs.ino(in.NodeId), name)
	return fs.made(in.NodeId, name, e, err, out)
}

func (fs *fileSystem) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	k := fs.caller(h)
	return status(fs.c.Unlink(&k, fs.ino(h.NodeId), name))
}

func (fs *fileSystem) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	k := fs.caller(h)
	return status(fs.c.Rmdir(&k, fs.ino(h.NodeId), name))
}

func (fs *fileSystem) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	k := fs.caller(&in.InHeader)
	var fl uint32
	if in.Flags&unix.RENAME_NOREPLACE != 0 {
		fl |= wire.RenameNoReplace
	}
	if in.Flags&unix.RENAME_EXCHANGE != 0 {
		fl |= wire.RenameExchange
	}
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	err := fs.c.Rename(&k, fs.ino(in.NodeId), from, fs.ino(in.Newdir), to, fl)
	if err == nil {
		fs.places.renamed(place{in.NodeId, from}, place{in.Newdir, to}, fl&wire.RenameExchange != 0)
	}
	return status(err)
}

func (fs *fileSystem) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	k := fs.caller(h)
	t, err := fs.c.Readlink(&k, fs.ino(h.NodeId))
	return []byte(t), status(err)
}

// Access is the kernel's own business under default_permissions.
func (fs *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// ---- xattrs ----------------------------------------------------------------------------

func fit(val, dest []byte) (uint32, fuse.Status) {
	if len(val) > len(dest) {
		return uint32(len(val)), fuse.ERANGE
	}
	return uint32(copy(dest, val)), fuse.OK
}

func (fs *fileSystem) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if name == ticketXattr {
		if t := fs.ticketOf(fs.ino(h.NodeId), h.Pid); t != 0 {
			return fit(strconv.AppendUint(nil, t, 10), dest)
		}
		return 0, fuse.ENODATA
	}
	k := fs.caller(h)
	v, err := fs.c.Getxattr(&k, fs.ino(h.NodeId), name)
	if err != nil {
		return 0, status(err)
	}
	return fit(v, dest)
}

// withoutTrusted leaves the names out that only root may know of: trusted.*. The kernel checks
// that for getxattr; here nobody but us does.
func withoutTrusted(list []byte) []byte {
	var out []byte
	for len(list) > 0 {
		n := bytes.IndexByte(list, 0) + 1
		if n == 0 {
			n = len(list)
		}
		if !bytes.HasPrefix(list, []byte("trusted.")) {
			out = append(out, list[:n]...)
		}
		list = list[n:]
	}
	return out
}

func (fs *fileSystem) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	k := fs.caller(h)
	v, err := fs.c.Listxattr(&k, fs.ino(h.NodeId))
	if err != nil {
		return 0, status(err)
	}
	if h.Uid != 0 {
		v = withoutTrusted(v)
	}
	return fit(v, dest)
}

func (fs *fileSystem) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, val []byte) fuse.Status {
	k := fs.caller(&in.InHeader)
	return status(fs.c.Setxattr(&k, fs.ino(in.NodeId), name, val, in.Flags))
}

func (fs *fileSystem) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	k := fs.caller(h)
	return status(fs.c.Removexattr(&k, fs.ino(h.NodeId), name))
}

// ---- files -----------------------------------------------------------------------------

// openFlags: a handle is cached or direct for all its life (F8): direct where somebody else
// may be writing, and for O_APPEND, never with parallel direct writes (B3, B5).
func openFlags(f *client.File) uint32 {
	switch {
	case f.Direct:
		return fuse.FOPEN_DIRECT_IO
	case f.Keep:
		return fuse.FOPEN_KEEP_CACHE
	}
	return 0
}

func (fs *fileSystem) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	e, f, err := fs.c.Create(&k, fs.ino(in.NodeId), name, in.Mode, in.Umask, in.Flags)
	return fs.created(in.NodeId, name, e, f, err, out)
}

func (fs *fileSystem) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	e, f, err := fs.c.Tmpfile(&k, fs.ino(in.NodeId), in.Mode, in.Umask, in.Flags)
	if st := status(err); st == fuse.ENOSYS {
		return fuse.ENOTSUP
	}
	return fs.created(in.NodeId, "", e, f, err, out)
}

func (fs *fileSystem) created(dir uint64, name string, e client.Entry, f *client.File, err error, out *fuse.CreateOut) fuse.Status {
	if st := fs.made(dir, name, e, err, &out.EntryOut); st != fuse.OK {
		return st
	}
	out.Fh = fs.fhs.add(f)
	out.OpenFlags = openFlags(f)
	return fuse.OK
}

func (fs *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	f, err := fs.c.Open(&k, fs.ino(in.NodeId), in.Flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0)
	if err != nil {
		return status(err)
	}
	out.Fh = fs.fhs.add(f)
	out.OpenFlags = openFlags(f)
	return fuse.OK
}

// readLockOwner is FUSE_READ_LOCKOWNER (fuse(4)): the kernel sets it in READs that bypass its pages.
const readLockOwner = 1 << 1

func (fs *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	k := fs.caller(&in.InHeader)
	read := fs.c.Read
	if in.ReadFlags&readLockOwner == 0 { // only a read() that bypasses the pages has an owner
		read = fs.c.ReadPage
	}
	b, err := read(&k, h.f, in.Offset, int(in.Size))
	if err != nil {
		return nil, status(err)
	}
	return fs.dev.read(in.Unique, b), fuse.OK
}

func (fs *fileSystem) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	k := fs.caller(&in.InHeader)
	n, err := fs.c.Write(&k, h.f, data, in.Offset, client.WriteFlags{
		Append:   in.Flags&syscall.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0,
		FromMmap: in.WriteFlags&fuse.WRITE_CACHE != 0,
		Kill:     in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0,
		Sync:     in.Flags&syscall.O_DSYNC != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0,
	})
	return uint32(n), status(err)
}

// Writev: the device hands data in one piece.
func (fs *fileSystem) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		return fs.Write(cancel, in, data[0])
	}
	return 0, fuse.ENOSYS
}

func (fs *fileSystem) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	k := fs.caller(&in.InHeader)
	off, err := fs.c.Lseek(&k, h.f, in.Offset, in.Whence == unix.SEEK_HOLE)
	out.Offset = off
	return status(err)
}

// Flush is sent at each close of a descriptor: the process's POSIX locks on the file go (F14).
func (fs *fileSystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	h.flushed(in.LockOwner)
	if !fs.wrong.Has(wrong.CloseKeepsPosix) {
		fs.c.UnlockOwner(h.f, in.LockOwner, false)
	}
	if fs.wrong.Has(wrong.CloseDropsOFD) {
		for _, o := range h.left() {
			fs.c.UnlockOwner(h.f, o, false)
		}
	}
	return status(fs.c.CloseError(h.f))
}

func (fs *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	h := fs.fhs.remove(in.Fh)
	if h == nil {
		return
	}
	const flockUnlock = 1 << 1
	if fs.wrong.Has(wrong.ReleaseKeeps) {
		fs.c.Release(h.f)
		return
	}
	if in.ReleaseFlags&flockUnlock != 0 {
		fs.c.UnlockOwner(h.f, in.LockOwner, true)
	}
	for _, o := range h.left() {
		fs.c.UnlockOwner(h.f, o, false)
	}
	fs.c.Release(h.f)
}

func (fs *fileSystem) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	k := fs.caller(&in.InHeader)
	return status(fs.c.Fsync(&k, h.f))
}

func (fs *fileSystem) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	k := fs.caller(&in.InHeader)
	return status(fs.c.Fallocate(&k, h.f, in.Offset, in.Length, in.Mode))
}

// CopyFileRange copies without handing the bytes to the kernel, which has written its dirty
// pages of both ranges before it asks, and drops those of the second afterwards.
func (fs *fileSystem) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := fs.fhs.get(in.FhIn), fs.fhs.get(in.FhOut)
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	if in.Flags != 0 {
		return 0, fuse.EINVAL
	}
	k := fs.caller(&in.InHeader)
	n, err := fs.c.CopyRange(&k, from.f, in.OffIn, to.f, in.OffOut, in.Len)
	return uint32(n), status(err)
}

// ---- locks -----------------------------------------------------------------------------

func lockOf(in *fuse.LkIn) (l wire.FileLock, st fuse.Status) {
	l = wire.FileLock{Flock: in.LkFlags&fuse.LK_FLOCK != 0, Owner: in.Owner, PID: in.Lk.Pid, Start: in.Lk.Start, End: in.Lk.End}
	switch in.Lk.Typ {
	case syscall.F_RDLCK:
		l.Type = wire.LockRead
	case syscall.F_WRLCK:
		l.Type = wire.LockWrite
	case syscall.F_UNLCK:
		l.Type = wire.LockUnlock
	default:
		return l, fuse.EINVAL
	}
	if l.Flock {
		l.Start, l.End = 0, client.EndOfFile
	}
	return l, fuse.OK
}

func (fs *fileSystem) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	l, st := lockOf(in)
	if st != fuse.OK {
		return st
	}
	k := fs.caller(&in.InHeader)
	r, err := fs.c.Getlk(&k, h.f, l)
	if err != nil {
		return status(err)
	}
	out.Lk = fuse.FileLock{Start: r.Start, End: r.End, Pid: r.PID, Typ: syscall.F_UNLCK}
	switch r.Type {
	case wire.LockRead:
		out.Lk.Typ = syscall.F_RDLCK
	case wire.LockWrite:
		out.Lk.Typ = syscall.F_WRLCK
	}
	return fuse.OK
}

func (fs *fileSystem) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return fs.setLk(cancel, in, false)
}

// SetLkw is the one request that a signal may end with EINTR (B9).
func (fs *fileSystem) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return fs.setLk(cancel, in, true)
}

func (fs *fileSystem) setLk(cancel <-chan struct{}, in *fuse.LkIn, wait bool) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	l, st := lockOf(in)
	if st != fuse.OK {
		return st
	}
	l.Wait = wait && l.Type != wire.LockUnlock
	k := fs.caller(&in.InHeader)
	switch {
	case l.Type == wire.LockUnlock:
	case l.Flock:
		h.flocked(l.Owner)
	default:
		h.took(l.Owner)
	}
	return status(fs.c.Setlk(&k, h.f, l))
}

// ---- directories -----------------------------------------------------------------------

func (fs *fileSystem) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	k := fs.caller(&in.InHeader)
	f, err := fs.c.Open(&k, fs.ino(in.NodeId), 0, false)
	if err != nil {
		return status(err)
	}
	out.Fh = fs.fhs.add(f)
	return fuse.OK
}

func (fs *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	k := fs.caller(&in.InHeader)
	return status(fs.c.Readdir(&k, h.f, in.Offset, func(e *client.DirEntry) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Mode, Off: e.Cookie})
	}))
}

func (fs *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	k := fs.caller(&in.InHeader)
	rows := fs.c.NewRows(&k, h.f)
	err := fs.c.Readdir(&k, h.f, in.Offset, func(e *client.DirEntry) bool {
		o := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Mode, Off: e.Cookie})
		if o == nil {
			return false
		}
		if x, ok := rows.Entry(e); ok { // the reference is counted only for a row that fits
			fs.entry(in.NodeId, e.Name, o, &x)
			o.SetEntryTimeout(x.TTL)
		}
		return true
	})
	fs.tellRows(&in.InHeader, out, rows)
	return status(err)
}

func (fs *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	if h := fs.fhs.remove(in.Fh); h != nil {
		fs.c.Release(h.f)
	}
}

func (fs *fileSystem) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.Fsync(cancel, in)
}

func (fs *fileSystem) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	k := fs.caller(h)
	s, err := fs.c.Statfs(&k)
	if err != nil {
		return status(err)
	}
	out.Bsize, out.Frsize = blockSize, blockSize
	out.Blocks = s.Total / blockSize
	out.Bfree = s.Avail / blockSize
	out.Bavail = out.Bfree
	out.Files = s.Inodes + 1<<40
	out.Ffree = 1 << 40
	out.NameLen = wire.MaxName
	return fuse.OK
}
