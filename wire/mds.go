package wire

import "github.com/capstan-fs/capstan/caps"

// The conversation of a client with a rank. One session, one FIFO each way (rule Q-j). A
// request is answered by one Reply with the same tid; everything else is one-way.
const (
	TSessionOpen Type = BaseMDS + iota
	TSessionOpened
	TSessionClose
	TSessionClosed
	TRenew
	TRenewAck
	TRequest
	TReply
	TSafe
	TCapGrant
	TCapUpdate
	TCapRelease
	TCapBusy
	TRecall
	TLeaseRevoke
	TLeaseAck
	TLockCancel
	TReconnect
	TReconnected
	TEvicted
	TLockQueued
	TRedirect
)

func init() {
	Register[SessionOpen]()
	Register[SessionOpened]()
	Register[SessionClose]()
	Register[SessionClosed]()
	Register[Renew]()
	Register[RenewAck]()
	Register[Request]()
	Register[Reply]()
	Register[Safe]()
	Register[CapGrant]()
	Register[CapUpdate]()
	Register[CapRelease]()
	Register[CapBusy]()
	Register[Recall]()
	Register[LeaseRevoke]()
	Register[LeaseAck]()
	Register[LockCancel]()
	Register[Reconnect]()
	Register[Reconnected]()
	Register[Evicted]()
	Register[LockQueued]()
	Register[Redirect]()
}

// Redirect says that the rank has not run request Tid and will not: what it names by number, Ino,
// belongs to Rank as far as this one knows. The client asks there, under a tid of that session, and
// remembers. It shows no state, so it waits for nothing (ES3).
type Redirect struct {
	_msgpack struct{} `msgpack:",as_array"`
	Tid      Tid
	Ino      Ino
	Rank     Rank
}

// ---- session ---------------------------------------------------------------------------

// SessionOpen asks for a session. The rank answers SessionOpened once the open is durable.
type SessionOpen struct {
	_msgpack struct{} `msgpack:",as_array"`
	Instance Instance
	Host     string // for people: host name and mountpoint, shown by `capstan sessions`
}

// SessionOpened confirms it; the times are milliseconds (reference 4.7).
type SessionOpened struct {
	_msgpack     struct{} `msgpack:",as_array"`
	RankInstance Instance // a client that meets another one later reconnects
	ValidityMs   uint32   // V
	KernelMs     uint32   // K
	Barrier      Epoch    // OSDMap epoch that all I/O of this session carries
	LayoutPool   uint32   // data pool of new files
	ObjectSize   uint32   // bytes per data object of new files
	RootStat     InodeStat
}

// SessionClose ends the session; the client has flushed and released everything.
type SessionClose struct {
	_msgpack struct{} `msgpack:",as_array"`
}

// SessionClosed says that the end is durable.
type SessionClosed struct {
	_msgpack struct{} `msgpack:",as_array"`
}

// Renew asks for another V of validity. Seq is the client's; it remembers when it sent it.
type Renew struct {
	_msgpack struct{} `msgpack:",as_array"`
	Seq      uint64
}

// RenewAck names the renewal that it answers. Stale: the session had gone stale, caps may
// have been taken back; what was not taken follows in CapGrants.
type RenewAck struct {
	_msgpack struct{} `msgpack:",as_array"`
	Seq      uint64
	Stale    bool
	Barrier  Epoch
}

// Evicted tells an instance that its session is gone and its instance fenced.
type Evicted struct {
	_msgpack struct{} `msgpack:",as_array"`
	Reason   string
}

// Recall asks the client to trim to at most Max caps; a hint (4.8).
type Recall struct {
	_msgpack struct{} `msgpack:",as_array"`
	Max      uint32
}

// Safe is the watermark of section 7: everything ≤ Tid that it covers is durable, requests
// that were answered early and flushes alike.
type Safe struct {
	_msgpack struct{} `msgpack:",as_array"`
	Tid      Tid
}

// ---- requests --------------------------------------------------------------------------

// Op is a metadata operation.
type Op uint8

// Operations. "name operations" address (Ino = directory, Name); the others Ino alone.
const (
	OpLookup    Op = iota + 1 // name; ENOENT may carry a negative lease
	OpGetattr                 // Mask: attribute groups that must be current
	OpReaddir                 // Cookie, Max: entries after Cookie in hash order
	OpOpen                    // Ino; Want caps; Flags O_TRUNC handled by a Setattr before
	OpCreate                  // name; Mode, UID, GID, Want; O_EXCL in OpenFlags
	OpMkdir                   // name
	OpMknod                   // name; Mode with type, Rdev
	OpSymlink                 // name; Target
	OpLink                    // name = new name in Ino; Other = inode to link
	OpUnlink                  // name
	OpRmdir                   // name
	OpRename                  // name → (NewDir, NewName); RenameFlags
	OpSetattr                 // Ino; Set says which fields of Attr
	OpSetxattr                // Ino; Xname, Xval; OpenFlags XATTR_CREATE/REPLACE
	OpRmxattr                 // Ino; Xname
	OpGetxattrs               // Ino → InodeStat.Xattrs current
	OpSetlk                   // Ino; Lock: take or drop; Lock.Wait: may park (FIFO)
	OpGetlk                   // Ino; Lock → Reply.Lock
	OpTmpfile                 // Ino = directory: an inode with nlink 0, open
	OpStatfs                  // → Reply.Statfs
	OpGetvxattr               // Ino, Xname: a virtual xattr → Reply.Value
)

var opNames = [...]string{"?", "lookup", "getattr", "readdir", "open", "create", "mkdir", "mknod", "symlink", "link",
	"unlink", "rmdir", "rename", "setattr", "setxattr", "rmxattr", "getxattrs", "setlk", "getlk", "tmpfile", "statfs", "getvxattr"}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return "op?"
}

// Mutates reports whether the operation draws a tid of the session's counter and is kept by
// the client until safe. File locks are not journaled (4.13): they do not count.
func (o Op) Mutates() bool {
	switch o {
	case OpCreate, OpMkdir, OpMknod, OpSymlink, OpLink, OpUnlink, OpRmdir, OpRename, OpSetattr, OpSetxattr, OpRmxattr, OpTmpfile:
		return true
	}
	return false
}

// AttrMask names attribute groups, after the locks that cover them.
type AttrMask uint8

// Attribute groups.
const (
	MaskAuth  AttrMask = 1 << iota // mode, uid, gid, btime
	MaskLink                       // nlink
	MaskXattr                      // xattrs
	MaskFile                       // size, mtime, atime, blocks hint
	MaskAll   = MaskAuth | MaskLink | MaskXattr | MaskFile
)

// SetMask says which fields of SetAttr a setattr changes.
type SetMask uint16

// Fields of a setattr.
const (
	SetMode SetMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetAtimeNow // the rank's clock
	SetMtimeNow //
	SetCtime    // a cap flush or a client that owns times
	SetBtime    //
	SetKillSuid // write or truncate by an unprivileged user: clear setuid, and setgid if group-executable
	SetSparse   // the file may have holes from now on (st_blocks must be asked from the OSDs)
)

// ReqFlags qualify a request.
type ReqFlags uint8

// Request flags.
const (
	ReqReplay ReqFlags = 1 << iota // unsafe, resent during reconnect (7)
	ReqRetry                       // unanswered, resent to an active rank
)

// Rename flags, as renameat2's.
const (
	RenameNoReplace uint32 = 1 << iota
	RenameExchange
)

// Request is one metadata operation. Fields that the operation does not name are zero.
type Request struct {
	_msgpack    struct{} `msgpack:",as_array"`
	Tid         Tid      // also the frame's tid
	Oldest      Tid      // oldest mutating tid the client still keeps: completed records below it go
	Flags       ReqFlags
	Op          Op
	Ino         Ino
	Name        string
	NewDir      Ino
	NewName     string
	Other       Ino
	GivenIno    Ino // replay of a create: the number it was given
	UID, GID    uint32
	PID         uint32 // for people
	Mode        uint32
	Umask       uint32 // DONT_MASK: the rank applies it, unless a default ACL says otherwise
	Rdev        uint32
	Target      string
	RenameFlags uint32
	OpenFlags   uint32
	Want        caps.Bits // open, create: caps of the open mode
	Mask        AttrMask
	Set         SetMask
	Attr        SetAttr
	Xname       string
	Xval        []byte
	Cookie      uint64
	Max         uint32
	Lock        FileLock
	Release     []CapUpdate // cap bits given up together with the request (4.3): saves a revoke
}

// WireType implements Message, as do the methods of the same name below.
func (*Request) WireType() Type { return TRequest }

// SetAttr holds the new values of a setattr.
type SetAttr struct {
	_msgpack struct{} `msgpack:",as_array"`
	Mode     uint32
	UID, GID uint32
	Size     uint64
	Atime    Time
	Mtime    Time
	Ctime    Time
}

// Reply answers a request. Errno 0 is success.
type Reply struct {
	_msgpack struct{} `msgpack:",as_array"`
	Tid      Tid
	Errno    uint32
	Early    bool       // not yet durable: keep the request until Safe(≥ tid)
	Safe     Tid        // a watermark riding along, as if sent just before this reply; 0: none
	Dir      *InodeStat // the directory of a name operation, when the client should know (caps changed)
	Target   *InodeStat // what the name leads to, or the inode asked for
	Lease    *Lease     // for the name
	Entries  []DirEntry // readdir
	End      bool       // readdir: no entries follow
	Complete bool       // readdir: listing began at 0 and Fs was held throughout: it is complete
	Lock     FileLock   // getlk: the conflicting range, Type Unlock when none; setlk: ticket
	Statfs   *Statfs
	Dir2     *InodeStat // rename: the other directory
	Value    []byte     // getvxattr
	Far      *Far       // lookup: the name leads to a directory of another rank; no Target then
}

// Attr is what stat shows.
type Attr struct {
	_msgpack            struct{} `msgpack:",as_array"`
	Mode                uint32   // with the file type, as in stat
	UID, GID            uint32
	Nlink               uint32
	Rdev                uint32
	Size                uint64 // a directory's: number of entries
	Sparse              bool   // may have holes
	Atime, Mtime, Ctime Time
	Btime               Time
	Change              uint64 // rises with every change of the inode
}

// InodeStat shows an inode and what the client may keep of it.
type InodeStat struct {
	_msgpack   struct{} `msgpack:",as_array"`
	Ino        Ino
	Valid      AttrMask // groups of Attr that are current as of this message
	Attr       Attr
	Target     string // symlink
	Pool       uint32 // layout of a file
	ObjectSize uint32
	TruncSeq   uint32 // rises with every truncation (Q-h)
	HasXattrs  bool   // Xattrs below is filled (MaskXattr is valid and was asked for, or Xs is issued)
	HasACL     bool
	Xattrs     []KV
	Cap        *Cap // nil: no cap with this message
}

// Cap is the state of the client's cap as the rank last told it.
type Cap struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       uint64   // unique per incarnation
	Seq      uint32   // rises with every S→C cap message
	Mseq     uint32
	Pending  caps.Bits
	MaxSize  uint64 // write range [0, MaxSize)
	Barrier  Epoch
}

// Lease lets the client trust one name → inode binding (or its absence) until its session's
// validity ends or LeaseRevoke comes (4.12).
type Lease struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      Ino
	Name     string
	Ino      Ino // 0: the name does not exist
	Seq      uint32
}

// DirEntry is one row of a listing. Stat is filled when the rank had it at hand: its Valid
// groups only, with a cap when the locks allowed one at no cost.
type DirEntry struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Ino      Ino
	Mode     uint32 // file type bits
	Cookie   uint64 // > 2, < 1<<63: position after this entry; stays valid for ever
	Stat     *InodeStat
	Lease    *Lease
}

// Statfs is the size of the file system.
type Statfs struct {
	_msgpack     struct{} `msgpack:",as_array"`
	Total, Avail uint64   // bytes, after replication
	Inodes       uint64
}

// ---- caps ------------------------------------------------------------------------------

// CapOp says what a CapGrant is.
type CapOp uint8

// Rank to client cap messages (4.3).
const (
	CapGrantOp CapOp = iota + 1 // same or more bits
	CapRevoke                   // fewer: MUST be answered with a CapUpdate or CapRelease
	CapTrunc                    // the file was truncated: TruncSeq, Attr.Size
	CapRange                    // MaxSize grew; no seq, no bits
	CapExport                   // the inode is rank To's now, and the cap is no more: who needs one asks there (5.5)
)

var capOpNames = [...]string{"?", "grant", "revoke", "trunc", "range", "export"}

func (o CapOp) String() string {
	if int(o) < len(capOpNames) {
		return capOpNames[o]
	}
	return "capop?"
}

// CapGrant changes a cap. Stat.Cap is the new state; Stat.Valid says which attributes came along.
type CapGrant struct {
	_msgpack struct{} `msgpack:",as_array"`
	Op       CapOp
	Again    bool // a REVOKE asked a second time: answer BUSY if a flush waits for a PG
	Stat     InodeStat
	To       Rank // of an EXPORT
}

// WireVersion is 2 since inodes move from rank to rank.
func (*CapGrant) WireVersion() byte { return 2 }

// CapUpdate is the client's side: answers a REVOKE, tells wanted, writes dirty fields back
// (a FLUSH, when Dirty is set), asks for a larger write range.
type CapUpdate struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	CapID    uint64
	Seq      uint32 // highest applied (Q-a)
	Mseq     uint32
	Retained caps.Bits
	Wanted   caps.Bits
	WantMax  uint64 // 0: no wish
	FlushTid Tid    // of the session's counter; 0: no flush
	Oldest   Tid
	Replay   bool      // an un-acked flush resent after failover
	Dirty    caps.Bits // groups whose fields follow: Ax, Xx, Fw/Fx
	TruncSeq uint32
	Set      SetMask
	Attr     SetAttr
	Xattrs   []KV
	Names    []string // of a directory whose Fs is given up: kept under leases (4.12); at most MaxKept
}

// MaxKept bounds the names that one answer to a REVOKE keeps under leases.
const MaxKept = 256

// WireVersion is 2 since there are Names.
func (*CapUpdate) WireVersion() byte { return 2 }

// WireVersion is 3 since a name may lead to another rank.
func (*Reply) WireVersion() byte { return 3 }

// WireVersion is 2 since a CapUpdate in it has Names.
func (*Request) WireVersion() byte { return 2 }

// CapRelease drops caps entirely; there is nothing dirty under them (Q-f).
type CapRelease struct {
	_msgpack struct{} `msgpack:",as_array"`
	Caps     []ReleasedCap
}

// ReleasedCap is one of them. IssueSeq is the seq of the last message that added bits.
type ReleasedCap struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	CapID    uint64
	Mseq     uint32
	IssueSeq uint32
}

// CapBusy answers a repeated REVOKE: the flush waits for PG (4.7).
type CapBusy struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	PG       PGID
}

// LeaseRevoke takes a dentry lease back; answered by LeaseAck.
type LeaseRevoke struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      Ino
	Name     string
	Seq      uint32
}

// LeaseAck gives it up.
type LeaseAck struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      Ino
	Name     string
	Seq      uint32
}

// ---- file locks ------------------------------------------------------------------------

// LockType is the kind of a file lock.
type LockType uint8

// Lock types; Unlock drops.
const (
	LockUnlock LockType = iota
	LockRead
	LockWrite
)

// FileLock is one flock or fcntl range (4.13).
type FileLock struct {
	_msgpack struct{} `msgpack:",as_array"`
	Type     LockType
	Flock    bool   // flock's name space: whole file
	Owner    uint64 // the kernel's token; with the session it is the owner
	PID      uint32
	Start    uint64
	End      uint64 // inclusive; 1<<63-1: to the end of the file
	Wait     bool
	Ticket   uint64 // set by the rank on grants; by the client when it re-declares: of a waiter, its LockQueued's, 0 when that has not come
}

// LockQueued tells a client that its OpSetlk has waited for a while, and the place of the waiter
// among those of all clients: it re-declares it with this ticket.
type LockQueued struct {
	_msgpack struct{} `msgpack:",as_array"`
	Tid      Tid
	Ticket   uint64
}

// LockCancel takes a waiting OpSetlk back: the rank answers it EINTR. One that was answered
// already is not touched: the answer holds.
type LockCancel struct {
	_msgpack struct{} `msgpack:",as_array"`
	Tid      Tid
	Ino      Ino
	Lock     FileLock
}

// ---- failover --------------------------------------------------------------------------

// Reconnect tells a new incarnation of the rank what the session holds. It may be split:
// Last is set on the last part. Unsafe requests and flushes follow as Request (ReqReplay)
// and CapUpdate (Replay), in one tid order, before Last.
type Reconnect struct {
	_msgpack struct{} `msgpack:",as_array"`
	Instance Instance
	Caps     []ReconnectCap
	Locks    []ReconnectLock
	Oldest   Tid
	Last     bool
}

// ReconnectCap names one cap with a path hint: the dentry it was reached by.
type ReconnectCap struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Parent   Ino
	Name     string
	Issued   caps.Bits
	Wanted   caps.Bits
	Size     uint64
	Mtime    Time
}

// ReconnectLock is a held or awaited file lock; Tid is that of the waiting request, WaitedUs for
// how long it has waited: those whose place (Lock.Ticket) is not known are put in that order.
type ReconnectLock struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Lock     FileLock
	Waiting  bool
	Tid      Tid
	WaitedUs uint64
}

// WireVersion is 2 since waiters say how long they have waited.
func (*Reconnect) WireVersion() byte { return 2 }

// Reconnected ends the reconnect: new cap ids follow in CapGrants before it. Known false:
// the session is not known (evicted or never durable): drop everything, start anew.
type Reconnected struct {
	_msgpack     struct{} `msgpack:",as_array"`
	Known        bool
	RankInstance Instance
	Barrier      Epoch
}

// WireType methods of the conversation.
func (*SessionOpen) WireType() Type   { return TSessionOpen }
func (*SessionOpened) WireType() Type { return TSessionOpened }
func (*SessionClose) WireType() Type  { return TSessionClose }
func (*SessionClosed) WireType() Type { return TSessionClosed }
func (*Redirect) WireType() Type      { return TRedirect }
func (*Renew) WireType() Type         { return TRenew }
func (*RenewAck) WireType() Type      { return TRenewAck }
func (*Reply) WireType() Type         { return TReply }
func (*Safe) WireType() Type          { return TSafe }
func (*CapGrant) WireType() Type      { return TCapGrant }
func (*CapUpdate) WireType() Type     { return TCapUpdate }
func (*CapRelease) WireType() Type    { return TCapRelease }
func (*CapBusy) WireType() Type       { return TCapBusy }
func (*Recall) WireType() Type        { return TRecall }
func (*LeaseRevoke) WireType() Type   { return TLeaseRevoke }
func (*LeaseAck) WireType() Type      { return TLeaseAck }
func (*LockCancel) WireType() Type    { return TLockCancel }
func (*Reconnect) WireType() Type     { return TReconnect }
func (*Reconnected) WireType() Type   { return TReconnected }
func (*Evicted) WireType() Type       { return TEvicted }
func (*LockQueued) WireType() Type    { return TLockQueued }
