package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// keeps is a world in which c2 has Fs of a directory, is asked for it because of a change by c1
// (or by itself), and keeps the name "no", which it knows to be absent.
func keeps(t *testing.T, own bool) (w *capWorld, c1, c2 *capClient, tid wire.Tid, d wire.Ino) {
	w = newCapWorld(t)
	c1, c2 = w.client("c1"), w.client("c2")
	d = c1.must(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755}).Target.Ino
	for _, c := range []*capClient{c1, c2} {
		c.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "d"})
		c.must(wire.Request{Op: wire.OpReaddir, Ino: d}) // Fs, so that the name comes without a lease
		c.call(wire.Request{Op: wire.OpLookup, Ino: d, Name: "no"})
	}
	if k := c2.caps[d]; k == nil || !k.bits.Has(caps.FileShared) {
		t.Fatalf("c2 has %+v of the directory, want Fs", k)
	}
	c2.mute = true
	by := c1
	if own {
		by = c2
	}
	tid = by.request(wire.Request{Op: wire.OpCreate, Ino: d, Name: "no", Mode: 0o644})
	if by.reply[tid] != nil {
		t.Fatal("the create did not wait for Fs of c2")
	}
	k := c2.caps[d]
	if !k.pendingAnswer || len(c2.lease) > 0 && c2.lastRevoked != 0 {
		t.Fatalf("c2 was not asked for Fs\n%s", w.log.String())
	}
	c2.send(0, &wire.CapUpdate{Ino: d, CapID: k.id, Mseq: k.mseq, Seq: k.seq, Retained: k.bits &^ caps.FileShared, Names: []string{"no"}})
	k.bits &^= caps.FileShared
	k.pendingAnswer = false
	return w, c1, c2, tid, d
}

// The create has its xlock since Fs covered the name, and so would not wait for a lease that comes
// now: Fs counts as held until c2 has given the name up.
func TestKeptNameThatIsBeingChanged(t *testing.T) {
	w, c1, c2, tid, d := keeps(t, false)
	if c1.reply[tid] != nil {
		t.Fatalf("c1 created a name whose absence c2 may trust\n%s", w.log.String())
	}
	k := c2.caps[d]
	c2.send(0, &wire.CapUpdate{Ino: d, CapID: k.id, Mseq: k.mseq, Seq: k.seq, Retained: k.bits}) // asked again
	if c1.reply[tid] != nil {
		t.Fatalf("a second answer gave the name up\n%s", w.log.String())
	}
	c2.send(0, &wire.LeaseAck{Dir: d, Name: "no", Seq: c2.lastRevoked})
	if c1.reply[tid] == nil || c1.reply[tid].Errno != 0 {
		t.Fatalf("c1 still waits\n%s", w.log.String())
	}
}

// A client's own lease does not stand in its way: its kernel could not give the name up while the
// create is parked (F5).
func TestKeptNameOfTheAuthor(t *testing.T) {
	w, _, c2, tid, _ := keeps(t, true)
	if c2.reply[tid] == nil || c2.reply[tid].Errno != 0 || c2.lastRevoked != 0 {
		t.Fatalf("c2 waits for itself\n%s", w.log.String())
	}
}

// Who is gone owes nothing.
func TestKeptNameOfOneThatDies(t *testing.T) {
	w, c1, _, tid, _ := keeps(t, false)
	start := w.now
	for c1.reply[tid] == nil && w.now < start+120e9 {
		w.pass(1e8)
	}
	if c1.reply[tid] == nil || c1.reply[tid].Errno != 0 {
		t.Fatalf("c1 still waits\n%s", w.log.String())
	}
}
