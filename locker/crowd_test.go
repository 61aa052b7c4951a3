package locker

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/scene"
)

// The crowd explores several requests over several objects with the policy on: every order
// of arrivals, deaths, finished operations, cap answers and changed wishes. What must hold:
// Check after every step, and from every state all requests finish when holders finish and
// clients answer (O1–O10 and V1 over several locks).

type crowd struct {
	name   string
	given  []string // scene commands
	reqs   []string // "rdlock a.iauth by=c1; xlock …": one request each
	wishes []string // scene commands, each at most once at any time
	pause  bool
	fault  string
}

var crowds = []crowd{
	{name: "two lockers in opposite order and a reader",
		given: []string{"given a issued=(c8:pAs)", "given b issued=(c9:pAs)"},
		reqs:  []string{"xlock a.iauth b.iauth by=c1", "xlock b.iauth a.iauth by=c2", "rdlock a.iauth b.iauth by=c3"}},
	{name: "create, readdir and chmod of one directory",
		given:  []string{"given f dn issued=(c2:lease)", "given d dir issued=(c1:pAs) wanted=(c1:FsFx)"},
		reqs:   []string{"xlock f.dn by=c1; rdlock d.iauth by=c1; wrlock d.ifile d.inest by=c1", "rdlock d.ifile d.inest by=c2", "xlock d.iauth by=c3"},
		wishes: []string{"want d c2:Fs"}},
	{name: "truncate and stat of a file with a writer",
		given:  []string{"given a wanted=(c1:FsFxFcFrFwFb)"},
		reqs:   []string{"xlock a.ifile by=c1", "rdlock a.ifile a.iauth by=c2", "rdlock a.ifile by=c1b"},
		wishes: []string{"want a c2:FrFw", "want a c1:-"}},
	{name: "readers pause a loner", pause: true,
		given:  []string{"given a wanted=(c1:FsFxFcFrFwFb)"},
		reqs:   []string{"rdlock a.ifile by=c2", "rdlock a.ifile by=c3", "xlock a.ifile by=c3b"},
		wishes: []string{"want a c2:Fr", "want a c1:-"}},
}

// actor is one crowd in one state, reached by a list of actions.
type actor struct {
	*stage
	c       *crowd
	started []bool
	held    []bool
	dead    []bool
	wished  []bool
	kept    map[int]*LockSet // fault: held outside of the request's set
}

func (c *crowd) begin() *actor {
	a := &actor{stage: newStage(nil).(*stage), c: c, started: make([]bool, len(c.reqs)), held: make([]bool, len(c.reqs)),
		dead: make([]bool, len(c.reqs)), wished: make([]bool, len(c.wishes)), kept: map[int]*LockSet{}}
	a.disorder = c.fault == "the lock order is ignored"
	a.e.Trace = nil
	a.e.Pause = c.pause
	for _, g := range c.given {
		a.must(g)
	}
	return a
}

func (a *actor) must(line string) {
	out, err := scene.Play(line+"\n", a.stage)
	if err != nil {
		panic(err.Error() + out)
	}
	a.out = nil
	a.look()
}

// look notes who got everything meanwhile.
func (a *actor) look() {
	for i := range a.c.reqs {
		if a.started[i] && !a.dead[i] {
			set := a.reqs[a.who(i)]
			a.held[i] = set.WaitingOn() == nil
		}
	}
}

func (a *actor) who(i int) string {
	_, by, _ := strings.Cut(a.c.reqs[i], "by=")
	by, _, _ = strings.Cut(by, ";")
	return by
}

// start makes the request's whole set known at once, as Begin and Acquire do.
func (a *actor) start(i int) {
	set, err := a.request(a.who(i))
	if err != nil {
		panic(err)
	}
	set.Begin()
	for _, part := range strings.Split(a.c.reqs[i], ";") {
		f := strings.Fields(part)
		for _, n := range f[1 : len(f)-1] {
			l, err := a.lock(n)
			if err != nil {
				panic(err)
			}
			set.add(l, map[string]Mode{"rdlock": Rd, "wrlock": Wr, "xlock": X}[f[0]])
		}
	}
	if a.c.fault == "what is held out of order is kept" && len(set.items) > 1 {
		last := set.items[len(set.items)-1]
		kept := &LockSet{Owner: set.Owner}
		kept.add(last.l, last.want)
		if done, _ := kept.Acquire(a.e); done {
			set.items = set.items[:len(set.items)-1]
			a.kept[i] = kept
		} else {
			kept.Release(a.e)
		}
	}
	a.acquire(set)
	a.settle()
}

// actions that are possible; progress ones first.
func (a *actor) actions() (all []string, progress int) {
	for i := range a.c.reqs {
		if a.held[i] && !a.dead[i] {
			all = append(all, fmt.Sprintf("finish %d", i))
		}
	}
	for id := uint64(1); id < 10; id++ {
		for _, n := range a.names {
			o := a.objects[n]
			for _, c := range o.clients {
				if c.Client == id && c.Issued != o.pending[id] {
					all = append(all, fmt.Sprintf("ack %d", id))
				}
			}
		}
	}
	progress = len(all)
	for i := range a.c.reqs {
		if !a.started[i] {
			all = append(all, fmt.Sprintf("start %d", i))
		} else if !a.held[i] && !a.dead[i] {
			all = append(all, fmt.Sprintf("kill %d", i))
		}
	}
	for i := range a.c.wishes {
		if !a.wished[i] {
			all = append(all, fmt.Sprintf("wish %d", i))
		}
	}
	return all, progress
}

func (a *actor) act(action string) {
	name, arg, _ := strings.Cut(action, " ")
	var i int
	fmt.Sscan(arg, &i)
	switch name {
	case "start":
		a.started[i] = true
		a.start(i)
	case "finish", "kill":
		a.dead[i] = true
		set := a.reqs[a.who(i)]
		l := set.WaitingOn()
		reserved := a.c.fault == "a request dies and leaves its reservation" && l != nil && l.ext.hasX && l.ext.xlocker == set.Owner
		set.Release(a.e)
		if reserved {
			l.ext.hasX, l.ext.xlocker = true, set.Owner
		}
		if kept := a.kept[i]; kept != nil {
			kept.Release(a.e)
		}
		a.settle()
	case "ack":
		a.must(fmt.Sprintf("ack c%d", i))
	case "wish":
		a.wished[i] = true
		a.must(a.c.wishes[i])
	}
	a.out = nil
	a.look()
}

func (a *actor) check() error {
	for _, n := range a.names {
		if err := Check(a.objects[n]); err != nil {
			return err
		}
	}
	for i := range a.c.reqs {
		set := a.reqs[a.who(i)]
		if set == nil {
			continue
		}
		if l := set.WaitingOn(); l != nil {
			for _, it := range set.items {
				if it.held != None && !before(it.l, l) {
					return fmt.Errorf("O5: %s holds %v while it waits for %v", a.who(i), it.l, l)
				}
			}
			if len(l.Awaits()) == 0 {
				return fmt.Errorf("%s waits for %v and nobody is named", a.who(i), l)
			}
		}
	}
	return nil
}

func (a *actor) key() string {
	var b strings.Builder
	for _, n := range a.names {
		o := a.objects[n]
		for i := range o.locks {
			l := &o.locks[i]
			if !l.Idle() || l.State() != "sync" {
				fmt.Fprintf(&b, "%d%d%v;", i, l.state, l.flags)
				if x := l.ext; x != nil {
					fmt.Fprintf(&b, "%v%v%v%v%v", x.holds, x.hasX, x.xlocker, x.wrote, x.forced)
					for _, w := range x.waiters {
						fmt.Fprintf(&b, "%v%d", w.set.Owner, w.mode)
					}
				}
			}
		}
		fmt.Fprintf(&b, "|%v%v%d", o.clients, o.pending, o.loner)
	}
	fmt.Fprint(&b, a.started, a.held, a.dead, a.wished)
	return b.String()
}

func (c *crowd) at(path []string) *actor {
	a := c.begin()
	for _, p := range path {
		a.act(p)
	}
	return a
}

func TestCrowd(t *testing.T) {
	limit := 6000
	if raceDetector {
		limit = 500
	}
	if os.Getenv("CAPSTAN_EXPLORE") != "" {
		limit = 1 << 20
	}
	for _, c := range crowds {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			begun := time.Now()
			states, moves, complete, err := c.explore(limit)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states, %d transitions, complete %v, %v", states, moves, complete, time.Since(begun).Round(time.Millisecond))
		})
	}
}

// explore visits the states of a crowd, at most limit, and lets everything end from each.
func (c *crowd) explore(limit int) (states, moves int, complete bool, err error) {
	seen := map[string]bool{}
	queue := [][]string{nil}
	for len(queue) > 0 && len(seen) < limit {
		path := queue[0]
		queue = queue[1:]
		all, _ := c.at(path).actions()
		for _, action := range all {
			next := append(append([]string(nil), path...), action)
			a := c.at(next)
			moves++
			if err := a.check(); err != nil {
				return len(seen), moves, false, fmt.Errorf("%w\nafter %v", err, next)
			}
			if k := a.key(); !seen[k] {
				seen[k] = true
				queue = append(queue, next)
				if err := c.drain(next); err != nil {
					return len(seen), moves, false, err
				}
			}
		}
	}
	return len(seen), moves, len(queue) == 0, nil
}

// crowdFaults break rules that hold between several locks: each must be noticed.
var crowdFaults = []struct {
	fault, want, rule string
	reqs              []string
}{
	{"the lock order is ignored", "deadlock", "O1: deadlock", opposite},
	{"what is held out of order is kept", "deadlock", "O5: deadlock", opposite},
	{"a request dies and leaves its reservation", "V1", "O5: V1, reserved for ever",
		[]string{"wrlock d.ifile by=c1", "xlock d.ifile by=c2", "wrlock d.ifile by=c3"}},
}

var opposite = []string{"xlock a.iauth b.iauth by=c1", "xlock a.iauth b.iauth by=c2", "rdlock a.iauth b.iauth by=c3"}

func TestCrowdFaultsAreCaught(t *testing.T) {
	given := []string{"given a issued=(c8:pAs)", "given b issued=(c9:pAs)", "given d dir"}
	for _, f := range crowdFaults {
		t.Run(strings.ReplaceAll(f.fault, " ", "_"), func(t *testing.T) {
			c := crowd{given: given, reqs: f.reqs, fault: f.fault}
			states, _, _, err := c.explore(6000)
			if err == nil || !strings.Contains(err.Error(), f.want) {
				t.Fatalf("not caught by %q in %d states: %v", f.want, states, err)
			}
			t.Logf("after %d states: %v", states, err)
			c.fault = ""
			if _, _, _, err := c.explore(300); err != nil {
				t.Fatalf("caught without the fault too: %v", err)
			}
		})
	}
}

// drain lets holders finish and clients answer until nothing is left to do.
func (c *crowd) drain(path []string) error {
	a := c.at(path)
	for n := 0; ; n++ {
		all, progress := a.actions()
		if progress == 0 {
			break
		}
		if n > 100 {
			return fmt.Errorf("no end after %v", path)
		}
		a.act(all[n%progress])
	}
	for i := range c.reqs {
		if a.started[i] && !a.dead[i] {
			return fmt.Errorf("deadlock: %s waits for %v\nafter %v", a.who(i), a.reqs[a.who(i)].WaitingOn().Describe(), path)
		}
	}
	for _, n := range a.names {
		for i := range a.objects[n].locks {
			if l := &a.objects[n].locks[i]; !l.Steady() {
				return fmt.Errorf("V1: %v\nafter %v", l.Describe(), path)
			}
		}
	}
	return nil
}

// A stream of readers cannot starve a writer, nor writers a reader (O10): whoever waits sees
// at most one batch of the other sort go by.
func TestBoundedBypass(t *testing.T) {
	for _, first := range []Mode{Rd, X} {
		h := &testHost{}
		e := New(h)
		o := newObject(1, FileTypes...)
		l := Find(o.locks, IAuth)
		n := uint64(0)
		newcomer := func(m Mode) *LockSet {
			n++
			s := &LockSet{Owner: Owner{1, n}}
			s.Begin()
			s.add(l, m)
			s.Acquire(e)
			e.Settle()
			return s
		}
		other := X
		if first == X {
			other = Rd
		}
		alive := []*LockSet{newcomer(first), newcomer(first)}
		victim := newcomer(other)
		for turns := 0; victim.WaitingOn() != nil; turns++ {
			if turns > 3 {
				t.Fatalf("%v starves behind %v", other, first)
			}
			alive = append(alive, newcomer(first))
			var still []*LockSet
			for _, s := range alive {
				if s.WaitingOn() == nil {
					s.Release(e)
				} else {
					still = append(still, s)
				}
			}
			e.Settle()
			alive = still
		}
	}
}

// reportMoves adds what the engine did: transitions per second, allocations per transition.
func reportMoves(b *testing.B, e *Engine, run func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		run()
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(e.Moves)/b.Elapsed().Seconds(), "transitions/s")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(e.Moves), "allocs/transition")
}

func BenchmarkUncontendedSetattr(b *testing.B) {
	e := New(&testHost{})
	in := newObject(1, FileTypes...)
	s := &LockSet{Owner: Owner{3, 1}}
	reportMoves(b, e, func() {
		s.Begin()
		s.X(&in.locks[2])
		if done, _ := s.Acquire(e); !done {
			b.Fatal("contended")
		}
		s.Release(e)
		e.Settle()
	})
}

// BenchmarkRecallRound is a setattr that takes As back from two clients and gives it again.
func BenchmarkRecallRound(b *testing.B) {
	h := &testHost{}
	e := New(h)
	in := newObject(1, FileTypes...)
	in.clients = []ClientCaps{{1, caps.AllShared, 0}, {2, caps.AllShared, 0}}
	s := &LockSet{Owner: Owner{3, 1}}
	reportMoves(b, e, func() {
		s.Begin()
		s.X(&in.locks[2])
		s.Acquire(e)
		e.Settle()
		for i := range in.clients {
			in.clients[i].Issued &^= caps.AuthShared
			e.Changed(in)
		}
		e.Settle()
		s.Release(e)
		e.Settle()
		in.clients[0].Issued, in.clients[1].Issued = caps.AllShared, caps.AllShared
		h.woken, h.reissued = h.woken[:0], h.reissued[:0]
	})
}
