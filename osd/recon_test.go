package osd

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

var testPG = wire.PGID{Pool: 1}

func inst(id uint32) wire.Instance {
	return wire.Instance{Kind: wire.KindOSD, Num: id, Nonce: uint64(id) + 1}
}

func testMap(epoch wire.Epoch, interval uint64, primary wire.OSDID, s ...wire.OSDID) *clustermap.OSDMap {
	m := &clustermap.OSDMap{Epoch: epoch, Pools: map[uint32]clustermap.Pool{1: {ID: 1, Size: 3, MinSize: 1, PGNum: 1}},
		OSDs: map[wire.OSDID]clustermap.OSD{}, PGs: map[wire.PGID]clustermap.PGConfig{}}
	c := clustermap.PGConfig{Interval: interval, Primary: primary}
	for _, id := range s {
		m.OSDs[id] = clustermap.OSD{ID: id, UUID: wire.UUID{byte(id) + 1}, Instance: inst(uint32(id)), Up: true}
		c.InSync = append(c.InSync, clustermap.Member{ID: id, UUID: wire.UUID{byte(id) + 1}})
	}
	m.PGs[testPG] = c
	return m
}

// divergent brings osd.1 to TR1: it has W2, which the new primary osd.2 lacks, and has just
// been told to cut it. It returns the store before its transactions become durable.
func divergent(t *testing.T, f Fault) *MemStore {
	st := NewMemStore(wire.UUID{2})
	var o *OSD
	o = New(Config{ID: 1, Instance: inst(1), Faults: f, UpSet: func(*clustermap.OSDMap, wire.PGID) []wire.OSDID { return nil },
		Stored: func(pg wire.PGID, seq uint64, _ error) { o.Step(&Event{Kind: EvStored, PG: pg, Seq: seq}) }}, st, 0)
	o.Step(&Event{Kind: EvMap, Map: testMap(1, 1, 0, 0, 1, 2)})
	peer := func(from uint32, m wire.Message, data string) {
		o.Step(&Event{Kind: EvPeer, Now: 1, From: inst(from), Msg: m, Data: []byte(data)})
	}
	v := func(n uint64) wire.Version { return wire.Version{Interval: 1, N: n} }
	peer(0, &wire.Recon{PG: testPG, Interval: 1}, "")
	for n := uint64(1); n <= 2; n++ {
		h := &wire.LogEntry{Version: v(n), Object: "o", After: v(n), Tid: wire.Tid(n)}
		if n > 1 {
			h.Prev, h.Prior = v(n-1), v(n-1)
		}
		rec, _ := wire.Append(nil, h)
		w := fmt.Sprintf("W%d", n)
		peer(0, &wire.Repl{PG: testPG, Interval: 1, Prev: h.Prev, Entries: []wire.ReplEntry{{Rec: rec, Muts: []wire.ObjOp{{Kind: wire.ObjWrite, DataLen: 2}}}}}, w)
	}
	o.Flush()
	st.Commit(-1)
	o.Step(&Event{Kind: EvMap, Map: testMap(2, 2, 2, 1, 2)})
	peer(2, &wire.Recon{PG: testPG, Interval: 2, Last: v(1)}, "")
	peer(2, &wire.ReconFix{PG: testPG, Interval: 2, Common: v(1), Parts: 1,
		Objects: []wire.ObjCopy{{Name: "o", Version: v(1), Size: 2, Extents: []wire.Extent{{Len: 2}}}}}, "W1")
	if st.Pending() == 0 {
		t.Fatal("nothing was installed")
	}
	return st
}

// halves crashes osd.1 after each number of its transactions and looks whether log and object
// agree: a member that died while it was cut must be able to lead the next interval.
func halves(t *testing.T, f Fault) (bad int) {
	for keep := 0; ; keep++ {
		st := divergent(t, f)
		n := st.Pending()
		next := st.Crash(func(wire.PGID, int) int { return keep })
		l := next.Log(testPG)
		s, _ := next.Stat(testPG, "o")
		if s.Version != l.Recs[len(l.Recs)-1].Version {
			bad++
		}
		if keep == n {
			return bad
		}
	}
}

func TestACutIsWholeOrNotAtAll(t *testing.T) {
	if n := halves(t, 0); n != 0 {
		t.Errorf("%d crashes leave a log that does not match its object (R8)", n)
	}
	if n := halves(t, FaultCutNotAtomic); n == 0 {
		t.Error("a cut in pieces is not noticed")
	}
}

// A member that is sent what makes it equal, again and again, and never takes it is dropped in the end.
func TestAMemberThatNeverReconcilesIsDropped(t *testing.T) {
	w := newTrio(t)
	w.put("o", "old")
	p := w.osds[1].pgs[testPG]
	st, _ := w.stores[1].Stat(testPG, "o")
	h := &wire.LogEntry{Version: wire.Version{Interval: 1, N: 1000}, Prev: p.last, Object: "o", Prior: st.Version, Client: wire.Instance{Kind: wire.KindClient, Nonce: 9}, Tid: 1}
	h.After = h.Version
	rec, err := wire.Append(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	p.appendEntry(&entry{h: h, rec: rec, noMuts: true})
	p.submit(&Txn{Append: []LogRec{{h.Version, rec}}, Objs: []ObjTxn{{Name: "o", Version: h.Version}}})
	fixes := 0
	w.lose = func(_ wire.OSDID, m wire.Message) bool {
		_, fix := m.(*wire.ReconFix)
		if fix {
			fixes++
		}
		return fix
	}
	for _, o := range w.osds {
		o.Step(&Event{Kind: EvMap, Now: w.now, Map: testMap(2, 2, 0, 0, 1, 2)})
	}
	w.asked = nil
	w.run(600)
	if len(w.asked) == 0 || len(w.asked[0].InSync) != 2 || fixes < 2 {
		t.Errorf("%d fixes, proposed: %+v", fixes, w.asked)
	}
}
