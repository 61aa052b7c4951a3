package client

import (
	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// This file is the one place that says whether the cache may answer, and by which right.

// Right is what allows an answer from the cache; the empty one means: ask the rank.
type Right string

// Rights.
const (
	NoRight     Right = ""
	ByCaps      Right = "caps"     // the shared or exclusive bit of each group asked for
	ByFs        Right = "Fs"       // the directory's names are ours to trust
	ByComplete  Right = "complete" // … and all of them are known
	ByLease     Right = "lease"    // this one name is
	ByImmutable Right = "p"        // type, rdev and symlink target never change
)

// mayAttr: attributes of mask, if each group's bit is issued and its value came with it or
// later.
func (c *Client) mayAttr(in *Inode, mask wire.AttrMask) Right {
	if mask&wire.MaskLink != 0 && in.isDir() {
		mask |= wire.MaskFile // a directory's link count is a count of its entries
	}
	for _, g := range groups {
		if mask&g.mask != 0 && (in.cap.issued&(g.shared|g.excl) == 0 || in.fresh&g.mask == 0) {
			return NoRight
		}
	}
	if !in.usable() {
		return NoRight
	}
	return ByCaps
}

// mayName: what name leads to in dir; ino 0 is a known absence.
func (c *Client) mayName(dir *Inode, name string) (wire.Ino, Right) {
	d := dir.dir
	if d == nil {
		return 0, NoRight
	}
	fs := dir.cap.issued&caps.FileShared != 0
	e := d.names[name]
	switch {
	case !dir.usable():
	case e != nil && fs && e.gen == d.gen:
		return e.ino, ByFs
	case e != nil && e.lease > 0 && c.now() < e.lease:
		return e.ino, ByLease
	case fs && d.complete:
		return 0, ByComplete
	}
	return 0, NoRight
}

// mayList: the complete listing.
func (c *Client) mayList(dir *Inode) ([]wire.DirEntry, Right) {
	if d := dir.dir; d != nil && d.listing != nil && dir.cap.issued&caps.FileShared != 0 && dir.usable() {
		return d.listing, ByComplete
	}
	return nil, NoRight
}

// kernelAttr is how long the kernel may keep attributes just computed, in ns: min(K, what is
// left of the validity) under As Ls Xs Fs, else not at all (B6). Only a kernel that has named
// the inode already gets a timeout: an invalidation finds it then, and cannot overtake. Or one
// that is told of it by a row of a listing: an invalidation waits until that is taken in (voidAttrs).
func (c *Client) kernelAttr(in *Inode) int64 {
	if !in.known && in.shownBy == nil || c.mayAttr(in, wire.MaskAll) == NoRight || in.cap.job {
		return 0
	}
	now := c.now()
	t := min(c.kernel, in.at.valid-now)
	if t <= 0 {
		return 0
	}
	in.attrUntil = now + t
	return t
}
