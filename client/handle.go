package client

import (
	"strings"
	"syscall"

	"github.com/capstan-fs/capstan/wire"
)

// lookupByNumber answers LOOKUP of "." (the inode itself) and ".." (a directory's parent),
// which the kernel asks for a file handle whose inode it does not know any more. The inode
// need not be in our cache either: the rank finds it by number, or says ESTALE.
func (c *Client) lookupByNumber(k *Caller, ino wire.Ino, name string) (e Entry, err error) {
	c.mu.Lock()
	defer c.unlockFlush()
	r := &wire.Request{Op: wire.OpLookup, Ino: ino, Name: name}
	if top := c.root.ino; top != wire.RootIno {
		if ino == top {
			return c.entry(k, c.root) // nothing is above the root of a mount
		}
		r.Other = top
	}
	cl, err := c.do(k, r)
	defer c.doneWith(cl)
	if err != nil {
		return e, err
	}
	if cl.in == nil {
		return e, eIO
	}
	return c.entry(k, cl.in)
}

// SetRoot makes the directory at path, as seen from the volume's root, the root of this
// client's mount, before it is mounted. Root says which it is then. The directory stays it
// wherever others move it. A symbolic link on the way is ENOTDIR: where it leads is the
// business of who mounts.
func (c *Client) SetRoot(k *Caller, path string) error {
	ino := wire.RootIno
	for _, name := range strings.Split(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			return syscall.EINVAL
		}
		e, err := c.Lookup(k, ino, name)
		if ino != wire.RootIno {
			c.Forget(ino, 1)
		}
		if err != nil {
			return err
		}
		ino = e.Ino
		if e.Attr.Mode&0170000 != 0040000 {
			c.Forget(ino, 1)
			return syscall.ENOTDIR
		}
	}
	if ino == wire.RootIno {
		return nil
	}
	c.mu.Lock()
	defer c.unlockFlush()
	in, err := c.byIno(ino)
	if err != nil {
		return err
	}
	old := c.root
	c.ref(in) // for as long as the client lives
	c.root = in
	c.unref(old)
	in.nlookup, in.known = 0, false // it was us who asked, not the kernel
	return nil
}

// Root is the inode at the root of the mount.
func (c *Client) Root() wire.Ino {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.root.ino
}
