package client

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// fileCaps are the privileges that running the file gives; whoever changes it ends them.
const fileCaps = "security.capability"

// killFileCaps removes them before a write: the kernel does not see a direct one coming.
// Without Xs it asks once per open file.
func (c *Client) killFileCaps(k *Caller, f *File) error {
	in := f.in
	has := func(all []wire.KV) bool {
		return slices.ContainsFunc(all, func(x wire.KV) bool { return x.Key == fileCaps })
	}
	all := in.xattrs
	if c.mayAttr(in, wire.MaskXattr) == NoRight {
		if f.askedCaps {
			return nil
		}
		var err error
		if all, err = c.xattrsOf(k, in.ino); err != nil {
			return err
		}
		f.askedCaps = true
	}
	if !has(all) {
		return nil
	}
	cl, err := c.do(k, &wire.Request{Op: wire.OpRmxattr, Ino: in.ino, Xname: fileCaps})
	c.doneWith(cl)
	if err == eNODATA {
		err = nil
	}
	return err
}

// killPriv clears setuid, setgid and file capabilities before a write by somebody who may
// not keep them.
func (c *Client) killPriv(k *Caller, in *Inode) error {
	if c.mayAttr(in, wire.MaskAuth) == NoRight {
		if err := c.fetch(k, in, wire.MaskAuth); err != nil {
			return err
		}
	}
	if m := in.attr.Mode; m&04000 != 0 || m&02010 == 02010 {
		cl, err := c.do(k, &wire.Request{Op: wire.OpSetattr, Ino: in.ino, Set: wire.SetKillSuid})
		c.doneWith(cl)
		if err != nil {
			return err
		}
	}
	return nil
}
