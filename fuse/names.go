package fuse

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/wire"
)

// What go-fuse has no words for: names that the kernel may trust for a time. client/kernel.go
// says when, docs/kernel.md why.

// tell answers a LOOKUP with a timeout for the name. The answer is written here, and not by
// go-fuse when we have returned, since it must be known when the kernel has it: only then can
// a revoke look whether the thread that asked has taken it in, and whether this process stood
// still between computing the timeout and writing it (B6). go-fuse's own answer to the same
// request is refused (ENOENT), which is harmless.
func (fs *fileSystem) tell(k *client.Caller, h *fuse.InHeader, name string, out *fuse.EntryOut, e *client.Entry, err error) fuse.Status {
	st := status(err)
	if fs.c.Late(e.At()) {
		fs.c.Told(k, fs.ino(h.NodeId), name, e, false)
		return st
	}
	out.SetEntryTimeout(e.TTL)
	ok := fs.answer(h.Unique, out) == nil
	fs.c.Told(k, fs.ino(h.NodeId), name, e, ok)
	if st != fuse.OK {
		*out = fuse.EntryOut{}
	}
	return st
}

// answer writes the answer to a LOOKUP.
func (fs *fileSystem) answer(unique uint64, out *fuse.EntryOut) error {
	const head, size = 16, 16 + int(unsafe.Sizeof(*out))
	var b [size]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(size))
	binary.NativeEndian.PutUint64(b[8:], unique)
	copy(b[head:], unsafe.Slice((*byte)(unsafe.Pointer(out)), size-head))
	_, err := unix.Write(fs.fd, b[:])
	return err
}

// namer is a notifier of a kernel that can expire names.
type namer struct {
	notifier
	always bool
}

// Always implements client.Namer.
func (n *namer) Always() bool { return n.always }

// Name makes the kernel ask for a name again; what is mounted on it or below stays (F7). It
// blocks while a request that changes or searches the directory is parked (F5).
func (n *namer) Name(dir wire.Ino, name string) {
	n.expire(n.places.first(dir), name)
	for _, id := range n.places.others(dir) {
		n.expire(id, name)
	}
}

func (n *namer) expire(dir uint64, name string) {
	const head = 16 + 16
	size := head + len(name) + 1
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b[0:], uint32(size))
	binary.NativeEndian.PutUint32(b[4:], 3) // FUSE_NOTIFY_INVAL_ENTRY; unique 0: a notification
	binary.NativeEndian.PutUint64(b[16:], dir)
	binary.NativeEndian.PutUint32(b[24:], uint32(len(name)))
	binary.NativeEndian.PutUint32(b[28:], 1) // FUSE_EXPIRE_ONLY
	copy(b[head:], name)
	unix.Write(n.fd, b) // ENOENT: it does not have the name
}

// TookIn waits until threads whose requests were answered have gone on: they were woken by the
// answer, so one that sleeps again, is gone, or has run for a while has taken it in. One that
// burns its processor for us to see has; one that gets none has not, nor has one that waits for
// pages of the inode while it takes the answer in.
func (n *namer) TookIn(threads []uint32, limit time.Duration) []uint32 {
	const ran = 2_000_000 // ns; what is left to do takes a few thousand
	first := map[uint32]int64{}
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		late := threads[:0]
		for _, th := range threads {
			dir := "/proc/" + strconv.Itoa(int(th))
			if state := stateOf(dir); state != 'R' && (state != 'D' || !takesIn(dir)) {
				continue
			}
			at, known := runTime(dir), first[th]
			if known == 0 {
				first[th] = max(at, 1)
			} else if at-known > ran {
				continue
			}
			late = append(late, th)
		}
		if threads = late; len(threads) == 0 || time.Now().After(end) {
			return threads
		}
	}
}

// takesIn reports whether a thread in uninterruptible sleep may be taking the answer to a
// revalidation in. Others wait there as well, for the lock of a directory above all, perhaps for as
// long as we make them wait. Where stacks cannot be read it is believed that it does not:
// client.Inode.steady sees to it that there is no reason to.
func takesIn(dir string) bool {
	b, err := os.ReadFile(dir + "/stack")
	return err == nil && bytes.Contains(b, []byte("fuse_dentry_revalidate")) && !bytes.Contains(b, []byte("request_wait_answer"))
}

// stateOf is the letter of proc(5) for a thread, 0 when it is gone.
func stateOf(dir string) byte {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 >= len(b) {
		return 'R'
	}
	return b[i+2]
}

// runTime is how long a thread has run, in ns, or -1.
func runTime(dir string) int64 {
	b, err := os.ReadFile(dir + "/schedstat")
	if err != nil {
		return -1
	}
	f, _, _ := bytes.Cut(b, []byte(" "))
	n, err := strconv.ParseInt(string(f), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
