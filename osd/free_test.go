package osd

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// What arrived with a write is given back when all replicas have acknowledged it, and only if
// each was sent it once: an acknowledgement says nothing of a second message under way.
func TestAWritesBytesAreGivenBack(t *testing.T) {
	for _, again := range []bool{false, true} {
		var seqs []uint64
		o := New(Config{ID: 0, Instance: inst(0), Stored: func(_ wire.PGID, seq uint64, _ error) { seqs = append(seqs, seq) }}, NewMemStore(wire.UUID{1}), 0)
		o.Step(&Event{Kind: EvMap, Map: testMap(1, 1, 0, 0, 1, 2)})
		ack := func(id uint32, m *wire.ReplAck) {
			m.PG, m.Interval = testPG, 1
			o.Step(&Event{Kind: EvPeer, Now: 1e9, From: inst(id), Msg: m})
		}
		ack(1, &wire.ReplAck{Confirm: true})
		ack(2, &wire.ReplAck{Confirm: true})
		o.Flush()
		o.Done()
		data := []byte("hello")
		o.Step(&Event{Kind: EvOp, Now: 1e9, Conn: 1, Tid: 1, From: wire.Instance{Kind: wire.KindClient, Nonce: 1}, Data: data,
			Msg: &wire.OSDOp{Epoch: 1, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjWriteFull, DataLen: 5}}}})
		if e := o.Flush(); len(e.Sends) != 2 || len(e.Free) != 0 {
			t.Fatalf("%d messages, %d given back at once", len(e.Sends), len(e.Free))
		}
		o.Done()
		if again {
			ack(1, &wire.ReplAck{Gap: true})
			if e := o.Flush(); len(e.Sends) != 1 {
				t.Fatalf("%d messages after a gap", len(e.Sends))
			}
			o.Done()
		}
		st := o.store.(*MemStore)
		st.Commit(st.Pending())
		for _, s := range seqs {
			o.Step(&Event{Kind: EvStored, Now: 1e9, PG: testPG, Seq: s})
		}
		v := wire.Version{Interval: 1, N: 1}
		ack(1, &wire.ReplAck{Version: v})
		if e := o.Flush(); len(e.Free) != 0 {
			t.Fatal("given back while one member has not acknowledged")
		}
		ack(2, &wire.ReplAck{Version: v})
		switch e := o.Flush(); {
		case len(e.Replies) != 1:
			t.Fatalf("%d replies", len(e.Replies))
		case again && len(e.Free) != 0:
			t.Error("given back with a second message under way")
		case !again && (len(e.Free) != 1 || &e.Free[0][0] != &data[0]):
			t.Errorf("%d buffers given back", len(e.Free))
		}
	}
}
