package osd

import "github.com/capstan-fs/capstan/wire"

// sentTo remembers whom an entry's data was sent to, so that its bytes can be used again when
// no message refers to them any more: a member that acknowledges what it was sent once has
// read the one message that carried it.
type sentTo struct {
	ids   [maxSentTo]wire.OSDID
	insts [maxSentTo]wire.Instance
	n     int
	again bool // twice to one, or to too many: nobody knows which messages are still on their way
}

const maxSentTo = 4

func (s *sentTo) add(q *peer) {
	for i := range s.n {
		s.again = s.again || s.ids[i] == q.m.ID
	}
	if s.n == maxSentTo {
		s.again = true
		return
	}
	s.ids[s.n], s.insts[s.n] = q.m.ID, q.inst
	s.n++
}

// unsent: every message that carried the data of e, which all confirmed peers have
// acknowledged, has been read.
func (p *pg) unsent(e *entry) bool {
	if e.sent.again || e.h.Version.Interval != p.interval {
		return false
	}
	for i := range e.sent.n {
		q := p.peer(e.sent.ids[i])
		if q == nil || q.inst != e.sent.insts[i] || !q.confirmed || q.acked.Less(e.h.Version) {
			return false
		}
	}
	return true
}
