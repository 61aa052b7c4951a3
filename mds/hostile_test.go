package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// What the end of a session must not take along, and what it must: requests that wait, that
// rest, that come late.

// A truncate that had to wait for its turn and now cuts objects is answered; the end of its
// session must not give its lock away, nor its request to somebody else.
func TestSessionEndsWhileItsTruncateCuts(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 3<<20)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	w.hold = true
	c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetSize, Attr: wire.SetAttr{Size: 1}})
	for len(w.r.cuts) == 0 && len(w.pending) > 0 {
		w.one(func(int) int { return 0 })
	}
	if len(w.r.cuts) != 1 {
		t.Fatal("nothing is being cut")
	}
	c2.send(0, &wire.SessionClose{})
	for i := range w.pending {
		if w.pending[i].lane == "from c2" {
			fn := w.pending[i].fn
			w.pending = append(w.pending[:i:i], w.pending[i+1:]...)
			fn()
			break
		}
	}
	if got := w.r.inodes[ino].locks[lockFile].State(); got != "xlockdone" {
		t.Fatalf("ifile is %s while objects are cut", got)
	}
	w.hold = false
	w.run()
	if a := c1.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile}); a.Target.Attr.Size != 1 {
		t.Fatalf("size %d", a.Target.Attr.Size)
	}
	seen := map[*request]bool{}
	for _, q := range w.r.freeReqs {
		if seen[q] {
			t.Fatal("a request is free twice")
		}
		seen[q] = true
	}
}

// A client is evicted while it waits for a file lock; the holder unlocks before the fence is
// complete. The lock goes to who waits next.
func TestLockWaiterIsEvicted(t *testing.T) {
	w := newCapWorld(t)
	c1, c2, c3 := w.client("c1"), w.client("c2"), w.client("c3")
	ino := c1.create("f", 0)
	for _, c := range []*capClient{c2, c3} {
		c.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	}
	lock := func(c *capClient, ty wire.LockType) wire.Tid {
		return c.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: ty, Owner: 1, End: 9, Wait: true}})
	}
	lock(c1, wire.LockWrite)
	lock(c2, wire.LockWrite)
	t3 := lock(c3, wire.LockWrite)
	w.noFence = true
	c2.send(0, &wire.Reconnect{Instance: c2.inst, Last: true}) // it lost the thread
	if c2.gone == "" {
		t.Fatal("not evicted")
	}
	lock(c1, wire.LockUnlock)
	if c3.reply[t3] == nil || c3.reply[t3].Errno != 0 {
		t.Fatalf("%+v", c3.reply[t3])
	}
	w.fence(c2.inst)
	lock(c3, wire.LockUnlock)
	if l := w.r.inodes[ino].file.locks; l != nil {
		t.Fatalf("held: %v, waiting: %v", l.Held(false), l.Waiting(false))
	}
}

// What a client sends behind its own SessionClose has no effect, and leaves nothing behind.
func TestNothingRunsBehindASessionClose(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", 0)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	w.hold = true
	c2.send(0, &wire.SessionClose{})
	c2.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: wire.LockWrite, Owner: 1, End: 9}})
	c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wW})
	c2.request(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "late", Mode: 0o755})
	w.hold = false
	w.run()
	if rec := w.r.inodes[ino].ledger.Get(uint64(c2.key)); rec != nil {
		t.Fatalf("a cap of nobody: %v", rec)
	}
	if tid := c1.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: wire.LockWrite, Owner: 1, End: 9}}); c1.reply[tid].Errno != 0 {
		t.Fatal("a lock of nobody")
	}
	if rep := c1.call(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "late"}); rep.Errno != uint32(eNOENT) {
		t.Fatal("it ran")
	}
}

// The directories of the file system itself are not a client's to name.
func TestSystemDirectoriesAreNotForClients(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino := c1.create("f", wR)
	d := c1.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755}).Target.Ino
	c1.must(wire.Request{Op: wire.OpUnlink, Ino: wire.RootIno, Name: "f"})
	shard := w.r.strayIno(w.r.inodes[ino])
	for _, sys := range []wire.Ino{baseIno, shard, wire.LinksDir(0, 0)} {
		for _, q := range []wire.Request{
			{Op: wire.OpLookup, Ino: sys, Name: strayName(ino)}, {Op: wire.OpUnlink, Ino: sys, Name: strayName(ino)},
			{Op: wire.OpRename, Ino: sys, Name: strayName(ino), NewDir: wire.RootIno, NewName: "x"},
			{Op: wire.OpRename, Ino: wire.RootIno, Name: "d", NewDir: sys, NewName: "x"},
			{Op: wire.OpCreate, Ino: sys, Name: "x"}, {Op: wire.OpReaddir, Ino: sys}, {Op: wire.OpGetattr, Ino: sys},
			{Op: wire.OpSetattr, Ino: sys, Set: wire.SetMode}, {Op: wire.OpOpen, Ino: sys, Want: caps.FileRd},
		} {
			if rep := c1.call(q); rep.Errno != uint32(eSTALE) {
				t.Fatalf("%v in %v: errno %d", q.Op, sys, rep.Errno)
			}
		}
	}
	c1.must(wire.Request{Op: wire.OpRmdir, Ino: wire.RootIno, Name: "d"})
	if rep := c1.call(wire.Request{Op: wire.OpLookup, Ino: d, Name: ".."}); rep.Target != nil && rep.Target.Ino != d {
		t.Fatalf("the parent of a removed directory is %v", rep.Target.Ino)
	}
}

// File locks end with their session also where it gave its cap away.
func TestLocksWithoutACapEndWithTheSession(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", 0)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	l := wire.FileLock{Type: wire.LockWrite, Owner: 1, End: 9, Wait: true}
	c1.must(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: l})
	k := c1.caps[ino]
	delete(c1.caps, ino)
	c1.send(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: ino, CapID: k.id, Mseq: k.mseq, IssueSeq: k.seq}}})
	tid := c2.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: l})
	if c2.reply[tid] != nil {
		t.Fatal("granted to both")
	}
	c1.send(0, &wire.SessionClose{})
	if c2.reply[tid] == nil {
		t.Fatal("the lock outlives its session")
	}
}

// K1: who is given the file lock of a fenced client has heard of the fence before.
func TestFileLockGrantsComeBehindTheBarrier(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", 0)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	l := wire.FileLock{Type: wire.LockWrite, Owner: 1, End: 9, Wait: true}
	c1.must(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: l})
	tid := c2.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: l})
	c1.send(0, &wire.Reconnect{Instance: c1.inst, Last: true}) // it lost the thread: evicted
	if c2.reply[tid] == nil || c2.barrier < w.fenced[c1.inst] || w.fenced[c1.inst] == 0 {
		t.Fatalf("granted %v under barrier %d, fenced in %d", c2.reply[tid], c2.barrier, w.fenced[c1.inst])
	}
}

// Names that were looked up and are not there do not fill the cache for ever.
func TestAbsentNamesAreForgotten(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	d := c1.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755}).Target.Ino
	c1.must(wire.Request{Op: wire.OpCreate, Ino: d, Name: "x"})
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "d"})
	c1.quiet, c2.quiet = true, true
	before := w.r.numDentries
	in := w.r.inodes[d]
	rec := in.ledger.Get(uint64(c2.key))
	rec.Seize(caps.FileShared) // without Fs it gets leases
	c2.caps[d].bits &^= caps.FileShared
	w.r.cfg.Check = false
	for i := 0; i < maxLeases+2000; i++ {
		rec.Seize(caps.FileShared)
		c2.call(wire.Request{Op: wire.OpLookup, Ino: d, Name: strayName(wire.Ino(i))})
	}
	if n := w.r.numDentries - before; n > maxLeases+10 || n < maxLeases-10 {
		t.Fatalf("%d dentries more, %d leases", n, w.r.sessions[c2.key].live.leases.n)
	}
	c2.send(0, &wire.SessionClose{})
	if n := w.r.numDentries - before; n > 10 {
		t.Fatalf("%d dentries are left", n)
	}
}
