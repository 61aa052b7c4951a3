package wire

import "fmt"

// Messages of the messenger itself: the hello that opens every stream, and the two control
// frames of a lossless session. Users of msgr never see them.
const (
	THello Type = BaseCommon + 1 + iota
	THelloRefused
	TSessionAck
	TGoodbye
)

func init() {
	Register[Hello]()
	Register[HelloRefused]()
	Register[SessionAck]()
	Register[Goodbye]()
}

// Hello is the first frame in each direction: the dialling side speaks, the accepting side
// answers with its own Hello or with HelloRefused.
type Hello struct {
	_msgpack struct{} `msgpack:",as_array"`
	Cluster  UUID     // zero: not known yet (a tool, a daemon before its first map)
	Instance Instance
	Addr     string // where this side listens; empty: nowhere
	Features uint64 // what it can do
	Need     uint64 // what the other side must be able to do
	Session  SessionHello
}

// SessionHello opens or resumes a lossless session; a zero ID means a plain connection.
type SessionHello struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       UUID     // drawn by the dialling side
	Resume   bool     // the session exists: go on after Received
	Received uint64   // number of the last frame that arrived here
}

// RefuseCode says why a hello was refused.
type RefuseCode uint8

// Reasons of a refusal.
const (
	RefusedCluster        RefuseCode = iota + 1 // the two belong to different clusters
	RefusedFeatures                             // one needs what the other cannot do
	RefusedUnknownSession                       // resume of a session that this side does not know
	RefusedByUser                               // the daemon does not want this peer (closing, blocklisted)
	RefusedProtocol                             // the hello made no sense
)

var refuseNames = [...]string{"?", "another cluster", "features", "unknown session", "not accepted", "protocol"}

func (c RefuseCode) String() string {
	if int(c) < len(refuseNames) {
		return refuseNames[c]
	}
	return fmt.Sprintf("refusal%d", uint8(c))
}

// HelloRefused ends the connection before it began.
type HelloRefused struct {
	_msgpack struct{} `msgpack:",as_array"`
	Code     RefuseCode
	Reason   string
}

// SessionAck carries nothing but its frame header's ack: sent when much has arrived and
// nothing goes the other way that could carry it.
type SessionAck struct {
	_msgpack struct{} `msgpack:",as_array"`
}

// Goodbye ends a session for good; without it a break is taken for an accident.
type Goodbye struct {
	_msgpack struct{} `msgpack:",as_array"`
}

// WireType methods of the messenger's own messages.
func (*Hello) WireType() Type        { return THello }
func (*HelloRefused) WireType() Type { return THelloRefused }
func (*SessionAck) WireType() Type   { return TSessionAck }
func (*Goodbye) WireType() Type      { return TGoodbye }
