package client

import (
	"context"

	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// File locks are the rank's; the client keeps what it was granted, to declare it again to a
// new incarnation and to know which owners still hold something (B8).

// EndOfFile as the End of a lock.
const EndOfFile = 1<<63 - 1

// Setlk takes, changes or drops a lock. With Wait it may take long; a signal ends it, and
// the rank is told to take the waiter back.
func (c *Client) Setlk(k *Caller, f *File, l wire.FileLock) error {
	c.mu.Lock()
	defer c.unlockFlush()
	in := f.in
	if f.gen < in.lostGen {
		return ErrLost
	}
	c.ref(in)
	defer c.unref(in)
	r := &wire.Request{Op: wire.OpSetlk, Ino: in.ino, Lock: l, UID: k.UID, GID: k.GID, PID: k.PID}
	cl := c.start(r)
	if !l.Wait {
		if err := c.finish(k, cl); err != nil {
			return err
		}
		l.Ticket = cl.reply.Lock.Ticket
		in.lockGranted(l)
		return nil
	}
	c.unlockFlush()
	cancelled := false
	k.why = reason{kind: waitRequest, call: cl}
	w := c.lieDown(k)
	select {
	case <-cl.done:
		c.getUp(k, w)
	case <-k.Cancel:
		c.getUp(k, w)
		cancelled = true
	case <-c.closed:
		c.getUp(k, w)
		c.mu.Lock()
		return ErrClosed
	}
	c.mu.Lock()
	if cancelled && c.wrong.Has(wrong.InterruptLost) {
		return ErrInterrupted
	}
	if cancelled {
		// The rank answers EINTR, or had granted it and undoes that: its answer to the
		// request decides. Who is killed does not wait for it.
		cl.undo = true
		c.cancelLock(cl)
		k.why = reason{kind: waitRequest, call: cl}
		if err := c.await(k, cl.done); err != nil {
			cl.gone = true
			return err
		}
		if cl.err == nil && cl.reply.Errno == 0 {
			// The grant crossed the cancel, which is an unlock then: acquired and released.
			l.Type = wire.LockUnlock
			in.lockGranted(l)
			return ErrInterrupted
		}
	}
	if err := c.finish(k, cl); err != nil {
		return err
	}
	l.Ticket = cl.reply.Lock.Ticket
	in.lockGranted(l)
	return nil
}

// cancelLock asks the rank to take a waiting lock back. While there is no session it is kept
// in mind: a new rank hears of the waiter, and must hear of this too.
func (c *Client) cancelLock(cl *call) {
	if c.state == sessOpen {
		c.send(0, &wire.LockCancel{Tid: cl.req.Tid, Ino: cl.req.Ino, Lock: cl.req.Lock})
	}
}

// undoLock gives back what was granted to somebody who was killed meanwhile; a cancel on its
// way does that by itself.
func (c *Client) undoLock(cl *call) {
	l := cl.req.Lock
	if cl.req.Op != wire.OpSetlk || cl.reply.Errno != 0 || l.Type == wire.LockUnlock {
		return
	}
	l.Type, l.Wait = wire.LockUnlock, false
	if in := c.inodes[cl.req.Ino]; in != nil {
		in.lockGranted(l)
	}
	if !cl.undo {
		c.start(&wire.Request{Op: wire.OpSetlk, Ino: cl.req.Ino, Lock: l})
	}
}

// Getlk returns the first lock that stands against l; Type Unlock when none does.
func (c *Client) Getlk(k *Caller, f *File, l wire.FileLock) (wire.FileLock, error) {
	c.mu.Lock()
	defer c.unlockFlush()
	cl, err := c.do(k, &wire.Request{Op: wire.OpGetlk, Ino: f.in.ino, Lock: l})
	if err != nil {
		return wire.FileLock{}, err
	}
	return cl.reply.Lock, nil
}

// UnlockOwner drops everything that owner holds on f's inode in one of the two name spaces.
// It waits for nothing, and asks nothing when the owner holds nothing.
func (c *Client) UnlockOwner(f *File, owner uint64, flock bool) {
	c.mu.Lock()
	in := f.in
	l := wire.FileLock{Owner: owner, Flock: flock, End: EndOfFile}
	held := false
	for _, h := range in.locks {
		held = held || h.Owner == owner && h.Flock == flock
	}
	if held {
		in.lockGranted(l)
		c.start(&wire.Request{Op: wire.OpSetlk, Ino: in.ino, Lock: l})
	}
	c.unlockFlush()
}

// Holds reports whether owner holds a range lock on f's inode.
func (c *Client) Holds(f *File, owner uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range f.in.locks {
		if h.Owner == owner && !h.Flock {
			return true
		}
	}
	return false
}

// lockGranted records a grant: the owner's own ranges under it are replaced.
func (in *Inode) lockGranted(n wire.FileLock) {
	var out []wire.FileLock
	for _, h := range in.locks {
		if h.Owner != n.Owner || h.Flock != n.Flock || h.End < n.Start || h.Start > n.End {
			out = append(out, h)
			continue
		}
		if h.Start < n.Start {
			l := h
			l.End = n.Start - 1
			out = append(out, l)
		}
		if h.End > n.End {
			l := h
			l.Start = n.End + 1
			out = append(out, l)
		}
	}
	if n.Type != wire.LockUnlock {
		n.Wait = false
		out = append(out, n)
	}
	in.locks = out
}

// Sync flushes everything this client has and waits until it is durable.
func (c *Client) Sync(ctx context.Context) error {
	c.mu.Lock()
	defer c.unlockFlush()
	for in := range c.dirty {
		if in.dirty {
			c.update(in, 0)
		}
	}
	return c.waitSafe(&Caller{Cancel: ctx.Done(), Killed: func(uint32) bool { return true }}, c.unsafeTid())
}
