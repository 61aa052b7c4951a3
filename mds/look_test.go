package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A request that must wait names its owner while it waits, is noted as slow when it has waited for
// long, and a trace shows what moved meanwhile. Off, the trace notes nothing.
func TestAWaitIsSeenFromBeginningToEnd(t *testing.T) {
	w := newWorld(t, 7)
	a, b := w.client(), w.client()
	a.create(root, "x")
	w.quiet()
	a.ask(&wire.Request{Op: wire.OpReaddir, Ino: root})
	a.ask(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "x"})
	b.ask(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "x"})
	w.quiet()
	if err := w.r.TraceOn(""); err != nil {
		t.Fatal(err)
	}
	tid := b.ask(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "x"})
	for w.find(tid) == nil && w.progress() {
	}
	wait := w.find(tid)
	if wait == nil {
		t.Fatal("the unlink never waits, though another client caches the name")
	}
	if wait.Stage != "lock" || wait.Lock == "" || len(wait.On) == 0 || len(wait.For) != len(wait.On) {
		t.Fatalf("it waits for nobody: %+v", wait)
	}
	if on := wait.On[0]; on.Kind != "client" || on.Client != a.inst.String() || on.DeadlineMs <= 0 {
		t.Errorf("not client a is its owner: %+v", on)
	}
	if slow := w.r.FindSlow(w.now, 1e12); len(slow) > 0 {
		t.Errorf("slow before its time: %+v", slow)
	}
	w.now += 2e9
	if slow := w.r.FindSlow(w.now, 1e9); len(slow) > 0 {
		t.Errorf("told of before it has ended: %+v", slow)
	}
	w.quiet()
	slow := w.r.FindSlow(w.now, 1e9)
	if len(slow) != 1 || slow[0].Stage != "lock" || slow[0].TookNs < 2e9 || slow[0].Owner == "" {
		t.Fatalf("slow operations: %+v", slow)
	}
	if n := w.r.Latency().Ops[wire.OpUnlink].Count(); n != 1 {
		t.Errorf("%d unlinks were timed", n)
	}
	kinds := map[string]int{}
	for i, ev := range w.r.TraceRead(1 << 20).Events {
		kinds[ev.Kind]++
		if ev.Seq != uint64(i) {
			t.Fatalf("event %d has number %d", i, ev.Seq)
		}
	}
	if kinds["lock"] == 0 || kinds["park"] == 0 || kinds["revoke"]+kinds["lease-revoke"] == 0 {
		t.Errorf("the trace lacks something: %v", kinds)
	}

	// What nobody reads is bounded, and the loss is counted.
	for range maxTrace + 5 {
		w.r.traced(TraceEvent{Kind: "lock"})
	}
	if got := w.r.TraceRead(10); got.Dropped != 5 || len(got.Events) != 10 {
		t.Errorf("%d dropped, %d read", got.Dropped, len(got.Events))
	}
	w.r.TraceOff()
	a.create(root, "y")
	w.quiet()
	if b := w.r.TraceRead(10); b.On || len(b.Events) > 0 || w.r.engine.Trace != nil {
		t.Errorf("switched off, it goes on: %+v", b)
	}
}

// Who waits for a file lock waits for applications: why names them, and nobody is warned of a slow operation,
// as he is of a request that is late before it stands in the queue.
func TestAWaitForAFileLockIsNotSlow(t *testing.T) {
	w := newWorld(t, 7)
	a, b := w.client(), w.client()
	ino := a.create(root, "x")
	w.quiet()
	lock := func(c *client, typ wire.LockType) wire.Tid {
		tid := c.ask(&wire.Request{Op: wire.OpSetlk, Ino: ino, Lock: wire.FileLock{Type: typ, Owner: 1, End: 1<<63 - 1, Wait: true}})
		w.quiet()
		return tid
	}
	lock(a, wire.LockWrite)
	tid := lock(b, wire.LockWrite)
	if wait := w.find(tid); wait == nil || wait.Stage != "file-lock" || len(wait.On) != 1 {
		t.Fatalf("the wait is not seen: %+v", wait)
	}
	w.now += 5e9
	w.r.FindSlow(w.now, 1e9)
	lock(a, wire.LockUnlock)
	if w.find(tid) != nil {
		t.Fatal("it still waits")
	}
	if slow := w.r.FindSlow(w.now, 1e9); len(slow) != 0 {
		t.Errorf("slow operations: %+v", slow)
	}
}

// find is the wait of a request.
func (w *world) find(tid wire.Tid) *Wait {
	list := w.r.Why()
	for i := range list {
		if list[i].Kind == "request" && list[i].Tid == uint64(tid) {
			return &list[i]
		}
	}
	return nil
}
