package osd

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// fetches takes what the primary has sent for.
func (w *trio) fetches() []Fetch {
	w.t.Helper()
	fs := append([]Fetch{}, w.osds[0].Flush().Fetches...)
	for _, r := range w.osds[0].Flush().Replies {
		w.replies[r.Tid] = r
	}
	w.osds[0].Done()
	return fs
}

// startRead begins a read whose bytes come later.
func (w *trio) startRead(name string, lens ...uint64) (wire.Tid, Fetch) {
	w.t.Helper()
	w.tid++
	var ops []wire.ObjOp
	for _, n := range lens {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjRead, Len: n})
	}
	w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: 1, Oldest: w.tid, PG: testPG, Object: name, Ops: ops}})
	fs := w.fetches()
	if len(fs) != 1 || len(fs[0].Read) != len(lens) {
		w.t.Fatalf("%v sent for", fs)
	}
	return w.tid, fs[0]
}

func (w *trio) finish(f Fetch) {
	ev := &Event{Kind: EvFetched, Now: w.now, Seq: f.ID}
	for _, l := range f.Read {
		b, crc, err := l.Fetch(func(n int) []byte { return make([]byte, n) })
		if err != nil {
			ev.Bad = true
			continue
		}
		ev.Got, ev.CRC = append(ev.Got, b), crc
	}
	w.osds[0].Step(ev)
	w.run(1)
}

func slowTrio(t *testing.T) *trio {
	w := newTrio(t)
	w.put("o", "hello")
	w.op("o", wire.ObjOp{Kind: wire.ObjRead, Len: 1}) // has its leases now
	w.stores[0].SetSlow(func() bool { return true }, false)
	return w
}

// A read that waits for the disk is answered with what was there when it was allowed, whatever
// commits before its bytes have come; others are served meanwhile.
func TestAFetchedReadTookPlaceWhenItBegan(t *testing.T) {
	w := slowTrio(t)
	tid, f := w.startRead("o", 100)
	if n := w.osds[0].InFlight(); n != 1 {
		t.Errorf("%d under way", n)
	}
	if ops := w.osds[0].Ops(w.now, 10); len(ops) != 1 || ops[0].Stage != "disk" || ops[0].Tid != uint64(tid) {
		t.Errorf("ops: %+v", ops)
	}
	if errno := w.write("o", 0, "J"); errno != 0 {
		t.Fatal(errno)
	}
	two, g := w.startRead("o", 2, 3)
	w.finish(f)
	if r, ok := w.replies[tid]; !ok || r.Msg.Errno != 0 || string(r.Data[0]) != "hello" || !r.Summed || r.Msg.Ops[0].DataLen != 5 {
		t.Errorf("answer %+v", r)
	}
	w.finish(g)
	if r := w.replies[two]; len(r.Data) != 2 || string(r.Data[0]) != "Je" || string(r.Data[1]) != "Jel" || r.Summed || !r.Own {
		t.Errorf("answer of two reads %+v", r)
	}
	if n := w.osds[0].InFlight(); n != 0 {
		t.Errorf("%d under way at the end", n)
	}
}

// Bytes that turn out to be bad are not answered: they are healed, and the read with them.
func TestAFetchThatFailsIsHealed(t *testing.T) {
	w := slowTrio(t)
	tid, f := w.startRead("o", 100)
	w.stores[0].Damage(testPG, "o")
	w.finish(f)
	w.run(20)
	if r, ok := w.replies[tid]; !ok || r.Msg.Errno != 0 || string(r.Data[0]) != "hello" {
		t.Errorf("answer %+v", r)
	}
	if s := w.osds[0].Stats(); s.Healed != 1 || s.Fetched != 1 {
		t.Errorf("%+v", s)
	}
}

// Nobody answers a client that has gone; its bytes go back.
func TestAFetchForAClientThatHasGone(t *testing.T) {
	w := slowTrio(t)
	tid, f := w.startRead("o", 100)
	w.osds[0].Step(&Event{Kind: EvConnClosed, Now: w.now, Conn: 1})
	b, crc, _ := f.Read[0].Fetch(nil)
	w.osds[0].Step(&Event{Kind: EvFetched, Now: w.now, Seq: f.ID, Got: [][]byte{b}, CRC: crc})
	if e := w.osds[0].Flush(); len(e.Free) != 1 || len(e.Replies) != 0 {
		t.Errorf("%d freed, %d replies", len(e.Free), len(e.Replies))
	}
	if _, ok := w.replies[tid]; ok {
		t.Error("answered")
	}
}
