package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

var pgA = wire.PGID{Pool: 1, Num: 3}

func put(name string, n uint64, off uint64, data []byte) *osd.Txn {
	return &osd.Txn{PG: pgA, Objs: []osd.ObjTxn{{Name: name, Version: wire.Version{Interval: 1, N: n},
		Muts: []wire.ObjOp{{Kind: wire.ObjWrite, Off: off, Data: data}}}}}
}

func del(name string, n uint64) *osd.Txn {
	return &osd.Txn{PG: pgA, Objs: []osd.ObjTxn{{Name: name, Version: wire.Version{Interval: 1, N: n}, Remove: true}}}
}

func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }

// A store on a simulated disk with one small and one large object in checkpoint, and one of
// each in the log only. The process died.
func used(t *testing.T) (*crashdisk.Disk, Options) {
	t.Helper()
	o := tight()
	disk := crashdisk.New(3)
	o.FS = disk
	s := mustOpen(t, "sim", o)
	for i, tx := range []*osd.Txn{put("old small", 1, 0, fill(100, 'a')), put("old large", 2, 0, fill(16384, 'b')), nil,
		put("new small", 3, 0, fill(100, 'c')), put("new large", 4, 0, fill(16384, 'd'))} {
		if tx == nil {
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		} else if err := storetest.Do(s, tx); err != nil {
			t.Fatal(i, err)
		}
	}
	disk.Kill()
	s.Close()
	return disk, o
}

func TestBadInputIsRefusedByName(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for _, c := range []struct {
		what   string
		damage func(d *crashdisk.Disk) error
		want   error
		says   string
	}{
		{"block file cut", func(d *crashdisk.Disk) error {
			return d.Corrupt(blockName, func(b []byte) []byte { return b[:len(b)-1] })
		}, ErrCorrupt, "block is truncated"},
		{"block file empty", func(d *crashdisk.Disk) error { return d.Corrupt(blockName, func([]byte) []byte { return nil }) }, ErrCorrupt, "block is shorter"},
		{"block file gone", func(d *crashdisk.Disk) error { return d.Remove(blockName) }, ErrCorrupt, "block is missing"},
		{"log cut", func(d *crashdisk.Disk) error { return d.Corrupt(walName, func(b []byte) []byte { return b[:9000] }) }, ErrCorrupt, "wal is truncated"},
		{"log header", func(d *crashdisk.Disk) error { return d.Corrupt(walName, flip(30)) }, ErrCorrupt, "head of wal"},
		{"log of a newer format", func(d *crashdisk.Disk) error {
			return d.Corrupt(walName, func(b []byte) []byte { b[7] = 9; return b })
		}, ErrFormat, "wal has format 9"},
		{"first record of the log", func(d *crashdisk.Disk) error {
			return d.Corrupt(walName, func(b []byte) []byte {
				b[bytes.Index(b, []byte("new small"))] ^= 1
				return b
			})
		}, ErrCorrupt, "wal: journal: log has lost"},
		{"description of a newer format", func(d *crashdisk.Disk) error {
			return d.Corrupt(superName, func(b []byte) []byte { return bytes.Replace(b, []byte(`"format": 2`), []byte(`"format": 3`), 1) })
		}, ErrFormat, "store.json says format 3"},
		{"description of something else", func(d *crashdisk.Disk) error {
			return d.Corrupt(superName, func([]byte) []byte { return []byte("hello") })
		}, ErrForeign, "store.json"},
		{"description gone", func(d *crashdisk.Disk) error { return d.Remove(superName) }, ErrCorrupt, "store.json is missing"},
		{"another store's log", func(d *crashdisk.Disk) error {
			o := tight()
			other := crashdisk.New(4)
			o.FS = other
			s, err := Open("sim", o)
			if err != nil {
				return err
			}
			s.Close()
			var stolen []byte
			if err := other.Corrupt(walName, func(b []byte) []byte { stolen = b; return b }); err != nil {
				return err
			}
			return d.Corrupt(walName, func([]byte) []byte { return stolen })
		}, ErrForeign, "copied from elsewhere"},
	} {
		t.Run(c.what, func(t *testing.T) {
			disk, o := used(t)
			if err := c.damage(disk); err != nil {
				t.Fatal(err)
			}
			_, err := Open("sim", o)
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

func TestForeignDirectories(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNoStore) {
		t.Errorf("empty, not to be made: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Create: true}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("somebody's files: %v", err)
	}
	dir = t.TempDir()
	o := tight()
	o.Cluster, o.Owner = wire.UUID{1}, "osd.0"
	s := mustOpen(t, dir, o)
	if !s.Fresh() {
		t.Error("a new store is not fresh")
	}
	if _, err := Open(dir, o); !errors.Is(err, ErrBusy) {
		t.Errorf("open twice: %v", err)
	}
	s.Close()
	o.Cluster = wire.UUID{2}
	if _, err := Open(dir, o); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("another cluster: %v", err)
	}
	o.Cluster, o.Owner = wire.UUID{1}, "osd.1"
	if _, err := Open(dir, o); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "osd.0") {
		t.Errorf("another osd: %v", err)
	}
	o.Owner = "osd.0"
	s2 := mustOpen(t, dir, o)
	if s2.Fresh() || s2.UUID() != s.UUID() {
		t.Errorf("reopened: fresh %v, uuid %v, was %v", s2.Fresh(), s2.UUID(), s.UUID())
	}
	s2.Close()
	if err := os.Remove(filepath.Join(dir, metaName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, o); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), metaName) {
		t.Errorf("no metadata: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, metaName), fill(70_000, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, o); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), metaName) {
		t.Errorf("broken metadata: %v", err)
	}
}

// A flipped bit in the data of every object: reads name the object and the place, the others
// stay readable, and a partial overwrite does not launder bad bytes into good ones.
func TestFlippedDataIsNeverReturned(t *testing.T) {
	disk, o := used(t)
	s := mustOpen(t, "sim", o)
	phys := map[string]uint32{}
	for _, name := range []string{"old small", "old large", "new small", "new large"} {
		s.mu.Lock()
		obj, err := s.object(s.pg(pgA), name)
		if err != nil {
			t.Fatal(err)
		}
		phys[name] = obj.refs[len(obj.refs)-1].phys
		s.mu.Unlock()
	}
	s.Close()
	for name, b := range phys {
		if err := disk.Corrupt(blockName, func(f []byte) []byte { f[int(b)*BlockBytes+50] ^= 4; return f }); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, "sim", o)
		for other := range phys {
			_, err := s.Read(pgA, other, 0, make([]byte, 1<<16))
			var bad *BadBlock
			if other != name && err != nil {
				t.Errorf("%s is bad and reading %s gives %v", name, other, err)
			}
			if other == name && (!errors.As(err, &bad) || !errors.Is(err, ErrBadBlock) || bad.Object != name || bad.Block != b) {
				t.Errorf("reading %s: %v", name, err)
			}
		}
		if n := s.Counters().BadBlocks; n != 1 {
			t.Errorf("%d bad blocks counted", n)
		}
		off := uint64(0)
		if strings.HasSuffix(name, "large") {
			off = 12288
		}
		part := put(name, 9, off+10, []byte("zz"))
		if !s.Damaged(pgA, &part.Objs[0]) {
			t.Errorf("a partial overwrite of a bad block of %s is not told from a good one", name)
		}
		for step, again := range []func(){
			func() {},
			func() { // as a record of the log
				disk.Kill()
				s.Close()
				s = mustOpen(t, "sim", o)
			},
			func() { // as a block of a checkpoint
				s.Close()
				s = mustOpen(t, "sim", o)
			},
		} {
			if again(); step == 0 {
				if err := storetest.Do(s, part); err != nil {
					t.Errorf("a partial overwrite of a bad block of %s ends the store: %v", name, err)
				}
			}
			if n, err := s.Read(pgA, name, off, make([]byte, 20)); !errors.Is(err, ErrBadBlock) {
				t.Errorf("%s, step %d: %d bytes are read of a bad block that was overwritten in part (%v)", name, step, n, err)
			}
			if st, _ := s.Stat(pgA, name); st.Version.N != 9 {
				t.Errorf("%s, step %d: version %v", name, step, st.Version)
			}
			if off > 0 {
				if _, err := s.Read(pgA, name, 0, make([]byte, 4096)); err != nil {
					t.Errorf("another block of %s, step %d: %v", name, step, err)
				}
			}
			if err := s.verify(); err != nil {
				t.Error(err)
			}
		}
		whole := put(name, 9, off, fill(4096, 'n'))
		if s.Damaged(pgA, &whole.Objs[0]) {
			t.Errorf("%s: a whole block needs no old bytes", name)
		}
		if err := storetest.Do(s, put(name, 9, off, fill(4096, 'n'))); err != nil {
			t.Errorf("whole overwrite of a bad block of %s: %v", name, err)
		}
		if _, err := s.Read(pgA, name, 0, make([]byte, 1<<16)); err != nil {
			t.Errorf("%s after it was overwritten: %v", name, err)
		}
		s.Close()
	}
}

func TestFullStoreTakesDeletesAndGivesSpaceBack(t *testing.T) {
	o := tight()
	o.Bytes = 2 << 20
	disk := crashdisk.New(1)
	o.FS = disk
	s := mustOpen(t, "sim", o)
	n := uint64(0)
	var err error
	for err == nil && n < 1000 {
		n++
		if n%2 == 0 {
			err = storetest.Do(s, put(fmt.Sprint("f", n), n, 0, fill(40_000, 'f')))
		} else {
			err = storetest.Do(s, put(fmt.Sprint("f", n), n, 0, fill(700, 'f')))
		}
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("after %d objects: %v", n, err)
	}
	total, usedBytes := s.Space()
	if free := total - usedBytes; free > 64<<10 {
		t.Errorf("full with %d bytes left", free)
	}
	if err := storetest.Do(s, put("later", n+1, 0, []byte("x"))); !errors.Is(err, ErrNoSpace) {
		t.Errorf("after an error something succeeded: %v", err)
	}
	s.Close()
	s = mustOpen(t, "sim", o)
	// A truncation into the middle of a block needs one itself; there is a reserve for it.
	tr := put("f2", n, 0, nil)
	tr.Objs[0].Muts = []wire.ObjOp{{Kind: wire.ObjTruncate, Off: 100}}
	if err := storetest.Do(s, tr); err != nil {
		t.Errorf("truncate on a full store: %v", err)
	}
	for i := uint64(1); i < n; i++ {
		if err := storetest.Do(s, del(fmt.Sprint("f", i), n+i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, usedBytes := s.Space(); usedBytes != 0 {
		t.Errorf("%d bytes taken by nothing", usedBytes)
	}
	if err := storetest.Do(s, put("again", 9999, 0, fill(1<<20, 'g'))); err != nil {
		t.Error(err)
	}
	if err := s.verify(); err != nil {
		t.Error(err)
	}
	s.Close()
}

// Overwriting in a nearly full store waits for a checkpoint to bring freed blocks back.
func TestFreedSpaceIsUsedAgainWithoutBeingAsked(t *testing.T) {
	o := tight()
	o.Bytes = 2 << 20
	s := mustOpen(t, t.TempDir(), o)
	defer s.Close()
	for n := range uint64(40) {
		if err := storetest.Do(s, put("same", n+1, 0, fill(900_000, byte('a'+n%26)))); err != nil {
			t.Fatal(n, err)
		}
	}
	b := make([]byte, 900_000)
	if _, err := s.Read(pgA, "same", 0, b); err != nil || !bytes.Equal(b, fill(900_000, byte('a'+39%26))) {
		t.Errorf("%v or other bytes", err)
	}
}

// Readers run beside submitters and checkpoints: each sees one version of the object, whole.
func TestReadersSeeWholeVersions(t *testing.T) {
	o := tight()
	o.Bytes = 4 << 20
	s := mustOpen(t, t.TempDir(), o)
	stop := make(chan struct{})
	var wg, writers sync.WaitGroup
	for w := range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			pg := wire.PGID{Pool: 1, Num: uint32(w % 2)}
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			var last sync.WaitGroup
			for i := range 150 {
				n := 1 + rng.IntN(30_000)
				if i%2 == 0 {
					n &^= 4095
				}
				tx := put(fmt.Sprint("o", w), uint64(i+1), 0, fill(n, byte('a'+i%26)))
				tx.PG = pg
				tx.Objs[0].Replace = true
				last.Add(1)
				s.Submit(tx, func(err error) {
					if err != nil {
						t.Error(err)
					}
					last.Done()
				})
			}
			last.Wait()
		}()
	}
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			b := make([]byte, 40_000)
			for {
				select {
				case <-stop:
					return
				default:
				}
				for w := range 4 {
					n, err := s.Read(wire.PGID{Pool: 1, Num: uint32(w % 2)}, fmt.Sprint("o", w), 0, b)
					if err != nil {
						t.Error(err)
						return
					}
					if n > 0 && !bytes.Equal(b[:n], fill(n, b[0])) {
						t.Errorf("a read of o%d mixes versions", w)
						return
					}
				}
			}
		}()
	}
	writers.Wait()
	close(stop)
	wg.Wait()
	if err := s.Checkpoint(); err != nil {
		t.Error(err)
	}
	if err := s.verify(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A callback that blocks on a lock which a waiting Submit holds must not stop the commits
// that this Submit waits for.
func TestBlockedCallbackDoesNotStopTheStore(t *testing.T) {
	s := mustOpen(t, t.TempDir(), tight())
	var core sync.Mutex
	var wg sync.WaitGroup
	for i := range uint64(400) {
		wg.Add(1)
		core.Lock()
		s.Submit(put("o", i+1, i*4096%(1<<20), fill(4096, 'x')), func(err error) {
			core.Lock()
			defer core.Unlock()
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
		core.Unlock()
	}
	wg.Wait()
	s.Close()
}

func TestSubmitAfterCloseIsAnswered(t *testing.T) {
	s := mustOpen(t, t.TempDir(), tight())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := storetest.Do(s, put("o", 1, 0, []byte("x"))); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

// A transaction larger than one record of the log is still one transaction.
func TestTransactionOfManyRecords(t *testing.T) {
	o := tight()
	disk := crashdisk.New(1)
	o.FS = disk
	s := mustOpen(t, "sim", o)
	var kvs []wire.KV
	for i := range 1500 {
		kvs = append(kvs, wire.KV{Key: fmt.Sprintf("key%05d", i), Val: fill(60, 'v')})
	}
	tx := put("dir", 1, 0, nil)
	tx.Objs[0].Muts = []wire.ObjOp{{Kind: wire.ObjOmapSet, Pairs: kvs}}
	if err := storetest.Do(s, tx); err != nil {
		t.Fatal(err)
	}
	disk.Kill()
	s.Close()
	s = mustOpen(t, "sim", o)
	if got, _, err := s.OmapRange(pgA, "dir", "", 5000); err != nil || len(got) != 1500 {
		t.Errorf("%d pairs, %v", len(got), err)
	}
	tx.Objs[0].Muts[0].Pairs = append(kvs, wire.KV{Key: "huge", Val: fill(1<<20, 'v')})
	if err := storetest.Do(s, tx); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a transaction that never fits: %v", err)
	}
	s.Close()
}
