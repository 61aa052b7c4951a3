package ranksim

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// Load is what clients do.
type Load struct {
	Clients int   // for each rank
	Window  int   // requests of one client on their way
	Warm    int64 // ns before it is counted
	Span    int64 // ns while it is
	Shared  bool  // all in one directory; else each client in one of its own, spread over the ranks by ceph.dir.pin
	Stat    bool  // look up the names that another client made, else make new ones
}

// Result is what came of it. Rates are per second of virtual time.
type Result struct {
	Ranks   int
	Rate    float64 // operations
	Busiest float64 // share of the time that the busiest rank's processor worked
	Mean    float64 // … and of all
	Steps   float64 // of rank cores for each operation
}

// worker is one client at work in a directory.
type worker struct {
	c     *client
	dir   wire.Ino
	id    int
	next  int      // number of the next name
	made  []string // that are acknowledged
	looks []string // names to look up
	stop  bool
	inAir int
}

// Run plays a load on n ranks, then looks whether the tree has what was acknowledged.
func Run(n int, p Params, l Load) (Result, error) {
	w, err := New(n, p)
	if err != nil {
		return Result{}, err
	}
	ws, err := w.place(l)
	if err != nil {
		return Result{}, err
	}
	if l.Stat {
		if err := w.fill(ws, l); err != nil {
			return Result{}, err
		}
	}
	ops := 0
	for _, k := range ws {
		for range l.Window {
			if l.Stat {
				k.look(&ops, &w.err)
			} else {
				k.create(&ops, &w.err)
			}
		}
	}
	if err := w.run(l.Warm); err != nil {
		return Result{}, err
	}
	before, steps := w.worked()
	ops = 0
	if err := w.run(l.Span); err != nil {
		return Result{}, err
	}
	after, steps2 := w.worked()
	res := Result{Ranks: n, Rate: float64(ops) / float64(l.Span) * 1e9, Steps: float64(steps2-steps) / float64(max(ops, 1))}
	for i := range after {
		share := float64(after[i]-before[i]) / float64(l.Span)
		res.Busiest = max(res.Busiest, share)
		res.Mean += share / float64(n)
	}
	return res, w.finish(ws)
}

func (w *World) worked() (each []int64, steps int) {
	for _, r := range w.ranks {
		each = append(each, r.worked)
		steps += r.steps
	}
	return each, steps
}

// place makes the directories, and gives them to their ranks.
func (w *World) place(l Load) (ws []*worker, err error) {
	admin := w.client()
	var shared wire.Ino
	for i := range l.Clients * len(w.ranks) {
		dir := shared
		if !l.Shared || i == 0 {
			rep, err := admin.do(&wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: fmt.Sprintf("d%d", i), Mode: 0o755})
			if err != nil {
				return nil, err
			}
			dir = rep.Target.Ino
			if r := i % len(w.ranks); r > 0 && !l.Shared {
				if _, err := admin.do(&wire.Request{Op: wire.OpSetxattr, Ino: dir, Xname: "ceph.dir.pin", Xval: fmt.Append(nil, r)}); err != nil {
					return nil, err
				}
				admin.at[dir] = wire.Rank(r)
			}
			shared = dir
		}
		ws = append(ws, &worker{dir: dir, id: i})
	}
	for i, k := range ws { // each finds its directory by its name, as a mount does
		k.c = w.client()
		name := fmt.Sprintf("d%d", i)
		if l.Shared {
			name = "d0"
		}
		if _, err := k.c.do(&wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: name}); err != nil {
			return nil, err
		}
	}
	return ws, nil
}

// fill lets each worker make the names that its neighbour then looks up.
func (w *World) fill(ws []*worker, l Load) error {
	for _, k := range ws {
		for range l.Window {
			k.create(new(int), &w.err)
		}
	}
	if err := w.run(l.Warm + l.Span); err != nil {
		return err
	}
	if err := w.still(ws); err != nil {
		return err
	}
	for i, k := range ws {
		of := ws[(i+len(w.ranks))%len(ws)] // of the same rank
		k.dir, k.looks, k.made, k.stop = of.dir, of.made, nil, false
		k.c.at[k.dir] = of.c.at[of.dir]
	}
	return nil
}

func (w *World) still(ws []*worker) error {
	for _, k := range ws {
		k.stop = true
	}
	return w.until(20e9, "the last answers", func() bool {
		for _, k := range ws {
			if k.inAir > 0 {
				return false
			}
		}
		return true
	})
}

func (k *worker) create(ops *int, failed *error) {
	if k.stop {
		return
	}
	name := fmt.Sprintf("f%d.%d", k.id, k.next)
	k.next++
	k.inAir++
	k.c.ask(&wire.Request{Op: wire.OpCreate, Ino: k.dir, Name: name, Mode: 0o644, Want: wants}, func(r *wire.Reply) {
		k.inAir--
		if r.Errno != 0 || r.Target == nil {
			*failed = fmt.Errorf("ranksim: create %s: errno %d", name, r.Errno)
			return
		}
		*ops++
		k.made = append(k.made, name)
		k.c.close(r.Target)
		k.create(ops, failed)
	})
}

func (k *worker) look(ops *int, failed *error) {
	if k.stop || len(k.looks) == 0 {
		return
	}
	name := k.looks[k.next%len(k.looks)]
	k.next++
	k.inAir++
	k.c.ask(&wire.Request{Op: wire.OpLookup, Ino: k.dir, Name: name}, func(r *wire.Reply) {
		k.inAir--
		if r.Errno != 0 || r.Target == nil {
			*failed = fmt.Errorf("ranksim: lookup of %s: errno %d", name, r.Errno)
			return
		}
		*ops++
		k.look(ops, failed)
	})
}

// finish lets all end and lists the directories: what was acknowledged is there, once.
func (w *World) finish(ws []*worker) error {
	if err := w.still(ws); err != nil {
		return err
	}
	eye := w.client()
	want := map[wire.Ino]map[string]bool{}
	for _, k := range ws {
		if want[k.dir] == nil {
			want[k.dir] = map[string]bool{}
			eye.at[k.dir] = k.c.at[k.dir]
		}
		for _, n := range k.made {
			want[k.dir][n] = true
		}
	}
	for dir, names := range want {
		seen, err := eye.list(dir)
		if err != nil {
			return err
		}
		for n := range names {
			if seen[n] != 1 {
				return fmt.Errorf("ranksim: %v/%s was acknowledged and is there %d times", dir, n, seen[n])
			}
		}
	}
	return nil
}

func (c *client) list(dir wire.Ino) (map[string]int, error) {
	seen := map[string]int{}
	for cookie := uint64(0); ; {
		rep, err := c.do(&wire.Request{Op: wire.OpReaddir, Ino: dir, Cookie: cookie, Max: 1000})
		if err != nil {
			return nil, err
		}
		for _, e := range rep.Entries {
			seen[e.Name]++
			cookie = e.Cookie
		}
		if rep.End || len(rep.Entries) == 0 {
			return seen, nil
		}
	}
}
