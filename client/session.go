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

// session is what the client knows of its session with one rank: requests, caps, locks and times are
// the session's own, the instance is the client's. Guarded by Client.mu. There is one with rank 0
// from the beginning, and one with another rank once something is asked of it.
type session struct {
	requests
	c        *Client
	num      wire.Rank
	life     uint64 // Client.gen of the link: an eviction ends the links to all ranks
	releases []wire.ReleasedCap
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
	valid     int64 // boottime until which caps may be used
	renewSeq  uint64
	renewSent map[uint64]int64
	lastRenew int64
	openSent  int64
	evicted   bool
}

// sessionWith is the session with a rank; the first time somebody asks for it, it is begun.
func (c *Client) sessionWith(n wire.Rank) *session {
	i := slices.IndexFunc(c.sessions, func(s *session) bool { return s.num >= n })
	if i >= 0 && c.sessions[i].num == n {
		return c.sessions[i]
	}
	s := &session{c: c, num: n, renewSent: map[uint64]int64{}}
	s.requests.init()
	if i < 0 {
		i = len(c.sessions)
	}
	c.sessions = slices.Insert(c.sessions, i, s)
	c.wg.Add(1)
	go s.run()
	return s
}

// gone reports whether the session's rank should not be there, by our map.
func (s *session) gone() bool {
	_, _, state := s.c.cfg.Cluster.Rank(s.num)
	return s.num > 0 && state == clustermap.RankNone
}

// usable reports whether caps may be used now: past its validity a client must not (4.7).
func (s *session) usable() bool { return s.c.now() < s.valid }

// usable reports it for the caps on in.
func (in *Inode) usable() bool { return in.at.usable() }

// send queues m on the link; without one it is dropped: whoever needs m to arrive keeps it.
func (s *session) send(tid uint64, m wire.Message) {
	if s.link == nil {
		return
	}
	s.trace("send", m)
	if err := s.link.Send(tid, m); err != nil {
		s.c.log.Debug().Err(err).Int32("rank", int32(s.num)).Msg("send to rank")
		return
	}
	s.needSend = true
}

// linger is how long a message may wait for another one to leave with.
const linger = 10 * time.Millisecond

// sendSoon queues m behind what was sent before; it leaves with whatever is sent next, or
// when linger has passed. A close costs no system call of its own that way.
func (s *session) sendSoon(m wire.Message) {
	before := s.needSend
	s.send(0, m)
	s.needSend = before
	s.flushSoon()
}

// flushSoon lets what is queued, and releases, leave when linger has passed.
func (s *session) flushSoon() {
	if s.soon || s.link == nil {
		return
	}
	s.soon = true
	time.AfterFunc(linger, func() {
		s.c.mu.Lock()
		s.soon = false
		s.sendReleases()
		s.needSend = s.link != nil
		s.c.unlockFlush()
	})
}

// trace logs one message at level trace.
func (s *session) trace(dir string, m wire.Message) {
	if s.c.log.GetLevel() > zerolog.TraceLevel {
		return
	}
	s.c.log.Trace().Int32("rank", int32(s.num)).Str(dir, fmt.Sprintf("%T%+v", m, m)).Msg("session")
}

// unlockFlush releases the lock, then writes out what was queued under it, to the ranks and to
// the store.
func (c *Client) unlockFlush() {
	var l Link
	var more []Link // to a second rank and further ones, which is rare
	for _, s := range c.sessions {
		switch {
		case !s.needSend:
			continue
		case l == nil:
			l = s.link
		default:
			more = append(more, s.link)
		}
		s.needSend = false
	}
	out := c.wb.outbox
	c.wb.outbox = nil
	c.mu.Unlock()
	if l != nil {
		l.Flush()
	}
	for _, l := range more {
		if l != nil {
			l.Flush()
		}
	}
	for _, fl := range out {
		fl.leave(c)
	}
}

// receiver is one link's way into the client.
type receiver struct {
	s    *session
	gen  uint64
	done chan struct{}
}

func (r *receiver) Messages(batch []wire.Message) {
	s := r.s
	s.c.mu.Lock()
	if r.gen != s.linkGen {
		s.c.mu.Unlock()
		return
	}
	for _, m := range batch {
		s.trace("recv", m)
		s.c.handle(s, m)
	}
	s.c.unlockFlush()
}

func (r *receiver) Closed(error) { close(r.done) }

// run keeps a session with whoever holds the rank.
func (s *session) run() {
	c := s.c
	defer c.wg.Done()
	backoff := 20 * time.Millisecond
	for {
		changed := c.cfg.Cluster.Changed()
		addr, inst, state := c.cfg.Cluster.Rank(s.num)
		c.mu.Lock()
		known := s.known
		if c.closing {
			c.mu.Unlock()
			return // what Close has ended does not begin again, or it would stay open when we are gone
		}
		if s.gone() {
			s.leave() // there should be fewer ranks: what it owned it gave away before it stopped
			c.unlockFlush()
		} else {
			c.mu.Unlock()
		}
		ready := state == clustermap.RankActive || known && (state == clustermap.RankReconnect || state == clustermap.RankRejoin || state == clustermap.RankClientReplay)
		if !ready || addr == "" {
			select {
			case <-changed:
				continue
			case <-c.closed:
				return
			}
		}
		r := &receiver{s: s, done: make(chan struct{})}
		if !s.connect(addr, inst, r) {
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
		s.stay(inst, r)
		select {
		case <-c.closed:
			return
		default:
		}
	}
}

// connect dials and says who we are: a new session, or one that this rank may know.
func (s *session) connect(addr string, inst wire.Instance, r *receiver) bool {
	c := s.c
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c.mu.Lock()
	s.linkGen++
	r.gen = s.linkGen
	self, life := c.inst, c.gen
	c.mu.Unlock()
	c.expireLeased()
	l, err := c.cfg.Cluster.Dial(ctx, addr, self, r)
	if err != nil {
		c.log.Debug().Err(err).Int32("rank", int32(s.num)).Str("addr", addr).Msg("dial rank")
		return false
	}
	c.mu.Lock()
	if life != c.gen || c.closing { // evicted by another rank, or closing, meanwhile: this link is of an instance that is no more
		c.mu.Unlock()
		l.Close()
		return false
	}
	s.link, s.needSend, s.life = l, false, life
	if s.known {
		s.state = sessReconnecting
		s.sendReconnect()
	} else {
		s.state = sessOpening
		s.openSent = c.now()
		s.send(0, &wire.SessionOpen{Instance: c.inst, Host: c.cfg.Host})
	}
	s.rank = inst
	c.unlockFlush()
	return true
}

// stay keeps the link until it ends, another daemon takes the rank over, or we were evicted, by
// this rank or another one.
func (s *session) stay(inst wire.Instance, r *receiver) {
	c := s.c
	for {
		changed := c.cfg.Cluster.Changed()
		c.mu.Lock()
		ev, out := s.sess.wait(), s.evicted || s.link == nil || s.life != c.gen || s.state == sessNone
		c.mu.Unlock()
		_, now, state := c.cfg.Cluster.Rank(s.num)
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
	l := s.link
	s.link, s.needSend = nil, false
	s.linkGen++
	s.state = sessNone
	if s.evicted {
		s.evicted = false
		if s.life == c.gen {
			c.startAnew()
		}
	}
	s.sess.wake()
	c.mu.Unlock()
	if l != nil {
		l.Close()
	}
}

// leave ends a session with a rank that has stopped for good. It owned nothing any more, and closed
// the session with an entry that was durable behind all that this session had asked for: what was
// answered is safe, and what was not is asked of rank 0, which knows who owns it now.
func (s *session) leave() {
	if !s.known && len(s.kept) == 0 && len(s.reads) == 0 {
		return
	}
	c := s.c
	s.known, s.state, s.valid = false, sessNone, 0
	s.releases = nil
	for _, in := range c.inodes {
		if in.at == s {
			in.moveTo(c.rank0)
		}
	}
	again := s.unanswered()
	s.onSafe(s.lastTid)
	for _, cl := range again {
		c.startOn(c.rank0, cl)
	}
	c.wakeAll()
}

// onOpened begins the session's life.
func (s *session) onOpened(m *wire.SessionOpened) {
	c := s.c
	s.opened = *m
	s.rank = m.RankInstance
	s.known = true
	s.state = sessOpen
	s.validity = int64(m.ValidityMs) * int64(time.Millisecond)
	c.kernel = int64(m.KernelMs) * int64(time.Millisecond)
	s.extend(s.openSent)
	s.lastRenew = s.openSent
	c.barrier = max(c.barrier, m.Barrier)
	if m.RootStat.Ino != 0 {
		c.applyStat(s, &m.RootStat)
	}
	s.resendUnanswered(0)
	c.wakeAll()
}

// extend moves the validity: V from when the acknowledged message was sent, never from when
// its answer came.
func (s *session) extend(sent int64) {
	if v := sent + s.validity; v > s.valid {
		s.valid = v
	}
}

func (s *session) renewIfDue(now int64) {
	if s.state != sessOpen || s.validity == 0 || now-s.lastRenew < s.validity/3 {
		return
	}
	s.lastRenew = now
	s.renewSeq++
	s.renewSent[s.renewSeq] = now
	s.send(0, &wire.Renew{Seq: s.renewSeq})
}

func (s *session) onRenewAck(m *wire.RenewAck) {
	c := s.c
	c.barrier = max(c.barrier, m.Barrier) // also of one that answers nothing: somebody was fenced
	sent, ok := s.renewSent[m.Seq]
	if !ok {
		return
	}
	for n := range s.renewSent {
		if n <= m.Seq {
			delete(s.renewSent, n)
		}
	}
	if m.Stale || !s.usable() {
		// What may be taken back in silence is gone until a GRANT says otherwise (K2).
		for _, in := range c.inodes {
			if in.at == s {
				in.voidShared(m.Stale)
			}
		}
	}
	s.extend(sent)
	c.wakeAll()
}

// wakeAll lets everybody look again.
func (c *Client) wakeAll() {
	for _, s := range c.sessions {
		s.sess.wake()
	}
	for _, in := range c.inodes {
		in.changed.wake()
	}
}

// onReconnected ends a reconnect: either all goes on, or we are nobody and start anew.
func (s *session) onReconnected(m *wire.Reconnected) {
	c := s.c
	c.barrier = max(c.barrier, m.Barrier)
	if !m.Known {
		c.log.Warn().Int32("rank", int32(s.num)).Stringer("with", m.RankInstance).Msg("the rank does not know this session any more")
		s.evicted = true
		s.sess.wake()
		return
	}
	s.rank = m.RankInstance
	s.state = sessOpen
	s.lastRenew = 0
	s.renewIfDue(c.now())
	s.resendUnanswered(wire.ReqRetry)
	for in := range c.dirty {
		if in.at == s {
			in.cap.told = 0
		}
	}
	for _, in := range c.inodes {
		if in.at == s && in.cap.unsaid {
			c.update(in, 0) // a REVOKE of the new rank that was worked off too early to answer
		}
	}
	c.wakeAll()
}

func (s *session) onEvicted(m *wire.Evicted) {
	s.c.log.Error().Int32("rank", int32(s.num)).Str("reason", m.Reason).Stringer("instance", s.c.inst).Msg("this client was evicted: it starts anew")
	s.evicted = true
	s.sess.wake()
}

// startAnew drops everything the old instance had, with every rank, since the fence is of the
// instance: caps, leases, locks, unsafe requests and
// dirty fields, with an error on every file that lost something (4.7).
func (c *Client) startAnew() {
	c.gen++
	for _, s := range c.sessions {
		s.known, s.state = false, sessNone
		s.valid, s.lastRenew = 0, 0
		clear(s.renewSent)
		s.releases = nil
	}
	c.inst = newInstance()
	old := c.objects
	c.objects = c.cfg.Cluster.Objects(c.inst)
	go old.Close()
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
		in.late, in.born = wire.Time{}, nil
		if in.known || in.attrUntil != 0 {
			known = append(known, in.ino)
			in.attrUntil = 0
		}
	}
	clear(c.dirty)
	c.expireAll()
	for _, s := range c.sessions {
		s.loseRequests()
	}
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
func (s *session) dropLeases() {
	for _, in := range s.c.inodes {
		if in.dir == nil || in.at != s {
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
func (s *session) sendReconnect() {
	c := s.c
	if !s.usable() {
		// What the old rank could take back in silence it may have given to others: it is not
		// ours to claim.
		for _, in := range c.inodes {
			if in.at == s {
				in.voidShared(true)
			}
		}
	}
	s.dropLeases() // a new incarnation knows of none, and will ask nobody for them
	const part = 1000
	m := &wire.Reconnect{Instance: c.inst, Oldest: s.oldest()}
	cut := func() {
		if len(m.Caps)+len(m.Locks) >= part {
			s.send(0, m)
			m = &wire.Reconnect{Instance: c.inst, Oldest: s.oldest()}
		}
	}
	for _, in := range c.inodes {
		if in.at != s {
			continue
		}
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
	for _, tid := range s.readTids() {
		cl := s.reads[tid]
		r := cl.req
		if cl.said = r.Op == wire.OpSetlk && r.Lock.Wait && !cl.undo; cl.said {
			m.Locks = append(m.Locks, wire.ReconnectLock{Ino: r.Ino, Lock: r.Lock, Waiting: true, Tid: tid, WaitedUs: uint64(now-cl.asked) / 1000})
			cut()
		}
	}
	if len(m.Caps)+len(m.Locks) > 0 {
		s.send(0, m)
	}
	s.replayKept()
	s.send(0, &wire.Reconnect{Instance: c.inst, Oldest: s.oldest(), Last: true})
}
