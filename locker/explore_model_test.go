package locker

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// explorer is the world brought to life: real locks and a real engine around one state.
type explorer struct {
	typ     Type
	at      []int // per client: 0 at auth, r+1 at replica r
	nr      int
	dynamic bool // replicas come and go, and die
	deaths  bool // clients are evicted
	freezes bool // the object may be frozen
	capMax  uint8
	names   []renaming

	e      *Engine
	auth   *modelObject
	copies [maxReplicas]*modelObject
	w      world
	pins   int
	broken string
	fault  string
	endsX  bool // an xlock is released in this step
	safety bool // §3.2 alone
	drops  []uint8
	acts   []action
	rows   map[State]bool // visited
}

// modelObject is auth's object (rank -1) or a copy.
type modelObject struct {
	ex    *explorer
	locks [1]Lock
	rank  int
	mine  []int // clients attached here
	reps  []wire.Rank
}

func (o *modelObject) Key() Key      { return Key{Ino: 1} }
func (o *modelObject) Locks() []Lock { return o.locks[:] }
func (o *modelObject) Clients() int  { return len(o.mine) }
func (o *modelObject) Client(i int) ClientCaps {
	c := o.mine[i]
	b := o.ex.w.cl[c].B
	if o.ex.fault == "skip the cap gather" {
		b = 0
	}
	return ClientCaps{Client: uint64(c + 1), Issued: types[o.ex.typ].bits(Letters(b).closure())}
}
func (o *modelObject) Loner() uint64         { return uint64(o.ex.w.loner) }
func (o *modelObject) IdealLoner() uint64    { return uint64(o.ex.w.loner) }
func (o *modelObject) SetLoner(c uint64)     { o.ex.w.loner = uint8(c) }
func (o *modelObject) Replicas() []wire.Rank { return o.reps }
func (o *modelObject) Traits() Traits {
	switch {
	case o.rank >= 0:
		return Replica
	case o.ex.w.frozen != 0:
		return Freezing
	}
	return 0
}

// Reissue is the only thing that makes a rank compare what clients were told with what the
// rows allow: a row or a hold that ends without it leaves its caps out for ever (V1).
func (ex *explorer) Reissue(obj Object) {
	if !ex.endsX || ex.fault != "ending an xlock asks nothing back" {
		ex.w.due |= 1 << (obj.(*modelObject).rank + 1)
	}
}

func (ex *explorer) Wake(*LockSet) {}
func (ex *explorer) Base(*Lock)    {}

// Pin counts auth's pins: F1 says that a lock in transit has exactly one.
func (ex *explorer) Pin(_ Object, n int) { ex.pins += n }

func (ex *explorer) Absorb(*Lock) bool {
	if ex.fault == "complete before the aggregate is absorbed" {
		return true
	}
	return ex.w.delta == 0
}

// Tell queues a lock message; with acks of LOCK and SYNC goes what the replica accumulated.
func (ex *explorer) Tell(to wire.Rank, l *Lock, m Msg) {
	if o := l.obj.(*modelObject); o.rank >= 0 {
		r := &ex.w.rep[o.rank]
		b := uint8(m)
		if r.delta != 0 && (m == MsgLockAck || m == MsgSyncAck) && ex.fault != "an ack leaves its delta behind" {
			b |= 128
			r.delta = 0
		}
		if ex.fault == "an ack is lost" && m == MsgLockAck {
			return
		}
		if r.nUp == rankQueue {
			ex.broken = "model: a queue is full"
			return
		}
		r.up[r.nUp] = b
		r.nUp++
		return
	}
	r := &ex.w.rep[to]
	if r.nDown == rankQueue {
		ex.broken = "model: a queue is full"
		return
	}
	r.down[r.nDown] = uint8(m)
	r.nDown++
}

// expire tells auth that a copy was dropped (FIFO behind its acks).
const expire = 127

// discovered, with a state, gives a rank its copy.
const discovered = 64

// newExplorer makes a world of clients (each at auth, 0, or at replica r, r+1) and replicas.
func newExplorer(t Type, at []int, replicas int) *explorer {
	ex := &explorer{typ: t, at: at, nr: replicas, capMax: 2, names: renamings(at, replicas)}
	ex.e = New(ex)
	ex.e.hold = true
	ex.auth = &modelObject{ex: ex, rank: -1}
	ex.auth.locks[0].Init(t, ex.auth)
	for i := range replicas {
		ex.auth.reps = append(ex.auth.reps, wire.Rank(i))
		ex.copies[i] = &modelObject{ex: ex, rank: i}
		ex.copies[i].locks[0].Init(t, ex.copies[i])
		ex.w.rep[i].state = uint8(ex.copies[i].locks[0].state)
		ex.w.rep[i].known = 1
	}
	for c := range at {
		o := ex.home(c)
		o.mine = append(o.mine, c)
	}
	ex.w.state = uint8(ex.auth.locks[0].state)
	// What a client may give up by itself: everything, its right to change, one cached bit.
	ex.drops = []uint8{0, uint8(ls | lc | lr), uint8(lx | lw | lb | lr | ls), uint8(lc | lb | lx)}
	return ex
}

// home is the object at the rank that client c talks to.
func (ex *explorer) home(c int) *modelObject {
	if ex.at[c] == 0 {
		return ex.auth
	}
	return ex.copies[ex.at[c]-1]
}

func (ex *explorer) lock() *Lock { return &ex.auth.locks[0] }

func (ex *explorer) owner(i int) Owner { return Owner{Client: uint64(i), Req: uint64(i) + 1} }

// load brings the locks of the model to life.
func (ex *explorer) load(w *world) {
	ex.w = *w
	ex.broken = ""
	l := ex.lock()
	ex.auth.reps = ex.auth.reps[:0]
	for r := range ex.nr {
		if w.rep[r].known != 0 {
			ex.auth.reps = append(ex.auth.reps, wire.Rank(r))
		}
	}
	ex.loadLock(l, State(w.state), w.rd, w.wr)
	ex.pins = 0
	if !l.Steady() {
		l.flags |= pinned
		ex.pins = 1
	}
	if w.x != 0 {
		x := ex.e.extend(l)
		x.hasX, x.xlocker = true, ex.owner(int(w.x&15)-1)
		if w.x&16 != 0 {
			x.holds = append(x.holds, hold{x.xlocker, X})
		}
	}
	for c := 1; c <= len(ex.at); c++ {
		if w.forced&(1<<c) != 0 {
			x := ex.e.extend(l)
			x.forced = append(x.forced, uint64(c))
		}
	}
	for r := range ex.nr {
		if w.gather&(1<<r) != 0 {
			x := ex.e.extend(l)
			x.gather = append(x.gather, wire.Rank(r))
		}
		ex.loadLock(&ex.copies[r].locks[0], State(w.rep[r].state), w.rep[r].rd, w.rep[r].wr)
		if w.rep[r].asked != 0 {
			ex.copies[r].locks[0].flags |= askedAuth
		}
	}
}

func (ex *explorer) loadLock(l *Lock, s State, rd, wr uint8) {
	if l.ext != nil {
		x := l.ext
		x.holds, x.gather, x.forced, x.waiters, x.hasX, x.xlocker = x.holds[:0], x.gather[:0], x.forced[:0], nil, false, Owner{}
		ex.e.giveBack(l)
	}
	l.state, l.flags = s, 0
	for o := 0; o <= len(ex.at); o++ {
		if rd&(1<<o) != 0 {
			x := ex.e.extend(l)
			x.holds = append(x.holds, hold{ex.owner(o), Rd})
		}
		if wr&(1<<o) != 0 {
			x := ex.e.extend(l)
			x.holds = append(x.holds, hold{ex.owner(o), Wr})
		}
	}
}

// save reads them back.
func (ex *explorer) save() {
	w := &ex.w
	l := ex.lock()
	w.state, w.gather, w.forced, w.x = uint8(l.state), 0, 0, 0
	w.rd, w.wr = saveHolds(l)
	if x := l.ext; x != nil {
		if x.hasX {
			w.x = uint8(x.xlocker.Client) + 1
			if slices.Contains(x.holds, hold{x.xlocker, X}) { // it may hold rd besides (xlockdone)
				w.x |= 16
			}
		}
		for _, r := range x.gather {
			w.gather |= 1 << r
		}
		for _, c := range x.forced {
			w.forced |= 1 << c
		}
	}
	for i := range ex.nr {
		c := &ex.copies[i].locks[0]
		r := &w.rep[i]
		if r.absent != 0 {
			continue
		}
		r.state = uint8(c.state)
		r.rd, r.wr = saveHolds(c)
		r.asked = 0
		if c.flags&askedAuth != 0 {
			r.asked = 1
		}
	}
}

func saveHolds(l *Lock) (rd, wr uint8) {
	if l.ext == nil {
		return 0, 0
	}
	for _, h := range l.ext.holds {
		switch h.mode {
		case Rd:
			rd |= 1 << h.by.Client
		case Wr:
			wr |= 1 << h.by.Client
		}
	}
	return rd, wr
}

// settle is what ranks do at the end of a step: locks settle, then clients that hold too
// much are told.
func (ex *explorer) settle() {
	ex.e.Touch(ex.lock())
	for i := range ex.nr {
		if ex.w.rep[i].absent == 0 {
			ex.e.Touch(&ex.copies[i].locks[0])
		}
	}
	ex.e.Settle()
	ex.endsX = false
	if due := ex.w.due; due != 0 {
		ex.w.due = 0
		for i := range ex.at {
			if due&(1<<ex.at[i]) == 0 {
				continue
			}
			c := &ex.w.cl[i]
			a := ex.allowed(i)
			switch {
			case c.P&^a == 0:
			case ex.fault == "an excess is never asked back":
			case c.nDown < ex.capMax:
				c.P &= a
				ex.send(c, c.P|128)
			default:
				ex.w.due |= 1 << ex.at[i]
			}
		}
	}
	ex.save()
}

// allowed is what client i may be told to hold by the present row of the rank it talks to.
func (ex *explorer) allowed(i int) uint8 {
	l := &ex.home(i).locks[0]
	row := l.row()
	if ex.fault == "grant what the goal allows" && !row.Steady {
		row = l.table().Row(row.Goal)
	}
	return six(l.letters(row, uint64(i+1), uint64(ex.w.loner), l.replica()))
}

func (ex *explorer) send(c *client, m uint8) {
	c.down[c.nDown] = m
	c.nDown++
	for i := range c.up[:c.nUp] {
		c.up[i].stale = 1
	}
}
