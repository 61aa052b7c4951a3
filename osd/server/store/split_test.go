package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

// Crash at the n-th I/O of a run in whose middle a PG is divided, for every n: afterwards either
// nothing of the split has happened, or all of it and everything that was submitted before; and
// what Split has returned for stays.
func TestCrashAtEveryIOOfASplit(t *testing.T) {
	for seed := range uint64(2) {
		n, split := 1, 0
		for ; ; n++ {
			whole, divided, err := crashSplit(seed, n)
			if err != nil {
				t.Fatalf("seed %d, crash at I/O %d: %v", seed, n, err)
			}
			if divided {
				split++
			}
			if whole {
				break
			}
		}
		if split == 0 || split == n {
			t.Errorf("seed %d: of %d crashes %d came after the split", seed, n, split)
		}
		t.Logf("seed %d: %d crashes, %d of them after the split", seed, n-1, split)
	}
}

func crashSplit(seed uint64, n int) (whole, divided bool, err error) {
	disk := crashdisk.New(seed<<32 | uint64(n))
	rng := rand.New(rand.NewPCG(seed, 78))
	one, other := wire.PGID{Pool: 1, Num: 2}, wire.PGID{Pool: 1, Num: 3}
	hs := map[wire.PGID]*history{}
	ids := []wire.PGID{one, other}
	for _, id := range ids {
		hs[id] = &history{pg: id, gen: &storetest.Gen{Rng: rng, PG: id, Big: 20_000, Names: 6}}
	}
	d := storetest.SplitOf(one)
	// What one had before the split; its history goes on from there.
	before, submitted := []*osd.Txn(nil), 0
	returned := false
	disk.CrashAt(n)
	if s, err := Open("sim", crashOptions(disk)); err == nil {
		var wg sync.WaitGroup
		for i := range 36 {
			if i == 16 {
				submitted = len(hs[one].txns)
				before = hs[one].txns
				if s.Split(d) != nil {
					break
				}
				returned = true
				for _, id := range d.Into {
					hs[id] = &history{pg: id, gen: &storetest.Gen{Rng: rng, PG: id, Big: 20_000, Names: 6}}
					hs[id].gen.Continue(s.Log(id), 10_000)
				}
				ids = append(ids, d.Into...)
			}
			hs[ids[rng.IntN(len(ids))]].submit(s, &wg)
			if rng.IntN(5) == 0 {
				wg.Wait()
			}
		}
		wg.Wait()
		s.Close()
	} else if !errors.Is(err, crashdisk.ErrCrashed) {
		return false, false, err
	}
	whole = !disk.Crashed()
	disk.Recover()
	if n%3 == 0 && !whole {
		disk.CrashAt(1 + n/3%17)
		if s, err := Open("sim", crashOptions(disk)); err == nil {
			s.Close()
		} else if !errors.Is(err, crashdisk.ErrCrashed) {
			return false, false, fmt.Errorf("first recovery: %w", err)
		}
		disk.Recover()
	}
	s, err := Open("sim", crashOptions(disk))
	if err != nil {
		return false, false, fmt.Errorf("recovery: %w", err)
	}
	defer s.Close()
	if err := s.verify(); err != nil {
		return false, false, err
	}
	if err := hs[other].survived(s); err != nil {
		return false, false, err
	}
	// Gen removes a PG now and then, and "parts" with it: not all four.
	divided = slices.ContainsFunc(append(d.Into, one), func(id wire.PGID) bool { return len(s.Meta(id, "parts")) > 0 })
	if !divided {
		if returned {
			return false, false, errors.New("the split is gone")
		}
		for _, id := range d.Into {
			if err := storetest.NewModel().Diff(s, id); err != nil {
				return false, false, fmt.Errorf("half of a split: %w", err)
			}
		}
		return whole, false, hs[one].survived(s)
	}
	ms := map[wire.PGID]*storetest.Model{one: storetest.NewModel()}
	for _, tx := range before {
		ms[one].Apply(tx)
	}
	storetest.Split(ms, d)
	for id, m := range ms {
		h := hs[id]
		if h == nil {
			h = &history{pg: id}
		}
		later, acked := h.txns, h.acked
		if id == one {
			later, acked = later[submitted:], max(acked-submitted, 0)
		}
		if err := prefixOf(s, id, m, later, acked); err != nil {
			return false, true, err
		}
	}
	return whole, true, nil
}

// prefixOf: the PG is m and then some of later, at least the first acked.
func prefixOf(s *Store, id wire.PGID, m *storetest.Model, later []*osd.Txn, acked int) (first error) {
	for k := 0; ; k++ {
		if k >= acked {
			err := m.Diff(s, id)
			if err == nil {
				return nil
			}
			if first == nil {
				first = err
			}
		}
		if k == len(later) {
			return fmt.Errorf("pg %v is no prefix of its %d transactions since the split: %w", id, len(later), first)
		}
		m.Apply(later[k])
	}
}

// Data stays where it is: a split of many megabytes writes no block, and little else.
func TestSplitCopiesNoData(t *testing.T) {
	o := tight()
	disk := crashdisk.New(1)
	o.FS, o.Bytes = disk, 32<<20
	s := mustOpen(t, "sim", o)
	defer s.Close()
	pg := wire.PGID{Pool: 1, Num: 2}
	for i := range 12 {
		tx := &osd.Txn{PG: pg, Objs: []osd.ObjTxn{{Name: fmt.Sprintf("big%d", i), Version: wire.Version{Interval: 1, N: uint64(i + 1)},
			Muts: []wire.ObjOp{{Kind: wire.ObjWrite, Data: make([]byte, 1<<20)}}}}}
		if err := storetest.Do(s, tx); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	total, used := s.Space()
	before := disk.IOs()
	d := storetest.SplitOf(pg)
	if err := s.Split(d); err != nil {
		t.Fatal(err)
	}
	if n := disk.IOs() - before; n != 1 { // the database's one update
		t.Errorf("%d I/Os", n)
	}
	if t2, u2 := s.Space(); t2 != total || u2 != used {
		t.Errorf("space %d of %d, was %d of %d", u2, t2, used, total)
	}
	sum := s.Bytes(pg)
	for _, id := range d.Into {
		if s.Bytes(id) == 0 {
			t.Errorf("pg %v has nothing", id)
		}
		sum += s.Bytes(id)
	}
	if sum != 12<<20 {
		t.Errorf("the parts have %d bytes together, not 12 MiB", sum)
	}
	if err := s.verify(); err != nil {
		t.Error(err)
	}
}

// An object that stands under a PG which does not hold it would never be read again.
func TestFsckNamesAnObjectUnderAWrongPG(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{Create: true, Bytes: 1 << 20, CheckpointMax: -1})
	pg := wire.PGID{Pool: 1, Num: 1}
	tx := &osd.Txn{PG: pg, Meta: []wire.KV{{Key: "pg_num", Val: []byte{0, 0, 0, 4}}}}
	wrong := 0
	for i := range 8 {
		name := fmt.Sprintf("o%d", i)
		if osd.Place(1, name, 4) != pg {
			wrong++
		}
		tx.Objs = append(tx.Objs, osd.ObjTxn{Name: name, Version: wire.Version{Interval: 1, N: 1}})
	}
	if err := errors.Join(storetest.Do(s, tx), s.Close()); err != nil {
		t.Fatal(err)
	}
	c := fsck(t, dir)
	if wrong == 0 || wrong == 8 || c.Found != wrong || c.Findings[0].Kind != WrongPG {
		t.Errorf("%d of 8 objects are in a wrong PG, found %+v", wrong, c)
	}
}
