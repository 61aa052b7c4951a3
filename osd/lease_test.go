package osd

import (
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// reader brings osd.0 to an active interval with members 1 and 2 and one parked read.
func reader(f Fault) *OSD {
	var o *OSD
	st := NewMemStore(wire.UUID{1})
	o = New(Config{ID: 0, Instance: inst(0), Faults: f, UpSet: func(*clustermap.OSDMap, wire.PGID) []wire.OSDID { return nil },
		Stored: func(pg wire.PGID, seq uint64, _ error) {}}, st, 0)
	o.Step(&Event{Kind: EvMap, Map: testMap(1, 1, 0, 0, 1, 2)})
	for id := range uint32(2) {
		o.Step(&Event{Kind: EvPeer, Now: 1, From: inst(id + 1), Msg: &wire.ReplAck{PG: testPG, Interval: 1, Confirm: true}})
	}
	o.Flush()
	o.Done()
	o.Step(&Event{Kind: EvOp, Now: 10, Conn: 1, Tid: 1, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: 1, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjStat}}}})
	return o
}

func grantBy(o *OSD, id uint32, sent int64) int {
	o.Step(&Event{Kind: EvPeer, Now: 20, From: inst(id), Msg: &wire.LeaseGrant{Sent: sent, PGs: []wire.PGInterval{{PG: testPG, Interval: 1}}}})
	return len(o.Flush().Replies)
}

// R5: a read leaves when the leases of *all* members are held, and not before.
func TestAReadNeedsTheLeaseOfEveryMember(t *testing.T) {
	o := reader(0)
	if e := o.Flush(); len(e.Replies) != 0 || len(e.Sends) != 2 {
		t.Fatalf("%d replies without a lease, %d lease requests", len(e.Replies), len(e.Sends))
	}
	if grantBy(o, 1, 10) != 0 {
		t.Error("answered with one lease of two")
	}
	if grantBy(o, 2, 10) != 1 {
		t.Error("not answered with both leases")
	}
	o = reader(FaultOneLease)
	if grantBy(o, 1, 10) != 1 {
		t.Error("the seeded fault has no effect: this test would not see it")
	}
}

// R6: at the primary a lease is counted from the send time of the request.
func TestALeaseEndsFromItsRequest(t *testing.T) {
	o := reader(0)
	grantBy(o, 1, 10)
	grantBy(o, 2, 10)
	o.Done()
	read := func(now int64, tid wire.Tid) int {
		o.Step(&Event{Kind: EvOp, Now: now, Conn: 1, Tid: tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
			Msg: &wire.OSDOp{Epoch: 1, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjStat}}}})
		return len(o.Flush().Replies)
	}
	if read(10+2e9-1, 2) != 1 {
		t.Error("refused within the lease")
	}
	o.Done()
	if read(10+2e9, 3) != 0 {
		t.Error("answered after the lease")
	}
}

// R7, R9: a primary that waits a lease out neither answers nor proposes additions.
func TestANewPrimaryWaitsItsOwnLeaseOut(t *testing.T) {
	o := New(Config{ID: 1, Instance: inst(1), UpSet: func(*clustermap.OSDMap, wire.PGID) []wire.OSDID { return []wire.OSDID{1, 2} },
		Stored: func(wire.PGID, uint64, error) {}}, NewMemStore(wire.UUID{2}), 0)
	o.Step(&Event{Kind: EvMap, Map: testMap(1, 1, 0, 0, 1, 2)})
	o.Step(&Event{Kind: EvPeer, Now: 5e9, From: inst(0), Msg: &wire.LeaseReq{Sent: 77, PGs: []wire.PGInterval{{PG: testPG, Interval: 1}}}})
	m := testMap(2, 2, 1, 1)
	m.OSDs[2] = clustermap.OSD{ID: 2, UUID: wire.UUID{3}, Instance: inst(2), Up: true}
	o.Step(&Event{Kind: EvMap, Now: 5e9 + 1, Map: m})
	for now := int64(5e9 + 2); now < 5e9+2e9; now += 1e8 {
		o.Step(&Event{Kind: EvTick, Now: now})
		if o.order[0].active || len(o.Flush().Proposals) > 0 {
			t.Fatalf("active %d ms after it gave a lease", (now-5e9)/1e6)
		}
	}
	o.Step(&Event{Kind: EvTick, Now: 5e9 + 2e9 + 2e9/64 + 1})
	if !o.order[0].active {
		t.Error("not active when the lease has run out")
	}
}

// R2: nobody knows what lease an earlier life of a store gave last, so a start counts as having given
// one to somebody else, whichever PG it is; an empty store has given none.
func TestAStartedStoreCountsAsHavingGivenALease(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		st := NewMemStore(wire.UUID{2})
		if !fresh {
			st = st.Crash(func(wire.PGID, int) int { return 0 })
		}
		const start = int64(7e9)
		o := New(Config{ID: 1, Instance: inst(1), UpSet: func(*clustermap.OSDMap, wire.PGID) []wire.OSDID { return []wire.OSDID{1} },
			Stored: func(wire.PGID, uint64, error) {}}, st, start)
		o.Step(&Event{Kind: EvMap, Now: start + 1, Map: testMap(1, 5, 1, 1)})
		o.Step(&Event{Kind: EvTick, Now: start + 2e9 - 1})
		if p := o.order[0]; p.active != fresh {
			t.Errorf("fresh %v: active %v one lease after the start", fresh, p.active)
		}
		o.Step(&Event{Kind: EvTick, Now: start + 2e9 + 2e9/64 + 1})
		if p := o.order[0]; !p.active {
			t.Errorf("fresh %v: not active when the lease has run out", fresh)
		}
	}
}
