package locker

import (
	"fmt"
	"strings"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Lock is one lock of one object. It is small because an inode has many of them; what only a
// busy lock needs is in an extension that comes from the engine's free list.
type Lock struct {
	obj   Object
	ext   *extension
	typ   Type
	state State
	flags lockFlags
}

type lockFlags uint8

const (
	queued    lockFlags = 1 << iota // in the engine's worklist
	pinned                          // holds an auth pin on its object
	wantMix                         // scatter requested; survives until mix is reached
	wantSync                        // a replica wants to read; survives until sync is reached
	reissuing                       // on an object's first lock: the object is due for Reissue
	askedAuth                       // replica: a request is on its way to auth
	inAdvance                       // the engine is at work on this lock
)

// extension is what a lock in use has.
type extension struct {
	holds   []hold
	waiters []waiter
	gather  []wire.Rank // replicas whose ack is awaited
	forced  []uint64    // clients whose flush is being applied (FW)
	xlocker Owner       // whom an xlock is reserved for or held by
	hasX    bool
	wrote   bool // the last turn was a writer's: queued readers are next (O10)
	free    *extension
}

type hold struct {
	by   Owner
	mode Mode
}

type waiter struct {
	set  *LockSet
	mode Mode
}

// Init makes l the lock of type t of obj, in the state that a fresh or recovered object
// starts with (R2): sync, and lock for the Local class.
func (l *Lock) Init(t Type, obj Object) {
	*l = Lock{obj: obj, typ: t}
	if s := l.table().sync; s != noState {
		l.state = s
	}
}

// Types of the locks that inodes have in this issue; a dentry has Dn alone. Version locks
// and quiesce are optional: a LockSet takes them when the object has them (O8).
var (
	FileTypes   = []Type{ISnap, IFile, IAuth, ILink, IXattr, IFlock}
	DirTypes    = []Type{ISnap, IPolicy, IFile, INest, IDft, IAuth, ILink, IXattr, IFlock}
	DentryTypes = []Type{Dn}
)

// InitAll initialises an object's array of locks, one of each type in order.
func InitAll(locks []Lock, ts []Type, obj Object) {
	must.Holdf(len(locks) == len(ts), "%v: %d locks for %d types", obj.Key(), len(locks), len(ts))
	for i, t := range ts {
		locks[i].Init(t, obj)
	}
}

// Find is the lock of type t among an object's locks, nil when it has none.
func Find(locks []Lock, t Type) *Lock {
	for i := range locks {
		if locks[i].typ == t {
			return &locks[i]
		}
	}
	return nil
}

func (l *Lock) table() *Table { return types[l.typ].table }
func (l *Lock) row() *Row     { return &types[l.typ].table.Rows[l.state] }

// Type says which lock of its object l is.
func (l *Lock) Type() Type { return l.typ }

// Object is what l belongs to.
func (l *Lock) Object() Object { return l.obj }

// State is the present row's name.
func (l *Lock) State() string { return l.row().Name }

// Steady reports whether l is in no transit.
func (l *Lock) Steady() bool { return l.row().Steady }

// Idle reports whether nobody holds or awaits l and nothing is in transit: its object may be
// forgotten as far as l is concerned.
func (l *Lock) Idle() bool { return l.ext == nil && l.Steady() && l.flags&queued == 0 }

func (l *Lock) replica() bool { return l.obj.Traits()&Replica != 0 }

// String is for logs: ino 0x1a ifile sync>mix.
func (l *Lock) String() string { return fmt.Sprintf("%v %v %s", l.obj.Key(), l.typ, l.State()) }

// Allowed is what client may hold of obj by the present rows: Pin and the union over the
// locks that drive caps (of a dentry: Lease).
func Allowed(obj Object, client uint64) caps.Bits { return allowed(obj, client, false) }

// AllowedAtGoal is the same for the rows that locks in transit are heading for.
func AllowedAtGoal(obj Object, client uint64) caps.Bits { return allowed(obj, client, true) }

func allowed(obj Object, client uint64, goal bool) caps.Bits {
	var b caps.Bits
	locks := obj.Locks()
	if len(locks) == 0 || locks[0].typ != Dn && locks[0].typ != DVersion {
		b = caps.Pin
	}
	var loner uint64
	replica := obj.Traits()&Replica != 0
	if !replica {
		loner = obj.Loner()
	}
	for i := range locks {
		l := &locks[i]
		ti := &types[l.typ]
		if ti.mask == 0 {
			continue
		}
		row := l.row()
		if goal && !row.Steady {
			row = &ti.table.Rows[row.Goal]
		}
		b |= ti.bits(l.letters(row, client, loner, replica))
	}
	return b
}

// letters are the caps that row gives to the audience that client belongs to.
func (l *Lock) letters(row *Row, client, loner uint64, replica bool) Letters {
	if replica {
		return row.RepClients
	}
	c := row.All
	if client == 0 {
		return c
	}
	if client == loner {
		c |= row.Loner
	}
	if l.ext != nil && l.ext.hasX && l.ext.xlocker.Client == client {
		c |= row.Holder
	}
	return c
}

// AllowedBy is what client may hold of l's cap group by its present row.
func (l *Lock) AllowedBy(client uint64) caps.Bits {
	ti := &types[l.typ]
	return ti.bits(l.letters(l.row(), client, l.obj.Loner(), l.replica()))
}

// Readable reports whether a reply to client may show the newest value without a lock (get).
func Readable(l *Lock, client uint64) bool {
	return l.admits(l.row().Get, Owner{Client: client}) && !l.recovering()
}

// recovering: the size is not known yet (R1). Transits are held by their gather; this stops
// who comes while a row that was readable all along stays so.
func (l *Lock) recovering() bool { return l.typ == IFile && l.obj.Traits()&Recovering != 0 }

// admits reports whether a cell lets by in.
func (l *Lock) admits(w Who, by Owner) bool {
	switch w {
	case ByAny:
		return true
	case ByAuth:
		return !l.replica()
	case BySole:
		return by.Client != 0 && by.Client == l.obj.Loner() && !l.replica()
	case ByHolder:
		return l.heldXBy(by)
	}
	return false
}

// heldXBy reports whether by stands for the xlock's holder: the same client, or of the
// rank's own requests the same one.
func (l *Lock) heldXBy(by Owner) bool {
	x := l.ext
	return x != nil && x.hasX && x.xlocker.Client == by.Client && (by.Client != 0 || x.xlocker == by)
}

// Held reports whether anybody holds l in mode.
func (l *Lock) Held(mode Mode) bool {
	if l.ext == nil {
		return false
	}
	for i := range l.ext.holds {
		if l.ext.holds[i].mode == mode {
			return true
		}
	}
	return false
}

// HeldBy reports in which mode by holds l.
func (l *Lock) HeldBy(by Owner) Mode {
	if l.ext != nil {
		for i := range l.ext.holds {
			if l.ext.holds[i].by == by {
				return l.ext.holds[i].mode
			}
		}
	}
	return None
}

// Contended reports whether a request waits for l.
func (l *Lock) Contended() bool { return l.ext != nil && len(l.ext.waiters) > 0 }

// NextX is whose xlock l has, is reserved for, or comes to next.
func (l *Lock) NextX() (by Owner, ok bool) {
	switch x := l.ext; {
	case x == nil:
	case x.hasX:
		return x.xlocker, true
	case len(x.waiters) > 0 && x.waiters[0].mode == X:
		return x.waiters[0].set.Owner, true
	}
	return Owner{}, false
}

// Info describes a lock for `capstan locks`.
type Info struct {
	Object  string   `json:"object"`
	Lock    string   `json:"lock"`
	Class   string   `json:"class"`
	State   string   `json:"state"`
	Goal    string   `json:"goal,omitempty"`
	Loner   uint64   `json:"loner,omitempty"`
	Holders []string `json:"holders,omitempty"` // "c4#17 rdlock"
	Waiters []string `json:"waiters,omitempty"` // in turn
	Gather  []string `json:"gather,omitempty"`  // replicas whose ack is due
	Awaits  []string `json:"awaits,omitempty"`  // whom the transit, or the first waiter, waits for
}

// Describe tells everything about l, people being the audience.
func (l *Lock) Describe() Info {
	row := l.row()
	d := Info{Object: l.obj.Key().String(), Lock: l.typ.String(), Class: l.table().Class, State: row.Name, Loner: l.obj.Loner()}
	if !row.Steady {
		d.Goal = l.table().Rows[row.Goal].Name
	}
	if x := l.ext; x != nil {
		for _, h := range x.holds {
			d.Holders = append(d.Holders, h.by.String()+" "+h.mode.String())
		}
		for _, w := range x.waiters {
			d.Waiters = append(d.Waiters, w.set.Owner.String()+" "+w.mode.String())
		}
		for _, r := range x.gather {
			d.Gather = append(d.Gather, fmt.Sprintf("mds.%d", r))
		}
	}
	d.Awaits = l.Awaits()
	return d
}

func (d Info) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", d.Object, d.Lock, d.State)
	if d.Loner != 0 {
		fmt.Fprintf(&b, " loner=c%d", d.Loner)
	}
	list := func(name string, v []string) {
		if len(v) > 0 {
			fmt.Fprintf(&b, " %s=(%s)", name, strings.Join(v, " "))
		}
	}
	list("held", d.Holders)
	list("waiting", d.Waiters)
	list("awaits", d.Awaits)
	return b.String()
}
