package objecter

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// fakeMaps hands out maps that the test makes.
type fakeMaps struct {
	mu  sync.Mutex
	m   *clustermap.OSDMap
	fns []func(*clustermap.OSDMap, *clustermap.FSMap)
}

func (f *fakeMaps) OSDMap() *clustermap.OSDMap { return f.m }
func (f *fakeMaps) OnMaps(fn func(*clustermap.OSDMap, *clustermap.FSMap)) {
	f.fns = append(f.fns, fn)
	fn(f.m, nil)
}
func (f *fakeMaps) WaitOSDEpoch(context.Context, wire.Epoch) (*clustermap.OSDMap, error) {
	return f.m, nil
}
func (f *fakeMaps) set(m *clustermap.OSDMap) {
	f.m = m
	for _, fn := range f.fns {
		fn(m, nil)
	}
}

// fakeOSD records ops and answers as told.
type fakeOSD struct {
	inst wire.Instance
	got  chan gotOp
}

type gotOp struct {
	c   *msgr.Conn
	tid uint64
	op  *wire.OSDOp
}

func (f *fakeOSD) Frames(c *msgr.Conn, batch []msgr.Frame) {
	for i := range batch {
		f.got <- gotOp{c, batch[i].Tid, batch[i].Msg.(*wire.OSDOp)}
	}
}
func (f *fakeOSD) Closed(*msgr.Conn, error) {}

func (g gotOp) answer(r *wire.OSDReply) { _ = g.c.SendNow(g.tid, r) }

func mapOf(epoch wire.Epoch, interval uint64, primary wire.OSDID) *clustermap.OSDMap {
	m := &clustermap.OSDMap{Epoch: epoch, Pools: map[uint32]clustermap.Pool{1: {ID: 1, Size: 2, MinSize: 1, PGNum: 1}},
		OSDs: map[wire.OSDID]clustermap.OSD{}, PGs: map[wire.PGID]clustermap.PGConfig{{Pool: 1}: {Interval: interval, Primary: primary}}}
	for i := range 2 {
		m.OSDs[wire.OSDID(i)] = clustermap.OSD{ID: wire.OSDID(i), Up: true, Addr: "mem:" + string(rune('a'+i)), Instance: wire.Instance{Kind: wire.KindOSD, Num: uint32(i), Nonce: 9}}
	}
	return m
}

func setup(t *testing.T) (*Objecter, *fakeMaps, [2]*fakeOSD) {
	net := msgr.NewMemory()
	maps := &fakeMaps{m: mapOf(1, 1, 0)}
	var osds [2]*fakeOSD
	for i := range osds {
		f := &fakeOSD{inst: maps.m.OSDs[wire.OSDID(i)].Instance, got: make(chan gotOp, 100)}
		osds[i] = f
		l, err := net.Listen("mem:" + string(rune('a'+i)))
		if err != nil {
			t.Fatal(err)
		}
		s := msgr.Serve(l, msgr.Peer{Instance: f.inst}, func(*msgr.Conn) msgr.Handler { return f }, zerolog.Nop())
		t.Cleanup(func() { s.Close() })
	}
	o := New(Config{Net: net, Maps: maps, Self: msgr.Peer{Instance: wire.Instance{Kind: wire.KindClient, Nonce: 5}}, Log: zerolog.Nop()})
	t.Cleanup(o.Close)
	return o, maps, osds
}

type result struct {
	r   Result
	err error
}

func submit(o *Objecter, name string) chan result {
	ch := make(chan result, 1)
	o.Submit(wire.ObjectID{Pool: 1, Name: name}, []wire.ObjOp{{Kind: wire.ObjWrite, Data: []byte(name)}}, Options{}, func(r Result, err error) { ch <- result{r, err} })
	return ch
}

// A line whose connection broke before the one who dialed it had taken it is given up: nobody is told of
// its end any more.
func TestALineThatBreaksAtOnceIsDialedAgain(t *testing.T) {
	o, maps, osds := setup(t)
	ch := submit(o, "before")
	g := <-osds[0].got
	g.answer(&wire.OSDReply{})
	<-ch
	o.mu.Lock()
	c := o.lines[0].conn
	o.mu.Unlock()
	c.Close()
	for there := true; there; runtime.Gosched() { // until Closed has been called
		o.mu.Lock()
		there = o.lines[0] != nil
		o.mu.Unlock()
	}
	d := maps.m.OSDs[0]
	o.mu.Lock()
	o.lines[0] = &line{o: o, id: 0, inst: d.Instance, addr: d.Addr, conn: c} // as dial leaves it when it gets the lock behind Closed
	o.mu.Unlock()
	ch = submit(o, "behind")
	select {
	case g := <-osds[0].got:
		g.answer(&wire.OSDReply{})
	case <-time.After(20 * time.Second):
		t.Fatal("the operation waits for ever")
	}
	if r := <-ch; r.err != nil {
		t.Error(r.err)
	}
}

// Ops keep their tids and their order through a lost connection and a new primary.
func TestOpenOpsGoToTheNewPrimaryInTidOrder(t *testing.T) {
	o, maps, osds := setup(t)
	var chs []chan result
	for range 5 {
		chs = append(chs, submit(o, "x"))
	}
	first := <-osds[0].got
	if first.tid != 1 || first.op.Oldest != 1 || first.op.Epoch != 1 {
		t.Fatalf("first op: tid %d, %+v", first.tid, first.op)
	}
	for want := uint64(2); want <= 5; want++ {
		if g := <-osds[0].got; g.tid != want {
			t.Fatalf("tid %d, want %d", g.tid, want)
		}
	}
	first.c.Close() // all five again, over a new connection
	for want := uint64(1); want <= 5; want++ {
		g := <-osds[0].got
		if g.tid != want || g.op.Flags&wire.OSDResent == 0 {
			t.Fatalf("after the break: tid %d flags %d, want %d resent", g.tid, g.op.Flags, want)
		}
		if want == 1 {
			g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1), Version: wire.Version{Interval: 1, N: 1}})
		}
	}
	if r := <-chs[0]; r.err != nil || r.r.Version.N != 1 {
		t.Fatalf("answer: %+v", r)
	}
	maps.set(mapOf(2, 2, 1))
	for want := uint64(2); want <= 5; want++ {
		g := <-osds[1].got
		if g.tid != want || g.op.Oldest != 2 || g.op.Epoch != 2 {
			t.Fatalf("new primary: tid %d %+v, want %d", g.tid, g.op, want)
		}
		g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
	}
	for _, c := range chs[1:] {
		if r := <-c; r.err != nil {
			t.Fatal(r.err)
		}
	}
}

// A split sends an op to the PG that has its object now, under the tid it had.
func TestASplitMovesOpenOps(t *testing.T) {
	o, maps, osds := setup(t)
	ops := map[string]chan result{}
	for i := range 6 {
		n := fmt.Sprint("o", i)
		ops[n] = submit(o, n)
	}
	tids := map[string]uint64{}
	for range ops {
		g := <-osds[0].got
		tids[g.op.Object] = g.tid
	}
	m := mapOf(2, 2, 0)
	p := m.Pools[1]
	p.PGNum = 2
	m.Pools[1] = p
	m.PGs[wire.PGID{Pool: 1, Num: 1}] = clustermap.PGConfig{Interval: 2, Primary: 1}
	maps.set(m)
	for range ops {
		var g gotOp
		num := uint32(0)
		select {
		case g = <-osds[0].got:
		case g = <-osds[1].got:
			num = 1
		}
		if g.tid != tids[g.op.Object] || g.op.PG.Num != num || clustermap.PGNumOf(g.op.Object, 2) != num || g.op.Flags&wire.OSDResent == 0 {
			t.Errorf("osd.%d got %s as tid %d (was %d) for pg %v", num, g.op.Object, g.tid, tids[g.op.Object], g.op.PG)
		}
		g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
	}
	for n, ch := range ops {
		if r := <-ch; r.err != nil {
			t.Errorf("%s: %v", n, r.err)
		}
	}
}

// WRONG is no answer: the op goes again. ENOSPC ends it, BLOCKLISTED ends everything.
func TestOnlyAnswersEndAnOp(t *testing.T) {
	o, _, osds := setup(t)
	ch := submit(o, "x")
	(<-osds[0].got).answer(&wire.OSDReply{Status: wire.OSDWrong, Epoch: 1})
	g := <-osds[0].got
	if g.tid != 1 {
		t.Fatalf("tid %d after WRONG", g.tid)
	}
	g.answer(&wire.OSDReply{Status: wire.OSDFull, Errno: 28})
	if r := <-ch; r.err != nil || r.r.Errno != 28 {
		t.Fatalf("full: %+v", r)
	}
	a, b := submit(o, "x"), submit(o, "y")
	<-osds[0].got
	(<-osds[0].got).answer(&wire.OSDReply{Status: wire.OSDBlocklisted})
	for _, c := range []chan result{a, b, submit(o, "z")} {
		if r := <-c; !errors.Is(r.err, ErrBlocklisted) {
			t.Fatalf("fenced: %+v", r)
		}
	}
}
