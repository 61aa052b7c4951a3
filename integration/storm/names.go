package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sys/unix"
)

// The state of a few names in one directory: which file (by the token written into it at
// creation) each leads to; "" is none.
const nameCount = 3

type nameState [nameCount]string

type nameIn struct {
	op   string // create, unlink, rename, exchange, look
	a, b int
	tok  string
}

type nameOut struct {
	errno syscall.Errno
	tok   string
}

// nameStep lists the states that in may lead to when it answered out; none: it cannot have.
//
// A rename or exchange that succeeded may also have changed nothing: the kernel looks the two
// names up one after the other, and when another host moves the file from the first to the
// second in between, it finds one inode under both and returns success without a word to the
// file system (POSIX: names of one inode are left alone). No server can prevent that.
func nameStep(s nameState, in nameIn, out nameOut) []nameState {
	if ok, next := nameServed(s, in, out); ok {
		if out.errno == 0 && in.a != in.b && s[in.b] != "" && (in.op == "rename" || in.op == "exchange") {
			return []nameState{next, s}
		}
		return []nameState{next}
	}
	if out.errno == 0 && in.a != in.b && s[in.b] != "" && (in.op == "rename" || in.op == "exchange") {
		return []nameState{s}
	}
	return nil
}

// nameServed is the one answer of a file system that was asked.
func nameServed(s nameState, in nameIn, out nameOut) (bool, nameState) {
	switch in.op {
	case "create":
		if s[in.a] != "" {
			return out.errno == syscall.EEXIST, s
		}
		s[in.a] = in.tok
		return out.errno == 0, s
	case "unlink":
		if s[in.a] == "" {
			return out.errno == syscall.ENOENT, s
		}
		s[in.a] = ""
		return out.errno == 0, s
	case "rename":
		if s[in.a] == "" {
			return out.errno == syscall.ENOENT, s
		}
		if in.a != in.b {
			s[in.b], s[in.a] = s[in.a], ""
		}
		return out.errno == 0, s
	case "exchange":
		if s[in.a] == "" || s[in.b] == "" {
			return out.errno == syscall.ENOENT, s
		}
		s[in.a], s[in.b] = s[in.b], s[in.a]
		return out.errno == 0, s
	case "look":
		if s[in.a] == "" {
			return out.errno == syscall.ENOENT, s
		}
		return out.errno == 0 && out.tok == s[in.a], s
	}
	return false, s
}

var nameModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{nameState{}} },
	Step: func(st, in, out any) []any {
		var next []any
		for _, s := range nameStep(st.(nameState), in.(nameIn), out.(nameOut)) {
			next = append(next, s)
		}
		return next
	},
	Equal: func(a, b any) bool { return a.(nameState) == b.(nameState) },
	DescribeOperation: func(in, out any) string {
		i, o := in.(nameIn), out.(nameOut)
		return fmt.Sprintf("%s %d %d %s -> %s %s", i.op, i.a, i.b, i.tok, name(o.errno), o.tok)
	},
}).ToModel()

// Names runs workersPerMount workers on each mount over three names of one directory at a
// time and checks each round's history. The token of a file is its symlink target: set
// atomically with the name, so looking is one readlink.
func Names(ctx context.Context, cfg Config, workersPerMount int) (rounds int, err error) {
	end := time.Now().Add(cfg.Duration)
	for rounds = 0; ctx.Err() == nil; rounds++ {
		if cfg.Steps > 0 && rounds >= cfg.Steps || cfg.Steps == 0 && time.Now().After(end) {
			break
		}
		if err := nameRound(cfg, rounds, workersPerMount); err != nil {
			return rounds, fmt.Errorf("seed %d, round %d: %w", cfg.Seed, rounds, err)
		}
	}
	return rounds, nil
}

func nameRound(cfg Config, round, workersPerMount int) error {
	dir := fmt.Sprintf("names-%d-%d", cfg.Seed, round)
	if err := os.Mkdir(filepath.Join(cfg.Dirs[round%len(cfg.Dirs)], dir), 0o755); err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		hist []porcupine.Operation
		wg   sync.WaitGroup
		fail error
	)
	start := time.Now()
	for w := range workersPerMount * len(cfg.Dirs) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(cfg.Seed, uint64(round*100+w)))
			d := filepath.Join(cfg.Dirs[w%len(cfg.Dirs)], dir)
			for i := range 14 {
				in := drawName(rng, fmt.Sprintf("t%d.%d", w, i))
				call := time.Since(start).Nanoseconds()
				done := cfg.watch(in.op)
				out, err := doName(d, in)
				if late := done(); err == nil {
					err = late
				}
				ret := time.Since(start).Nanoseconds()
				mu.Lock()
				if err != nil && fail == nil {
					fail = err
				}
				hist = append(hist, porcupine.Operation{ClientId: w, Input: in, Call: call, Output: out, Return: ret})
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if fail != nil {
		return fail
	}
	return judge(nameModel, hist)
}

// judge explains a history that is not linearizable.
func judge(m porcupine.Model, hist []porcupine.Operation) error {
	res, _ := porcupine.CheckOperationsVerbose(m, hist, 30*time.Second)
	if res == porcupine.Illegal {
		msg := "history is not linearizable:"
		for _, o := range hist {
			msg += fmt.Sprintf("\n  %8d..%8d µs worker %d: %s", o.Call/1000, o.Return/1000, o.ClientId, m.DescribeOperation(o.Input, o.Output))
		}
		return fmt.Errorf("%s", msg)
	}
	return nil // Unknown: too large to decide in time; counted as passed, rounds are kept small so that this is rare
}

func drawName(rng *rand.Rand, tok string) nameIn {
	in := nameIn{a: rng.IntN(nameCount), b: rng.IntN(nameCount)}
	switch k := rng.IntN(10); {
	case k < 3:
		in.op, in.tok = "create", tok
	case k < 5:
		in.op = "unlink"
	case k < 7:
		in.op = "rename"
	case k == 7:
		in.op = "exchange"
	default:
		in.op = "look"
	}
	return in
}

func doName(dir string, in nameIn) (nameOut, error) {
	p := func(i int) string { return filepath.Join(dir, fmt.Sprintf("n%d", i)) }
	var err error
	out := nameOut{}
	switch in.op {
	case "create":
		err = unix.Symlink(in.tok, p(in.a))
	case "unlink":
		err = unix.Unlink(p(in.a))
	case "rename":
		err = unix.Rename(p(in.a), p(in.b))
	case "exchange":
		err = unix.Renameat2(unix.AT_FDCWD, p(in.a), unix.AT_FDCWD, p(in.b), unix.RENAME_EXCHANGE)
	case "look":
		buf := make([]byte, 64)
		var n int
		n, err = unix.Readlink(p(in.a), buf)
		if err == nil {
			out.tok = string(buf[:n])
		}
	}
	out.errno = errnoOf(err)
	switch out.errno {
	case 0, syscall.ENOENT, syscall.EEXIST:
		return out, nil
	}
	return out, fmt.Errorf("%s %s: %w", in.op, dir, err)
}
