package locker

import (
	"strings"
	"testing"
)

// fault is a wrong table (wrong) or a wrong engine or rank around it (by its name), and the
// rule that must catch it.
type fault struct {
	name     string
	typ      Type
	clients  string
	replicas int
	dynamic  bool
	wrong    func(tb *Table)
	want     string
}

func row(tb *Table, name string) *Row {
	s, ok := tb.State(name)
	if !ok {
		panic(name)
	}
	return tb.Row(s)
}

var faults = []fault{
	// Wrong engines and ranks.
	{name: "skip the cap gather", typ: IFile, clients: "aa", want: "SO1"},
	{name: "complete before the aggregate is absorbed", typ: INest, replicas: 1, want: "S1"},
	{name: "grant what the goal allows", typ: IFile, clients: "aa", want: "L1"},
	{name: "grant w beside s", typ: IFile, clients: "aa", want: "SO1"},
	{name: "accept an answer to an older message", typ: IAuth, clients: "aa", want: "B0"},
	{name: "clear the loner while it holds locks", typ: IFile, clients: "aa", want: "SO1"},
	{name: "ending an xlock asks nothing back", typ: IFile, clients: "a", want: "V1: stuck in xlockdone"},
	{name: "ending an xlock asks nothing back", typ: IAuth, clients: "aa", want: "V1: stuck in xlockdone"},
	{name: "an excess is never asked back", typ: IAuth, clients: "a", want: "V1: stuck in"},
	{name: "a client never answers", typ: IAuth, clients: "a", want: "V1: stuck in"},
	{name: "an ack is lost", typ: IAuth, replicas: 1, want: "V1: stuck in sync>lock"},
	{name: "an ack leaves its delta behind", typ: INest, replicas: 1, want: "S1"},
	{name: "apply a flush without a forced wrlock", typ: IFile, clients: "aa", want: "L2"},
	{name: "rd is upgraded in place", typ: IFile, clients: "a", want: "L2"},
	{name: "a rank that is gone stays in the gather", typ: IAuth, replicas: 1, dynamic: true, want: "V5"},
	{name: "a newborn is put into the gather's old state", typ: IAuth, replicas: 1, dynamic: true, want: "M1"},
	// Wrong tables.
	{name: "sync>excl leaves the others their caps", typ: IAuth, clients: "aa", want: "C1",
		wrong: func(tb *Table) { row(tb, "excl").All = ls }},
	{name: "s and x together", typ: IAuth, clients: "aa", want: "G1s",
		wrong: func(tb *Table) { row(tb, "sync").Loner |= lx }},
	{name: "excl>xsyn keeps w", typ: IFile, clients: "a", want: "G1s",
		wrong: func(tb *Table) { row(tb, "xsyn").Loner |= lw; row(tb, "excl>xsyn").Loner |= lw }},
	{name: "lock admits readers", typ: IFile, clients: "a", want: "L2",
		wrong: func(tb *Table) { row(tb, "lock").Rd = ByAuth }},
	{name: "excl admits readers", typ: IAuth, clients: "a", want: "L2",
		wrong: func(tb *Table) { row(tb, "excl").Rd = ByAuth }},
	{name: "xlock admits readers", typ: IAuth, clients: "a", want: "X1",
		wrong: func(tb *Table) { row(tb, "xlock").Rd = ByAuth }},
	{name: "xlockdone shows its value to all", typ: IFile, clients: "aa", want: "X2",
		wrong: func(tb *Table) { row(tb, "xlockdone").All |= ls }},
	{name: "replicas are not told to lock", typ: IAuth, replicas: 1, want: "M1",
		wrong: func(tb *Table) { row(tb, "sync>lock").Tell = NoMsg }},
	{name: "a copy is born in sync during sync>lock", typ: IAuth, replicas: 1, dynamic: true, want: "M1",
		wrong: func(tb *Table) { row(tb, "sync>lock").Born = tb.sync }},
	{name: "mix>sync2 publishes without absorbing", typ: INest, replicas: 1, want: "S1",
		wrong: func(tb *Table) { row(tb, "mix>sync2").Do = NoWork }},
	{name: "sync is published before writers drained", typ: INest, replicas: 1, want: "M2",
		wrong: func(tb *Table) { row(tb, "mix>sync").Next = noState }},
	{name: "mix keeps caches", typ: IFile, clients: "aa", want: "C2",
		wrong: func(tb *Table) { row(tb, "mix").All |= lc; row(tb, "mix").Loner |= lc }},
	{name: "mix leaves in one stage", typ: INest, replicas: 1, want: "M2",
		wrong: func(tb *Table) { row(tb, "mix>lock").Next = noState }},
	{name: "mix is flushed to those who did not ack", typ: INest, replicas: 1, want: "M1",
		wrong: func(tb *Table) { row(tb, "sync>mix").Tell = NoMsg }},
	{name: "lock>xlock skips its drain", typ: IFile, clients: "a", want: "G1s",
		wrong: func(tb *Table) {
			row(tb, "prexlock").All |= lw
			row(tb, "lock").All |= lw
			row(tb, "xlock").All |= lw
		}},
	{name: "a replica never answers", typ: IAuth, replicas: 1, want: "V1",
		wrong: func(tb *Table) { row(tb, "sync>lock").Ack = NoMsg }},
	{name: "a replica acknowledges before it has drained", typ: INest, replicas: 1, want: "L2",
		wrong: func(tb *Table) { row(tb, "lock").Rd = ByAny }},
}

// TestSeededFaultsAreCaught breaks the tables and the engine's surroundings on purpose: an
// invariant that nothing can break proves nothing.
func TestSeededFaultsAreCaught(t *testing.T) {
	for _, f := range faults {
		t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
			old := types[f.typ].table
			defer func() { types[f.typ].table = old }()
			c := config{typ: f.typ, clients: f.clients, replicas: f.replicas, dynamic: f.dynamic}
			if f.wrong != nil {
				clone := *old
				clone.Rows = append([]Row(nil), old.Rows...)
				f.wrong(&clone)
				types[f.typ].table = &clone
			}
			ex := c.explorer()
			if f.wrong == nil {
				ex.fault = f.name
			}
			start := ex.w
			ex.safety = true // what it lets happen says more than what it makes stop
			res := ex.explore(1 << 20)
			if res.broken == "" {
				ex.w, ex.safety = start, false
				res = ex.explore(1 << 20)
			}
			if res.broken == "" || !strings.HasPrefix(res.broken, f.want) {
				t.Fatalf("not caught by %s in %d states: %q\n%s", f.want, res.states, res.broken, strings.Join(res.trace, "\n"))
			}
			t.Logf("%s after %d states, %d steps", res.broken, res.states, len(res.trace))
		})
	}
}
