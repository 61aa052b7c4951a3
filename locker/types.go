package locker

import (
	"fmt"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Type names a lock of an object. The number is its place in the lock order (O1, "ord").
type Type uint8

// The locks of section 1.2.
const (
	Quiesce  Type = iota // inode: super-lock, optional
	Dn                   // dentry: name → inode binding
	DVersion             // dentry: order of its journal entries, optional
	ISnap                // inode: snapshots rooted here
	IPolicy              // directory: layout, quota, pin
	IFile                // file: size, mtime, data; directory: the set of its entries
	INest                // directory: recursive statistics
	IDft                 // directory: fragment tree
	IAuth                // inode: mode, uid, gid, btime
	ILink                // inode: nlink, names
	IXattr               // inode: xattrs, ACLs
	IFlock               // inode: file locks
	IVersion             // inode: order of its journal entries, optional
	numTypes
)

// typeInfo is what sets the locks of one class apart.
type typeInfo struct {
	name  string
	table *Table
	shift uint8     // of the class's cap letters into caps.Bits
	mask  caps.Bits // the cap group this lock drives
}

// Lease is the bit that stands for a dentry lease in the Issued of a dentry's clients: the
// table's s of a dn lock.
const Lease caps.Bits = 1

var types = [numTypes]typeInfo{
	Quiesce:  {name: "quiesce", table: simpleTable},
	Dn:       {name: "dn", table: simpleTable, mask: Lease},
	DVersion: {name: "dversion", table: localTable},
	ISnap:    {name: "isnap", table: simpleTable},
	IPolicy:  {name: "ipolicy", table: simpleTable},
	IFile:    {name: "ifile", table: fileTable, shift: 7, mask: caps.FileMask},
	INest:    {name: "inest", table: scatterTable},
	IDft:     {name: "idft", table: scatterTable},
	IAuth:    {name: "iauth", table: simpleTable, shift: 1, mask: caps.AuthMask},
	ILink:    {name: "ilink", table: simpleTable, shift: 3, mask: caps.LinkMask},
	IXattr:   {name: "ixattr", table: simpleTable, shift: 5, mask: caps.XattrMask},
	IFlock:   {name: "iflock", table: simpleTable},
	IVersion: {name: "iversion", table: localTable},
}

func (t Type) String() string {
	if t < numTypes {
		return types[t].name
	}
	return fmt.Sprintf("locktype%d", uint8(t))
}

// Table is the state table of t's class.
func (t Type) Table() *Table { return types[t].table }

// Mask is the cap group that the lock drives; none for most.
func (t Type) Mask() caps.Bits { return types[t].mask }

// Mode is how a lock is held.
type Mode uint8

// Modes, weakest first (O3).
const (
	None Mode = iota
	Rd
	Wr
	X
)

var modeNames = [...]string{"none", "rdlock", "wrlock", "xlock"}

func (m Mode) String() string { return modeNames[m] }

// Owner is whom a hold belongs to.
type Owner struct {
	Client uint64 // session key; 0: the rank itself
	Req    uint64 // the request, unique among those alive
}

func (o Owner) String() string {
	if o.Client == 0 {
		return fmt.Sprintf("rank#%d", o.Req)
	}
	return fmt.Sprintf("c%d#%d", o.Client, o.Req)
}

// Key orders objects (O1). All ranks compute the same from replicated data alone.
type Key struct {
	Dentry bool
	Ino    wire.Ino // of a dentry: its directory
	Hash   uint64   // of the name
	Name   string
}

func (k Key) String() string {
	if k.Dentry {
		return fmt.Sprintf("dentry %v/%s", k.Ino, k.Name)
	}
	return fmt.Sprintf("ino %v", k.Ino)
}

// compare says whether k comes before (-1) or after (+1) o.
func (k *Key) compare(o *Key) int {
	switch {
	case k.Dentry != o.Dentry:
		if k.Dentry {
			return -1
		}
		return 1
	case k.Ino != o.Ino:
		if k.Ino < o.Ino {
			return -1
		}
		return 1
	case k.Hash != o.Hash:
		if k.Hash < o.Hash {
			return -1
		}
		return 1
	case k.Name < o.Name:
		return -1
	case k.Name > o.Name:
		return 1
	}
	return 0
}

// ClientCaps is what a lock must know of one client with caps (or a lease) on the object.
type ClientCaps struct {
	Client uint64
	Issued caps.Bits // B: upper bound of what it may hold
	Wanted caps.Bits
}

// Traits are facts of an object that the policy and the gathers ask for.
type Traits uint8

// Traits.
const (
	IsDir      Traits = 1 << iota
	Boundary          // a subtree boundary lies right below (or a fragment is another rank's)
	Freezing          // being frozen: only dn may move
	ReadOnly          // the cluster is read-only: everything goes to sync
	Recovering        // size recovery is pending (R1)
	Replica           // this rank's copy is not the authoritative one
)

// Object is what has locks: an inode or a dentry of the rank. Embed [Plain] to inherit the
// answers of one that no client ever holds anything of.
type Object interface {
	Key() Key
	// Locks is the object's own array, in ascending order of Type, never moved.
	Locks() []Lock
	// Clients counts those with a cap (or a lease); Client shows the i-th. Their order is the
	// same in every run: ascending session key, say.
	Clients() int
	Client(i int) ClientCaps
	// Loner is the present loner (0: none), IdealLoner the one that 4.6 asks for now. The
	// engine calls SetLoner when SO1 permits, never otherwise.
	Loner() uint64
	IdealLoner() uint64
	SetLoner(client uint64)
	Traits() Traits
	// Replicas lists the ranks with a copy, in the same order in every run (auth only).
	Replicas() []wire.Rank
}

// Plain answers for an object without clients, loner and replicas.
type Plain struct{}

// Clients implements Object, as do the methods below.
func (Plain) Clients() int          { return 0 }
func (Plain) Client(int) ClientCaps { panic("locker: object without clients") }
func (Plain) Loner() uint64         { return 0 }
func (Plain) IdealLoner() uint64    { return 0 }
func (Plain) SetLoner(uint64)       { panic("locker: object without loner") }
func (Plain) Traits() Traits        { return 0 }
func (Plain) Replicas() []wire.Rank { return nil }

// Host is the rank around the engine. The calls come out of Settle, LockSet.Acquire (Wake of
// others, Pin, Absorb, Tell) and Receive. A host queues what they ask and acts afterwards.
type Host interface {
	// Reissue: what clients may hold of obj changed. See the package comment.
	Reissue(obj Object)
	// Wake: the lock that set waited for is now held by it. Run its request again.
	Wake(set *LockSet)
	// Pin adds n (+1 or -1) auth pins: an unstable lock keeps its object from freezing.
	Pin(obj Object, n int)
	// Absorb makes the aggregate under l clean: deltas absorbed, the entry submitted. False:
	// not now, the host calls Touch(l) later.
	Absorb(l *Lock) bool
	// Base remembers the present aggregate as what the deltas of mix count from.
	Base(l *Lock)
	// Tell sends a lock message to a rank; the host adds attributes or deltas (Msg.Data).
	Tell(to wire.Rank, l *Lock, m Msg)
}
