package filelock

import (
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// What a table does under seeded bugs (internal/wrong), where it takes more than a line.

// clash is clash of a and b, or what a seeded bug makes of it.
func (s *space) clash(a, b *Held) bool {
	s.g.looked++
	if s.g.wrong == 0 {
		return clash(a, b)
	}
	other := a.Owner.Client != b.Owner.Client
	both := func(ty wire.LockType) bool { return a.Type == ty && b.Type == ty }
	switch {
	case s.g.wrong.Has(wrong.FlockLocal) && s.flock && other,
		s.g.wrong.Has(wrong.FcntlLocal) && !s.flock && other,
		s.g.wrong.Has(wrong.TwoWriters) && both(wire.LockWrite) && other,
		s.g.wrong.Has(wrong.RangeEdge) && (a.Start == b.End || b.Start == a.End):
		return false
	case s.g.wrong.Has(wrong.ReadersExclude) && both(wire.LockRead):
		return a.Owner != b.Owner && overlap(a, b)
	}
	return clash(a, b)
}

// wakeWrongly is wake: from the end of the queue, or for one waiter.
func (s *space) wakeWrongly() (woken []Waiter) {
	for moved := true; moved; {
		moved = false
		for n := range s.wait {
			i, before := n, n
			if s.g.wrong.Has(wrong.UnfairQueue) {
				i, before = len(s.wait)-1-n, 0
			}
			if !s.free(&s.wait[i].Held, before) {
				continue
			}
			woken = append(woken, s.grant(i))
			moved = !s.g.wrong.Has(wrong.WakeOne)
			break
		}
	}
	return woken
}
