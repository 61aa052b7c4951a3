package filelock

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// Owner is who holds a lock: a session and the kernel's token within it.
type Owner struct {
	Client uint64
	Token  uint64
}

func (o Owner) String() string { return fmt.Sprintf("c%d/%x", o.Client, o.Token) }

// Held is one granted range. PID is for people only.
type Held struct {
	Owner      Owner
	PID        uint32
	Type       wire.LockType // read or write
	Start, End uint64        // End is inclusive
	Ticket     uint64
}

func (h Held) String() string {
	return fmt.Sprintf("%v %s %d-%d", h.Owner, typeName(h.Type), h.Start, h.End)
}

// Waiter is a request that is queued. Req is the caller's handle for it.
type Waiter struct {
	Held
	Req uint64
}

func typeName(t wire.LockType) string { return [...]string{"none", "read", "write"}[t] }

// Outcome of Lock.
type Outcome uint8

// Outcomes.
const (
	Granted  Outcome = iota
	Conflict         // somebody is in the way and the request would not wait: EAGAIN
	Queued           // it waits, and will be among the woken of a later call
	Deadlock         // it would wait for itself: EDEADLK
)

func (o Outcome) String() string {
	return [...]string{"granted", "conflict", "queued", "deadlock"}[o]
}

// space is one name space: fcntl's or flock's. held is sorted by start, then owner; wait by
// ticket.
type space struct {
	held  []Held
	wait  []Waiter
	flock bool
	wrong wrong.Set
}

// Table is the locks of one inode.
type Table struct {
	g      *Graph
	spaces [2]space
}

func (t *Table) space(flock bool) *space {
	if flock {
		return &t.spaces[1]
	}
	return &t.spaces[0]
}

// Empty reports whether nothing is held and nobody waits.
func (t *Table) Empty() bool {
	for i := range t.spaces {
		if len(t.spaces[i].held)+len(t.spaces[i].wait) > 0 {
			return false
		}
	}
	return true
}

// Holds reports whether the client holds or awaits anything.
func (t *Table) Holds(client uint64) bool {
	for i := range t.spaces {
		s := &t.spaces[i]
		if slices.ContainsFunc(s.held, func(h Held) bool { return h.Owner.Client == client }) ||
			slices.ContainsFunc(s.wait, func(w Waiter) bool { return w.Owner.Client == client }) {
			return true
		}
	}
	return false
}

// Held and Waiting list a name space for dumps.
func (t *Table) Held(flock bool) []Held      { return t.space(flock).held }
func (t *Table) Waiting(flock bool) []Waiter { return t.space(flock).wait }

func overlap(a, b *Held) bool { return a.Start <= b.End && b.Start <= a.End }

// clash reports whether a and b, of different owners, exclude each other.
func clash(a, b *Held) bool {
	return a.Owner != b.Owner && overlap(a, b) && (a.Type == wire.LockWrite || b.Type == wire.LockWrite)
}

// covered reports whether h only changes ranges its owner holds already: such a request is
// not made to queue behind waiters, who wait for just this owner.
func (s *space) covered(h *Held) bool {
	at := h.Start
	for i := range s.held { // sorted by start
		o := &s.held[i]
		if o.Owner != h.Owner || o.End < at {
			continue
		}
		if o.Start > at {
			return false
		}
		if o.End >= h.End {
			return true
		}
		at = o.End + 1
	}
	return false
}

// inTheWay calls fn for each grant, and each waiter of the first n, that keeps h from being
// granted, until fn says stop.
func (s *space) inTheWay(h *Held, n int, fn func(Owner) (stop bool)) {
	for i := range s.held {
		if s.clash(&s.held[i], h) && fn(s.held[i].Owner) {
			return
		}
	}
	if n == 0 || s.covered(h) {
		return
	}
	for i := range s.wait[:n] {
		if s.clash(&s.wait[i].Held, h) && fn(s.wait[i].Owner) {
			return
		}
	}
}

func (s *space) free(h *Held, n int) bool {
	ok := true
	s.inTheWay(h, n, func(Owner) bool { ok = false; return true })
	return ok
}

// Lock asks for a range, or a change of one, under a fresh ticket. A granted lock may wake
// others: a downgrade lets readers in.
func (t *Table) Lock(l wire.FileLock, client, req, ticket uint64) (Outcome, []Waiter) {
	s := t.space(l.Flock)
	h := heldOf(l, client)
	h.Ticket = ticket
	if s.free(&h, len(s.wait)) && !t.g.frozen {
		s.put(h)
		return Granted, t.wake(s)
	}
	// flock's conversion is not atomic, in Linux either: the old lock goes first, else two
	// readers that both want to write would wait for each other for ever.
	var woken []Waiter
	if l.Flock && !t.g.frozen && s.carve(h.Owner, h.Start, h.End) {
		woken = t.wake(s)
	}
	if !l.Wait {
		if t.g.wrong.Has(wrong.UpgradeDrops) && s.carve(h.Owner, h.Start, h.End) {
			woken = t.wake(s)
		}
		return Conflict, woken
	}
	w := Waiter{Held: h, Req: req}
	if !l.Flock && t.g.deadlock(t, s, &w) {
		return Deadlock, woken
	}
	t.enqueue(s, w)
	return Queued, woken
}

func heldOf(l wire.FileLock, client uint64) Held {
	h := Held{Owner: Owner{client, l.Owner}, PID: l.PID, Type: l.Type, Start: l.Start, End: l.End, Ticket: l.Ticket}
	if l.Flock {
		h.Start, h.End = 0, EOF
	}
	return h
}

// EOF as the end of a range means: to the end of the file, however long it grows.
const EOF = 1<<63 - 1

func (t *Table) enqueue(s *space, w Waiter) {
	i := len(s.wait)
	for i > 0 && s.wait[i-1].Ticket > w.Ticket {
		i--
	}
	s.wait = slices.Insert(s.wait, i, w)
	t.g.add(w.Owner, t)
}

func (t *Table) dequeue(s *space, i int) Waiter {
	w := s.wait[i]
	s.wait = slices.Delete(s.wait, i, i+1)
	t.g.remove(w.Owner, t)
	return w
}

// put grants h: whatever its owner held there is replaced, neighbours of the same type melt.
func (s *space) put(h Held) {
	s.carve(h.Owner, h.Start, h.End)
	for i := 0; i < len(s.held); i++ {
		o := &s.held[i]
		if o.Owner != h.Owner || o.Type != h.Type {
			continue
		}
		if o.End+1 == h.Start || h.End+1 == o.Start {
			h.Start, h.End = min(h.Start, o.Start), max(h.End, o.End)
			s.held = slices.Delete(s.held, i, i+1)
			i--
		}
	}
	s.insert(h)
}

func (s *space) insert(h Held) {
	i, _ := slices.BinarySearchFunc(s.held, h, func(a, b Held) int {
		switch {
		case a.Start != b.Start:
			return cmpU(a.Start, b.Start)
		case a.Owner.Client != b.Owner.Client:
			return cmpU(a.Owner.Client, b.Owner.Client)
		}
		return cmpU(a.Owner.Token, b.Owner.Token)
	})
	s.held = slices.Insert(s.held, i, h)
}

func cmpU(a, b uint64) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

// carve takes [start, end] from what the owner holds, splitting what it cuts through.
func (s *space) carve(o Owner, start, end uint64) bool {
	var right []Held
	cut := false
	for i := 0; i < len(s.held); i++ {
		h := &s.held[i]
		if h.Owner != o || h.End < start || end < h.Start {
			continue
		}
		cut = true
		if h.End > end {
			r := *h
			r.Start = end + 1
			right = append(right, r)
		}
		if h.Start < start {
			h.End = start - 1
			continue
		}
		s.held = slices.Delete(s.held, i, i+1)
		i--
	}
	for _, r := range right {
		s.insert(r)
	}
	return cut
}

// wake grants, in ticket order, whoever no longer conflicts. A grant can free others (it may
// be a downgrade), so it starts over until nothing moves.
func (t *Table) wake(s *space) []Waiter {
	if t.g.frozen {
		return nil
	}
	if t.g.wrong != 0 {
		return t.wakeWrongly(s)
	}
	var woken []Waiter
	for i := 0; i < len(s.wait); {
		if !s.free(&s.wait[i].Held, i) {
			i++
			continue
		}
		w := t.dequeue(s, i)
		s.put(w.Held)
		woken = append(woken, w)
		i = 0
	}
	return woken
}

// Unlock drops what the owner holds of the range and returns who is granted now.
func (t *Table) Unlock(l wire.FileLock, client uint64) []Waiter {
	h := heldOf(l, client)
	s := t.space(l.Flock)
	if !s.carve(h.Owner, h.Start, h.End) || t.g.wrong.Has(wrong.ForgottenWakeup) {
		return nil
	}
	return t.wake(s)
}

// Cancel removes a waiter by the request that queued it. When it is no longer queued the
// caller undoes the crossing grant with Unlock.
func (t *Table) Cancel(client, req uint64) (Waiter, bool, []Waiter) {
	for i := range t.spaces {
		s := &t.spaces[i]
		for j := range s.wait {
			if s.wait[j].Owner.Client == client && s.wait[j].Req == req {
				w := t.dequeue(s, j)
				return w, true, t.wake(s) // those queued behind it may go
			}
		}
	}
	return Waiter{}, false, nil
}

// UnlockOwner drops everything one owner holds in a name space: the close of a descriptor.
// What it waits for goes too; dropped are those waiters.
func (t *Table) UnlockOwner(o Owner, flock bool) (woken, dropped []Waiter) {
	s := t.space(flock)
	return t.drop(s, func(h *Held) bool { return h.Owner == o })
}

// DropClient forgets a session: closed, or evicted and fenced.
func (t *Table) DropClient(client uint64) (woken, dropped []Waiter) {
	for i := range t.spaces {
		w, d := t.drop(&t.spaces[i], func(h *Held) bool { return h.Owner.Client == client })
		woken, dropped = append(woken, w...), append(dropped, d...)
	}
	return woken, dropped
}

func (t *Table) drop(s *space, gone func(*Held) bool) (woken, dropped []Waiter) {
	s.held = slices.DeleteFunc(s.held, func(h Held) bool { return gone(&h) })
	for i := 0; i < len(s.wait); {
		if gone(&s.wait[i].Held) {
			dropped = append(dropped, t.dequeue(s, i))
		} else {
			i++
		}
	}
	return t.wake(s), dropped
}

// Test is F_GETLK: the first grant that would stand in the way.
func (t *Table) Test(l wire.FileLock, client uint64) (Held, bool) {
	h := heldOf(l, client)
	s := t.space(l.Flock)
	for _, o := range s.held {
		if s.clash(&o, &h) && !s.wrong.Has(wrong.BlindGetlk) {
			return o, true
		}
	}
	return Held{}, false
}

// Check walks the table: no two grants clash, one owner's ranges do not overlap, the queue is
// in ticket order and nobody in it could be served.
func (t *Table) Check() error {
	if t.g.wrong != 0 {
		return nil // there is nothing that must hold
	}
	for i := range t.spaces {
		s := &t.spaces[i]
		for a := range s.held {
			if s.held[a].Start > s.held[a].End {
				return fmt.Errorf("filelock: empty range %v", s.held[a])
			}
			for b := range a {
				if clash(&s.held[a], &s.held[b]) || s.held[a].Owner == s.held[b].Owner && overlap(&s.held[a], &s.held[b]) {
					return fmt.Errorf("filelock: %v beside %v", s.held[a], s.held[b])
				}
			}
		}
		for a := range s.wait {
			if a > 0 && s.wait[a-1].Ticket >= s.wait[a].Ticket {
				return fmt.Errorf("filelock: queue out of order at %v", s.wait[a].Held)
			}
			if !t.g.frozen && s.free(&s.wait[a].Held, a) {
				return fmt.Errorf("filelock: %v waits for nobody", s.wait[a].Held)
			}
		}
	}
	return nil
}
