package mds

import (
	"fmt"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

func TestSessionOpenCreateLookupGetattr(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	if c1.open.ValidityMs != 15000 || c1.open.RootStat.Ino != wire.RootIno {
		t.Fatalf("%+v", c1.open)
	}
	ino := c1.create("f", wW)
	c1.has(ino, "pAsLsXsFsxcrwba")
	c1.write(ino, 10)
	c2 := w.client("c2")
	rep := c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	if rep.Target.Valid&wire.MaskFile != 0 {
		t.Fatal("the size is the writer's to know")
	}
	rep = c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskAll})
	if rep.Target.Valid != wire.MaskAll || rep.Target.Attr.Size != 10 {
		t.Fatalf("%+v", rep.Target)
	}
}

// T1, without write-back: a writer, then a reader. The reader must not hold r before the
// writer has handed its size in, and may cache only when nobody writes any more.
func TestT1WriterThenReader(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.has(ino, "pAsLsXsFsxcrwba")
	c1.write(ino, 100)
	w.log.Reset()
	rep := c2.openFile(ino, wR)
	w.story(`
		c1 revoke pAsLsXsFrwa`)
	c2.has(ino, "pAsLsXsFr")
	if rep.Target.Valid&wire.MaskFile != 0 {
		t.Fatal("c1 may be writing: its size is not known")
	}
	c1.write(ino, 200)
	rep = c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	if rep.Target.Attr.Size != 200 {
		t.Fatalf("stat shows %d", rep.Target.Attr.Size)
	}
	w.log.Reset()
	c1.wants(ino, 0) // closed
	w.story(`
		c1 revoke pAsLsXsFr
		c2 grant pAsLsXsFscr`)
}

// T4: one writer, polled by another host. Each stat asks the writer once and shows what it
// wrote; then the writer gets its bits back without asking.
func TestT4LonerIsPolled(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	for i := uint64(1); i <= 3; i++ {
		c1.write(ino, 10*i)
		w.log.Reset()
		rep := c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskAll})
		if rep.Target.Attr.Size != 10*i {
			t.Fatalf("stat shows %d", rep.Target.Attr.Size)
		}
		if rep.Target.Cap.Pending&caps.FileMask != 0 && c1.caps[ino].bits&caps.FileWr != 0 && c2.caps[ino].bits&caps.FileShared != 0 {
			t.Fatal("both")
		}
		if !c1.caps[ino].bits.Has(caps.FileWr) {
			t.Fatalf("the writer waits:\n%s", w.log.String())
		}
	}
}

// T5: stat while several write. Every w must be home before the answer.
func TestT5StatWhileSeveralWrite(t *testing.T) {
	w := newCapWorld(t)
	c1, c2, c3 := w.client("c1"), w.client("c2"), w.client("c3")
	ino := c1.create("f", wW)
	c2.openFile(ino, wW)
	c1.has(ino, "pAsLsXsFrwa")
	c2.has(ino, "pAsLsXsFwa")
	c1.write(ino, 100)
	c2.write(ino, 300)
	rep := c3.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	if rep.Target.Attr.Size != 300 || rep.Target.Valid&wire.MaskFile == 0 {
		t.Fatalf("%+v", rep.Target)
	}
	c1.want[ino] = wW
	for _, c := range []*capClient{c1, c2} {
		if !c.caps[ino].bits.Has(caps.FileWr) {
			t.Fatalf("%s does not write on", c.name)
		}
	}
}

// T8: a client dies with w. It is asked, asked again, evicted; its fence is complete before
// its range is probed, and only then does anybody read.
func TestT8ClientDies(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 4096) // the data is there, the size never arrives
	c1.mute = true
	w.log.Reset()
	tid := c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wR})
	w.pass(4.9e9)
	w.story(`
		c1 revoke pAsLsXsFrwa`)
	w.pass(0.2e9)
	w.story(`
		c1 revoke again pAsLsXsFrwa`)
	if c2.reply[tid] != nil {
		t.Fatal("answered")
	}
	w.pass(5e9)
	w.story(`
		mon: c1 fenced in epoch 11
		c1 evicted: it did not answer a revoke in time`)
	rep := c2.reply[tid]
	if rep == nil {
		// c and s of the dead go by silence only (K2).
		w.pass(11e9)
		rep = c2.reply[tid]
	}
	if rep == nil || rep.Errno != 0 || rep.Target.Cap.Barrier < 11 {
		t.Fatalf("%+v", rep)
	}
	rep = c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	if rep.Target.Attr.Size != 4096 {
		t.Fatalf("recovered size %d", rep.Target.Attr.Size)
	}
}

// K2: what a silent client only caches is taken back by its silence, without a fence.
func TestK2SilenceEndsCaching(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c2.create("f", 0)
	c1.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	c1.mute = true
	start := w.now
	tid := c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	for c2.reply[tid] == nil && w.now < start+60e9 {
		w.pass(1e8)
	}
	took := w.now - start
	t.Log(w.log.String())
	if took < 19e9 || took > 21e9 || c1.gone != "" {
		t.Fatalf("took %d ms, c1 %q", took/1e6, c1.gone)
	}
}

// A stale session that comes back hears that it was stale, and what it still has.
func TestStaleSessionRenews(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino := c1.create("f", wR)
	c1.mute = true
	w.pass(16e9)
	if s := w.r.sessions[c1.key]; s.state != sessStale {
		t.Fatal(s.state)
	}
	c1.mute = false
	w.log.Reset()
	c1.send(0, &wire.Renew{Seq: 99})
	if s := w.r.sessions[c1.key]; s.state != sessOpen || c1.caps[ino].bits == 0 {
		t.Fatal(s.state)
	}
	c1.mute = true
	w.pass(301e9)
	if c1.gone == "" || len(w.r.sessions) != 0 {
		t.Fatal("autoclose")
	}
}

// Leases: a name is trusted until its dn leaves sync; absence too.
func TestLeasesAreRevokedBeforeTheNameChanges(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	c1.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755})
	d := c1.reply[c1.tid].Target.Ino
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "d"})
	c1.must(wire.Request{Op: wire.OpCreate, Ino: d, Name: "f"})
	c2.must(wire.Request{Op: wire.OpLookup, Ino: d, Name: "f"})
	if rep := c2.call(wire.Request{Op: wire.OpLookup, Ino: d, Name: "no"}); rep.Errno != uint32(eNOENT) {
		t.Fatal(rep.Errno)
	}
	w.log.Reset()
	c1.must(wire.Request{Op: wire.OpUnlink, Ino: d, Name: "f"})
	c1.must(wire.Request{Op: wire.OpCreate, Ino: d, Name: "no"})
	t.Log(w.log.String())
	if len(c2.lease) > 0 {
		for k := range c2.lease {
			if strings.HasSuffix(k, "/f") || strings.HasSuffix(k, "/no") {
				t.Fatal("still trusted:", k)
			}
		}
	}
}

// T6: two appenders take turns; whoever has x knows the true end.
func TestT6AppendersTakeTurnsWithTheTrueEnd(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wA)
	cs := []*capClient{c1, c2}
	c2.want[ino] = wA
	open := c2.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: wW})
	w.pass(20e6) // its turn comes after a quantum
	if c2.reply[open] == nil {
		t.Fatal("open waits for ever")
	}
	size := uint64(0)
	turns := 0
	for i := 0; i < 40; i++ {
		c := cs[i%2]
		for n := 0; !c.caps[ino].bits.Has(caps.FileExcl | caps.FileWr); n++ {
			if n > 50 {
				t.Fatalf("%s waits for its turn: %v, other %v\n%s", c.name, c.caps[ino].bits, cs[1-i%2].caps[ino].bits, w.log.String())
			}
			c.wants(ino, wA)
			w.pass(5e6)
			turns++
		}
		if c.caps[ino].size > size {
			t.Fatalf("%s believes in %d, the end is %d", c.name, c.caps[ino].size, size)
		}
		end := c.caps[ino].size
		if d := c.dirty[ino]; d != nil {
			end = d.Attr.Size
		}
		if end != size {
			t.Fatalf("%s would append at %d, the end is %d", c.name, end, size)
		}
		size += 7
		c.write(ino, size)
	}
}

// File locks across sessions are served in the order they were asked for; those of a client
// that died go on only after its fence.
func TestFileLocksAreFirstComeFirstServed(t *testing.T) {
	w := newCapWorld(t)
	c1, c2, c3 := w.client("c1"), w.client("c2"), w.client("c3")
	ino := c1.create("f", 0)
	for _, c := range []*capClient{c2, c3} {
		c.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	}
	lock := func(c *capClient, ty wire.LockType, wait bool) wire.Tid {
		return c.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: ty, Flock: true, Owner: 1, Wait: wait}})
	}
	w.log.Reset()
	lock(c1, wire.LockWrite, true)
	t2 := lock(c2, wire.LockWrite, true)
	lock(c3, wire.LockRead, true)
	if tid := lock(c3, wire.LockRead, false); c3.reply[tid].Errno != uint32(eAGAIN) {
		t.Fatal(c3.reply[tid])
	}
	lock(c1, wire.LockUnlock, false)
	if rep := c2.reply[t2]; rep == nil || rep.Lock.Ticket == 0 {
		t.Fatal("c2 is next")
	}
	c2.mute, c2.deaf = true, true
	w.noFence = true
	w.pass(330e9) // c2 is silent: autoclose
	if len(w.blocks) != 1 {
		t.Fatal("not evicted")
	}
	w.pass(5e9)
	before := w.log.String()
	w.fence(c2.inst)
	w.log.WriteString("")
	if strings.Contains(before, "c3 locked") || !strings.Contains(w.log.String(), "c3 locked") {
		t.Fatalf("before the fence:\n%s\nafter:\n%s", before, w.log.String())
	}
	// A cancel of a waiter answers EINTR.
	t1 := lock(c1, wire.LockWrite, true)
	c1.send(0, &wire.LockCancel{Tid: t1, Ino: ino, Lock: wire.FileLock{Type: wire.LockWrite, Flock: true, Owner: 1}})
	if c1.reply[t1] == nil || c1.reply[t1].Errno != uint32(eINTR) {
		t.Fatal(c1.reply[t1])
	}
}

// After a crash of the rank the sessions say what they hold, and go on with it.
func TestReconnectKeepsCapsAndLocks(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	ino2 := c2.create("g", wR)
	c1.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: wire.LockWrite, Owner: 1, Start: 0, End: 9}})
	c1.write(ino, 50)
	w.boot(false, 6)
	for _, c := range w.order {
		m := &wire.Reconnect{Instance: c.inst, Last: true}
		for _, i := range []wire.Ino{ino, ino2} {
			if k := c.caps[i]; k != nil {
				m.Caps = append(m.Caps, wire.ReconnectCap{Ino: i, Parent: wire.RootIno, Name: map[wire.Ino]string{ino: "f", ino2: "g"}[i], Issued: k.bits, Wanted: c.want[i]})
			}
		}
		if c == c1 {
			m.Locks = []wire.ReconnectLock{{Ino: ino, Lock: wire.FileLock{Type: wire.LockWrite, Owner: 1, Start: 0, End: 9, Ticket: 77}}}
		}
		c.send(0, m)
	}
	if c1.recon == nil || !c1.recon.Known || w.r.state != stateActive {
		t.Fatalf("%+v, state %v", c1.recon, w.r.state)
	}
	c1.has(ino, "pAsLsXsFsxcrwba")
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	if tid := c2.request(wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: wire.LockRead, Owner: 1, Start: 0, End: 9}}); c2.reply[tid].Errno != uint32(eAGAIN) {
		t.Fatal("the lock is lost")
	}
	rep := c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	if rep.Target.Attr.Size != 50 {
		t.Fatalf("size %d", rep.Target.Attr.Size)
	}
}

// A session that does not reconnect is fenced before the rank goes on, its range recovered;
// until its kernel must have forgotten, nothing it may cache changes.
func TestSilentSessionAtTakeover(t *testing.T) {
	for grace, want := range map[int64]int64{0: 23, 3e9: 23, 30e9: 50} { // (V + K + G)(1+ε) in s
		t.Run(fmt.Sprint("G=", grace/1e9), func(t *testing.T) { silentAtTakeover(t, grace, want*1e9) })
	}
}

func silentAtTakeover(t *testing.T, grace, want int64) {
	w := newCapWorld(t)
	w.grace = grace
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.write(ino, 1000)
	c2.create("g", 0)
	c1.deaf, c1.mute = true, true
	w.boot(false, 6)
	start := w.now
	c2.send(0, &wire.Reconnect{Instance: c2.inst, Last: true})
	if w.r.state == stateActive {
		t.Fatal("active beside a session that is not fenced")
	}
	w.pass(4e9)
	if w.r.state != stateActive || w.fenced[c1.inst] == 0 {
		t.Fatalf("state %v", w.r.state)
	}
	rep := c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	if rep.Target.Attr.Size != 1000 {
		t.Fatalf("size %d", rep.Target.Attr.Size)
	}
	tid := c2.request(wire.Request{Op: wire.OpUnlink, Ino: wire.RootIno, Name: "f"})
	for c2.reply[tid] == nil && w.now < start+90e9 {
		w.pass(1e9)
	}
	if took := w.now - start; took < want || took > want+3e9 {
		t.Fatalf("the change came after %d ms, want %d", took/1e6, want/1e6)
	}
}

// A larger write range is given while a revoke of w is open (Q-e), and never beyond it.
func TestRangeGrowsWhileARevokeIsOpen(t *testing.T) {
	w := newCapWorld(t)
	c1, c2 := w.client("c1"), w.client("c2")
	ino := c1.create("f", wW)
	c1.mute = true
	c2.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
	k := c1.caps[ino]
	c1.send(0, &wire.CapUpdate{Ino: ino, CapID: k.id, Seq: k.seq - 1, Retained: k.bits, Wanted: wW, WantMax: 9 << 20})
	if k.max < 9<<20 {
		t.Fatalf("range %d", k.max)
	}
}

// A file that nobody has open any more keeps no write range: it may leave the cache.
func TestRangesGoWithTheLastCap(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	ino := c1.create("f", wW)
	c1.write(ino, 10)
	if len(w.r.inodes[ino].rec.Ranges) != 1 {
		t.Fatal("no range")
	}
	c1.send(0, &wire.SessionClose{})
	in := w.r.inodes[ino]
	if len(in.rec.Ranges) != 0 || in.ledger.Len() != 0 || c1.gone != "closed" {
		t.Fatalf("%v %v %q", in.rec.Ranges, in.ledger.All(), c1.gone)
	}
}
