package wire

import "fmt"

// The conversations of OSDs: clients with primaries (OSDOp, OSDReply) and members of a PG among
// themselves (osd-replication.md §3). Nothing here needs a lossless session. Bulk bytes travel
// in the frame's data segment, cut by the DataLen fields in the order of the steps.
const (
	TOSDOp Type = BaseOSD + iota
	TOSDReply
	TRepl
	TReplAck
	TReplNack
	TRecon
	TReconState
	TReconFix
	TLearnReq
	TLearnStart
	TCopyNext
	TCopyRange
	TCopyGet
	TCopyObj
	TScrubReq
	TScrubMap
	TObjFetch
	TObjFetched
	TObjMend
	TPGScrub
	TPGScrubReply
	TLeaseReq
	TLeaseGrant
	TLeaseReleased
	TOSDPing
	TOSDPong
	TPGList
	TPGListed
	TReadLeaseReq
	TReadLease
	TObjBad
	TPGLook
	TPGLooked
)

func init() {
	Register[OSDOp]()
	Register[OSDReply]()
	Register[Repl]()
	Register[ReplAck]()
	Register[ReplNack]()
	Register[Recon]()
	Register[ReconState]()
	Register[ReconFix]()
	Register[LearnReq]()
	Register[LearnStart]()
	Register[CopyNext]()
	Register[CopyRange]()
	Register[CopyGet]()
	Register[CopyObj]()
	Register[ScrubReq]()
	Register[ScrubMap]()
	Register[ObjFetch]()
	Register[ObjFetched]()
	Register[ObjMend]()
	Register[PGScrub]()
	Register[PGScrubReply]()
	Register[LeaseReq]()
	Register[LeaseGrant]()
	Register[LeaseReleased]()
	Register[OSDPing]()
	Register[OSDPong]()
	Register[PGList]()
	Register[PGListed]()
	Register[ReadLeaseReq]()
	Register[ReadLease]()
	Register[ObjBad]()
	Register[PGLook]()
	Register[PGLooked]()
}

// Limits of object operations.
const (
	MaxObjectBytes = 64 << 20 // size of one object
	MaxOpData      = 16 << 20 // data bytes of one operation, either way
	MaxObjOps      = 64       // steps of one vector
	MaxObjName     = 255      // bytes
)

// OSDOpFlags modify an operation.
type OSDOpFlags uint8

// Flags of operations.
const (
	// OSDFullTry may use the reserve between full and failsafe: a rank's journal, purge, unlink.
	OSDFullTry OSDOpFlags = 1 << iota
	// OSDResent marks an operation that was sent before, for counters only.
	OSDResent
	// OSDAnyMember: a member that is not the primary may answer, if it may; it only reads.
	OSDAnyMember
)

// OSDOp is a vector of steps on one object; the frame's tid is the operation's, the instance is
// the connection's. Epoch is the barrier: the OSD answers under a map at least as new.
type OSDOp struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    Epoch
	Oldest   Tid // oldest tid of the instance that has no answer yet (≤ the frame's tid)
	PG       PGID
	Object   string
	Flags    OSDOpFlags
	Ops      []ObjOp
}

// OSDStatus says whether an OSDReply is the answer of the operation.
type OSDStatus uint8

// Statuses. Only OSDDone is an answer; after the others the tid is still open.
const (
	OSDDone        OSDStatus = iota
	OSDWrong                 // not the primary under Epoch, or too new a map is needed: look again
	OSDBlocklisted           // the instance is fenced
	OSDFull                  // ENOSPC, nothing was logged
)

// OSDReply answers OSDOp (same tid).
type OSDReply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Status   OSDStatus
	Epoch    Epoch // of the OSD's map
	Errno    uint32
	Version  Version // the object's, after a write the entry's
	Ops      []ObjResult
}

// LogEntry is what every replica's log keeps of an operation (§2). The bytes of the transaction
// are not in it: they are in the objects, and a replica that lacks an entry gets copies.
type LogEntry struct {
	_msgpack struct{} `msgpack:",as_array"`
	Version  Version
	Prev     Version // the entry before (R3)
	Object   string
	Prior    Version // the object's version before; zero: it did not exist
	After    Version // the object's version after: Version, zero when removed, Prior when unchanged
	Client   Instance
	Tid      Tid
	Oldest   Tid // the client's oldest unanswered tid when the op was logged
	Errno    uint32
	NOps     uint8
	Results  []ObjResult // empty when every step has the zero result
	ResData  []byte      // data of Results
}

// ReplEntry is an entry on its way to a replica: Rec is the encoded LogEntry, Muts the steps with
// resulting bytes. NoMuts: the sender no longer has them (only ever sent to a learner).
type ReplEntry struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rec      []byte
	NoMuts   bool
	Muts     []ObjOp
}

// Repl carries new entries from the primary to a member or learner.
type Repl struct {
	_msgpack  struct{} `msgpack:",as_array"`
	PG        PGID
	Interval  uint64
	Epoch     Epoch // the sender's map
	Prev      Version
	Entries   []ReplEntry
	Committed Version
	Sent      int64 // lease request: the sender's clock
}

// ReplAck says what is durable at a replica, in its adopted interval.
type ReplAck struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Version  Version // last durable
	Sent     int64   // lease granted for the request sent then; 0: none
	Confirm  bool    // answers Recon: this log equals the primary's
	Gap      bool    // entries after Version are missing
	Copied   bool    // learner: every object compared, none missing, all durable
	Missing  uint64  // learner: objects that it knows to lack
}

// ReplNack answers a message of an older interval.
type ReplNack struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Epoch    Epoch
}

// Recon opens the reconciliation of a new interval: Last is the primary's last version.
type Recon struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Epoch    Epoch
	Last     Version
	Sent     int64
}

// ReconState is the answer of a member whose last differs: its log above what it knows committed.
// With Damaged it asks for a fix: an entry behind Committed, where its log ends, builds on bytes of
// its own copies of these objects that it cannot read.
type ReconState struct {
	_msgpack  struct{} `msgpack:",as_array"`
	PG        PGID
	Interval  uint64
	Committed Version
	Versions  []Version // of its entries above Committed, oldest first
	Objects   []string  // their objects
	Damaged   []string
}

// ReconFix brings a member's log to the primary's: cut to Common, take Entries, replace Objects;
// all parts are staged and installed in one transaction (R8). Mends: the answer to a request with
// Damaged. It cuts nothing: Tail are the entries behind Common up to Upto, in the order of the
// parts, each with its transaction unless its object is among Objects; their data lies behind that of
// the objects. Uncounted, and nothing else: the learner's acknowledgements do not count, it may lack
// what it cannot take.
type ReconFix struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Common   Version
	Part     uint32
	Parts    uint32
	Entries  [][]byte // encoded LogEntry, in part 0 only
	Objects  []ObjCopy

	Mends     bool
	Uncounted bool
	Upto      Version
	Tail      []ReplEntry
}

// Extent is a run of bytes of an object.
type Extent struct {
	_msgpack struct{} `msgpack:",as_array"`
	Off      uint64
	Len      uint64
}

// ObjVersion is an object's name and version.
type ObjVersion struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Version  Version
}

// ObjCopy is a whole object. Its data is in the segment, one extent after the other.
type ObjCopy struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Absent   bool
	Version  Version
	Size     uint64
	Extents  []Extent
	Xattrs   []KV
	Omap     []KV
	Bad      []Extent // no good bytes are left of these: zeros stand for them, and nobody may see them
	BadKeys  []string // of the omap: what they had cannot be read
	Data     []byte   `msgpack:"-"`
}

// Damaged reports whether something of the copy cannot be read.
func (c *ObjCopy) Damaged() bool { return len(c.Bad)+len(c.BadKeys) > 0 }

// DataLen is how much of the data segment is the object's.
func (c *ObjCopy) DataLen() (n uint64) {
	for _, e := range c.Extents {
		n += e.Len
	}
	return n
}

// LearnReq is a learner asking the primary to be filled. Complete: its copy was finished in this
// interval and its log ends at Last; only the entries after that are needed. Sound: every object
// is at the state that its log ends with, so that what differs lies behind the last common
// version; Versions and Objects tell what the log holds beyond Committed.
type LearnReq struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Epoch    Epoch
	Nonce    uint64
	Complete bool
	Last     Version

	Sound     bool
	Committed Version
	Versions  []Version
	Objects   []string
}

// LearnStart makes the learner's log start at From with the dedup table as of From. ByLog: its
// own log is the primary's up to From, goes on from there, and names what it lacks.
type LearnStart struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Nonce    uint64
	Resume   bool // answer to Complete: keep the log
	ByLog    bool // answer to Sound: cut the log to From
	From     Version
	Dedup    []DedupClient
}

// DedupClient is one instance's part of the table of results.
type DedupClient struct {
	_msgpack struct{} `msgpack:",as_array"`
	Client   Instance
	Oldest   Tid
	Recs     [][]byte // encoded LogEntry
}

// CopyNext asks for the versions of objects after a name.
type CopyNext struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Nonce    uint64
	After    string
}

// CopyRange lists all objects in (After, Upto] as of version At. End: there are none after Upto.
type CopyRange struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Nonce    uint64
	At       Version
	After    string
	Upto     string
	End      bool
	Objects  []ObjVersion
}

// CopyGet asks for objects.
type CopyGet struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Names    []string
}

// CopyObj is an object as of version At of the primary's log.
type CopyObj struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	At       Version
	Object   ObjCopy
}

// ScrubReq (primary to member) asks what it has of the objects with names in (After, Upto],
// or all after After with End. Deep: read them.
type ScrubReq struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Seq      uint64
	After    string
	Upto     string
	End      bool
	Deep     bool
}

// ScrubObj is one object as a replica has it.
type ScrubObj struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Version  Version
	Size     uint64
	Digest   uint64 // of data, xattrs and omap; 0 unless deep
	Bad      bool   // its checksums do not fit: it cannot be read
}

// ScrubMap answers ScrubReq, sorted by name.
type ScrubMap struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Seq      uint64
	Objects  []ScrubObj
}

// ObjFetch (primary to member) asks for a whole object, because the own copy is damaged.
type ObjFetch struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Name     string
}

// ObjFetched answers ObjFetch. Bad: this copy is damaged too.
type ObjFetched struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Bad      bool
	Object   ObjCopy
}

// ObjMend (primary to member) replaces an object by a good copy, as of version At of the log.
type ObjMend struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	At       Version
	Object   ObjCopy
}

// PGScrub (tool to primary) asks to compare the replicas of a PG now; Deep: byte for byte;
// Repair: also replace what differs from the majority.
type PGScrub struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Deep     bool
	Repair   bool
	Look     bool // begin nothing: what has the present or last one found?
}

// PGScrubReply answers PGScrub at once: what was found so far. Errno: EAGAIN not the primary
// of an active PG, or one runs already.
type PGScrubReply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	Text     string
	Deep     bool
	Running  bool
	Objects  uint64
	Bytes    uint64 // read on each replica
	Skipped  uint64 // changed meanwhile
	Bad      uint64 // copies with a wrong checksum
	Differ   uint64 // copies that differ from the majority
	Mended   uint64 // copies replaced
	Unsure   uint64 // objects of which nobody knows which copy is good
}

// PGList (tool to primary) asks for the objects of a PG behind a name, at most Max.
type PGList struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	After    string
	Max      uint32
}

// PGObject is one object of a listing.
type PGObject struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Size     uint64
}

// PGListed answers PGList, sorted by name, with the newest state, committed or not. Errno:
// EAGAIN not the primary of an active PG.
type PGListed struct {
	_msgpack struct{} `msgpack:",as_array"`
	Errno    uint32
	More     bool
	Objects  []PGObject
	PGNum    uint32 // of the pool, that the PG was divided for when these were listed
}

// PGLook (tool to any OSD) asks what it has of a PG, whether it takes part in it or not.
type PGLook struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
}

// PGLooked answers PGLook. Whole: no copying to it was begun and not ended.
type PGLooked struct {
	_msgpack  struct{} `msgpack:",as_array"`
	Have      bool
	Whole     bool
	Role      string
	Last      Version // of its log
	Committed Version // as it knows
	Objects   uint64
}

// PGInterval names an interval of a PG.
type PGInterval struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
}

// LeaseReq asks for leases on many PGs at once (R6); Sent is the sender's clock.
type LeaseReq struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    Epoch
	Sent     int64
	PGs      []PGInterval
}

// LeaseGrant grants those that are adopted in exactly that interval.
type LeaseGrant struct {
	_msgpack struct{} `msgpack:",as_array"`
	Sent     int64
	PGs      []PGInterval
}

// LeaseReleased: the sender answers nothing any more for intervals of the PG below Interval. Lent
// are the read leases that still run of those whom it has let answer reads: the receiver heeds them.
type LeaseReleased struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Lent     []Lent
}

// Lent is a member's read lease and how long it may still run.
type Lent struct {
	_msgpack struct{} `msgpack:",as_array"`
	Member   Member
	Ns       int64
}

// ReadLeaseReq (member to primary) asks for leave to answer reads of PGs; Sent is the sender's clock.
type ReadLeaseReq struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    Epoch    // of the sender's map: the primary catches up
	Sent     int64
	PGs      []PGInterval
}

// ReadLease gives that leave, for operations whose epoch is at most Epoch, the primary's.
type ReadLease struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    Epoch
	Sent     int64 // echoed
	PGs      []PGRead
}

// PGRead is leave to answer reads of a PG for Ns from ReadLease.Sent on, and what is committed.
type PGRead struct {
	_msgpack  struct{} `msgpack:",as_array"`
	PG        PGID
	Interval  uint64
	Ns        int64
	Committed Version
}

// ObjBad (member to primary) reports a copy that cannot be read; ObjMend replaces it.
type ObjBad struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       PGID
	Interval uint64
	Name     string
}

// OSDPing asks a silent peer whether it lives.
type OSDPing struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    Epoch
}

// OSDPong is the answer.
type OSDPong struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    Epoch
}

// WireType methods of the conversation.
func (*OSDOp) WireType() Type         { return TOSDOp }
func (*OSDReply) WireType() Type      { return TOSDReply }
func (*Repl) WireType() Type          { return TRepl }
func (*ReplAck) WireType() Type       { return TReplAck }
func (*ReplNack) WireType() Type      { return TReplNack }
func (*Recon) WireType() Type         { return TRecon }
func (*ReconState) WireType() Type    { return TReconState }
func (*ReconFix) WireType() Type      { return TReconFix }
func (*LearnReq) WireType() Type      { return TLearnReq }
func (*LearnStart) WireType() Type    { return TLearnStart }
func (*CopyNext) WireType() Type      { return TCopyNext }
func (*CopyRange) WireType() Type     { return TCopyRange }
func (*CopyGet) WireType() Type       { return TCopyGet }
func (*CopyObj) WireType() Type       { return TCopyObj }
func (*ScrubReq) WireType() Type      { return TScrubReq }
func (*ScrubMap) WireType() Type      { return TScrubMap }
func (*ObjFetch) WireType() Type      { return TObjFetch }
func (*ObjFetched) WireType() Type    { return TObjFetched }
func (*ObjMend) WireType() Type       { return TObjMend }
func (*PGScrub) WireType() Type       { return TPGScrub }
func (*PGScrubReply) WireType() Type  { return TPGScrubReply }
func (*LeaseReq) WireType() Type      { return TLeaseReq }
func (*LeaseGrant) WireType() Type    { return TLeaseGrant }
func (*LeaseReleased) WireType() Type { return TLeaseReleased }
func (*OSDPing) WireType() Type       { return TOSDPing }
func (*OSDPong) WireType() Type       { return TOSDPong }
func (*PGList) WireType() Type        { return TPGList }
func (*PGListed) WireType() Type      { return TPGListed }
func (*ReadLeaseReq) WireType() Type  { return TReadLeaseReq }
func (*ReadLease) WireType() Type     { return TReadLease }
func (*ObjBad) WireType() Type        { return TObjBad }
func (*PGLook) WireType() Type        { return TPGLook }
func (*PGLooked) WireType() Type      { return TPGLooked }

// CutOpData gives every step its part of the data segment.
func CutOpData(ops []ObjOp, data []byte) error {
	for i := range ops {
		n := int(ops[i].DataLen)
		if n > len(data) {
			return fmt.Errorf("wire: object step %d wants %d data bytes, %d are left", i, n, len(data))
		}
		ops[i].Data, data = data[:n:n], data[n:]
	}
	if len(data) != 0 {
		return fmt.Errorf("wire: %d data bytes belong to no object step", len(data))
	}
	return nil
}

// CutResultData gives every result its part of the data segment.
func CutResultData(rs []ObjResult, data []byte) error {
	for i := range rs {
		n := int(rs[i].DataLen)
		if n > len(data) {
			return fmt.Errorf("wire: object result %d wants %d data bytes, %d are left", i, n, len(data))
		}
		rs[i].Data, data = data[:n:n], data[n:]
	}
	return nil
}

// WireVersion: 2 since it carries what the replica lacks, knows, or cannot read.
func (*ReplAck) WireVersion() byte    { return 2 }
func (*LearnReq) WireVersion() byte   { return 2 }
func (*LearnStart) WireVersion() byte { return 2 }
func (*PGListed) WireVersion() byte   { return 2 }

// WireVersion: 2 since a replica names what it cannot read.
func (*ReconState) WireVersion() byte { return 2 }

// WireVersion: 4 since the entries of a fix come with their transactions.
func (*ReconFix) WireVersion() byte { return 4 }

// WireVersion: 3 since a copy of an object names the keys of its omap that cannot be read.
func (*CopyObj) WireVersion() byte    { return 3 }
func (*ObjFetched) WireVersion() byte { return 3 }
func (*ObjMend) WireVersion() byte    { return 3 }

// WireVersion: 2 since it carries what was lent.
func (*LeaseReleased) WireVersion() byte { return 2 }
