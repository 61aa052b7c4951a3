package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// ranksMap is a file system of n ranks; rank r gives numbers of range r+1 out.
func ranksMap(n uint32) *clustermap.FSMap {
	m := (&clustermap.FSMap{Epoch: 5, MaxRanks: n, NextInoRange: 10}).Clone()
	for r := range wire.Rank(4) {
		m.Ranks[r] = clustermap.RankInfo{State: clustermap.RankActive, Created: true, InoRanges: []uint64{uint64(r) + 1}}
	}
	return m
}

// rankWorld is a world with rank n of several.
func rankWorld(t *testing.T, n wire.Rank) *world {
	w := newWorld(t, 1)
	if n > 0 {
		w.store = map[string]*object{}
		w.writes, w.ops, w.inbox = nil, nil, nil
		w.cfg.Rank, w.cfg.InoRanges = n, []uint64{uint64(n) + 1}
		w.boot()
	}
	w.step(Event{Kind: Maps, FSMap: ranksMap(4)})
	return w
}

// redirect asks and returns whom the rank names.
func (c *client) redirect(m *wire.Request) *wire.Redirect {
	c.w.t.Helper()
	n := len(c.msgs)
	tid := c.ask(m)
	var got *wire.Redirect
	c.w.until("redirect", func() bool {
		for _, x := range c.msgs[n:] {
			if r, ok := x.(*wire.Redirect); ok && r.Tid == tid {
				got = r
			}
		}
		return got != nil || c.replies[tid] != nil
	})
	if got == nil {
		c.w.t.Fatalf("%v of %v: answered %+v, should be redirected", m.Op, m.Ino, c.replies[tid])
	}
	c.forget(func(q *wire.Request) bool { return q.Tid == tid })
	return got
}

// A rank answers for what it owns. What another one owns it redirects, whatever the operation, and
// it refuses what would need both: never a wrong answer.
func TestARankServesItsOwnOnly(t *testing.T) {
	w := rankWorld(t, 0)
	c := w.client()
	d := c.mkdir(root, "d")
	f := c.create(d, "f")
	theirs := wire.Ino(3<<40 + 17) // of rank 2
	for _, m := range []*wire.Request{
		{Op: wire.OpLookup, Ino: theirs, Name: "x"}, {Op: wire.OpLookup, Ino: theirs, Name: ".."}, {Op: wire.OpGetattr, Ino: theirs, Mask: wire.MaskAll},
		{Op: wire.OpReaddir, Ino: theirs}, {Op: wire.OpCreate, Ino: theirs, Name: "x", Mode: 0o644}, {Op: wire.OpMkdir, Ino: theirs, Name: "x", Mode: 0o755},
		{Op: wire.OpUnlink, Ino: theirs, Name: "x"}, {Op: wire.OpLink, Ino: theirs, Name: "x", Other: f}, {Op: wire.OpSetattr, Ino: theirs, Set: wire.SetMode},
		{Op: wire.OpRename, Ino: theirs, Name: "x", NewDir: d, NewName: "y"}, {Op: wire.OpSetxattr, Ino: theirs, Xname: "user.a"}, {Op: wire.OpOpen, Ino: theirs},
		{Op: wire.OpSetlk, Ino: theirs}, {Op: wire.OpGetlk, Ino: theirs}, {Op: wire.OpTmpfile, Ino: theirs, Mode: 0o644},
	} {
		if r := c.redirect(m); r.Rank != 2 || r.Ino != theirs {
			t.Errorf("%v: %+v", m.Op, r)
		}
	}
	c.fails(&wire.Request{Op: wire.OpRename, Ino: d, Name: "f", NewDir: theirs, NewName: "f"}, eXDEV)
	c.fails(&wire.Request{Op: wire.OpLink, Ino: d, Name: "g", Other: theirs}, eXDEV)
	c.fails(&wire.Request{Op: wire.OpGetattr, Ino: 1<<40 + 999, Mask: wire.MaskAll}, eSTALE)  // ours, and nowhere
	c.fails(&wire.Request{Op: wire.OpGetattr, Ino: 77<<40 + 999, Mask: wire.MaskAll}, eSTALE) // nobody's
	gone := ranksMap(2)
	gone.Ranks[2] = clustermap.RankInfo{State: clustermap.RankStopped, Created: true, InoRanges: []uint64{3}}
	w.step(Event{Kind: Maps, FSMap: gone})
	c.fails(&wire.Request{Op: wire.OpGetattr, Ino: theirs, Mask: wire.MaskAll}, eSTALE) // its rank has stopped, and owned nothing
	if got := c.list(d); len(got) != 1 || w.r.counts.Redirects != 15 {
		t.Errorf("%v, %d redirects", got, w.r.counts.Redirects)
	}
}

// A number of a range that was given out after our map was made is not called stale: the request waits
// for the map that tells whose it is.
func TestAYoungNumberWaitsForItsMap(t *testing.T) {
	w := rankWorld(t, 0)
	c := w.client()
	young := wire.Ino(10<<40 + 5)
	n := len(c.msgs)
	tid := c.ask(&wire.Request{Op: wire.OpGetattr, Ino: young, Mask: wire.MaskAll})
	w.quiet()
	if len(c.msgs) != n {
		t.Fatalf("answered %+v by an old map", c.msgs[n])
	}
	m := ranksMap(4)
	m.Epoch, m.NextInoRange = 6, 11
	m.Ranks[3] = clustermap.RankInfo{State: clustermap.RankActive, Created: true, InoRanges: []uint64{4, 10}}
	w.step(Event{Kind: Maps, FSMap: m})
	w.quiet()
	if len(c.msgs) != n+1 {
		t.Fatalf("%d messages", len(c.msgs)-n)
	}
	if r, is := c.msgs[n].(*wire.Redirect); !is || r.Tid != tid || r.Rank != 3 {
		t.Errorf("%+v", c.msgs[n])
	}
}

// A rank above 0 has no root and owns nothing: it sends everybody on, over restarts too.
func TestARankWithoutATreeSendsEverybodyOn(t *testing.T) {
	w := rankWorld(t, 1)
	c := w.client()
	for range 2 {
		if r := c.redirect(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "x"}); r.Rank != 0 {
			t.Errorf("%+v", r)
		}
		c.fails(&wire.Request{Op: wire.OpGetattr, Ino: 2<<40 + 3, Mask: wire.MaskAll}, eSTALE)
		if len(w.r.Subtrees()) != 0 || w.r.Owned() != 0 {
			t.Error(w.r.Subtrees())
		}
		w.crash()
		w.restart()
		w.step(Event{Kind: Maps, FSMap: ranksMap(4)})
	}
}

// A rank that there should not be stops when it owns nothing, having said goodbye to its clients; its
// next life, should it be wanted again, has the numbers that it had. Rank 0 never stops.
func TestASurplusRankStops(t *testing.T) {
	w := rankWorld(t, 1)
	c := w.client()
	w.step(Event{Kind: Maps, FSMap: ranksMap(2)})
	w.quiet()
	if w.r.State() != clustermap.RankActive {
		t.Fatalf("%v, and 2 ranks are wanted", w.r.State())
	}
	end := w.r.InoEnd()
	w.step(Event{Kind: Maps, FSMap: ranksMap(1)})
	w.until("stopped", func() bool { return w.r.State() == clustermap.RankStopped })
	w.quiet()
	closed := false
	for _, m := range c.msgs {
		_, is := m.(*wire.SessionClosed)
		closed = closed || is
	}
	if !closed || c.evicted || len(w.r.segs) != 1 {
		t.Fatalf("closed %v, evicted %v, %d segments", closed, c.evicted, len(w.r.segs))
	}
	c.gone = true
	w.cfg.Create, w.cfg.Incarnation = false, w.cfg.Incarnation+1
	w.boot()
	if len(w.r.order) != 0 || w.r.inos.next < end {
		t.Errorf("the next life knows %d sessions, and gives numbers out from %v on; %v was reached", len(w.r.order), w.r.inos.next, end)
	}

	w = rankWorld(t, 0)
	w.step(Event{Kind: Maps, FSMap: ranksMap(1)})
	w.quiet()
	if w.r.State() != clustermap.RankActive || w.r.Owned() != 1 {
		t.Errorf("rank 0: %v", w.r.State())
	}
}
