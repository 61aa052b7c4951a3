package client

import (
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// call is a request on its way. A mutating one stays in kept until it is safe: the client
// must not forget before the journal remembers.
type call struct {
	s     *session // whom it is asked of
	hops  int      // redirects
	req   *wire.Request
	reply *wire.Reply
	in    *Inode // of the reply's Target, with a reference for the waiter
	err   error
	done  chan struct{}
	sent  int64           // validity of the session when it was sent: bounds the lease it earns
	asked int64           // of a lock that is waited for: when it was asked for
	gone  bool            // the waiter has left
	undo  bool            // a lock's waiter that a signal ended: the rank is told to take it back
	said  bool            // … that was declared in the last reconnect
	lost  []wire.FileLock // what the record of a lock's owner lost when it was sent: see Inode.weaken
	vers  uint64          // … and the state of the record then
	shown dirAge          // of a listing: how old its answer is
}

// ended reports whether the call has an answer, or will get none.
func (cl *call) ended() bool {
	select {
	case <-cl.done:
		return true
	default:
		return false
	}
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

// requests are all calls and flushes of a session; guarded by Client.mu.
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

// start queues a request with the rank that owns what it names, as far as is known; the lock is
// held. Tid and queue are one step, so that the order of tids is the order on the session (Q-j).
func (c *Client) start(r *wire.Request) *call {
	cl := &call{req: r, done: make(chan struct{})}
	s := c.rank0
	if in := c.inodes[r.Ino]; in != nil {
		s = in.at
	}
	c.startOn(s, cl)
	return cl
}

// startOn gives a call a tid of s and sends it.
func (c *Client) startOn(s *session, cl *call) {
	if cl.s != nil { // re-addressed: others may be looking at what it was
		c.sleepers.mu.Lock()
		again := *cl.req
		again.Release, again.Flags = nil, 0
		cl.req = &again
		defer c.sleepers.mu.Unlock()
	}
	r := cl.req
	cl.s, cl.sent, cl.said = s, s.valid, false
	if r.Op.Mutates() {
		if c.wrong != 0 {
			c.lies = lies{}
		}
		s.lastTid++
		r.Tid = s.lastTid
		s.kept = append(s.kept, &kept{tid: r.Tid, call: cl})
	} else {
		s.readTid++
		r.Tid = s.readTid | wire.ReadTid
		s.reads[r.Tid] = cl
	}
	r.Oldest = s.oldest()
	s.sendReleases() // an old release must not arrive after a request that earns the cap anew
	if s.state == sessOpen {
		s.send(uint64(r.Tid), r)
		if cl.undo { // a signal came while it was between two ranks
			c.cancelLock(cl)
		}
	}
}

// maxHops is how many redirects of one request are followed at once. More mean that a directory is
// on its way from rank to rank, or that maps are old: then it is asked again a little later.
const (
	maxHops  = 4
	hopPause = 50 * time.Millisecond
)

// onRedirect re-addresses a request: the rank that was asked has not run it, and never will under
// this tid. What it names belongs to another rank, which is remembered.
func (s *session) onRedirect(m *wire.Redirect) {
	c := s.c
	cl := s.takeBack(m.Tid)
	if cl == nil || m.Rank < 0 || m.Rank >= wire.MaxRanks {
		return // answered before, or of a life that is over
	}
	to := c.sessionWith(m.Rank)
	if in := c.inodes[m.Ino]; in != nil {
		in.moveTo(to)
	}
	if cl.hops++; cl.hops <= maxHops && !to.gone() {
		c.startOn(to, cl)
		return
	}
	cl.hops = 0
	life := c.gen
	time.AfterFunc(hopPause, func() {
		c.mu.Lock()
		defer c.unlockFlush()
		select {
		case <-c.closed:
			return
		default:
		}
		if life != c.gen && (cl.req.Op.Mutates() || cl.req.Op == wire.OpSetlk || cl.req.Op == wire.OpOpen) {
			cl.err = ErrLost
			close(cl.done)
			return
		}
		if to.gone() { // the map of one of us is old: rank 0 is always there
			to = c.rank0
		}
		c.startOn(to, cl)
	})
}

// takeBack forgets that an unanswered request was asked of s.
func (s *session) takeBack(tid wire.Tid) *call {
	if tid&wire.ReadTid != 0 {
		cl := s.reads[tid]
		delete(s.reads, tid)
		return cl
	}
	k := s.find(tid)
	if k == nil || k.dropped || k.call == nil || k.early {
		return nil
	}
	k.dropped = true
	s.trim()
	s.safeWait.wake()
	return k.call
}

// unanswered takes all requests back that have no answer, in the order in which they were asked:
// first what changes something.
func (s *session) unanswered() (out []*call) {
	for _, k := range slices.Clone(s.kept) {
		if !k.dropped && k.call != nil && !k.early {
			out = append(out, s.takeBack(k.tid))
		}
	}
	for _, tid := range s.readTids() {
		out = append(out, s.takeBack(tid))
	}
	return out
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
	if err := c.await(k, cl.done); err != nil && !cl.ended() {
		cl.gone = true
		return err
	} // else its answer came while the lock was waited for, and was taken in as one that is heard
	if cl.err != nil {
		return cl.err
	}
	if cl.reply.Errno != 0 {
		return syscall.Errno(cl.reply.Errno)
	}
	return nil
}

// handle applies one message; the lock is held.
func (c *Client) handle(s *session, m wire.Message) {
	switch m := m.(type) {
	case *wire.Reply:
		s.onReply(m)
	case *wire.Redirect:
		s.onRedirect(m)
	case *wire.Safe:
		s.onSafe(m.Tid)
	case *wire.CapGrant:
		c.onCap(s, m)
	case *wire.LeaseRevoke:
		c.onLeaseRevoke(s, m)
	case *wire.RenewAck:
		s.onRenewAck(m)
	case *wire.Recall:
		c.onRecall(s, m)
	case *wire.LockQueued:
		c.onLockQueued(s, m)
	case *wire.SessionOpened:
		s.onOpened(m)
	case *wire.Reconnected:
		s.onReconnected(m)
	case *wire.SessionClosed:
		if !c.closing && s.num > 0 {
			s.leave()
		}
		s.state, s.known = sessNone, false
		s.sess.wake()
	case *wire.Evicted:
		s.onEvicted(m)
	default:
		c.log.Warn().Stringer("type", m.WireType()).Msg("message a client does not expect")
	}
}

// onReply applies an answer in the order of the session, then wakes its caller.
func (s *session) onReply(m *wire.Reply) {
	c := s.c
	if m.Safe != 0 {
		s.onSafe(m.Safe) // it was sent before: a parked request's early reply that carries it is not covered
	}
	var cl *call
	if m.Tid&wire.ReadTid != 0 {
		cl = s.reads[m.Tid]
		delete(s.reads, m.Tid)
	} else if k := s.find(m.Tid); k != nil && !k.dropped && k.call != nil {
		cl = k.call
		if m.Early && m.Errno == 0 {
			k.early = true
			if m.Target != nil {
				k.call.req.GivenIno = m.Target.Ino
			}
		} else {
			k.dropped = true
			c.born(k)
			s.trim()
			s.safeWait.wake()
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
					c.applyStat(s, st)
					in.changed.wake()
				}
			}
		}
		return
	}
	cl.reply = m
	c.applyReply(cl)
	if cl.in != nil && m.Early && makesFile(cl.req.Op) {
		cl.in.born = s.find(m.Tid)
	}
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
func (s *session) onSafe(t wire.Tid) {
	c := s.c
	any := false
	for _, k := range s.kept {
		if k.tid > t {
			break
		}
		if k.dropped || k.flush == nil && !k.early {
			continue
		}
		k.dropped, any = true, true
		c.born(k)
		if k.in != nil {
			if k.in.flushing--; k.in.flushing == 0 {
				k.in.resent = false
			}
			k.in.changed.wake()
			c.maybeIdle(k.in)
		}
	}
	if any {
		s.trim()
		s.safeWait.wake()
	}
}

// unsafeTid is the highest tid that is answered or a flush and not yet durable; 0: none.
func (s *session) unsafeTid() wire.Tid {
	for i := len(s.kept) - 1; i >= 0; i-- {
		if k := s.kept[i]; !k.dropped && (k.early || k.flush != nil) {
			return k.tid
		}
	}
	return 0
}

// waitSafe waits until nothing up to t is unsafe any more; the lock is held outside the wait.
func (s *session) waitSafe(k *Caller, t wire.Tid) error {
	c := s.c
	for {
		open := false
		for _, x := range s.kept {
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
		k.why = reason{kind: waitSafe, rank: s.num}
		if err := c.await(k, s.safeWait.wait()); err != nil {
			return err
		}
	}
}

// resendUnanswered sends what has no answer, each sort in the order in which it was asked
// for: an unlock must not overtake the lock that came after it. First what counts tids of the
// session, with flushes that were made while there was nobody to send them to.
func (s *session) resendUnanswered(fl wire.ReqFlags) {
	for _, k := range s.kept {
		switch {
		case k.dropped || k.early:
		case k.call != nil:
			k.call.req.Flags = fl
			k.call.req.Oldest = s.oldest()
			s.send(uint64(k.tid), k.call.req)
		case k.unsent:
			u, r := k.flush, &k.in.cap
			u.CapID, u.Seq, u.Mseq, u.Retained, u.Oldest = r.id, r.applied, r.mseq, r.implemented, s.oldest()
			k.unsent = false
			s.send(0, u)
		}
	}
	for _, tid := range s.readTids() {
		cl := s.reads[tid]
		switch {
		case cl.undo && cl.said && fl == wire.ReqRetry: // interrupted since: this rank has only heard that it waits
			s.c.cancelLock(cl)
			continue
		case cl.undo: // it was interrupted, and this rank has not heard of it
			s.onReply(&wire.Reply{Tid: tid, Errno: uint32(syscall.EINTR)})
			continue
		case cl.said && fl == wire.ReqRetry:
			continue // it was declared as a waiter; the rank answers its tid
		}
		cl.req.Flags = fl
		s.send(uint64(tid), cl.req)
	}
}

// readTids are the tids of what changes nothing, as they were drawn.
func (r *requests) readTids() []wire.Tid { return slices.Sorted(maps.Keys(r.reads)) }

// replayKept resends unsafe requests and un-acked flushes in one tid order.
func (s *session) replayKept() {
	for _, k := range s.kept {
		switch {
		case k.dropped:
		case k.early:
			r := k.call.req
			r.Flags, r.Release, r.Oldest = wire.ReqReplay, nil, s.oldest()
			s.send(uint64(k.tid), r)
		case k.flush != nil:
			k.flush.Replay, k.flush.Oldest = true, s.oldest()
			k.in.resent = true
			k.flush.CapID, k.flush.Seq, k.flush.Mseq = 0, 0, 0
			k.unsent = false
			s.send(0, k.flush)
		}
	}
}

// loseRequests ends everything the evicted instance had asked for. What was answered early
// and never became safe is reported by the next fsync of what it changed. Requests that
// change nothing are asked again by the new one.
func (s *session) loseRequests() {
	c := s.c
	for _, k := range s.kept {
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
	s.kept = nil
	for tid, cl := range s.reads {
		if op := cl.req.Op; op == wire.OpSetlk || op == wire.OpOpen {
			cl.err = ErrLost
			close(cl.done)
			delete(s.reads, tid)
		}
	}
	s.safeWait.wake()
}
