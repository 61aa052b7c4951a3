package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A mount whose session was durable when the rank died, and that had not heard so, asks the next
// one to open it. It holds nothing: nobody waits for what it says, and nobody fences it.
func TestASessionThatWasNotHeardOfIsOpenedAgain(t *testing.T) {
	for _, early := range []bool{false, true} {
		w := newCapWorld(t)
		c1, c2 := w.client("c1"), w.client("c2")
		w.crash(6)
		if early {
			c1.send(0, &wire.Reconnect{Instance: c1.inst, Last: true})
		}
		c2.open = nil
		c2.send(1, &wire.SessionOpen{Instance: c2.inst, Host: "c2"})
		if !early {
			c1.send(0, &wire.Reconnect{Instance: c1.inst, Last: true})
		}
		if w.r.state != stateActive {
			t.Fatalf("early %v: state %v: %+v", early, w.r.state, w.r.Why())
		}
		if c2.open == nil || c2.recon != nil {
			t.Fatalf("early %v: opened %v, reconnected %v", early, c2.open, c2.recon)
		}
		c2.create("f", 0)
		w.pass(30e9)
		if c1.gone != "" || c2.gone != "" {
			t.Fatalf("%q %q", c1.gone, c2.gone)
		}
	}
}

// Asked again for its session, because the answer got lost, a client counts its validity from
// then: so does the rank.
func TestAnOpenIsARenewal(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c2.create("f", 0)
	c1.mute = true
	w.pass(14e9)
	c1.send(1, &wire.SessionOpen{Instance: c1.inst, Host: "c1"})
	c1.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	start := w.now
	tid := c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	for c2.reply[tid] == nil && w.now < start+60e9 {
		w.pass(1e8)
	}
	if took := w.now - start; took < 20e9 {
		t.Fatalf("changed after %d ms under somebody who may cache it for 20 s", took/1e6)
	}
}

// Two hosts that write to one file die. The size is looked for behind the first one's fence; what
// the second wrote until its own fence counts as well.
func TestASecondWriterIsFencedDuringTheProbe(t *testing.T) {
	w := newCapWorld(t)
	c1, c2, c3 := w.client("c1"), w.client("c2"), w.client("c3")
	ino := c1.create("f", wW)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	c2.openFile(ino, wW)
	k := c1.caps[ino]
	c1.send(0, &wire.CapUpdate{Ino: ino, CapID: k.id, Seq: k.seq, Mseq: k.mseq, Retained: k.bits, Wanted: wW, WantMax: 5 << 20})
	c1.write(ino, 100)
	c1.mute, c2.mute, w.noFence = true, true, true
	tid := c3.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	w.pass(11e9)
	if len(w.blocks) != 2 {
		t.Fatal(w.blocks)
	}
	w.hold = true
	w.fence(c1.inst)
	first := wire.DataObject(2, ino, 0).Name
	for len(w.pending) > 0 && w.pending[0].lane != first {
		w.one(func(int) int { return 0 })
	}
	if len(w.pending) < 2 {
		t.Fatal("no probe of several objects")
	}
	w.one(func(int) int { return 0 })
	w.obj(wire.DataObject(2, ino, 0)).data = make([]byte, 5000) // c2 still can
	w.fence(c2.inst)
	w.hold = false
	w.run()
	w.pass(30e9)
	if c3.reply[tid] == nil {
		t.Fatal("not opened")
	}
	if rep := c3.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile}); rep.Target.Attr.Size != 5000 {
		t.Fatalf("size %d", rep.Target.Attr.Size)
	}
}

// A link that breaks for good in the middle of a reconnect: the client says again all that it holds
// and waits for. It waits once.
func TestALockThatIsDeclaredTwice(t *testing.T) {
	w := newCapWorld(t)
	c1, c2, c3 := w.client("c1"), w.client("c2"), w.client("c3")
	ino := c1.create("f", 0)
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	lock := wire.FileLock{Type: wire.LockWrite, Owner: 1, End: 9, Wait: true}
	t1 := c1.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: lock})
	t2 := c2.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: lock})
	w.pass(1e9)
	w.crash(6)
	names := map[wire.Ino]string{ino: "f"}
	m1, m2 := c1.claims(names), c2.claims(names)
	m1.Locks = []wire.ReconnectLock{{Ino: ino, Lock: c1.reply[t1].Lock}}
	lock.Ticket = c2.queued[t2]
	m2.Locks = []wire.ReconnectLock{{Ino: ino, Lock: lock, Waiting: true, Tid: t2}}
	c2.send(0, m2)
	w.step(Event{Kind: SessionGone, Session: c2.key})
	c2.send(0, m2)
	c3.send(0, c3.claims(nil))
	c1.send(0, m1)
	if w.r.state != stateActive || c2.gone != "" {
		t.Fatal(w.r.state, c2.gone)
	}
	c2.send(0, &wire.LockCancel{Tid: t2})
	if rep := c2.reply[t2]; rep == nil || rep.Errno != uint32(eINTR) {
		t.Fatalf("%+v", rep)
	}
	c1.must(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: wire.LockUnlock, Owner: 1, End: 9}})
	if n := len(w.r.lockFiles); n != 0 {
		t.Fatalf("%d files are locked by nobody", n)
	}
}

// The answer of a create died with the rank. Before its client asks again, another one has removed
// the file, and its objects are being deleted: nobody is given a cap on what is about to go.
func TestACreateIsAskedForAgainWhileItsFileIsPurged(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	c1.deafTo = func(m wire.Message) bool { _, is := m.(*wire.Reply); return is }
	q := wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: "f", Mode: 0o644, Want: wW}
	tid := c1.request(q)
	w.crash(6)
	c1.deafTo = nil
	c1.send(0, c1.claims(nil))
	c2.send(0, c2.claims(nil))
	if w.r.state != stateActive {
		t.Fatal(w.r.state)
	}
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	for ino := range c2.caps {
		if ino != wire.RootIno {
			c2.must(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetSize, Attr: wire.SetAttr{Size: 5000}})
		}
		if ino != wire.RootIno {
			c2.send(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: ino, CapID: c2.caps[ino].id, Mseq: c2.caps[ino].mseq, IssueSeq: c2.caps[ino].seq}}})
		}
	}
	w.hold = true
	c2.request(wire.Request{Op: wire.OpUnlink, Ino: wire.RootIno, Name: "f"})
	for i := 0; len(w.r.strays.queue)+w.r.strays.flight == 0; i++ {
		if !w.one(func(int) int { return 0 }) || i > 1000 {
			t.Fatal("nothing is purged")
		}
	}
	q.Tid, q.Flags = tid, wire.ReqRetry
	c1.send(tid, &q)
	for i := range w.pending { // it comes before the deletion has ended
		if w.pending[i].lane == "from c1" {
			fn := w.pending[i].fn
			w.pending = append(w.pending[:i:i], w.pending[i+1:]...)
			fn()
			break
		}
	}
	w.hold = false
	w.run()
	c1.mute = true
	w.pass(20e9)
	if rep := c1.reply[tid]; rep == nil || rep.Errno != 0 || rep.Target != nil {
		t.Fatalf("%+v", rep)
	}
}
