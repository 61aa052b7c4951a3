package fuse

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/capstan-fs/capstan/wire"
)

// The ticket of a file lock, for its holder to show as a fencing token (4.13). Neither GETXATTR
// nor IOCTL says which lock owner asks, so locks are told by the process that took them, and
// for the ioctl by the open file.

const (
	ticketXattr = "capstan.lock.ticket"
	ticketIoctl = 0x8008ca01 // _IOR(0xca, 1, uint64)
)

// ticketOf is the newest ticket of a lock on the file that pid took, or the nearest of its
// ancestors that took one (flock(1) runs a command under its lock); 0: none of them did.
func (fs *fileSystem) ticketOf(i wire.Ino, pid uint32) uint64 {
	of := map[uint32]uint64{}
	fs.c.LockTickets(i, func(l *wire.FileLock) { of[l.PID] = max(of[l.PID], l.Ticket) })
	if len(of) == 0 {
		return 0
	}
	pid, _ = processOf(pid)
	for range 64 {
		if t := of[pid]; t != 0 || pid <= 1 {
			return t
		}
		_, pid = processOf(pid)
	}
	return 0
}

// processOf is the process that a thread belongs to, and its parent; 0: there is none.
func processOf(tid uint32) (process, parent uint32) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(tid)) + "/status")
	if err != nil {
		return 0, 0
	}
	return statusField(b, "Tgid:"), statusField(b, "PPid:")
}

func statusField(status []byte, field string) uint32 {
	_, rest, _ := bytes.Cut(status, []byte("\n"+field))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 32)
	return uint32(n)
}

// ticketAt is the newest ticket of a lock that the open file has: a flock or an OFD lock, or
// else a POSIX lock that the asking process took; 0: none.
func (fs *fileSystem) ticketAt(h *handle, i wire.Ino, pid uint32) (t uint64) {
	pid, _ = processOf(pid)
	fs.c.LockTickets(i, func(l *wire.FileLock) {
		if h.owns(l) || !l.Flock && l.PID == pid {
			t = max(t, l.Ticket)
		}
	})
	return t
}

// Ioctl answers for the ticket; there are no others.
func (fs *fileSystem) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, _ []byte, out *fuse.IoctlOut, buf []byte) fuse.Status {
	h := fs.fhs.get(in.Fh)
	if in.Cmd != ticketIoctl || h == nil {
		return fuse.Status(syscall.ENOTTY)
	}
	t := fs.ticketAt(h, fs.ino(in.NodeId), in.Pid)
	if t == 0 {
		return fuse.ENODATA
	}
	if len(buf) < 8 {
		return fuse.EINVAL
	}
	binary.NativeEndian.PutUint64(buf, t)
	return fuse.OK
}
