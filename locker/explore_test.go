package locker

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// The exploration drives the real engine through every interleaving of a small world
// (§3.1): one lock, its replicas and clients, bounded queues. The policy is off and any legal
// move may happen at any time, which is stronger for safety.

const (
	maxClients  = 3
	maxReplicas = 2
	capQueue    = 2 // messages per client and direction
	rankQueue   = 4 // messages per replica and direction
)

// world is one state. It is compact because millions are kept.
type world struct {
	state, loner, gather uint8
	rd, wr, forced       uint8 // masks of owners: bit 0 the rank itself, bit c client c
	x                    uint8 // 0 none, else owner+1, |16 held (not only reserved)
	delta                uint8 // un-absorbed at auth
	due                  uint8 // the engine has asked for Reissue, and a queue had no room
	cl                   [maxClients]client
	rep                  [maxReplicas]replica
}

type client struct {
	H, B, P    uint8           // letters without a and l
	down       [capQueue]uint8 // pending set told, |128 when it must be answered
	up         [capQueue]upMsg //
	nDown, nUp uint8
}

type upMsg struct {
	retained uint8
	lag      uint8 // messages sent to the client since the one this echoes; 0: last sent
	dirty    uint8
}

type replica struct {
	state, rd, wr, delta uint8
	asked                uint8
	absent, known        uint8            // dynamic worlds: gone; on auth's list
	down, up             [rankQueue]uint8 // Msg, |128 with a delta
	nDown, nUp           uint8
}

// six keeps the letters of the model.
func six(c Letters) uint8 { return uint8(c & (ls | lx | lc | lr | lw | lb)) }

// explorer is the world brought to life: real locks and a real engine around one state.
type explorer struct {
	typ     Type
	nc, nr  int
	e       *Engine
	auth    *modelObject
	copies  [maxReplicas]*modelObject
	w       world
	broken  string
	fault   string
	endsX   bool           // an xlock is released in this step
	dynamic bool           // replicas come and go
	rows    map[State]bool // visited
	drops   []uint8
}

type modelObject struct {
	ex    *explorer
	locks [1]Lock
	rank  int // -1: auth
	reps  []wire.Rank
}

func (o *modelObject) Key() Key      { return Key{Ino: 1} }
func (o *modelObject) Locks() []Lock { return o.locks[:] }
func (o *modelObject) Clients() int {
	if o.rank >= 0 {
		return 0
	}
	return o.ex.nc
}
func (o *modelObject) Client(i int) ClientCaps {
	b := o.ex.w.cl[i].B
	if o.ex.fault == "skip the cap gather" {
		b = 0
	}
	return ClientCaps{Client: uint64(i + 1), Issued: types[o.ex.typ].bits(Letters(b).closure())}
}
func (o *modelObject) Loner() uint64         { return uint64(o.ex.w.loner) }
func (o *modelObject) IdealLoner() uint64    { return uint64(o.ex.w.loner) }
func (o *modelObject) SetLoner(c uint64)     { o.ex.w.loner = uint8(c) }
func (o *modelObject) Replicas() []wire.Rank { return o.reps }
func (o *modelObject) Traits() Traits {
	if o.rank >= 0 {
		return Replica
	}
	return 0
}

// Reissue is the only thing that makes the rank compare what clients were told with what the
// rows allow: a row or a hold that ends without it leaves its caps out for ever (V1).
func (ex *explorer) Reissue(Object) {
	if !ex.endsX || ex.fault != "ending an xlock asks nothing back" {
		ex.w.due = 1
	}
}

func (ex *explorer) Wake(*LockSet)   {}
func (ex *explorer) Pin(Object, int) {}
func (ex *explorer) Base(*Lock)      {}
func (ex *explorer) Absorb(*Lock) bool {
	if ex.fault == "complete before the aggregate is absorbed" {
		return true
	}
	return ex.w.delta == 0
}

func (ex *explorer) Tell(to wire.Rank, l *Lock, m Msg) {
	if o := l.obj.(*modelObject); o.rank >= 0 {
		r := &ex.w.rep[o.rank]
		b := uint8(m)
		if r.delta != 0 && (m == MsgLockAck || m == MsgSyncAck) {
			b |= 128
			r.delta = 0
		}
		if r.nUp == rankQueue {
			ex.broken = "model: replica queue full"
			return
		}
		r.up[r.nUp] = b
		r.nUp++
		return
	}
	r := &ex.w.rep[to]
	if r.nDown == rankQueue {
		ex.broken = "model: rank queue full"
		return
	}
	r.down[r.nDown] = uint8(m)
	r.nDown++
}

// expire tells auth that a copy was dropped (FIFO behind its acks).
const expire = 127

func newExplorer(t Type, clients, replicas int) *explorer {
	ex := &explorer{typ: t, nc: clients, nr: replicas}
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
	ex.w.state = uint8(ex.auth.locks[0].state)
	// What a client may give up by itself: everything, its right to change, one cached bit.
	ex.drops = []uint8{0, uint8(ls | lc | lr), uint8(lx | lw | lb | lr | ls), uint8(lc | lb | lx)}
	return ex
}

func (ex *explorer) owner(i int) Owner { return Owner{Client: uint64(i), Req: uint64(i) + 1} }

// load brings the lock of the model to life.
func (ex *explorer) load(w *world) {
	ex.w = *w
	ex.broken = ""
	l := &ex.auth.locks[0]
	ex.auth.reps = ex.auth.reps[:0]
	for r := 0; r < ex.nr; r++ {
		if w.rep[r].known != 0 {
			ex.auth.reps = append(ex.auth.reps, wire.Rank(r))
		}
	}
	ex.loadLock(l, State(w.state), w.rd, w.wr)
	if w.x != 0 {
		x := ex.e.extend(l)
		x.hasX, x.xlocker = true, ex.owner(int(w.x&15)-1)
		if w.x&16 != 0 {
			x.holds = append(x.holds, hold{x.xlocker, X})
		}
	}
	for c := 1; c <= ex.nc; c++ {
		if w.forced&(1<<c) != 0 {
			x := ex.e.extend(l)
			x.forced = append(x.forced, uint64(c))
		}
	}
	for r := 0; r < ex.nr; r++ {
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
		x.holds, x.gather, x.forced, x.waiters, x.hasX = x.holds[:0], x.gather[:0], x.forced[:0], nil, false
		ex.e.giveBack(l)
	}
	l.state, l.flags = s, 0
	for o := 0; o <= ex.nc; o++ {
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

// save reads it back.
func (ex *explorer) save() {
	w := &ex.w
	l := &ex.auth.locks[0]
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
	for i := 0; i < ex.nr; i++ {
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

// settle is what a rank does at the end of a step: locks settle, then clients that hold too
// much are told.
func (ex *explorer) settle() {
	ex.e.Touch(&ex.auth.locks[0])
	for i := 0; i < ex.nr; i++ {
		if ex.w.rep[i].absent == 0 {
			ex.e.Touch(&ex.copies[i].locks[0])
		}
	}
	ex.e.Settle()
	ex.endsX = false
	if ex.w.due != 0 {
		ex.w.due = 0
		for i := 0; i < ex.nc; i++ {
			c := &ex.w.cl[i]
			a := ex.allowed(i)
			switch {
			case c.P&^a == 0:
			case c.nDown < capQueue:
				c.P &= a
				ex.send(c, c.P|128)
			default:
				ex.w.due = 1
			}
		}
	}
	ex.save()
}

func (ex *explorer) allowed(i int) uint8 {
	l := &ex.auth.locks[0]
	row := l.row()
	if ex.fault == "grant what the goal allows" && !row.Steady {
		row = l.table().Row(row.Goal)
	}
	return six(l.letters(row, uint64(i+1), uint64(ex.w.loner), false))
}

func (ex *explorer) send(c *client, m uint8) {
	c.down[c.nDown] = m
	c.nDown++
	for i := range c.up[:c.nUp] {
		if c.up[i].lag < 3 {
			c.up[i].lag++
		}
	}
}

// reply queues a client's UPDATE; false when there is no room.
func (c *client) reply(dirty uint8) {
	c.up[c.nUp] = upMsg{retained: c.H, lag: c.nDown, dirty: dirty}
	c.nUp++
}

// each runs every action that is possible in w and hands the result to visit. progress
// restricts it to the first action that moves things on (V1).
func (ex *explorer) each(w *world, progress bool, visit func(name string) bool) {
	do := func(name string, act func() bool) bool {
		ex.load(w)
		if !act() {
			return true
		}
		ex.settle()
		return visit(name)
	}
	l := &ex.auth.locks[0]
	t := types[ex.typ].table
	for i := 0; i < ex.nc; i++ {
		i := i
		if w.cl[i].nDown > 0 && !do(fmt.Sprintf("c%d hears the rank", i+1), func() bool { return ex.clientHears(i) }) {
			return
		}
		if w.cl[i].nUp > 0 && !do(fmt.Sprintf("rank hears c%d", i+1), func() bool { return ex.rankHears(i) }) {
			return
		}
		if w.forced&(2<<i) != 0 && !do(fmt.Sprintf("flush of c%d done", i+1), func() bool { ex.e.Unforce(l, uint64(i+1)); return true }) {
			return
		}
	}
	for r := 0; r < ex.nr; r++ {
		r := r
		if w.rep[r].nDown > 0 && !do(fmt.Sprintf("mds.%d hears auth", r), func() bool { return ex.replicaHears(r) }) {
			return
		}
		if w.rep[r].nUp > 0 && !do(fmt.Sprintf("auth hears mds.%d", r), func() bool { return ex.authHears(r) }) {
			return
		}
		for _, m := range []Mode{Rd, Wr} {
			held := w.rep[r].rd
			if m == Wr {
				held = w.rep[r].wr
			}
			if held != 0 && !do(fmt.Sprintf("mds.%d drops %v", r, m), func() bool { ex.e.Release(&ex.copies[r].locks[0], m, ex.owner(0)); return true }) {
				return
			}
		}
	}
	if w.delta != 0 && !do("absorb", func() bool { ex.w.delta = 0; return l.row().Do == Absorb }) {
		return
	}
	for o := 0; o <= ex.nc; o++ {
		o := o
		if w.rd&(1<<o) != 0 && !do(fmt.Sprintf("%d drops rd", o), func() bool { ex.e.Release(l, Rd, ex.owner(o)); return true }) {
			return
		}
		if w.wr&(1<<o) != 0 && !do(fmt.Sprintf("%d drops wr", o), func() bool { ex.e.Release(l, Wr, ex.owner(o)); return true }) {
			return
		}
	}
	if w.x != 0 {
		o := ex.owner(int(w.x&15) - 1)
		if w.x&16 != 0 {
			if !do("drop x", func() bool { ex.endsX = true; ex.e.Release(l, X, o); return true }) {
				return
			}
		} else if !do("cancel x", func() bool { l.ext.hasX, l.ext.xlocker = false, Owner{}; return true }) {
			return
		}
	}
	if progress {
		return
	}
	// What the world may want at any time.
	row := t.Row(State(w.state))
	for o := 0; o <= ex.nc; o++ {
		o := o
		for _, m := range []Mode{Rd, Wr} {
			held := w.rd
			if m == Wr {
				held = w.wr
			}
			if held&(1<<o) == 0 {
				do(fmt.Sprintf("%d takes %v", o, m), func() bool {
					if !ex.e.Try(l, m, ex.owner(o)) {
						return false
					}
					if m == Wr && State(w.state) == t.mix && ex.typ != IAuth {
						ex.w.delta = 1
					}
					return true
				})
			}
		}
		if row.Steady && State(w.state) == t.lock && t.lockXlock != noState {
			do(fmt.Sprintf("%d starts xlock", o), func() bool { return ex.e.move(l, t.lockXlock, ex.owner(o)) })
		}
		if State(w.state) == t.preXlock && t.preXlock != noState && int(w.x&15)-1 == o {
			do(fmt.Sprintf("%d takes x", o), func() bool { return ex.e.Try(l, X, ex.owner(o)) })
		}
	}
	if w.x&16 != 0 && State(w.state) == t.xlock {
		do("x rests", func() bool { ex.e.Rest(l, ex.owner(int(w.x&15)-1)); return true })
	}
	if row.Steady {
		for s, r := range t.Rows {
			if r.Steady && t.via[w.state][s] != noState && (!(State(s) == t.excl || State(s) == t.xsyn) || w.loner != 0) {
				do("go to "+r.Name, func() bool { return ex.e.move(l, State(s), Owner{}) })
			}
		}
	}
	for i := 0; i < ex.nc; i++ {
		i := i
		c := &w.cl[i]
		if c.B == c.P && c.nDown < capQueue { // Q-e
			do(fmt.Sprintf("grant c%d", i+1), func() bool {
				c := &ex.w.cl[i]
				a := ex.allowed(i)
				if a&^c.P == 0 {
					return false
				}
				c.P |= a
				c.B |= c.P
				ex.send(c, c.P)
				return true
			})
		}
		if c.nUp < capQueue {
			for _, keep := range ex.drops {
				do(fmt.Sprintf("c%d keeps %v", i+1, Letters(keep&c.H)), func() bool {
					c := &ex.w.cl[i]
					if c.H&^keep == 0 {
						return false
					}
					dirty := c.H &^ keep & uint8(lx|lw|lb)
					c.H &= keep
					c.reply(dirty)
					return true
				})
			}
		}
		if t.excl != noState && w.loner == 0 {
			do(fmt.Sprintf("loner c%d", i+1), func() bool { ex.w.loner = uint8(i + 1); return true })
		}
	}
	if w.loner != 0 {
		do("no loner", func() bool {
			if ex.fault != "clear the loner while it holds locks" && !ex.e.mayClear(ex.auth, uint64(w.loner)) {
				return false
			}
			ex.w.loner = 0
			return true
		})
	}
	for r := 0; r < ex.nr; r++ {
		r := r
		rep := &w.rep[r]
		if ex.dynamic && rep.absent == 0 && rep.rd|rep.wr == 0 && rep.nUp < rankQueue {
			do(fmt.Sprintf("mds.%d drops its copy", r), func() bool {
				rep := &ex.w.rep[r]
				m := uint8(expire)
				if rep.delta != 0 {
					m |= 128 // what it accumulated goes along
				}
				rep.up[rep.nUp] = m
				rep.nUp++
				rep.absent, rep.delta, rep.asked, rep.state = 1, 0, 0, 0
				return true
			})
		}
		if ex.dynamic && rep.absent != 0 && rep.known == 0 && rep.nDown == 0 && rep.nUp == 0 {
			do(fmt.Sprintf("mds.%d gets a copy", r), func() bool {
				rep := &ex.w.rep[r]
				rep.absent, rep.known = 0, 1
				ex.copies[r].locks[0].BeginReplica(l.Born())
				ex.auth.reps = append(ex.auth.reps, wire.Rank(r))
				slices.Sort(ex.auth.reps)
				return true
			})
		}
		for _, m := range []Mode{Rd, Wr} {
			held := w.rep[r].rd
			if m == Wr {
				held = w.rep[r].wr
			}
			if held == 0 && rep.absent == 0 {
				do(fmt.Sprintf("mds.%d takes %v", r, m), func() bool {
					if !ex.e.Try(&ex.copies[r].locks[0], m, ex.owner(0)) {
						return false
					}
					if m == Wr {
						ex.w.rep[r].delta = 1
					}
					return true
				})
			}
		}
	}
}

func (ex *explorer) clientHears(i int) bool {
	c := &ex.w.cl[i]
	m := c.down[0]
	if m&128 != 0 && c.nUp == capQueue {
		return false
	}
	copy(c.down[:], c.down[1:])
	c.nDown--
	c.down[c.nDown] = 0
	lost := c.H &^ m
	c.H = m &^ 128
	if m&128 != 0 {
		c.reply(lost & uint8(lx|lw|lb))
	}
	return true
}

func (ex *explorer) rankHears(i int) bool {
	c := &ex.w.cl[i]
	m := c.up[0]
	bit := uint8(2) << i
	if m.dirty != 0 && ex.w.forced&bit != 0 {
		return false // the earlier flush is still being applied
	}
	copy(c.up[:], c.up[1:])
	c.nUp--
	c.up[c.nUp] = upMsg{}
	if m.dirty != 0 && ex.fault != "apply a flush without a forced wrlock" {
		ex.e.Force(&ex.auth.locks[0], uint64(i+1)) // Q-b masks it, FW refuses it
	}
	if m.lag == 0 || ex.fault == "accept an answer to an older message" {
		c.B &= m.retained
		c.P = c.B
	}
	return true
}

func (ex *explorer) replicaHears(r int) bool {
	rep := &ex.w.rep[r]
	m := rep.down[0]
	copy(rep.down[:], rep.down[1:])
	rep.nDown--
	rep.down[rep.nDown] = 0
	if rep.absent != 0 {
		return true // it names an object the receiver no longer holds (2.7)
	}
	if err := ex.e.Receive(&ex.copies[r].locks[0], AuthRank, Msg(m&127)); err != nil {
		ex.broken = "Q1: " + err.Error()
	}
	return true
}

func (ex *explorer) authHears(r int) bool {
	rep := &ex.w.rep[r]
	m := rep.up[0]
	copy(rep.up[:], rep.up[1:])
	rep.nUp--
	rep.up[rep.nUp] = 0
	if m&128 != 0 {
		ex.w.delta = 1
	}
	if m&127 == expire {
		rep.known = 0
		ex.auth.reps = slices.DeleteFunc(ex.auth.reps, func(x wire.Rank) bool { return x == wire.Rank(r) })
		ex.e.ReplicaGone(&ex.auth.locks[0], wire.Rank(r))
		return true
	}
	if err := ex.e.Receive(&ex.auth.locks[0], wire.Rank(r), Msg(m&127)); err != nil {
		ex.broken = "Q1: " + err.Error()
	}
	return true
}

// check is §3.2 over the present world: "" or the broken rule.
func (ex *explorer) check() string {
	w := &ex.w
	if ex.broken != "" {
		return ex.broken
	}
	t := types[ex.typ].table
	row := t.Row(State(w.state))
	file := ex.typ == IFile
	xwb, wx := uint8(lx|lb), uint8(lw|lx)
	repWr, anyDelta := false, w.delta != 0
	for r := 0; r < ex.nr; r++ {
		rep := &w.rep[r]
		repWr = repWr || rep.wr != 0
		anyDelta = anyDelta || rep.delta != 0
		for _, m := range rep.up[:rep.nUp] {
			anyDelta = anyDelta || m&128 != 0
		}
	}
	for i := 0; i < ex.nc; i++ {
		c := &w.cl[i]
		if c.H&^c.B != 0 || c.P&^c.B != 0 {
			return fmt.Sprintf("B0: c%d H=%v B=%v P=%v", i+1, Letters(c.H), Letters(c.B), Letters(c.P))
		}
		for j := 0; j < ex.nc; j++ {
			d := &w.cl[j]
			if i != j && c.H&xwb != 0 && d.H != 0 {
				return fmt.Sprintf("C1: c%d %v beside c%d %v", i+1, Letters(c.H), j+1, Letters(d.H))
			}
			if i != j && c.H&uint8(lw) != 0 && d.H&uint8(ls|lc) != 0 {
				return fmt.Sprintf("C2: c%d %v beside c%d %v", i+1, Letters(c.H), j+1, Letters(d.H))
			}
		}
		// L1
		rdOthers := w.rd &^ (2 << i)
		for r := 0; r < ex.nr; r++ {
			rdOthers |= w.rep[r].rd
		}
		if rdOthers != 0 && (c.H&wx != 0 || c.H&uint8(lb) != 0 && !strings.Contains(row.Name, "xsyn")) {
			return fmt.Sprintf("L1: rd in %s while c%d holds %v", row.Name, i+1, Letters(c.H))
		}
		if w.x&16 != 0 {
			ok := uint8(0)
			if file {
				ok = uint8(lc)
			}
			if State(w.state) == t.xlockDone && int(w.x&15)-1 == i+1 {
				ok |= uint8(ls)
			}
			if c.H&^ok != 0 {
				return fmt.Sprintf("X2: x held in %s while c%d holds %v", row.Name, i+1, Letters(c.H))
			}
		}
		if row.Get != Nobody && c.H&wx != 0 {
			return fmt.Sprintf("G1s: get in %s while c%d holds %v", row.Name, i+1, Letters(c.H))
		}
		for r := 0; r < ex.nr; r++ {
			if w.rep[r].absent == 0 && t.Row(State(w.rep[r].state)).Get == ByAny && c.H&wx != 0 {
				return fmt.Sprintf("G1s: get at mds.%d while c%d holds %v", r, i+1, Letters(c.H))
			}
		}
		if row.Steady && c.B&^six(ex.auth.locks[0].letters(row, uint64(i+1), uint64(w.loner), false)) != 0 {
			return fmt.Sprintf("SO1: in %s c%d is issued %v", row.Name, i+1, Letters(c.B))
		}
	}
	if w.loner == 0 && row.forLoner {
		return "SO1: " + row.Name + " without a loner"
	}
	// L2
	for o := 0; o <= ex.nc; o++ {
		if w.rd&(1<<o) == 0 {
			continue
		}
		if w.wr&^(1<<o) != 0 || repWr {
			return "L2: rd beside wr in " + row.Name
		}
		if w.forced&^(1<<o) != 0 && !strings.Contains(row.Name, "xsyn") {
			return "L2: rd beside a forced write in " + row.Name
		}
	}
	anonRd := w.rd&1 != 0
	for r := 0; r < ex.nr; r++ {
		rep := &w.rep[r]
		if rep.absent != 0 {
			continue
		}
		rr := t.Row(State(rep.state))
		if rep.rd != 0 && (w.wr != 0 || repWr || w.forced != 0) {
			return fmt.Sprintf("L2: rd at mds.%d beside wr", r)
		}
		if w.x&16 != 0 && (rep.rd != 0 || rep.wr != 0) {
			return fmt.Sprintf("X1: x beside a hold at mds.%d", r)
		}
		anonRd = anonRd || rep.rd != 0
		if rr.Name == "sync" {
			if !strings.HasPrefix(row.Name, "sync") {
				return fmt.Sprintf("M1: mds.%d sync, auth %s", r, row.Name)
			}
			if anyDelta {
				return "S1: a delta while a replica is in sync"
			}
		}
		if rr.Name == "mix" && !strings.HasPrefix(row.Name, "mix") {
			return fmt.Sprintf("M2: mds.%d mix, auth %s", r, row.Name)
		}
		if rr.Get == ByAny && (w.wr != 0 || w.x&16 != 0 || repWr) {
			return fmt.Sprintf("G1s: get at mds.%d beside a writer", r)
		}
	}
	if anyDelta && (anonRd || row.Name == "sync" || row.Name == "tsyn") {
		return "S1: a delta in " + row.Name
	}
	if row.Get != Nobody && repWr {
		return "G1s: get at auth, wr at a replica"
	}
	if w.x&16 != 0 {
		o := int(w.x&15) - 1
		if (w.rd|w.wr|w.forced)&^(1<<o) != 0 {
			return "X1: x beside other holds in " + row.Name
		}
	}
	if row.Steady && w.gather != 0 {
		return "Q1: gather open in " + row.Name
	}
	return ""
}

// result of an exploration.
type explored struct {
	states, moves int
	longest       int // progress schedule
	complete      bool
	broken        string
	trace         []string
}

// explore visits every reachable state breadth first, at most limit.
func (ex *explorer) explore(limit, sampleProgress int) (res explored) {
	type from struct {
		parent int32
		name   string
	}
	seen := make(map[world]struct{}, 1<<12)
	var queue []world
	var origin []from
	push := func(w *world, parent int, name string) {
		if _, ok := seen[*w]; ok {
			return
		}
		seen[*w] = struct{}{}
		queue = append(queue, *w)
		origin = append(origin, from{int32(parent), name})
	}
	trace := func(i int, last string) (out []string) {
		out = []string{last}
		for ; i > 0; i = int(origin[i].parent) {
			out = append([]string{origin[i].name}, out...)
		}
		return out
	}
	start := ex.w
	push(&start, 0, "")
	ex.rows = map[State]bool{}
	for i := 0; i < len(queue); i++ {
		w := queue[i]
		ex.rows[State(w.state)] = true
		for r := range ex.nr {
			ex.rows[State(w.rep[r].state)] = true
		}
		stop := false
		ex.each(&w, false, func(name string) bool {
			res.moves++
			if strings.HasPrefix(ex.broken, "model:") {
				return true // beyond the bounds of the model
			}
			if b := ex.check(); b != "" {
				res.broken, res.trace, stop = b, trace(i, name), true
				return false
			}
			push(&ex.w, i, name)
			return !stop
		})
		if stop {
			break
		}
		if sampleProgress > 0 && i%sampleProgress == 0 {
			if n, why := ex.drain(w); why != "" {
				res.broken, res.trace = "V1: "+why, trace(i, "drain")
				break
			} else if n > res.longest {
				res.longest = n
			}
		}
		if len(queue) > limit {
			res.states = len(queue)
			return res
		}
	}
	res.states, res.complete = len(queue), res.broken == ""
	return res
}

// drain runs progress actions only (V1).
func (ex *explorer) drain(w world) (steps int, why string) {
	for ; steps < 400; steps++ {
		moved := false
		var next world
		ex.each(&w, true, func(string) bool {
			if ex.w == w {
				return true
			}
			next, moved = ex.w, true
			return false
		})
		if !moved {
			break
		}
		w = next
	}
	ex.load(&w)
	l := &ex.auth.locks[0]
	if !l.Steady() {
		return steps, fmt.Sprintf("stuck in %s, awaiting %v", l.State(), l.Awaits())
	}
	for i := 0; i < ex.nc; i++ {
		if w.cl[i].nDown|w.cl[i].nUp != 0 {
			return steps, "queues of a client are not empty"
		}
	}
	for r := 0; r < ex.nr; r++ {
		if w.rep[r].nDown|w.rep[r].nUp != 0 || w.rep[r].absent == 0 && State(w.rep[r].state) != l.row().Born {
			return steps, fmt.Sprintf("mds.%d in %s under %s", r, l.table().Row(State(w.rep[r].state)).Name, l.State())
		}
	}
	return steps, ""
}

var configs = []struct {
	typ      Type
	clients  int
	replicas int
	short    bool
	dynamic  bool
}{
	{IAuth, 2, 0, true, false},
	{IAuth, 0, 2, true, false},
	{INest, 0, 1, true, false},
	{INest, 0, 2, true, false},
	{IFile, 1, 0, true, false},
	{IFile, 0, 1, true, false},
	{IFile, 2, 0, true, false},
	{IAuth, 0, 2, true, true},
	{INest, 0, 2, true, true},
	{IFile, 0, 2, true, true},
	{IFile, 1, 1, true, true},
	{IFile, 1, 1, false, false},
	{IFile, 1, 2, false, true},
	{IAuth, 2, 2, false, true},
	{IFile, 0, 2, false, false},
	{IAuth, 3, 0, false, false},
	{IAuth, 2, 1, false, false},
	{IFile, 2, 1, false, false},
}

// TestExplore visits every state of the small worlds; CAPSTAN_EXPLORE=1 (make explore) also
// those of the larger ones.
func TestExplore(t *testing.T) {
	full := os.Getenv("CAPSTAN_EXPLORE") != ""
	visited := map[string]map[State]bool{}
	for _, c := range configs {
		if !c.short && !full {
			continue
		}
		t.Run(fmt.Sprintf("%v-%dclients-%dreplicas-dynamic=%v", c.typ, c.clients, c.replicas, c.dynamic), func(t *testing.T) {
			ex := newExplorer(c.typ, c.clients, c.replicas)
			ex.dynamic = c.dynamic
			begun := time.Now()
			limit := 1 << 20
			if full {
				limit = 4 << 20
			} else if raceDetector {
				limit = 30_000
			}
			res := ex.explore(limit, 37)
			t.Logf("%d states, %d transitions, complete %v, longest drain %d, %v", res.states, res.moves, res.complete, res.longest, time.Since(begun).Round(time.Millisecond))
			tb := c.typ.Table()
			if visited[tb.Class] == nil {
				visited[tb.Class] = map[State]bool{}
			}
			for s := range ex.rows {
				visited[tb.Class][s] = true
			}
			if res.broken != "" {
				t.Fatalf("%s\n  %s", res.broken, strings.Join(res.trace, "\n  "))
			}
			if !full && !raceDetector && !res.complete {
				t.Fatal("not complete")
			}
		})
	}
	// What has nothing to await is left in the step that enters it, and so is never at rest.
	passing := map[string]bool{"simple lock>sync": true, "simple lock>excl": true, "simple lock>xlock": true,
		"scatter lock>mix": true, "scatter tsyn>sync": true}
	for _, tb := range tables[1:] {
		for s, r := range tb.Rows {
			if !raceDetector && !visited[tb.Class][State(s)] && !passing[tb.Class+" "+r.Name] {
				t.Errorf("%s: %s was never reached", tb.Class, r.Name)
			}
		}
	}
}

// TestSeededFaultsAreCaught breaks the tables and the engine's surroundings on purpose: an
// invariant that nothing can break proves nothing.
func TestSeededFaultsAreCaught(t *testing.T) {
	row := func(tb *Table, name string) *Row {
		s, ok := tb.State(name)
		if !ok {
			panic(name)
		}
		return tb.Row(s)
	}
	for _, f := range []struct {
		name              string
		typ               Type
		clients, replicas int
		wrong             func(tb *Table) // nil: the name is a fault of the surroundings
		want              string
	}{
		{"skip the cap gather", IFile, 2, 0, nil, ""},
		{"complete before the aggregate is absorbed", INest, 0, 1, nil, "S1"},
		{"grant what the goal allows", IFile, 2, 0, nil, ""},
		{"accept an answer to an older message", IAuth, 2, 0, nil, "B0"},
		{"clear the loner while it holds locks", IFile, 2, 0, nil, ""},
		{"ending an xlock asks nothing back", IFile, 1, 0, nil, "V1: stuck in xlockdone"},
		{"ending an xlock asks nothing back", IAuth, 2, 0, nil, "V1: stuck in xlockdone"},
		{"sync>excl leaves the others their caps", IAuth, 2, 0, func(tb *Table) { row(tb, "excl").All = ls }, "C1"},
		{"excl>xsyn keeps w", IFile, 1, 0, func(tb *Table) { row(tb, "xsyn").Loner |= lw; row(tb, "excl>xsyn").Loner |= lw }, ""},
		{"lock admits readers", IFile, 1, 0, func(tb *Table) { row(tb, "lock").Rd = ByAuth }, "L2"},
		{"xlock admits readers", IAuth, 1, 0, func(tb *Table) { row(tb, "xlock").Rd = ByAuth }, "X1"},
		{"replicas are not told to lock", IAuth, 0, 1, func(tb *Table) { row(tb, "sync>lock").Tell = NoMsg }, "M1"},
		{"mix>sync2 publishes without absorbing", INest, 0, 1, func(tb *Table) { row(tb, "mix>sync2").Do = NoWork }, "S1"},
		{"mix keeps caches", IFile, 2, 0, func(tb *Table) { row(tb, "mix").All |= lc; row(tb, "mix").Loner |= lc }, "C2"},
		{"mix leaves in one stage", INest, 0, 1, func(tb *Table) { row(tb, "mix>lock").Next = noState }, ""},
		{"lock>xlock skips its drain", IFile, 1, 0, func(tb *Table) { row(tb, "prexlock").All |= lw; row(tb, "lock").All |= lw; row(tb, "xlock").All |= lw }, ""},
		{"a replica never answers", IAuth, 0, 1, func(tb *Table) { row(tb, "sync>lock").Ack = NoMsg }, "V1"},
		{"a replica acknowledges before it has drained", INest, 0, 1, func(tb *Table) { row(tb, "lock").Rd = ByAny }, ""},
	} {
		t.Run(f.name, func(t *testing.T) {
			old := types[f.typ].table
			defer func() { types[f.typ].table = old }()
			if f.wrong != nil {
				clone := *old
				clone.Rows = append([]Row(nil), old.Rows...)
				f.wrong(&clone)
				types[f.typ].table = &clone
			}
			ex := newExplorer(f.typ, f.clients, f.replicas)
			if f.wrong == nil {
				ex.fault = f.name
			}
			res := ex.explore(1<<20, 1)
			if res.broken == "" || !strings.HasPrefix(res.broken, f.want) {
				t.Fatalf("not caught in %d states: %q", res.states, res.broken)
			}
			t.Logf("%s after %d states, %d steps", res.broken, res.states, len(res.trace))
		})
	}
}
