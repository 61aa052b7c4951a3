package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

type sessState uint8

const (
	sessNone         sessState = iota // no link, or a link and no answer yet
	sessOpening                       // SessionOpen sent
	sessReconnecting                  // Reconnect sent
	sessOpen
)

// session is what the client knows of its session with the rank; guarded by Client.mu.
type session struct {
	sess     event // any change below
	link     Link
	linkGen  uint64 // tells messages of a link that is gone from those of this one
	needSend bool   // something was queued on link
	soon     bool   // something is queued that may wait a little: a timer is set
	state    sessState
	rank     wire.Instance // whom the session is with
	known    bool          // a session exists: the next link reconnects
	opened   wire.SessionOpened

	validity  int64 // V, ns
	kernel    int64 // K, ns
	valid     int64 // boottime until which caps may be used
	renewSeq  uint64
	renewSent map[uint64]int64
	lastRenew int64
	openSent  int64
	barrier   wire.Epoch
	evicted   bool
}

func (s *session) init() { s.renewSent = map[uint64]int64{} }

// usable reports whether caps may be used now: past its validity a client must not (4.7).
func (c *Client) usable() bool { return c.now() < c.valid }

func (c *Client) kernelTimeout() int64 { return c.kernel }

// send queues m on the link; without one it is dropped: whoever needs m to arrive keeps it.
func (c *Client) send(tid uint64, m wire.Message) {
	if c.link == nil {
		return
	}
	c.trace("send", m)
	if err := c.link.Send(tid, m); err != nil {
		c.log.Debug().Err(err).Msg("send to rank")
		return
	}
	c.needSend = true
}

// linger is how long a message may wait for another one to leave with.
const linger = 10 * time.Millisecond

// sendSoon queues m behind what was sent before; it leaves with whatever is sent next, or
// when linger has passed. A close costs no system call of its own that way.
func (c *Client) sendSoon(m wire.Message) {
	before := c.needSend
	c.send(0, m)
	c.needSend = before
	c.flushSoon()
}

// flushSoon lets what is queued, and releases, leave when linger has passed.
func (c *Client) flushSoon() {
	if c.soon || c.link == nil {
		return
	}
	c.soon = true
	time.AfterFunc(linger, func() {
		c.mu.Lock()
		c.soon = false
		c.sendReleases()
		c.needSend = c.link != nil
		c.unlockFlush()
	})
}

// trace logs one message at level trace.
func (c *Client) trace(dir string, m wire.Message) {
	if c.log.GetLevel() > zerolog.TraceLevel {
		return
	}
	c.log.Trace().Str(dir, fmt.Sprintf("%T%+v", m, m)).Msg("session")
}

// unlockFlush releases the lock, then writes out what was queued under it, to the rank and to
// the store.
func (c *Client) unlockFlush() {
	var l Link
	if c.needSend {
		l, c.needSend = c.link, false
	}
	out := c.wb.outbox
	c.wb.outbox = nil
	c.mu.Unlock()
	if l != nil {
		l.Flush()
	}
	for _, fl := range out {
		fl.leave(c)
	}
}

// receiver is one link's way into the client.
type receiver struct {
	c    *Client
	gen  uint64
	done chan struct{}
}

func (r *receiver) Messages(batch []wire.Message) {
	r.c.mu.Lock()
	if r.gen != r.c.linkGen {
		r.c.mu.Unlock()
		return
	}
	for _, m := range batch {
		r.c.trace("recv", m)
		r.c.handle(m)
	}
	r.c.unlockFlush()
}

func (r *receiver) Closed(error) { close(r.done) }

// runSession keeps a session with whoever is rank 0.
func (c *Client) runSession() {
	defer c.wg.Done()
	backoff := 20 * time.Millisecond
	for {
		changed := c.cfg.Cluster.Changed()
		addr, inst, state := c.cfg.Cluster.Rank0()
		c.mu.Lock()
		known := c.known
		c.mu.Unlock()
		ready := state == clustermap.RankActive || known && (state == clustermap.RankReconnect || state == clustermap.RankRejoin || state == clustermap.RankClientReplay)
		if !ready || addr == "" {
			select {
			case <-changed:
				continue
			case <-c.closed:
				return
			}
		}
		r := &receiver{c: c, done: make(chan struct{})}
		if !c.connect(addr, inst, r) {
			select {
			case <-c.closed:
				return
			case <-changed:
			case <-time.After(backoff):
				backoff = min(2*backoff, time.Second)
			}
			continue
		}
		backoff = 20 * time.Millisecond
		c.stay(inst, r)
		select {
		case <-c.closed:
			return
		default:
		}
	}
}

// connect dials and says who we are: a new session, or one that this rank may know.
func (c *Client) connect(addr string, inst wire.Instance, r *receiver) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c.mu.Lock()
	c.linkGen++
	r.gen = c.linkGen
	self := c.inst
	c.mu.Unlock()
	c.expireLeased()
	l, err := c.cfg.Cluster.Dial(ctx, addr, self, r)
	if err != nil {
		c.log.Debug().Err(err).Str("addr", addr).Msg("dial rank")
		return false
	}
	c.mu.Lock()
	c.link, c.needSend = l, false
	if c.known {
		c.state = sessReconnecting
		c.sendReconnect()
	} else {
		c.state = sessOpening
		c.openSent = c.now()
		c.send(0, &wire.SessionOpen{Instance: c.inst, Host: c.cfg.Host})
	}
	c.rank = inst
	c.unlockFlush()
	return true
}

// stay keeps the link until it ends, another rank takes over, or we were evicted.
func (c *Client) stay(inst wire.Instance, r *receiver) {
	for {
		changed := c.cfg.Cluster.Changed()
		c.mu.Lock()
		ev, out := c.sess.wait(), c.evicted || c.link == nil
		c.mu.Unlock()
		_, now, state := c.cfg.Cluster.Rank0()
		if out || now != inst && state != clustermap.RankFailed && state != clustermap.RankNone {
			break
		}
		select {
		case <-r.done:
		case <-changed:
			continue
		case <-ev:
			continue
		case <-c.closed:
		}
		break
	}
	c.mu.Lock()
	l := c.link
	c.link, c.needSend = nil, false
	c.linkGen++
	c.state = sessNone
	if c.evicted {
		c.evicted = false
		c.startAnew()
	}
	c.sess.wake()
	c.mu.Unlock()
	if l != nil {
		l.Close()
	}
}

// onOpened begins the session's life.
func (c *Client) onOpened(m *wire.SessionOpened) {
	c.opened = *m
	c.rank = m.RankInstance
	c.known = true
	c.state = sessOpen
	c.validity = int64(m.ValidityMs) * int64(time.Millisecond)
	c.kernel = int64(m.KernelMs) * int64(time.Millisecond)
	c.extend(c.openSent)
	c.lastRenew = c.openSent
	c.barrier = max(c.barrier, m.Barrier)
	if m.RootStat.Ino != 0 {
		c.applyStat(&m.RootStat)
	}
	c.resendUnanswered(0)
	c.wakeAll()
}

// extend moves the validity: V from when the acknowledged message was sent, never from when
// its answer came.
func (c *Client) extend(sent int64) {
	if v := sent + c.validity; v > c.valid {
		c.valid = v
	}
}

func (c *Client) renewIfDue(now int64) {
	if c.state != sessOpen || c.validity == 0 || now-c.lastRenew < c.validity/3 {
		return
	}
	c.lastRenew = now
	c.renewSeq++
	c.renewSent[c.renewSeq] = now
	c.send(0, &wire.Renew{Seq: c.renewSeq})
}

func (c *Client) onRenewAck(m *wire.RenewAck) {
	c.barrier = max(c.barrier, m.Barrier) // also of one that answers nothing: somebody was fenced
	sent, ok := c.renewSent[m.Seq]
	if !ok {
		return
	}
	for s := range c.renewSent {
		if s <= m.Seq {
			delete(c.renewSent, s)
		}
	}
	if m.Stale || c.now() >= c.valid {
		// What may be taken back in silence is gone until a GRANT says otherwise (K2).
		for _, in := range c.inodes {
			in.voidShared(m.Stale)
		}
	}
	c.extend(sent)
	c.wakeAll()
}

// wakeAll lets everybody look again.
func (c *Client) wakeAll() {
	c.sess.wake()
	for _, in := range c.inodes {
		in.changed.wake()
	}
}

// onReconnected ends a reconnect: either all goes on, or we are nobody and start anew.
func (c *Client) onReconnected(m *wire.Reconnected) {
	c.barrier = max(c.barrier, m.Barrier)
	if !m.Known {
		c.log.Warn().Stringer("rank", m.RankInstance).Msg("the rank does not know this session any more")
		c.evicted = true
		c.sess.wake()
		return
	}
	c.rank = m.RankInstance
	c.state = sessOpen
	c.lastRenew = 0
	c.renewIfDue(c.now())
	c.resendUnanswered(wire.ReqRetry)
	for in := range c.dirty {
		in.cap.told = 0
	}
	for _, in := range c.inodes {
		if in.cap.unsaid {
			c.update(in, 0) // a REVOKE of the new rank that was worked off too early to answer
		}
	}
	c.wakeAll()
}

func (c *Client) onEvicted(m *wire.Evicted) {
	c.log.Error().Str("reason", m.Reason).Stringer("instance", c.inst).Msg("this client was evicted: it starts anew")
	c.evicted = true
	c.sess.wake()
}

// startAnew drops everything the old instance had: caps, leases, locks, unsafe requests and
// dirty fields, with an error on every file that lost something (4.7).
func (c *Client) startAnew() {
	c.gen++
	c.known = false
	c.valid, c.lastRenew = 0, 0
	clear(c.renewSent)
	c.inst = newInstance()
	old := c.objects
	c.objects = c.cfg.Cluster.Objects(c.inst)
	go old.Close()
	c.releases = nil
	c.wb.outbox, c.wb.full = nil, false
	var known []wire.Ino
	for _, in := range c.inodes {
		if n := c.dropBuffer(in); n > 0 {
			c.dataLost(in, uint64(n), ErrLost)
		} else if in.dirty || in.flushing > 0 || in.nwr > 0 {
			in.lose(ErrLost)
			c.log.Error().Stringer("ino", in.ino).Str("file", c.pathHint(in)).Msg("evicted: size and times of the last writes may be lost")
		}
		if len(in.locks) > 0 {
			in.lostGen = c.gen
			in.locks = nil
			in.locksVer++
		}
		in.voidShared(true)
		in.noCap()
		in.dirty, in.flushing, in.dirtySet, in.resent = false, 0, 0, false
		in.late = wire.Time{}
		if in.known || in.attrUntil != 0 {
			known = append(known, in.ino)
			in.attrUntil = 0
		}
	}
	clear(c.dirty)
	c.expireAll()
	c.loseRequests()
	slices.Sort(known)
	if n := c.notifier; n != nil {
		go func() {
			for _, i := range known {
				n.Attrs(i)
			}
		}()
	}
	c.wakeAll()
}

// dropLeases ends the trust in single names; what Fs of a directory covers stays.
func (c *Client) dropLeases() {
	for _, in := range c.inodes {
		if in.dir == nil {
			continue
		}
		for name, d := range in.dir.names {
			d.lease = 0
			in.dir.sweep(name, d)
		}
	}
}

// sendReconnect tells a new incarnation of the rank everything this session holds, then its
// unsafe requests and un-acked flushes in one tid order (section 7).
func (c *Client) sendReconnect() {
	if !c.usable() {
		// What the old rank could take back in silence it may have given to others: it is not
		// ours to claim.
		for _, in := range c.inodes {
			in.voidShared(true)
		}
	}
	c.dropLeases() // a new incarnation knows of none, and will ask nobody for them
	const part = 1000
	m := &wire.Reconnect{Instance: c.inst, Oldest: c.oldest()}
	cut := func() {
		if len(m.Caps)+len(m.Locks) >= part {
			c.send(0, m)
			m = &wire.Reconnect{Instance: c.inst, Oldest: c.oldest()}
		}
	}
	for _, in := range c.inodes {
		if in.cap.id != 0 {
			m.Caps = append(m.Caps, wire.ReconnectCap{
				Ino: in.ino, Parent: in.parent, Name: in.name,
				Issued: in.cap.implemented, Wanted: in.wanted(), Size: in.attr.Size, Mtime: in.attr.Mtime,
			})
			cut()
		}
		for _, l := range in.locks {
			m.Locks = append(m.Locks, wire.ReconnectLock{Ino: in.ino, Lock: l})
			cut()
		}
	}
	now := c.now()
	for _, tid := range c.readTids() {
		if r := c.reads[tid].req; r.Op == wire.OpSetlk && r.Lock.Wait && !c.reads[tid].undo {
			m.Locks = append(m.Locks, wire.ReconnectLock{Ino: r.Ino, Lock: r.Lock, Waiting: true, Tid: tid, WaitedUs: uint64(now-c.reads[tid].asked) / 1000})
			cut()
		}
	}
	if len(m.Caps)+len(m.Locks) > 0 {
		c.send(0, m)
	}
	c.replayKept()
	c.send(0, &wire.Reconnect{Instance: c.inst, Oldest: c.oldest(), Last: true})
}
