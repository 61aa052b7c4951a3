package osd

import (
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

var bang = wire.ObjOp{Kind: wire.ObjAppend, Data: []byte("!")}

// config gives everybody a map in which osd.0 leads members, and the other OSDs are learners.
func (w *trio) config(interval uint64, minSize int, members ...wire.OSDID) {
	m := testMap(wire.Epoch(interval), interval, 0, 0, 1, 2)
	pool := m.Pools[1]
	pool.MinSize = minSize
	m.Pools[1] = pool
	c := m.PGs[testPG]
	c.Learners = c.InSync[len(members):]
	c.InSync = c.InSync[:len(members)]
	m.PGs[testPG] = c
	for _, o := range w.osds {
		o.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	}
}

// garbage damages osd.id's copy of o, whose acknowledgement counts, under an append, while fixes are lost on
// their way: the append must not be answered before one arrives. With fault f it is, at once.
func (w *trio) garbage(id int, f Fault) {
	w.t.Helper()
	w.stores[id].Damage(testPG, "o")
	w.lose = func(to wire.OSDID, m wire.Message) bool {
		fix, ok := m.(*wire.ReconFix)
		return ok && !fix.Uncounted
	}
	tid := w.send(testPG, 1, "o", bang)
	w.run(20)
	_, answered := w.replies[tid]
	if f != 0 {
		if !answered {
			w.t.Error("the seeded fault has no effect: this test would not see it")
		}
		return
	}
	if answered {
		w.t.Fatalf("answered while osd.%d, which counts, has bytes that nobody can read", id)
	}
	w.lose = nil
	w.run(20)
	if _, answered = w.replies[tid]; !answered {
		w.t.Fatalf("not answered: %+v", w.osds[0].Query(w.now))
	}
	w.all("o", "hello!")
}

// While a member's fix is lost on its way nothing is acknowledged: the bytes are not there.
func TestAMemberDoesNotAcknowledgeGarbage(t *testing.T) {
	for _, f := range []Fault{0, FaultAckDamaged} {
		w := newTrio(t)
		w.osds[1].cfg.Faults = f
		w.put("o", "hello")
		w.garbage(1, f)
	}
}

// A learner that was filled and proposed meets bad bytes of its own copy under the next write. It
// may be a member by now (R9): it acknowledges nothing before it has been mended, as a member would, and
// its primary does not tell it to go on without.
func TestAProposedLearnerDoesNotAcknowledgeGarbage(t *testing.T) {
	for _, f := range []Fault{0, FaultFilledLacks, FaultPendingLacks} {
		w := newTrio(t)
		w.osds[0].cfg.Faults, w.osds[2].cfg.Faults = f, f
		w.put("o", "hello")
		w.learning(2)
		w.run(30)
		if w.osds[0].pgs[testPG].pending == nil {
			t.Fatalf("osd.2 is not about to be added: %+v", w.osds[2].Query(w.now))
		}
		if f == FaultPendingLacks { // it goes on, and its primary counts what it says
			w.lose = func(to wire.OSDID, m wire.Message) bool { _, copied := m.(*wire.CopyObj); return copied }
			w.stores[2].Damage(testPG, "o")
			tid := w.send(testPG, 1, "o", bang)
			w.run(20)
			if _, answered := w.replies[tid]; !answered {
				t.Error("the seeded fault has no effect: this test would not see it")
			}
			continue
		}
		w.garbage(2, f)
		if f != 0 {
			continue
		}
		w.config(3, 1, 0, 1, 2) // and then it is one
		w.run(40)
		if errno := w.write("o", 0, "H"); errno != 0 {
			t.Fatalf("errno %d", errno)
		}
		w.all("o", "Hello!")
	}
}

// A member's copy of one object has rotted, and its primary's of another, both with entries that the member
// lacks. It gets what it cannot read and nothing else: its good copy is the one that the
// primary is healed with. (The primary would not send a damaged copy, so the member was dropped, and then
// filled with that copy.)
func TestAFixLeavesGoodCopiesAlone(t *testing.T) {
	w := newTrio(t)
	w.put("a", "hello")
	w.put("b", "world")
	w.lose = func(to wire.OSDID, m wire.Message) bool { _, repl := m.(*wire.Repl); return repl }
	tids := []wire.Tid{w.send(testPG, 1, "b", bang), w.send(testPG, 1, "a", bang), w.send(testPG, 1, "b", bang)}
	w.run(1)
	w.stores[1].Damage(testPG, "a")
	w.stores[0].Damage(testPG, "b")
	w.asked, w.lose = nil, nil
	w.run(15)
	for _, tid := range tids {
		if r, ok := w.replies[tid]; !ok || r.Msg.Errno != 0 {
			t.Fatalf("tid %v: %+v; %+v", tid, r.Msg, w.osds[0].Query(w.now))
		}
	}
	if len(w.asked) > 0 {
		t.Errorf("proposed: %+v", w.asked)
	}
	if got := w.at(1, "b"); got != "world!!" {
		t.Errorf("osd.1 had a good copy of b; now %q", got)
	}
	if got, errno := w.get("b"); got != "world!!" || errno != 0 {
		t.Errorf("%q, errno %d", got, errno)
	}
	w.all("a", "hello!")
	w.all("b", "world!!")
}

// Parts of answers to two requests may meet. A copy that is not of the state in which the entries leave the
// object would be ahead of the log: nothing of it is taken.
func TestAFixThatDoesNotFitIsNotTaken(t *testing.T) {
	w := newTrio(t)
	w.put("o", "hello")
	w.stores[1].Damage(testPG, "o")
	var late *wire.ReconFix
	w.lose = func(to wire.OSDID, m wire.Message) bool {
		fix, ok := m.(*wire.ReconFix)
		if ok {
			late = fix
		}
		return ok
	}
	tid := w.send(testPG, 1, "o", bang)
	w.run(1)
	if late == nil || len(late.Objects) != 1 || len(late.Tail) != 1 {
		t.Fatalf("%+v", late)
	}
	give := func(change func(m *wire.ReconFix)) {
		w.osds[1].pgs[testPG].stage = nil
		m := *late
		m.Objects, m.Tail = slices.Clone(late.Objects), slices.Clone(late.Tail)
		change(&m)
		w.osds[1].Step(&Event{Kind: EvPeer, Now: w.now, From: inst(0), Msg: &m, Data: slices.Clone(m.Objects[0].Data)})
	}
	p := w.osds[1].pgs[testPG]
	before := p.last
	for what, change := range map[string]func(m *wire.ReconFix){
		"a copy ahead of the log": func(m *wire.ReconFix) { m.Objects[0].Version.N++ },
		"a copy behind it":        func(m *wire.ReconFix) { m.Objects[0].Version = before },
		"another object":          func(m *wire.ReconFix) { m.Objects[0].Name = "p" },
		"no entries":              func(m *wire.ReconFix) { m.Tail = nil },
		"too few":                 func(m *wire.ReconFix) { m.Upto.N++ },
		"another end of the log":  func(m *wire.ReconFix) { m.Common.N++ },
		"nonsense":                func(m *wire.ReconFix) { m.Tail[0].Rec = []byte("?") },
		"not all of the data":     func(m *wire.ReconFix) { m.Objects[0].Extents = []wire.Extent{{Len: 1 << 20}} },
	} {
		if give(change); p.last != before {
			t.Fatalf("%s: taken", what)
		}
	}
	give(func(*wire.ReconFix) {})
	w.lose = nil
	w.run(5)
	if _, ok := w.replies[tid]; !ok || p.last == before {
		t.Fatalf("not answered: %+v", w.osds[0].Query(w.now))
	}
	w.all("o", "hello!")
}

// What a fix has to say about an object that has rotted as well is found when it is applied, and asked for.
func TestAFixFindsMoreDamage(t *testing.T) {
	w := newTrio(t)
	w.put("a", "hello")
	w.put("b", "world")
	w.lose = func(to wire.OSDID, m wire.Message) bool { _, repl := m.(*wire.Repl); return repl }
	tids := []wire.Tid{w.send(testPG, 1, "a", bang), w.send(testPG, 1, "b", bang)}
	w.run(1)
	w.stores[1].Damage(testPG, "a")
	w.stores[1].Damage(testPG, "b")
	w.lose = nil
	w.run(15)
	for _, tid := range tids {
		if _, ok := w.replies[tid]; !ok {
			t.Fatalf("not answered: %+v", w.osds[0].Query(w.now))
		}
	}
	w.all("a", "hello!")
	w.all("b", "world!")
}

// The only member left has entries that are not committed, for there are fewer than min_size. Its copy of
// one object has rotted, and of another those of both learners, which have been filled up to
// there. Nobody is stuck, no good copy is replaced by a bad one, and what nobody has whole is known
// to be damaged. Where the primary has been started anew meanwhile it has no transactions for its
// entries any more: then its own copy is all there is of b.
func TestLearnersAreNotHeldUpByWhatTheirPrimaryCannotRead(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		w := newTrio(t)
		w.put("a", "hello")
		w.put("b", "world")
		entries := func(to wire.OSDID, m wire.Message) bool { r, ok := m.(*wire.Repl); return ok && len(r.Entries) > 0 }
		w.lose = entries
		w.send(testPG, 1, "a", bang)
		w.send(testPG, 1, "b", bang)
		w.run(1)
		if restarted {
			for _, e := range w.osds[0].pgs[testPG].log {
				if e.h.Object == "b" {
					e.muts, e.noMuts = nil, true
				}
			}
		}
		w.config(2, 2, 0)
		w.run(10)
		w.stores[0].Damage(testPG, "b")
		w.stores[1].Damage(testPG, "a")
		w.stores[2].Damage(testPG, "a")
		if p := w.osds[1].pgs[testPG]; p.learn.state != learnFilled || len(p.log) == len(w.osds[0].pgs[testPG].log) {
			t.Fatalf("osd.1 is not filled up to where its log ends: %+v", w.osds[1].Query(w.now))
		}
		w.lose = nil
		w.run(40)
		p := w.osds[0].pgs[testPG]
		if p.pending == nil {
			t.Fatalf("restarted %v: nobody is about to be added: %+v %+v", restarted, w.osds[0].Query(w.now), w.osds[1].Query(w.now))
		}
		w.config(3, 2, 0, 1)
		w.run(10)
		if p.committed != p.last {
			t.Fatalf("restarted %v: not committed: %+v", restarted, w.osds[0].Query(w.now))
		}
		w.config(4, 2, 0, 1, 2)
		w.run(10)
		w.all("a", "hello!")
		got, errno := w.get("b")
		if restarted {
			if errno != eIO || p.broken["b"] == 0 {
				t.Errorf("restarted: %q, errno %d: garbage, or not reported", got, errno)
			}
			continue
		}
		if got != "world!" || errno != 0 {
			t.Errorf("%q, errno %d", got, errno)
		}
		w.all("b", "world!")
	}
}
