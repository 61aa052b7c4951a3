package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

// history is what one PG was told, and how much of it was acknowledged.
type history struct {
	pg    wire.PGID
	gen   *storetest.Gen
	txns  []*osd.Txn
	mu    sync.Mutex
	acked int
}

func (h *history) submit(s *Store, wg *sync.WaitGroup) {
	tx := h.gen.Next()
	h.txns = append(h.txns, tx)
	n := len(h.txns)
	wg.Add(1)
	s.Submit(tx, func(err error) {
		h.mu.Lock()
		if err == nil {
			h.acked = n
		}
		h.mu.Unlock()
		wg.Done()
	})
}

// survived finds the prefix that the store holds: at least what was acknowledged, nothing by
// halves. What did not survive was never submitted as far as the rest of the test goes.
func (h *history) survived(s *Store) error {
	m := storetest.NewModel()
	for _, tx := range h.txns[:h.acked] {
		m.Apply(tx)
	}
	var first error
	for k := h.acked; ; k++ {
		err := m.Diff(s, h.pg)
		if err == nil {
			h.txns = h.txns[:k]
			return nil
		}
		if first == nil {
			first = err
		}
		if k == len(h.txns) {
			return fmt.Errorf("pg %v is no prefix of its %d transactions from the %d acknowledged on: %w", h.pg, len(h.txns), h.acked, first)
		}
		m.Apply(h.txns[k])
	}
}

// regen makes a generator that continues a history; its idea of the log is the store's.
func (h *history) regen(rng *rand.Rand, s *Store, round uint64) {
	h.acked = len(h.txns)
	h.gen = &storetest.Gen{Rng: rng, PG: h.pg, Big: 20_000, Names: 3}
	h.gen.Continue(s.Log(h.pg), round*1_000_000)
}

func crashOptions(disk *crashdisk.Disk) Options {
	return Options{Create: true, FS: disk, Bytes: 640 << 10, WALBytes: 64 << 10, Limits: journal.Limits{Run: 4 << 10, Record: 4 << 10},
		DirtyBytes: 64 << 10, DirtyObjects: 8, CacheObjects: 16, DirectBytes: 8 << 10, MaxRuns: 1, CheckpointMax: -1}
}

// Crash at the n-th I/O of a run, for every n: making the store, transactions, checkpoints,
// turns of the ring, the clean close. Then again inside the recovery, a few I/Os in.
func TestCrashAtEveryIO(t *testing.T) {
	// CAPSTAN_CRASH_SEEDS=100:200 runs others than the two of every day.
	first, end := uint64(0), uint64(2)
	if v := os.Getenv("CAPSTAN_CRASH_SEEDS"); v != "" {
		if _, err := fmt.Sscanf(v, "%d:%d", &first, &end); err != nil {
			t.Fatal(err)
		}
	}
	for seed := first; seed < end; seed++ {
		n := 1
		for ; ; n++ { // the goroutines' turns differ from run to run, so n may end a little earlier or later
			whole, err := crashOnce(seed, n)
			if err != nil {
				t.Fatalf("seed %d, crash at I/O %d: %v", seed, n, err)
			}
			if whole {
				break
			}
		}
		t.Logf("seed %d: %d crashes", seed, n-1)
	}
}

func crashOnce(seed uint64, n int) (whole bool, err error) {
	disk := crashdisk.New(seed<<32 | uint64(n))
	rng := rand.New(rand.NewPCG(seed, 77))
	hs := []*history{{pg: wire.PGID{Pool: 1, Num: 0}}, {pg: wire.PGID{Pool: 1, Num: 1}}}
	for _, h := range hs {
		h.gen = &storetest.Gen{Rng: rng, PG: h.pg, Big: 20_000, Names: 3}
	}
	disk.CrashAt(n)
	whole = true
	if s, err := Open("sim", crashOptions(disk)); err == nil {
		var wg sync.WaitGroup
		for range 40 {
			hs[rng.IntN(2)].submit(s, &wg)
			if rng.IntN(4) == 0 {
				wg.Wait()
			}
			switch rng.IntN(8) {
			case 0:
				s.Checkpoint()
			case 1: // while commits are under way
				s.mu.Lock()
				s.askCheckpoint()
				s.mu.Unlock()
			}
		}
		wg.Wait()
		if err := s.Close(); err == nil && s.Err() != nil {
			return false, fmt.Errorf("close hides %w", s.Err())
		}
	} else if !errors.Is(err, crashdisk.ErrCrashed) {
		return false, err
	}
	whole = !disk.Crashed()
	if n%3 == 0 && !whole {
		disk.Recover()
		disk.CrashAt(1 + n/3%17) // in the middle of recovering
		if s, err := Open("sim", crashOptions(disk)); err == nil {
			s.Close()
		} else if !errors.Is(err, crashdisk.ErrCrashed) {
			return false, fmt.Errorf("first recovery: %w", err)
		}
	}
	for round := uint64(1); round <= 2; round++ {
		if round == 2 {
			disk.Kill() // the process only; then the power, before anything new was written
			s, err := Open("sim", crashOptions(disk))
			if err != nil {
				return false, fmt.Errorf("open after kill: %w", err)
			}
			disk.Crash()
			s.Close()
		}
		disk.Recover()
		s, err := Open("sim", crashOptions(disk))
		if err != nil {
			return false, fmt.Errorf("recovery: %w", err)
		}
		for _, h := range hs {
			if err := h.survived(s); err != nil {
				return false, err
			}
			h.regen(rng, s, round)
		}
		if err := s.verify(); err != nil {
			return false, err
		}
		var wg sync.WaitGroup
		for range 10 {
			hs[rng.IntN(2)].submit(s, &wg)
		}
		wg.Wait()
		if err := s.Err(); err != nil {
			return false, err
		}
		if round == 1 {
			disk.Kill() // leave the log as it is
		}
		s.Close()
		for _, h := range hs {
			if h.acked != len(h.txns) {
				// A PG may have had none of the ten.
				if last := len(h.txns); h.acked < last {
					return false, fmt.Errorf("pg %v: %d of %d acknowledged, no error", h.pg, h.acked, last)
				}
			}
		}
	}
	return whole, nil
}
