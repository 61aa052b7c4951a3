package osd

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// trio is three cores with stores in memory, one PG, osd.0 its primary, and a network that
// delivers at once.
type trio struct {
	t       *testing.T
	osds    []*OSD
	stores  []*MemStore
	now     int64
	tid     wire.Tid
	replies map[wire.Tid]Reply
	lose    func(to wire.OSDID, m wire.Message) bool
	asked   []Proposal // what the primary proposed; nobody decides
}

func newTrio(t *testing.T) *trio {
	w := &trio{t: t, replies: map[wire.Tid]Reply{}}
	for i := range 3 {
		st := NewMemStore(wire.UUID{byte(i) + 1})
		var o *OSD
		o = New(Config{ID: wire.OSDID(i), Instance: inst(uint32(i)), UpSet: func(*clustermap.OSDMap, wire.PGID) []wire.OSDID { return []wire.OSDID{0, 1, 2} },
			Stored: func(pg wire.PGID, seq uint64, err error) {
				o.Step(&Event{Kind: EvStored, Now: w.now, PG: pg, Seq: seq})
			}}, st, 0)
		w.osds, w.stores = append(w.osds, o), append(w.stores, st)
	}
	for _, o := range w.osds {
		o.Step(&Event{Kind: EvMap, Map: testMap(1, 1, 0, 0, 1, 2)})
	}
	w.run(10)
	return w
}

// run delivers everything, then lets ticks pass.
func (w *trio) run(ticks int) {
	for range ticks {
		for busy := true; busy; {
			busy = false
			for i, o := range w.osds {
				w.stores[i].Commit(-1)
				e := *o.Flush()
				w.asked = append(w.asked, e.Proposals...)
				sends, replies := append([]Send{}, e.Sends...), append([]Reply{}, e.Replies...)
				o.Done()
				for _, r := range replies {
					w.replies[r.Tid] = r
				}
				for _, s := range sends {
					busy = true
					if w.lose != nil && w.lose(s.To, s.Msg) {
						continue
					}
					w.osds[s.To].Step(&Event{Kind: EvPeer, Now: w.now, From: inst(uint32(i)), Msg: s.Msg, Data: bytes.Join(s.Data, nil)})
				}
			}
		}
		w.now += 1e8
		for _, o := range w.osds {
			o.Step(&Event{Kind: EvTick, Now: w.now})
		}
	}
}

// send hands osd.0 an operation and lets nothing pass.
func (w *trio) send(pg wire.PGID, epoch wire.Epoch, name string, ops ...wire.ObjOp) wire.Tid {
	w.tid++
	var data []byte
	for i := range ops {
		ops[i].DataLen = uint32(len(ops[i].Data))
		data = append(data, ops[i].Data...)
	}
	w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: epoch, Oldest: w.tid, PG: pg, Object: name, Ops: ops}, Data: data})
	return w.tid
}

func (w *trio) op(name string, ops ...wire.ObjOp) Reply {
	w.t.Helper()
	w.send(testPG, 1, name, ops...)
	w.run(40)
	r, ok := w.replies[w.tid]
	if !ok {
		w.t.Fatalf("%s: no answer; %+v", name, w.osds[0].Query(w.now))
	}
	return r
}

func (w *trio) put(name, data string) {
	w.t.Helper()
	if r := w.op(name, wire.ObjOp{Kind: wire.ObjWriteFull, Data: []byte(data)}, wire.ObjOp{Kind: wire.ObjSetXattr, Key: "k", Data: []byte("v")}); r.Msg.Errno != 0 {
		w.t.Fatalf("put %s: errno %d", name, r.Msg.Errno)
	}
}

func (w *trio) get(name string) (string, uint32) {
	w.t.Helper()
	r := w.op(name, wire.ObjOp{Kind: wire.ObjRead, Len: 100})
	return string(bytes.Join(r.Data, nil)), r.Msg.Errno
}

func (w *trio) at(i int, name string) string {
	b := make([]byte, 100)
	n, err := w.stores[i].Read(testPG, name, 0, b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func (w *trio) scrub(deep, repair bool) ScrubSum {
	w.t.Helper()
	if err := w.osds[0].Scrub(testPG, deep, repair); err != nil {
		w.t.Fatal(err)
	}
	for range 100 {
		w.run(1)
		if s := w.osds[0].Query(w.now)[0].Scrub; !s.Running {
			return s
		}
	}
	w.t.Fatal("the scrub does not end")
	return ScrubSum{}
}

// A reader never sees a damaged block where a member has a good one, whoever of them is damaged.
func TestDamagedObjectIsHealedUnderARead(t *testing.T) {
	w := newTrio(t)
	w.put("o", "hello")
	w.stores[0].Damage(testPG, "o")
	if got, errno := w.get("o"); got != "hello" || errno != 0 {
		t.Fatalf("%q, errno %d", got, errno)
	}
	if w.at(0, "o") != "hello" || w.osds[0].Stats().Healed != 1 {
		t.Fatalf("not healed: %q, %+v", w.at(0, "o"), w.osds[0].Stats())
	}
	// The first member asked is damaged too, and its answer is lost once.
	w.stores[0].Damage(testPG, "o")
	w.stores[1].Damage(testPG, "o")
	lost := 0
	w.lose = func(to wire.OSDID, m wire.Message) bool {
		_, is := m.(*wire.ObjFetched)
		lost++
		return is && lost < 3
	}
	if got, errno := w.get("o"); got != "hello" || errno != 0 {
		t.Fatalf("%q, errno %d", got, errno)
	}
	w.lose = nil
	// Nobody has it: an error, not a hang, and a new write makes it good again.
	for i := range 3 {
		w.stores[i].Damage(testPG, "o")
	}
	if got, errno := w.get("o"); errno != eIO {
		t.Fatalf("%q, errno %d", got, errno)
	}
	if q := w.osds[0].Query(w.now)[0]; q.Broken != 1 {
		t.Fatalf("%+v", q)
	}
	w.op("o", wire.ObjOp{Kind: wire.ObjRemove})
	w.put("o", "again")
	if got, _ := w.get("o"); got != "again" {
		t.Fatalf("%q", got)
	}
}

// Bit rot at members is found by a deep scrub and mended from the primary; a light one does not read.
func TestDeepScrubFindsAndMendsBitRot(t *testing.T) {
	w := newTrio(t)
	for i := range 300 {
		w.tid++
		w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
			Msg: &wire.OSDOp{Epoch: 1, Oldest: w.tid, PG: testPG, Object: fmt.Sprintf("o%03d", i), Ops: []wire.ObjOp{{Kind: wire.ObjWriteFull, DataLen: 3, Data: []byte("abc")}}}, Data: []byte("abc")})
	}
	w.run(5)
	w.stores[1].Damage(testPG, "o017")
	w.stores[2].Damage(testPG, "o250")
	w.stores[0].Damage(testPG, "o299")
	if s := w.scrub(false, false); s.Objects != 300 || s.Bad != 0 {
		t.Fatalf("light: %+v", s)
	}
	if s := w.scrub(true, false); s.Objects != 300 || s.Bad != 3 || s.Mended != 3 || s.Differ != 0 {
		t.Fatalf("deep: %+v", s)
	}
	w.run(3)
	if s := w.scrub(true, false); s.Bad != 0 || s.Mended != 0 || s.Objects != 300 {
		t.Fatalf("again: %+v", s)
	}
	if w.at(1, "o017") != "abc" || w.at(2, "o250") != "abc" || w.at(0, "o299") != "abc" {
		t.Fatal("not mended")
	}
}

// What differs with checksums that fit is decided by the majority, and only on request.
func TestRepairFollowsTheMajority(t *testing.T) {
	for spoilt := range 3 {
		w := newTrio(t)
		w.put("o", "hello")
		w.stores[spoilt].Spoil(testPG, "o")
		if s := w.scrub(true, false); s.Differ != 1 || s.Mended != 0 {
			t.Fatalf("osd.%d: %+v", spoilt, s)
		}
		if s := w.scrub(true, true); s.Differ != 1 || s.Mended != 1 {
			t.Fatalf("osd.%d: %+v", spoilt, s)
		}
		w.run(3)
		for i := range 3 {
			if w.at(i, "o") != "hello" {
				t.Fatalf("osd.%d was wrong, osd.%d has %q", spoilt, i, w.at(i, "o"))
			}
		}
	}
	w := newTrio(t)
	w.put("o", "hello")
	w.stores[1].Spoil(testPG, "o")
	w.stores[2].Damage(testPG, "o") // one says so, one says otherwise, one is mute
	if s := w.scrub(true, true); s.Unsure != 1 || s.Mended != 0 {
		t.Fatalf("%+v", s)
	}
}

// An object that is written while it is scrubbed is not judged, and not overwritten.
func TestScrubLeavesWhatChanges(t *testing.T) {
	w := newTrio(t)
	w.put("o", "old")
	w.stores[1].Damage(testPG, "o")
	late := []Send{}
	w.lose = func(to wire.OSDID, m wire.Message) bool {
		if _, is := m.(*wire.ScrubMap); is {
			late = append(late, Send{To: to, Msg: m})
			return true
		}
		return false
	}
	if err := w.osds[0].Scrub(testPG, true, true); err != nil {
		t.Fatal(err)
	}
	w.run(1)
	w.lose = nil
	w.tid++
	w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: 1, Oldest: w.tid, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjWriteFull, DataLen: 3, Data: []byte("new")}}}, Data: []byte("new")})
	for i, s := range late {
		w.osds[0].Step(&Event{Kind: EvPeer, Now: w.now, From: inst(uint32(i + 1)), Msg: s.Msg})
	}
	w.run(5)
	if s := w.osds[0].Query(w.now)[0].Scrub; s.Running || s.Skipped != 1 || s.Mended != 0 {
		t.Fatalf("%+v", s)
	}
	for i := range 3 {
		if i != 1 && w.at(i, "o") != "new" {
			t.Fatalf("osd.%d has %q", i, w.at(i, "o"))
		}
	}
}

// A good copy that was on its way to a member while the object was written is not installed:
// it would take the write back.
func TestAScrubsCopyDoesNotUndoALaterWrite(t *testing.T) {
	for _, f := range []Fault{0, FaultMendStale} {
		w := newTrio(t)
		w.osds[1].cfg.Faults = f
		w.put("o", "old")
		w.stores[1].Damage(testPG, "o")
		var late *Send
		w.lose = func(to wire.OSDID, m wire.Message) bool {
			if _, is := m.(*wire.ObjMend); is {
				late = &Send{To: to, Msg: m}
			}
			return late != nil && late.Msg == m
		}
		w.scrub(true, false)
		w.lose = nil
		w.put("o", "new")
		if late == nil {
			t.Fatal("nothing was mended")
		}
		w.osds[1].Step(&Event{Kind: EvPeer, Now: w.now, From: inst(0), Msg: late.Msg, Data: []byte("old")})
		w.run(2)
		if got := w.at(1, "o"); (got == "new") != (f == 0) {
			t.Errorf("fault %d: osd.1 has %q", f, got)
		}
	}
}

// The same where the member's log does not reach back any more to where the copy was made.
func TestAVeryLateCopyIsNotInstalled(t *testing.T) {
	w := newTrio(t)
	w.put("o", "old")
	w.stores[1].Damage(testPG, "o")
	var late wire.Message
	w.lose = func(_ wire.OSDID, m wire.Message) bool {
		if _, is := m.(*wire.ObjMend); is {
			late = m
		}
		return late != nil && late == m
	}
	w.scrub(true, false)
	w.lose = nil
	w.put("o", "new")
	for i := range 1000 {
		w.put(fmt.Sprint(i), "x")
	}
	w.osds[1].Step(&Event{Kind: EvPeer, Now: w.now, From: inst(0), Msg: late, Data: []byte("old")})
	w.run(2)
	if got := w.at(1, "o"); got != "new" {
		t.Errorf("osd.1 has %q", got)
	}
}
