package mds

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// claims is what c says it holds, all of it reached from the root by name.
func (c *capClient) claims(names map[wire.Ino]string) *wire.Reconnect {
	m := &wire.Reconnect{Instance: c.inst, Last: true}
	for ino, name := range names {
		if k := c.caps[ino]; k != nil {
			m.Caps = append(m.Caps, wire.ReconnectCap{Ino: ino, Parent: wire.RootIno, Name: name, Issued: k.bits, Wanted: c.want[ino]})
		}
	}
	slices.SortFunc(m.Caps, func(a, b wire.ReconnectCap) int { return cmp.Compare(a.Ino, b.Ino) })
	return m
}

// crash forgets the rank and everything that is under way.
func (w *capWorld) crash(epoch wire.Epoch) {
	w.hold = false
	w.boot(false, epoch)
}

// runButJournal ends everything that is under way but journal writes.
func (w *capWorld) runButJournal() {
	for range 1000 {
		at := slices.IndexFunc(w.pending, func(p pendingWork) bool { return p.lane != "journal" })
		if at < 0 {
			return
		}
		fn := w.pending[at].fn
		w.pending = append(w.pending[:at:at], w.pending[at+1:]...)
		fn()
	}
}

// A flush that gave w up with it was applied but not journaled when the rank died. Resent, it
// is applied although the client has no w any more, before anybody is shown the size.
func TestResentFlushOfAWriterThatGaveUp(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 100)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	names := map[wire.Ino]string{ino: "f"}
	w.hold = true
	flush := *c1.dirty[ino]
	tid := c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wR | caps.FileShared})
	c1.want[ino] = wR
	w.runButJournal()
	if c2.reply[tid] != nil && c2.reply[tid].Target.Valid&wire.MaskFile != 0 {
		t.Fatal("c2 saw a size that is not durable")
	}
	w.crash(6)
	flush.Ino, flush.FlushTid, flush.Replay = ino, c1.tid, true
	c1.caps[ino].bits &^= caps.FileWr | caps.FileAppend | caps.FileExcl
	c1.send(0, &flush)
	c2.want[ino] = wR
	c2.send(0, c2.claims(names))
	c1.send(0, c1.claims(names))
	if w.r.state != stateActive {
		t.Fatal(w.r.state)
	}
	if rep := c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile}); rep.Target.Attr.Size != 100 {
		t.Fatalf("size %d", rep.Target.Attr.Size)
	}
	for _, c := range []*capClient{c1, c2} {
		if k := c.caps[ino]; k.bits.Has(caps.FileShared) && k.size != 100 {
			t.Fatalf("%s trusts size %d under %v", c.name, k.size, k.bits)
		}
	}
	if c1.safe < flush.FlushTid {
		t.Fatal("not acknowledged")
	}
}

// A file whose create was lost with the rank is made again by its client, which goes on
// writing to it under the cap it always had.
func TestCapOnAFileWhoseCreateWasLost(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	w.hold = true
	tid := c1.request(wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: "f", Mode: 0o644, Want: wW})
	for c1.reply[tid] == nil {
		for i := range w.pending {
			if w.pending[i].lane != "journal" {
				fn := w.pending[i].fn
				w.pending = append(w.pending[:i:i], w.pending[i+1:]...)
				fn()
				break
			}
		}
	}
	rep := c1.reply[tid]
	ino := rep.Target.Ino
	c1.want[ino] = wW
	c1.write(ino, 50)
	flush := *c1.dirty[ino]
	delete(c1.dirty, ino)
	c1.tid++
	flush.Ino, flush.FlushTid, flush.Replay = ino, c1.tid, true
	w.crash(6)
	old := c1.caps[ino].id
	c1.send(tid, &wire.Request{Tid: tid, Op: wire.OpCreate, Flags: wire.ReqReplay, GivenIno: ino, Ino: wire.RootIno, Name: "f", Mode: 0o644, Want: wW})
	c1.send(0, &flush)
	c1.send(0, c1.claims(map[wire.Ino]string{ino: "f"}))
	c2.send(0, c2.claims(nil))
	if w.r.state != stateActive || c1.gone != "" {
		t.Fatal(w.r.state, c1.gone)
	}
	k, rec := c1.caps[ino], w.r.inodes[ino].ledger.Get(uint64(c1.key))
	if rec == nil || k.id == old || k.id != rec.ID || rec.Issued&^rec.Pending != 0 || k.bits != rec.Issued || !k.bits.Has(caps.FileWr) || k.max == 0 {
		t.Fatalf("the client has %+v, the rank %v", k, rec)
	}
	c1.write(ino, 70)
	if rep := c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"}); rep.Target.Ino != ino {
		t.Fatal(rep.Target.Ino)
	}
	if rep := c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile}); rep.Target.Attr.Size != 70 {
		t.Fatalf("size %d", rep.Target.Attr.Size)
	}
}

// Who waited for a file lock when the rank died waits on, and gets it.
func TestLockWaitersOutliveTheRank(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", 0)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	lock := wire.FileLock{Type: wire.LockWrite, Owner: 1, End: 9, Wait: true}
	t1 := c1.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: lock})
	t2 := c2.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: lock})
	w.crash(6)
	names := map[wire.Ino]string{ino: "f"}
	m1, m2 := c1.claims(names), c2.claims(names)
	m1.Locks = []wire.ReconnectLock{{Ino: ino, Lock: c1.reply[t1].Lock}}
	m2.Locks = []wire.ReconnectLock{{Ino: ino, Lock: lock, Waiting: true, Tid: t2}}
	c2.send(0, m2)
	c1.send(0, m1)
	if c2.reply[t2] != nil {
		t.Fatalf("granted beside c1: %+v", c2.reply[t2])
	}
	c1.must(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: wire.LockUnlock, Owner: 1, End: 9}})
	if rep := c2.reply[t2]; rep == nil || rep.Errno != 0 || rep.Lock.Ticket <= c1.reply[t1].Lock.Ticket {
		t.Fatalf("%+v", rep)
	}
}

// A link that breaks in clientreplay costs its client the session, not everybody the rank.
func TestClientIsLostInClientReplay(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wR)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	c2.openFile(ino, wR)
	names := map[wire.Ino]string{ino: "f"}
	w.crash(6)
	c2.mute = true
	q := &wire.Request{Tid: 77, Op: wire.OpSetattr, Flags: wire.ReqReplay, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}}
	c1.send(77, q)
	c1.send(0, c1.claims(names))
	c2.send(0, c2.claims(names))
	if w.r.state != stateClientReplay {
		t.Fatal(w.r.state)
	}
	c1.send(0, c1.claims(names)) // it lost the thread
	if w.r.state != stateActive {
		t.Fatalf("state %v: %+v", w.r.state, w.r.Why())
	}
}

// A file is open for writing for so long that the journal has forgotten it. Writer and rank
// die together; whoever looks at the file later finds what was written (R1).
func TestSizeOfAFileThatTheJournalForgot(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 1000)
	w.step(Event{Kind: Stop})
	if w.r.State() != stateStopped {
		t.Fatal(w.r.State())
	}
	c1.deaf, c1.mute = true, true
	w.crash(6)
	c2.send(0, c2.claims(nil))
	w.pass(4e9)
	if w.r.State() != stateActive || w.r.inodes[ino] != nil {
		t.Fatal(w.r.State(), w.r.inodes[ino])
	}
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	rep := c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	if rep.Target.Attr.Size != 1000 || len(w.r.inodes[ino].rec.Ranges) != 0 {
		t.Fatalf("size %d, ranges %v", rep.Target.Attr.Size, w.r.inodes[ino].rec.Ranges)
	}
}

// A file that is renamed while it is cut, over many segments of the journal: whatever part of
// it is durable can be replayed.
func TestSegmentHeadsWhileACutFileMoves(t *testing.T) {
	for seed := int64(1); seed <= 60; seed++ {
		w := newWorld(t, seed)
		w.cfg.SegmentBytes = 1 << 10
		w.crash()
		w.restart()
		c := w.client()
		f := c.create(root, "n0")
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 200 * 4096}})
		w.quiet()
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 5}})
		for i := 0; i < 5+w.rng.Intn(30); i++ {
			c.must(&wire.Request{Op: wire.OpRename, Ino: root, Name: fmt.Sprint("n", i), NewDir: root, NewName: fmt.Sprint("n", i+1)})
		}
		for _, j := range w.writes { // the disk has all of the first ones
			w.putJournal(j, len(j.Bytes)-w.rng.Intn(2)*w.rng.Intn(len(j.Bytes)))
			break
		}
		w.crash()
		w.restart()
		if a := c.stat(f); a.Size != 5 {
			t.Fatalf("seed %d: size %d", seed, a.Size)
		}
	}
}

// While others still say what they hold, nothing is asked back: an ask put to a session that
// has not reconnected counts as overdue, and a living client was evicted at the next tick.
func TestNobodyIsAskedBeforeAllHaveSpoken(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 50)
	c2.create("g", 0)
	w.boot(false, 6)
	c1.mute = true // it is slow to answer: data is on its way to the store
	k := c1.caps[ino]
	c1.send(0, &wire.Reconnect{Instance: c1.inst, Last: true, Caps: []wire.ReconnectCap{
		{Ino: ino, Parent: wire.RootIno, Name: "f", Issued: k.bits, Wanted: wW},
	}})
	w.pass(1e9)
	c2.send(0, &wire.Reconnect{Instance: c2.inst, Last: true})
	if w.r.state != stateActive {
		t.Fatalf("state %v", w.r.state)
	}
	if rec := w.r.inodes[ino].ledger.Get(uint64(c1.inst.Nonce)); rec == nil || rec.Revoking() || !rec.Pending.Has(k.bits) {
		t.Fatalf("it held %v and has %v", k.bits, rec)
	}
	w.pass(3e9)
	c2.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	w.pass(3e9)
	if w.fenced[c1.inst] != 0 {
		t.Fatal("evicted long before the deadline")
	}
}

// What a client holds of a directory that the next rank has not read: the rank does not show a link
// count that it does not know (stat showed 1 until the directory changed), and takes Fs back.
func TestADirectoryThatTheNextRankHasNotRead(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	d := c1.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755}).Target.Ino
	c1.must(wire.Request{Op: wire.OpMkdir, Ino: d, Name: "below", Mode: 0o755})
	c1.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "d"})
	w.step(Event{Kind: Stop})
	grants := 0
	w.spy.toClient = func(c *capClient, tid wire.Tid, m wire.Message) {
		if g, ok := m.(*wire.CapGrant); ok && g.Stat.Ino == d {
			grants++
			if g.Stat.Valid&wire.MaskLink != 0 && g.Stat.Attr.Nlink != 3 {
				t.Errorf("shows a link count of %d", g.Stat.Attr.Nlink)
			}
		}
	}
	w.crash(6)
	c1.send(0, c1.claims(map[wire.Ino]string{d: "d"}))
	in, k := w.r.inodes[d], c1.caps[d]
	if grants == 0 || !k.bits.Has(caps.FileShared) || in.dir != nil && in.dir.loaded {
		t.Fatalf("%d grants, c1 has %+v, %+v: the test shows nothing", grants, k, in.dir)
	}
	c1.send(0, &wire.CapUpdate{Ino: d, CapID: k.id, Mseq: k.mseq, Seq: k.seq, Retained: k.bits &^ caps.FileShared})
	if rec := in.ledger.Get(uint64(c1.key)); rec.Issued.Has(caps.FileShared) {
		t.Fatalf("c1 has given up Fs, the rank has %v", rec)
	}
	if rep := c1.must(wire.Request{Op: wire.OpGetattr, Ino: d, Mask: wire.MaskAll}); rep.Target.Valid&wire.MaskLink == 0 || rep.Target.Attr.Nlink != 3 {
		t.Fatalf("valid %v, link count %d", rep.Target.Valid, rep.Target.Attr.Nlink)
	}
}

// A client is fenced, and the rank dies before the client's kernel has forgotten what it
// cached: the next rank lets nobody change that sooner (K2), even when a new segment has begun
// and the journal before it is gone; and the one after it, when that time is over, waits for
// nobody.
func TestK2TheNextRankKnowsWhoIsFencedAndStillCaches(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 1000)
	c2.create("g", 0)
	c1.must(wire.Request{Op: wire.OpGetattr, Ino: wire.RootIno, Mask: wire.MaskAll})
	c1.mute = true
	heard := w.now
	c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wR})
	for w.fenced[c1.inst] == 0 {
		w.pass(1e9)
	}
	if len(w.r.ghosts) != 1 {
		t.Fatal("it caches nothing: the test shows nothing")
	}
	w.r.newSegment()
	w.pass(1e9)
	w.crash(6)
	c2.send(0, c2.claims(nil))
	for w.r.state != stateActive && w.now < heard+40e9 {
		w.pass(1e9)
	}
	active := w.now
	tid := c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	for c2.reply[tid] == nil && w.now < heard+90e9 {
		w.pass(1e9)
	}
	if w.now < heard+w.r.silence() {
		t.Fatalf("changed %d ms after the silent client was heard of last", (w.now-heard)/1e6)
	}
	if w.now >= heard+90e9 {
		t.Fatalf("never changed: active after %d ms, %+v", (active-heard)/1e6, w.r.Why())
	}
	w.pass(5e9)
	w.crash(7)
	c2.send(0, c2.claims(nil))
	if w.r.state != stateActive || w.r.silentUntil > w.now {
		t.Fatalf("state %v: the laid ghost is waited for again", w.r.state)
	}
}

// Q-d, and what it must not cost: a flush under the id of the life before, sent after the
// reconnect, is applied or its tid is never called safe.
func TestQdAFlushUnderAnOldIdIsNotLostBehindALaterWatermark(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino, other := c1.create("f", wW), c1.create("g", wW)
	old := *c1.caps[ino]
	w.crash(6)
	c1.send(0, c1.claims(map[wire.Ino]string{ino: "f", other: "g"}))
	if w.r.state != stateActive {
		t.Fatal(w.r.state)
	}
	c1.tid++
	c1.send(0, &wire.CapUpdate{Ino: ino, CapID: old.id, Seq: old.seq, Mseq: old.mseq, Retained: old.bits, Wanted: wW, Dirty: caps.FileWr,
		Set: wire.SetSize, Attr: wire.SetAttr{Size: 77}, FlushTid: c1.tid, TruncSeq: old.tseq})
	flushed := c1.tid
	c1.write(other, 5)
	c1.answer(other, c1.caps[other], caps.Pin)
	w.pass(1e9)
	if c1.safe < flushed {
		t.Fatalf("safe %d: the watermark does not come, so this shows nothing", c1.safe)
	}
	if got := w.r.inodes[ino].rec.Size; got != 77 {
		t.Fatalf("safe up to %d, and the flush %d of size 77 was dropped: size %d", c1.safe, flushed, got)
	}
}
