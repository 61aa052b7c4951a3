package filelock

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// Freeze stops all granting: a rank in reconnect rebuilds grants and queues by ticket from
// what clients say they had, and grants nothing before all have spoken.
func (g *Graph) Freeze() { g.frozen = true }

// Thaw allows granting again; the caller then calls Settle on each table.
func (g *Graph) Thaw() { g.frozen = false }

// Settle grants whoever can be served, after Thaw.
func (t *Table) Settle() []Waiter { return append(t.spaces[0].wake(), t.spaces[1].wake()...) }

// believable reports what is wrong with a declaration. A ticket of this incarnation cannot be
// of another one's lock.
func (g *Graph) believable(l *wire.FileLock) error {
	switch {
	case l.Type != wire.LockRead && l.Type != wire.LockWrite:
		return fmt.Errorf("filelock: re-declared lock of type %d", l.Type)
	case !l.Flock && l.Start > l.End:
		return fmt.Errorf("filelock: re-declared range %d-%d", l.Start, l.End)
	case l.Ticket > g.last-(1<<ticketBits-1):
		return fmt.Errorf("filelock: re-declared ticket %d is of no earlier epoch", l.Ticket)
	}
	return nil
}

// Redeclare puts a grant back that its owner had under an earlier rank. Two declarations
// that clash cannot both be true: the one that came second is refused.
func (t *Table) Redeclare(l wire.FileLock, client uint64) error {
	if err := t.g.believable(&l); err != nil {
		return err
	}
	s := t.space(l.Flock)
	h := heldOf(l, client)
	for i := range s.held {
		if clash(&s.held[i], &h) {
			return fmt.Errorf("filelock: re-declared %v clashes with %v", h, s.held[i])
		}
	}
	s.put(h)
	return nil
}

// RedeclareWaiter puts a waiter back at the place of its ticket.
func (t *Table) RedeclareWaiter(l wire.FileLock, client, req uint64) error {
	if err := t.g.believable(&l); err != nil {
		return err
	}
	s := t.space(l.Flock)
	w := Waiter{Held: heldOf(l, client), Req: req}
	if i := s.find(w.Ticket); i < len(s.wait) && s.wait[i].Ticket == w.Ticket {
		return fmt.Errorf("filelock: ticket %d re-declared twice", w.Ticket)
	}
	s.enqueue(w)
	return nil
}
