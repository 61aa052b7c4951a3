package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A's create in a directory that B just made must not be answered before B's mkdir is safe:
// else B and the rank die, and A's resend finds no directory (ES2).
func TestCreateInAForeignNewDirectoryWaitsForIt(t *testing.T) {
	w := newWorld(t, 1)
	a, b := w.client(), w.client()
	w.quiet()
	w.hold = true
	d := b.mkdir(root, "d") // early: B's own
	tid := a.ask(&wire.Request{Op: wire.OpCreate, Ino: d, Name: "f", Mode: 0o644, OpenFlags: oEXCL})
	w.quiet()
	if a.replies[tid] != nil {
		t.Fatal("A was answered although B's mkdir is not durable")
	}
	// B itself goes on without waiting.
	own := b.ask(&wire.Request{Op: wire.OpMkdir, Ino: d, Name: "own", Mode: 0o755})
	w.quiet()
	if b.replies[own] == nil {
		t.Fatal("B waits for its own entry")
	}
	w.hold = false
	if rep := a.wait(tid); rep.Errno != 0 || !rep.Early {
		t.Fatalf("A: %+v", rep)
	}
}

// Two authors in one directory do not wait for each other (a create shows nothing of its
// parent), but whoever looks does.
func TestSharedDirectoryCreatesStayEarly(t *testing.T) {
	w := newWorld(t, 2)
	a, b, c := w.client(), w.client(), w.client()
	d := a.mkdir(root, "d")
	w.quiet()
	w.hold = true
	a.create(d, "a")
	b.create(d, "b")
	a.create(d, "a2")
	own := a.ask(&wire.Request{Op: wire.OpLookup, Ino: d, Name: "a"})
	foreign := a.ask(&wire.Request{Op: wire.OpLookup, Ino: d, Name: "b"})
	look := c.ask(&wire.Request{Op: wire.OpReaddir, Ino: d})
	w.quiet()
	if a.replies[own] == nil {
		t.Fatal("A cannot see its own file")
	}
	if a.replies[foreign] != nil || c.replies[look] != nil {
		t.Fatal("an undurable name was shown to another client")
	}
	w.hold = false
	if rep := c.wait(look); len(rep.Entries) != 3 {
		t.Fatalf("%d entries", len(rep.Entries))
	}
	a.wait(foreign)
}

// A create of a name that another client just removed rests on the removal.
func TestCreateAfterForeignUnlinkRestsOnIt(t *testing.T) {
	w := newWorld(t, 3)
	a, b := w.client(), w.client()
	a.create(root, "f")
	w.quiet()
	w.hold = true
	a.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "f"})
	neg := b.ask(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "f"})
	mk := b.ask(&wire.Request{Op: wire.OpCreate, Ino: root, Name: "f", Mode: 0o600, OpenFlags: oEXCL})
	w.quiet()
	if b.replies[mk] != nil || b.replies[neg] != nil {
		t.Fatal("an undurable removal was shown")
	}
	w.hold = false
	if rep := b.wait(mk); rep.Errno != 0 {
		t.Fatalf("errno %d", rep.Errno)
	}
	if rep := b.wait(neg); rep.Errno != uint32(eNOENT) {
		t.Fatalf("errno %d", rep.Errno)
	}
}

// The same with a name that a rename made free, and one that it made.
func TestRenameOntoAFreshName(t *testing.T) {
	w := newWorld(t, 4)
	a, b := w.client(), w.client()
	f := a.create(root, "f")
	b.create(root, "mine")
	w.quiet()
	w.hold = true
	a.must(&wire.Request{Op: wire.OpRename, Ino: root, Name: "f", NewDir: root, NewName: "g"})
	over := b.ask(&wire.Request{Op: wire.OpRename, Ino: root, Name: "mine", NewDir: root, NewName: "g"})
	w.quiet()
	if b.replies[over] != nil {
		t.Fatal("B replaced a name that is not durable and was told so")
	}
	// A's later answer about the name rests on B's change.
	again := a.ask(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "g"})
	w.quiet()
	if a.replies[again] != nil {
		t.Fatal("A was shown B's undurable rename")
	}
	w.hold = false
	if rep := a.wait(again); rep.Target.Ino == f {
		t.Fatal("A sees its old file under g")
	}
	b.wait(over)
}

// A reader that asks for an attribute sees the newest one, and sees it when it is durable.
func TestStatOfForeignChangeWaits(t *testing.T) {
	w := newWorld(t, 5)
	a, b := w.client(), w.client()
	f := a.create(root, "f")
	w.quiet()
	w.hold = true
	a.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	own := a.ask(&wire.Request{Op: wire.OpGetattr, Ino: f, Mask: wire.MaskAuth})
	st := b.ask(&wire.Request{Op: wire.OpGetattr, Ino: f, Mask: wire.MaskAuth})
	w.quiet()
	if a.replies[own] == nil || b.replies[st] != nil {
		t.Fatal("author must not wait, others must")
	}
	w.hold = false
	if rep := b.wait(st); rep.Target.Attr.Mode != modeReg|0o600 {
		t.Fatalf("mode %o", rep.Target.Attr.Mode)
	}
}

// Safe covers what is durable and was answered before it, and nothing else (section 7).
func TestSafeWatermarkFollowsTheJournal(t *testing.T) {
	for seed := int64(1); seed < 20; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		w.quiet()
		w.hold = true
		for i := 0; i < 5; i++ {
			c.create(root, string(rune('a'+i)))
		}
		if len(c.unsafe) != 5 {
			t.Fatalf("%d unsafe requests", len(c.unsafe))
		}
		w.hold = false
		w.until("safe", func() bool { return len(c.unsafe) == 0 })
	}
}

// Revokes are not behind the journal's back: they pass no held message of their session, but
// rest on nothing themselves (ES3, ES4).
func TestOneFifoPerSession(t *testing.T) {
	w := newWorld(t, 6)
	c := w.client()
	s := w.r.sessions[c.key]
	r := w.r
	w.quiet()
	n := len(c.msgs)
	end := r.jw.End()
	r.eff.reset()
	r.send(s, end+1000, 1, &wire.Safe{Tid: 1})
	r.send(s, 0, 2, &wire.Safe{Tid: 2})
	r.send(s, end+500, 3, &wire.Safe{Tid: 3})
	if len(r.eff.Sends) != 0 || n != len(c.msgs) {
		t.Fatal("a message overtook")
	}
	r.durablePos = end + 1000
	r.drain()
	if len(r.eff.Sends) != 3 || r.eff.Sends[0].Tid != 1 || r.eff.Sends[2].Tid != 3 {
		t.Fatalf("sent %+v", r.eff.Sends)
	}
}

// The same seed gives the same run: every effect in the same order with the same content.
func TestSameSeedSameTrace(t *testing.T) {
	run := func() []string {
		w := newWorld(t, 77)
		w.keep = true
		scramble(w, 3, 150)
		return w.trace
	}
	a, b := run(), run()
	if len(a) != len(b) {
		t.Fatalf("%d lines, then %d", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("line %d:\n%s\n%s", i, a[i], b[i])
		}
	}
}

// That a directory is gone is news like any other: B must not hear of A's rmdir before it is
// durable.
func TestNoEntOfARemovedDirectoryWaits(t *testing.T) {
	w := newWorld(t, 11)
	a, b := w.client(), w.client()
	d := a.mkdir(root, "d")
	f := b.create(root, "f")
	b.lookup(root, "d")
	w.quiet()
	w.hold = true
	a.must(&wire.Request{Op: wire.OpRmdir, Ino: root, Name: "d"})
	t1 := b.ask(&wire.Request{Op: wire.OpCreate, Ino: d, Name: "x", Mode: 0o644, OpenFlags: oEXCL})
	t2 := b.ask(&wire.Request{Op: wire.OpLink, Ino: d, Name: "y", Other: f})
	w.quiet()
	if b.replies[t1] != nil || b.replies[t2] != nil {
		t.Fatal("B heard of a removal that a crash takes back")
	}
	w.hold = false
	if e := b.wait(t1).Errno; e != uint32(eNOENT) {
		t.Fatal(e)
	}
}

// A moves x out of y, then B moves y into x: B's move rests on A's, else its resend finds x
// below y.
func TestMoveOfADirectoryRestsOnThePathAbove(t *testing.T) {
	w := newWorld(t, 12)
	a, b := w.client(), w.client()
	y := a.mkdir(root, "y")
	x := a.mkdir(y, "x")
	z := a.mkdir(x, "z")
	for _, c := range []*client{a, b} {
		c.lookup(root, "y")
		c.lookup(y, "x")
		c.lookup(x, "z")
	}
	w.quiet()
	w.hold = true
	a.must(&wire.Request{Op: wire.OpRename, Ino: y, Name: "x", NewDir: root, NewName: "x"})
	tid := b.ask(&wire.Request{Op: wire.OpRename, Ino: root, Name: "y", NewDir: z, NewName: "y"})
	w.quiet()
	if b.replies[tid] != nil {
		t.Fatal("B was answered although A's move is not durable")
	}
	w.hold = false
	if rep := b.wait(tid); rep.Errno != 0 {
		t.Fatal(rep.Errno)
	}
}
