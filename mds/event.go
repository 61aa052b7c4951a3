package mds

import (
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// SessionKey names a session: the nonce of the client's instance, which is never drawn twice.
// 0 is the rank itself.
type SessionKey uint64

// EventKind says which fields of an Event count.
type EventKind uint8

// Kinds of events.
const (
	// FromSession: Msg with Tid came from Session (for SessionOpen: the instance of the hello).
	FromSession EventKind = iota + 1
	// SessionGone: the transport of Session ended for good (its lossless session cannot resume).
	SessionGone
	// JournalDone: the write that was asked for at Off is durable.
	JournalDone
	// ObjectDone: the operation with Token ended.
	ObjectDone
	// Tick: time passed; sent at or after Effects.NextTick.
	Tick
	// Blocklisted: Instance is fenced from OSDMap epoch Epoch on.
	Blocklisted
	// Maps: a newer OSDMap or FSMap is known.
	Maps
	// Stop: finish cleanly: flush, close.
	Stop
	// FromPeer: Msg came from the holder of Rank.
	FromPeer
	// PeerUp: a session toward Rank begins anew, or one from there.
	PeerUp
	// Start: the first event; the rank reads its journal, or makes it.
	Start
)

// Event is one thing that happened. It is a flat value so that the hot path makes no garbage.
type Event struct {
	Kind    EventKind
	Now     int64     // monotonic nanoseconds
	Wall    wire.Time // the clock on the wall, for timestamps of files
	Session SessionKey
	Tid     uint64
	Msg     wire.Message

	Off journal.Pos

	Token uint64
	Errno uint32
	Res   []wire.ObjResult

	Rank     wire.Rank // of a peer
	Instance wire.Instance
	Epoch    wire.Epoch

	OSDMap *clustermap.OSDMap
	FSMap  *clustermap.FSMap
}
