package filelock

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Freeze stops all granting: a rank in reconnect rebuilds grants and queues by ticket from
// what clients say they had, and grants nothing before all have spoken.
func (g *Graph) Freeze() { g.frozen = true }

// Thaw allows granting again; the caller then calls Settle on each table.
func (g *Graph) Thaw() { g.frozen = false }

// Settle grants whoever can be served, after Thaw.
func (t *Table) Settle() []Waiter { return append(t.wake(&t.spaces[0]), t.wake(&t.spaces[1])...) }

// Redeclare puts a grant back that its owner had under an earlier rank. Two declarations
// that clash cannot both be true: the one that came second is refused.
func (t *Table) Redeclare(l wire.FileLock, client uint64) error {
	s := t.space(l.Flock)
	h := heldOf(l, client)
	for i := range s.held {
		if clash(&s.held[i], &h) {
			return fmt.Errorf("filelock: re-declared %v clashes with %v", h, s.held[i])
		}
	}
	s.carve(h.Owner, h.Start, h.End)
	s.insert(h)
	return nil
}

// RedeclareWaiter puts a waiter back at the place of its ticket.
func (t *Table) RedeclareWaiter(l wire.FileLock, client, req uint64) error {
	s := t.space(l.Flock)
	w := Waiter{Held: heldOf(l, client), Req: req}
	if slices.ContainsFunc(s.wait, func(o Waiter) bool { return o.Ticket == w.Ticket }) {
		return fmt.Errorf("filelock: ticket %d re-declared twice", w.Ticket)
	}
	t.enqueue(s, w)
	return nil
}

// MaxTicket is the highest ticket in the table: the counter must go on above it.
func (t *Table) MaxTicket() uint64 {
	var m uint64
	for i := range t.spaces {
		for _, h := range t.spaces[i].held {
			m = max(m, h.Ticket)
		}
		for _, w := range t.spaces[i].wait {
			m = max(m, w.Ticket)
		}
	}
	return m
}
