package client

import "github.com/capstan-fs/capstan/wire"

// The store gets no bytes of a file whose creation the journal does not hold yet. The rank and
// this client may both die in that moment, and then nobody would know of the file: numbers are
// never given out again (4.15), so its objects would show nowhere, and fill the store for ever.
// The journal is at most a few milliseconds behind (a create is answered before it is durable),
// and what is written meanwhile is buffered.

// makesFile: a request after whose answer its target may be written to.
func makesFile(op wire.Op) bool {
	return op == wire.OpCreate || op == wire.OpTmpfile || op == wire.OpMknod
}

// unborn reports whether the journal may not know of in.
func (in *Inode) unborn() bool { return in.born != nil }

// born ends that for what k made, and lets go of the flights that were held back for it.
func (c *Client) born(k *kept) {
	if k.call == nil || !makesFile(k.call.req.Op) {
		return
	}
	in := c.inodes[k.call.req.GivenIno]
	if in == nil || in.born != k {
		return
	}
	in.born = nil
	if b := in.buf; b != nil && b.kept {
		b.kept = false
		for _, ob := range b.objs {
			c.launch(in, ob)
		}
	}
	in.changed.wake()
}

// stored is why somebody waits for bytes of in to be in the store: the object's PG, or first
// the rank's journal.
func (in *Inode) stored() reason {
	if in.unborn() {
		return reason{kind: waitSafe, rank: in.at.num, ino: in.ino}
	}
	return reason{kind: waitObjects, ino: in.ino}
}
