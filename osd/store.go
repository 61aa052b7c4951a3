package osd

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// Later is a read that a store has begun and somebody finishes beside the core, for it waits for
// the disk. Exactly one of the two is called, once, by any goroutine, with no lock held that a
// Store's methods are called under.
type Later interface {
	Len() int // bytes
	// Fetch returns the bytes as they were at Start, in a slice that room made, and their crc32c
	// (Castagnoli). An error means that the bytes on the disk are bad.
	Fetch(room func(int) []byte) (b []byte, crc uint32, err error)
	// Drop gives the read up.
	Drop()
}

// LendBelow is the size from which a store may still read what it was given after Submit.
const LendBelow = 32 << 10

// Store keeps the PGs of one OSD: objects, log and a few named values per PG. osd/server/store
// is the real one (helper contract: one write-ahead log, group commit), MemStore the one of
// tests and sim.
//
// Submit applies a transaction at once for every read that follows ("newest submitted state")
// and calls done when it is durable, in submit order per PG, never from inside Submit and
// with no lock held that Submit or a read would take. After an error nothing later on the same
// store succeeds: the OSD stops. A crash keeps, for each PG, a prefix of what was submitted,
// at least everything that was done, and every transaction whole or not at all.
//
// Byte slices handed in are not changed by the caller before done, and but for the Data of an
// ObjTxn's steps never. A store that a shell lends to (Event.Lent) has read steps of fewer bytes
// than LendBelow, and keeps none of them, when Submit returns. Slices handed out are never changed by the store. All methods may be called from several goroutines; Submit calls
// of one PG are ordered by the caller.
type Store interface {
	// UUID is drawn when the store is made and names it for ever (rule R1). Fresh reports that
	// it was drawn in this life: such a store has never given a lease.
	UUID() wire.UUID
	Fresh() bool

	Submit(t *Txn, done func(error))

	// Split divides a PG in one atomic step, which is durable when it returns, with everything that
	// was submitted for the PG before (their done calls come as ever, later perhaps). No data
	// moves: what an object has, it has under its new PG. An error is as final as Submit's.
	Split(d *Split) error

	// Damaged reports whether the change builds on bytes that cannot be read back, as a write
	// over a part of a bad block does. Submit then applies it all the same: those bytes stay
	// bad, and reads of them fail. Ask right before Submit, with the change as it will be then.
	Damaged(pg wire.PGID, t *ObjTxn) bool

	// PGs lists every PG that has a log, a meta value or an object, sorted by pool and number.
	PGs() []wire.PGID
	// Log is the PG's log. The zero LogState belongs to a PG that the store has never seen.
	Log(pg wire.PGID) LogState
	// Meta reads the PG's named values whose key starts with prefix, sorted by key.
	Meta(pg wire.PGID, prefix string) []wire.KV

	// Stat reports an object; false: it does not exist.
	Stat(pg wire.PGID, name string) (ObjStat, bool)
	// Read fills dst from off; a hole reads as zeros, dst is short at the object's end. It
	// returns how many bytes are valid; reading an absent object gives 0. An error means the
	// bytes on the disk are bad.
	Read(pg wire.PGID, name string, off uint64, dst []byte) (int, error)
	// Start is Read of n bytes for who can wait: what would have to come from a disk is left for
	// Later, with the bytes that Read would give now, whatever is submitted meanwhile. Without a
	// Later it is all in b, which room made.
	Start(pg wire.PGID, name string, off, n uint64, room func(int) []byte) (b []byte, later Later, err error)
	// Extents lists the parts of the object that hold data, sorted: what lies between is a hole.
	Extents(pg wire.PGID, name string) []wire.Extent
	Xattr(pg wire.PGID, name, key string) ([]byte, bool)
	Xattrs(pg wire.PGID, name string) []wire.KV // sorted by key
	// OmapGet returns the pairs of those keys that exist, in the order of keys. An error means
	// that what one of them has cannot be read.
	OmapGet(pg wire.PGID, name string, keys []string) ([]wire.KV, error)
	// OmapRange returns up to max pairs with key > after ("" = from the first; the empty key is
	// no key), and whether there are more. A pair that cannot be read is a *BadPair that
	// names it, with the pairs before it; behind it one may go on.
	OmapRange(pg wire.PGID, name, after string, max int) ([]wire.KV, bool, error)

	// ListObjects lists up to max objects with name > after, sorted by name.
	ListObjects(pg wire.PGID, after string, max int) []wire.ObjVersion

	// Count is how many objects the PG has, Bytes what their data takes of the store.
	Count(pg wire.PGID) int
	Bytes(pg wire.PGID) uint64

	// Space is the store's size and what is taken of it, in bytes.
	Space() (total, used uint64)
	Close() error
}

// BadPair is a key of an omap whose value cannot be read.
type BadPair struct {
	Key string
	Err error
}

func (e *BadPair) Error() string { return fmt.Sprintf("omap key %q: %v", e.Key, e.Err) }

// Unwrap gives the store's own error.
func (e *BadPair) Unwrap() error { return e.Err }

// ObjStat describes an object.
type ObjStat struct {
	Size      uint64
	Allocated uint64 // bytes of storage its data takes (block granularity; xattrs, omap not counted)
	Version   wire.Version
}

// LogState is what a store knows of a PG's log: entries in (Tail, last], oldest first.
type LogState struct {
	Tail      wire.Version // version of the newest entry that was trimmed; zero: none ever
	Committed wire.Version // newest Txn.Committed
	Recs      []LogRec
}

// LogRec is one log entry, opaque to the store but for its version.
type LogRec struct {
	Version wire.Version
	Rec     []byte
}

// Txn is one atomic change of one PG. Its parts apply in the order of the fields.
type Txn struct {
	PG wire.PGID

	// RemovePG drops everything the PG has: objects, log, meta. Nothing else is set.
	RemovePG bool

	// ResetLog drops all entries; Tail becomes Trim (which may be zero then).
	ResetLog bool
	// Cut, when not nil, drops all entries newer than it.
	Cut *wire.Version
	// Append adds entries; their versions rise.
	Append []LogRec
	// Trim, when not zero, drops all entries up to and including it; Tail becomes Trim.
	Trim wire.Version
	// Committed, when not zero, is remembered.
	Committed wire.Version

	Objs []ObjTxn

	// ClearMeta drops, before Meta is applied, all values whose key starts with it ("" drops none).
	ClearMeta string
	// Meta sets named values; a nil Val removes.
	Meta []wire.KV
}

// Split says how a PG is divided.
type Split struct {
	PG   wire.PGID
	Into []wire.PGID                 // PGs that the store has nothing of: each gets a copy of the log and of the named values
	Of   func(name string) wire.PGID // where an object belongs: PG, or one of Into
	Meta []wire.KV                   // named values that all of them, PG too, have afterwards; none is nil
}

// ObjTxn changes one object. An object that does not exist is made (empty) unless Remove is set.
type ObjTxn struct {
	Name    string
	Version wire.Version // the object's version afterwards
	Remove  bool         // the object is gone afterwards: data, xattrs, omap; absent already: no change
	Replace bool         // start from an empty object: Muts are a whole copy
	// Muts hold resulting bytes. Kinds that occur: ObjWrite (Off, Data), ObjTruncate (Off: grow or
	// shrink), ObjZero (Off, Len: reads as zeros, space given back, never grows the object),
	// ObjSetXattr (Key, Data), ObjRmXattr (Key), ObjOmapSet (Pairs), ObjOmapRemove (Keys),
	// ObjOmapClear, ObjCreate (nothing more than to exist), ObjDamage (Off, Len within the object:
	// from now on reads of these bytes fail, or of the blocks they lie in, until they are
	// written whole), ObjOmapDamage (Keys: from now on what they have cannot be read, until they
	// are set or removed).
	Muts []wire.ObjOp
}
