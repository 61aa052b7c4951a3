package ranksim

import (
	"fmt"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// client is a mount as ranks see one: a session with each rank it has to do with, requests with tids and
// watermarks, and an answer to whatever is asked back. It caches nothing.
type client struct {
	w        *World
	key      mds.SessionKey
	inst     wire.Instance
	sessions map[wire.Rank]*session
	at       map[wire.Ino]wire.Rank // where an inode is, as far as is known
}

type session struct {
	open   bool
	queue  []wire.Message // until it is open
	tid    wire.Tid
	rtid   wire.Tid
	calls  map[wire.Tid]*call
	unsafe []wire.Tid // in their order
}

type call struct {
	req   *wire.Request
	done  func(*wire.Reply)
	early bool // answered, and not safe
}

func (w *World) client() *client {
	n := len(w.clients) + 1
	c := &client{w: w, key: mds.SessionKey(n), inst: wire.Instance{Kind: wire.KindClient, Num: uint32(n), Nonce: uint64(n)},
		sessions: map[wire.Rank]*session{}, at: map[wire.Ino]wire.Rank{}}
	w.clients = append(w.clients, c)
	return c
}

func (c *client) post(r wire.Rank, tid wire.Tid, m wire.Message) {
	c.w.after(c.w.p.Net, func() {
		c.w.ranks[r].give(mds.Event{Kind: mds.FromSession, Session: c.key, Tid: uint64(tid), Msg: m})
	})
}

func (c *client) session(r wire.Rank) *session {
	s := c.sessions[r]
	if s == nil {
		s = &session{calls: map[wire.Tid]*call{}}
		c.sessions[r] = s
		c.post(r, 0, &wire.SessionOpen{Instance: c.inst, Host: "sim"})
	}
	return s
}

// ask sends a request to whoever has its inode, and calls done with the answer.
func (c *client) ask(m *wire.Request, done func(*wire.Reply)) {
	r := c.at[m.Ino]
	s := c.session(r)
	if m.Op.Mutates() {
		s.tid++
		m.Tid = s.tid
		s.unsafe = append(s.unsafe, m.Tid)
	} else {
		s.rtid++
		m.Tid = wire.ReadTid | s.rtid
	}
	s.calls[m.Tid] = &call{req: m, done: done}
	m.Oldest = s.oldest()
	if !s.open {
		s.queue = append(s.queue, m)
		return
	}
	c.post(r, m.Tid, m)
}

func (s *session) oldest() wire.Tid {
	if len(s.unsafe) > 0 {
		return s.unsafe[0]
	}
	return s.tid + 1
}

// safe forgets what is: up to a watermark what was answered, or one.
func (s *session) safe(pass func(t wire.Tid) bool) {
	keep := s.unsafe[:0]
	for _, t := range s.unsafe {
		if pass(t) {
			delete(s.calls, t)
		} else {
			keep = append(keep, t)
		}
	}
	s.unsafe = keep
}

func (s *session) upTo(t wire.Tid) {
	s.safe(func(x wire.Tid) bool { return x <= t && s.calls[x].early })
}

func (c *client) hear(r wire.Rank, m wire.Message) {
	s := c.sessions[r]
	switch m := m.(type) {
	case *wire.SessionOpened:
		s.open = true
		for _, q := range s.queue {
			c.post(r, q.(*wire.Request).Tid, q)
		}
		s.queue = nil
	case *wire.Safe:
		s.upTo(m.Tid)
	case *wire.Reply:
		c.answered(r, s, m)
	case *wire.Redirect:
		k := s.calls[m.Tid]
		s.safe(func(t wire.Tid) bool { return t == m.Tid })
		delete(s.calls, m.Tid)
		c.at[m.Ino] = m.Rank
		again := *k.req
		c.ask(&again, k.done)
	case *wire.CapGrant:
		if p := m.Stat.Cap; m.Op == wire.CapRevoke && p != nil {
			c.post(r, 0, &wire.CapUpdate{Ino: m.Stat.Ino, CapID: p.ID, Seq: p.Seq, Mseq: p.Mseq, Retained: p.Pending, Oldest: s.oldest()})
		}
	case *wire.LeaseRevoke:
		c.post(r, 0, &wire.LeaseAck{Dir: m.Dir, Name: m.Name, Seq: m.Seq})
	case *wire.Evicted:
		c.w.err = fmt.Errorf("ranksim: client %d is evicted by rank %d: %s", c.key, r, m.Reason)
	}
}

func (c *client) answered(r wire.Rank, s *session, m *wire.Reply) {
	if m.Safe != 0 {
		s.upTo(m.Safe)
	}
	k := s.calls[m.Tid]
	if k == nil || k.early {
		return
	}
	if m.Early {
		k.early = true
	} else {
		s.safe(func(t wire.Tid) bool { return t == m.Tid })
		delete(s.calls, m.Tid)
	}
	if m.Target != nil {
		c.at[m.Target.Ino] = r
	}
	if m.Far != nil {
		c.at[m.Far.Ino] = m.Far.Rank
	}
	k.done(m)
}

// close says that nobody has the file open any more.
func (c *client) close(st *wire.InodeStat) {
	if p := st.Cap; p != nil {
		r := c.at[st.Ino]
		c.post(r, 0, &wire.CapUpdate{Ino: st.Ino, CapID: p.ID, Seq: p.Seq, Mseq: p.Mseq, Retained: p.Pending, Oldest: c.sessions[r].oldest()})
	}
}

// do asks and lets the world go on until it is answered.
func (c *client) do(m *wire.Request) (*wire.Reply, error) {
	var rep *wire.Reply
	c.ask(m, func(r *wire.Reply) { rep = r })
	if err := c.w.until(20e9, fmt.Sprintf("the answer to %v of %v", m.Op, m.Ino), func() bool { return rep != nil }); err != nil {
		return nil, err
	}
	if rep.Errno != 0 {
		return nil, fmt.Errorf("ranksim: %v of %v/%s: errno %d", m.Op, m.Ino, m.Name, rep.Errno)
	}
	return rep, nil
}

const wants = caps.FileWr | caps.FileBuffer | caps.FileRd | caps.FileCache
