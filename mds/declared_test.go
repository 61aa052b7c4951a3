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
