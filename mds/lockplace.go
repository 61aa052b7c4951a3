package mds

import "github.com/capstan-fs/capstan/wire"

// A waiter's place in the queue of a file lock is told to its client (LockQueued), which declares
// it to the next rank (4.13). A lock that goes from hand to hand would so cost a message and a
// wake-up more each time, for an order that is over before it could be lost. So the place is told
// when the wait has lasted tellAfter. Who has waited for less when the rank dies says for how long
// (ReconnectLock.WaitedUs), and is put behind those who know their place in the order of that:
// they all came after them.
const (
	tellAfter    = 50e6 // ns
	tellTogether = 25e6 // ns: what is due so soon is told by the same tick
)

// untold is a waiter whose client does not know its place yet.
type untold struct {
	q   *request
	id  uint64
	due int64
}

// tellPlaceLater notes that q was queued now.
func (r *Rank) tellPlaceLater(q *request) {
	r.forgetPlaces()
	r.untold = append(r.untold, untold{q, q.set.Owner.Req, r.now + tellAfter})
}

// forgetPlaces drops the first ones that wait no more, so that nothing is due when all were served.
func (r *Rank) forgetPlaces() {
	for len(r.untold) > 0 && r.flocking[r.untold[0].id] != r.untold[0].q {
		r.untold[0] = untold{}
		r.untold = r.untold[1:]
	}
}

// tellPlaces tells those who have waited long enough, in the order in which they were queued.
func (r *Rank) tellPlaces() {
	for len(r.untold) > 0 && r.untold[0].due <= r.now+tellTogether {
		u := r.untold[0]
		r.untold[0] = untold{}
		r.untold = r.untold[1:]
		if r.flocking[u.id] == u.q {
			u.q.told = true
			r.send(u.q.sess, 0, 0, &wire.LockQueued{Tid: u.q.Tid, Ticket: u.q.place})
		}
	}
	r.forgetPlaces()
}
