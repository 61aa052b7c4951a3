package locker

import (
	"fmt"
	"strings"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/must"
)

// policyText says where a steady lock goes (§2.9): the first line of its lock's policy whose
// from and conditions hold wins, and a line that leads where the lock already is means stay.
// The need lines are the kicks by a request (or a replica's request) whose turn it is; while
// somebody waits only they apply, so evaluation never works against a waiter (O10).
//
// Conditions: need rd, wr, x · loner: the present loner is the ideal one · heir: another
// client should become the loner · idle: the loner neither wants nor holds x, w, b · wantx,
// wantw: some client wants x, or w or b · rd, wr: held · pause: xsyn may answer the reader.
const policyText = `
policy  from   when                      to
simple  any    readonly                  sync
simple  any    needrd                    sync
simple  lock   needx                     lock>xlock
simple  any    needx                     lock
simple  any    loner wantx               excl
simple  excl   !loner !wr                sync
simple  any    !wr !wantx                sync

inest   any    readonly                  sync
inest   any    needrd                    sync
inest   any    needwr scatter            mix
inest   any    needwr replicated         mix
inest   any    needwr                    lock
inest   any    !rd replicated            mix
inest   any    !rd                       lock

idft    any    readonly                  sync
idft    any    needrd                    sync
idft    any    needwr scatter            mix
idft    any    needwr replicated boundary  mix
idft    any    needwr                    lock
idft    any    !wr !boundary             sync

file    any    readonly                  sync
file    excl   needrd pause              xsyn
file    any    needrd                    sync
file    any    needwr scatter            mix
file    any    needwr replicated boundary  mix
file    any    needwr                    lock
file    lock   needx                     lock>xlock
file    any    needx                     lock
file    excl   !loner heir               lock   # T6: the shortest way to a row where SO1 holds
file    lock   !loner heir               lock   # and wait there until the other locks let go
file    excl   !loner wantw              mix
file    excl   !loner !wr                sync
file    excl   idle !dir !wr             sync
file    any    !rd loner !idle wantw     excl
file    excl   rd loner dir              excl   # its own request reads: no reason to leave
file    any    !rd loner dir !boundary   excl
file    any    !rd scatter               mix
file    any    !rd !loner wantw          mix
file    mix    !wr !wantw !boundary      sync
file    !mix   !wr !wantw                sync
`

// cond is a set of conditions.
type cond uint32

const (
	needRd cond = 1 << iota
	needWr
	needX
	isReadonly
	hasLoner
	hasHeir
	isIdle
	wantX
	wantW
	heldRd
	heldWr
	isDir
	isBoundary
	isReplicated
	isScatter
	mayPause
)

var condNames = []string{"needrd", "needwr", "needx", "readonly", "loner", "heir", "idle", "wantx", "wantw",
	"rd", "wr", "dir", "boundary", "replicated", "scatter", "pause"}

type policyLine struct {
	in      State // noState: any
	but     State // noState: no exception
	yes, no cond
	to      State
}

// policyOf names the policy of each lock type.
func policyOf(t Type) string {
	if c := types[t].table.Class; c != "scatter" {
		return c
	}
	return types[t].name
}

var policyByType = func() (p [numTypes][]policyLine) {
	tables := map[string]*Table{"simple": simpleTable, "inest": scatterTable, "idft": scatterTable, "file": fileTable}
	parsed := mustPolicy(policyText, tables)
	for t := range numTypes {
		p[t] = parsed[policyOf(t)]
		must.Holdf(len(p[t]) > 0 || types[t].table == localTable, "locker: no policy line for %v", t)
	}
	return p
}()

// mustPolicy parses policyText. A malformed line ends the program at its start, by its words and
// the reason: an unknown policy, state or condition, a condition that is asked for both ways, a
// state twice, or a move that no row of the table makes.
func mustPolicy(text string, tables map[string]*Table) map[string][]policyLine {
	out := map[string][]policyLine{}
	for _, f := range textLines(text)[1:] {
		bad := func(why string) { panic(fmt.Sprintf("locker: policy line %q: %s", strings.Join(f, " "), why)) }
		t := tables[f[0]]
		if t == nil || len(f) < 4 {
			bad("want policy, from, conditions, to")
		}
		ln := policyLine{in: noState, but: noState}
		state := func(name string) State {
			s, ok := t.State(name)
			if !ok {
				bad("no state " + name)
			}
			return s
		}
		if from, not := strings.CutPrefix(f[1], "!"); not {
			ln.but = state(from)
		} else if from != "any" {
			ln.in = state(from)
		}
		for _, c := range f[2 : len(f)-1] {
			name, not := strings.CutPrefix(c, "!")
			bit := cond(0)
			for i, n := range condNames {
				if n == name {
					bit = 1 << i
				}
			}
			switch {
			case bit == 0:
				bad("no condition " + name)
			case (ln.yes|ln.no)&bit != 0:
				bad("condition " + name + " twice")
			case not:
				ln.no |= bit
			default:
				ln.yes |= bit
			}
		}
		ln.to = state(f[len(f)-1])
		for _, s := range []State{ln.in, ln.but} {
			if s != noState && !t.Row(s).Steady {
				bad(t.Row(s).Name + " is in transit: only a steady lock is moved by policy")
			}
		}
		if ln.in != noState && t.Row(ln.to).Steady && ln.in != ln.to && t.via[ln.in][ln.to] == noState {
			bad("no row " + t.Row(ln.in).Name + ">" + t.Row(ln.to).Name)
		}
		out[f[0]] = append(out[f[0]], ln)
	}
	return out
}

// decide is the first matching line's target; s itself when the lock should stay.
func decide(lines []policyLine, s State, c cond) State {
	for i := range lines {
		ln := &lines[i]
		if c&ln.yes == ln.yes && c&ln.no == 0 && (ln.in == noState || ln.in == s) && ln.but != s {
			return ln.to
		}
	}
	return s
}

// conditions looks at the world from l. need is the waiter whose turn it is, if any.
func (e *Engine) conditions(l *Lock, need Mode, by Owner) cond {
	var c cond
	traits := l.obj.Traits()
	if traits&IsDir != 0 {
		c |= isDir
	}
	if traits&Boundary != 0 {
		c |= isBoundary
	}
	if traits&ReadOnly != 0 {
		c |= isReadonly
	}
	if len(l.obj.Replicas()) > 0 {
		c |= isReplicated
	}
	if l.flags&wantMix != 0 {
		c |= isScatter
	}
	if x := l.ext; x != nil {
		for i := range x.holds {
			switch x.holds[i].mode {
			case Rd:
				c |= heldRd
			case Wr, X:
				c |= heldWr
			}
		}
		if len(x.forced) > 0 {
			c |= heldWr
		}
	}
	loner := l.obj.Loner()
	switch need {
	case Rd:
		c |= needRd
		if e.Pause && traits&IsDir == 0 && loner != 0 && by.Client != loner {
			c |= mayPause
		}
	case Wr:
		c |= needWr
	case X:
		c |= needX
	case None:
		if l.flags&wantSync != 0 {
			c |= needRd
		}
	}
	ti := &types[l.typ]
	if ti.mask == 0 {
		return c
	}
	if ideal := l.obj.IdealLoner(); ideal != 0 {
		if ideal == loner {
			c |= hasLoner | isIdle
		} else {
			c |= hasHeir
		}
	}
	excl := ti.bits(lx)
	write := ti.bits(lw | lb)
	for i, n := 0, l.obj.Clients(); i < n; i++ {
		cl := l.obj.Client(i)
		if cl.Wanted&excl != 0 {
			c |= wantX
		}
		if cl.Wanted&write != 0 {
			c |= wantW
		}
		if cl.Client == loner && (cl.Wanted|cl.Issued)&(excl|write) != 0 {
			c &^= isIdle
		}
	}
	return c
}

// group is the part of b that lock type t drives, in table letters.
func (ti *typeInfo) letters(b caps.Bits) Letters { return Letters(b & ti.mask >> ti.shift) }
