package filelock

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
	"pgregory.net/rapid"
)

const (
	rd = wire.LockRead
	wr = wire.LockWrite
)

func lk(owner uint64, ty wire.LockType, start, end uint64, wait bool) wire.FileLock {
	return wire.FileLock{Type: ty, Owner: owner, Start: start, End: end, Wait: wait}
}

func fl(owner uint64, ty wire.LockType, wait bool) wire.FileLock {
	return wire.FileLock{Type: ty, Flock: true, Owner: owner, Wait: wait}
}

// story drives one or more tables and writes down what happens.
type story struct {
	*testing.T
	g   *Graph
	req uint64
}

func (s *story) lock(t *Table, client uint64, l wire.FileLock, want string) {
	s.Helper()
	s.req++
	out, _, woken := t.Lock(l, client, s.req)
	s.is(t, out.String()+names(woken), want)
}

func (s *story) is(t *Table, got, want string) {
	s.Helper()
	if got != want {
		s.Fatalf("%s, want %s", got, want)
	}
	if err := t.Check(); err != nil {
		s.Fatal(err)
	}
}

func names(ws []Waiter) string {
	var b strings.Builder
	for _, w := range ws {
		fmt.Fprintf(&b, " +r%d", w.Req)
	}
	return b.String()
}

func unlocked(woken []Waiter, full bool) []Waiter {
	if full {
		panic("ENOLCK")
	}
	return woken
}

func newStory(t *testing.T) (*story, *Table) {
	g := NewGraph(1, 0, 0)
	return &story{T: t, g: g}, g.NewTable()
}

func TestWaitersAreServedInTicketOrder(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, wr, 0, 9, true), "granted")
	s.lock(f, 2, lk(1, rd, 0, 9, true), "queued")
	s.lock(f, 3, lk(1, wr, 0, 9, true), "queued")
	s.lock(f, 4, lk(1, rd, 0, 9, true), "queued")    // compatible with 2, but behind 3
	s.lock(f, 5, lk(1, rd, 20, 29, true), "granted") // in nobody's way
	s.is(f, names(unlocked(f.Unlock(lk(1, 0, 0, 9, false), 1))), " +r2")
	s.is(f, names(unlocked(f.Unlock(lk(1, 0, 0, 9, false), 2))), " +r3")
	s.is(f, names(unlocked(f.Unlock(lk(1, 0, 0, EOF, false), 3))), " +r4")
}

func TestARequestDoesNotOvertakeAWaiter(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, rd, 0, 9, true), "granted")
	s.lock(f, 2, lk(1, wr, 0, 9, true), "queued")
	s.lock(f, 3, lk(1, rd, 0, 9, false), "conflict")
	s.lock(f, 1, lk(1, rd, 3, 4, false), "granted") // changes only what it holds
	s.lock(f, 1, lk(1, wr, 3, 4, false), "granted") // upgrade in place past the waiter
}

func TestCancelLetsThoseBehindGo(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, rd, 0, 9, true), "granted")
	s.lock(f, 2, lk(1, wr, 0, 9, true), "queued")
	s.lock(f, 3, lk(1, rd, 0, 9, true), "queued")
	w, ok, woken := f.Cancel(2, 2, ticketOf(f, 2))
	s.is(f, fmt.Sprint(w.Req, ok)+names(woken), "2 true +r3")
	_, ok, _ = f.Cancel(3, 3, 0)
	s.is(f, fmt.Sprint(ok), "false") // crossed: it was granted
}

func TestDowngradeWakesReaders(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, wr, 0, 99, true), "granted")
	s.lock(f, 2, lk(1, rd, 0, 9, true), "queued")
	s.lock(f, 1, lk(1, rd, 0, 99, true), "granted +r2")
}

func TestRangesSplitAndMeltByOwner(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, wr, 0, 99, false), "granted")
	f.Unlock(lk(1, 0, 40, 59, false), 1)
	s.is(f, fmt.Sprint(f.Held(false)), "[c1/1 write 0-39 c1/1 write 60-99]")
	s.lock(f, 1, lk(1, rd, 30, 69, false), "granted")
	s.is(f, fmt.Sprint(f.Held(false)), "[c1/1 write 0-29 c1/1 read 30-69 c1/1 write 70-99]")
	s.lock(f, 1, lk(1, wr, 30, 69, false), "granted")
	s.is(f, fmt.Sprint(f.Held(false)), "[c1/1 write 0-99]")
	h, ok := f.Test(lk(2, rd, 50, 50, false), 1)
	s.is(f, fmt.Sprint(h, ok), "c1/1 write 0-99 true") // another owner of the same client
	_, ok = f.Test(lk(1, rd, 50, 50, false), 1)
	s.is(f, fmt.Sprint(ok), "false")
}

func TestFlockIsItsOwnNameSpace(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, wr, 0, EOF, false), "granted")
	s.lock(f, 2, fl(7, wr, false), "granted")
	s.lock(f, 3, fl(8, rd, false), "conflict")
	s.lock(f, 2, fl(7, rd, false), "granted")
	s.lock(f, 3, fl(8, rd, false), "granted")
	// Both want to write: the first gives its lock up and waits, the second is alone then.
	s.lock(f, 2, fl(7, wr, true), "queued")
	s.lock(f, 3, fl(8, wr, true), "granted")
	s.is(f, names(unlocked(f.Unlock(fl(8, 0, false), 3))), " +r6")
}

func TestCloseDropsOneOwner(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, wr, 0, 9, true), "granted")
	s.lock(f, 1, lk(2, wr, 0, 9, true), "queued")
	s.lock(f, 2, lk(1, wr, 20, 29, true), "granted")
	s.lock(f, 1, lk(1, wr, 20, 29, true), "queued")
	woken, dropped := f.UnlockOwner(Owner{1, 1}, false)
	s.is(f, "woken"+names(woken)+" dropped"+names(dropped), "woken +r2 dropped +r4")
}

func TestSessionGoneWakesOthers(t *testing.T) {
	s, f := newStory(t)
	s.lock(f, 1, lk(1, wr, 0, 9, true), "granted")
	s.lock(f, 1, fl(3, wr, true), "granted")
	s.lock(f, 2, lk(1, wr, 0, 9, true), "queued")
	s.lock(f, 3, fl(1, rd, true), "queued")
	woken, dropped := f.DropClient(1)
	s.is(f, "woken"+names(woken)+" dropped"+names(dropped), "woken +r3 +r4 dropped")
	if f.Holds(1) || !f.Holds(2) || f.Empty() {
		t.Fatal("holds")
	}
}

func TestDeadlockOverSeveralFiles(t *testing.T) {
	s, a := newStory(t)
	b, c := s.g.NewTable(), s.g.NewTable()
	s.lock(a, 1, lk(1, wr, 0, 0, true), "granted")
	s.lock(b, 2, lk(1, wr, 0, 0, true), "granted")
	s.lock(c, 3, lk(1, wr, 0, 0, true), "granted")
	s.lock(b, 1, lk(1, wr, 0, 0, true), "queued")
	s.lock(c, 2, lk(1, rd, 0, 0, true), "queued")
	s.lock(a, 3, lk(2, wr, 0, 0, true), "queued") // another owner of client 3: no circle
	s.lock(a, 3, lk(1, wr, 0, 0, true), "deadlock")
	s.lock(a, 3, lk(1, wr, 0, 0, false), "conflict")
	s.is(b, names(unlocked(b.Unlock(lk(1, 0, 0, 0, false), 2))), " +r4")
	s.lock(a, 3, lk(1, wr, 0, 0, true), "queued") // 1 runs now, and 3/2 waits for it alone
}

func TestRedeclareRebuildsTheQueueByTicket(t *testing.T) {
	s, f := newStory(t)
	s.g.Freeze()
	dec := func(l wire.FileLock, ticket uint64) wire.FileLock { l.Ticket = ticket; return l }
	if err := f.RedeclareWaiter(dec(lk(1, wr, 0, 9, true), 12), 3, 31); err != nil {
		t.Fatal(err)
	}
	if err := f.Redeclare(dec(lk(1, wr, 0, 9, false), 5), 1); err != nil {
		t.Fatal(err)
	}
	if err := f.RedeclareWaiter(dec(lk(1, wr, 0, 9, true), 11), 2, 21); err != nil {
		t.Fatal(err)
	}
	if err := f.Redeclare(dec(lk(1, wr, 5, 5, false), 6), 4); err == nil {
		t.Fatal("two writers of one byte")
	}
	if w, _ := f.DropClient(1); len(w) != 0 {
		t.Fatal("granted while frozen")
	}
	s.g.Thaw()
	s.is(f, names(f.Settle()), " +r21")
}

// model is the naive truth for one name space of fcntl locks on a file of a few bytes.
type model struct {
	bytes [size]map[Owner]wire.LockType
	wait  []Waiter
}

const size = 12

func (m *model) blocked(h *Held, n int) bool {
	covered := true
	for b := h.Start; b <= h.End; b++ {
		for o, ty := range m.bytes[b] {
			if o != h.Owner && (ty == wr || h.Type == wr) {
				return true
			}
		}
		if _, ok := m.bytes[b][h.Owner]; !ok {
			covered = false
		}
	}
	if covered {
		return false
	}
	for _, w := range m.wait[:n] {
		if w.Owner != h.Owner && w.Start <= h.End && h.Start <= w.End && (w.Type == wr || h.Type == wr) {
			return true
		}
	}
	return false
}

func (m *model) put(h Held) {
	for b := h.Start; b <= h.End; b++ {
		if h.Type == wire.LockUnlock {
			delete(m.bytes[b], h.Owner)
		} else {
			m.bytes[b][h.Owner] = h.Type
		}
	}
}

func (m *model) wake() (woken []Waiter) {
again:
	for i, w := range m.wait {
		if !m.blocked(&w.Held, i) {
			m.wait = slices.Delete(m.wait, i, i+1)
			m.put(w.Held)
			woken = append(woken, w)
			goto again
		}
	}
	return woken
}

// nextRank is the table of the next incarnation, out of what every client but gone declares, in
// any order.
func nextRank(t *rapid.T, old *Table, epoch wire.Epoch, gone uint64) (*Graph, *Table) {
	g := NewGraph(epoch, 0, 0)
	f := g.NewTable()
	g.Freeze()
	var says []func() error
	for _, h := range old.Held(false) {
		l := lk(h.Owner.Token, h.Type, h.Start, h.End, false)
		l.Ticket = h.Ticket
		if h.Owner.Client != gone {
			says = append(says, func() error { return f.Redeclare(l, h.Owner.Client) })
		}
	}
	for _, w := range old.Waiting(false) {
		l := lk(w.Owner.Token, w.Type, w.Start, w.End, true)
		l.Ticket = w.Ticket
		if w.Owner.Client != gone {
			says = append(says, func() error { return f.RedeclareWaiter(l, w.Owner.Client, w.Req) })
		}
	}
	for _, say := range rapid.Permutation(says).Draw(t, "order") {
		if err := say(); err != nil {
			t.Fatal(err)
		}
	}
	g.Thaw()
	return g, f
}

func TestAgainstANaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		epoch := wire.Epoch(1)
		g := NewGraph(epoch, 0, 0)
		f := g.NewTable()
		m := &model{}
		for i := range m.bytes {
			m.bytes[i] = map[Owner]wire.LockType{}
		}
		ticket := uint64(0)
		same := func(what string, got, want []Waiter) {
			if names(got) != names(want) {
				t.Fatalf("%s: woken%s, model%s", what, names(got), names(want))
			}
		}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			o := Owner{rapid.Uint64Range(1, 3).Draw(t, "client"), rapid.Uint64Range(1, 2).Draw(t, "token")}
			a, b := rapid.Uint64Range(0, size-1).Draw(t, "a"), rapid.Uint64Range(0, size-1).Draw(t, "b")
			a, b = min(a, b), max(a, b)
			op := rapid.IntRange(0, 10).Draw(t, "op")
			switch op {
			case 0, 1, 2, 3, 4:
				ticket++
				ty := rapid.SampledFrom([]wire.LockType{rd, wr}).Draw(t, "type")
				wait := rapid.Bool().Draw(t, "wait")
				h := Held{Owner: o, Type: ty, Start: a, End: b, Ticket: ticket}
				out, _, woken := f.Lock(lk(o.Token, ty, a, b, wait), o.Client, ticket)
				if !m.blocked(&h, len(m.wait)) {
					m.put(h)
					if out != Granted {
						t.Fatalf("%v: %v, model granted", h, out)
					}
					same("lock", woken, m.wake())
				} else {
					switch {
					case !wait && out == Conflict, out == Deadlock && wait:
					case wait && out == Queued:
						m.wait = append(m.wait, Waiter{h, ticket})
					default:
						t.Fatalf("%v: %v, model blocked", h, out)
					}
					same("lock", woken, nil)
				}
			case 5, 6, 7:
				m.put(Held{Owner: o, Start: a, End: b})
				same("unlock", unlocked(f.Unlock(lk(o.Token, 0, a, b, false), o.Client)), m.wake())
			case 8:
				if len(m.wait) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(m.wait)-1).Draw(t, "i")
				w := m.wait[i]
				m.wait = slices.Delete(m.wait, i, i+1)
				_, ok, woken := f.Cancel(w.Owner.Client, w.Req, ticketOf(f, w.Req))
				if !ok {
					t.Fatal("waiter lost")
				}
				same("cancel", woken, m.wake())
			case 9, 10: // a client is gone; with 10 the rank too, and the others tell the next one
				for i := range m.bytes {
					for q := range m.bytes[i] {
						if q.Client == o.Client {
							delete(m.bytes[i], q)
						}
					}
				}
				m.wait = slices.DeleteFunc(m.wait, func(w Waiter) bool { return w.Owner.Client == o.Client })
				if op == 9 {
					woken, _ := f.DropClient(o.Client)
					same("drop", woken, m.wake())
					break
				}
				epoch++
				g, f = nextRank(t, f, epoch, o.Client)
				same("failover", f.Settle(), m.wake())
				for _, h := range f.Held(false) {
					if h.Ticket > g.ticket {
						t.Fatalf("%v after the failover: its ticket is above %d", h, g.ticket)
					}
				}
			}
			if err := f.Check(); err != nil {
				t.Fatal(err)
			}
			var held []Held
			for b := range uint64(size) {
				for _, h := range f.Held(false) {
					if h.Start <= b && b <= h.End {
						held = append(held, h)
						if m.bytes[b][h.Owner] != h.Type {
							t.Fatalf("byte %d: %v, model %v", b, h, m.bytes[b])
						}
					}
				}
			}
			n := 0
			for i := range m.bytes {
				n += len(m.bytes[i])
			}
			if n != len(held) {
				t.Fatalf("%d byte holds, model %d", len(held), n)
			}
			if len(g.waits) == 0 != (len(m.wait) == 0) {
				t.Fatal("graph does not match the queues")
			}
		}
	})
}

// ticketOf is the place of a waiter.
func ticketOf(t *Table, req uint64) uint64 {
	for i := range t.spaces {
		for _, w := range t.spaces[i].wait {
			if w.Req == req {
				return w.Ticket
			}
		}
	}
	return 0
}
