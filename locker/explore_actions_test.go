package locker

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// action is one thing that may happen to a world.
type action struct {
	kind     actionKind
	who, arg uint8
}

type actionKind uint8

// Progress actions come first: they end what is under way (V1).
const (
	clientHears actionKind = iota
	rankHears
	flushDone
	replicaHears
	authHears
	replicaDrops
	absorbed
	drops
	dropX
	cancelX
	thaw
	lastProgress = thaw
)

// What the world may want at any time.
const (
	takes actionKind = iota + lastProgress + 1
	startsX
	takesX
	rests
	moves
	grants
	keeps
	becomesLoner
	clearLoner
	copyGoes
	copyComes
	replicaTakes
	dies
	rankDies
	freeze
	frozenNow
	upgrades // only as a seeded fault: rd becomes wr in place
)

var actionNames = [...]string{"c%d hears its rank", "its rank hears c%d", "flush of c%d done", "mds.%d hears auth", "auth hears mds.%d",
	"mds.%d drops %v", "absorbed", "%d drops %v", "x is dropped", "x is cancelled", "thawed",
	"%d takes %v", "%d starts xlock", "%d takes x", "x rests", "go to %v", "grant c%d", "c%d keeps %v", "loner c%d", "no loner",
	"mds.%d drops its copy", "mds.%d gets a copy", "mds.%d takes %v", "c%d dies", "mds.%d dies", "freeze", "frozen", "%d upgrades"}

// name is a for traces.
func (ex *explorer) name(a action) string {
	who, f := int(a.who), actionNames[a.kind]
	switch a.kind {
	case clientHears, rankHears, flushDone, grants, becomesLoner, dies:
		return fmt.Sprintf(f, who+1)
	case keeps:
		return fmt.Sprintf(f, who+1, Letters(ex.drops[a.arg]))
	case drops, takes, replicaDrops, replicaTakes:
		return fmt.Sprintf(f, who, Mode(a.arg))
	case moves:
		return fmt.Sprintf(f, types[ex.typ].table.Rows[a.arg].Name)
	case replicaHears, authHears, startsX, takesX, copyGoes, copyComes, rankDies, upgrades:
		return fmt.Sprintf(f, who)
	}
	return f
}

// possible lists what may happen in w; do has the last word. The list is valid until the next call.
func (ex *explorer) possible(w *world, progress bool) []action {
	ex.acts = ex.acts[:0]
	add := func(ok bool, k actionKind, who int, arg int) {
		if ok {
			ex.acts = append(ex.acts, action{k, uint8(who), uint8(arg)})
		}
	}
	still := w.frozen == frozen // F1: nothing of this object is looked at
	for i := range ex.at {
		add(w.cl[i].nDown > 0, clientHears, i, 0)
		add(w.cl[i].nUp > 0 && !(still && ex.at[i] == 0), rankHears, i, 0)
		add(w.flush&(2<<i) != 0, flushDone, i, 0)
	}
	for r := range ex.nr {
		add(w.rep[r].nDown > 0, replicaHears, r, 0)
		add(w.rep[r].nUp > 0 && !still, authHears, r, 0)
		add(w.rep[r].rd != 0, replicaDrops, r, int(Rd))
		add(w.rep[r].wr != 0, replicaDrops, r, int(Wr))
	}
	add(w.delta != 0, absorbed, 0, 0)
	for o := 0; o <= len(ex.at); o++ {
		add(w.rd&(1<<o) != 0, drops, o, int(Rd))
		add(w.wr&(1<<o) != 0, drops, o, int(Wr))
	}
	add(w.x&16 != 0, dropX, 0, 0)
	add(w.x != 0 && w.x&16 == 0, cancelX, 0, 0)
	add(still, thaw, 0, 0)
	if progress {
		return ex.acts
	}
	ex.wishes(w, add)
	return ex.acts
}

func (ex *explorer) wishes(w *world, add func(ok bool, k actionKind, who int, arg int)) {
	t := types[ex.typ].table
	row, s := t.Row(State(w.state)), State(w.state)
	free := w.frozen == 0
	for o := 0; o <= len(ex.at) && free; o++ {
		if o > 0 && ex.at[o-1] != 0 {
			continue // it sends its requests to its own rank
		}
		add(w.rd&(1<<o) == 0, takes, o, int(Rd))
		add(w.wr&(1<<o) == 0, takes, o, int(Wr))
		add(s == t.lock && t.lockXlock != noState, startsX, o, 0)
		add(s == t.preXlock && t.preXlock != noState && int(w.x&15)-1 == o, takesX, o, 0)
		add(ex.fault == "rd is upgraded in place" && w.rd&(1<<o) != 0, upgrades, o, 0)
	}
	add(w.x&16 != 0 && s == t.xlock, rests, 0, 0)
	if row.Steady && free {
		for to, r := range t.Rows {
			add(r.Steady && t.via[s][to] != noState && (!(State(to) == t.excl || State(to) == t.xsyn) || w.loner != 0), moves, 0, to)
		}
	}
	for i := range ex.at {
		c := &w.cl[i]
		add(w.frozen != frozen && c.B == c.P && c.nDown < ex.capMax && (ex.at[i] == 0 || w.rep[ex.at[i]-1].absent == 0), grants, i, 0) // Q-e
		for k := range ex.drops {
			add(c.nUp < ex.capMax && c.H&^ex.drops[k] != 0, keeps, i, k)
		}
		add(t.excl != noState && w.loner == 0 && ex.at[i] == 0, becomesLoner, i, 0)
		add(ex.deaths && w.frozen != frozen && !(c.idle() && w.rd&(2<<i) == 0 && w.wr&(2<<i) == 0 && int(w.x&15) != i+2), dies, i, 0)
	}
	add(w.loner != 0, clearLoner, 0, 0)
	for r := range ex.nr {
		rep := &w.rep[r]
		quiet := true
		for i := range ex.at {
			quiet = quiet && (ex.at[i] != r+1 || w.cl[i].idle())
		}
		add(ex.dynamic && rep.absent == 0 && rep.rd|rep.wr == 0 && rep.nUp < rankQueue && quiet, copyGoes, r, 0)
		add(ex.dynamic && free && rep.absent != 0 && rep.known == 0 && rep.nDown < rankQueue, copyComes, r, 0)
		add(ex.dynamic && ex.deaths && w.frozen != frozen && rep.known != 0 && quiet, rankDies, r, 0)
		add(rep.rd == 0 && rep.absent == 0, replicaTakes, r, int(Rd))
		add(rep.wr == 0 && rep.absent == 0, replicaTakes, r, int(Wr))
	}
	add(ex.freezes && free, freeze, 0, 0)
	add(w.frozen == freezing && row.Steady && w.rd|w.wr|w.flush|w.x == 0, frozenNow, 0, 0)
	add(w.frozen == freezing, thaw, 0, 0)
}

// do makes a happen in w; false: it cannot. What came of it is in ex.w.
func (ex *explorer) do(w *world, a action) bool {
	ex.load(w)
	if !ex.act(a) {
		return false
	}
	ex.settle()
	return true
}

func (ex *explorer) act(a action) bool {
	l, who := ex.lock(), int(a.who)
	t := types[ex.typ].table
	holder := ex.owner(int(ex.w.x&15) - 1)
	switch a.kind {
	case clientHears:
		return ex.clientHears(who)
	case rankHears:
		return ex.rankHears(who)
	case flushDone:
		ex.w.flush &^= 2 << who
		if ex.w.forced&(2<<who) != 0 {
			ex.e.Unforce(l, uint64(who+1))
		}
	case replicaHears:
		ex.replicaHears(who)
	case authHears:
		ex.authHears(who)
	case replicaDrops:
		ex.e.Release(&ex.copies[who].locks[0], Mode(a.arg), ex.owner(0))
	case absorbed:
		ex.w.delta = 0
		return l.row().Do == Absorb
	case drops:
		ex.e.Release(l, Mode(a.arg), ex.owner(who))
	case dropX:
		ex.endsX = true
		ex.e.Release(l, X, holder)
	case cancelX:
		l.ext.hasX, l.ext.xlocker = false, Owner{}
	case thaw:
		ex.w.frozen = 0
	case takes:
		if !ex.e.Try(l, Mode(a.arg), ex.owner(who)) {
			return false
		}
		if Mode(a.arg) == Wr && l.state == t.mix {
			ex.w.delta = 1
		}
	case startsX:
		return ex.e.move(l, t.lockXlock, ex.owner(who))
	case takesX:
		return ex.e.Try(l, X, ex.owner(who))
	case rests:
		ex.e.Rest(l, holder)
	case moves:
		return ex.e.move(l, State(a.arg), Owner{})
	case grants:
		return ex.grant(who)
	case keeps:
		c := &ex.w.cl[who]
		dirty := c.H &^ ex.drops[a.arg] & uint8(lx|lw|lb)
		c.H &= ex.drops[a.arg]
		c.reply(dirty)
	case becomesLoner:
		ex.w.loner = uint8(who + 1)
	case clearLoner:
		if ex.fault != "clear the loner while it holds locks" && !ex.e.mayClear(ex.auth, uint64(ex.w.loner)) {
			return false
		}
		ex.w.loner = 0
	case copyGoes, copyComes:
		ex.copy(who, a.kind == copyComes)
	case replicaTakes:
		if !ex.e.Try(&ex.copies[who].locks[0], Mode(a.arg), ex.owner(0)) {
			return false
		}
		if Mode(a.arg) == Wr {
			ex.w.rep[who].delta = 1
		}
	case dies:
		ex.die(who)
	case rankDies:
		ex.rankDies(who)
	case freeze:
		ex.w.frozen = freezing
	case frozenNow:
		ex.w.frozen = frozen
	case upgrades:
		i := slices.Index(l.ext.holds, hold{ex.owner(who), Rd})
		l.ext.holds[i].mode = Wr
		ex.e.Touch(l)
	}
	return true
}

func (ex *explorer) clientHears(i int) bool {
	c := &ex.w.cl[i]
	m := c.down[0]
	if m&128 != 0 && c.nUp == ex.capMax {
		return false
	}
	copy(c.down[:], c.down[1:])
	c.nDown--
	c.down[c.nDown] = 0
	lost := c.H &^ m
	c.H = m &^ 128
	if m&128 != 0 && ex.fault != "a client never answers" {
		c.reply(lost & uint8(lx|lw|lb))
	}
	return true
}

func (ex *explorer) rankHears(i int) bool {
	c := &ex.w.cl[i]
	m := c.up[0]
	if m.dirty != 0 && ex.w.flush&(2<<i) != 0 {
		return false // the earlier flush is still being applied
	}
	copy(c.up[:], c.up[1:])
	c.nUp--
	c.up[c.nUp] = upMsg{}
	if m.dirty != 0 && ex.at[i] != 0 {
		ex.broken = "C2: a client of a replica flushes"
	}
	if m.dirty != 0 {
		if ex.fault == "apply a flush without a forced wrlock" || ex.e.Force(ex.lock(), uint64(i+1)) { // Q-b masks it, FW refuses it
			ex.w.flush |= 2 << i
		}
	}
	if m.stale == 0 || ex.fault == "accept an answer to an older message" {
		c.B &= m.retained
		c.P = c.B
	}
	return true
}

func (ex *explorer) replicaHears(r int) {
	rep := &ex.w.rep[r]
	m := rep.down[0]
	copy(rep.down[:], rep.down[1:])
	rep.nDown--
	rep.down[rep.nDown] = 0
	if m&discovered != 0 {
		rep.absent = 0
		ex.copies[r].locks[0].BeginReplica(State(m &^ discovered))
		return
	}
	if rep.absent != 0 {
		return // it names an object the receiver no longer holds (2.7)
	}
	if err := ex.e.Receive(&ex.copies[r].locks[0], AuthRank, Msg(m&127)); err != nil {
		ex.broken = "Q1: " + err.Error()
	}
}

func (ex *explorer) authHears(r int) {
	rep := &ex.w.rep[r]
	m := rep.up[0]
	copy(rep.up[:], rep.up[1:])
	rep.nUp--
	rep.up[rep.nUp] = 0
	if m&128 != 0 {
		ex.w.delta = 1
	}
	if m&127 == expire {
		ex.forget(r)
		return
	}
	if err := ex.e.Receive(ex.lock(), wire.Rank(r), Msg(m&127)); err != nil {
		ex.broken = "Q1: " + err.Error()
	}
}

// forget is auth taking r off its list, and out of the gather (V5).
func (ex *explorer) forget(r int) {
	ex.w.rep[r].known = 0
	ex.auth.reps = slices.DeleteFunc(ex.auth.reps, func(x wire.Rank) bool { return x == wire.Rank(r) })
	if ex.fault != "a rank that is gone stays in the gather" {
		ex.e.ReplicaGone(ex.lock(), wire.Rank(r))
	}
}

func (ex *explorer) copy(r int, comes bool) {
	rep := &ex.w.rep[r]
	if comes {
		rep.known = 1
		born := ex.lock().Born()
		if ex.fault == "a newborn is put into the gather's old state" {
			born = ex.lock().table().sync
		}
		rep.down[rep.nDown] = discovered | uint8(born) // lock messages queue behind it
		rep.nDown++
		ex.auth.reps = append(ex.auth.reps, wire.Rank(r))
		slices.Sort(ex.auth.reps)
		return
	}
	m := uint8(expire)
	if rep.delta != 0 {
		m |= 128 // what it accumulated goes along
	}
	rep.up[rep.nUp] = m
	rep.nUp++
	rep.absent, rep.delta, rep.asked, rep.state = 1, 0, 0, 0
}

// grant tells client i all that its row allows.
func (ex *explorer) grant(i int) bool {
	c := &ex.w.cl[i]
	a := ex.allowed(i)
	if ex.fault == "grant w beside s" && ex.typ == IFile && a != 0 {
		a |= uint8(lw)
	}
	if a&^c.P == 0 {
		return false
	}
	c.P |= a
	c.B |= c.P
	ex.send(c, c.P)
	return true
}

// die evicts client i: its fence is complete (K1), its requests and caps are gone, and a
// stranger may open a session in its place. What was submitted goes on: a flush being applied
// and an xlock that rests while objects are cut.
func (ex *explorer) die(i int) {
	l := ex.lock()
	by := ex.owner(i + 1)
	if ex.w.rd&(2<<i) != 0 {
		ex.e.Release(l, Rd, by)
	}
	if ex.w.wr&(2<<i) != 0 {
		ex.e.Release(l, Wr, by)
	}
	if x := l.ext; x != nil && x.hasX && x.xlocker == by && l.state != l.table().xlockDone {
		if l.HeldBy(by) == X {
			ex.e.Release(l, X, by)
		} else {
			x.hasX, x.xlocker = false, Owner{}
		}
	}
	ex.w.cl[i] = client{}
}

// rankDies takes replica r away with all that was under way to and from it; what it had
// accumulated is recovered from its fragments (5.7).
func (ex *explorer) rankDies(r int) {
	if ex.w.rep[r].owes() {
		ex.w.delta = 1
	}
	ex.w.rep[r] = replica{absent: 1}
	ex.forget(r)
}
