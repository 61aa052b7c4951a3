package storm

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

type blockIn struct {
	write bool
	val   uint64
}

var blockModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(st, in, out any) (bool, any) {
		if i := in.(blockIn); i.write {
			return true, i.val
		}
		return out.(uint64) == st.(uint64), st
	},
	DescribeOperation: func(in, out any) string {
		if i := in.(blockIn); i.write {
			return fmt.Sprintf("write %d", i.val)
		}
		return fmt.Sprintf("read %d", out)
	},
}

const blockSize = 512

// Blocks has workers on every mount write and read whole blocks of one file, some through
// handles opened at the start, some through a fresh one, for reading and writing or for reading
// only (whose pages a kernel may keep while other handles write beside it), and
// checks the first word of each block as a linearizable register. Not the whole block: even a
// local file system lets a read overtake half of a concurrent write.
func Blocks(ctx context.Context, cfg Config, workersPerMount int) (rounds int, err error) {
	end := time.Now().Add(cfg.Duration)
	for rounds = 0; ctx.Err() == nil; rounds++ {
		if cfg.Steps > 0 && rounds >= cfg.Steps || cfg.Steps == 0 && time.Now().After(end) {
			break
		}
		if err := blockRound(cfg, rounds, workersPerMount); err != nil {
			return rounds, fmt.Errorf("seed %d, round %d: %w", cfg.Seed, rounds, err)
		}
	}
	return rounds, nil
}

func blockRound(cfg Config, round, workersPerMount int) error {
	const blocks = 4
	file := fmt.Sprintf("blocks-%d-%d", cfg.Seed, round)
	if err := os.WriteFile(filepath.Join(cfg.Dirs[round%len(cfg.Dirs)], file), make([]byte, blocks*blockSize), 0o644); err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		hist [blocks][]porcupine.Operation
		wg   sync.WaitGroup
		fail error
	)
	start := time.Now()
	for w := range workersPerMount * len(cfg.Dirs) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(cfg.Seed, uint64(round*100+w+50)))
			path := filepath.Join(cfg.Dirs[w%len(cfg.Dirs)], file)
			err := func() error {
				kept, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer kept.Close()
				reader, err := os.Open(path)
				if err != nil {
					return err
				}
				defer reader.Close()
				for i := range 25 {
					b := rng.IntN(blocks)
					in := blockIn{write: rng.IntN(3) == 0, val: uint64(w+1)<<32 | uint64(i+1)}
					call := time.Since(start).Nanoseconds()
					done := cfg.watch("block")
					var out uint64
					flags, f := os.O_RDWR, kept
					if !in.write && rng.IntN(2) == 0 {
						flags, f = os.O_RDONLY, reader
					}
					if rng.IntN(4) == 0 {
						if f, err = os.OpenFile(path, flags, 0); err == nil {
							out, err = doBlock(f, b, in)
							f.Close()
						}
					} else {
						out, err = doBlock(f, b, in)
					}
					if late := done(); err == nil {
						err = late
					}
					if err != nil {
						return err
					}
					ret := time.Since(start).Nanoseconds()
					mu.Lock()
					hist[b] = append(hist[b], porcupine.Operation{ClientId: w, Input: in, Call: call, Output: out, Return: ret})
					mu.Unlock()
				}
				return nil
			}()
			if err != nil {
				mu.Lock()
				fail = err
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if fail != nil {
		return fail
	}
	for b := range hist {
		if err := judge(blockModel, hist[b]); err != nil {
			return fmt.Errorf("block %d of %s: %w", b, file, err)
		}
	}
	return os.Remove(filepath.Join(cfg.Dirs[0], file))
}

func doBlock(f *os.File, b int, in blockIn) (uint64, error) {
	buf := make([]byte, blockSize)
	if in.write {
		for i := 0; i < blockSize; i += 8 {
			binary.LittleEndian.PutUint64(buf[i:], in.val)
		}
		_, err := f.WriteAt(buf, int64(b)*blockSize)
		return 0, err
	}
	n, err := f.ReadAt(buf, int64(b)*blockSize)
	if n != blockSize {
		if err == io.EOF {
			return 0, fmt.Errorf("%s: block %d reads %d bytes: the size is stale", f.Name(), b, n)
		}
		return 0, err
	}
	return binary.LittleEndian.Uint64(buf), nil
}
