package objecter

import (
	"testing"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// members is a map in which both OSDs are in sync and osd.0 is the primary.
func members(epoch wire.Epoch) *clustermap.OSDMap {
	m := mapOf(epoch, 1, 0)
	m.PGs[wire.PGID{Pool: 1}] = clustermap.PGConfig{Interval: 1, Primary: 0, InSync: []clustermap.Member{{ID: 0}, {ID: 1}}}
	return m
}

// spreader is an objecter that spreads reads, with a line to both OSDs.
func spreader(t *testing.T) (*Objecter, *fakeMaps, [2]*fakeOSD) {
	base, maps, osds := setup(t)
	base.Close()
	maps.fns = nil
	maps.m = members(1)
	o := New(Config{Net: base.cfg.Net, Maps: maps, Self: msgr.Peer{Instance: wire.Instance{Kind: wire.KindClient, Nonce: 6}}, Log: zerolog.Nop(), SpreadReads: 4096})
	t.Cleanup(o.Close)
	// The first large reads find no line to osd.1, begin to make one, and go to the primary.
	for connected := false; !connected; {
		ch := read(o, "warm", pieceOf(o, "warm", 1), 4096)
		select {
		case g := <-osds[0].got:
			g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
		case g := <-osds[1].got:
			g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
			connected = true
		}
		<-ch
	}
	return o, maps, osds
}

func read(o *Objecter, name string, off, n uint64) chan result {
	ch := make(chan result, 1)
	o.Submit(wire.ObjectID{Pool: 1, Name: name}, []wire.ObjOp{{Kind: wire.ObjRead, Off: off, Len: n}}, Options{}, func(r Result, err error) { ch <- result{r, err} })
	return ch
}

// pieceOf is an offset in the object whose turn is osd's.
func pieceOf(o *Objecter, name string, osd wire.OSDID) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	for off := uint64(0); ; off += spreadPiece {
		if turn(name, off, 2) == int(osd) {
			return off
		}
	}
}

// The pieces of an object go to all members in turn, small reads and changes to the primary.
func TestLargeReadsGoToTheMembersInTurn(t *testing.T) {
	o, _, osds := spreader(t)
	for i := range uint64(6) {
		ch := read(o, "x", i*spreadPiece+123, 8192)
		g := <-osds[turn("x", i*spreadPiece, 2)].got
		if any := g.op.Flags&wire.OSDAnyMember != 0; any != (turn("x", i*spreadPiece, 2) == 1) {
			t.Errorf("piece %d: flags %d", i, g.op.Flags)
		}
		g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
		if r := <-ch; r.err != nil {
			t.Fatal(r.err)
		}
	}
	at := pieceOf(o, "x", 1)
	for _, ch := range []chan result{read(o, "x", at, 100), submit(o, "x")} {
		(<-osds[0].got).answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
		<-ch
	}
}

// A member that refuses, is silent, or hangs up leaves the read to the primary; so does an own
// change of the object that is under way, for the read comes after it.
func TestReadsThatAMemberLeavesGoToThePrimary(t *testing.T) {
	for _, c := range []struct {
		name string
		then func(g gotOp)
	}{
		{"refused", func(g gotOp) { g.answer(&wire.OSDReply{Status: wire.OSDWrong, Epoch: 1}) }},
		{"silent", func(gotOp) {}},
		{"hung up", func(g gotOp) { g.c.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _, osds := spreader(t)
			ch := read(o, "x", pieceOf(o, "x", 1), 8192)
			c.then(<-osds[1].got)
			g := <-osds[0].got
			if g.op.Flags&wire.OSDAnyMember != 0 {
				t.Errorf("the primary was asked with flags %d", g.op.Flags)
			}
			g.answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
			if r := <-ch; r.err != nil {
				t.Fatal(r.err)
			}
		})
	}
	o, _, osds := spreader(t)
	w, r := submit(o, "x"), read(o, "x", pieceOf(o, "x", 1), 8192)
	for _, ch := range []chan result{w, r} {
		(<-osds[0].got).answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
		<-ch
	}
	ch := read(o, "x", pieceOf(o, "x", 1), 8192)
	(<-osds[1].got).answer(&wire.OSDReply{Ops: make([]wire.ObjResult, 1)})
	<-ch
}
