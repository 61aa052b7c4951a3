package clustermap

import (
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// Maps are immutable values: whoever wants another one makes a copy. A holder may keep a
// pointer for ever and read it without a lock.

// OSDMap says which OSDs there are, where PGs live and who is fenced.
type OSDMap struct {
	Epoch     wire.Epoch
	Cluster   wire.UUID
	Crush     crush.Map
	Pools     map[uint32]Pool
	OSDs      map[wire.OSDID]OSD
	PGs       map[wire.PGID]PGConfig
	Blocklist map[wire.Instance]BlockEntry
	Full      bool // ENOSPC for everything but deletes and FULL_TRY
	NearFull  bool

	// placer is what UpSet needs of Crush, made once; shared by copies of the map that have
	// the same Crush. Nil in a literal: made for each call.
	placer *lazyPlacer
}

// Pool is a set of objects with one way of placing and replicating them.
type Pool struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       uint32
	Name     string
	Size     int // replicas wanted
	MinSize  int // fewer in-sync members than this: writes wait
	PGNum    uint32
	Rule     string
	PGTarget uint32 // PGNum grows to it, in steps; 0: it stays
}

// Grows reports whether PGNum has not come to where it is to be.
func (p Pool) Grows() bool { return p.PGTarget > p.PGNum }

// OSD is one object store daemon as the monitors know it.
type OSD struct {
	_msgpack  struct{} `msgpack:",as_array"`
	ID        wire.OSDID
	UUID      wire.UUID // of its store (rule R1)
	Instance  wire.Instance
	Addr      string
	Up        bool
	In        bool
	BootEpoch wire.Epoch // the epoch that has this boot (rule R2)
	Total     uint64     // bytes, as it last reported
	Used      uint64
	Reweight  uint32 // share of its PGs that it takes, crush.One being all; counts while In
}

// Member is an OSD with the store it had when it became in sync (rule R1).
type Member = wire.Member

// PGConfig is cfg(pg) of osd-replication.md §1.
type PGConfig struct {
	_msgpack struct{} `msgpack:",as_array"`
	Interval uint64
	InSync   []Member   // S
	Primary  wire.OSDID // NoOSD: none can serve
	Learners []Member
}

// BlockEntry says since when and why an instance is fenced (rules M6, I6).
type BlockEntry struct {
	_msgpack struct{} `msgpack:",as_array"`
	Since    wire.Epoch
	Reason   string
	Clean    bool // ended by itself: the entry may go after an hour
}

// RankState is where a rank is in its life (locks-and-caps §6).
type RankState uint8

// Rank states.
const (
	RankNone RankState = iota
	RankBoot
	RankStandby
	RankCreating
	RankReplay
	RankResolve
	RankReconnect
	RankRejoin
	RankClientReplay
	RankActive
	RankStopping
	RankStopped // ended cleanly: the next holder need not wait a lease out
	RankFailed  // nobody holds it
	RankDamaged
)

// FSMap says which daemon holds which rank.
type FSMap struct {
	Epoch    wire.Epoch
	MetaPool uint32
	DataPool uint32
	Ranks    map[wire.Rank]RankInfo
	Standbys map[wire.Instance]DaemonInfo
	// NextInoRange numbers the next range of 2^40 inode numbers (wire.FirstFreeIno = range 1).
	NextInoRange uint64
	// MaxRanks is how many ranks there should be: 0 to MaxRanks-1. A rank above that stops when it owns nothing.
	MaxRanks uint32
}

// Wanted reports whether rank r should be held by a daemon: it is one of those that there should
// be, or one that has yet to stop cleanly, since its journal may hold what is nowhere else.
func (m *FSMap) Wanted(r wire.Rank) bool {
	in, ok := m.Ranks[r]
	return ok && (uint32(r) < m.MaxRanks || in.Created && in.State != RankStopped)
}

// RankInfo is one rank and its holder.
type RankInfo struct {
	_msgpack  struct{} `msgpack:",as_array"`
	State     RankState
	Daemon    DaemonInfo
	Created   bool       // its journal and tables exist: the next holder replays
	Assigned  wire.Epoch // FSMap epoch of the assignment to this holder
	FencedAt  wire.Epoch // OSDMap epoch that fences the holder before: barrier of every read (6)
	LeaseWait bool       // the holder before did not end cleanly: wait its lease out (rule LS)
	InoRanges []uint64   // ranges of numbers this rank owns
}

// DaemonInfo is an MDS daemon.
type DaemonInfo struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Instance wire.Instance
	Addr     string
}

// MonMap lists the monitors.
type MonMap struct {
	_msgpack struct{} `msgpack:",as_array"`
	Epoch    wire.Epoch
	Cluster  wire.UUID
	Mons     []MonInfo
}

// MonInfo is one monitor.
type MonInfo struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Addr     string // clients and daemons
	RaftAddr string // the other monitors
}
