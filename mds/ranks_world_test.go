package mds

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// ranks are several worlds over one object store, and what they say to each other: queues in order,
// which a crash cuts. One seed decides every order.
type ranks struct {
	t     testing.TB
	w     []*world
	rng   *rand.Rand
	fsmap *clustermap.FSMap
	mail  map[[2]wire.Rank][]wire.Message // nil in it: a session begins
	open  map[[2]wire.Rank]bool           // the session from the first to the second
	dial  map[[2]wire.Rank]bool           // it is being opened

	events int              // journal writes and messages between ranks so far
	crash  func(n int) bool // … before which somebody dies: true when it was the one it is about
	log    []string
}

func newRanks(t testing.TB, seed int64, n int) *ranks {
	rk := &ranks{t: t, rng: rand.New(rand.NewSource(seed)), fsmap: ranksMap(uint32(n)), mail: map[[2]wire.Rank][]wire.Message{},
		open: map[[2]wire.Rank]bool{}, dial: map[[2]wire.Rank]bool{}}
	store := map[string]*object{}
	for i := range n {
		w := &world{t: t, rng: rk.rng, store: store, now: 1e9, rk: rk}
		w.cfg = Config{Rank: wire.Rank(i), MetaPool: 1, DataPool: 2, ObjectSize: 1 << 12, Create: true, Incarnation: 1, InoRanges: []uint64{uint64(i) + 1}, Check: true,
			SegmentBytes: 4 << 10, MaxSegments: 3, LogLevel: LogWarn, Instance: wire.Instance{Kind: wire.KindMDS, Nonce: 99 + 1000*uint64(i)}, Epoch: 1}
		rk.w = append(rk.w, w)
		w.nextLife()
	}
	for _, w := range rk.w {
		w.until("rank active", func() bool { return w.r.State() == clustermap.RankActive })
	}
	rk.events = 0
	return rk
}

// post takes what a rank says to others; what it says without a session is lost.
func (rk *ranks) post(w *world, list []PeerSend) {
	for _, p := range list {
		line := [2]wire.Rank{w.cfg.Rank, p.To}
		if rk.open[line] {
			rk.mail[line] = append(rk.mail[line], p.Msg)
		} else {
			rk.dial[line] = true
		}
	}
}

// at is called before the n-th thing happens: true when somebody dies of it.
func (rk *ranks) at(what string, of wire.Rank) bool {
	rk.events++
	rk.log = append(rk.log, fmt.Sprintf("%d: %s at mds.%d", rk.events, what, of))
	return rk.crash != nil && rk.crash(rk.events)
}

func (rk *ranks) lines() (out [][2]wire.Rank) {
	for i := range rk.w {
		for j := range rk.w {
			out = append(out, [2]wire.Rank{wire.Rank(i), wire.Rank(j)})
		}
	}
	return out
}

func (rk *ranks) progress() bool {
	var acts []func()
	for _, w := range rk.w {
		switch {
		case w.dead: // its successor comes, sooner or later
			acts = append(acts, func() {
				w.nextLife()
				w.recon = true
			})
		case w.recon && w.r.State() == clustermap.RankReconnect:
			acts = append(acts, func() {
				w.recon = false
				for _, c := range w.clients {
					if c.open && !c.gone {
						c.reconnect()
					}
				}
			})
			fallthrough
		default:
			acts = append(acts, w.acts()...)
		}
	}
	for _, line := range rk.lines() {
		from, to := rk.w[line[0]], rk.w[line[1]]
		if rk.dial[line] && !from.dead && !to.dead && len(rk.mail[line]) == 0 {
			acts = append(acts, func() {
				delete(rk.dial, line)
				rk.open[line] = true
				rk.mail[line] = append(rk.mail[line], nil)
				from.step(Event{Kind: PeerUp, Rank: line[1]})
			})
		}
		if len(rk.mail[line]) > 0 && !to.dead {
			acts = append(acts, func() { rk.deliver(line) })
		}
	}
	if len(acts) == 0 {
		return false
	}
	acts[rk.rng.Intn(len(acts))]()
	return true
}

func (rk *ranks) deliver(line [2]wire.Rank) {
	m := rk.mail[line][0]
	what := fmt.Sprintf("%T", m)
	if rk.at(what, line[1]) {
		return // who is left finds out what has come of it
	}
	rk.mail[line] = rk.mail[line][1:]
	to := rk.w[line[1]]
	if m == nil {
		to.step(Event{Kind: PeerUp, Rank: line[0]})
		return
	}
	b, err := wire.Append(nil, m)
	if err == nil {
		m, err = wire.Decode(m.WireType(), b)
	}
	if err != nil {
		rk.t.Fatal(err)
	}
	to.step(Event{Kind: FromPeer, Rank: line[0], Instance: rk.w[line[0]].cfg.Instance, Msg: m})
}

// lost: a rank has died. Some of what it had said last arrives late, nothing that was said to it; who
// had a session with it opens another one.
func (rk *ranks) lost(w *world) {
	me := w.cfg.Rank
	for _, line := range rk.lines() {
		switch {
		case line[0] == me:
			if n := len(rk.mail[line]); n > 0 {
				rk.mail[line] = rk.mail[line][:rk.rng.Intn(n+1)]
			}
			delete(rk.dial, line)
			delete(rk.open, line)
		case line[1] == me:
			rk.dial[line] = rk.dial[line] || rk.open[line]
			delete(rk.open, line)
			delete(rk.mail, line)
		}
	}
}

// user is a client of all ranks: it follows redirects and remembers where an inode is.
type user struct {
	rk *ranks
	c  []*client
	at map[wire.Ino]wire.Rank
}

func (rk *ranks) user() *user {
	u := &user{rk: rk, at: map[wire.Ino]wire.Rank{}}
	for _, w := range rk.w {
		u.c = append(u.c, w.client())
	}
	return u
}

// ask asks whoever has m.Ino, as far as is known, until it is answered.
func (u *user) ask(m *wire.Request) *wire.Reply {
	u.rk.t.Helper()
	for range 12 {
		n := u.at[m.Ino]
		c := u.c[n]
		// What is asked while nobody holds the rank its successor gets, and once only.
		c.w.until("a holder", func() bool { return !c.w.dead })
		dup := *m
		seen := len(c.msgs)
		tid := c.ask(&dup)
		var far *wire.Redirect
		var life = c.w.r
		c.w.until(fmt.Sprintf("answer of mds.%d to %v of %v", n, m.Op, m.Ino), func() bool {
			for _, x := range c.msgs[seen:] {
				if r, ok := x.(*wire.Redirect); ok && r.Tid == tid {
					far = r
				}
			}
			if life != c.w.r && !c.w.dead && c.w.r.State() == clustermap.RankActive && c.replies[tid] == nil && far == nil {
				life = c.w.r // it has died meanwhile: asked again
				retry := dup
				retry.Flags |= wire.ReqRetry
				c.post(tid, &retry)
			}
			return far != nil || c.replies[tid] != nil
		})
		if far == nil {
			return c.replies[tid]
		}
		c.forget(func(q *wire.Request) bool { return q.Tid == tid })
		u.at[m.Ino] = far.Rank
	}
	u.rk.t.Fatalf("%v of %v is sent in a ring", m.Op, m.Ino)
	return nil
}

func (u *user) must(m *wire.Request) *wire.Reply {
	u.rk.t.Helper()
	rep := u.ask(m)
	if rep.Errno != 0 {
		u.rk.t.Fatalf("%v %v/%q: errno %d", m.Op, m.Ino, m.Name, rep.Errno)
	}
	return rep
}

func (u *user) fails(m *wire.Request, e errno) {
	u.rk.t.Helper()
	if rep := u.ask(m); rep.Errno != uint32(e) {
		u.rk.t.Fatalf("%v %v/%q: errno %d, want %d", m.Op, m.Ino, m.Name, rep.Errno, e)
	}
}

// made notes what a rank made, as its client would.
func (u *user) made(m *wire.Request) wire.Ino {
	u.rk.t.Helper()
	rep := u.must(m)
	ino := rep.Target.Ino
	u.at[ino] = u.at[m.Ino]
	u.c[u.at[ino]].names[ino] = hint{m.Ino, m.Name}
	return ino
}

func (u *user) mkdir(dir wire.Ino, name string) wire.Ino {
	u.rk.t.Helper()
	return u.made(&wire.Request{Op: wire.OpMkdir, Ino: dir, Name: name, Mode: 0o755})
}

func (u *user) create(dir wire.Ino, name string) wire.Ino {
	u.rk.t.Helper()
	return u.made(&wire.Request{Op: wire.OpCreate, Ino: dir, Name: name, Mode: 0o644, OpenFlags: oEXCL})
}

// lookup is the inode of a name, 0 when it is absent.
func (u *user) lookup(dir wire.Ino, name string) wire.Ino {
	u.rk.t.Helper()
	rep := u.ask(&wire.Request{Op: wire.OpLookup, Ino: dir, Name: name})
	switch {
	case rep.Errno == uint32(eNOENT):
		return 0
	case rep.Errno != 0:
		u.rk.t.Fatalf("lookup %v/%q: errno %d", dir, name, rep.Errno)
	case rep.Far != nil:
		u.at[rep.Far.Ino] = rep.Far.Rank
		return rep.Far.Ino
	}
	u.at[rep.Target.Ino] = u.at[dir]
	return rep.Target.Ino
}

func (u *user) pin(dir wire.Ino, to int) *wire.Reply {
	u.rk.t.Helper()
	return u.ask(&wire.Request{Op: wire.OpSetxattr, Ino: dir, Xname: pinXattr, Xval: fmt.Append(nil, to)})
}

func (u *user) vxattr(ino wire.Ino, name string) string {
	u.rk.t.Helper()
	return string(u.must(&wire.Request{Op: wire.OpGetvxattr, Ino: ino, Xname: name}).Value)
}

// whose is who has a directory, as far as a rank can tell without asking the index.
func (r *Rank) whose(ino wire.Ino) wire.Rank {
	m, in := r.moves[ino], r.inodes[ino]
	switch {
	case m != nil && m.State == moveGiven:
		return m.Rank
	case m != nil || in != nil && !in.stub:
		return r.cfg.Rank
	}
	return r.giver(ino)
}

// sentTo is whom a client comes to that asks rank n for ino and follows redirects.
func (rk *ranks) sentTo(n wire.Rank, ino wire.Ino) wire.Rank {
	for range rk.w {
		next := rk.w[n].r.whose(ino)
		if next == n {
			break
		}
		n = next
	}
	return n
}

// owner is the one rank that owns a directory: all lead there, and nobody else has it in its cache.
func (rk *ranks) owner(ino wire.Ino) wire.Rank {
	rk.t.Helper()
	own := rk.sentTo(0, ino)
	for _, w := range rk.w {
		if o := rk.sentTo(w.cfg.Rank, ino); o != own {
			rk.t.Fatalf("%v: who asks mds.%d is sent to mds.%d, who asks mds.0 to mds.%d", ino, w.cfg.Rank, o, own)
		}
		if in := w.r.inodes[ino]; in != nil && !in.stub && w.cfg.Rank != own {
			rk.t.Fatalf("%v is mds.%d's, and in the cache of mds.%d", ino, own, w.cfg.Rank)
		}
		if m := w.r.moves[ino]; m != nil && m.State == movePending {
			rk.t.Fatalf("%v is pending at mds.%d", ino, w.cfg.Rank)
		}
		if len(w.r.exports) > 0 {
			rk.t.Fatalf("mds.%d is exporting", w.cfg.Rank)
		}
	}
	return own
}

// rest lets everything end, time included: sums have gone up, inodes that are no more are purged.
func (rk *ranks) rest() {
	for range 40 {
		for rk.progress() {
		}
		rk.w[0].tick(100e6)
	}
}
