package fuse

import (
	"encoding/binary"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/wire"
)

var _ client.Namer = (*namer)(nil)

// notifier tells the kernel what its caches may not keep. Each notification is a write of
// its own, so one that blocks (F1) does not hold up the others.
type notifier struct {
	dev    *device
	places *places
}

// Attrs voids attributes; pages stay. It never blocks (F2).
func (n *notifier) Attrs(ino wire.Ino) {
	n.inode(n.places.first(ino), -1)
	for _, id := range n.places.others(ino) {
		n.inode(id, -1)
	}
}

// Pages voids attributes and all pages, dirty ones being written first. It blocks while a
// READ, or a WRITE of part of a page, is parked (F1, F3).
func (n *notifier) Pages(ino wire.Ino) { n.inode(uint64(ino), 0) }

// inode voids attributes, and what pages lie from off on; below 0: none.
func (n *notifier) inode(id uint64, off int64) {
	const size = 16 + 24
	var b [size]byte
	binary.NativeEndian.PutUint32(b[0:], size)
	binary.NativeEndian.PutUint32(b[4:], 2) // FUSE_NOTIFY_INVAL_INODE; unique 0: a notification
	binary.NativeEndian.PutUint64(b[16:], id)
	binary.NativeEndian.PutUint64(b[24:], uint64(off))
	n.dev.notify(b[:]) // ENOENT: it does not have the inode
}

// Prune lets the kernel drop the inode if nobody uses it. Kernels before FUSE 7.45 refuse
// and keep it until memory is short.
func (n *notifier) Prune(ino wire.Ino) {
	const size = 16 + 16 + 8
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b[0:], size)
	binary.NativeEndian.PutUint32(b[4:], 9) // FUSE_NOTIFY_PRUNE; unique 0: a notification
	binary.NativeEndian.PutUint32(b[16:], 1)
	binary.NativeEndian.PutUint64(b[32:], uint64(ino))
	n.dev.notify(b)
}
