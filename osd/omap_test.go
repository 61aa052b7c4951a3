package osd

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

func (w *trio) pairs(name string, ops ...wire.ObjOp) {
	w.t.Helper()
	if r := w.op(name, ops...); r.Msg.Errno != 0 {
		w.t.Fatalf("%s: errno %d", name, r.Msg.Errno)
	}
}

// dir makes an object with the pairs a=1, b=2, c=3.
func (w *trio) dir(name string) {
	w.pairs(name, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "a", Val: []byte("1")}, {Key: "b", Val: []byte("2")}, {Key: "c", Val: []byte("3")}}})
}

// list reads all pairs at the primary, as a client does.
func (w *trio) list(name string) (string, uint32) {
	r := w.op(name, wire.ObjOp{Kind: wire.ObjOmapRange, Max: 100})
	if r.Msg.Errno != 0 {
		return "", r.Msg.Errno
	}
	return show(r.Msg.Ops[0].Pairs, nil), 0
}

func show(kvs []wire.KV, err error) (s string) {
	for _, kv := range kvs {
		s += kv.Key + "=" + string(kv.Val) + " "
	}
	if err != nil {
		s += err.Error()
	}
	return s
}

const abc = "a=1 b=2 c=3 "

func (w *trio) stored(i int, name string) string {
	kvs, _, err := w.stores[i].OmapRange(testPG, name, "", 100)
	return show(kvs, err)
}

// A pair that cannot be read is healed from a good replica: at the primary by the operation that
// meets it, a read or a write that reads, elsewhere by a deep scrub.
func TestAnUnreadablePairIsHealed(t *testing.T) {
	w := newTrio(t)
	w.dir("d")
	w.stores[0].DamageOmap(testPG, "d", "b")
	if got, errno := w.list("d"); got != abc || errno != 0 {
		t.Fatalf("%q, errno %d", got, errno)
	}
	w.stores[0].DamageOmap(testPG, "d", "b")
	w.pairs("d", wire.ObjOp{Kind: wire.ObjOmapGet, Keys: []string{"b"}}, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "c", Val: []byte("3")}}})
	if s := w.osds[0].Stats(); s.Healed != 2 {
		t.Errorf("%+v", s)
	}
	w.stores[1].DamageOmap(testPG, "d", "a")
	w.stores[2].DamageOmap(testPG, "d", "c")
	if s := w.scrub(true, false); s.Bad != 2 || s.Mended != 2 {
		t.Fatalf("%+v", s)
	}
	w.run(3)
	for i := range 3 {
		if got := w.stored(i, "d"); got != abc {
			t.Errorf("osd.%d has %q", i, got)
		}
	}
}

// A pair that no replica can read is an error for who needs it, by name; the others are served, and
// to set or remove it makes the object whole.
func TestAPairThatNobodyCanRead(t *testing.T) {
	w := newTrio(t)
	w.dir("d")
	w.dir("e")
	for i := range 3 {
		w.stores[i].DamageOmap(testPG, "d", "b")
	}
	// A scrub finds it before anybody needs it.
	if s := w.scrub(true, false); s.Unsure != 1 || s.Bad != 0 {
		t.Fatalf("%+v", s)
	}
	w.run(20)
	if q := w.osds[0].Query(w.now)[0]; q.Broken != 1 || fmt.Sprint(q.BrokenNames) != "[d]" {
		t.Fatalf("%+v", q)
	}
	if got, errno := w.list("d"); errno != eIO {
		t.Fatalf("%q, errno %d", got, errno)
	}
	if r := w.op("d", wire.ObjOp{Kind: wire.ObjOmapGet, Keys: []string{"a", "c"}}); r.Msg.Errno != 0 || show(r.Msg.Ops[0].Pairs, nil) != "a=1 c=3 " {
		t.Fatalf("the others: %+v", r.Msg)
	}
	if got, errno := w.list("e"); got != abc || errno != 0 {
		t.Fatalf("another object: %q, errno %d", got, errno)
	}
	w.pairs("d", wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "b", Val: []byte("2")}}})
	if got, errno := w.list("d"); got != abc || errno != 0 {
		t.Fatalf("written anew: %q, errno %d", got, errno)
	}
	w.run(110) // the broken one is asked for again now and then
	if q := w.osds[0].Query(w.now)[0]; q.Broken != 0 {
		t.Fatalf("%+v", q)
	}
}

// A pair that nobody can read does not keep a PG from being filled. The newcomer's copy says which
// it is: to leave it out would make an answer of a loss.
func TestLearnersAndUnreadablePairs(t *testing.T) {
	for _, f := range []Fault{0, FaultOmapForgotten} {
		w := newTrio(t)
		w.dir("d")
		for i := range 3 {
			w.osds[i].cfg.Faults = f
			w.stores[i].DamageOmap(testPG, "d", "b")
		}
		w.stores[2].Submit(&Txn{PG: testPG, Objs: []ObjTxn{{Name: "d", Remove: true}}}, func(error) {})
		w.learning(2)
		w.osds[2].pgs[testPG].learn.state = learnGoing // as if it had been away while the object was made
		w.osds[2].pgs[testPG].learn.begin(w.osds[2].pgs[testPG])
		w.run(60)
		if w.osds[0].pgs[testPG].pending == nil {
			t.Fatalf("one broken object keeps osd.2 out: %+v", w.osds[2].Query(w.now))
		}
		got := w.stored(2, "d")
		if f != 0 {
			if got != "a=1 c=3 " {
				t.Errorf("the seeded fault has no effect: %q", got)
			}
			continue
		}
		if got != `a=1 omap key "b": damaged for a test` {
			t.Errorf("osd.2 has %q", got)
		}
		if kvs, err := w.stores[2].OmapGet(testPG, "d", []string{"a", "c"}); show(kvs, err) != "a=1 c=3 " {
			t.Errorf("the others: %v, %v", kvs, err)
		}
	}
}
