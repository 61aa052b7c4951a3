package wire

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Ino is an inode number. Numbers are given out once and never again (4.15).
type Ino uint64

// Numbers below FirstFreeIno belong to the file system itself.
const (
	RootIno      Ino = 1
	basesBase    Ino = 0x100 // + rank; rank 0 has number 2
	straysBase   Ino = 0x600 // + rank*shards + shard
	linksBase    Ino = 0x10600
	systemEnd    Ino = 0x20600
	FirstFreeIno Ino = 1 << 40 // a rank gets ranges of 2^40 numbers from the monitors
	SystemShards     = 10      // stray and links directories per rank
)

// StrayDir is the number of the directory that keeps inodes of nlink 0 of one rank and shard.
func StrayDir(r Rank, shard int) Ino { return straysBase + Ino(int(r)*SystemShards+shard) }

// LinksDir is the number of the directory that keeps inodes with several names.
func LinksDir(r Rank, shard int) Ino { return linksBase + Ino(int(r)*SystemShards+shard) }

// BaseDir is the number of a rank's base directory, where its system directories have their names.
func BaseDir(r Rank) Ino {
	if r == 0 {
		return 2
	}
	return basesBase + Ino(r)
}

// IsLinksDir reports whether i is the links directory of some rank.
func (i Ino) IsLinksDir() bool { return i >= linksBase && i < systemEnd }

// IsStrayDir reports whether i is the stray directory of some rank.
func (i Ino) IsStrayDir() bool { return i >= straysBase && i < linksBase }

// IsBaseDir reports whether i is the base directory of some rank.
func (i Ino) IsBaseDir() bool { return i == 2 || i > basesBase && i < basesBase+MaxRanks }

// SystemRank is the rank that has i, which belongs to the file system itself: the root, or a base, stray
// or links directory; NoRank for any other number.
func (i Ino) SystemRank() Rank {
	switch {
	case i == RootIno || i == 2:
		return 0
	case i.IsStrayDir():
		return Rank((i - straysBase) / SystemShards)
	case i.IsLinksDir():
		return Rank((i - linksBase) / SystemShards)
	case i.IsBaseDir():
		return Rank(i - basesBase)
	}
	return NoRank
}

func (i Ino) String() string { return fmt.Sprintf("%#x", uint64(i)) }

// Rank is one active metadata server slot. NoRank stands for "none yet".
type Rank int32

// MaxRanks is how many ranks a file system may have.
const MaxRanks = 256

// NoRank is the rank of a daemon that has none.
const NoRank Rank = -1

// Epoch numbers the versions of one map; it only rises.
type Epoch uint64

// Tid numbers the requests of one session or instance. Mutating metadata requests and cap
// flushes share one counter per session (rule Q-h); ReadTid marks the others.
type Tid uint64

// ReadTid is set in the tid of a metadata request that changes nothing: it is matched with
// its reply and otherwise forgotten, so watermarks and completed sets never see it.
const ReadTid Tid = 1 << 63

// Kind says what sort of process an instance is.
type Kind uint8

// Kinds of processes.
const (
	KindClient Kind = iota + 1
	KindMDS
	KindOSD
	KindMon
	KindTool
)

var kindNames = [...]string{"?", "client", "mds", "osd", "mon", "tool"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind%d", uint8(k))
}

// Instance is one life of one process. Nonce is drawn at random by the shell at its start
// and never used again, so a blocklist entry can only ever hit the life it was meant for.
type Instance struct {
	_msgpack struct{} `msgpack:",as_array"`
	Kind     Kind
	Num      uint32 // OSD id, rank name hash or client number: for people, not for identity
	Nonce    uint64
}

func (i Instance) String() string { return fmt.Sprintf("%s.%d/%x", i.Kind, i.Num, i.Nonce) }

// IsZero reports whether i names nobody.
func (i Instance) IsZero() bool { return i == Instance{} }

// UUID identifies a store or a cluster: 16 random bytes.
type UUID [16]byte

func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MarshalJSON shows it as people write it.
func (u UUID) MarshalJSON() ([]byte, error) { return []byte(`"` + u.String() + `"`), nil }

// UnmarshalJSON reads what MarshalJSON wrote.
func (u *UUID) UnmarshalJSON(b []byte) error {
	text := strings.ReplaceAll(strings.Trim(string(b), `"`), "-", "")
	n, err := hex.Decode(u[:], []byte(text[:min(len(text), 2*len(u))]))
	if err != nil || n != len(u) || len(text) != 2*n {
		return fmt.Errorf("wire: %s is no UUID", b)
	}
	return nil
}

// IsZero reports whether u was never drawn.
func (u UUID) IsZero() bool { return u == UUID{} }

// OSDID numbers an OSD; with its store's UUID it is a member (rule R1).
type OSDID int32

// NoOSD stands for "none".
const NoOSD OSDID = -1

// PGID is one placement group.
type PGID struct {
	_msgpack struct{} `msgpack:",as_array"`
	Pool     uint32
	Num      uint32
}

func (p PGID) String() string { return fmt.Sprintf("%d.%x", p.Pool, p.Num) }

// ObjectID names one object.
type ObjectID struct {
	_msgpack struct{} `msgpack:",as_array"`
	Pool     uint32
	Name     string
}

func (o ObjectID) String() string { return fmt.Sprintf("%d/%s", o.Pool, o.Name) }

// DataObject names the object that holds block number index of a file.
func DataObject(pool uint32, ino Ino, index uint64) ObjectID {
	return ObjectID{Pool: pool, Name: fmt.Sprintf("%x.%08x", uint64(ino), index)}
}

// Version orders the entries of one PG: lexicographic, interval first (osd-replication §1).
type Version struct {
	_msgpack struct{} `msgpack:",as_array"`
	Interval uint64
	N        uint64
}

// Less reports whether v is older than w.
func (v Version) Less(w Version) bool {
	return v.Interval < w.Interval || v.Interval == w.Interval && v.N < w.N
}

func (v Version) String() string { return fmt.Sprintf("%d'%d", v.Interval, v.N) }

// Time is a timestamp of a file: seconds and nanoseconds since 1970, before it too.
type Time struct {
	_msgpack struct{} `msgpack:",as_array"`
	Sec      int64
	Nsec     uint32
}

// TimeOf converts a Go time.
func TimeOf(t time.Time) Time { return Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

// Before reports whether t is earlier than u.
func (t Time) Before(u Time) bool { return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec }

// MaxTime is the later of the two.
func MaxTime(t, u Time) Time {
	if t.Before(u) {
		return u
	}
	return t
}

// ValidName reports whether s can be the name of a dentry.
func ValidName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= MaxName && strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, 0) < 0
}

// Limits that every decoder and every rank keeps.
const (
	MaxName       = 255       // bytes of one name
	MaxSymlink    = 4095      // bytes of a symlink target
	MaxXattrName  = 255       // bytes
	MaxXattrValue = 64 << 10  // bytes
	MaxXattrs     = 256 << 10 // bytes of all xattrs of one inode
	MaxLink       = 65000     // names of one inode
	MaxFileBytes  = 16 << 40  // a file larger than this has more objects than a purge should visit
)
