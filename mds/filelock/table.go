package filelock

import (
	"cmp"
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
	return fmt.Sprintf("%v %s %d-%d", h.Owner, TypeName(h.Type), h.Start, h.End)
}

// Waiter is a request that is queued. Req is the caller's handle for it.
type Waiter struct {
	Held
	Req uint64
}

// TypeName is read or write.
func TypeName(t wire.LockType) string { return [...]string{"none", "read", "write"}[t] }

// Outcome of Lock.
type Outcome uint8

// Outcomes.
const (
	Granted  Outcome = iota
	Conflict         // somebody is in the way and the request would not wait: EAGAIN
	Queued           // it waits, and will be among the woken of a later call
	Deadlock         // it would wait for itself: EDEADLK
	Full             // its client has as many locks and waiters as it may: ENOLCK
)

func (o Outcome) String() string {
	return [...]string{"granted", "conflict", "queued", "deadlock", "full"}[o]
}

// space is one name space: fcntl's or flock's. held is sorted by owner, then start; wait by
// ticket.
type space struct {
	g       *Graph
	held    []Held
	writers int // of held
	wait    []Waiter
	again   int       // of wait, those whose owner holds something here too
	hull    [2]uint64 // nobody waits for anything outside of it
	flock   bool
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

// Held lists the grants of a name space by start, Waiting its queue: for dumps.
func (t *Table) Held(flock bool) []Held {
	l := slices.Clone(t.space(flock).held)
	slices.SortStableFunc(l, func(a, b Held) int { return cmp.Compare(a.Start, b.Start) })
	return l
}

// Waiting is the queue of a name space; a waiter's ticket is its place in it.
func (t *Table) Waiting(flock bool) []Waiter { return t.space(flock).wait }

// Lock asks for a range, or a change of one. ticket is the grant's, or the place in the queue.
// A granted lock may wake others: a downgrade lets readers in.
func (t *Table) Lock(l wire.FileLock, client, req uint64) (out Outcome, ticket uint64, woken []Waiter) {
	s := t.space(l.Flock)
	h := heldOf(l, client)
	if t.g.full(client) {
		return Full, 0, nil
	}
	if s.free(&h, len(s.wait)) && !t.g.frozen {
		h.Ticket = t.g.draw()
		s.put(h)
		return Granted, h.Ticket, s.wake()
	}
	// flock's conversion is not atomic, in Linux either: the old lock goes first, else two
	// readers that both want to write would wait for each other for ever.
	if l.Flock && !t.g.frozen && s.carve(h.Owner, h.Start, h.End) {
		woken = s.wake()
	}
	if !l.Wait {
		if t.g.wrong.Has(wrong.UpgradeDrops) && s.carve(h.Owner, h.Start, h.End) {
			woken = s.wake()
		}
		return Conflict, 0, woken
	}
	w := Waiter{Held: h, Req: req}
	if !l.Flock && t.g.deadlock(s, &w) {
		return Deadlock, 0, woken
	}
	w.Ticket = t.g.draw()
	s.enqueue(w)
	return Queued, w.Ticket, woken
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

// Unlock drops what the owner holds of the range and returns who is granted now. It is refused
// where it would leave a client that has all it may with one range more.
func (t *Table) Unlock(l wire.FileLock, client uint64) (woken []Waiter, full bool) {
	h := heldOf(l, client)
	s := t.space(l.Flock)
	if t.g.full(client) && s.splits(h.Owner, h.Start, h.End) {
		return nil, true
	}
	if !s.carve(h.Owner, h.Start, h.End) || t.g.wrong.Has(wrong.ForgottenWakeup) {
		return nil, false
	}
	return s.wake(), false
}

// Cancel removes a waiter by the request that queued it and its place. When it is no longer queued
// it was answered, and its answer holds.
func (t *Table) Cancel(client, req, ticket uint64) (Waiter, bool, []Waiter) {
	for i := range t.spaces {
		s := &t.spaces[i]
		if j := s.find(ticket); j < len(s.wait) && s.wait[j].Ticket == ticket && s.wait[j].Owner.Client == client && s.wait[j].Req == req {
			w := s.dequeue(j)
			return w, true, s.wake() // those queued behind it may go
		}
	}
	return Waiter{}, false, nil
}

// UnlockOwner drops everything one owner holds in a name space: the close of a descriptor.
// What it waits for goes too; dropped are those waiters.
func (t *Table) UnlockOwner(o Owner, flock bool) (woken, dropped []Waiter) {
	s := t.space(flock)
	dropped = s.drop(func(h *Held) bool { return h.Owner == o })
	return s.wake(), dropped
}

// DropClient forgets a session: closed, or evicted and fenced.
func (t *Table) DropClient(client uint64) (woken, dropped []Waiter) {
	for i := range t.spaces {
		dropped = append(dropped, t.spaces[i].drop(func(h *Held) bool { return h.Owner.Client == client })...)
		woken = append(woken, t.spaces[i].wake()...)
	}
	return woken, dropped
}

func (s *space) drop(gone func(*Held) bool) (dropped []Waiter) {
	stay := s.wait[:0:0]
	for _, w := range s.wait {
		if !gone(&w.Held) {
			stay = append(stay, w)
			continue
		}
		dropped = append(dropped, w)
		s.g.remove(s, &w)
	}
	s.wait = stay
	if len(stay) == 0 {
		s.wait = nil
	}
	s.held = slices.DeleteFunc(s.held, func(h Held) bool {
		if !gone(&h) {
			return false
		}
		s.noted(&h, -1)
		return true
	})
	s.again = 0
	for i := range s.wait {
		if s.holds(s.wait[i].Owner) {
			s.again++
		}
	}
	return dropped
}

// Test is F_GETLK: the grant with the lowest start that would stand in the way.
func (t *Table) Test(l wire.FileLock, client uint64) (first Held, found bool) {
	h := heldOf(l, client)
	s := t.space(l.Flock)
	for i := range s.held {
		if o := &s.held[i]; s.clash(o, &h) && !s.g.wrong.Has(wrong.BlindGetlk) && (!found || o.Start < first.Start) {
			first, found = *o, true
		}
	}
	return first, found
}

// Blocked calls fn for the waiters of whom a grant of the client is in the way, for each grant in
// the order of the queue until fn says that it is enough.
func (t *Table) Blocked(client uint64, fn func(*Waiter) (enough bool)) {
	for i := range t.spaces {
		s := &t.spaces[i]
		for k := range s.held {
			if s.held[k].Owner.Client != client {
				continue
			}
			for j := range s.wait {
				if clash(&s.held[k], &s.wait[j].Held) && fn(&s.wait[j]) {
					break
				}
			}
		}
	}
}

// Holders calls fn for the client of each grant that is in the way of l.
func (t *Table) Holders(l wire.FileLock, client uint64, fn func(client uint64)) {
	h := heldOf(l, client)
	s := t.space(l.Flock)
	for i := range s.held {
		if clash(&s.held[i], &h) {
			fn(s.held[i].Owner.Client)
		}
	}
}

// Check walks the table: no two grants clash, one owner's ranges do not overlap, the queue is
// in ticket order and nobody in it could be served.
func (t *Table) Check() error {
	if t.g.wrong != 0 {
		return nil // there is nothing that must hold
	}
	for i := range t.spaces {
		if err := t.spaces[i].check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *space) check() error {
	writers, again := 0, 0
	for a := range s.wait {
		if s.holds(s.wait[a].Owner) {
			again++
		}
	}
	if again != s.again {
		return fmt.Errorf("filelock: %d waiters are counted whose owners hold something, there are %d", s.again, again)
	}
	for a := range s.held {
		h := &s.held[a]
		if h.Type == wire.LockWrite {
			writers++
		}
		if h.Start > h.End {
			return fmt.Errorf("filelock: empty range %v", *h)
		}
		for b := range a {
			if clash(h, &s.held[b]) || h.Owner == s.held[b].Owner && overlap(h, &s.held[b]) {
				return fmt.Errorf("filelock: %v beside %v", *h, s.held[b])
			}
		}
	}
	if writers != s.writers {
		return fmt.Errorf("filelock: %d writers are counted, %d are there", s.writers, writers)
	}
	for a := range s.wait {
		if a > 0 && s.wait[a-1].Ticket >= s.wait[a].Ticket {
			return fmt.Errorf("filelock: queue out of order at %v", s.wait[a].Held)
		}
		if !s.g.frozen && s.free(&s.wait[a].Held, a) {
			return fmt.Errorf("filelock: %v waits for nobody", s.wait[a].Held)
		}
	}
	return nil
}
