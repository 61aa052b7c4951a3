package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// Who is silent was asked for As, whose deadline has passed: its silence will take that back. Then
// somebody wants to know the size of what it has open for writing, which only a fence takes back. The REVOKE of
// w is not a new question, since one is open: the deadline of the first is its deadline, and that
// is over.
func TestSilentWriterIsAskedForWBehindAnOpenRevoke(t *testing.T) {
	for _, later := range []int64{5e9, 11e9, 13e9, 15e9, 17e9} {
		w := newCapWorld(t)
		c1, c2, c3 := w.client("c1"), w.client("c2"), w.client("c3")
		ino := c1.create("f", wW)
		c1.write(ino, 100)
		c1.mute = true
		w.pass(3e9)
		c2.request(wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
		w.pass(later)
		start := w.now
		tid := c3.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile})
		for c3.reply[tid] == nil && w.now < start+60e9 {
			w.pass(1e9)
		}
		if took := w.now - start; took > 10e9 {
			t.Errorf("asked %d s after the chmod, the stat took %d s: c1 %q\n%s", later/1e9, took/1e9, c1.gone, w.log.String())
		}
	}
}

// A client that was away for longer than R comes back with the answers to what it was asked
// meanwhile. It has the time to give them.
func TestWhoComesBackMayAnswer(t *testing.T) {
	for _, away := range []int64{12e9, 16e9, 19e9} {
		for _, lease := range []bool{false, true} {
			w := newCapWorld(t)
			c1, c2 := w.client("c1"), w.client("c2")
			ino := c2.create("f", 0)
			c1.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
			c1.mute = true
			q := wire.Request{Op: wire.OpSetattr, Ino: ino, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}}
			if lease {
				q = wire.Request{Op: wire.OpUnlink, Ino: wire.RootIno, Name: "f"}
			}
			tid := c2.request(q)
			w.pass(away)
			if c2.reply[tid] != nil || c1.gone != "" {
				t.Fatalf("too early: %+v %q", c2.reply[tid], c1.gone)
			}
			c1.stuck = true // its answer is on its way
			c1.mute = false
			c1.send(0, &wire.Renew{Seq: 1})
			w.pass(2e9)
			if c1.gone != "" {
				t.Errorf("away for %d s, lease %v: %s\n%s", away/1e9, lease, c1.gone, w.log.String())
				continue
			}
			c1.stuck = false
			for i, k := range c1.caps {
				if k.pendingAnswer {
					c1.answer(i, k, w.r.inodes[i].ledger.Get(uint64(c1.key)).Pending)
				}
			}
			c1.send(0, &wire.LeaseAck{Dir: wire.RootIno, Name: "f", Seq: c1.lastRevoked})
			w.pass(1e9)
			if c2.reply[tid] == nil || c1.gone != "" {
				t.Errorf("away for %d s, lease %v: no answer, c1 %q\n%s", away/1e9, lease, c1.gone, w.log.String())
			}
		}
	}
}
