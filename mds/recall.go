package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// RECALL (4.8) is a hint: the client trims what it does not use. Correctness never rests on
// it; REVOKE is an order.

const (
	minCaps    = 100
	recallStep = 10_000
)

// tickRecall asks the sessions with most caps to trim when the cache is above its bound, and
// nobody twice before it gave back half of what it was asked for.
func (r *Rank) tickRecall() int64 {
	over := len(r.inodes) - r.cfg.MaxInodes
	if over <= 0 {
		return 0
	}
	most := slices.Clone(r.order)
	slices.SortStableFunc(most, func(a, b *session) int { return b.caps.Len() - a.caps.Len() })
	for _, s := range most {
		n := s.caps.Len()
		if over <= 0 || n <= minCaps {
			break
		}
		if s.state != sessOpen || s.live.recalled > s.live.asked/2 {
			continue
		}
		take := min(over, recallStep, n-minCaps)
		s.live.asked, s.live.recalled = take, take
		r.send(s, 0, 0, &wire.Recall{Max: uint32(n - take)})
		over -= take
	}
	return r.now + 1e9
}
