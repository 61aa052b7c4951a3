package caps

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func bits(t testing.TB, s string) Bits {
	b, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func want(t *testing.T, r *Record, pending, issued string) {
	t.Helper()
	if r.Pending != bits(t, pending) || r.Issued != bits(t, issued) {
		t.Fatalf("pending %v issued %v, want %s and %s", r.Pending, r.Issued, pending, issued)
	}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestQaSeqRisesWithEveryMessage(t *testing.T) {
	r := &Record{}
	if v := r.Tell(bits(t, "pFsr"), 1); v != Grant || r.Seq != 1 || r.IssueSeq != 1 {
		t.Fatal(v, r.Seq)
	}
	if v := r.Tell(bits(t, "pFr"), 2); v != Revoke || r.Seq != 2 || r.IssueSeq != 1 || r.RevokedAt != 2 {
		t.Fatal(v, r.Seq)
	}
	r.Show(0)
	if r.Seq != 3 {
		t.Fatal(r.Seq)
	}
	if v := r.Tell(bits(t, "pFr"), 2); v != Nothing || r.Seq != 3 {
		t.Fatal(v, r.Seq)
	}
}

func TestQbOnlyAnAnswerThatSawTheNarrowingShrinksTheBound(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pFsrw"), 1)
	r.Tell(bits(t, "pFr"), 2)
	r.Answer(1, bits(t, "pFr"))
	want(t, r, "pFr", "pFsrw") // had not seen the REVOKE
	r.Answer(2, bits(t, "pFr"))
	want(t, r, "pFr", "pFr")
}

func TestQbAnswerThatCrossesAReplyIsNotLost(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pAsFr"), 1)
	r.Tell(bits(t, "pAs"), 2)
	r.Show(0)                 // a reply with the cap leaves after the REVOKE
	r.Answer(2, bits(t, "p")) // the client also dropped As; the reply shows it again
	want(t, r, "pAs", "pAs")
}

func TestQbStillUsingKeepsTheRevokeOpen(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pFrw"), 1)
	r.Tell(bits(t, "pFr"), 2)
	r.Answer(2, bits(t, "pFrw")) // told its wanted, drain not over
	want(t, r, "pFr", "pFrw")
	if r.RevokedAt != 2 {
		t.Fatal("the deadline moved")
	}
}

func TestQcAClientNeverWidensItself(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pFr"), 1)
	r.Answer(1, bits(t, "pAxFrwb"))
	want(t, r, "pFr", "pFr")
}

func TestQdOtherCapsMessagesAreNotCurrent(t *testing.T) {
	r := &Record{ID: 7, Mseq: 2}
	for _, c := range []struct {
		id   uint64
		mseq uint32
		ok   bool
	}{{7, 2, true}, {7, 1, false}, {6, 2, false}, {7, 3, true}} {
		if r.Current(c.id, c.mseq) != c.ok {
			t.Fatal(c)
		}
	}
}

func TestQeNoBitIsAddedWhileARevokeIsOpen(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pFsrw"), 1)
	if v := r.Tell(bits(t, "pAsFr"), 2); v != Revoke { // takes and would add
		t.Fatal(v)
	}
	want(t, r, "pFr", "pFsrw")
	if v := r.Tell(bits(t, "pAsFr"), 3); v != Nothing {
		t.Fatal(v)
	}
	r.Show(bits(t, "As"))
	want(t, r, "pFr", "pFsrw")
	if v := r.Tell(bits(t, "p"), 4); v != Revoke || r.RevokedAt != 2 { // narrower still
		t.Fatal(v)
	}
	r.Answer(2, bits(t, "pFr")) // the first of the two: seen too little
	want(t, r, "p", "pFsrw")
	r.Answer(4, bits(t, "p"))
	want(t, r, "p", "p")
}

func TestQfAReleaseThatMissedAnIssueIsIgnored(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pFs"), 1)
	seen := r.Seq
	r.Show(0)
	if r.Releasable(seen) {
		t.Fatal("the reply gave the cap back")
	}
	r.Tell(bits(t, "p"), 2)
	if !r.Releasable(2) || !r.Releasable(3) || r.Releasable(4) {
		t.Fatal("a REVOKE after the issue does not matter")
	}
}

func TestFWAFlushNeedsItsBitInTheBound(t *testing.T) {
	r := &Record{}
	r.Tell(bits(t, "pFrw"), 1)
	r.Tell(bits(t, "p"), 2)
	if !r.MayFlush(FileWr) || r.MayFlush(AuthExcl) || r.MayFlush(FileWr|XattrExcl) {
		t.Fatal("FW goes by the bound")
	}
	r.Answer(2, bits(t, "p"))
	if r.MayFlush(FileWr) {
		t.Fatal("given up")
	}
}

func TestStaleSessionsAreGrantedNothing(t *testing.T) {
	r := &Record{Stale: true}
	if v := r.Tell(bits(t, "pFr"), 1); v != Nothing {
		t.Fatal(v)
	}
}

// TestB0 plays one cap through random orders of sends and deliveries, replies, releases and
// re-issues included: what the client uses never exceeds the rank's bound.
func TestB0TheBoundHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type down struct {
			id      uint64
			seq     uint32
			pending Bits
			reply   bool
		}
		type up struct {
			id       uint64
			seq      uint32
			retained Bits
			release  bool
		}
		var (
			toC       []down
			toS       []up
			srv       *Record
			nextID    uint64
			has       bool
			cid       uint64
			cseq      uint32
			use, told Bits // the client: still used, allowed
		)
		some := rapid.Map(rapid.Uint32Range(0, uint32(All)), func(u uint32) Bits { return Bits(u) & All })
		check := func() {
			if srv != nil {
				if err := srv.Check(); err != nil {
					t.Fatal(err)
				}
			}
			if has && use != 0 {
				// The bound must be the rank's, unless a release under way still has to be refused.
				if srv == nil || srv.ID != cid || use&^srv.Issued != 0 {
					t.Fatalf("client uses %v, rank has %v", use, srv)
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "act") {
			case 0: // tell
				if srv != nil && srv.Tell(some.Draw(t, "may")|Pin, 1) != Nothing {
					toC = append(toC, down{srv.ID, srv.Seq, srv.Pending, false})
				}
			case 1: // a reply with the cap
				if srv == nil {
					nextID++
					srv = &Record{ID: nextID, Client: 1}
				}
				srv.Show(some.Draw(t, "gain") | Pin)
				toC = append(toC, down{srv.ID, srv.Seq, srv.Pending, true})
			case 2: // deliver to the client
				if len(toC) == 0 {
					continue
				}
				m := toC[0]
				toC = toC[1:]
				if !has || m.id != cid {
					if !m.reply {
						toS = append(toS, up{m.id, m.seq, 0, true}) // Q-g
						continue
					}
					has, cid, use = true, m.id, 0
				}
				cseq, told = m.seq, m.pending
				use |= told & some.Draw(t, "use") // starts to use what it may
			case 3, 4: // answer, with all use of what left over
				if has {
					use &= told & some.Draw(t, "keep")
					told &= use | some.Draw(t, "hold")
					toS = append(toS, up{cid, cseq, use | told, false})
				}
			case 5: // release
				if has {
					toS = append(toS, up{cid, cseq, 0, true})
					has, use, told = false, 0, 0
				}
			case 6: // deliver to the rank
				if len(toS) == 0 {
					continue
				}
				m := toS[0]
				toS = toS[1:]
				if srv == nil || !srv.Current(m.id, 0) {
					continue
				}
				if !m.release {
					srv.Answer(m.seq, m.retained)
				} else if srv.Releasable(m.seq) {
					srv = nil
				}
			}
			check()
		}
	})
}

func TestLedgerIsOrderedAndUnions(t *testing.T) {
	l := &Ledger{}
	for i, c := range []uint64{5, 2, 9, 1, 7, 3} {
		r := &Record{Client: c, Wanted: FileRd}
		r.Show([]Bits{LinkShared, Pin, Pin, XattrShared, Pin, Pin}[i])
		l.Put(r)
	}
	if got := fmt.Sprint(len(l.All()), l.All()[0].Client, l.All()[5].Client); got != "6 1 9" {
		t.Fatal(got)
	}
	if l.Issued(5) != Pin|XattrShared || l.Issued(0) != Pin|XattrShared|LinkShared {
		t.Fatal("union but one")
	}
	l.Remove(5)
	if l.Get(5) != nil || l.Len() != 5 || l.Get(7) == nil {
		t.Fatal("remove")
	}
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestIdealLoner(t *testing.T) {
	tm := LonerTimes{Linger: 1000, Quantum: 10}
	l := &Ledger{}
	a, b := &Record{Client: 1}, &Record{Client: 2}
	l.Put(a)
	l.Put(b)
	is := func(now int64, want uint64, wantAgain int64) {
		t.Helper()
		if c, again := l.Ideal(false, now, tm); c != want || again != wantAgain {
			t.Fatalf("ideal %d again %d, want %d %d", c, again, want, wantAgain)
		}
	}
	is(0, 0, 0)
	a.Wanted = FileRd | FileWr
	is(0, 1, 0)
	l.SetLoner(1, 0)
	a.Wanted = 0
	is(100, 1, 1100) // lingers
	is(1100, 0, 0)
	a.Wanted = FileWr
	is(1200, 1, 0)
	b.Wanted = FileRd
	is(1200, 0, 0)
	a.Wanted = 0
	is(1200, 2, 0)
	b.Stale = true
	a.Wanted = FileWr
	is(1200, 1, 0)

	dir := &Ledger{}
	dir.Put(&Record{Client: 4})
	if c, _ := dir.Ideal(true, 0, tm); c != 4 {
		t.Fatal("alone with a directory")
	}
	dir.Put(&Record{Client: 5})
	if c, _ := dir.Ideal(true, 0, tm); c != 0 {
		t.Fatal("shared directory")
	}
}

func TestT6AppendersTakeTurns(t *testing.T) {
	tm := LonerTimes{Linger: 1000, Quantum: 10}
	l := &Ledger{}
	for c := uint64(1); c <= 3; c++ {
		l.Put(&Record{Client: c, Wanted: FileWr | FileExcl})
	}
	serve := func(c uint64, now int64) {
		l.Get(l.LonerOf()).Pending = 0
		l.SetLoner(c, now)
		l.Get(c).Pending = FileWr | FileExcl
		l.Served(now)
	}
	l.SetLoner(1, 90)
	serve(1, 100)
	if c, again := l.Ideal(false, 500, tm); c != 1 || again != 0 {
		t.Fatal("nobody asks: the turn goes on", c, again)
	}
	l.Ask(3)
	l.Ask(2)
	l.Ask(3)
	if c, again := l.Ideal(false, 105, tm); c != 1 || again != 110 {
		t.Fatal("a turn lasts its quantum", c, again)
	}
	order := ""
	now := int64(110)
	for range 4 {
		c, _ := l.Ideal(false, now, tm)
		was := l.LonerOf()
		serve(c, now)
		l.Ask(was)
		order += fmt.Sprint(c)
		now += 10
	}
	if order != "3213" {
		t.Fatal(order)
	}
}

// A turn that ends before its bits arrived, or an ask of somebody whose turn is ending, is
// not forgotten: the asker will not say it again.
func TestT6AnAskLastsUntilItIsServed(t *testing.T) {
	tm := LonerTimes{Linger: 1000, Quantum: 10}
	l := &Ledger{}
	l.Put(&Record{Client: 1, Wanted: FileWr | FileExcl})
	l.Put(&Record{Client: 2, Wanted: FileRd})
	l.SetLoner(1, 100)
	l.Ask(1) // still the loner, but what it had was asked back
	l.Ask(2)
	if c, again := l.Ideal(false, 150, tm); c != 1 || again != 1100 {
		t.Fatal("the loner was not served: its quantum has not begun", c, again)
	}
	if c, _ := l.Ideal(false, 1100, tm); c != 2 {
		t.Fatal("and yet nobody waits for ever", c)
	}
	l.SetLoner(2, 1100)
	l.Get(2).Pending = FileRd
	if l.Served(1105); l.firstAsker(2) == nil || l.Get(2).asked != 0 {
		t.Fatal("the first asker was forgotten", l.All())
	}
	if c, again := l.Ideal(false, 1106, tm); c != 2 || again != 1115 {
		t.Fatal(c, again)
	}
	if c, _ := l.Ideal(false, 1115, tm); c != 1 {
		t.Fatal("its turn", c)
	}
}
