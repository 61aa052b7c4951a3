package osd

import (
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

func (w *trio) write(name string, off uint64, data string) uint32 {
	w.t.Helper()
	return w.op(name, wire.ObjOp{Kind: wire.ObjWrite, Off: off, Data: []byte(data)}).Msg.Errno
}

func (w *trio) all(name, want string) {
	w.t.Helper()
	for i := range 3 {
		if got := w.at(i, name); got != want {
			w.t.Errorf("osd.%d has %q of %s, not %q", i, got, name, want)
		}
	}
}

// A write over a part of damaged bytes takes them from a good replica first, whoever of the
// three is damaged, and whatever else is on its way to the same object.
func TestPartialWriteOverDamageIsHealedFirst(t *testing.T) {
	for damaged := range 3 {
		w := newTrio(t)
		w.put("o", "hello")
		w.stores[damaged].Damage(testPG, "o")
		w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: 100, From: wire.Instance{Kind: wire.KindClient, Nonce: 2},
			Msg: &wire.OSDOp{Epoch: 1, Oldest: 100, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjAppend, DataLen: 1, Data: []byte("!")}}}, Data: []byte("!")})
		if errno := w.write("o", 1, "EL"); errno != 0 {
			t.Fatalf("osd.%d damaged: errno %d", damaged, errno)
		}
		w.all("o", "hELlo!")
		if s := w.osds[damaged].Stats(); s.Damaged != 1 || s.Healed != 1 {
			t.Errorf("osd.%d: %+v", damaged, s)
		}
		if errno := w.write("o", 0, "H"); errno != 0 {
			t.Fatalf("afterwards: errno %d", errno)
		}
		w.all("o", "HELlo!")
	}
}

// Where nobody has the old bytes a write that builds on them is refused, and one that does not
// is taken.
func TestPartialWriteOverLostBytes(t *testing.T) {
	w := newTrio(t)
	w.put("o", "hello")
	for i := range 3 {
		w.stores[i].Damage(testPG, "o")
	}
	if errno := w.write("o", 1, "EL"); errno != eIO {
		t.Fatalf("errno %d", errno)
	}
	if q := w.osds[0].Query(w.now)[0]; q.Broken != 1 {
		t.Fatalf("%+v", q)
	}
	if r := w.op("o", wire.ObjOp{Kind: wire.ObjTruncate}, wire.ObjOp{Kind: wire.ObjWrite, Data: []byte("new")}); r.Msg.Errno != 0 {
		t.Fatalf("a write that needs no old bytes: errno %d", r.Msg.Errno)
	}
	w.all("o", "new")
	if got, errno := w.get("o"); got != "new" || errno != 0 {
		t.Fatalf("%q, errno %d", got, errno)
	}
}

// learning makes osd.2 a learner in interval 2 and later.
func (w *trio) learning(interval uint64) {
	m := testMap(wire.Epoch(interval), interval, 0, 0, 1, 2)
	c := m.PGs[testPG]
	c.Learners = []clustermap.Member{c.InSync[2]}
	c.InSync = c.InSync[:2]
	m.PGs[testPG] = c
	for _, o := range w.osds {
		o.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	}
}

// An object of which no good copy is left does not keep a PG from being filled; the learner
// gets it as it is, unreadable. And a learner's own copy, of the same version, is as good as a
// member's.
func TestLearnersAndDamage(t *testing.T) {
	w := newTrio(t)
	w.put("lost", "hello")
	w.put("kept", "world")
	w.learning(2)
	w.run(30)
	if w.osds[0].pgs[testPG].pending == nil {
		t.Fatalf("osd.2 is not about to be added: %+v", w.osds[2].Query(w.now))
	}
	for i := range 2 {
		w.stores[i].Damage(testPG, "kept")
	}
	if got, errno := w.get("kept"); got != "world" || errno != 0 {
		t.Fatalf("a copy of a learner: %q, errno %d", got, errno)
	}
	for i := range 3 {
		w.stores[i].Damage(testPG, "lost")
	}
	w.stores[2].Submit(&Txn{PG: testPG, Objs: []ObjTxn{{Name: "lost", Remove: true}}}, func(error) {})
	w.learning(3)
	w.osds[2].pgs[testPG].learn.state = learnGoing // as if it had been away while the object was made
	w.osds[2].pgs[testPG].learn.begin(w.osds[2].pgs[testPG])
	w.run(40)
	if w.osds[0].pgs[testPG].pending == nil {
		t.Fatalf("one broken object keeps osd.2 out: %+v", w.osds[2].Query(w.now))
	}
	if got := w.at(2, "lost"); got == "hello" || got == "" {
		t.Errorf("osd.2 has %q of an object that nobody can read", got)
	}
	if got := w.at(2, "kept"); got != "world" {
		t.Errorf("osd.2 has %q", got)
	}
}
