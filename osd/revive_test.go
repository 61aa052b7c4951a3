package osd

import (
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// When an operator gives up all else, an OSD that was being filled goes on as the only member with
// what it has got; nothing else may make a member of it.
func TestAPartOfACopyGoesOnWhenAnOperatorSaysSo(t *testing.T) {
	w := newTrio(t)
	w.put("kept", "hello")
	w.away(2)
	for range 300 { // the log does not reach back any more: osd.2 is filled by copy
		w.tid++
		w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
			Msg: &wire.OSDOp{Epoch: 1, Oldest: w.tid, PG: testPG, Object: "new", Ops: []wire.ObjOp{{Kind: wire.ObjAppend, DataLen: 1, Data: []byte("x")}}}, Data: []byte("x")})
	}
	w.run(3)
	w.lose = func(_ wire.OSDID, m wire.Message) bool {
		switch m.(type) {
		case *wire.CopyObj, *wire.CopyRange:
			return true
		}
		return false
	}
	w.learning(3)
	w.run(10)
	if l := w.osds[2].Look(testPG); l.Whole || !l.Have {
		t.Fatalf("not begun to be filled: %+v", l)
	}
	m := testMap(4, 4, 2, 2)
	if c := m.PGs[testPG]; len(c.InSync) != 1 || c.InSync[0] != (clustermap.Member{ID: 2, UUID: wire.UUID{3}}) {
		t.Fatalf("%+v", c)
	}
	w.osds[2].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	w.run(40) // the lease that it gave before
	if s := w.osds[2].Query(w.now)[0]; s.Role != "primary" || !s.Active {
		t.Fatalf("%+v", s)
	}
	if got := w.at(2, "kept"); got != "hello" {
		t.Errorf("what it had is %q", got)
	}
	if l := w.osds[2].Look(testPG); !l.Whole {
		t.Errorf("it is a member and still called a part: %+v", l)
	}
}
