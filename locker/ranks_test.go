package locker

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// Requests of two ranks over two objects: rank 0 is auth of both, rank 1 has copies. Every
// order of arrivals, deaths, finished operations and delivered lock messages, with the policy
// on. Exclusion must hold over both ranks, and from every state everything ends (O1, O5, O6).

type ranksPlan struct {
	typ  Type
	reqs []string // "0 x a b": a request of rank 0
}

// All are explored to their end: those of two and three requests in `make test` too.
var ranksPlans = []ranksPlan{
	{IAuth, []string{"0 xlock a b", "1 rdlock b a"}},
	{INest, []string{"0 wrlock a b", "1 wrlock b a"}},
	{INest, []string{"0 wrlock a b", "1 rdlock b a"}},
	{IFile, []string{"0 xlock a b", "1 rdlock b a"}},
	{IFile, []string{"0 wrlock a b", "1 rdlock b a"}},
	{IAuth, []string{"0 xlock a b", "1 rdlock b a", "0 xlock b"}},
	{INest, []string{"0 wrlock a b", "1 wrlock b a", "1 rdlock a b"}},
	{IFile, []string{"0 xlock a b", "1 rdlock b a", "0 wrlock b"}},
	{IAuth, []string{"0 xlock a b", "1 rdlock b a", "0 xlock b", "1 rdlock a"}},
	{INest, []string{"0 wrlock a b", "1 wrlock b a", "1 rdlock a b", "0 rdlock b"}},
	{IFile, []string{"0 xlock a b", "1 rdlock b a", "0 wrlock b", "1 rdlock b"}},
}

// ranks is one state, reached by a list of actions.
type ranks struct {
	plan  *ranksPlan
	e     [2]*Engine
	objs  [2][2]*testObject // [rank][object]
	down  []rankMsg         // from auth to the copies, in order
	up    []rankMsg
	sets  []*LockSet
	dead  []bool
	woken []*LockSet
	err   error
}

type rankMsg struct {
	obj int
	m   Msg
}

func (p *ranksPlan) begin() *ranks {
	w := &ranks{plan: p, sets: make([]*LockSet, len(p.reqs)), dead: make([]bool, len(p.reqs))}
	w.e = [2]*Engine{New(w), New(w)}
	for i := range 2 {
		w.objs[0][i] = newObject(wire.Ino(i+1), p.typ)
		w.objs[1][i] = newObject(wire.Ino(i+1), p.typ)
		w.objs[0][i].replicas = []wire.Rank{1}
		w.objs[1][i].traits = Replica
		w.e[0].Touch(&w.objs[0][i].locks[0])
	}
	w.settle()
	return w
}

func (w *ranks) Reissue(Object)    {}
func (w *ranks) Pin(Object, int)   {}
func (w *ranks) Absorb(*Lock) bool { return true }
func (w *ranks) Base(*Lock)        {}
func (w *ranks) Wake(set *LockSet) { w.woken = append(w.woken, set) }
func (w *ranks) Tell(_ wire.Rank, l *Lock, m Msg) {
	for i := range 2 {
		switch l.obj {
		case Object(w.objs[0][i]):
			w.down = append(w.down, rankMsg{i, m})
		case Object(w.objs[1][i]):
			w.up = append(w.up, rankMsg{i, m})
		}
	}
}

// settle lets both ranks end their step.
func (w *ranks) settle() {
	for {
		w.e[0].Settle()
		w.e[1].Settle()
		if len(w.woken) == 0 {
			return
		}
		again := w.woken
		w.woken = nil
		for _, set := range again {
			set.Acquire(w.e[set.User.(int)])
		}
	}
}

func (w *ranks) held(i int) bool {
	return w.sets[i] != nil && !w.dead[i] && w.sets[i].WaitingOn() == nil
}

// actions lists what may happen, progress first.
func (w *ranks) actions() (all []string, progress int) {
	if len(w.down) > 0 {
		all = append(all, "down")
	}
	if len(w.up) > 0 {
		all = append(all, "up")
	}
	for i := range w.sets {
		if w.held(i) {
			all = append(all, fmt.Sprintf("finish %d", i))
		}
	}
	progress = len(all)
	for i := range w.sets {
		switch {
		case w.sets[i] == nil:
			all = append(all, fmt.Sprintf("start %d", i))
		case !w.dead[i] && !w.held(i):
			all = append(all, fmt.Sprintf("kill %d", i))
		}
	}
	return all, progress
}

func (w *ranks) act(action string) {
	name, arg, _ := strings.Cut(action, " ")
	var i int
	fmt.Sscan(arg, &i)
	switch name {
	case "down":
		m := w.down[0]
		w.down = slices.Delete(w.down, 0, 1)
		w.err = w.e[1].Receive(&w.objs[1][m.obj].locks[0], AuthRank, m.m)
	case "up":
		m := w.up[0]
		w.up = slices.Delete(w.up, 0, 1)
		w.err = w.e[0].Receive(&w.objs[0][m.obj].locks[0], 1, m.m)
	case "start":
		f := strings.Fields(w.plan.reqs[i])
		rank := int(f[0][0] - '0')
		set := &LockSet{Owner: Owner{Client: uint64(i + 1), Req: uint64(i + 1)}, User: rank}
		set.Begin()
		for _, n := range f[2:] {
			set.add(&w.objs[rank][n[0]-'a'].locks[0], map[string]Mode{"rdlock": Rd, "wrlock": Wr, "xlock": X}[f[1]])
		}
		w.sets[i] = set
		set.Acquire(w.e[rank])
	case "finish", "kill":
		w.dead[i] = true
		w.sets[i].Release(w.e[w.sets[i].User.(int)])
	}
	w.settle()
}

// check is exclusion over both ranks, M1, M2, and what waits for what.
func (w *ranks) check() error {
	if w.err != nil {
		return fmt.Errorf("Q1: %w", w.err)
	}
	for i := range 2 {
		auth, copy := &w.objs[0][i].locks[0], &w.objs[1][i].locks[0]
		if copy.State() == "sync" && !strings.HasPrefix(auth.State(), "sync") {
			return fmt.Errorf("M1: copy sync, auth %s", auth.State())
		}
		if copy.State() == "mix" && !strings.HasPrefix(auth.State(), "mix") {
			return fmt.Errorf("M2: copy mix, auth %s", auth.State())
		}
		for _, m := range []Mode{Rd, Wr, X} {
			if copy.Held(m) && auth.Held(X) {
				return fmt.Errorf("X1: %v at the copy beside an xlock", m)
			}
		}
		if copy.Held(Rd) && auth.Held(Wr) || copy.Held(Wr) && auth.Held(Rd) {
			return fmt.Errorf("L2: readers beside writers of another rank")
		}
		for _, o := range []*testObject{w.objs[0][i], w.objs[1][i]} {
			if err := Check(o); err != nil {
				return err
			}
		}
	}
	for i, set := range w.sets {
		if set == nil || set.WaitingOn() == nil {
			continue
		}
		for _, it := range set.items {
			if it.held != None && !before(it.l, set.WaitingOn()) {
				return fmt.Errorf("O5: request %d holds %v while it waits for %v", i, it.l, set.WaitingOn())
			}
		}
	}
	return nil
}

func (w *ranks) key() string {
	var b strings.Builder
	for r := range 2 {
		for i := range 2 {
			l := &w.objs[r][i].locks[0]
			fmt.Fprintf(&b, "%s %d", l.State(), l.flags)
			if x := l.ext; x != nil {
				fmt.Fprint(&b, x.holds, x.hasX, x.xlocker, x.wrote, x.gather)
				for _, q := range x.waiters {
					fmt.Fprint(&b, q.set.Owner, q.mode)
				}
			}
		}
	}
	fmt.Fprint(&b, w.down, w.up, w.dead)
	for i := range w.sets {
		fmt.Fprint(&b, w.sets[i] != nil, w.held(i))
	}
	return b.String()
}

func (p *ranksPlan) at(path []string) *ranks {
	w := p.begin()
	for _, a := range path {
		w.act(a)
	}
	return w
}

// drain lets messages arrive and holders finish, and says what is then left to be desired.
func (p *ranksPlan) drain(path []string) error {
	w := p.at(path)
	for n := 0; ; n++ {
		all, progress := w.actions()
		if progress == 0 {
			break
		}
		if n > 200 {
			return fmt.Errorf("V1: no end")
		}
		w.act(all[n%progress])
	}
	for i := range w.sets {
		if w.sets[i] != nil && !w.dead[i] {
			return fmt.Errorf("deadlock: request %d waits for %v", i, w.sets[i].WaitingOn().Describe())
		}
	}
	for i := range 2 {
		auth, copy := &w.objs[0][i].locks[0], &w.objs[1][i].locks[0]
		if !auth.Steady() || copy.state != auth.Born() {
			return fmt.Errorf("V1: auth %v, copy %v", auth.Describe(), copy.Describe())
		}
	}
	return nil
}

func TestRanks(t *testing.T) {
	for i := range ranksPlans {
		p := &ranksPlans[i]
		t.Run(fmt.Sprintf("%v %s", p.typ, strings.Join(p.reqs, ", ")), func(t *testing.T) {
			if len(p.reqs) > 3 && os.Getenv("CAPSTAN_EXPLORE") == "" {
				t.Skip("set CAPSTAN_EXPLORE=1, or run `make explore`")
			}
			states, moves, complete, err := p.explore(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states, %d transitions", states, moves)
			if !complete {
				t.Error("not complete")
			}
		})
	}
}

// A table in which auth does not tell its copies, or does not wait for them, must be noticed
// over two ranks too.
func TestRanksNoticeAWrongTable(t *testing.T) {
	old := types[IAuth].table
	defer func() { types[IAuth].table = old }()
	for want, wrong := range map[string]func(*Table){
		"M1":   func(tb *Table) { row(tb, "sync>lock").Tell = NoMsg },
		"wait": func(tb *Table) { row(tb, "sync>lock").Ack = NoMsg },
	} {
		clone := *old
		clone.Rows = slices.Clone(old.Rows)
		wrong(&clone)
		types[IAuth].table = &clone
		if _, _, _, err := ranksPlans[0].explore(1 << 20); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s: %v", want, err)
		}
	}
}

// explore visits the states of a plan, at most limit, and lets everything end from each.
func (p *ranksPlan) explore(limit int) (states, moves int, complete bool, err error) {
	seen := map[string]bool{}
	queue := [][]string{nil}
	for len(queue) > 0 && len(seen) < limit {
		path := queue[0]
		queue = queue[1:]
		all, _ := p.at(path).actions()
		for _, action := range all {
			next := append(slices.Clone(path), action)
			w := p.at(next)
			moves++
			err := w.check()
			if k := w.key(); err == nil && !seen[k] {
				seen[k] = true
				queue = append(queue, next)
				err = p.drain(next)
			}
			if err != nil {
				return len(seen), moves, false, fmt.Errorf("%w\nafter %v", err, next)
			}
		}
	}
	return len(seen), moves, len(queue) == 0, nil
}
