package lockcert

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kind is one of the three lock interfaces.
type kind struct{ name string }

var kinds = []kind{{"flock"}, {"posix"}, {"ofd"}}

func (k kind) on(h int, typ string, off, n int64) Step {
	return Step{Op: "lock", H: h, Lock: &Lock{Kind: k.name, Type: typ, Off: off, Len: n}}
}
func (k kind) shared() Step    { return k.on(0, "R", 0, 0) }
func (k kind) exclusive() Step { return k.on(0, "W", 0, 0) }
func (k kind) unlock() Step    { return k.on(0, "U", 0, 0) }

// wait is the blocking form of a lock step.
func wait(s Step) Step {
	l := *s.Lock
	l.Wait = true
	s.Lock = &l
	return s
}

const busy = syscall.EAGAIN

func (k kind) exclusion(t *T) {
	w := t.file("f", 4)
	a, b, c, d := w[0], w[1], w[2], w[3]
	a.ok(k.exclusive())
	b.fails(busy, k.exclusive())
	b.fails(busy, k.shared())
	c.fails(busy, k.shared())
	a.ok(k.unlock())
	b.ok(k.shared())
	c.ok(k.shared())
	d.ok(k.shared())
	a.fails(busy, k.exclusive())
	b.ok(k.unlock())
	c.ok(k.unlock())
	a.fails(busy, k.exclusive())
	d.ok(k.unlock())
	a.ok(k.exclusive())
	d.fails(busy, k.shared())
	a.ok(k.unlock())
	d.ok(k.exclusive())
}

func (k kind) convert(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.exclusive())
	p := b.waits(wait(k.shared()))
	down := a.ok(k.shared()) // a keeps a shared lock
	p.granted(down)
	c.fails(busy, k.exclusive())
	up := a.waits(wait(k.exclusive())) // b reads
	free := b.ok(k.unlock())
	up.granted(free)
	c.fails(busy, k.shared())
	a.ok(k.unlock())
	c.ok(k.exclusive())
}

func (k kind) blocking(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.exclusive())
	p := b.waits(wait(k.exclusive()))
	p.granted(a.ok(k.unlock()))
	c.fails(busy, k.shared())
	p = c.waits(wait(k.shared()))
	p.granted(b.ok(k.unlock()))
	p = a.waits(wait(k.exclusive()))
	p.granted(c.ok(k.unlock()))
	a.ok(wait(k.shared())) // nobody in the way: no wait
}

func (k kind) wakeAll(t *T) {
	w := t.file("f", 4)
	w[0].ok(k.exclusive())
	var ps []*pending
	for _, r := range w[1:] {
		ps = append(ps, r.waits(wait(k.shared())))
	}
	u := w[0].ok(k.unlock())
	for _, p := range ps {
		p.granted(u)
	}
}

// fifo rests on what nobody can see from here: that one waiter stands in the queue before the next one
// asks. On a busy machine the time that each is given may not do. So a wrong order counts when it comes
// again, and again, each waiter being given eight times as long; a queue that is not fair has no reason to
// be so then.
func (k kind) fifo(t *T) {
	w := t.file("f", 5)
	usual := t.grace
	defer func() { t.grace = usual }()
	for range fifoTries - 1 {
		if k.inTurn(t, w, false) {
			return
		}
		t.trace, t.grace = nil, 8*t.grace
	}
	k.inTurn(t, w, true)
}

const fifoTries = 3

// inTurn queues all but the first worker and reports whether they are granted the lock as they came. If
// it is the last word, the first one out of turn fails the check, else everybody gets and leaves the lock.
func (k kind) inTurn(t *T, w []*W, last bool) bool {
	w[0].ok(k.exclusive())
	var ps []*pending
	for _, x := range w[1:] {
		ps = append(ps, x.waits(wait(k.exclusive())))
	}
	cause, fair := w[0].ok(k.unlock()), true
	for len(ps) > 0 {
		got := t.oneOf(ps)
		p := ps[got]
		if got != 0 && last {
			p.forget().mark = "out of turn"
			t.failf("%s came %d after %s and was granted first", p.w, got, ps[0].w)
		}
		fair = fair && got == 0
		p.granted(cause)
		cause = p.w.ok(k.unlock())
		ps = slices.Delete(ps, got, got+1)
	}
	return fair
}

// interrupt: the holder h, the one that is interrupted, and one that must not be disturbed.
func (k kind) interrupt(t *T) {
	w := t.file("f", 4)
	h, x, y, z := w[0], w[1], w[2], w[3]
	h.ok(k.exclusive())
	p := x.waits(wait(k.exclusive()))
	q := y.waits(wait(k.exclusive()))
	p.signal(unix.SIGUSR1) // SA_RESTART: goes on
	p.stillWaits()
	p.interrupted()
	q.stillWaits()
	q.granted(h.ok(k.unlock()))
	y.ok(k.unlock())
	z.ok(k.exclusive()) // x is neither holder nor waiter
	z.ok(k.unlock())
	// A restarted wait is a wait: it ends with the lock.
	h.ok(k.exclusive())
	p = x.waits(wait(k.exclusive()))
	p.signal(unix.SIGUSR1)
	p.stillWaits()
	p.granted(h.ok(k.unlock()))
	z.fails(busy, k.shared())
}

// failover: one holder, three in the queue behind it, and a reader of another file.
func (k kind) failover(t *T) {
	if t.disturbBy == "" {
		t.skipf("it needs --disturb CMD, a command that restarts what serves the file system")
	}
	w := t.file("f", 6)
	h, z := w[0], w[5]
	z.ok(create("g", ""))
	for _, x := range []*W{h, z} {
		x.ok(rdwr(1, "g"))
	}
	h.ok(k.on(1, "R", 0, 0))
	h.ok(k.exclusive())
	var ps []*pending
	for _, x := range w[1:5] {
		ps = append(ps, x.waits(wait(k.exclusive())))
	}
	t.disturb()
	z.fails(busy, k.shared())
	z.fails(busy, k.on(1, "W", 0, 0))
	z.ok(k.on(1, "R", 0, 0))
	h.ok(k.on(1, "R", 0, 0))
	t.recovered()
	for _, p := range ps {
		p.stillWaits()
	}
	cause := h.ok(k.unlock())
	for i, p := range ps {
		if got := t.oneOf(ps[i:]); got != 0 {
			ps[i+got].forget().mark = "out of turn"
			t.failf("%s came %d after %s and was granted first", ps[i+got].w, got, p.w)
		}
		p.granted(cause)
		cause = p.w.ok(k.unlock())
	}
	z.ok(k.exclusive())
}

func (k kind) killWaiter(t *T) {
	w := t.file("f", 4)
	h, x, y, z := w[0], w[1], w[2], w[3]
	h.ok(k.exclusive())
	x.waits(wait(k.exclusive()))
	q := y.waits(wait(k.exclusive()))
	x.kill()
	q.stillWaits()
	q.granted(h.ok(k.unlock()))
	y.ok(k.unlock())
	t.soon("nobody is left that could hold the lock", z, k.exclusive())
}

func (k kind) killHolder(t *T) {
	w := t.file("f", 4)
	x, y, z, u := w[0], w[1], w[2], w[3]
	x.ok(k.exclusive())
	p := y.waits(wait(k.exclusive()))
	p.granted(x.kill())
	q := z.waits(wait(k.exclusive()))
	q.granted(y.exit())
	z.kill() // nobody waits
	t.soon("its holder was killed", u, k.exclusive())
}

// soon expects a lock within patience, where a process's end may take its time to arrive.
func (t *T) soon(why string, w *W, s Step) {
	p := &pending{w, w.w.send(request{Dir: t.dirs[w.w.mount], Steps: []Step{wait(s)}}, w.id)}
	t.began = append(t.began, p.c)
	select {
	case <-p.c.done:
	case <-time.After(t.patience):
		t.failf("%s: %s is not granted for %v, though %s", w, s, t.patience, why)
	}
	p.returns(0)
}

func (k kind) closes(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.exclusive())
	if k.name == "posix" {
		// The rule nobody likes: any close of the file drops all of the process's locks.
		a.ok(openAs(1, "f", unix.O_RDONLY))
		b.fails(busy, k.exclusive())
		p := b.waits(wait(k.exclusive()))
		p.granted(a.ok(closes(1)))
	} else {
		a.ok(openAs(1, "f", unix.O_RDONLY))
		a.ok(closes(1))
		b.fails(busy, k.exclusive())
		a.ok(Step{Op: "dup", To: 2})
		a.ok(closes(0))
		b.fails(busy, k.exclusive()) // the duplicate is the same open file
		p := b.waits(wait(k.exclusive()))
		p.granted(a.ok(closes(2)))
	}
	// The last close, with a waiter behind it.
	p := c.waits(wait(k.exclusive()))
	p.granted(b.ok(closes(0)))
	c.ok(closes(0))
	a.ok(rdwr(3, "f"))
	a.ok(k.on(3, "W", 0, 0))
}

func (k kind) unlinked(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.exclusive())
	b.ok(rename("f", "g"))
	b.fails(busy, k.exclusive())
	c.ok(rdwr(1, "g"))
	c.fails(busy, k.on(1, "R", 0, 0))
	c.ok(unlink("g"))
	b.fails(busy, k.exclusive())
	c.ok(create("g", "")) // another file
	c.ok(rdwr(2, "g"))
	c.ok(k.on(2, "W", 0, 0))
	p := b.waits(wait(k.exclusive()))
	p.granted(a.ok(k.unlock()))
}

func flockFork(t *T) {
	k := kinds[0]
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(k.exclusive())
	a.ok(Step{Op: "lend", To: 1})
	a.ok(closes(0))
	b.fails(busy, k.shared()) // the child has it
	p := b.waits(wait(k.exclusive()))
	reap := a.do(Step{Op: "reap", To: 1})
	p.granted(reap)
	b.ok(k.unlock())
	// An explicit unlock by one of them is enough.
	a.ok(rdwr(0, "f"))
	a.ok(k.exclusive())
	a.ok(Step{Op: "lend", To: 2})
	a.ok(k.unlock())
	b.ok(k.exclusive())
	a.do(Step{Op: "reap", To: 2})
}

func posixOwn(t *T) {
	k := kinds[1]
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(rdwr(1, "f"))
	a.ok(k.exclusive())
	a.ok(k.on(1, "W", 0, 0))
	a.ok(k.on(1, "R", 10, 10))
	b.ok(k.on(0, "R", 10, 10))
	b.fails(busy, k.on(0, "R", 9, 1))
	b.fails(busy, k.on(0, "W", 10, 10))
	a.ok(k.on(1, "U", 0, 0)) // through the other handle
	b.ok(k.exclusive())
}

func ofdOwn(t *T) {
	o, p := kinds[2], kinds[1]
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(rdwr(1, "f"))
	a.ok(o.exclusive())
	a.fails(busy, o.on(1, "W", 0, 0))
	a.fails(busy, p.on(1, "R", 0, 0)) // the process itself is another owner than its open files
	b.fails(busy, p.shared())
	b.fails(busy, o.shared())
	a.ok(o.unlock())
	a.ok(p.on(0, "W", 5, 1))
	a.fails(busy, o.on(1, "W", 5, 1))
	b.fails(busy, o.on(0, "W", 0, 0))
	a.ok(p.on(0, "U", 0, 0))
	b.ok(o.exclusive())
}

func posixMode(t *T) {
	t.file("f", 2)
	for i := range 2 {
		w := t.W(i)
		for _, k := range kinds[1:] {
			w.ok(openAs(1, "f", unix.O_RDONLY))
			w.ok(openAs(2, "f", unix.O_WRONLY))
			w.fails(syscall.EBADF, k.on(1, "W", 0, 0))
			w.ok(k.on(1, "R", 0, 0))
			w.ok(k.on(1, "U", 0, 0))
			w.fails(syscall.EBADF, k.on(2, "R", 0, 0))
			w.ok(k.on(2, "W", 0, 0))
			w.ok(k.on(2, "U", 0, 0))
			w.ok(closes(1))
			w.ok(closes(2))
		}
	}
}

func (k kind) ranges(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.on(0, "W", 0, 100))
	b.ok(k.on(0, "W", 100, 50)) // touches, does not overlap
	b.fails(busy, k.on(0, "R", 99, 1))
	c.fails(busy, k.on(0, "R", 149, 10))
	c.ok(k.on(0, "W", 150, 0)) // to the end, wherever that will be
	a.fails(busy, k.on(0, "R", 1<<40, 1))
	a.ok(k.on(0, "U", 40, 20)) // splits
	b.ok(k.on(0, "W", 40, 20))
	b.fails(busy, k.on(0, "W", 39, 1))
	b.fails(busy, k.on(0, "W", 60, 1))
	b.ok(k.on(0, "U", 40, 20))
	a.ok(k.on(0, "W", 30, 50)) // merges again
	b.fails(busy, k.on(0, "R", 50, 1))
	a.ok(k.on(0, "R", 10, 80)) // the middle becomes shared
	b.ok(k.on(0, "R", 10, 80))
	b.fails(busy, k.on(0, "R", 9, 1))
	b.fails(busy, k.on(0, "R", 90, 1))
	a.fails(busy, k.on(0, "W", 50, 1))
	b.ok(k.on(0, "U", 10, 80))
	a.ok(k.on(0, "W", 50, 1))
	p := c.waits(wait(k.on(0, "R", 50, 1)))
	a.ok(k.on(0, "U", 51, 49)) // beside it
	p.stillWaits()
	p.granted(a.ok(k.on(0, "U", 50, 1)))
	a.ok(k.on(0, "U", 0, 0))
	b.ok(k.on(0, "U", 0, 0))
	c.ok(k.on(0, "U", 0, 0))
	b.ok(k.on(0, "W", 0, 0))
}

func (k kind) upgradeKept(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.shared())
	b.ok(k.shared())
	a.fails(busy, k.exclusive())
	b.ok(k.unlock())
	c.fails(busy, k.exclusive()) // a still reads
	a.ok(k.exclusive())
	c.fails(busy, k.shared())
}

func posixWhence(t *T) {
	k := kinds[1]
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(pwrite(0, 0, string(make([]byte, 1000))))
	end := func(off, n int64) Step {
		s := k.on(0, "W", off, n)
		s.Lock.Whence = unix.SEEK_END
		return s
	}
	b.ok(fstat(0))     // the kernel takes the size it knows, and asks nobody
	b.ok(end(-10, 10)) // [990,1000), by the size a made
	a.fails(busy, k.on(0, "W", 999, 1))
	a.ok(k.on(0, "W", 980, 10))
	a.ok(k.on(0, "W", 1000, 1))
	b.ok(k.on(0, "U", 0, 0))
	b.fails(busy, k.on(0, "W", 985, -5)) // before the position given: [980,985)
	b.ok(k.on(0, "W", 980, -5))
	a.fails(busy, k.on(0, "R", 975, 1))
}

func posixGetlk(t *T) {
	k := kinds[1]
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	get := func(w *W, typ string, off, n int64) *Event {
		return w.ok(Step{Op: "getlk", Lock: &Lock{Kind: k.name, Type: typ, Off: off, Len: n}})
	}
	none := func(w *W, typ string, off, n int64) {
		e := get(w, typ, off, n)
		w.must(e, e.Got.Type == "U", "no conflict")
	}
	is := func(w *W, typ string, off, n int64, by *W, gotType string, gotOff, gotLen int64) {
		e := get(w, typ, off, n)
		want := fmt.Sprintf("%s [%d,+%d) of pid %d", gotType, gotOff, gotLen, by.pid())
		w.must(e, e.Got.Type == gotType && e.Got.Off == gotOff && e.Got.Len == gotLen && e.Got.PID == by.pid(), "%s", want)
	}
	none(b, "W", 0, 0)
	a.ok(k.on(0, "W", 100, 50))
	none(a, "W", 0, 0) // its own
	is(b, "W", 0, 0, a, "W", 100, 50)
	is(c, "R", 120, 1, a, "W", 100, 50)
	none(b, "W", 0, 100)
	none(b, "W", 150, 0)
	a.ok(k.on(0, "R", 100, 50))
	none(b, "R", 0, 0)
	is(b, "W", 149, 1, a, "R", 100, 50)
	a.ok(k.on(0, "U", 110, 30))
	is(b, "W", 120, 0, a, "R", 140, 10)
	a.ok(k.on(0, "W", 200, 0))
	is(c, "R", 1<<33, 1, a, "W", 200, 0)
	a.ok(k.on(0, "U", 0, 0))
	none(c, "W", 0, 0)
}

// getlkExclusive asks who is in the way of an exclusive lock of the whole file.
func getlkExclusive(w *W, kind string) *Event {
	return w.ok(Step{Op: "getlk", Lock: &Lock{Kind: kind, Type: "W"}})
}

func ofdGetlk(t *T) {
	o, k := kinds[2], kinds[1]
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(o.on(0, "W", 10, 10))
	e := getlkExclusive(b, "ofd")
	b.must(e, e.Got.Type == "W" && e.Got.Off == 10 && e.Got.Len == 10, "an exclusive lock [10,20)")
	b.must(e, e.Got.PID == -1, "of pid -1, as Linux reports OFD locks")
	e = getlkExclusive(b, "posix")
	b.must(e, e.Got.Type == "W" && e.Got.Off == 10 && e.Got.Len == 10, "an exclusive lock [10,20)")
	a.ok(o.unlock())
	a.ok(k.on(0, "R", 30, 5))
	e = getlkExclusive(b, "ofd")
	b.must(e, e.Got.Type == "R" && e.Got.Off == 30 && e.Got.Len == 5, "a shared lock [30,35)")
	a.ok(k.on(0, "U", 0, 0))
	e = getlkExclusive(b, "ofd")
	b.must(e, e.Got.Type == "U", "no conflict")
}

// ofdGetlkPid: over FUSE the kernel says neither to the file system whether it is asked for
// an OFD lock, nor to the asker whether it was one: it goes by the kind of the question.
func ofdGetlkPid(t *T) {
	o, k := kinds[2], kinds[1]
	w := t.file("f", 2)
	a, b := w[0], w[1]
	a.ok(o.exclusive())
	e := getlkExclusive(b, "posix")
	b.must(e, e.Got.PID == -1, "of pid -1: the holder is an open file")
	a.ok(o.unlock())
	a.ok(k.exclusive())
	e = getlkExclusive(b, "ofd")
	b.must(e, e.Got.PID == a.pid(), "of pid %d: the holder is a process", a.pid())
}

func posixDeadlock(t *T) {
	k := kinds[1]
	w := t.file("f0", 3)
	for i := 1; i < 3; i++ {
		name := fmt.Sprintf("f%d", i)
		w[0].ok(create(name, ""))
		for _, x := range w {
			x.ok(rdwr(i, name))
		}
	}
	lock := func(h int) Step { return k.on(h, "W", 0, 10) }
	// Two processes, two files.
	w[0].ok(lock(0))
	w[1].ok(lock(1))
	p := w[0].waits(wait(lock(1)))
	w[2].ok(lock(2)) // not in it
	w[1].fails(syscall.EDEADLK, wait(lock(0)))
	p.stillWaits()
	p.granted(w[1].ok(k.on(1, "U", 0, 0)))
	w[0].ok(k.on(1, "U", 0, 0))
	// Three of each.
	w[1].ok(lock(1))
	p0 := w[0].waits(wait(lock(1)))
	p1 := w[1].waits(wait(lock(2)))
	w[2].fails(syscall.EDEADLK, wait(lock(0)))
	p0.stillWaits()
	p1.granted(w[2].ok(k.on(2, "U", 0, 0)))
	p0.stillWaits()
	p0.granted(w[1].ok(k.on(1, "U", 0, 0)))
	// Two ranges of one file.
	for h := range 3 {
		for _, x := range w {
			x.ok(k.on(h, "U", 0, 0))
		}
	}
	w[0].ok(k.on(0, "W", 0, 1))
	w[1].ok(k.on(0, "W", 1, 1))
	p = w[1].waits(wait(k.on(0, "W", 0, 1)))
	w[0].fails(syscall.EDEADLK, wait(k.on(0, "W", 1, 1)))
	p.granted(w[0].ok(k.on(0, "U", 0, 0)))
}

func independent(t *T) {
	f, p := kinds[0], kinds[1]
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(f.exclusive())
	b.ok(p.exclusive())
	a.fails(busy, p.shared())
	b.fails(busy, f.shared())
	c.fails(busy, f.shared())
	c.fails(busy, p.shared())
	a.ok(f.unlock())
	c.ok(f.exclusive())
	b.ok(p.unlock())
	a.ok(p.exclusive())
}

// barging is not forbidden, but starves writers.
func (k kind) barging(t *T) {
	w := t.file("f", 3)
	a, b, c := w[0], w[1], w[2]
	a.ok(k.shared())
	p := b.waits(wait(k.exclusive()))
	q := c.waits(wait(k.shared()))
	u := a.ok(k.unlock())
	p.granted(u)
	q.stillWaits()
	q.granted(b.ok(k.unlock()))
}
