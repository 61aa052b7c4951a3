package osd

import (
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// away takes osd.2 out of S: nothing reaches it until the next map.
func (w *trio) away(interval uint64) {
	m := testMap(wire.Epoch(interval), interval, 0, 0, 1, 2)
	c := m.PGs[testPG]
	c.InSync = c.InSync[:2]
	m.PGs[testPG] = c
	d := m.OSDs[2]
	d.Up = false
	m.OSDs[2] = d
	for _, o := range w.osds[:2] {
		o.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
	}
	w.run(3)
}

// seen counts the messages of recovery, and which objects were copied.
type seen struct {
	listings int
	copied   []string
}

func (w *trio) watch() *seen {
	s := &seen{}
	w.lose = func(_ wire.OSDID, m wire.Message) bool {
		switch m := m.(type) {
		case *wire.CopyRange:
			s.listings++
		case *wire.CopyObj:
			s.copied = append(s.copied, m.Object.Name)
		}
		return false
	}
	return s
}

// An OSD that was away for a while gets what it missed, and no listing of the whole PG; what it
// had and nobody else has is cut.
func TestAnOSDThatWasAwayIsFilledByLog(t *testing.T) {
	w := newTrio(t)
	for i := range 50 {
		w.put(fmt.Sprintf("o%02d", i), "old")
	}
	// A write that only osd.2 has: its primary was to be osd.2, which nobody heard of.
	h := &wire.LogEntry{Version: wire.Version{Interval: 1, N: 1000}, Prev: w.osds[2].pgs[testPG].last, Object: "o07", Prior: wire.Version{}, Client: wire.Instance{Kind: wire.KindClient, Nonce: 9}, Tid: 1}
	h.After = h.Version
	if st, ok := w.stores[2].Stat(testPG, "o07"); ok {
		h.Prior = st.Version
	}
	rec, err := wire.Append(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	p := w.osds[2].pgs[testPG]
	p.appendEntry(&entry{h: h, rec: rec, noMuts: true})
	p.submit(&Txn{Append: []LogRec{{h.Version, rec}}, Objs: []ObjTxn{{Name: "o07", Version: h.Version, Muts: []wire.ObjOp{{Kind: wire.ObjWrite, Data: []byte("tail")}}}}})
	w.away(2)
	for _, n := range []string{"o03", "o11", "new"} {
		w.put(n, "new")
	}
	if r := w.op("o20", wire.ObjOp{Kind: wire.ObjRemove}); r.Msg.Errno != 0 {
		t.Fatal(r.Msg.Errno)
	}
	s := w.watch()
	w.learning(3)
	w.run(20)
	slices.Sort(s.copied)
	if w.osds[0].pgs[testPG].pending == nil {
		t.Fatalf("osd.2 is not caught up: %+v", w.osds[2].Query(w.now))
	}
	if s.listings != 0 || !slices.Equal(s.copied, []string{"new", "o03", "o07", "o11", "o20"}) {
		t.Errorf("%d listings, copies of %v", s.listings, s.copied)
	}
	for n, want := range map[string]string{"o03": "new", "o07": "old", "o11": "new", "new": "new", "o12": "old", "o20": ""} {
		if got := w.at(2, n); got != want {
			t.Errorf("%s: %q, want %q", n, got, want)
		}
	}
	if w.osds[0].Stats().ByLog != 1 {
		t.Errorf("%+v", w.osds[0].Stats())
	}
	// Where the log does not reach back any more, or the copy was not finished, everything is compared.
	w.osds[2].pgs[testPG].learn.state = learnGoing
	w.learning(4)
	w.run(20)
	if s.listings == 0 || w.osds[0].Stats().ByLog != 1 {
		t.Errorf("an unfinished copy was filled by log: %d listings", s.listings)
	}
}

// What was written last is copied first: every further write to it would be lost on the learner.
func TestObjectsInUseAreCopiedFirst(t *testing.T) {
	l := learner{missing: map[string]wire.Version{}}
	for i := range 100 {
		l.missing[fmt.Sprintf("o%02d", i)] = wire.Version{Interval: 3, N: 5}
	}
	l.missing["o70"], l.missing["o31"], l.missing["zz"] = wire.Version{Interval: 3, N: 9}, wire.Version{Interval: 3, N: 12}, wire.Version{Interval: 4, N: 1}
	if got := l.first(5); !slices.Equal(got, []string{"zz", "o31", "o70", "o00", "o01"}) {
		t.Errorf("%v", got)
	}
	if got := l.first(1000); len(got) != 101 || !slices.IsSortedFunc(got[3:], func(a, b string) int {
		if a < b {
			return -1
		}
		return 1
	}) {
		t.Errorf("%v", got)
	}
}

// Recovery keeps to its share while clients have operations, and takes what it can get when
// they have none, or when they wait for it.
func TestRecoveryKeepsToItsShare(t *testing.T) {
	const objects, size, rate = 64, 64 << 10, 1 << 20
	fill := func(clients bool, minSize int) (ticks int) {
		w := newTrio(t)
		for i := range objects {
			w.op(fmt.Sprintf("o%02d", i), wire.ObjOp{Kind: wire.ObjWriteFull, Data: make([]byte, size)})
		}
		w.osds[0].cfg.RecoveryBytes = rate
		w.stores[2].Submit(&Txn{PG: testPG, RemovePG: true}, func(error) {})
		w.osds[2].pgs[testPG].learn.state = learnGoing
		m := testMap(9, 9, 0, 0, 1, 2)
		c := m.PGs[testPG]
		c.Learners, c.InSync = []clustermap.Member{c.InSync[2]}, c.InSync[:2]
		m.PGs[testPG] = c
		pool := m.Pools[1]
		pool.MinSize = minSize
		m.Pools[1] = pool
		asks := func() {
			if clients {
				w.tid++
				w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
					Msg: &wire.OSDOp{Epoch: 1, Oldest: w.tid, PG: testPG, Object: "o00", Ops: []wire.ObjOp{{Kind: wire.ObjStat}}}})
			}
			w.run(1)
		}
		w.run(60)
		asks() // what gathered while nobody asked is gone with the first tick
		for _, o := range w.osds {
			o.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		}
		for ticks = 0; w.osds[0].pgs[testPG].pending == nil; ticks++ {
			if ticks > 500 {
				t.Fatalf("never filled: %+v", w.osds[2].Query(w.now))
			}
			asks()
		}
		return ticks
	}
	// 64 objects of 80 KiB, fee included, at 1 MiB a second: 50 ticks of 100 ms.
	if n := fill(true, 1); n < 35 || n > 80 {
		t.Errorf("with clients: %d ticks", n)
	}
	if n := fill(false, 1); n > 15 {
		t.Errorf("without clients: %d ticks", n)
	}
	if n := fill(true, 3); n > 15 {
		t.Errorf("with clients whose writes wait for it: %d ticks", n)
	}
}

// An OSD that has left a PG gives its space back when there are as many members as are wanted,
// all of them up; one that comes back before that is filled by log.
func TestWhatAnOSDHasLeftIsRemoved(t *testing.T) {
	w := newTrio(t)
	for i := range 150 {
		w.put(fmt.Sprintf("o%03d", i), "x")
	}
	leave := func(interval uint64, size int) {
		m := testMap(wire.Epoch(interval), interval, 0, 0, 1, 2)
		c := m.PGs[testPG]
		c.InSync = c.InSync[:2]
		m.PGs[testPG] = c
		m.Pools[1] = clustermap.Pool{ID: 1, Size: size, MinSize: 1, PGNum: 1}
		for _, o := range w.osds {
			o.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		}
	}
	leave(2, 3)
	w.run(700)
	if n := w.stores[2].Count(testPG); n != 150 {
		t.Fatalf("%d objects are left while a member is wanted", n)
	}
	leave(3, 2)
	w.run(590)
	if n := w.stores[2].Count(testPG); n != 150 {
		t.Fatalf("%d objects are left before a minute has passed", n)
	}
	w.run(30)
	if n := w.stores[2].Count(testPG); n != 0 || len(w.stores[2].PGs()) != 0 {
		t.Fatalf("%d objects are left, pgs %v", n, w.stores[2].PGs())
	}
	w.learning(4)
	w.run(30)
	if w.osds[0].pgs[testPG].pending == nil || w.at(2, "o149") != "x" {
		t.Fatalf("not filled again: %+v", w.osds[2].Query(w.now))
	}
}

// Copies run ahead of the log: the primary's object may contain an entry that has not reached the
// learner, and that a successor may never have had. Then the learner is not filled yet, and under
// that successor it is not one whose objects are where its log ends.
func TestALearnerAheadOfItsLogIsNotFilled(t *testing.T) {
	for _, f := range []Fault{0, FaultFilledAhead} {
		w := newTrio(t)
		w.osds[2].cfg.Faults = f
		w.put("o", "old")
		w.lose = func(to wire.OSDID, m wire.Message) bool { _, repl := m.(*wire.Repl); return repl }
		w.learning(2)
		w.osds[2].pgs[testPG].learn.state = learnGoing // it was away, and has nothing that counts
		w.osds[2].pgs[testPG].learn.begin(w.osds[2].pgs[testPG])
		w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: 50, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
			Msg: &wire.OSDOp{Epoch: 1, Oldest: 50, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjAppend, DataLen: 1, Data: []byte("!")}}}, Data: []byte("!")})
		w.run(20)
		if got := w.at(2, "o"); got != "old!" {
			t.Fatalf("osd.2 has %q: this test is of a copy that is ahead", got)
		}
		// osd.0 is gone with the entry that nobody else had.
		w.lose = func(to wire.OSDID, m wire.Message) bool { return to == 0 }
		m := testMap(3, 3, 1, 1, 2)
		c := m.PGs[testPG]
		c.Learners, c.InSync = c.InSync[1:], c.InSync[:1]
		m.PGs[testPG] = c
		for _, o := range w.osds[1:] {
			o.Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		}
		w.run(60)
		if got := w.at(2, "o"); (got == "old") != (f == 0) {
			t.Errorf("fault %d: osd.2 has %q; %+v", f, got, w.osds[2].Query(w.now))
		}
		if p := w.osds[1].pgs[testPG]; f == 0 && p.pending == nil {
			t.Errorf("osd.2 is not about to be added: %+v", w.osds[2].Query(w.now))
		}
	}
}
