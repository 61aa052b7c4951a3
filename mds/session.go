package mds

import (
	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// sessionState is where a session is in its life (4.7).
type sessionState uint8

const (
	sessOpening   sessionState = iota // SessionOpened waits for its entry
	sessOpen                          //
	sessStale                         // no renewal for V(1+ε)
	sessEvicting                      // being fenced; nothing it says counts
	sessClosing                       // SessionClosed waits for its entry
	sessReconnect                     // after replay: known from the journal, not heard of yet
	sessDead                          // gone; a stale pointer may still name it
)

// session is one client. The first block is durable (tables.go), the second is about output
// and requests, the third about liveness and caps.
type session struct {
	key      SessionKey
	seq      uint64 // order of opening: the deterministic order of sessions everywhere
	instance wire.Instance
	host     string
	done     []doneReq // completed set, trimmed below oldest
	oldest   wire.Tid

	out     outQueue
	unsafe  []unsafeTid           // early answered or flushed, entry not durable yet; in order of position
	safe    wire.Tid              // highest watermark sent, or owed
	owed    wire.Tid              // watermark that rides on the next reply; 0: none
	owedAt  int64                 // … or leaves alone at this time
	replied int64                 // when the last reply left
	durable wire.Tid              // highest tid known durable
	parked  []*request            // in no order that means something
	queued  map[wire.Tid]*request // of those, who stand in the queue of a file lock

	state  sessionState
	caps   caps.List
	live   sessionLive  // F2
	replay []replayItem // resent during reconnect, run in clientreplay
}

// doneReq is one member of the completed set: the request took effect, with this inode.
type doneReq struct {
	_msgpack struct{} `msgpack:",as_array"`
	Tid      wire.Tid
	Ino      wire.Ino
}

type unsafeTid struct {
	tid wire.Tid
	pos journal.Pos
}

// replayItem is a request or a flush of clientreplay.
type replayItem struct {
	tid   wire.Tid
	req   *wire.Request
	flush *wire.CapUpdate
}

// isDone reports whether the request or flush took effect already, and with which inode.
func (s *session) isDone(tid wire.Tid) (wire.Ino, bool) {
	for i := len(s.done) - 1; i >= 0; i-- {
		if s.done[i].Tid == tid {
			return s.done[i].Ino, true
		}
	}
	return 0, false
}

// announce takes the client's oldest un-acked tid: what it finished below that is forgotten.
func (s *session) announce(oldest wire.Tid) {
	if oldest <= s.oldest || oldest >= wire.ReadTid {
		return
	}
	s.oldest = oldest
	if len(s.done) < 32 {
		return // cheaper to keep a few than to sift every time
	}
	keep := s.done[:0]
	for _, d := range s.done {
		if d.Tid >= oldest {
			keep = append(keep, d)
		}
	}
	s.done = keep
}
