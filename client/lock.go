package client

import (
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
	cl := c.startLock(in, &wire.Request{Op: wire.OpSetlk, Ino: in.ino, Lock: l, UID: k.UID, GID: k.GID, PID: k.PID})
	if !l.Wait {
		return c.finish(k, cl)
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
	if cancelled && cl.reply == nil && cl.err == nil {
		// The rank answers EINTR, or has granted it: its answer decides. A grant that crossed
		// the cancel stands, as a signal after the fact. Who is killed does not wait for it.
		cl.undo = true
		c.cancelLock(cl)
	}
	return c.finish(k, cl)
}

// startLock sends a request for a lock.
func (c *Client) startLock(in *Inode, r *wire.Request) *call {
	lost := in.weaken(r.Lock)
	cl := c.start(r)
	cl.lost, cl.vers = lost, in.locksVer
	if r.Lock.Wait {
		cl.asked = c.now()
	}
	return cl
}

// lockReplied records what the rank answered, in the order of its answers: the next rank
// hears of a lock from here, or of its waiter, at every moment.
func (c *Client) lockReplied(cl *call) {
	in := c.inodes[cl.req.Ino]
	if in == nil {
		return
	}
	switch l := cl.req.Lock; {
	case cl.reply.Errno == 0:
		l.Ticket = cl.reply.Lock.Ticket
		in.lockGranted(l)
	case !l.Flock && cl.vers == in.locksVer:
		for _, h := range cl.lost { // refused: the owner has what it had
			in.lockGranted(h)
		}
	}
}

// onLockQueued notes a waiter's place: it is declared with it to the next rank.
func (c *Client) onLockQueued(s *session, m *wire.LockQueued) {
	if cl := s.reads[m.Tid]; cl != nil && cl.req.Op == wire.OpSetlk {
		cl.req.Lock.Ticket = m.Ticket
	}
}

// cancelLock asks the rank to take a waiting lock back. While there is no session nothing is
// said: the next rank does not hear of the waiter.
func (c *Client) cancelLock(cl *call) {
	if cl.s.state == sessOpen {
		cl.s.send(0, &wire.LockCancel{Tid: cl.req.Tid, Ino: cl.req.Ino, Lock: cl.req.Lock})
	}
}

// undoLock gives back what was granted to somebody who was killed meanwhile.
func (c *Client) undoLock(cl *call) {
	l := cl.req.Lock
	if cl.req.Op != wire.OpSetlk || cl.reply.Errno != 0 || l.Type == wire.LockUnlock {
		return
	}
	l.Type, l.Wait = wire.LockUnlock, false
	if in := c.inodes[cl.req.Ino]; in != nil {
		in.lockGranted(l)
	}
	c.start(&wire.Request{Op: wire.OpSetlk, Ino: cl.req.Ino, Lock: l})
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
		c.startLock(in, &wire.Request{Op: wire.OpSetlk, Ino: in.ino, Lock: l})
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

// LockTickets lists the process and the ticket of each lock that this client holds on ino.
func (c *Client) LockTickets(ino wire.Ino, fn func(*wire.FileLock)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in := c.inodes[ino]; in != nil {
		for i := range in.locks {
			fn(&in.locks[i])
		}
	}
}

// weaken takes from the record, when a request is sent, what the owner may have lost by it by
// the time its answer comes, and returns that. A rank that dies in between may have given it
// to somebody who declares it too, and two who declare the same cannot both be believed. So an
// unlock counts at once, a write lock that becomes a read lock is one, and a flock that
// changes its type is none (its conversion is not atomic).
func (in *Inode) weaken(l wire.FileLock) (lost []wire.FileLock) {
	if l.Type == wire.LockWrite && !l.Flock {
		return nil
	}
	for _, h := range in.locks {
		if h.Owner == l.Owner && h.Flock == l.Flock && h.End >= l.Start && h.Start <= l.End && h.Type != l.Type {
			h.Start, h.End = max(h.Start, l.Start), min(h.End, l.End)
			lost = append(lost, h)
		}
	}
	for _, h := range lost {
		h.Type = wire.LockUnlock
		if !l.Flock {
			h.Type = l.Type // read, or none
		}
		in.lockGranted(h)
	}
	return lost
}

// lockGranted records a grant: the owner's own ranges under it are replaced, those beside it
// of the same type melt with it.
func (in *Inode) lockGranted(n wire.FileLock) {
	in.locksVer++
	n.Wait = false
	var right []wire.FileLock
	keep := in.locks[:0]
	for _, h := range in.locks {
		switch {
		case h.Owner != n.Owner || h.Flock != n.Flock:
			keep = append(keep, h)
			continue
		case h.End < n.Start || h.Start > n.End:
			if h.Type != n.Type || h.End+1 != n.Start && n.End+1 != h.Start {
				keep = append(keep, h)
				continue
			}
			n.Start, n.End, n.Ticket = min(n.Start, h.Start), max(n.End, h.End), max(n.Ticket, h.Ticket)
			continue
		}
		l, r := h, h
		l.End, r.Start = n.Start-1, n.End+1
		if h.Start < n.Start && h.Type == n.Type || h.End > n.End && h.Type == n.Type {
			n.Start, n.End, n.Ticket = min(n.Start, h.Start), max(n.End, h.End), max(n.Ticket, h.Ticket)
			continue
		}
		if h.Start < n.Start {
			keep = append(keep, l)
		}
		if h.End > n.End {
			right = append(right, r)
		}
	}
	keep = append(keep, right...)
	if n.Type != wire.LockUnlock {
		keep = append(keep, n)
	}
	in.locks = keep
}
