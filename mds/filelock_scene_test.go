package mds

import (
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/mds/filelock"
	"github.com/capstan-fs/capstan/wire"
)

// lockWorld is a capWorld with one file that everybody knows, and what its clients would tell
// a new rank of their locks.
type lockWorld struct {
	*capWorld
	inos  []wire.Ino
	names map[wire.Ino]string
	asked map[string]lockAsked
}

type lockAsked struct {
	c    *capClient
	tid  wire.Tid
	ino  wire.Ino
	lock wire.FileLock
	at   int64
}

func newLockWorld(t *testing.T, files int, clients ...string) *lockWorld {
	w := &lockWorld{capWorld: newCapWorld(t), names: map[wire.Ino]string{}, asked: map[string]lockAsked{}}
	for i, name := range clients {
		c := w.client(name)
		for f := range files {
			name := fmt.Sprintf("f%d", f)
			if i == 0 {
				ino := c.create(name, 0)
				w.inos, w.names[ino] = append(w.inos, ino), name
			} else {
				c.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: name})
			}
		}
	}
	return w
}

// lock asks for all of file f as an owner of c; tag names the request.
func (w *lockWorld) lock(tag string, c *capClient, f int, owner uint64, ty wire.LockType, flock bool) {
	l := wire.FileLock{Type: ty, Owner: owner, Flock: flock, End: EOFLock, Wait: true}
	tid := c.request(wire.Request{Op: wire.OpSetlk, Ino: w.inos[f], Lock: l})
	w.asked[tag] = lockAsked{c, tid, w.inos[f], l, w.now}
}

func (w *lockWorld) unlock(tag string) {
	a := w.asked[tag]
	a.lock.Type, a.lock.Wait = wire.LockUnlock, false
	delete(w.asked, tag)
	a.c.must(wire.Request{Op: wire.OpSetlk, Ino: a.ino, Lock: a.lock})
}

// is says what became of a request.
func (w *lockWorld) is(tag, want string) {
	w.t.Helper()
	a := w.asked[tag]
	got := "waits"
	switch rep := a.c.reply[a.tid]; {
	case rep != nil && rep.Errno == 0:
		got = "holds"
	case rep != nil && rep.Errno == uint32(eDEADLK):
		got = "deadlock"
	case rep != nil:
		got = fmt.Sprint("errno ", rep.Errno)
	}
	if got != want {
		w.t.Fatalf("%s %s, must be: %s\n%s", tag, got, want, w.log.String())
	}
}

func (w *lockWorld) ticket(tag string) uint64 {
	a := w.asked[tag]
	return a.c.reply[a.tid].Lock.Ticket
}

// declare is what c says to a new rank. deaf: those of its waiters did not hear of their place.
func (w *lockWorld) declare(c *capClient, deaf ...string) *wire.Reconnect {
	m := c.claims(w.names)
	var tags []string
	for tag, a := range w.asked {
		if a.c == c {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	for _, tag := range tags {
		a := w.asked[tag]
		l := wire.ReconnectLock{Ino: a.ino, Lock: a.lock}
		if rep := a.c.reply[a.tid]; rep == nil {
			l.Waiting, l.Tid, l.WaitedUs = true, a.tid, uint64(w.now-a.at)/1000
			if !slices.Contains(deaf, tag) {
				l.Lock.Ticket = c.queued[a.tid]
			}
		} else if rep.Errno != 0 {
			continue
		} else {
			l.Lock.Ticket = rep.Lock.Ticket
		}
		m.Locks = append(m.Locks, l)
	}
	return m
}

// After a failover the queue is what it was, whoever of the clients speaks first: by ticket,
// those who had not heard of theirs last. Nothing is granted before all have spoken, though the
// lock is free as far as the rank knows, and what is granted later has a higher ticket.
func TestQueueOverFailoverIsByTicket(t *testing.T) {
	for _, first := range []int{0, 1, 2} {
		w := newLockWorld(t, 1, "c1", "c2", "c3")
		c := w.order
		w.lock("holder", c[2], 0, 99, wire.LockWrite, true)
		var order []string
		for i := range 12 { // c2 c1 c3 c2 …
			tag := fmt.Sprintf("w%02d", i)
			w.lock(tag, c[[]int{1, 0, 2}[i%3]], 0, uint64(i+1), wire.LockWrite, true)
			order = append(order, tag)
		}
		last := w.ticket("holder")
		w.pass(tellAfter)
		w.crash(6)
		deaf := order[3] // c2's: it goes to the end
		order = append(append(order[:3:3], order[4:]...), deaf)
		for i := range c {
			for _, tag := range order {
				w.is(tag, "waits")
			}
			x := c[(first+i)%3]
			x.send(0, w.declare(x, deaf))
		}
		w.is("holder", "holds")
		for i, tag := range order {
			w.is(tag, "waits")
			if i == 0 {
				w.unlock("holder")
			} else {
				w.unlock(order[i-1])
			}
			w.is(tag, "holds")
			if w.ticket(tag) <= last {
				t.Fatalf("%s: ticket %x after %x", tag, w.ticket(tag), last)
			}
			last = w.ticket(tag)
		}
	}
}

// Who has waited for so short a time that its place was not told comes behind those who know
// theirs, and in the order in which they asked, whoever speaks first and however long that takes.
func TestQueueOverFailoverOfThoseWhoJustCame(t *testing.T) {
	for _, first := range []int{0, 1, 2} {
		w := newLockWorld(t, 1, "c1", "c2", "c3")
		c := w.order
		w.lock("holder", c[2], 0, 99, wire.LockWrite, true)
		var order []string
		for i := range 12 {
			if i == 6 {
				w.pass(tellAfter)
			}
			tag := fmt.Sprintf("w%02d", i)
			w.lock(tag, c[[]int{1, 0, 2}[i%3]], 0, uint64(i+1), wire.LockWrite, true)
			order = append(order, tag)
			w.pass(3e6)
		}
		if n := len(c[0].queued) + len(c[1].queued) + len(c[2].queued); n != 6 {
			t.Fatalf("%d know their place", n)
		}
		w.crash(6)
		for i := range c {
			x := c[(first+i)%3]
			x.send(0, w.declare(x))
			w.pass(40e6)
		}
		for i, tag := range order {
			w.unlock(append([]string{"holder"}, order...)[i])
			w.is(tag, "holds")
		}
	}
}

// A lock that goes from hand to hand costs a request and an answer for each lock and unlock, and
// no message about places: nobody waits for long. Nor is anything left to be told when all is over.
func TestHandOverTellsNoPlaces(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2")
	sent := map[wire.Type]int{}
	w.spy.toClient = func(_ *capClient, _ wire.Tid, m wire.Message) { sent[m.WireType()]++ }
	const n = 200
	w.lock("0", w.order[0], 0, 1, wire.LockWrite, false)
	for i := range n {
		w.lock(fmt.Sprint(i+1), w.order[(i+1)%2], 0, 1, wire.LockWrite, false)
		w.pass(1e6)
		w.unlock(fmt.Sprint(i))
		w.is(fmt.Sprint(i+1), "holds")
	}
	if sent[wire.TReply] != 2*n+1 || sent[wire.TLockQueued] > 0 || len(w.r.untold) > 0 {
		t.Fatalf("sent %v, to be told %d", sent, len(w.r.untold))
	}
}

// A holder's change of its own lock while others wait does not give the next one a ticket
// below it: tickets are of grants, places of requests.
func TestTicketsRiseWhoeverQueuedFirst(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2")
	w.lock("a", w.order[0], 0, 1, wire.LockWrite, false)
	w.lock("b", w.order[1], 0, 1, wire.LockWrite, false)
	w.lock("again", w.order[0], 0, 1, wire.LockWrite, false)
	high := w.ticket("again")
	w.unlock("a")
	w.is("b", "holds")
	if w.ticket("b") <= high {
		t.Fatalf("%x after %x", w.ticket("b"), high)
	}
}

// A file whose create died with the rank has its lock again when the create was run again: the
// declaration waits for clientreplay.
func TestLockOnAFileThatIsMadeAgain(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2")
	c1, c2 := w.order[0], w.order[1]
	w.hold = true
	tid := c1.request(wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: "new", Mode: 0o644, Want: wW})
	w.runButJournal()
	ino := c1.reply[tid].Target.Ino
	w.inos, w.names[ino] = append(w.inos, ino), "new"
	w.lock("a", c1, 1, 1, wire.LockWrite, true)
	w.runButJournal()
	w.is("a", "holds")
	w.crash(6)
	c1.send(tid, &wire.Request{Tid: tid, Op: wire.OpCreate, Flags: wire.ReqReplay, GivenIno: ino, Ino: wire.RootIno, Name: "new", Mode: 0o644, Want: wW})
	c1.send(0, w.declare(c1))
	c2.send(0, w.declare(c2))
	c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "new"})
	w.lock("b", c2, 1, 1, wire.LockWrite, true)
	w.is("b", "waits")
	w.unlock("a")
	w.is("b", "holds")
}

// A silent client keeps its lock until it is fenced, which begins when it is stale and
// somebody has waited R: then the next one has it at once. A dead waiter in the middle of the
// queue is passed over, and one that is granted posthumously costs no new R.
func TestSilentHolderIsFencedForItsWaiters(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2", "c3", "c4")
	c := w.order
	w.pass(6e9)
	w.lock("dead", c[0], 0, 1, wire.LockWrite, true)
	w.lock("deadToo", c[1], 0, 1, wire.LockWrite, true)
	w.lock("next", c[2], 0, 1, wire.LockWrite, true)
	w.lock("last", c[3], 0, 1, wire.LockWrite, true)
	silent := w.now
	for _, x := range c[:2] {
		x.mute, x.deaf = true, true
	}
	w.noFence = true
	bound := slack(max(w.r.deadline(), w.r.validity()+w.r.kernel()))
	for len(w.blocks) == 0 && w.now < silent+bound {
		w.pass(1e9)
	}
	if len(w.blocks) == 0 {
		t.Fatalf("not fenced in %d s", bound/1e9)
	}
	w.pass(5e9)
	w.is("next", "waits") // the fence is not complete
	w.fence(c[0].inst)
	for len(w.blocks) < 2 && w.now < silent+2*bound {
		w.pass(1e9)
	}
	w.fence(c[1].inst)
	w.is("next", "holds")
	w.is("last", "waits")
	if w.now > silent+slack(w.r.validity()+w.r.kernel())+6e9 {
		t.Fatalf("after %d s", (w.now-silent)/1e9)
	}
	w.unlock("next")
	w.is("last", "holds")
}

// Who asks again and again without waiting waits too.
func TestSilentHolderIsFencedForWhoPolls(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2")
	w.lock("dead", w.order[0], 0, 1, wire.LockWrite, false)
	w.order[0].mute, w.order[0].deaf = true, true
	for n := 0; ; n++ {
		rep := w.order[1].call(wire.Request{Op: wire.OpSetlk, Ino: w.inos[0], Lock: wire.FileLock{Type: wire.LockRead, Owner: 1, End: 9}})
		if rep.Errno == 0 {
			break
		}
		if n > 40 {
			t.Fatalf("refused for %d s", n)
		}
		w.pass(1e9)
	}
	if len(w.blocks) != 1 {
		t.Fatal("granted without a fence")
	}
}

// A cancel that meets its grant on the way changes nothing: the owner had a read lock before,
// which is not to be lost, and the client knows from the grant that it has a write lock now.
func TestCancelThatCrossesAGrant(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2")
	c1, c2 := w.order[0], w.order[1]
	w.lock("read", c1, 0, 1, wire.LockRead, false)
	w.lock("other", c2, 0, 1, wire.LockRead, false)
	w.lock("up", c1, 0, 1, wire.LockWrite, false)
	w.is("up", "waits")
	w.unlock("other")
	w.is("up", "holds")
	c1.send(0, &wire.LockCancel{Tid: w.asked["up"].tid, Ino: w.inos[0], Lock: w.asked["up"].lock})
	w.lock("other", c2, 0, 1, wire.LockRead, false)
	w.is("other", "waits")
	// Before the grant it ends the wait, and only that.
	c2.send(0, &wire.LockCancel{Tid: w.asked["other"].tid, Ino: w.inos[0], Lock: w.asked["other"].lock})
	w.is("other", fmt.Sprint("errno ", eINTR))
	w.is("up", "holds")
	w.unlock("up")
	if l := w.r.inodes[w.inos[0]].file.locks; l != nil {
		t.Fatalf("held %v, waiting %v", l.Held(false), l.Waiting(false))
	}
}

// A circle of any length over as many files and clients is EDEADLK for who closes it; who only
// queues behind it, or waits with flock, is not told so.
func TestDeadlockOverClientsAndFiles(t *testing.T) {
	for n := 2; n <= 5; n++ {
		names := []string{"c1", "c2", "c3", "c4", "c5"}[:max(2, n-1)] // the last two share one
		w := newLockWorld(t, n, names...)
		who := func(i int) *capClient { return w.order[i%len(w.order)] }
		tag := func(s string, i int) string { return fmt.Sprint(s, i) }
		for i := range n {
			w.lock(tag("has", i), who(i), i, uint64(i+1), wire.LockWrite, false)
		}
		for i := range n - 1 {
			w.lock(tag("wants", i), who(i), i+1, uint64(i+1), wire.LockRead, false)
			w.is(tag("wants", i), "waits")
		}
		w.lock("outside", who(0), 0, 77, wire.LockWrite, false)
		w.is("outside", "waits")
		w.lock("closes", who(n-1), 0, uint64(n), wire.LockWrite, false)
		w.is("closes", "deadlock")
		w.unlock(tag("has", n-1)) // its owner gives way
		w.is(tag("wants", n-2), "holds")
		w.lock("closes", who(n-1), 0, uint64(n), wire.LockWrite, false)
		w.is("closes", "waits") // no circle any more
	}
}

// The limit of one client counts what it holds and what it waits for; others are not touched.
func TestFileLocksOfOneClientAreBounded(t *testing.T) {
	w := newLockWorld(t, 1, "c1", "c2")
	c1, c2 := w.order[0], w.order[1]
	w.r.flocks = filelock.NewGraph(5, 3, 0)
	take := func(c *capClient, ty wire.LockType, from, to uint64) uint32 {
		return c.call(wire.Request{Op: wire.OpSetlk, Ino: w.inos[0], Lock: wire.FileLock{Type: ty, Owner: 1, Start: from, End: to}}).Errno
	}
	for i := range uint64(3) {
		if e := take(c1, wire.LockWrite, 10*i, 10*i+5); e != 0 {
			t.Fatal(e)
		}
	}
	for _, x := range []struct {
		c        *capClient
		ty       wire.LockType
		from, to uint64
		want     errno
	}{
		{c1, wire.LockWrite, 100, 105, eNOLCK},
		{c1, wire.LockUnlock, 2, 3, eNOLCK}, // would leave one more
		{c2, wire.LockWrite, 100, 105, ok},
		{c1, wire.LockUnlock, 0, 5, ok},
		{c1, wire.LockWrite, 200, 205, ok},
		{c1, wire.LockUnlock, 0, EOFLock, ok},
	} {
		if e := take(x.c, x.ty, x.from, x.to); e != uint32(x.want) {
			t.Fatalf("%s %d %d-%d: errno %d, must be %d", x.c.name, x.ty, x.from, x.to, e, x.want)
		}
	}
}
