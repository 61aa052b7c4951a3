package client

import (
	"maps"
	"slices"
	"syscall"

	"github.com/capstan-fs/capstan/wire"
)

// call is a request on its way. A mutating one stays in kept until it is safe: the client
// must not forget before the journal remembers.
type call struct {
	req   *wire.Request
	reply *wire.Reply
	in    *Inode // of the reply's Target, with a reference for the waiter
	err   error
	done  chan struct{}
	sent  int64           // validity of the session when it was sent: bounds the lease it earns
	asked int64           // of a lock that is waited for: when it was asked for
	gone  bool            // the waiter has left
	undo  bool            // a lock's waiter that a signal ended: the rank is told to take it back
	lost  []wire.FileLock // what the record of a lock's owner lost when it was sent: see Inode.weaken
	vers  uint64          // … and the state of the record then
}

// kept is one entry of the session's one tid order: a mutating request or a cap flush.
type kept struct {
	tid     wire.Tid
	call    *call           // a request …
	flush   *wire.CapUpdate // … or a flush
	in      *Inode          // of the flush
	early   bool            // the request was answered and is not yet safe
	unsent  bool            // a flush made while no session was open
	dropped bool
}

// requests are all calls and flushes; guarded by Client.mu.
type requests struct {
	lastTid  wire.Tid
	readTid  wire.Tid
	reads    map[wire.Tid]*call // that change nothing
	kept     []*kept            // in tid order
	safeWait event              // something became safe
}

func (r *requests) init() { r.reads = map[wire.Tid]*call{} }

// oldest mutating tid still kept; the next one when there is none.
func (r *requests) oldest() wire.Tid {
	for _, k := range r.kept {
		if !k.dropped {
			return k.tid
		}
	}
	return r.lastTid + 1
}

func (r *requests) find(t wire.Tid) *kept {
	lo, hi := 0, len(r.kept)
	for lo < hi {
		if m := (lo + hi) / 2; r.kept[m].tid < t {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(r.kept) && r.kept[lo].tid == t {
		return r.kept[lo]
	}
	return nil
}

func (r *requests) trim() {
	n := 0
	for n < len(r.kept) && r.kept[n].dropped {
		r.kept[n] = nil
		n++
	}
	r.kept = r.kept[n:]
}

// start queues a request; the lock is held. Tid and queue are one step, so that the order
// of tids is the order on the session (Q-j).
func (c *Client) start(r *wire.Request) *call {
	cl := &call{req: r, done: make(chan struct{}), sent: c.valid}
	if r.Op.Mutates() {
		if c.wrong != 0 {
			c.lies = lies{}
		}
		c.lastTid++
		r.Tid = c.lastTid
		c.kept = append(c.kept, &kept{tid: r.Tid, call: cl})
	} else {
		c.readTid++
		r.Tid = c.readTid | wire.ReadTid
		c.reads[r.Tid] = cl
	}
	r.Oldest = c.oldest()
	c.sendReleases() // an old release must not arrive after a request that earns the cap anew
	if c.state == sessOpen {
		c.send(uint64(r.Tid), r)
	}
	return cl
}

// do runs a request to its answer. The lock is held before and after, not meanwhile. An
// abandoned request lives on; its reply is applied when it comes.
func (c *Client) do(k *Caller, r *wire.Request) (*call, error) {
	r.UID, r.GID, r.PID = k.UID, k.GID, k.PID
	cl := c.start(r)
	return cl, c.finish(k, cl)
}

func (c *Client) finish(k *Caller, cl *call) error {
	k.why = reason{kind: waitRequest, call: cl}
	if err := c.await(k, cl.done); err != nil {
		cl.gone = true
		if cl.in != nil {
			c.unref(cl.in)
			cl.in = nil
		}
		return err
	}
	if cl.err != nil {
		return cl.err
	}
	if cl.reply.Errno != 0 {
		return syscall.Errno(cl.reply.Errno)
	}
	return nil
}

// handle applies one message; the lock is held.
func (c *Client) handle(m wire.Message) {
	switch m := m.(type) {
	case *wire.Reply:
		c.onReply(m)
	case *wire.Safe:
		c.onSafe(m.Tid)
	case *wire.CapGrant:
		c.onCap(m)
	case *wire.LeaseRevoke:
		c.onLeaseRevoke(m)
	case *wire.RenewAck:
		c.onRenewAck(m)
	case *wire.Recall:
		c.onRecall(m)
	case *wire.LockQueued:
		c.onLockQueued(m)
	case *wire.SessionOpened:
		c.onOpened(m)
	case *wire.Reconnected:
		c.onReconnected(m)
	case *wire.SessionClosed:
		c.state, c.known = sessNone, false
		c.sess.wake()
	case *wire.Evicted:
		c.onEvicted(m)
	default:
		c.log.Warn().Stringer("type", m.WireType()).Msg("message a client does not expect")
	}
}

// onReply applies an answer in the order of the session, then wakes its caller.
func (c *Client) onReply(m *wire.Reply) {
	if m.Safe != 0 {
		c.onSafe(m.Safe) // it was sent before: a parked request's early reply that carries it is not covered
	}
	var cl *call
	if m.Tid&wire.ReadTid != 0 {
		cl = c.reads[m.Tid]
		delete(c.reads, m.Tid)
	} else if k := c.find(m.Tid); k != nil && !k.dropped && k.call != nil {
		cl = k.call
		if m.Early && m.Errno == 0 {
			k.early = true
			if m.Target != nil {
				k.call.req.GivenIno = m.Target.Ino
			}
		} else {
			k.dropped = true
			c.trim()
			c.safeWait.wake()
		}
	}
	if cl == nil {
		return // answered before, or of a life that is over
	}
	if cl.reply != nil {
		// A replay's answer: its caller went home long ago. But what it says of caps is the
		// rank's last word: for a create that only we remembered, the first one.
		for _, st := range []*wire.InodeStat{m.Dir, m.Target} {
			if st != nil && st.Cap != nil {
				if in := c.inodes[st.Ino]; in != nil {
					c.applyStat(st)
					in.changed.wake()
				}
			}
		}
		return
	}
	cl.reply = m
	c.applyReply(cl)
	if cl.req.Op == wire.OpSetlk {
		c.lockReplied(cl)
	}
	if cl.gone {
		c.doneWith(cl)
		c.undoLock(cl)
	}
	close(cl.done)
}

// onSafe drops what the watermark covers: answered requests and flushes up to t. A request
// that is still parked at the rank is not covered.
func (c *Client) onSafe(t wire.Tid) {
	any := false
	for _, k := range c.kept {
		if k.tid > t {
			break
		}
		if k.dropped || k.flush == nil && !k.early {
			continue
		}
		k.dropped, any = true, true
		if k.in != nil {
			if k.in.flushing--; k.in.flushing == 0 {
				k.in.resent = false
			}
			k.in.changed.wake()
			c.maybeIdle(k.in)
		}
	}
	if any {
		c.trim()
		c.safeWait.wake()
	}
}

// unsafeTid is the highest tid that is answered or a flush and not yet durable; 0: none.
func (c *Client) unsafeTid() wire.Tid {
	for i := len(c.kept) - 1; i >= 0; i-- {
		if k := c.kept[i]; !k.dropped && (k.early || k.flush != nil) {
			return k.tid
		}
	}
	return 0
}

// waitSafe waits until nothing up to t is unsafe any more; the lock is held outside the wait.
func (c *Client) waitSafe(k *Caller, t wire.Tid) error {
	for {
		open := false
		for _, x := range c.kept {
			if x.tid > t {
				break
			}
			if !x.dropped && (x.early || x.flush != nil) {
				open = true
				break
			}
		}
		if !open {
			return nil
		}
		k.why = reason{kind: waitSafe}
		if err := c.await(k, c.safeWait.wait()); err != nil {
			return err
		}
	}
}

// resendUnanswered sends what has no answer, each sort in the order in which it was asked
// for: an unlock must not overtake the lock that came after it. First what counts tids of the
// session, with flushes that were made while there was nobody to send them to.
func (c *Client) resendUnanswered(fl wire.ReqFlags) {
	for _, k := range c.kept {
		switch {
		case k.dropped || k.early:
		case k.call != nil:
			k.call.req.Flags = fl
			k.call.req.Oldest = c.oldest()
			c.send(uint64(k.tid), k.call.req)
		case k.unsent:
			u, r := k.flush, &k.in.cap
			u.CapID, u.Seq, u.Mseq, u.Retained, u.Oldest = r.id, r.applied, r.mseq, r.implemented, c.oldest()
			k.unsent = false
			c.send(0, u)
		}
	}
	for _, tid := range c.readTids() {
		cl := c.reads[tid]
		if cl.req.Op == wire.OpSetlk && cl.req.Lock.Wait && fl == wire.ReqRetry {
			// It was declared as a waiter; the rank answers its tid. One that was interrupted was not.
			if cl.undo {
				c.onReply(&wire.Reply{Tid: tid, Errno: uint32(syscall.EINTR)})
			}
			continue
		}
		cl.req.Flags = fl
		c.send(uint64(tid), cl.req)
	}
}

// readTids are the tids of what changes nothing, as they were drawn.
func (r *requests) readTids() []wire.Tid { return slices.Sorted(maps.Keys(r.reads)) }

// replayKept resends unsafe requests and un-acked flushes in one tid order.
func (c *Client) replayKept() {
	for _, k := range c.kept {
		switch {
		case k.dropped:
		case k.early:
			r := k.call.req
			r.Flags, r.Release, r.Oldest = wire.ReqReplay, nil, c.oldest()
			c.send(uint64(k.tid), r)
		case k.flush != nil:
			k.flush.Replay, k.flush.Oldest = true, c.oldest()
			k.in.resent = true
			k.flush.CapID, k.flush.Seq, k.flush.Mseq = 0, 0, 0
			k.unsent = false
			c.send(0, k.flush)
		}
	}
}

// loseRequests ends everything the evicted instance had asked for. What was answered early
// and never became safe is reported by the next fsync of what it changed. Requests that
// change nothing are asked again by the new one.
func (c *Client) loseRequests() {
	for _, k := range c.kept {
		switch {
		case k.dropped || k.call == nil:
		case k.early:
			for _, ino := range []wire.Ino{k.call.req.Ino, k.call.req.NewDir, k.call.req.GivenIno} {
				if in := c.inodes[ino]; in != nil {
					in.lose(ErrLost)
				}
			}
		default:
			k.call.err = ErrLost
			close(k.call.done)
		}
	}
	c.kept = nil
	for tid, cl := range c.reads {
		if op := cl.req.Op; op == wire.OpSetlk || op == wire.OpOpen {
			cl.err = ErrLost
			close(cl.done)
			delete(c.reads, tid)
		}
	}
	c.safeWait.wake()
}
