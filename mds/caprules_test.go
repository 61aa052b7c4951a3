package mds

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// The sequence rules of 4.4 between a session and the rank. caps/rules_test.go has them for one
// record; here messages cross, come twice, or come from a life that is over. Q-a is watched in
// every world (capClient.hear), Q-d has a test beside takeovers, Q-e one beside ranges.

// onlyBut ends everything that is under way but one lane.
func (w *capWorld) onlyBut(lane string) {
	for {
		at := -1
		for i := range w.pending {
			if w.pending[i].lane != lane {
				at = i
				break
			}
		}
		if at < 0 {
			return
		}
		fn := w.pending[at].fn
		w.pending = append(w.pending[:at:at], w.pending[at+1:]...)
		fn()
	}
}

// raw says something about a cap that the client's own bookkeeping would not.
func (c *capClient) raw(ino wire.Ino, change func(u *wire.CapUpdate)) {
	k := c.caps[ino]
	u := &wire.CapUpdate{Ino: ino, CapID: k.id, Seq: k.seq, Mseq: k.mseq, Retained: k.bits, Wanted: c.want[ino]}
	change(u)
	c.send(0, u)
}

func (w *capWorld) bound(c *capClient, ino wire.Ino) caps.Bits {
	if rec := w.r.inodes[ino].ledger.Get(uint64(c.key)); rec != nil {
		return rec.Issued
	}
	return 0
}

// Q-b: a message that had not seen the REVOKE gives up nothing of what the REVOKE asks for, and
// nobody is granted anything on the strength of it.
func TestQbAnUpdateThatCrossesARevokeIsNoAnswer(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	w.hold = true
	open := c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wR})
	// c1 says that it wants less and keeps little, before it hears of the REVOKE.
	c1.raw(ino, func(u *wire.CapUpdate) { u.Retained = caps.Pin })
	w.onlyBut("to c1")
	if !w.bound(c1, ino).Has(caps.FileWr|caps.FileExcl) || c2.reply[open] != nil {
		t.Fatalf("bound %v, c2 answered: %v", w.bound(c1, ino), c2.reply[open] != nil)
	}
	w.hold = false
	w.run()
	if c2.reply[open] == nil {
		t.Fatal("the answer itself does not count")
	}
}

// Q-c: a client that says it keeps more than it was given is given nothing by that.
func TestQcWhatAClientClaimsToKeepWidensNothing(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", 0)
	c2.openFile(ino, wR)
	before := w.bound(c2, ino)
	c2.raw(ino, func(u *wire.CapUpdate) { u.Retained = caps.Pin | caps.FileMask | caps.AuthExcl })
	if got := w.bound(c2, ino); got&^before != 0 {
		t.Fatalf("bound %v, was %v", got, before)
	}
}

// Q-d: what is said of another cap, or of one that has migrated since, is ignored whole: what
// it keeps, what it wants, and what range it would like.
func TestQdWordsAboutAnotherCapAreIgnored(t *testing.T) {
	for name, wrong := range map[string]func(u *wire.CapUpdate){
		"id":   func(u *wire.CapUpdate) { u.CapID++ },
		"mseq": func(u *wire.CapUpdate) { u.Mseq-- },
	} {
		t.Run(name, func(t *testing.T) {
			w := newCapWorld(t)
			c1 := w.client("c1")
			ino := c1.create("f", wW)
			rec := w.r.inodes[ino].ledger.Get(uint64(c1.key))
			rec.Mseq++
			c1.caps[ino].mseq++
			bound, wanted, max := rec.Issued, rec.Wanted, rec.MaxSize
			c1.raw(ino, func(u *wire.CapUpdate) {
				wrong(u)
				u.Retained, u.Wanted, u.WantMax = caps.Pin, 0, 1<<30
			})
			if rec.Issued != bound || rec.Wanted != wanted || rec.MaxSize != max {
				t.Fatalf("%v, was %v wanting %v up to %d", rec, bound, wanted, max)
			}
		})
	}
}

// Q-e: while a REVOKE is unanswered nothing is added, whatever the client asks for meanwhile,
// by UPDATE or by open; a narrower one may follow, and it is the first one's deadline that runs.
func TestQeNothingIsAddedWhileARevokeIsOpen(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.mute = true
	stat := c2.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	rec := w.r.inodes[ino].ledger.Get(uint64(c1.key))
	if !rec.Revoking() {
		t.Fatal("nothing is asked back")
	}
	told, since := rec.Pending, rec.RevokedAt
	w.pass(1e9)
	c1.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wR | wW})
	c1.raw(ino, func(u *wire.CapUpdate) { u.Seq, u.Wanted = 1, wR|wW })
	if rec.Pending&^told != 0 {
		t.Fatalf("added %v to what is being asked back", rec.Pending&^told)
	}
	w.pass(1e9)
	c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	if rec.Pending.Has(caps.AuthShared) || rec.RevokedAt != since || c2.reply[stat] != nil {
		t.Fatalf("a narrower REVOKE: %v, asked at %d, first at %d", rec, rec.RevokedAt, since)
	}
	w.pass(w.r.deadline() - 1e9)
	if w.fenced[c1.inst] == 0 {
		t.Fatal("the deadline moved with the second REVOKE")
	}
}

// Q-e, where the rows would allow a bit again: c1 gives Xs up, and still uses w that it is asked
// for. When the change of an xattr is done, Xs must wait for that.
func TestQeABitThatIsFreeAgainWaitsForTheAnswer(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.mute = true
	c2.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	set := c2.request(wire.Request{Op: wire.OpSetxattr, Ino: ino, Xname: "user.k", Xval: []byte("v")})
	c1.raw(ino, func(u *wire.CapUpdate) { u.Retained &^= caps.XattrShared })
	if c2.reply[set] == nil || !w.bound(c1, ino).Has(caps.FileWr) {
		t.Fatalf("the xattr is not set, or w is gone: %v", w.bound(c1, ino))
	}
	rec := w.r.inodes[ino].ledger.Get(uint64(c1.key))
	if rec.Pending.Has(caps.XattrShared) {
		t.Fatalf("%v: given while a REVOKE is unanswered", rec)
	}
	c1.mute = false
	c1.raw(ino, func(u *wire.CapUpdate) { u.Retained = rec.Pending })
	if !rec.Pending.Has(caps.XattrShared) {
		t.Fatalf("%v: not given when it was answered", rec)
	}
}

// Q-f and Q-g: the client lets a cap go; the rank, which has shown the cap again meanwhile,
// ignores that, and then asks for it back. The client has none: it says so, and whoever waits
// gets on at once, not at the deadline.
func TestQgARevokeOfADroppedCapIsAnswered(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c2.create("f", 0)
	c1.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	w.hold = true
	k := *c1.caps[ino]
	// Its question leaves before its RELEASE, and the answer finds the cap gone.
	c1.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskAuth})
	c1.send(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: ino, CapID: k.id, Mseq: k.mseq, IssueSeq: k.seq}}})
	w.onlyBut("to c1")
	if w.bound(c1, ino) == 0 {
		t.Fatal("Q-f: a RELEASE that had not seen the newest issue counted")
	}
	delete(c1.caps, ino)
	c1.deafTo = func(m wire.Message) bool { _, is := m.(*wire.Reply); return is } // its caller is gone: the cap stays dropped
	start := w.now
	w.hold = false
	w.run()
	tid := c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	if c2.reply[tid] == nil || w.now != start {
		t.Fatalf("c2 waits for a cap that nobody has: %+v", w.r.Why())
	}
	if w.bound(c1, ino) != 0 || c1.gone != "" {
		t.Fatalf("bound %v, c1 %q", w.bound(c1, ino), c1.gone)
	}
}

// Q-h: a flush is applied once, however often it comes: times that somebody set after it stay.
// It is acknowledged each time.
func TestQhAFlushIsAppliedOnce(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino := c1.create("f", wW)
	c1.tid++
	flush := func() {
		c1.raw(ino, func(u *wire.CapUpdate) {
			u.Dirty, u.FlushTid, u.TruncSeq = caps.FileWr, c1.tid, c1.caps[ino].tseq
			u.Set, u.Attr = wire.SetSize|wire.SetMtime, wire.SetAttr{Size: 100, Mtime: wire.Time{Sec: 500}}
		})
	}
	flush()
	flushed := c1.tid
	rec := &w.r.inodes[ino].rec
	if rec.Size != 100 || rec.Mtime.Sec != 500 || c1.safe < flushed {
		t.Fatalf("size %d mtime %d safe %d", rec.Size, rec.Mtime.Sec, c1.safe)
	}
	c1.must(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMtime, Attr: wire.SetAttr{Mtime: wire.Time{Sec: 7}}})
	entries := w.r.counts.Entries
	c1.tid, flushed = flushed, c1.tid
	flush()
	c1.tid = flushed
	if rec.Mtime.Sec != 7 || w.r.counts.Entries != entries {
		t.Fatalf("the second copy was applied: mtime %d", rec.Mtime.Sec)
	}
	// And over a failover: the tid is in the journal with the update.
	w.crash(6)
	c1.raw(ino, func(u *wire.CapUpdate) {
		u.Dirty, u.FlushTid, u.TruncSeq, u.Replay = caps.FileWr, 2, c1.caps[ino].tseq, true
		u.Set, u.Attr = wire.SetMtime, wire.SetAttr{Mtime: wire.Time{Sec: 500}}
	})
	c1.send(0, c1.claims(map[wire.Ino]string{ino: "f"}))
	if w.r.state != stateActive {
		t.Fatal(w.r.state)
	}
	if got := w.r.inodes[ino].rec.Mtime.Sec; got != 7 {
		t.Fatalf("applied again by the next rank: mtime %d", got)
	}
}

// Q-h: a size from before a truncation changes no size, though its bits still allow the flush.
func TestQhASizeOfBeforeATruncationChangesNone(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino := c1.create("f", wW)
	c1.write(ino, 100)
	c1.answer(ino, c1.caps[ino], c1.caps[ino].bits&^caps.FileExcl)
	before := c1.caps[ino].tseq
	c1.must(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetSize})
	c1.openFile(ino, wW)
	if rec := &w.r.inodes[ino].rec; rec.Size != 0 || rec.TruncSeq == before {
		t.Fatalf("size %d seq %d", rec.Size, rec.TruncSeq)
	}
	c1.tid++
	c1.raw(ino, func(u *wire.CapUpdate) {
		u.Dirty, u.FlushTid, u.TruncSeq = caps.FileWr, c1.tid, before
		u.Set, u.Attr = wire.SetSize, wire.SetAttr{Size: 100}
	})
	if got := w.r.inodes[ino].rec.Size; got != 0 {
		t.Fatalf("size %d came back", got)
	}
}

// Q-h: what the client says it has heard the end of is forgotten.
func TestQhTheCompletedSetIsTrimmed(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino := c1.create("f", wW)
	for range 300 {
		c1.tid++
		c1.raw(ino, func(u *wire.CapUpdate) {
			u.Dirty, u.FlushTid, u.Oldest = caps.FileWr, c1.tid, c1.tid
			u.Set, u.Attr = wire.SetMtime, wire.SetAttr{Mtime: wire.Time{Sec: int64(c1.tid)}}
		})
	}
	if n := len(w.r.sessions[c1.key].done); n > 64 {
		t.Fatalf("%d tids are remembered of a client that waits for one", n)
	}
}

// Q-i: a flush needs no grant: it is taken while its lock is on its way to where nobody writes,
// and while nothing is granted to its session, and the lock arrives only behind it (FW).
func TestQiAFlushNeedsNoGrant(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.mute = true
	stat := c2.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	w.r.becomeStale(w.r.sessions[c1.key])
	c1.tid++
	c1.raw(ino, func(u *wire.CapUpdate) { // not the answer: it still uses all of it
		u.Seq = 1
		u.Dirty, u.FlushTid = caps.FileWr, c1.tid
		u.Set, u.Attr = wire.SetSize, wire.SetAttr{Size: 4321}
	})
	if got := w.r.inodes[ino].rec.Size; got != 4321 {
		t.Fatalf("size %d: the flush was not taken", got)
	}
	if c2.reply[stat] != nil {
		t.Fatal("c2 was answered although c1 still writes")
	}
	c1.mute = false
	c1.raw(ino, func(u *wire.CapUpdate) { u.Retained = caps.Pin })
	if rep := c2.reply[stat]; rep == nil || rep.Target.Attr.Size != 4321 {
		t.Fatalf("%+v", rep)
	}
}

// Q-j: all that a session says is one FIFO for the rank too: what a client asked for before it
// answered a REVOKE has happened when the answer counts, and what it asked for later has not.
func TestQjWhatWasSaidBeforeAnAnswerIsSeenByWhoWaitsForIt(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	d := c1.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755}).Target.Ino
	f := c1.must(wire.Request{Op: wire.OpCreate, Ino: d, Name: "f", Want: wW}).Target.Ino
	c1.want[f] = wW
	c1.write(f, 10)
	c1.mute = true
	stat := c2.request(wire.Request{Op: wire.OpGetattr, Ino: f, Mask: wire.MaskFile})
	w.hold = true
	c1.request(wire.Request{Op: wire.OpCreate, Ino: d, Name: "g"})
	c1.mute = false
	c1.answer(f, c1.caps[f], caps.Pin) // with the size, in the same tid order
	c1.request(wire.Request{Op: wire.OpUnlink, Ino: d, Name: "g"})
	var order []wire.Tid
	w.spy.fromClient = func(c *capClient, tid wire.Tid, m wire.Message) {
		switch m := m.(type) {
		case *wire.Request:
			order = append(order, tid)
		case *wire.CapUpdate:
			if m.FlushTid == 0 {
				return
			}
			order = append(order, m.FlushTid)
			if w.r.inodes[d].dir.names["g"] == nil {
				t.Error("the answer overtook what was asked before it")
			}
		}
	}
	w.hold = false
	w.run()
	for i := 1; i < len(order); i++ {
		if order[i] <= order[i-1] {
			t.Fatalf("heard in the order %v", order)
		}
	}
	if rep := c2.reply[stat]; rep == nil || rep.Target.Attr.Size != 10 {
		t.Fatalf("%+v", rep)
	}
}

// The ladder (4.7): a client that says BUSY at the second ask is not evicted while the PG it
// names serves nobody in the rank's own map, and has after that what was left; one that names a PG
// that serves, or says BUSY unasked, gains nothing.
func TestBusyStopsTheDeadlineWhileThePGServesNobody(t *testing.T) {
	pg := wire.PGID{Pool: 2, Num: 7}
	maps := func(w *capWorld, members ...wire.OSDID) {
		cfg := clustermap.PGConfig{Primary: wire.NoOSD}
		for _, m := range members {
			cfg.Primary = m
			cfg.InSync = append(cfg.InSync, clustermap.Member{ID: m})
		}
		w.step(Event{Kind: Maps, OSDMap: &clustermap.OSDMap{
			Pools: map[uint32]clustermap.Pool{2: {MinSize: 1}},
			PGs:   map[wire.PGID]clustermap.PGConfig{pg: cfg},
		}})
	}
	for _, c := range []struct {
		name            string
		serves, unasked bool
		evicted         bool
	}{
		{name: "inactive"},
		{name: "active", serves: true, evicted: true},
		{name: "unasked", unasked: true, evicted: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newCapWorld(t)
			c1, c2 := w.client("c1"), w.client("c2")
			ino := c1.create("f", wW)
			c1.write(ino, 10)
			if maps(w); c.serves {
				maps(w, 1)
			}
			c1.stuck = true // it hears, renews, and does not answer
			stat := c2.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
			if c.unasked {
				c1.send(0, &wire.CapBusy{Ino: ino, PG: pg})
			}
			w.pass(w.r.deadline()/2 + 1e8)
			if !w.r.inodes[ino].ledger.Get(uint64(c1.key)).AskedTwice {
				t.Fatal("not asked again")
			}
			if !c.unasked {
				c1.send(0, &wire.CapBusy{Ino: ino, PG: pg})
			}
			w.pass(10 * w.r.deadline())
			if got := w.fenced[c1.inst] != 0; got != c.evicted {
				t.Fatalf("evicted: %v", got)
			}
			if c.evicted {
				return
			}
			if c2.reply[stat] != nil || w.bound(c1, ino)&caps.FileExcl == 0 {
				t.Fatal("BUSY changed a bound")
			}
			// The PG serves again: the flush gets through, or the deadline runs on, with what was left of it.
			maps(w, 1)
			left, seen := w.r.deadline()/2-1e8, w.r.deadline()/20
			w.pass(left - seen)
			if w.fenced[c1.inst] != 0 {
				t.Fatal("evicted before the deadline was over")
			}
			w.pass(3 * seen)
			if w.fenced[c1.inst] == 0 {
				t.Fatal("not evicted when the deadline was over")
			}
		})
	}
}

// Autoclose: a stale session that nobody waits for stays 20 V, and what it held is free after;
// one that renews in between stays for ever.
func TestAutocloseEvictsAfterTwentyValidities(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 4096)
	c1.mute = true
	heard := w.now
	for w.fenced[c1.inst] == 0 && w.now < heard+60*w.r.validity() {
		w.pass(1e9)
	}
	if took := w.now - heard; took < 20*w.r.validity() || took > 20*w.r.validity()+6e9 { // it renews every 5 s here
		t.Fatalf("evicted after %d s: %s\n%s", took/1e9, c1.gone, w.log.String())
	}
	w.pass(w.r.silence())
	if c2.gone != "" || len(w.r.sessions) != 1 || w.r.inodes[ino] != nil && w.r.inodes[ino].ledger.Get(uint64(c1.key)) != nil {
		t.Fatalf("c2 %q, %d sessions", c2.gone, len(w.r.sessions))
	}
	if rep := c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"}); rep.Target.Attr.Size != 4096 {
		t.Fatalf("size %d is not what its range was probed for", rep.Target.Attr.Size)
	}
	w.pass(2 * w.r.autoclose())
	if c2.gone != "" {
		t.Fatal("a session that renews was closed")
	}
}

// A stale client that alone has a file to write keeps what it buffers for as long as nobody asks:
// no REVOKE is sent that nobody would answer. Coming back, it goes on; when somebody asks, the
// ladder runs from then.
func TestAStaleWriterIsLeftAloneUntilSomebodyAsks(t *testing.T) {
	for _, asked := range []bool{false, true} {
		t.Run(fmt.Sprint("asked=", asked), func(t *testing.T) {
			w := newCapWorld(t)
			c1, c2 := w.client("c1"), w.client("c2")
			ino := c1.create("f", wW)
			c1.write(ino, 100)
			c1.mute = true
			held := c1.caps[ino].bits
			w.log.Reset()
			w.pass(5 * w.r.validity())
			if w.story(""); w.bound(c1, ino) != held {
				t.Fatalf("bound %v, was %v", w.bound(c1, ino), held)
			}
			if !asked {
				c1.mute = false
				c1.send(0, &wire.Renew{Seq: 99})
				c1.write(ino, 200)
				if rep := c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile}); rep.Target.Attr.Size != 200 {
					t.Fatalf("size %d", rep.Target.Attr.Size)
				}
				return
			}
			tid, start := c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wR}), w.now
			for c2.reply[tid] == nil && w.now < start+60e9 {
				w.pass(1e8)
			}
			if took := w.now - start; took < w.r.deadline() || took > w.r.deadline()+2e8 || w.fenced[c1.inst] == 0 {
				t.Fatalf("c2 waited %d ms", took/1e6)
			}
		})
	}
}
