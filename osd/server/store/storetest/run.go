package storetest

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// Opener returns an empty store. reopen, when not nil, closes it and opens it again.
type Opener func(t *testing.T) (s osd.Store, reopen func() osd.Store)

// Do submits one transaction and waits until it is durable.
func Do(s osd.Store, t *osd.Txn) error {
	c := make(chan error, 1)
	s.Submit(t, func(err error) { c <- err })
	return <-c
}

// Run tests one implementation.
func Run(t *testing.T, open Opener) {
	t.Run("ReadsSeeWhatWasSubmitted", func(t *testing.T) { readsSee(t, open) })
	t.Run("AbsentThingsAreAbsent", func(t *testing.T) { absent(t, open) })
	t.Run("AnEmptyValueIsAValue", func(t *testing.T) { emptyValues(t, open) })
	t.Run("ReplaceStartsFromNothing", func(t *testing.T) { replace(t, open) })
	t.Run("DoneInSubmitOrder", func(t *testing.T) { order(t, open) })
	t.Run("AsTheModel", func(t *testing.T) { random(t, open) })
	t.Run("AReadSeesWhatWasThereWhenItBegan", func(t *testing.T) { began(t, open) })
	t.Run("SplitMovesObjectsAndCopiesTheRest", func(t *testing.T) { split(t, open) })
}

var pg1 = wire.PGID{Pool: 1, Num: 7}

func ver(n uint64) wire.Version { return wire.Version{Interval: 1, N: n} }

func write(off uint64, data string) wire.ObjOp {
	return wire.ObjOp{Kind: wire.ObjWrite, Off: off, Data: []byte(data)}
}

func obj(name string, v uint64, muts ...wire.ObjOp) *osd.Txn {
	return &osd.Txn{PG: pg1, Objs: []osd.ObjTxn{{Name: name, Version: ver(v), Muts: muts}}}
}

func readsSee(t *testing.T, open Opener) {
	s, _ := open(t)
	defer s.Close()
	done := make(chan error, 2)
	s.Submit(obj("a", 1, write(0, "hello")), func(err error) { done <- err })
	s.Submit(obj("a", 2, write(5, " world"), wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "k", Val: []byte("v")}}}), func(err error) { done <- err })
	b := make([]byte, 20)
	if n, err := s.Read(pg1, "a", 0, b); err != nil || string(b[:n]) != "hello world" {
		t.Errorf("read %q %v before it was durable", b[:n], err)
	}
	if kvs, more, err := s.OmapRange(pg1, "a", "", 10); err != nil || more || len(kvs) != 1 || kvs[0].Key != "k" {
		t.Errorf("omap %v %v %v", kvs, more, err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// began begins reads of objects that are overwritten, removed or made anew before they are
// fetched.
func began(t *testing.T, open Opener) {
	s, reopen := open(t)
	const size = 3 * 64 << 10
	was := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, size+i) }
	for i := range 4 {
		if err := Do(s, obj(fmt.Sprint("o", i), uint64(i+1), wire.ObjOp{Kind: wire.ObjWrite, Data: was(i)})); err != nil {
			t.Fatal(err)
		}
	}
	if reopen != nil {
		s = reopen() // so that it is all on the disk
	}
	defer s.Close()
	room := func(n int) []byte { return make([]byte, n) }
	type begun struct {
		want []byte
		b    []byte
		l    osd.Later
	}
	var all []begun
	start := func(i int, off, n uint64) {
		b, l, err := s.Start(pg1, fmt.Sprint("o", i), off, n, room)
		if err != nil {
			t.Fatal(err)
		}
		end := min(off+n, uint64(size+i))
		if l != nil && l.Len() != int(end-off) {
			t.Errorf("o%d at %d: %d bytes later, not %d", i, off, l.Len(), end-off)
		}
		all = append(all, begun{was(i)[off:end], b, l})
	}
	for i := range 4 {
		start(i, 0, 1<<20)
		start(i, 4096, 2*64<<10)
		start(i, 77, 100_000)
		start(i, uint64(size+i-1), 10)
	}
	_, l, err := s.Start(pg1, "o0", 0, 1<<20, room)
	if err != nil {
		t.Fatal(err)
	}
	if l != nil {
		l.Drop()
	}
	for _, tx := range []*osd.Txn{obj("o0", 11, wire.ObjOp{Kind: wire.ObjWrite, Data: bytes.Repeat([]byte{'x'}, size)}),
		{PG: pg1, Objs: []osd.ObjTxn{{Name: "o1", Version: ver(12), Remove: true}}},
		{PG: pg1, Objs: []osd.ObjTxn{{Name: "o2", Version: ver(13), Replace: true, Muts: []wire.ObjOp{write(0, "new")}}}},
		obj("o3", 14, write(5, "small"), wire.ObjOp{Kind: wire.ObjTruncate, Off: 99})} {
		if err := Do(s, tx); err != nil {
			t.Fatal(err)
		}
	}
	for i, x := range all {
		if x.l != nil {
			var crc uint32
			if x.b, crc, err = x.l.Fetch(room); err != nil || crc != crc32.Checksum(x.b, crc32.MakeTable(crc32.Castagnoli)) {
				t.Errorf("read %d: %v, or the sum is wrong", i, err)
			}
		}
		if !bytes.Equal(x.b, x.want) {
			t.Errorf("read %d has other bytes than when it began", i)
		}
	}
	for _, name := range []string{"absent", "o1"} {
		if b, l, err := s.Start(pg1, name, 0, 10, room); len(b) > 0 || l != nil || err != nil {
			t.Errorf("begun read of %s, which is not there: %q %v %v", name, b, l, err)
		}
	}
}

func absent(t *testing.T, open Opener) {
	s, _ := open(t)
	defer s.Close()
	if n, err := s.Read(pg1, "a", 0, make([]byte, 9)); n != 0 || err != nil {
		t.Errorf("read of an absent object: %d %v", n, err)
	}
	if _, ok := s.Stat(pg1, "a"); ok {
		t.Error("stat finds an absent object")
	}
	if ids := s.PGs(); len(ids) != 0 {
		t.Errorf("an empty store has %v", ids)
	}
	if st := s.Log(pg1); st.Recs != nil || st.Tail != (wire.Version{}) {
		t.Errorf("log of an unseen pg: %v", st)
	}
	if err := Do(s, &osd.Txn{PG: pg1, Objs: []osd.ObjTxn{{Name: "a", Remove: true, Version: ver(1)}}}); err != nil {
		t.Error(err)
	}
	if ids := s.PGs(); len(ids) != 0 {
		t.Errorf("removing nothing made %v", ids)
	}
	if err := Do(s, obj("a", 2, wire.ObjOp{Kind: wire.ObjCreate})); err != nil {
		t.Error(err)
	}
	if ids := s.PGs(); len(ids) != 1 || ids[0] != pg1 {
		t.Errorf("pgs %v", ids)
	}
	if err := Do(s, &osd.Txn{PG: pg1, RemovePG: true}); err != nil {
		t.Error(err)
	}
	if ids := s.PGs(); len(ids) != 0 {
		t.Errorf("a removed pg is still there: %v", ids)
	}
}

func emptyValues(t *testing.T, open Opener) {
	s, reopen := open(t)
	tx := obj("a", 1, wire.ObjOp{Kind: wire.ObjSetXattr, Key: "x", Data: []byte{}},
		wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "k", Val: []byte{}}}})
	tx.Meta = []wire.KV{{Key: "m", Val: []byte{}}}
	if err := Do(s, tx); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if v, ok := s.Xattr(pg1, "a", "x"); !ok || len(v) != 0 {
			t.Errorf("xattr %q %v", v, ok)
		}
		if kvs, err := s.OmapGet(pg1, "a", []string{"k"}); err != nil || len(kvs) != 1 {
			t.Errorf("omap %v %v", kvs, err)
		}
		if kvs := s.Meta(pg1, ""); len(kvs) != 1 || kvs[0].Key != "m" {
			t.Errorf("meta %v", kvs)
		}
	}
	check()
	if reopen != nil {
		s = reopen()
		check()
	}
	s.Close()
}

func replace(t *testing.T, open Opener) {
	s, _ := open(t)
	defer s.Close()
	if err := Do(s, obj("a", 1, write(0, "long content"), wire.ObjOp{Kind: wire.ObjSetXattr, Key: "x", Data: []byte("1")},
		wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "k", Val: []byte("v")}}})); err != nil {
		t.Fatal(err)
	}
	tx := obj("a", 2, write(2, "zz"))
	tx.Objs[0].Replace = true
	if err := Do(s, tx); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 20)
	n, err := s.Read(pg1, "a", 0, b)
	kvs, _, _ := s.OmapRange(pg1, "a", "", 10)
	if err != nil || !bytes.Equal(b[:n], []byte("\x00\x00zz")) || len(kvs) != 0 || len(s.Xattrs(pg1, "a")) != 0 {
		t.Errorf("after replace: %q, omap %v, xattrs %v, %v", b[:n], kvs, s.Xattrs(pg1, "a"), err)
	}
}

func order(t *testing.T, open Opener) {
	s, _ := open(t)
	defer s.Close()
	var mu sync.Mutex
	var got []int
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Add(1)
		s.Submit(obj("a", uint64(i+1), write(uint64(i), "x")), func(err error) {
			mu.Lock()
			got = append(got, i)
			mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	for i, k := range got {
		if i != k {
			t.Fatalf("done %d came as number %d", k, i)
		}
	}
}

func random(t *testing.T, open Opener) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			s, reopen := open(t)
			rng := rand.New(rand.NewPCG(seed, 2))
			ids := []wire.PGID{{Pool: 1, Num: 0}, {Pool: 1, Num: 1}, {Pool: 2, Num: 0}}
			models := map[wire.PGID]*Model{}
			gens := map[wire.PGID]*Gen{}
			for _, id := range ids {
				models[id], gens[id] = NewModel(), &Gen{Rng: rng, PG: id, Big: 100_000, Names: 8}
			}
			var wg sync.WaitGroup
			for i := range 400 {
				id := ids[rng.IntN(len(ids))]
				tx := gens[id].Next()
				submit(t, s, tx, &wg)
				models[id].Apply(tx)
				if i%40 == 39 {
					if rng.IntN(2) == 0 {
						wg.Wait()
					}
					if reopen != nil && rng.IntN(3) == 0 {
						wg.Wait()
						s = reopen()
					}
					for _, id := range ids {
						if err := models[id].Diff(s, id); err != nil {
							t.Fatalf("after %d transactions: %v", i+1, err)
						}
					}
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			wg.Wait()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// SplitOf divides pg in four by the last digit of an object's name.
func SplitOf(pg wire.PGID) *osd.Split {
	d := &osd.Split{PG: pg, Meta: []wire.KV{{Key: "parts", Val: []byte{4}}}}
	for i := range uint32(3) {
		d.Into = append(d.Into, wire.PGID{Pool: pg.Pool, Num: pg.Num + 8*(i+1)})
	}
	d.Of = func(name string) wire.PGID {
		return wire.PGID{Pool: pg.Pool, Num: pg.Num + 8*uint32(name[len(name)-1]%4)}
	}
	return d
}

// split divides a PG in the middle of its life, beside another one, and goes on in all parts.
func split(t *testing.T, open Opener) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			s, reopen := open(t)
			rng := rand.New(rand.NewPCG(seed, 3))
			ids := []wire.PGID{{Pool: 1, Num: 2}, {Pool: 1, Num: 3}}
			ms, gens := map[wire.PGID]*Model{}, map[wire.PGID]*Gen{}
			for _, id := range ids {
				ms[id], gens[id] = NewModel(), &Gen{Rng: rng, PG: id, Big: 100_000, Names: 12}
			}
			var wg sync.WaitGroup
			for i := range 300 {
				id := ids[rng.IntN(len(ids))]
				tx := gens[id].Next()
				submit(t, s, tx, &wg)
				ms[id].Apply(tx)
				if i == 120 {
					d := SplitOf(ids[0])
					if err := s.Split(d); err != nil {
						t.Fatal(err)
					}
					Split(ms, d)
					for _, id := range d.Into {
						gens[id] = &Gen{Rng: rng, PG: id, Big: 100_000, Names: 12}
						gens[id].Continue(s.Log(id), 10_000)
					}
					ids = append(ids, d.Into...)
				}
				if i < 115 || i%20 != 0 && i != 121 {
					continue
				}
				if rng.IntN(2) == 0 {
					wg.Wait()
				}
				if reopen != nil && rng.IntN(2) == 0 {
					wg.Wait()
					s = reopen()
				}
				for _, id := range ids {
					if err := ms[id].Diff(s, id); err != nil {
						t.Fatalf("after %d transactions: %v", i+1, err)
					}
				}
			}
			wg.Wait()
			d := SplitOf(ids[0])
			if err := s.Split(d); err == nil && len(ms[d.Into[0]].Log) > 0 {
				t.Error("a PG was divided into one that is there already")
			}
			s.Close()
		})
	}
}

// submit hands tx to s; wg waits until it is durable.
func submit(t *testing.T, s osd.Store, tx *osd.Txn, wg *sync.WaitGroup) {
	wg.Add(1)
	s.Submit(tx, func(err error) {
		if err != nil {
			t.Error(err)
		}
		wg.Done()
	})
}
