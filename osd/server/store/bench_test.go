package store

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

// benchDir is on the disk that counts, which /tmp may not be: set CAPSTAN_BENCH_DIR.
func benchDir(b *testing.B) string {
	dir := os.Getenv("CAPSTAN_BENCH_DIR")
	if dir == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "store-bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// The floor: what one durable write of 4 KiB into a file that was written before costs.
func BenchmarkRawFdatasync4K(b *testing.B) {
	f, err := crashdisk.OS(benchDir(b)).Create("raw")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 8<<20), 0); err != nil {
		b.Fatal(err)
	}
	f.Sync()
	p := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		f.WriteAt(p, int64(i%2000)*4096)
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchWrites(b *testing.B, writers, size int, entry bool) {
	s, err := Open(benchDir(b), Options{Create: true, Bytes: 4 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	data := fill(size, 'x')
	rec := fill(200, 'r')
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			pg := wire.PGID{Pool: 1, Num: uint32(w)}
			for i := w; i < b.N; i += writers {
				n := uint64(i + 1)
				tx := put(fmt.Sprint("o", i*size>>22), n, uint64(i*size)%(4<<20), data)
				tx.PG = pg
				if entry {
					tx.Append = []osd.LogRec{{Version: wire.Version{Interval: 1, N: n}, Rec: rec}}
					if n > 2000 {
						tx.Trim = wire.Version{Interval: 1, N: n - 2000}
					}
				}
				if err := storetest.Do(s, tx); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	c := s.Counters()
	b.ReportMetric(float64(c.Txns)/float64(max(c.Commits, 1)), "txns/commit")
	b.ReportMetric(float64(c.Checkpoints), "checkpoints")
}

func BenchmarkWrite4K(b *testing.B) {
	for _, w := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint("writers", w), func(b *testing.B) { benchWrites(b, w, 4096, true) })
	}
}

func BenchmarkWrite1M(b *testing.B) {
	for _, w := range []int{1, 4} {
		b.Run(fmt.Sprint("writers", w), func(b *testing.B) { benchWrites(b, w, 1<<20, true) })
	}
}

func BenchmarkRead(b *testing.B) {
	s, err := Open(benchDir(b), Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := storetest.Do(s, put("o", 1, 0, fill(4<<20, 'x'))); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{4096, 1 << 20} {
		b.Run(fmt.Sprint("bytes", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			p := make([]byte, n)
			for i := 0; b.Loop(); i++ {
				if _, err := s.Read(pgA, "o", uint64(i*n)%(4<<20), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("stat", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Stat(pgA, "o")
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(benchDir(b), "s")
	for b.Loop() {
		os.RemoveAll(dir)
		s, err := Open(dir, Options{Create: true})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// BenchmarkSplit divides a PG of 4096 objects of 64 KiB in two: for so long the store answers
// nothing, and 2048 objects have moved.
func BenchmarkSplit(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := mustOpen(b, b.TempDir(), Options{Create: true, Bytes: 1 << 30})
		pg := wire.PGID{Pool: 1, Num: 0}
		var wg sync.WaitGroup
		for i := range 4096 {
			wg.Add(1)
			s.Submit(&osd.Txn{PG: pg, Objs: []osd.ObjTxn{{Name: fmt.Sprintf("%x.%08d", i*7919, i), Version: wire.Version{Interval: 1, N: uint64(i + 1)},
				Muts: []wire.ObjOp{{Kind: wire.ObjWrite, Data: make([]byte, 64<<10)}}}}}, func(error) { wg.Done() })
		}
		wg.Wait()
		if err := s.Checkpoint(); err != nil {
			b.Fatal(err)
		}
		half := wire.PGID{Pool: 1, Num: 1}
		b.StartTimer()
		if err := s.Split(&osd.Split{PG: pg, Into: []wire.PGID{half}, Of: func(n string) wire.PGID { return osd.Place(1, n, 2) }}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}
