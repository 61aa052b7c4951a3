package fuse

import (
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/wire"
)

// What go-fuse has no words for: names that the kernel may trust for a time. client/kernel.go
// says when, docs/kernel.md why.

// tell answers a LOOKUP with a timeout for the name. The answer is written here, and not by
// go-fuse when we have returned, since it must be known when the kernel has it: only then can
// a revoke look whether the thread that asked has taken it in, and whether this process stood
// still between computing the timeout and writing it (B6).
func (fs *fileSystem) tell(k *client.Caller, h *fuse.InHeader, name string, out *fuse.EntryOut, e *client.Entry, err error) fuse.Status {
	st := status(err)
	if fs.c.Late(e.At()) {
		fs.c.Told(fs.ino(h.NodeId), name, e, false)
		return st
	}
	out.SetEntryTimeout(e.TTL)
	ok := fs.dev.reply(h.Unique, unsafe.Slice((*byte)(unsafe.Pointer(out)), unsafe.Sizeof(*out))) == nil
	fs.c.Told(fs.ino(h.NodeId), name, e, ok)
	if st != fuse.OK {
		*out = fuse.EntryOut{}
	}
	return st
}

// tellRows does the same for rows of a listing, if any has a timeout.
func (fs *fileSystem) tellRows(h *fuse.InHeader, out *fuse.DirEntryList, rows *client.Rows) {
	if at, timed := rows.Timed(); timed && fs.c.Late(at) {
		clearTimeouts(out.Bytes())
		rows.Done(false)
	} else if timed {
		rows.Done(fs.dev.reply(h.Unique, out.Bytes()) == nil)
	}
}

// clearTimeouts takes the timeouts out of rows as the kernel reads them: an entry, then a name with a
// head of 24 bytes, then up to 7 bytes that make it a multiple of 8.
func clearTimeouts(b []byte) {
	const entry, head = int(unsafe.Sizeof(fuse.EntryOut{})), 24
	for len(b) > 0 {
		o := (*fuse.EntryOut)(unsafe.Pointer(&b[0]))
		o.SetEntryTimeout(0)
		o.SetAttrTimeout(0)
		name := int(binary.NativeEndian.Uint32(b[entry+16:]))
		b = b[entry+(head+name+7)&^7:]
	}
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
	n.dev.notify(b) // ENOENT: it does not have the name
}
