package locker

import (
	"fmt"
	"strings"

	"github.com/capstan-fs/capstan/caps"
)

// State numbers the rows of one class's table. Its name is Table.Row(state).Name.
type State uint8

// Who is what a permission cell admits.
type Who uint8

// Cells of the columns get, rdlock, wrlock and xlock.
const (
	Nobody   Who = iota // -
	ByAny               // any: every rank
	ByAuth              // auth: the authoritative rank, for anybody
	BySole              // sole: the authoritative rank, for the loner's own requests
	ByHolder            // holder: the authoritative rank, for the xlock holder's own requests
)

var whoNames = [...]string{"-", "any", "auth", "sole", "holder"}

func (w Who) String() string { return whoNames[w] }

// meet is ⊓ of rule G2: any on top, nobody at the bottom, sole within auth.
func (w Who) meet(v Who) Who {
	switch {
	case w == v:
		return w
	case w == Nobody || v == Nobody:
		return Nobody
	case w == ByAny:
		return v
	case v == ByAny:
		return w
	case w == ByHolder || v == ByHolder:
		return Nobody
	}
	return BySole // auth with sole
}

// Letters are the cap letters of a table cell, as the F group's bits shifted down: s x c r w
// b a l. A type's own group is Letters<<shift & mask.
type Letters uint8

const (
	ls Letters = 1 << iota
	lx
	lc
	lr
	lw
	lb
	la
	ll
)

const letterNames = "sxcrwb"

// closure adds the letters that travel with others: a with w, l with r or w (2.1).
func (c Letters) closure() Letters {
	if c&lw != 0 {
		c |= la
	}
	if c&(lr|lw) != 0 {
		c |= ll
	}
	return c
}

func (c Letters) String() string {
	var b []byte
	for i := range letterNames {
		if c&(1<<i) != 0 {
			b = append(b, letterNames[i])
		}
	}
	if b == nil {
		return "-"
	}
	return string(b)
}

// Before is the work that must be done before a transition completes.
type Before uint8

// Cells of the column before.
const (
	NoWork Before = iota
	Absorb        // absorb deltas and submit the aggregate
	Base          // remember the base that deltas count from
)

var beforeNames = [...]string{"-", "absorb", "base"}

func (b Before) String() string { return beforeNames[b] }

// noState stands for an empty state cell.
const noState State = 255

// Row is one state: what it permits and how it moves.
type Row struct {
	Name   string
	Steady bool
	Goal   State // in transit: where it settles
	Born   State // what a replica is given that appears meanwhile; noState: none appears

	Get, Rd, Wr, X Who

	All, Loner, Holder, RepClients Letters // effective totals per audience

	Next  State // second stage of a transit that leaves in two (E2)
	Tell  Msg   // auth, on entry: to every replica, which is then awaited
	Ack   Msg   // a replica in this row, drained: what it answers
	Acked State // and where it goes
	Do    Before
	Flush Msg // auth, on completion: to every replica

	fromMix  bool // leaves mix: every wrlock drains, whatever the goal admits (E1)
	forLoner bool // excl or xsyn, or on the way there: the loner cannot be cleared (SO1)
}

// Table is a class: its rows in text order.
type Table struct {
	Class string
	Rows  []Row

	via     [][]State // [from][to] steady states: the row in transit between them
	receive []reception

	sync, lock, mix, excl, xsyn, tsyn     State
	lockXlock, preXlock, xlock, xlockDone State
}

type reception struct {
	msg  Msg
	in   State // noState: in any
	next State // noState: stays
}

// Row is the row of s.
func (t *Table) Row(s State) *Row { return &t.Rows[s] }

// State finds a row by name.
func (t *Table) State(name string) (State, bool) {
	for i := range t.Rows {
		if t.Rows[i].Name == name {
			return State(i), true
		}
	}
	return noState, false
}

// columns of a table's text, in order.
var columns = []string{"state", "settles", "replica", "get", "rdlock", "wrlock", "xlock", "all", "loner",
	"holder", "repclients", "next", "tell", "ack", "acked", "before", "flush"}

// mustTable parses a table. A table that cannot be read is a bug of this program: the first
// test that runs, or the first start, panics naming the cell.
func mustTable(class, text, receive string) *Table {
	t := &Table{Class: class}
	lines := textLines(text)
	bad := func(state, column, cell, why string) {
		panic(fmt.Sprintf("locker: table %s, state %s, column %s, cell %q: %s", class, state, column, cell, why))
	}
	if len(lines) == 0 || strings.Join(lines[0], " ") != strings.Join(columns, " ") {
		panic(fmt.Sprintf("locker: table %s: the header must be %q", class, strings.Join(columns, " ")))
	}
	rows := lines[1:]
	if len(rows) == 0 || len(rows) >= int(noState) {
		panic(fmt.Sprintf("locker: table %s: %d rows", class, len(rows)))
	}
	for _, f := range rows {
		if _, dup := t.State(f[0]); dup {
			bad(f[0], "state", f[0], "there is such a row already")
		}
		if len(f) != len(columns) {
			panic(fmt.Sprintf("locker: table %s, state %s: %d cells under %d columns", class, f[0], len(f), len(columns)))
		}
		t.Rows = append(t.Rows, Row{Name: f[0]})
	}
	for i, f := range rows {
		state := func(col int) State {
			if f[col] == "-" || f[col] == "." {
				return noState
			}
			s, ok := t.State(f[col])
			if !ok {
				bad(f[0], columns[col], f[col], "no such state")
			}
			return s
		}
		who := func(col int) Who {
			for w, n := range whoNames {
				if n == f[col] {
					return Who(w)
				}
			}
			bad(f[0], columns[col], f[col], "want any, auth, sole, holder or -")
			return Nobody
		}
		letters := func(col int) (c Letters) {
			if f[col] == "-" {
				return 0
			}
			for _, r := range f[col] {
				n := strings.IndexRune(letterNames, r)
				if n < 0 {
					bad(f[0], columns[col], f[col], "want letters of "+letterNames)
				}
				c |= 1 << n
			}
			return c.closure()
		}
		msg := func(col int) Msg {
			m, ok := parseMsg(f[col])
			if !ok {
				bad(f[0], columns[col], f[col], "no such message")
			}
			return m
		}
		before := func(col int) Before {
			for b, n := range beforeNames {
				if n == f[col] {
					return Before(b)
				}
			}
			bad(f[0], columns[col], f[col], "want absorb, base or -")
			return NoWork
		}
		t.Rows[i] = Row{Name: f[0], Steady: f[1] == ".", Goal: state(1), Born: state(2),
			Get: who(3), Rd: who(4), Wr: who(5), X: who(6),
			All: letters(7), Loner: letters(8), Holder: letters(9), RepClients: letters(10),
			Next: state(11), Tell: msg(12), Ack: msg(13), Acked: state(14), Do: before(15), Flush: msg(16)}
		if f[1] == "-" {
			bad(f[0], "settles", f[1], "want . for steady or the goal")
		}
	}
	t.link()
	for _, f := range textLines(receive) {
		m, ok := parseMsg(f[0])
		if len(f) != 3 || !ok {
			panic(fmt.Sprintf("locker: table %s, receive line %q", class, strings.Join(f, " ")))
		}
		in, ok1 := t.State(f[1])
		next, ok2 := t.State(f[2])
		if !ok1 && f[1] != "any" || !ok2 && f[2] != "same" {
			panic(fmt.Sprintf("locker: table %s, receive line %q: no such state", class, strings.Join(f, " ")))
		}
		t.receive = append(t.receive, reception{m, in, next})
	}
	return t
}

// link finds the rows that the engine knows by what they are for, and the transit between
// every two steady states, by its name a>b.
func (t *Table) link() {
	named := func(n string) State { s, _ := t.State(n); return s }
	t.sync, t.lock, t.mix, t.excl = named("sync"), named("lock"), named("mix"), named("excl")
	t.xsyn, t.tsyn = named("xsyn"), named("tsyn")
	t.lockXlock, t.preXlock = named("lock>xlock"), named("prexlock")
	t.xlock, t.xlockDone = named("xlock"), named("xlockdone")
	t.via = make([][]State, len(t.Rows))
	for a := range t.Rows {
		row := &t.Rows[a]
		end := State(a)
		if !row.Steady {
			end = row.Goal
		}
		row.fromMix = strings.HasPrefix(row.Name, "mix>")
		row.forLoner = end == t.excl || end == t.xsyn
		t.via[a] = make([]State, len(t.Rows))
		for b := range t.Rows {
			t.via[a][b] = named(t.Rows[a].Name + ">" + t.Rows[b].Name)
		}
	}
}

// textLines splits a text table into cells; # starts a comment.
func textLines(text string) (lines [][]string) {
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if f := strings.Fields(line); len(f) > 0 {
			lines = append(lines, f)
		}
	}
	return lines
}

// bits are the caps of c in the group of lock type t.
func (ti *typeInfo) bits(c Letters) caps.Bits { return caps.Bits(c) << ti.shift & ti.mask }
