package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

func pairsOf(kvs []wire.KV, err error) (s string) {
	for _, kv := range kvs {
		s += kv.Key + "=" + string(kv.Val) + " "
	}
	var bad *osd.BadPair
	if errors.As(err, &bad) {
		return s + "BAD " + bad.Key
	}
	if err != nil {
		return s + err.Error()
	}
	return s
}

// A pair that cannot be read is an error by its own name and for nobody else: not for the other
// keys, nor for the omap that lies before it in the database. It stays so over checkpoints, crashes
// and copies until it is set, removed, or goes with its object. All stores agree on that.
func TestAPairThatCannotBeRead(t *testing.T) {
	for _, kind := range []string{"memory", "disk", "simulated"} {
		t.Run(kind, func(t *testing.T) {
			var s osd.Store
			disk := crashdisk.New(1)
			dir := t.TempDir()
			o := tight()
			open := func() {
				switch kind {
				case "memory":
					if s == nil {
						s = osd.NewMemStore(wire.UUID{1}).AutoCommit()
					}
				case "disk":
					s = mustOpen(t, dir, o)
				default:
					o.FS = disk
					s = mustOpen(t, "sim", o)
				}
			}
			open()
			n := uint64(0)
			do := func(name string, replace bool, muts ...wire.ObjOp) {
				t.Helper()
				n++
				if err := storetest.Do(s, &osd.Txn{PG: pgA, Objs: []osd.ObjTxn{{Name: name, Version: wire.Version{Interval: 1, N: n}, Replace: replace, Muts: muts}}}); err != nil {
					t.Fatal(err)
				}
			}
			set := func(keys ...string) wire.ObjOp {
				m := wire.ObjOp{Kind: wire.ObjOmapSet}
				for _, k := range keys {
					m.Pairs = append(m.Pairs, wire.KV{Key: k, Val: []byte("v")})
				}
				return m
			}
			want := func(what, name, list string) {
				t.Helper()
				kvs, _, err := s.OmapRange(pgA, name, "", 100)
				if got := pairsOf(kvs, err); got != list {
					t.Errorf("%s: %s has %q, not %q", what, name, got, list)
				}
			}
			check := func(what string) {
				t.Helper()
				want(what, "first", "a=v b=v c=v ")
				want(what, "second", "BAD a")
				want(what, "third", "a=v b=v BAD c")
				if kvs, more, err := s.OmapRange(pgA, "third", "", 2); pairsOf(kvs, err) != "a=v b=v " || !more {
					t.Errorf("%s: up to the bad one: %v %v %v", what, kvs, more, err)
				}
				if kvs, _, err := s.OmapRange(pgA, "third", "c", 9); pairsOf(kvs, err) != "d=v e=v " {
					t.Errorf("%s: behind the bad one: %v %v", what, kvs, err)
				}
				if kvs, err := s.OmapGet(pgA, "third", []string{"b", "d"}); pairsOf(kvs, err) != "b=v d=v " {
					t.Errorf("%s: others: %v %v", what, kvs, err)
				}
				if kvs, err := s.OmapGet(pgA, "third", []string{"b", "c"}); pairsOf(kvs, err) != "BAD c" {
					t.Errorf("%s: %v %v", what, kvs, err)
				}
			}
			damage := func(k string) wire.ObjOp { return wire.ObjOp{Kind: wire.ObjOmapDamage, Keys: []string{k}} }
			do("first", false, set("a", "b", "c"))
			do("second", false, set("a", "b"))
			do("third", false, set("a", "b", "c", "d", "e"))
			do("second", false, damage("a"))
			do("third", true, set("a", "b", "d", "e"), damage("c")) // as the copy of a damaged object is installed
			check("in memory")
			if d, ok := s.(*Store); ok {
				if kind == "simulated" {
					disk.Kill()
					d.Close()
					open()
					check("after a crash")
				}
				d = s.(*Store)
				if err := d.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				check("after a checkpoint")
				d.Close()
				open()
				check("opened again")
			}
			do("third", false, set("c"))
			want("set", "third", "a=v b=v c=v d=v e=v ")
			do("second", false, wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: []string{"a"}})
			want("removed", "second", "b=v ")
			do("second", false, damage("b"))
			do("second", false, wire.ObjOp{Kind: wire.ObjOmapClear}, set("z"))
			want("cleared", "second", "z=v ")
			if d, ok := s.(*Store); ok {
				if err := d.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				want("checkpoint", "third", "a=v b=v c=v d=v e=v ")
				want("checkpoint", "second", "z=v ")
			}
			s.Close()
		})
	}
}

// Bit rot in the database: the first pair of one omap, and one in the middle of another. What was
// written since, and is not in a checkpoint yet, stands before what has rotted.
func TestRottenPairsOfTheDatabase(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, tight())
	for i, name := range []string{"first", "second"} {
		tx := put(name, uint64(i+1), 0, nil)
		for _, k := range []string{"a", "b", "c"} {
			tx.Objs[0].Muts = append(tx.Objs[0].Muts, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: k, Val: []byte(fmt.Sprintf("%s of %s", k, name))}}})
		}
		if err := storetest.Do(s, tx); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	path := filepath.Join(dir, metaName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"a of second", "b of first"} {
		i := bytes.LastIndex(b, []byte(v))
		if i < 0 {
			t.Fatalf("%q is not in %s", v, metaName)
		}
		for ; i >= 0; i = bytes.LastIndex(b[:i], []byte(v)) { // old pages have it too
			b[i] ^= 0x20
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir, tight())
	defer s.Close()
	list := func(name string) string {
		kvs, _, err := s.OmapRange(pgA, name, "", 100)
		return pairsOf(kvs, err)
	}
	if got := list("first"); got != "a=a of first BAD b" {
		t.Errorf("first: %q", got)
	}
	if got := list("second"); got != "BAD a" {
		t.Errorf("second: %q", got)
	}
	if kvs, _, err := s.OmapRange(pgA, "first", "b", 10); pairsOf(kvs, err) != "c=c of first " {
		t.Errorf("behind it: %v, %v: the rot of the next omap is not this one's", kvs, err)
	}
	if n := s.Counters().BadPairs; n != 2 {
		t.Errorf("%d bad pairs counted", n)
	}
	tx := put("first", 3, 0, nil)
	tx.Objs[0].Muts = []wire.ObjOp{{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: "b", Val: []byte("new")}}}}
	if err := storetest.Do(s, tx); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at once", "after a checkpoint"} {
		if got := list("first"); got != "a=a of first b=new c=c of first " {
			t.Errorf("written anew, %s: %q", when, got)
		}
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
}
