package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// RECALL (4.8) is a hint: the client trims what it does not use. Correctness never rests on
// it; REVOKE is an order.

const (
	minCaps     = 100         // a session is left so many
	recallStep  = 10_000      // and gives up so many at a time
	recallEvery = int64(50e6) // pressure is looked at so often
	recallAgain = int64(5e9)  // who has not given back half is asked again after
	recallWarn  = int64(60e9) // and named in the log after
	recallDecay = int64(1e9)  // half-life of the throttles
	recallOne   = 32_768      // of one session
	recallAll   = 65_536      // of all
)

// recallState is what a session was asked to trim.
type recallState struct {
	asked int   // caps asked back by the last RECALL
	owed  int   // those of them not released yet
	at    int64 // when it was sent
	since int64 // since when it gives back less than half, 0: it does not
	heat  decay // caps asked back lately
}

// decay is a counter that halves every recallDecay.
type decay struct{ n, at int64 }

func (d *decay) add(now, n int64) { d.n, d.at = d.read(now)+n, now }

func (d *decay) read(now int64) int64 {
	age := now - d.at
	halves := age / recallDecay
	if halves > 40 {
		return 0
	}
	n := d.n >> halves
	return n - n*(age%recallDecay)/(2*recallDecay) // straight between two halvings
}

// capBytes is what a cap keeps in the cache: itself and all that it pins.
func capBytes() int64 { return inodeCost + dentryCost + capCost + 16 }

// pressure is how many caps must come back: those that fill more than three quarters of the
// cache, before it is full; and whatever is over the bound when nothing else can go.
func (r *Rank) pressure() int {
	m, limit := &r.mem, r.cfg.CacheBytes
	over := int64(m.caps)*capBytes() - limit*3/4
	if over > 0 {
		over += limit / 16 // a little more, so that it is not asked for cap by cap
	}
	if m.starved && m.used > limit {
		over = max(over, m.used-limit+limit/16)
	}
	return int(max(0, over) / capBytes())
}

// recallUnderPressure looks at the end of a step whether caps must come back.
func (r *Rank) recallUnderPressure() {
	if r.now < r.mem.nextAsk || r.state != stateActive {
		return
	}
	if over := r.pressure(); over > 0 {
		r.mem.nextAsk = r.now + recallEvery
		r.recall(over)
	}
}

// recall asks the sessions with most caps to trim over of them.
func (r *Rank) recall(over int) {
	most := slices.Clone(r.order)
	slices.SortStableFunc(most, func(a, b *session) int { return b.caps.Len() - a.caps.Len() })
	for _, s := range most {
		if n := s.caps.Len(); over <= 0 || n <= minCaps {
			break
		}
		over -= r.recallFrom(s, over)
	}
}

// recallFrom asks s to trim up to n and returns how many are awaited of it now.
func (r *Rank) recallFrom(s *session, n int) int {
	l := &s.live.recall
	if s.state != sessOpen {
		return 0
	}
	if l.owed > l.asked/2 { // the release rate
		if l.since == 0 {
			l.since = r.now
		}
		if r.now-l.at < recallAgain {
			return l.owed
		}
	} else {
		l.since = 0
	}
	n = min(n, recallStep, s.caps.Len()-minCaps, int(recallOne-l.heat.read(r.now)), int(recallAll-r.mem.asked.read(r.now)))
	if n <= 0 {
		return 0
	}
	if l.since != 0 && r.now-l.since >= recallWarn {
		r.logf(LogWarn, "session %v (%s) holds %d caps and does not give up what it is asked for", s.instance, s.host, s.caps.Len())
		l.since = r.now
	}
	l.asked, l.owed, l.at = n, n, r.now
	l.heat.add(r.now, int64(n))
	r.mem.asked.add(r.now, int64(n))
	r.send(s, 0, 0, &wire.Recall{Max: uint32(s.caps.Len() - n)})
	return n
}

// tickRecall asks who holds more than a session may, and who was idle for long: an idle
// session is recalled to the least even without pressure, step by step.
func (r *Rank) tickRecall() (next int64) {
	for _, s := range r.order {
		n := s.caps.Len()
		if s.state != sessOpen || n <= minCaps {
			continue
		}
		if n > r.cfg.MaxCaps {
			r.recallFrom(s, n-r.cfg.MaxCaps)
			next = r.now + 1e9
			continue
		}
		due := s.live.lastWork + r.idleAfter()
		if due <= r.now {
			r.recallFrom(s, n-minCaps)
			due = r.now + 1e9
		}
		next = soonest(next, due)
	}
	if r.pressure() > 0 {
		next = soonest(next, r.now+recallEvery)
	}
	return next
}

// idleAfter: a session that has asked for nothing for so long is idle.
func (r *Rank) idleAfter() int64 { return r.autoclose() }
