package locker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
)

var tables = []*Table{localTable, simpleTable, scatterTable, fileTable}

// eachTransit visits the rows a>b and a>b2 with their ends.
func eachTransit(tb *Table, visit func(row, a, b *Row, second bool)) {
	for i := range tb.Rows {
		row := &tb.Rows[i]
		from, to, ok := strings.Cut(row.Name, ">")
		if !ok || strings.HasSuffix(to, "_acked") || to == "xlock" {
			continue
		}
		to, second := strings.CutSuffix(to, "2")
		a, ok1 := tb.State(from)
		b, ok2 := tb.State(to)
		if ok1 && ok2 {
			visit(row, tb.Row(a), tb.Row(b), second)
		}
	}
}

// lawBreaks recomputes every row in transit from the steady ones and lists what differs.
func lawBreaks(tb *Table) (out []string) {
	eachTransit(tb, func(row, a, b *Row, second bool) {
		bad := func(rule string) { out = append(out, tb.Class+" "+row.Name+": "+rule) }
		goal, _ := tb.State(b.Name)
		if row.Goal != goal {
			bad("goal")
		}
		if row.All != a.All&b.All || row.Loner != a.Loner&b.Loner || row.Holder != a.Holder&b.Holder || row.RepClients != a.RepClients&b.RepClients {
			bad("G1")
		}
		wr := a.Wr.meet(b.Wr)
		if a.Name == "mix" {
			wr = Nobody // E1
		}
		if row.Rd != a.Rd.meet(b.Rd) || row.Wr != wr {
			bad("G2")
		}
		if row.Get != a.Get {
			bad("G3")
		}
		if row.X != Nobody {
			bad("G4")
		}
		two, _ := tb.State(row.Name + "2")
		if a.Name == "mix" && !second && (row.Next == noState || row.Next != two) || (a.Name != "mix" || second) && row.Next != noState {
			bad("E2")
		}
		// §2.6: what is told, awaited, done and broadcast follows from what the ends look
		// like at a replica.
		var want Row
		want.Born, want.Acked = a.Born, noState
		ab, bb := tb.Row(a.Born).Name, tb.Row(b.Born).Name
		gathers := ab != "lock" && (ab != "mix" || second)
		at := func(n string) State { s, _ := tb.State(n); return s }
		if gathers {
			switch bb {
			case "lock":
				want.Tell, want.Born = MsgLock, at("lock")
			case "mix":
				want.Tell, want.Born = MsgMix, at("sync>mix_acked")
			case "sync":
				want.Tell, want.Born = MsgSync, at("mix>sync_acked")
			}
		}
		if ab != "mix" || second {
			last := ab == "mix"
			switch {
			case bb == "sync":
				want.Flush = MsgSyncData
			case bb == "mix":
				want.Flush, want.Do = MsgMixData, Base
			case last:
				want.Flush = MsgFlushed
			}
			if last || bb == "sync" && tb != simpleTable || row.Name == "lock>tsyn" {
				want.Do = Absorb
			}
		}
		if row.Tell != want.Tell || row.Flush != want.Flush || row.Do != want.Do {
			bad("2.6")
		}
		if row.Born != want.Born {
			bad("born")
		}
		// §2.7: a replica drains in the row that is named after its own ends.
		if bb == b.Name && ab == a.Name && !second && a.Name != "lock" {
			want.Ack = map[string]Msg{"lock": MsgLockAck, "mix": MsgMixAck, "sync": MsgSyncAck}[b.Name]
			want.Acked = map[string]State{"lock": at("lock"), "mix": at("sync>mix_acked"), "sync": at("mix>sync_acked")}[b.Name]
		}
		if row.Ack != want.Ack || row.Acked != want.Acked {
			bad("2.7")
		}
		if row.Ack == NoMsg && row.Acked != noState {
			bad("acked without ack")
		}
	})
	return out
}

func TestTransitRowsFollowFromSteadyRows(t *testing.T) {
	for _, tb := range tables {
		for _, b := range lawBreaks(tb) {
			t.Error(b)
		}
	}
}

// A wrong cell anywhere in a row in transit must be noticed.
func TestEveryWrongCellBreaksALaw(t *testing.T) {
	n := 0
	for _, tb := range tables {
		eachTransit(tb, func(row, _, _ *Row, _ bool) {
			try := func(what string, change func(*Row)) {
				old := *row
				change(row)
				if len(lawBreaks(tb)) == 0 {
					t.Errorf("%s %s: a wrong %s passes", tb.Class, old.Name, what)
				}
				*row = old
				n++
			}
			flip := func(w Who) Who { return (w + 1) % Who(len(whoNames)) }
			try("get", func(r *Row) { r.Get = flip(r.Get) })
			try("rdlock", func(r *Row) { r.Rd = flip(r.Rd) })
			try("wrlock", func(r *Row) { r.Wr = flip(r.Wr) })
			try("xlock", func(r *Row) { r.X = flip(r.X) })
			try("all", func(r *Row) { r.All ^= ls })
			try("loner", func(r *Row) { r.Loner ^= lb })
			try("holder", func(r *Row) { r.Holder ^= lc })
			try("repclients", func(r *Row) { r.RepClients ^= lr })
			try("goal", func(r *Row) { r.Goal++ })
			try("replica", func(r *Row) { r.Born++ })
			try("tell", func(r *Row) { r.Tell++ })
			try("flush", func(r *Row) { r.Flush++ })
			try("ack", func(r *Row) { r.Ack++ })
			try("before", func(r *Row) { r.Do = (r.Do + 1) % 3 })
			try("next", func(r *Row) { r.Next ^= 1 })
		})
	}
	if n < 400 {
		t.Fatalf("only %d cells tried", n)
	}
}

func TestEveryNamedStateHasARow(t *testing.T) {
	want := map[*Table]string{
		localTable:   "lock",
		simpleTable:  "sync lock excl sync>lock sync>excl lock>sync lock>excl excl>sync excl>lock lock>xlock prexlock xlock xlockdone",
		scatterTable: "sync lock mix tsyn sync>lock sync>mix lock>sync lock>mix lock>tsyn mix>sync mix>sync2 mix>lock mix>lock2 mix>tsyn mix>tsyn2 tsyn>lock tsyn>mix tsyn>sync sync>mix_acked mix>sync_acked",
		fileTable:    "sync lock mix excl xsyn sync>lock sync>mix sync>excl lock>sync lock>mix lock>excl mix>sync mix>sync2 mix>lock mix>lock2 mix>excl mix>excl2 excl>sync excl>lock excl>mix excl>xsyn xsyn>sync xsyn>lock xsyn>excl sync>mix_acked mix>sync_acked lock>xlock prexlock xlock xlockdone",
	}
	for tb, names := range want {
		f := strings.Fields(names)
		if len(f) != len(tb.Rows) {
			t.Errorf("%s has %d rows, the reference names %d", tb.Class, len(tb.Rows), len(f))
		}
		for _, n := range f {
			if _, ok := tb.State(n); !ok {
				t.Errorf("%s: no row %s", tb.Class, n)
			}
		}
	}
}

func TestTransitGrantsNoMoreThanItsTarget(t *testing.T) {
	for _, tb := range tables {
		for _, r := range tb.Rows {
			if r.Steady {
				continue
			}
			g := tb.Row(r.Goal)
			// xlockdone's s for the holder is the one deliberate exception: it is recalled
			// before lock is reached.
			holder := r.Holder
			if r.Name == "xlockdone" {
				holder &^= ls
			}
			if r.All&^g.All != 0 || r.Loner&^g.Loner != 0 || holder&^g.Holder != 0 || r.RepClients&^g.RepClients != 0 {
				t.Errorf("%s %s grants more than %s", tb.Class, r.Name, g.Name)
			}
		}
	}
}

func TestExclusiveMeansAlone(t *testing.T) {
	for _, tb := range tables {
		for _, r := range tb.Rows {
			for _, c := range []Letters{r.All, r.Holder, r.RepClients} {
				if c&(lx|lb) != 0 {
					t.Errorf("%s %s: x or b for more than the loner", tb.Class, r.Name)
				}
			}
			if r.Loner&(lx|lb) != 0 && (r.All != 0 || r.RepClients != 0) {
				t.Errorf("%s %s: the loner is not alone", tb.Class, r.Name)
			}
			if (r.All|r.Loner)&lw != 0 && (r.All|r.RepClients)&(ls|lc) != 0 {
				t.Errorf("%s %s: a writer beside a cache (C2)", tb.Class, r.Name)
			}
			if r.All&^r.Loner != 0 && !strings.HasSuffix(r.Name, "_acked") {
				t.Errorf("%s %s: being the loner costs a cap", tb.Class, r.Name)
			}
			if r.Rd == ByAny && r.Wr != Nobody || r.Rd == ByAuth && r.Wr != Nobody {
				t.Errorf("%s %s: readers beside writers", tb.Class, r.Name)
			}
		}
	}
}

func TestEverySteadyStateCanReturnToSync(t *testing.T) {
	for _, tb := range tables[1:] {
		for i, r := range tb.Rows {
			if r.Steady && State(i) != tb.sync && tb.via[i][tb.sync] == noState {
				t.Errorf("%s: no way from %s to sync", tb.Class, r.Name)
			}
		}
	}
}

// V2: what is in transit settles; the longest chain is lock>xlock, prexlock, lock.
func TestGoalsMakeNoCycle(t *testing.T) {
	for _, tb := range tables {
		for i := range tb.Rows {
			n := 0
			for s := State(i); !tb.Row(s).Steady; n++ {
				if n > 3 {
					t.Fatalf("%s: %s never settles", tb.Class, tb.Rows[i].Name)
				}
				if next := tb.Row(s).Next; next != noState {
					s = next
				} else {
					s = tb.Row(s).Goal
				}
			}
		}
	}
}

// V3: a row in transit admits no hold that its own gather waits for.
func TestTransitAdmitsNothingItMustDrain(t *testing.T) {
	for _, tb := range tables {
		eachTransit(tb, func(row, _, b *Row, _ bool) {
			if row.Rd != Nobody && row.Rd.meet(b.Rd) != row.Rd {
				t.Errorf("%s %s: rd", tb.Class, row.Name)
			}
			if row.Wr != Nobody && (row.fromMix || row.Wr.meet(b.Wr) != row.Wr) {
				t.Errorf("%s %s: wr", tb.Class, row.Name)
			}
		})
	}
}

// E3: a replica that has acknowledged trusts nothing and leaves on a message only.
func TestAckedRowsWait(t *testing.T) {
	for _, tb := range []*Table{scatterTable, fileTable} {
		sync, mix := tb.Row(tb.sync), tb.Row(tb.mix)
		for _, n := range []string{"sync>mix_acked", "mix>sync_acked"} {
			s, _ := tb.State(n)
			r := tb.Row(s)
			if r.Get != Nobody || r.Rd != Nobody || r.Wr != Nobody || r.X != Nobody || r.Born != noState ||
				r.RepClients != sync.RepClients&mix.RepClients || r.Loner != 0 || r.Ack != NoMsg {
				t.Errorf("%s %s: %+v", tb.Class, n, *r)
			}
			left := false
			for _, rc := range tb.receive {
				left = left || rc.in == s && rc.next == r.Goal
			}
			if !left {
				t.Errorf("%s %s: no message leads to its goal", tb.Class, n)
			}
		}
	}
}

// The policy comes to rest whatever the world looks like.
func TestPolicyComesToRest(t *testing.T) {
	for typ := range numTypes {
		tb := types[typ].table
		if tb == localTable {
			continue
		}
		for c := cond(0); c < mayPause<<1; c++ {
			needs := c & (needRd | needWr | needX)
			if needs&(needs-1) != 0 || c&hasLoner != 0 && c&hasHeir != 0 || c&isIdle != 0 && c&hasLoner == 0 || c&mayPause != 0 && c&needRd == 0 {
				continue
			}
			if tb == simpleTable && needs == needWr || tb == scatterTable && needs == needX {
				continue
			}
			for i, r := range tb.Rows {
				if !r.Steady {
					continue
				}
				s := State(i)
				for n := 0; ; n++ {
					to := decide(policyByType[typ], s, c)
					if to == s || !tb.Row(to).Steady {
						break
					}
					if needs == needRd && tb.Row(s).Rd == ByAny || needs == needWr && tb.Row(s).Wr >= ByAny && tb.Row(s).Wr <= ByAuth {
						break // served, no longer in need
					}
					if tb.via[s][to] == noState {
						to = tb.lock
					}
					if n > 4 {
						t.Fatalf("%v from %s under %016b goes round", typ, r.Name, c)
					}
					s = to
				}
			}
		}
	}
}

func TestCapGroupsMatchTheirBits(t *testing.T) {
	for _, c := range []struct {
		typ        Type
		s, x, rest caps.Bits
	}{
		{IAuth, caps.AuthShared, caps.AuthExcl, 0}, {ILink, caps.LinkShared, caps.LinkExcl, 0},
		{IXattr, caps.XattrShared, caps.XattrExcl, 0}, {IFile, caps.FileShared, caps.FileExcl,
			caps.FileCache | caps.FileRd | caps.FileWr | caps.FileBuffer | caps.FileAppend | caps.FileLazy},
		{Dn, Lease, 0, 0},
	} {
		ti := &types[c.typ]
		if ti.bits(ls) != c.s || ti.bits(lx) != c.x || ti.bits(Letters(0xff)&^(ls|lx)) != c.rest {
			t.Errorf("%v: s %v x %v rest %v", c.typ, ti.bits(ls), ti.bits(lx), ti.bits(0xfc))
		}
		if back := ti.letters(c.s | c.x | c.rest); ti.bits(back) != c.s|c.x|c.rest {
			t.Errorf("%v: bits do not come back: %v", c.typ, back)
		}
	}
}

// A wrong line of the policy is refused when the program starts, by line and reason.
func TestMalformedPolicyNamesTheLine(t *testing.T) {
	tables := map[string]*Table{"simple": simpleTable, "file": fileTable}
	head := "\npolicy from when to\n"
	mustPolicy(head+"file excl !loner !wr sync # and a comment\nsimple any needx lock\n", tables)
	for _, c := range []struct{ line, why string }{
		{"flie any needrd sync", "want policy"},
		{"file any sync", "want policy, from, conditions, to"},
		{"file any", "want policy"},
		{"file exlc needrd sync", "no state exlc"},
		{"file !exlc needrd sync", "no state exlc"},
		{"file any needrd snyc", "no state snyc"},
		{"simple any needrd mix", "no state mix"},
		{"file any needread sync", "no condition needread"},
		{"file any !needread sync", "no condition needread"},
		{"file any needrd ! sync", "no condition"},
		{"file any rd !rd sync", "condition rd twice"},
		{"file xsyn loner mix", "no row xsyn>mix"},
		{"file sync>lock needrd sync", "sync>lock is in transit"},
	} {
		func() {
			defer func() {
				r := fmt.Sprint(recover())
				if !strings.Contains(r, c.why) || !strings.Contains(r, fmt.Sprintf("%q", c.line)) {
					t.Errorf("%q: %s", c.line, r)
				}
			}()
			mustPolicy(head+"file excl !loner !wr sync\n"+c.line+"\n", tables)
		}()
	}
}

func TestMalformedTableNamesTheCell(t *testing.T) {
	good := `
state settles replica get rdlock wrlock xlock all loner holder repclients next tell ack acked before flush
sync . sync any any - - s s s s - - - - - -
`
	mustTable("good", good, "")
	for _, c := range []struct{ old, new, want string }{
		{"any any", "any all", `state sync, column rdlock, cell "all"`},
		{". sync", ". snyc", `state sync, column replica, cell "snyc"`},
		{"- - s s", "- - q s", `state sync, column all, cell "q"`},
		{"s - - - ", "s - tell - ", `state sync, column tell, cell "tell"`},
		{"- - -\n", "- -\n", `16 cells under 17 columns`},
		{"get rdlock", "rdlock get", `header`},
		{"sync . ", "sync - ", `column settles`},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(r.(string), c.want) {
					t.Errorf("%q → %q: %v", c.old, c.new, r)
				}
			}()
			mustTable("bad", text, "")
		}()
	}
}
