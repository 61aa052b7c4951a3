package osd

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// aim sends an operation as a client with a map of so many PGs does.
func (w *trio) aim(epoch wire.Epoch, to wire.OSDID, pg wire.PGID, tid wire.Tid, name string, op wire.ObjOp) (Reply, bool) {
	w.t.Helper()
	op.DataLen = uint32(len(op.Data))
	delete(w.replies, tid)
	w.osds[to].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: epoch, Oldest: 1, PG: pg, Object: name, Ops: []wire.ObjOp{op}}, Data: bytes.Clone(op.Data)})
	w.run(40)
	r, ok := w.replies[tid]
	return r, ok
}

// One PG becomes four; osd.2 was down and meets the map when it starts again. What was answered
// before is answered alike, by the PG that has the object now, on whichever primary.
func TestASplitKeepsObjectsResultsAndOrder(t *testing.T) {
	w := newTrio(t)
	app := func(n int) wire.ObjOp { return wire.ObjOp{Kind: wire.ObjAppend, Data: fmt.Appendf(nil, "<%d>", n)} }
	name := func(n int) string { return fmt.Sprint("o", n%7) }
	was := map[wire.Tid]wire.Version{}
	for n := 1; n <= 21; n++ {
		r, ok := w.aim(1, 0, testPG, wire.Tid(n), name(n), app(n))
		if !ok || r.Msg.Errno != 0 {
			t.Fatalf("op %d: %v %+v", n, ok, r.Msg)
		}
		was[wire.Tid(n)] = r.Msg.Version
	}
	m := testMap(2, 2, 0, 0, 1, 2)
	p := m.Pools[1]
	p.PGNum = 4
	m.Pools[1] = p
	for num := range uint32(4) {
		c := m.PGs[testPG]
		c.Primary = wire.OSDID(num % 3)
		m.PGs[wire.PGID{Pool: 1, Num: num}] = c
	}
	// osd.2 dies; its disk keeps all that it was told was durable.
	st := w.stores[2].Crash(func(wire.PGID, int) int { return 0 })
	var late *OSD
	late = New(Config{ID: 2, Instance: inst(2), UpSet: w.osds[2].cfg.UpSet, Stored: func(pg wire.PGID, seq uint64, err error) {
		late.Step(&Event{Kind: EvStored, Now: w.now, PG: pg, Seq: seq})
	}}, st, w.now)
	w.osds[2], w.stores[2] = late, st
	w.osds[0].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	w.osds[1].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	w.run(3)
	late.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	w.run(60)
	parts := map[wire.PGID]bool{}
	for n := 1; n <= 21; n++ {
		tid, pg := wire.Tid(n), Place(1, name(n), 4)
		parts[pg] = true
		r, ok := w.aim(2, m.PGs[pg].Primary, pg, tid, name(n), app(n))
		if !ok || r.Msg.Status != wire.OSDDone || r.Msg.Version != was[tid] {
			t.Fatalf("tid %d again, at pg %v: %v %+v, was %v", n, pg, ok, r.Msg, was[tid])
		}
		if pg != testPG {
			if r, ok := w.aim(1, 0, testPG, tid, name(n), app(n)); !ok || r.Msg.Status != wire.OSDWrong {
				t.Errorf("tid %d aimed by the old map: %v %+v", n, ok, r.Msg)
			}
		}
		if other := (wire.PGID{Pool: 1, Num: (pg.Num + 1) % 4}); other.Num > pg.Num {
			if r, ok := w.aim(2, m.PGs[other].Primary, other, tid, name(n), app(n)); !ok || r.Msg.Errno != eINVAL {
				t.Errorf("tid %d aimed at pg %v, not %v: %v %+v", n, other, pg, ok, r.Msg)
			}
		}
	}
	if len(parts) < 3 {
		t.Fatalf("the objects are in %d PGs", len(parts))
	}
	for i, st := range w.stores {
		for num := range uint32(4) {
			pg := wire.PGID{Pool: 1, Num: num}
			if n := DividedFor(st, pg); n != 4 {
				t.Errorf("osd.%d: pg %v is divided for %d", i, pg, n)
			}
			for _, ov := range st.ListObjects(pg, "", 100) {
				b := make([]byte, 100)
				n, _ := st.Read(pg, ov.Name, 0, b)
				k := 0
				fmt.Sscanf(ov.Name, "o%d", &k)
				want := ""
				for x := 1; x <= 21; x++ {
					if x%7 == k {
						want += fmt.Sprintf("<%d>", x)
					}
				}
				if Place(1, ov.Name, 4) != pg || string(b[:n]) != want {
					t.Errorf("osd.%d: %s of pg %v is %q, want %q", i, ov.Name, pg, b[:n], want)
				}
			}
		}
		for _, o := range w.osds {
			o.Walk()
		}
	}
}
