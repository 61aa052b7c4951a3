package filelock

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// find is the place of a ticket in the queue.
func (s *space) find(ticket uint64) int {
	i, _ := slices.BinarySearchFunc(s.wait, ticket, func(w Waiter, t uint64) int { return cmp.Compare(w.Ticket, t) })
	return i
}

func (s *space) enqueue(w Waiter) {
	if len(s.wait) == 0 {
		s.hull = [2]uint64{w.Start, w.End}
	}
	s.hull = [2]uint64{min(s.hull[0], w.Start), max(s.hull[1], w.End)}
	s.wait = slices.Insert(s.wait, s.find(w.Ticket), w)
	s.g.add(s, &w)
	if s.holds(w.Owner) {
		s.again++
	}
}

func (s *space) dequeue(i int) Waiter {
	w := s.wait[i]
	if i == 0 {
		s.wait = s.wait[1:] // the usual one to go: the others stay where they are
	} else {
		s.wait = slices.Delete(s.wait, i, i+1)
	}
	if len(s.wait) == 0 {
		s.wait = nil
	}
	s.g.remove(s, &w)
	if s.holds(w.Owner) {
		s.again--
	}
	return w
}

// inTheWay calls fn for each grant, and each waiter of the first n, that keeps h from being
// granted, until fn says stop.
func (s *space) inTheWay(h *Held, n int, fn func(Owner) (stop bool)) {
	if s.writers > 0 || h.Type == wire.LockWrite || s.g.wrong != 0 {
		for i := range s.held {
			if s.clash(&s.held[i], h) && fn(s.held[i].Owner) {
				return
			}
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

// wake grants, in ticket order, whoever no longer conflicts. A grant can free others (it may
// be a downgrade), so it starts over until nothing moves.
func (s *space) wake() []Waiter {
	if s.g.frozen || len(s.wait) == 0 {
		return nil
	}
	if s.g.wrong != 0 {
		return s.wakeWrongly()
	}
	var woken []Waiter
	for i := 0; i < len(s.wait); {
		if !s.free(&s.wait[i].Held, i) {
			if s.barred(i) {
				break
			}
			i++
			continue
		}
		woken = append(woken, s.grant(i))
		i = 0
	}
	return woken
}

// barred reports whether the waiter i, who is not free, keeps all those behind it waiting:
// it wants to write everywhere they want something, and no one of them already holds part of
// what it wants, or is its own owner. So a long queue is not walked for each hand-over.
func (s *space) barred(i int) bool {
	w := &s.wait[i]
	if w.Type != wire.LockWrite || w.Start > s.hull[0] || w.End < s.hull[1] || len(s.g.waits[w.Owner]) > 1 {
		return false
	}
	if s.again == 0 || s.again == 1 && s.holds(w.Owner) {
		return true // the one who holds something and waits is w's owner
	}
	if len(s.held) > 8 {
		return false
	}
	for k := range s.held {
		for _, at := range s.g.waits[s.held[k].Owner] {
			if at.s == s && at.ticket > w.Ticket {
				return false
			}
		}
	}
	return true
}

// grant serves the waiter i, under a ticket of now: with the one of its place a holder that
// changed its lock meanwhile would have had a higher one before it.
func (s *space) grant(i int) Waiter {
	w := s.dequeue(i)
	w.Ticket = s.g.draw()
	s.put(w.Held)
	return w
}
