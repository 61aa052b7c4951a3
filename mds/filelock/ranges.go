package filelock

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// What is held, by owner and within one by start: an owner's ranges are a run of the list.

func overlap(a, b *Held) bool { return a.Start <= b.End && b.Start <= a.End }

// clash reports whether a and b, of different owners, exclude each other.
func clash(a, b *Held) bool {
	return a.Owner != b.Owner && overlap(a, b) && (a.Type == wire.LockWrite || b.Type == wire.LockWrite)
}

func compareOwners(a, b Owner) int {
	if a.Client != b.Client {
		return cmp.Compare(a.Client, b.Client)
	}
	return cmp.Compare(a.Token, b.Token)
}

// run is the part of held that is o's.
func (s *space) run(o Owner) (from, to int) {
	from, _ = slices.BinarySearchFunc(s.held, o, func(h Held, o Owner) int { return compareOwners(h.Owner, o) })
	for to = from; to < len(s.held) && s.held[to].Owner == o; {
		to++
	}
	return from, to
}

// covered reports whether h only changes ranges its owner holds already: such a request is
// not made to queue behind waiters, who wait for just this owner.
func (s *space) covered(h *Held) bool {
	at := h.Start
	i, to := s.run(h.Owner)
	for ; i < to; i++ {
		switch o := &s.held[i]; {
		case o.End < at:
		case o.Start > at:
			return false
		case o.End >= h.End:
			return true
		default:
			at = o.End + 1
		}
	}
	return false
}

// put grants h: whatever its owner held there is replaced, neighbours of the same type melt.
func (s *space) put(h Held) {
	s.carve(h.Owner, h.Start, h.End)
	i, to := s.run(h.Owner)
	for ; i < to; i++ {
		o := &s.held[i]
		if o.Type == h.Type && (o.End+1 == h.Start || h.End+1 == o.Start) {
			h.Start, h.End, h.Ticket = min(h.Start, o.Start), max(h.End, o.End), max(h.Ticket, o.Ticket)
			s.remove(i)
			i, to = i-1, to-1
		}
	}
	s.insert(h)
}

func (s *space) insert(h Held) {
	i, _ := slices.BinarySearchFunc(s.held, h, func(a, b Held) int {
		if c := compareOwners(a.Owner, b.Owner); c != 0 {
			return c
		}
		return cmp.Compare(a.Start, b.Start)
	})
	if !s.holds(h.Owner) {
		s.again += s.waitersOf(h.Owner)
	}
	s.held = slices.Insert(s.held, i, h)
	s.noted(&h, 1)
}

func (s *space) remove(i int) {
	o := s.held[i].Owner
	s.noted(&s.held[i], -1)
	s.held = slices.Delete(s.held, i, i+1)
	if !s.holds(o) {
		s.again -= s.waitersOf(o)
	}
}

// holds reports whether o has a grant.
func (s *space) holds(o Owner) bool {
	i, found := slices.BinarySearchFunc(s.held, o, func(h Held, o Owner) int { return compareOwners(h.Owner, o) })
	return found && i < len(s.held)
}

// waitersOf is how many requests of o are queued.
func (s *space) waitersOf(o Owner) (n int) {
	for _, at := range s.g.waits[o] {
		if at.s == s {
			n++
		}
	}
	return n
}

func (s *space) noted(h *Held, n int) {
	if h.Type == wire.LockWrite {
		s.writers += n
	}
	s.g.counted(h.Owner, s, n)
}

// carve takes [start, end] from what the owner holds, splitting what it cuts through.
func (s *space) carve(o Owner, start, end uint64) bool {
	cut := false
	i, to := s.run(o)
	for i < to {
		h := &s.held[i]
		if h.End < start || end < h.Start {
			i++
			continue
		}
		cut = true
		left, right := *h, *h
		left.End, right.Start = start-1, end+1
		switch {
		case h.Start < start && h.End > end:
			h.End = left.End
			s.insert(right)
			return true
		case h.Start < start:
			h.End = left.End
			i++
		case h.End > end:
			h.Start = right.Start
			i++
		default:
			s.remove(i)
			to--
		}
	}
	return cut
}

// splits reports whether taking [start, end] from the owner leaves it more ranges than before.
func (s *space) splits(o Owner, start, end uint64) bool {
	i, to := s.run(o)
	for ; i < to; i++ {
		if h := &s.held[i]; h.Start < start && h.End > end {
			return true
		}
	}
	return false
}
