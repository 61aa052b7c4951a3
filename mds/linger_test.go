package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A create that was answered early shares its journal write with what comes within LingerNs;
// the first effect that rests on it ends the waiting at once, and time ends it in any case.
func TestEarlyUpdatesShareAWriteUntilSomebodyWaits(t *testing.T) {
	w := newWorld(t, 9)
	a, b := w.client(), w.client()
	w.quiet()
	w.r.cfg.LingerNs = 1e9 // a step of this world takes a microsecond
	queued := func() bool { return w.r.jw.End() > w.r.handed }

	a.create(root, "x")
	w.quiet()
	if !queued() || w.r.lingerTick() == 0 {
		t.Fatal("a create that nobody waits for was written by itself, or is forgotten")
	}
	look := b.ask(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "x"})
	w.quiet() // time stands still
	if b.replies[look] == nil || queued() {
		t.Fatal("another client waits for the create, and it is not written")
	}

	a.create(root, "y")
	w.quiet()
	if !queued() {
		t.Fatal("written at once")
	}
	w.now += 1e9
	w.step(Event{Kind: Tick})
	w.quiet()
	if queued() || w.r.durablePos != w.r.jw.End() {
		t.Fatal("time passed, and it is not written")
	}
}
