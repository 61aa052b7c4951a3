package filelock

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// crowd is n owners of four clients who queue for one lock.
type crowd struct {
	g    *Graph
	t    *Table
	lock func(i int) wire.FileLock
	n    int
}

// crowds are the ways in which many wait. Each owner has a lock of its own elsewhere, so that the
// search for deadlocks has something to look at.
var crowds = []struct {
	name string
	lock func(i int) wire.FileLock
}{
	{"flock", func(i int) wire.FileLock { return fl(uint64(i), wr, true) }},
	{"fcntl", func(i int) wire.FileLock { return lk(uint64(i), wr, 0, 9, true) }},
	{"readers-and-writers", func(i int) wire.FileLock { return fl(uint64(i), []wire.LockType{rd, wr}[i/2%2], true) }},
}

func client(i int) uint64 { return uint64(i%4 + 1) }

// queue has one who holds the lock and lets n others queue for it.
func queue(tb testing.TB, n int, lock func(i int) wire.FileLock) *crowd {
	g := NewGraph(1, 0, 0)
	c := &crowd{g: g, t: g.NewTable(), lock: lock, n: n}
	first := lock(0)
	first.Type = wr
	c.t.Lock(first, client(0), 0)
	for i := 1; i <= n; i++ {
		own := g.NewTable()
		own.Lock(lk(uint64(i), wr, 0, 0, false), client(i), 0)
		if out, _, _ := c.t.Lock(lock(i), client(i), uint64(i)); out != Queued {
			tb.Fatalf("waiter %d: %v", i, out)
		}
	}
	return c
}

// serve hands the lock on until all have had it, and checks the order.
func (c *crowd) serve(tb testing.TB) {
	holds, next := []int{0}, 1
	for len(holds) > 0 {
		l := c.lock(holds[0])
		l.Type = wire.LockUnlock
		woken, _ := c.t.Unlock(l, client(holds[0]))
		holds = holds[1:]
		for _, w := range woken {
			if int(w.Req) != next {
				tb.Fatalf("waiter %d is served, %d is next", w.Req, next)
			}
			holds, next = append(holds, next), next+1
		}
	}
	if next != c.n+1 {
		tb.Fatalf("%d of %d were served", next-1, c.n)
	}
}

// What a waiter costs does not depend on how many there are: counted are the comparisons of ranges
// from queueing to the hand-over, and those when a client with a quarter of the queue goes.
func TestAWaiterCostsTheSameInALongQueue(t *testing.T) {
	for _, w := range crowds {
		each := func(n int) (served, cancelled float64) {
			c := queue(t, n, w.lock)
			c.serve(t)
			served = float64(c.g.looked) / float64(n)
			c = queue(t, n, w.lock)
			before := c.g.looked
			for i := n; i > 0; i -= 3 { // from the end and from the middle, as signals come
				if _, ok, _ := c.t.Cancel(client(i), uint64(i), c.t.spaces[b2i(w.lock(1).Flock)].wait[placeOf(c, i)].Ticket); !ok {
					t.Fatalf("%s: waiter %d is not there", w.name, i)
				}
			}
			return served, float64(c.g.looked-before) / float64(n)
		}
		few, fewC := each(100)
		many, manyC := each(10_000)
		t.Logf("%s: %.1f comparisons each of 100, %.1f of 10 000; cancelled %.1f and %.1f", w.name, few, many, fewC, manyC)
		if many > few+2 || manyC > fewC+2 {
			t.Errorf("%s: a waiter of 10 000 costs %.1f comparisons and %.1f when it is cancelled, one of 100 %.1f and %.1f", w.name, many, manyC, few, fewC)
		}
	}
}

// Nor does the unlock of one of many readers look at all the writers who wait for the last of them.
func TestAReadersUnlockDoesNotWalkTheQueue(t *testing.T) {
	each := func(n int) float64 {
		g := NewGraph(1, 0, 0)
		f := g.NewTable()
		for i := range n {
			f.Lock(fl(uint64(i), rd, true), client(i), 0)
		}
		for i := range n {
			f.Lock(fl(uint64(n+i), wr, true), client(i), uint64(n+i))
		}
		before := g.looked
		for i := range n {
			f.Unlock(fl(uint64(i), 0, false), client(i))
		}
		if h := f.Held(true); len(h) != 1 || h[0].Type != wr {
			t.Fatalf("held: %v", h)
		}
		return float64(g.looked-before) / float64(n)
	}
	if few, many := each(50), each(2000); many > few+2 {
		t.Errorf("an unlock costs %.1f comparisons with 2000 in the queue, %.1f with 50", many, few)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// placeOf is where the waiter i is in the queue.
func placeOf(c *crowd, i int) int {
	wait := c.t.spaces[b2i(c.lock(1).Flock)].wait
	for at := min(i, len(wait)) - 1; ; at-- {
		if int(wait[at].Req) == i {
			return at
		}
	}
}

// Time per waiter, from queueing to its unlock, with 100, 1000 and 10 000 of them.
func BenchmarkQueue(b *testing.B) {
	for _, w := range crowds {
		for _, n := range []int{100, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", w.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; i < b.N; i += n {
					queue(b, n, w.lock).serve(b)
				}
			})
		}
	}
}
