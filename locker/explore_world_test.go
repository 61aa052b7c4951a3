package locker

import "hash/maphash"

// The exploration drives the real engine through every interleaving of a small world
// (reference §3.1): one lock, its replicas and clients, bounded queues, one FIFO per pair and
// direction. The policy is off and any legal move may happen at any time, which is stronger
// for safety.
//
//	explore_world_test.go    one global state, and what counts as the same one
//	explore_model_test.go    the state brought to life around a real engine, and read back
//	explore_actions_test.go  what may happen next
//	explore_check_test.go    §3.2: what must hold in every state
//	explore_drain_test.go    §3.3: from every state everything ends
//	explore_search_test.go   breadth first, a hash per state
//	explore_test.go          which worlds, and how many states they have
//	explore_faults_test.go   wrong tables and engines, and the rule that catches each

const (
	maxClients  = 3
	maxReplicas = 2
	capRoom     = 3 // messages per client and direction, at most
	rankQueue   = 4 // messages per replica and direction
)

// world is one state: bytes only, so that it can be compared and hashed as memory.
type world struct {
	state, loner, gather uint8
	rd, wr, forced       uint8 // masks of owners: bit 0 the rank itself, bit c client c
	flush                uint8 // whose flush is being applied: forced, unless a fault is seeded
	x                    uint8 // 0 none, else owner+1, |16 held (not only reserved)
	delta                uint8 // un-absorbed at auth
	due                  uint8 // bit 0 auth, bit r+1 replica r: asked for Reissue, and a queue had no room
	frozen               uint8 // freezing or frozen (F1)
	cl                   [maxClients]client
	rep                  [maxReplicas]replica
}

// Stages of a freeze.
const (
	freezing = 1
	frozen   = 2
)

// client is what it believes (H), what its rank believes of it (B, P), and both queues.
type client struct {
	H, B, P    uint8          // letters without a and l
	down       [capRoom]uint8 // pending set told, |128 when it must be answered
	up         [capRoom]upMsg
	nDown, nUp uint8
}

func (c *client) idle() bool { return c.H|c.B|c.P|c.nDown|c.nUp == 0 }

// upMsg is a client's answer or release.
type upMsg struct {
	retained uint8
	stale    uint8 // something was sent to the client after the message this echoes
	dirty    uint8
}

// reply queues a client's UPDATE.
func (c *client) reply(dirty uint8) {
	c.up[c.nUp] = upMsg{retained: c.H, stale: min(c.nDown, 1), dirty: dirty}
	c.nUp++
}

type replica struct {
	state, rd, wr, delta uint8
	asked                uint8
	absent, known        uint8            // dynamic worlds: gone; on auth's list
	down, up             [rankQueue]uint8 // Msg, |128 with a delta
	nDown, nUp           uint8
}

// owes reports whether r has a delta that auth has not: in its fragments or under way.
func (r *replica) owes() bool {
	owes := r.delta != 0
	for _, m := range r.up[:r.nUp] {
		owes = owes || m&128 != 0
	}
	return owes
}

// six keeps the letters of the model.
func six(c Letters) uint8 { return uint8(c & (ls | lx | lc | lr | lw | lb)) }

// A renaming says which client and replica stands in whose place. Clients at one rank, and
// replicas without clients, are alike: states that differ only by such a renaming are one.
type renaming struct {
	cl  [maxClients]uint8
	rep [maxReplicas]uint8
}

// renamings are all that leave every client at a rank like its own, the identity first.
func renamings(at []int, replicas int) (out []renaming) {
	attached := map[int]bool{}
	for _, r := range at {
		attached[r] = true
	}
	id := renaming{}
	for i := range id.cl {
		id.cl[i] = uint8(i)
	}
	for r := range id.rep {
		id.rep[r] = uint8(r)
	}
	var clients func(p renaming, i int)
	clients = func(p renaming, i int) {
		if i == len(at) {
			out = append(out, p)
			if replicas == 2 && !attached[0] && !attached[1] {
				p.rep[0], p.rep[1] = p.rep[1], p.rep[0]
				out = append(out, p)
			}
			return
		}
		for j := i; j < len(at); j++ {
			if at[p.cl[i]] == at[p.cl[j]] {
				q := p
				q.cl[i], q.cl[j] = q.cl[j], q.cl[i]
				clients(q, i+1)
			}
		}
	}
	clients(id, 0)
	return out
}

// rename is w with everybody called by the other name.
func (w *world) rename(p *renaming) world {
	v := *w
	mask := func(m uint8) uint8 {
		out := m & 1
		for i, to := range p.cl {
			out |= m >> (i + 1) & 1 << (to + 1)
		}
		return out
	}
	v.rd, v.wr, v.forced, v.flush = mask(w.rd), mask(w.wr), mask(w.forced), mask(w.flush)
	if w.loner != 0 {
		v.loner = p.cl[w.loner-1] + 1
	}
	if o := w.x & 15; o > 1 {
		v.x = w.x&16 | p.cl[o-2] + 2
	}
	for i, to := range p.cl {
		v.cl[to] = w.cl[i]
	}
	v.gather, v.due = 0, w.due&1
	for r, to := range p.rep {
		v.rep[to] = w.rep[r]
		v.gather |= w.gather >> r & 1 << to
		v.due |= w.due >> (r + 1) & 1 << (to + 1)
	}
	return v
}

var hashSeed = maphash.MakeSeed()

// key stands for w and all that it may be renamed to: 64 bits, as two different states among
// 2^25 share one with a chance of one in 30 000.
func (w *world) key(rs []renaming) uint64 {
	k := maphash.Comparable(hashSeed, *w)
	for i := 1; i < len(rs); i++ {
		k = min(k, maphash.Comparable(hashSeed, w.rename(&rs[i])))
	}
	return max(k, 1)
}

// hashSet holds nonzero keys at eight bytes each, open addressing.
type hashSet struct {
	slot []uint64
	n    int
}

// add reports whether k was new.
func (s *hashSet) add(k uint64) bool {
	if 10*(s.n+1) > 7*len(s.slot) {
		old := s.slot
		s.slot, s.n = make([]uint64, max(1<<12, 2*len(old))), 0
		for _, o := range old {
			if o != 0 {
				s.add(o)
			}
		}
	}
	mask := uint64(len(s.slot) - 1)
	for i := k & mask; ; i = (i + 1) & mask {
		switch s.slot[i] {
		case k:
			return false
		case 0:
			s.slot[i] = k
			s.n++
			return true
		}
	}
}
