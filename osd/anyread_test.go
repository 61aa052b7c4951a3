package osd

import (
	"bytes"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// ask sends a read of o to osd.id as one that any member may answer; false: it refuses.
func (w *trio) ask(id int, epoch wire.Epoch) (string, bool) {
	w.t.Helper()
	w.tid++
	o := w.osds[id]
	o.Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: epoch, Oldest: w.tid, PG: testPG, Object: "o", Flags: wire.OSDAnyMember, Ops: []wire.ObjOp{{Kind: wire.ObjRead, Len: 100}}}})
	for _, r := range o.eff.Replies {
		if r.Tid == w.tid {
			return string(bytes.Join(r.Data, nil)), r.Msg.Status == wire.OSDDone
		}
	}
	w.t.Fatalf("osd.%d neither answers nor refuses", id)
	return "", false
}

// begin starts a write of o.
func (w *trio) begin(pg wire.PGID, epoch wire.Epoch, data string) wire.Tid {
	return w.send(pg, epoch, "o", wire.ObjOp{Kind: wire.ObjWriteFull, Data: []byte(data)})
}

// staleness lets 4 s pass after a write of o was begun, while osd.2, which hears of nothing, is asked
// for it all the time: with fault f it must show the old bytes after the write was answered, without
// it never.
func (w *trio) staleness(f Fault, tid wire.Tid) {
	w.t.Helper()
	stale, waited := 0, 0
	for range 40 {
		w.run(1)
		_, answered := w.replies[tid]
		if !answered {
			waited++
		}
		if got, ok := w.ask(2, 1); ok && answered && got == "old" {
			stale++
		}
	}
	if r, ok := w.replies[tid]; !ok || r.Msg.Status != wire.OSDDone || r.Msg.Errno != 0 {
		w.t.Fatalf("the write: %v %+v; %+v", ok, r.Msg, w.osds[0].Query(w.now))
	}
	if f == 0 && (stale > 0 || waited == 0) {
		w.t.Errorf("after %d ticks: %d stale reads", waited, stale)
	}
	if f != 0 && stale == 0 {
		w.t.Error("without the wait no stale read was seen: this test sees nothing")
	}
}

// leased brings osd.id to where it answers reads of o, which is "old".
func (w *trio) leased(id int) {
	w.t.Helper()
	w.put("o", "old")
	if _, ok := w.ask(id, 1); ok {
		w.t.Fatalf("osd.%d answers without ever having asked for a lease", id)
	}
	for range 5 {
		w.run(1)
		if got, ok := w.ask(id, 1); ok {
			if got != "old" {
				w.t.Fatalf("osd.%d reads %q", id, got)
			}
			return
		}
	}
	w.t.Fatalf("osd.%d gets no lease", id)
}

// The first condition, both halves of it: a member that was dropped and has not heard answers
// until its lease ends, and nothing is answered that it would not show before that.
func TestWhatWasLentToADroppedMemberIsWaitedFor(t *testing.T) {
	for _, f := range []Fault{0, FaultNoDropWait} {
		w := newTrio(t)
		w.osds[0].cfg.Faults = f
		w.leased(2)
		w.lose = func(to wire.OSDID, _ wire.Message) bool { return to == 2 } // nor do its own words matter
		w.away(2)
		w.staleness(f, w.begin(testPG, 1, "new"))
	}
}

// The second: what may not be committed is not shown, and the primary tells what is.
func TestAMemberDoesNotShowWhatIsNotCommitted(t *testing.T) {
	w := newTrio(t)
	w.leased(1)
	w.lose = func(to wire.OSDID, m wire.Message) bool { _, ack := m.(*wire.ReplAck); return ack }
	tid := w.begin(testPG, 1, "new")
	w.run(5)
	if _, ok := w.replies[tid]; ok {
		t.Fatal("answered without an ack")
	}
	if got, ok := w.ask(1, 1); ok {
		t.Errorf("shows %q, which is not committed", got)
	}
	w.lose = nil
	w.run(10)
	if got, ok := w.ask(1, 1); !ok || got != "new" {
		t.Errorf("after the commit, with no write behind it: %q %v", got, ok)
	}
}

// I6: a barrier that only the member has met does not stop the fenced one at the primary.
func TestAMemberAnswersNoBarrierThatItsPrimaryHasNotMet(t *testing.T) {
	w := newTrio(t)
	w.leased(1)
	w.osds[1].Step(&Event{Kind: EvMap, Now: w.now, Map: testMap(2, 1, 0, 0, 1, 2)})
	if _, ok := w.ask(1, 2); ok {
		t.Error("answered under epoch 2; its primary has 1")
	}
	w.osds[0].Step(&Event{Kind: EvMap, Now: w.now, Map: testMap(2, 1, 0, 0, 1, 2)})
	w.run(10)
	if _, ok := w.ask(1, 2); !ok {
		t.Error("refused though the primary has the map")
	}
}

// A copy that cannot be read is left to the primary, and replaced.
func TestADamagedCopyFoundByAMembersReadIsMended(t *testing.T) {
	w := newTrio(t)
	w.leased(1)
	w.stores[1].Damage(testPG, "o")
	if got, ok := w.ask(1, 1); ok {
		t.Fatalf("answered %q from a damaged copy", got)
	}
	w.run(3)
	if got, ok := w.ask(1, 1); !ok || got != "old" {
		t.Errorf("afterwards: %q %v, stats %+v", got, ok, w.osds[1].Stats())
	}
}

// A lease is passed on for no longer than it is held: a primary that hears nobody but the member
// renews nothing.
func TestNobodyLendsMoreThanHeHolds(t *testing.T) {
	for _, f := range []Fault{0, FaultLendFreely} {
		w := newTrio(t)
		w.osds[0].cfg.Faults = f
		w.leased(1)
		w.lose = func(to wire.OSDID, m wire.Message) bool { return to == 2 }
		late := 0
		for i := range 60 {
			w.run(1)
			if _, ok := w.ask(1, 1); ok && i > 25 {
				late++
			}
		}
		if (late > 0) != (f != 0) {
			t.Errorf("fault %v: %d reads answered after osd.2's leases had ended", f, late)
		}
	}
}

// Nobody is proposed for addition before he has given a lease as long as what is lent: he might be
// the next but one primary, and would not wait.
func TestANewcomerCoversWhatIsLent(t *testing.T) {
	for _, f := range []Fault{0, FaultLendPending} {
		w := newTrio(t)
		w.osds[0].cfg.Faults = f
		w.away(2)
		w.leased(1)
		w.learning(3)
		w.asked = nil
		w.lose = func(to wire.OSDID, m wire.Message) bool { _, req := m.(*wire.LeaseReq); return req && to == 2 }
		for range 3 { // osd.1's lease of this interval runs while osd.2 is filled
			w.ask(1, 3)
			w.run(1)
		}
		w.run(12)
		if w.osds[0].pgs[testPG].pending == nil {
			t.Fatalf("osd.2 is not about to be added: %+v", w.osds[2].Query(w.now))
		}
		if (len(w.asked) > 0) != (f != 0) {
			t.Errorf("fault %v: %d proposals while the newcomer has granted nothing", f, len(w.asked))
		}
		w.lose = nil
		w.run(3)
		if len(w.asked) == 0 {
			t.Error("not proposed though it has granted a lease")
		}
	}
}

// splitMap is a map in which testPG has been divided in interval 2, until o is in another part; that
// part is in the given interval, with S.
func splitMap(epoch wire.Epoch, interval uint64, s ...wire.OSDID) (*clustermap.OSDMap, wire.PGID) {
	m := testMap(epoch, 2, 0, 0, 1, 2)
	p := m.Pools[1]
	for p.PGNum = 2; Place(1, "o", p.PGNum) == testPG; p.PGNum++ {
	}
	m.Pools[1] = p
	part := Place(1, "o", p.PGNum)
	for num := range p.PGNum {
		m.PGs[wire.PGID{Pool: 1, Num: num}] = m.PGs[testPG]
	}
	m.PGs[part] = testMap(epoch, interval, 0, s...).PGs[testPG]
	return m, part
}

// A split between the lending and the drop: the part knows what was lent for the whole.
func TestAPartWaitsForWhatWasLentBeforeTheSplit(t *testing.T) {
	for _, f := range []Fault{0, FaultSplitNoLent} {
		w := newTrio(t)
		w.osds[0].cfg.Faults = f
		w.leased(2)
		w.lose = func(to wire.OSDID, _ wire.Message) bool { return to == 2 } // it hears of nothing
		split, part := splitMap(2, 2, 0, 1, 2)
		dropped, _ := splitMap(3, 3, 0, 1)
		for _, m := range []*clustermap.OSDMap{split, dropped} {
			w.osds[0].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
			w.osds[1].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		}
		w.run(3)
		w.staleness(f, w.begin(part, 3, "new"))
	}
}

// What a member was lent ends with the interval, and for what a split took away it never answers.
func TestAMemberAnswersForNothingThatASplitTookAway(t *testing.T) {
	for _, f := range []Fault{0, FaultSplitUnchecked} {
		w := newTrio(t)
		w.osds[1].cfg.Faults = f
		w.leased(1)
		m, part := splitMap(2, 2, 0, 1, 2)
		w.osds[1].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		for _, pg := range []wire.PGID{testPG, part} {
			if p := w.osds[1].pgs[pg]; p.role != roleMember || p.reads.until != 0 {
				t.Errorf("pg %v, at %d: %v, may answer until %d", pg, w.now, p.role, p.reads.until)
			}
		}
		w.osds[0].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		w.osds[2].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		w.run(10)
		w.osds[1].pgs[testPG].wantRead()
		w.osds[1].pgs[part].wantRead()
		w.run(5)
		if p := w.osds[1].pgs[testPG]; p.reads.until <= w.now {
			t.Fatalf("pg %v: has no lease", testPG)
		}
		got, ok := w.ask(1, 1) // o of the old PG
		if ok != (f != 0) {
			t.Errorf("fault %v: asked by the old map: %q %v", f, got, ok)
		}
		w.tid++
		w.osds[1].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
			Msg: &wire.OSDOp{Epoch: 2, Oldest: w.tid, PG: part, Object: "o", Flags: wire.OSDAnyMember, Ops: []wire.ObjOp{{Kind: wire.ObjRead, Len: 100}}}})
		w.run(1)
		if r := w.replies[w.tid]; r.Msg == nil || r.Msg.Status != wire.OSDDone || string(bytes.Join(r.Data, nil)) != "old" || !r.Own {
			t.Errorf("asked of the part: %+v", r)
		}
	}
}
