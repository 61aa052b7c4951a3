package locker

import (
	"fmt"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Engine moves the locks of one rank. It is part of the rank's core: one caller at a time.
type Engine struct {
	host Host
	work []*Lock // disturbed locks, first come first served
	head int
	due  []Object // objects to reissue caps of
	free *extension

	// Trace, when set, is told every transition.
	Trace func(l *Lock, from, to string)
	// Pause lets a reader of a file under a loner be answered from xsyn.
	Pause bool
	// Moves counts transitions since the start.
	Moves uint64

	settling bool
	hold     bool // exploration: no policy, only what is asked for
}

// New makes an engine that acts on host.
func New(host Host) *Engine { return &Engine{host: host} }

// Settle drains the locks that were disturbed. A transition never calls another: it marks
// what it touched. Caps are reissued once per object, after its rows have come to rest.
// Called out of a host's call-back it does nothing: the Settle that called goes on anyway.
func (e *Engine) Settle() {
	if e.settling {
		return
	}
	e.settling = true
	defer func() { e.settling = false }()
	for {
		if e.head < len(e.work) {
			l := e.work[e.head]
			e.work[e.head] = nil
			e.head++
			l.flags &^= queued
			e.advance(l)
			continue
		}
		e.work, e.head = e.work[:0], 0
		if len(e.due) == 0 {
			return
		}
		for i := 0; i < len(e.due); i++ { // Reissue may disturb locks and so append here
			obj := e.due[i]
			e.due[i] = nil
			obj.Locks()[0].flags &^= reissuing
			e.host.Reissue(obj)
		}
		e.due = e.due[:0]
	}
}

// Touch marks l as disturbed: what it waits for or decides by may have changed.
func (e *Engine) Touch(l *Lock) {
	if l.flags&queued == 0 {
		l.flags |= queued
		e.work = append(e.work, l)
	}
}

// Changed says that clients' issued or wanted bits, leases, traits or the ideal loner of obj
// changed: an ack came, a session died, an open file was closed.
func (e *Engine) Changed(obj Object) {
	e.reconsider(obj)
	locks := obj.Locks()
	for i := range locks {
		if l := &locks[i]; types[l.typ].mask != 0 || l.ext != nil || !l.Steady() {
			e.Touch(l)
		}
	}
}

// Reissue makes Settle call Host.Reissue(obj) although no row changed: a client wants more.
func (e *Engine) Reissue(obj Object) {
	locks := obj.Locks()
	if len(locks) > 0 && locks[0].flags&reissuing == 0 {
		locks[0].flags |= reissuing
		e.due = append(e.due, obj)
	}
}

// Scatter asks for mix (an un-absorbed delta is to move, a replica wants to write); the wish
// survives until mix is reached.
func (e *Engine) Scatter(l *Lock) {
	l.flags |= wantMix
	e.Touch(l)
}

// advance moves one lock as far as it goes now.
func (e *Engine) advance(l *Lock) {
	if l.flags&inAdvance != 0 { // a host call of ours led back here
		e.Touch(l)
		return
	}
	l.flags |= inAdvance
	for n := 0; e.step(l); n++ {
		if n > maxSteps {
			must.Holdf(false, "%v: evaluation does not come to rest", l)
		}
	}
	l.flags &^= inAdvance
	e.pin(l)
	if x := l.ext; x != nil && !x.hasX && len(x.holds)|len(x.waiters)|len(x.gather)|len(x.forced) == 0 {
		e.giveBack(l)
	}
}

// maxSteps bounds one advance: far more than waiters and rows, far less than forever.
const maxSteps = 1 << 20

// step does the next thing that l can do, in the order of §2.6: those whose turn it is get
// their hold, a transit that has nothing to await completes, a steady lock goes where its
// policy says.
func (e *Engine) step(l *Lock) bool {
	if l.replica() {
		return e.stepReplica(l)
	}
	need, by, served := e.serve(l)
	if served {
		return true
	}
	row := l.row()
	if !row.Steady {
		return e.blocked(l, row, nil) == 0 && e.complete(l, row)
	}
	if e.hold || l.obj.Traits()&Freezing != 0 && l.typ != Dn {
		return false
	}
	if l.Contended() && need == None {
		return false
	}
	return e.move(l, decide(policyByType[l.typ], l.state, e.conditions(l, need, by)), by)
}

// move leaves a steady state for goal; from a state that has no direct way by lock.
func (e *Engine) move(l *Lock, goal State, by Owner) bool {
	if goal == l.state {
		return false
	}
	t := l.table()
	next := goal
	if t.Rows[goal].Steady {
		if next = t.via[l.state][goal]; next == noState {
			next = t.via[l.state][t.lock]
		}
		if next == noState {
			must.Holdf(false, "%v: no way to %s", l, t.Rows[goal].Name)
		}
	} else {
		x := e.extend(l) // lock>xlock: from here on it is reserved for one request
		x.hasX, x.xlocker = true, by
	}
	e.enter(l, next)
	return true
}

// enter sets the state and does what its row says is done on entry.
func (e *Engine) enter(l *Lock, s State) {
	t := l.table()
	from, to := &t.Rows[l.state], &t.Rows[s]
	l.state = s
	e.Moves++
	if e.Trace != nil {
		e.Trace(l, from.Name, to.Name)
	}
	if s == t.mix {
		l.flags &^= wantMix
	}
	if s == t.sync {
		l.flags &^= wantSync
	}
	if to.Tell != NoMsg && !l.replica() {
		if reps := l.obj.Replicas(); len(reps) > 0 {
			x := e.extend(l)
			must.Holdf(len(x.gather) == 0, "%v: a gather is still open", l)
			x.gather = append(x.gather, reps...)
			for _, r := range reps {
				e.host.Tell(r, l, to.Tell)
			}
		}
	}
	if types[l.typ].mask != 0 && (from.All != to.All || from.Loner != to.Loner || from.Holder != to.Holder ||
		from.RepClients != to.RepClients) && l.obj.Clients() > 0 {
		e.Reissue(l.obj)
	}
}

// complete ends a transit whose gather is over.
func (e *Engine) complete(l *Lock, row *Row) bool {
	if row.Next != noState {
		e.enter(l, row.Next)
		return true
	}
	switch row.Do {
	case Absorb:
		if !e.host.Absorb(l) {
			return false
		}
	case Base:
		e.host.Base(l)
	}
	e.enter(l, row.Goal)
	if row.Flush != NoMsg {
		for _, r := range l.obj.Replicas() {
			e.host.Tell(r, l, row.Flush)
		}
	}
	if l.Steady() && types[l.typ].mask != 0 {
		e.reconsider(l.obj)
	}
	return true
}

// Reasons why a transit cannot complete yet; blocked returns their union.
const (
	byReplicas = 1 << iota
	byForced
	byHolds
	byX
	byCaps
	byRecovery
)

// blocked is the completion condition of §2.6, negated. tell, when not nil, hears each reason
// in words; otherwise the first reason ends the search.
func (e *Engine) blocked(l *Lock, row *Row, tell func(string)) int { return l.blocked(row, tell) }

func (l *Lock) blocked(row *Row, tell func(string)) (why int) {
	t := l.table()
	goal := &t.Rows[row.Goal]
	if x := l.ext; x != nil {
		if x.hasX && goal.X != ByHolder {
			// Reserved or held. Only lock>xlock goes on regardless: it prepares for the holder.
			why |= byX
			if tell == nil {
				return why
			}
			if l.HeldBy(x.xlocker) != X {
				tell(x.xlocker.String() + " reserved")
			}
		}
		if len(x.gather) > 0 {
			why |= byReplicas
			if tell == nil {
				return why
			}
			for _, r := range x.gather {
				tell(fmt.Sprintf("mds.%d", r))
			}
		}
		if len(x.forced) > 0 {
			why |= byForced
			if tell == nil {
				return why
			}
			for _, c := range x.forced {
				tell(fmt.Sprintf("c%d flush", c))
			}
		}
		for i := range x.holds {
			h := &x.holds[i]
			ok := false
			switch h.mode {
			case Rd:
				ok = l.admits(goal.Rd, h.by)
			case Wr:
				// E1: a row that leaves mix drains every wrlock. It is told by its own wr
				// cell: mix admits any, so the meet with a goal that admits auth would not
				// be nobody.
				ok = !t.leavesMix(row) && l.admits(goal.Wr, h.by)
			}
			if !ok {
				why |= byHolds
				if tell == nil {
					return why
				}
				tell(h.by.String() + " " + h.mode.String())
			}
		}
	}
	ti := &types[l.typ]
	if ti.mask != 0 {
		replica := l.replica()
		loner := l.obj.Loner()
		for i, n := 0, l.obj.Clients(); i < n; i++ {
			cl := l.obj.Client(i)
			if over := ti.letters(cl.Issued) &^ l.letters(goal, cl.Client, loner, replica); over != 0 {
				why |= byCaps
				if tell == nil {
					return why
				}
				if l.typ == Dn {
					tell(fmt.Sprintf("c%d lease", cl.Client))
				} else {
					tell(fmt.Sprintf("c%d %v", cl.Client, ti.bits(over)))
				}
			}
		}
	}
	if l.typ == IFile && l.obj.Traits()&Recovering != 0 && goal.Get != Nobody {
		why |= byRecovery
		if tell != nil {
			tell("size recovery")
		}
	}
	return why
}

// leavesMix reports whether row is a transit out of mix, either stage.
func (t *Table) leavesMix(row *Row) bool { return row.fromMix }

// Awaits names whom l waits for: in transit what the gather lacks, in a steady state the
// holders that its first waiter is behind. Nil when nothing is awaited.
func (l *Lock) Awaits() []string {
	var out []string
	row := l.row()
	if !row.Steady {
		l.blocked(row, func(s string) { out = append(out, s) })
		return out
	}
	if l.Contended() {
		if l.recovering() {
			out = append(out, "size recovery")
		}
		for _, h := range l.ext.holds {
			out = append(out, h.by.String()+" "+h.mode.String())
		}
	}
	return out
}

// reconsider changes the loner of obj if another is ideal and SO1 permits.
func (e *Engine) reconsider(obj Object) {
	if obj.Traits()&Replica != 0 {
		return
	}
	ideal, loner := obj.IdealLoner(), obj.Loner()
	if ideal == loner {
		return
	}
	if loner != 0 {
		if !e.mayClear(obj, loner) {
			e.touchCaps(obj) // to move to rows where it may
			return
		}
		obj.SetLoner(0)
	}
	if ideal != 0 {
		obj.SetLoner(ideal)
	}
	e.touchCaps(obj)
	e.Reissue(obj)
}

func (e *Engine) touchCaps(obj Object) {
	locks := obj.Locks()
	for i := range locks {
		if types[locks[i].typ].mask != 0 {
			e.Touch(&locks[i])
		}
	}
}

// mayClear is rule SO1 over all locks of obj.
func (e *Engine) mayClear(obj Object, loner uint64) bool {
	var issued caps.Bits
	for i, n := 0, obj.Clients(); i < n; i++ {
		if cl := obj.Client(i); cl.Client == loner {
			issued = cl.Issued
		}
	}
	locks := obj.Locks()
	for i := range locks {
		l := &locks[i]
		ti := &types[l.typ]
		if ti.mask == 0 {
			continue
		}
		row := l.row()
		if row.forLoner || ti.letters(issued)&^row.All != 0 {
			return false
		}
		if l.ext != nil {
			for _, h := range l.ext.holds {
				if h.by.Client == loner && h.mode != X {
					return false
				}
			}
			// A flush being applied is a wrlock too (FW). Found by exploration: without this a
			// new loner reads beside the old one's flush in excl>sync.
			for _, c := range l.ext.forced {
				if c == loner {
					return false
				}
			}
		}
	}
	return true
}

// Force starts applying a client's flush to l: a wrlock regardless of the row (FW). It is
// legal iff the flusher's bound still has x, w or b of the group; false otherwise.
func (e *Engine) Force(l *Lock, client uint64) bool {
	ti := &types[l.typ]
	for i, n := 0, l.obj.Clients(); i < n; i++ {
		if cl := l.obj.Client(i); cl.Client == client && cl.Issued&ti.bits(lx|lw|lb) != 0 {
			x := e.extend(l)
			x.forced = append(x.forced, client)
			return true
		}
	}
	return false
}

// Unforce ends it, after the flush was applied and submitted.
func (e *Engine) Unforce(l *Lock, client uint64) {
	x := l.ext
	for i := range x.forced {
		if x.forced[i] == client {
			x.forced = append(x.forced[:i], x.forced[i+1:]...)
			e.Touch(l)
			return
		}
	}
	must.Holdf(false, "%v: c%d has no forced write", l, client)
}

func (e *Engine) extend(l *Lock) *extension {
	if l.ext == nil {
		x := e.free
		if x == nil {
			x = &extension{holds: make([]hold, 0, 2)}
		} else {
			e.free, x.free = x.free, nil
		}
		l.ext = x
	}
	return l.ext
}

func (e *Engine) giveBack(l *Lock) {
	x := l.ext
	x.wrote = false
	l.ext, x.free, e.free = nil, e.free, x
}

// pin keeps one auth pin on the object of an unstable lock.
func (e *Engine) pin(l *Lock) {
	if l.replica() {
		return
	}
	if steady := l.Steady(); steady == (l.flags&pinned != 0) {
		l.flags ^= pinned
		if steady {
			e.host.Pin(l.obj, -1)
		} else {
			e.host.Pin(l.obj, 1)
		}
	}
}

// Born is the state in which a copy of l begins that another rank gets now; the host adds
// the rank to the object's Replicas.
func (l *Lock) Born() State { return l.row().Born }

// BeginReplica puts the lock of a new copy into the state that auth gave it.
func (l *Lock) BeginReplica(s State) { l.state = s }

// Receive applies a lock message from another rank (2.7). An error is a violation of the
// protocol by the peer, or of ours.
func (e *Engine) Receive(l *Lock, from wire.Rank, m Msg) error {
	t := l.table()
	if l.replica() {
		for _, r := range t.receive {
			if r.msg == m && (r.in == l.state || r.in == noState) {
				if r.next != noState {
					l.flags &^= askedAuth
					e.enter(l, r.next)
				}
				e.Touch(l)
				return nil
			}
		}
		return fmt.Errorf("locker: %v: message %v from mds.%d does not fit", l, m, from)
	}
	switch m {
	case MsgReqRd:
		l.flags |= wantSync
	case MsgReqWr, MsgNudge:
		l.flags |= wantMix
	case MsgLockAck, MsgMixAck, MsgSyncAck:
		want := ackOf[l.row().Tell]
		if m != want || !e.acked(l, from) {
			return fmt.Errorf("locker: %v: %v from mds.%d is not awaited", l, m, from)
		}
	default:
		return fmt.Errorf("locker: %v: message %v from mds.%d does not fit", l, m, from)
	}
	e.Touch(l)
	return nil
}

// ackOf pairs what auth tells with what it awaits.
var ackOf = [...]Msg{MsgLock: MsgLockAck, MsgMix: MsgMixAck, MsgSync: MsgSyncAck, MsgNudge: NoMsg}

// ReplicaGone removes a rank that dropped its copy (EXPIRE) or died (V5) from the gather.
func (e *Engine) ReplicaGone(l *Lock, r wire.Rank) {
	if e.acked(l, r) {
		e.Touch(l)
	}
}

func (e *Engine) acked(l *Lock, r wire.Rank) bool {
	if l.ext == nil {
		return false
	}
	g := l.ext.gather
	for i := range g {
		if g[i] == r {
			l.ext.gather = append(g[:i], g[i+1:]...)
			return true
		}
	}
	return false
}

// stepReplica is step on a copy: it drains as told, answers, and otherwise asks auth.
func (e *Engine) stepReplica(l *Lock) bool {
	need, _, served := e.serve(l)
	if served {
		return true
	}
	row := l.row()
	if !row.Steady && row.Ack != NoMsg && e.blocked(l, row, nil) == 0 {
		ack := row.Ack
		e.enter(l, row.Acked)
		e.host.Tell(AuthRank, l, ack)
		return true
	}
	if row.Steady && need != None && l.flags&askedAuth == 0 {
		l.flags |= askedAuth
		if need == Rd {
			e.host.Tell(AuthRank, l, MsgReqRd)
		} else {
			e.host.Tell(AuthRank, l, MsgReqWr)
		}
	}
	return false
}

// Rebuild gives the locks of obj the rows that what clients were issued needs, after caps
// were re-declared to a new incarnation (R2): sync where it does, else excl for the one
// client that has more (it becomes the loner), else mix; a file whose size is not known yet
// is in mix until it was recovered (R1). False: the claims contradict each other.
func (e *Engine) Rebuild(obj Object) bool {
	locks := obj.Locks()
	all := true
	for i := range locks {
		l := &locks[i]
		if types[l.typ].mask == 0 {
			continue
		}
		must.Holdf(l.ext == nil && l.Steady(), "%v: rebuilt while in use", l)
		ok := false
		t := l.table()
		for _, s := range []State{t.sync, t.excl, t.mix} {
			if s != noState && !ok && l.fits(s) {
				l.state, ok = s, true
			}
		}
		all = all && ok
		e.Touch(l)
	}
	return all
}

// fits reports whether every client's bound is within row s; for excl, of whom it would make
// the loner.
func (l *Lock) fits(s State) bool {
	t, ti := l.table(), &types[l.typ]
	row := &t.Rows[s]
	if l.typ == IFile && l.obj.Traits()&Recovering != 0 && (row.Get != Nobody || s == t.excl) {
		return false
	}
	loner := l.obj.Loner()
	if s == t.excl && loner == 0 {
		for i, n := 0, l.obj.Clients(); i < n; i++ {
			if cl := l.obj.Client(i); cl.Issued&ti.mask != 0 {
				loner = cl.Client
			}
		}
	}
	for i, n := 0, l.obj.Clients(); i < n; i++ {
		cl := l.obj.Client(i)
		if ti.letters(cl.Issued)&^l.letters(row, cl.Client, loner, false) != 0 {
			return false
		}
	}
	if s == t.excl && loner != 0 && l.obj.Loner() == 0 {
		l.obj.SetLoner(loner)
	}
	return true
}

// AuthRank stands for "whoever is auth" in Host.Tell; the host knows who that is.
const AuthRank = wire.NoRank
