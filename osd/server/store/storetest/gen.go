package storetest

import (
	"fmt"
	"math/rand/v2"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// Gen makes random transactions of one PG.
type Gen struct {
	Rng   *rand.Rand
	PG    wire.PGID
	Big   int // bytes of the largest write
	Names int // how many objects there may be
	n     uint64
	log   []wire.Version
}

// Next returns the next transaction. Its meta value "n" is its number, from 1.
func (g *Gen) Next() *osd.Txn {
	r := g.Rng
	g.n++
	t := &osd.Txn{PG: g.PG}
	v := wire.Version{Interval: 1, N: g.n}
	if r.IntN(60) == 0 {
		g.log = nil
		t.RemovePG = true
		return t
	}
	switch r.IntN(12) {
	case 0:
		if len(g.log) > 0 {
			cut := g.log[r.IntN(len(g.log))]
			t.Cut = &cut
			g.trimTo(func(w wire.Version) bool { return !cut.Less(w) })
		}
	case 1:
		t.ResetLog, t.Trim = true, wire.Version{Interval: 1, N: g.n - 1}
		g.log = nil
	}
	for range r.IntN(3) {
		t.Append = append(t.Append, osd.LogRec{Version: v, Rec: g.bytes(r.IntN(60))})
		g.log = append(g.log, v)
		g.n++ // versions rise within a transaction too
		v.N = g.n
	}
	if !t.ResetLog && len(g.log) > 4 && r.IntN(3) == 0 {
		t.Trim = g.log[r.IntN(3)]
		g.trimTo(func(w wire.Version) bool { return t.Trim.Less(w) })
	}
	if r.IntN(3) == 0 {
		t.Committed = v
	}
	for k := range r.IntN(3) {
		x := osd.ObjTxn{Name: fmt.Sprintf("o%02d", (r.IntN(g.Names)*2+k)%g.Names), Version: v}
		switch r.IntN(8) {
		case 0:
			x.Remove = true
		case 1:
			x.Replace = true
		}
		if !x.Remove {
			for range 1 + r.IntN(3) {
				x.Muts = append(x.Muts, g.mut())
			}
		}
		t.Objs = append(t.Objs, x)
	}
	if r.IntN(20) == 0 {
		t.ClearMeta = "d"
	}
	for range r.IntN(3) {
		kv := wire.KV{Key: fmt.Sprintf("d%d", r.IntN(8))}
		if r.IntN(3) > 0 {
			kv.Val = g.bytes(r.IntN(20))
		}
		t.Meta = append(t.Meta, kv)
	}
	return t
}

func (g *Gen) trimTo(ok func(wire.Version) bool) {
	var log []wire.Version
	for _, v := range g.log {
		if ok(v) {
			log = append(log, v)
		}
	}
	g.log = log
}

func (g *Gen) mut() wire.ObjOp {
	r := g.Rng
	off := func() uint64 {
		o := r.IntN(g.Big)
		if r.IntN(2) == 0 {
			o &^= 4095
		}
		return uint64(o)
	}
	switch r.IntN(10) {
	case 0, 1, 2:
		return wire.ObjOp{Kind: wire.ObjWrite, Off: off(), Data: g.bytes(1 + r.IntN(6000))}
	case 3:
		return wire.ObjOp{Kind: wire.ObjWrite, Off: off(), Data: g.bytes(1 + r.IntN(g.Big))}
	case 4:
		return wire.ObjOp{Kind: wire.ObjTruncate, Off: off()}
	case 5:
		return wire.ObjOp{Kind: wire.ObjZero, Off: off(), Len: off()}
	case 6:
		if r.IntN(3) == 0 {
			return wire.ObjOp{Kind: wire.ObjRmXattr, Key: fmt.Sprint("x", r.IntN(4))}
		}
		return wire.ObjOp{Kind: wire.ObjSetXattr, Key: fmt.Sprint("x", r.IntN(4)), Data: g.bytes(r.IntN(100))}
	case 7, 8:
		var kvs []wire.KV
		for range 1 + r.IntN(5) {
			kvs = append(kvs, wire.KV{Key: fmt.Sprintf("k%02d", r.IntN(30)), Val: g.bytes(r.IntN(50))})
		}
		return wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: kvs}
	}
	if r.IntN(6) == 0 {
		return wire.ObjOp{Kind: wire.ObjOmapClear}
	}
	var keys []string
	for range 1 + r.IntN(5) {
		keys = append(keys, fmt.Sprintf("k%02d", r.IntN(30)))
	}
	return wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: keys}
}

func (g *Gen) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Rng.Uint32()) | 1 // never zero: data and hole differ
	}
	return b
}

// Continue makes the generator go on where a store is: its versions are above base.
func (g *Gen) Continue(st osd.LogState, base uint64) {
	g.n, g.log = base, nil
	for _, r := range st.Recs {
		g.log = append(g.log, r.Version)
	}
}
