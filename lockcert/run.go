package lockcert

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config says what to check.
type Config struct {
	Dirs []string // the mount points, or directories: one file system, seen under each
	Seed uint64   // 0: drawn
	// Slice is how long a race runs in each placement (default 700 ms). With Minutes all
	// races are made again, with new seeds, until so much time has passed.
	Slice    time.Duration
	Minutes  float64
	Patience time.Duration // a call that takes longer counts as lost (default 10 s, of which a quarter is left once three checks lost one)
	Grace    time.Duration // a lock call that takes longer counts as waiting (default 40 ms)
	// Only are patterns of check names, as in "posix/*" or "names/excl"; "!" before one leaves
	// those out. Empty: all.
	Only []string
	// Disturb is a shell command that restarts what serves the file system, or lets another
	// take over; it returns when that has begun. Without it the checks that need it are left out.
	Disturb string
	Worker  []string // the command that calls Worker with one more argument; default: this program with Verb
	// Enough, asked after every check made, ends the run when it says so; nil: never.
	Enough   func(*Report) bool
	Progress io.Writer // one line per check as it ends; may be nil
	wrong    string    // a Fault's name, for tests
}

// Placements of the workers.
const (
	Same   = "same"   // all on the first mount
	Across = "across" // spread over all mounts
)

// ErrSetup marks a run that could not be made: nothing is known about the file system.
var ErrSetup = errors.New("could not run")

// Select returns the checks that the patterns name.
func Select(only []string) ([]Check, error) {
	var out []Check
	used := make([]bool, len(only))
	positive := false
	for _, p := range only {
		positive = positive || !strings.HasPrefix(p, "!")
	}
	for _, c := range Checks {
		take := !positive
		for i, p := range only {
			bare, not := strings.CutPrefix(p, "!")
			m, err := path.Match(bare, c.Name)
			if err != nil {
				return nil, fmt.Errorf("%w: pattern %q: %v", ErrSetup, p, err)
			}
			if m || strings.HasPrefix(c.Name, bare+"/") {
				used[i], take = true, !not
			}
		}
		if take {
			out = append(out, c)
		}
	}
	for i, p := range only {
		if !used[i] {
			return nil, fmt.Errorf("%w: no check is called %q", ErrSetup, p)
		}
	}
	return out, nil
}

// Run makes the checks and reports. The error is for runs that could not be made; what the
// file system did wrong is in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	checks, err := Select(cfg.Only)
	if err != nil {
		return nil, err
	}
	if cfg.Disturb == "" && len(cfg.Only) == 0 {
		checks = slices.DeleteFunc(checks, func(c Check) bool { return c.disturb })
	}
	impatient := 0 // lost calls after which less patience is left; 0: never
	if cfg.Patience == 0 {
		impatient = 3
	}
	cfg.fill()
	bases, err := prepare(cfg.Dirs, cfg.Seed, cfg.Patience)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer os.RemoveAll(bases[0])
	state, err := os.MkdirTemp("", "lockcert-state")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer os.RemoveAll(state)
	p := &pool{argv: cfg.Worker, su: setup{Wrong: cfg.wrong, State: state}, idle: map[int][]*worker{}}
	defer p.close()

	places := []string{Same}
	if len(cfg.Dirs) > 1 {
		places = append(places, Across)
	}
	rep := &Report{Dirs: cfg.Dirs, Seed: cfg.Seed, Began: time.Now(), Places: places}
	end := rep.Began.Add(time.Duration(cfg.Minutes * float64(time.Minute)))
	for lap := 0; ; lap++ {
		made := 0
		for i, c := range checks {
			if lap > 0 && !c.race {
				continue
			}
			for _, place := range places {
				if ctx.Err() != nil {
					return rep.end(), fmt.Errorf("%w: %w", ErrSetup, ctx.Err())
				}
				if rep.failed(c.Name, place) {
					continue // its first counter-example is what counts
				}
				made++
				r, err := one(&cfg, p, c, place, bases, lap, i)
				if err != nil {
					return rep.end(), fmt.Errorf("%w: %s: %w", ErrSetup, c.Name, err)
				}
				rep.add(r)
				// A file system that loses calls would make the run last minutes longer, to say the same.
				if r.Status == Fail && r.Seconds >= cfg.Patience.Seconds() && impatient > 0 {
					if impatient--; impatient == 0 {
						cfg.Patience /= 4
					}
				}
				if cfg.Enough != nil && cfg.Enough(rep) {
					return rep.end(), nil
				}
				if cfg.Progress != nil {
					fmt.Fprintf(cfg.Progress, "%-24s %-7s %-9s %5.1f s\n", c.Name, place, r.Status, r.Seconds)
				}
			}
		}
		if cfg.Minutes == 0 || made == 0 || time.Now().After(end) {
			return rep.end(), nil
		}
	}
}

func (cfg *Config) fill() {
	cfg.Dirs = slices.Clone(cfg.Dirs) // made absolute
	for cfg.Seed == 0 {
		var b [4]byte
		rand.Read(b[:])
		cfg.Seed = uint64(binary.LittleEndian.Uint32(b[:]))
	}
	if cfg.Slice == 0 {
		cfg.Slice = 700 * time.Millisecond
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 40 * time.Millisecond
	}
	if len(cfg.Worker) == 0 {
		cfg.Worker = []string{"/proc/self/exe", Verb}
	}
}

// prepare makes a directory of this run's own through the first mount and makes sure that the
// others show the same one.
func prepare(dirs []string, seed uint64, patience time.Duration) ([]string, error) {
	if len(dirs) == 0 {
		return nil, errors.New("no directory given")
	}
	for i := range dirs {
		abs, err := filepath.Abs(dirs[i])
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(abs); err != nil {
			return nil, err
		}
		dirs[i] = abs
	}
	sub := fmt.Sprintf("lockcert-%d-%d", os.Getpid(), seed)
	bases := inDirs(dirs, sub)
	if err := os.Mkdir(bases[0], 0o755); err != nil {
		return nil, err
	}
	token := fmt.Sprint(seed, now())
	err := os.WriteFile(filepath.Join(bases[0], "token"), []byte(token), 0o644)
	for _, b := range bases {
		if err != nil {
			break
		}
		// A file system with weak coherence may need a moment to show a name.
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			var got []byte
			if got, err = os.ReadFile(filepath.Join(b, "token")); err == nil && string(got) == token {
				break
			}
			if time.Now().After(end) {
				err = fmt.Errorf("%s does not show what was made in %s: not one file system?", filepath.Dir(b), dirs[0])
				break
			}
		}
	}
	if err != nil {
		os.RemoveAll(bases[0])
		return nil, err
	}
	return bases, nil
}

// one makes one check in one placement.
func one(cfg *Config, p *pool, c Check, place string, bases []string, lap, index int) (r Result, err error) {
	sub := fmt.Sprintf("%02d-%s-%s-%d", index, strings.ReplaceAll(c.Name, "/", "-"), place, lap)
	t := &T{pool: p, mounts: []int{0}, dirs: inDirs(bases, sub), workers: map[int]*W{},
		rng:   mrand.New(mrand.NewPCG(cfg.Seed+uint64(lap), uint64(index*2+len(place)))),
		slice: cfg.Slice, patience: cfg.Patience, grace: cfg.Grace, disturbBy: cfg.Disturb}
	if place == Across {
		t.mounts = t.mounts[:0]
		for i := range cfg.Dirs {
			t.mounts = append(t.mounts, i)
		}
	}
	if err := os.Mkdir(t.dirs[0], 0o755); err != nil {
		return r, err
	}
	began := time.Now()
	r = Result{Check: c.Name, Promise: c.Promise, Place: place, Status: Pass, Apart: c.Apart == "always" || c.Apart == place}
	defer func() {
		switch v := recover().(type) {
		case nil:
		case verdict:
			r.Status, r.Detail, r.Trace = Fail, v.text, v.trace
			if v.skip {
				r.Status = Skip
			}
		case broken:
			err = v.err
		default:
			panic(v)
		}
		t.done()
		r.Seconds = time.Since(began).Seconds()
		r.Rounds, r.Calls, r.Undecided = t.rounds, t.ops, t.unsure
		os.RemoveAll(t.dirs[0])
	}()
	c.run(t)
	return r, nil
}
