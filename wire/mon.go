package wire

// The conversation of daemons, clients and tools with a monitor. A request carries a tid and
// gets one answer with that tid: its own reply, or MonNotLeader when the monitor does not
// lead; whoever asked goes to the leader and asks again, so every request may arrive twice
// and means the same both times. Maps are pushed without a tid.
const (
	TMonSubscribe Type = BaseMon + iota
	TMonMaps
	TMonNotLeader
	TMonReply
	TOSDBoot
	TOSDBooted
	TOSDStopping
	TOSDStats
	TOSDFailure
	TPGCAS
	TPGCASReply
	TBlocklistAdd
	TMDSBeacon
	TMDSBeaconAck
	TInoRange
	TInoRangeReply
	TMonCommand
	TMonCommandReply
	TMonHello
	TMonStanding
	TMonJoin
	TMonJoined
)

func init() {
	Register[MonSubscribe]()
	Register[MonMaps]()
	Register[MonNotLeader]()
	Register[MonReply]()
	Register[OSDBoot]()
	Register[OSDBooted]()
	Register[OSDStopping]()
	Register[OSDStats]()
	Register[OSDFailure]()
	Register[PGCAS]()
	Register[PGCASReply]()
	Register[BlocklistAdd]()
	Register[MDSBeacon]()
	Register[MDSBeaconAck]()
	Register[InoRange]()
	Register[InoRangeReply]()
	Register[MonCommand]()
	Register[MonCommandReply]()
	Register[MonHello]()
	Register[MonStanding]()
	Register[MonJoin]()
	Register[MonJoined]()
}

// MonSubscribe asks for maps newer than those the sender has, now and whenever there are
// any. It is answered by MonMaps at once (by an empty one when there is nothing newer), and
// a second one on the same connection is a question what is newest.
type MonSubscribe struct {
	_msgpack struct{} `msgpack:",as_array"`
	OSDEpoch Epoch
	FSEpoch  Epoch
}

// MonMaps carries the newest maps, encoded by clustermap: the OSDMap whole or as what
// changed since OSDBase, the FSMap whole. Empty fields: nothing newer.
type MonMaps struct {
	_msgpack struct{} `msgpack:",as_array"`
	Cluster  UUID
	OSDBase  Epoch // of OSDDelta
	OSDFull  []byte
	OSDDelta []byte
	FSMap    []byte
	MonMap   []byte
}

// MonNotLeader answers any request to a monitor that does not lead.
type MonNotLeader struct {
	_msgpack struct{} `msgpack:",as_array"`
	Leader   string   // address for clients and daemons; empty: none known now
}

// MonReply answers requests that have no reply of their own. Epoch is the OSDMap epoch that
// holds the change.
type MonReply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	Epoch    Epoch
}

// Member is an OSD with the store it has (rule R1).
type Member struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       OSDID
	UUID     UUID
}

// OSDBoot announces a life of an OSD (rules R2, M4); also sent again by one that sees itself
// marked down. The OSD does nothing for a PG until its map's entry for it has Instance, is
// up, and the map is at least BootEpoch old.
type OSDBoot struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       OSDID
	UUID     UUID
	Instance Instance
	Addr     string
	Host     string // failure domain; empty: "host-osd.<id>"
	Rack     string // empty: none
	Class    string // device class: "ssd", "hdd", or empty
	Weight   uint32 // 16.16 fixed point; 0: from Total (1 TiB = 1.0), at least 1/64
	Total    uint64 // bytes of its store
	Used     uint64
}

// OSDBooted answers OSDBoot. Errno: EEXIST this uuid is known under another id; EINVAL;
// EAGAIN it went up and down too often and is to ask again after WaitMs.
type OSDBooted struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	Epoch    Epoch
	WaitMs   uint32
}

// OSDStopping asks to be marked down at once: a clean stop. Answered by MonReply.
type OSDStopping struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       OSDID
	Instance Instance
}

// OSDStats is an OSD's sign of life, every second: one-way.
type OSDStats struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       OSDID
	Instance Instance
	Epoch    Epoch // newest OSDMap it has
	Total    uint64
	Used     uint64
	PGs      []PGStat // of the PGs it is primary of; may be sent less often
}

// PGStat is what a primary says of a PG, for people.
type PGStat struct {
	_msgpack    struct{} `msgpack:",as_array"`
	PG          PGID
	Interval    uint64
	State       string // "active", "reconciling", "waiting", …
	Waits       string // whom it waits for; empty: nobody
	Objects     uint64
	Bytes       uint64
	Missing     uint64   // objects that learners still lack
	Healed      uint64   // damaged copies replaced by good ones, under this primary
	Broken      uint64   // objects of which no good copy is left, or nobody knows which is the good one
	BrokenNames []string // the first of these
}

// OSDFailure says that a peer does not answer: one-way, repeated while it is so. Alive takes
// an earlier report back.
type OSDFailure struct {
	_msgpack struct{} `msgpack:",as_array"`
	Reporter OSDID
	Target   OSDID
	Instance Instance // of the target
	SilentMs uint32
	Refused  bool // its host refuses connections to its port: the process is gone
	Alive    bool
}

// PGCAS proposes a change of one PG's configuration, valid only in Interval (rule M1). The
// monitors work the new configuration out, the primary included (M2); what is asked for must
// hold in one piece or nothing is done. Members and learners are named by id and store.
//
//	AddLearners   any OSD of the up set, itself; or the primary
//	DropLearners  the learner itself, or the primary
//	AddMember     only the primary, of a learner that is pending (R9)
//	DropMembers   only the primary (silent member, M3; surplus), or a member for itself
//	MovePrimary   a member: back to the order of the up set
type PGCAS struct {
	_msgpack     struct{} `msgpack:",as_array"`
	PG           PGID
	Interval     uint64
	From         OSDID
	Instance     Instance // of From, as it booted
	AddLearners  []Member
	DropLearners []Member
	AddMembers   []Member
	DropMembers  []Member
	MovePrimary  bool
	Reason       string
}

// PGCASReply answers it. Errno 0: done, in Epoch. ESTALE: Interval is not the present one
// (a repeated request that succeeded before looks like this too: look at the map).
// EAGAIN: rule M5 holds it back now, ask again. EPERM, EINVAL: never.
type PGCASReply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	Epoch    Epoch  // of the map that has the outcome
	Interval uint64 // present one
}

// BlocklistAdd fences an instance (rule M6); Clean: it ended by itself. Answered by MonReply
// with the epoch that fences it, the first one when it was fenced before.
type BlocklistAdd struct {
	_msgpack struct{} `msgpack:",as_array"`
	Instance Instance
	Reason   string
	Clean    bool
}

// MDSBeacon is a metadata daemon's sign of life and wish. State is a clustermap.RankState:
// RankBoot wants anything; the holder of a rank names the state it is in or wants to enter.
// RankStopped: it ended cleanly and answers nothing any more; the ack confirms it.
type MDSBeacon struct {
	_msgpack struct{} `msgpack:",as_array"`
	Seq      uint64
	Name     string
	Instance Instance
	Addr     string
	Rank     Rank // NoRank: none
	State    uint8
	Subtrees uint32 // directories that the rank owns: with any it cannot stop
}

// MDSBeaconAck acks beacon Seq (rule LS: only by a confirmed leader and only to a holder
// whose successor is not decided). Rank and State are what the FSMap of FSEpoch says.
// Replaced, Seq 0: this instance is out; it must exit without writing.
type MDSBeaconAck struct {
	_msgpack struct{} `msgpack:",as_array"`
	Seq      uint64
	Rank     Rank
	State    uint8
	FSEpoch  Epoch
	OSDEpoch Epoch
	Replaced bool
}

// InoRange asks for another range of 2^40 inode numbers for a rank.
type InoRange struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     Rank
	Instance Instance
}

// InoRangeReply gives range Range: numbers from Range<<40 up to (Range+1)<<40.
type InoRangeReply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	Range    uint64
}

// MonCommand is an operator's command: JSON of an array of words, e.g. ["osd","tree"].
type MonCommand struct {
	_msgpack struct{} `msgpack:",as_array"`
	Args     []byte
}

// MonCommandReply answers in JSON, or with an errno and a message.
type MonCommandReply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	JSON     []byte
}

// WireType methods of the monitor conversation.
func (*MonSubscribe) WireType() Type    { return TMonSubscribe }
func (*MonMaps) WireType() Type         { return TMonMaps }
func (*MonNotLeader) WireType() Type    { return TMonNotLeader }
func (*MonReply) WireType() Type        { return TMonReply }
func (*OSDBoot) WireType() Type         { return TOSDBoot }
func (*OSDBooted) WireType() Type       { return TOSDBooted }
func (*OSDStopping) WireType() Type     { return TOSDStopping }
func (*OSDStats) WireType() Type        { return TOSDStats }
func (*OSDFailure) WireType() Type      { return TOSDFailure }
func (*PGCAS) WireType() Type           { return TPGCAS }
func (*PGCASReply) WireType() Type      { return TPGCASReply }
func (*BlocklistAdd) WireType() Type    { return TBlocklistAdd }
func (*MDSBeacon) WireType() Type       { return TMDSBeacon }
func (*MDSBeaconAck) WireType() Type    { return TMDSBeaconAck }
func (*InoRange) WireType() Type        { return TInoRange }
func (*InoRangeReply) WireType() Type   { return TInoRangeReply }
func (*MonCommand) WireType() Type      { return TMonCommand }
func (*MonCommandReply) WireType() Type { return TMonCommandReply }

// WireVersion is 2 since a PG's broken objects are named.
func (*OSDStats) WireVersion() byte { return 2 }

// MonHello is what a monitor asks another one, leader or not: who are you, and is there a
// cluster? One whose directory is empty so learns whether it is new or has lost its store.
type MonHello struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
}

// MonStanding answers MonHello.
type MonStanding struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Member   string   // its identity in the quorum: its name, and after a loss of its store a number besides
	Made     bool     // it knows of a cluster that has been made
	Index    uint64   // of its newest log entry
	Members  []string // identities of that quorum
}

// MonJoin asks the leader to take a monitor that has lost its store into the quorum again,
// under a new identity; sent again until MonJoined says that it votes. Applied is how far
// its copy of the log has come.
type MonJoin struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Member   string
	Addr     string
	RaftAddr string
	Applied  uint64
}

// MonJoined answers MonJoin. Errno: EPERM the name is not one of this quorum, EEXIST a
// monitor of that name lives; EAGAIN ask again.
type MonJoined struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	Voter    bool
}

// WireType implements Message.
func (*MonHello) WireType() Type { return TMonHello }

// WireType implements Message.
func (*MonStanding) WireType() Type { return TMonStanding }

// WireType implements Message.
func (*MonJoin) WireType() Type { return TMonJoin }

// WireType implements Message.
func (*MonJoined) WireType() Type { return TMonJoined }
