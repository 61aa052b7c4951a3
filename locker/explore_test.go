package locker

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// config is one world, and how many states it must have: an engine that moves otherwise has
// others. docs/locks.md shows the list (make diagrams).
type config struct {
	class    string
	typ      Type
	replicas int
	dynamic  bool
	clients  string // a: at auth, 0: at replica 0
	room     int    // messages per client and direction; 0: two
	freeze   bool
	short    bool // small enough for make test

	states, moves int // counted; 0: not known yet
	reference     int // states of reference §3.5, where it has this world
}

var configs = []config{
	{class: "simple", typ: IAuth, clients: "aa", short: true, states: 1546, moves: 9534},
	{class: "simple", typ: IAuth, replicas: 2, short: true, states: 59, moves: 178},
	{class: "simple", typ: IAuth, replicas: 2, dynamic: true, short: true, reference: 5675, states: 1283, moves: 7041},
	{class: "simple", typ: IAuth, replicas: 1, dynamic: true, clients: "a", freeze: true, short: true, states: 15188, moves: 101866},
	{class: "simple", typ: IAuth, clients: "aa", room: 3, short: true, states: 1682, moves: 10156},
	{class: "simple", typ: IAuth, clients: "aaa", short: true, reference: 89447, states: 7076, moves: 66149},
	{class: "simple", typ: IAuth, replicas: 1, dynamic: true, clients: "a0", short: true, states: 8874, moves: 57135},
	{class: "scatter", typ: INest, replicas: 2, short: true, states: 673, moves: 2255},
	{class: "scatter", typ: INest, replicas: 2, dynamic: true, short: true, reference: 92493, states: 67234, moves: 394073},
	{class: "file", typ: IFile, clients: "a", short: true, states: 16131, moves: 86812},
	{class: "file", typ: IFile, clients: "aa", short: true, reference: 618562, states: 237296, moves: 2046740},
	{class: "file", typ: IFile, replicas: 2, dynamic: true, short: true, reference: 72711, states: 59389, moves: 343312},
	{class: "file", typ: IFile, replicas: 1, clients: "a", short: true, states: 45758, moves: 276011},
	{class: "file", typ: IFile, replicas: 1, clients: "0", short: true, states: 940, moves: 4305},
	{class: "simple", typ: IAuth, replicas: 2, clients: "aa0", reference: 671409, states: 124864, moves: 1333689},
	{class: "simple", typ: IAuth, replicas: 2, dynamic: true, clients: "aa", reference: 4449201, states: 668176, moves: 7329570},
	{class: "file", typ: IFile, replicas: 1, dynamic: true, clients: "a0", reference: 753046, states: 1021505, moves: 7752495},
	{class: "file", typ: IFile, replicas: 2, clients: "a0", reference: 784552, states: 1091709, moves: 10211658},
	{class: "file", typ: IFile, replicas: 1, clients: "aa", reference: 2884169, states: 1367720, moves: 13232872},
	{class: "file", typ: IFile, replicas: 1, dynamic: true, clients: "a", states: 889920, moves: 6588235},
	{class: "file", typ: IFile, replicas: 1, clients: "a", freeze: true, states: 92659, moves: 608052},
	{class: "file", typ: IFile, clients: "a", room: 3, states: 30214, moves: 161922},
	{class: "file", typ: IFile, replicas: 2, dynamic: true, clients: "a", reference: 22658245, states: 49429784, moves: 466041754},
	{class: "file", typ: IFile, clients: "aaa", states: 9239337, moves: 113604673},
}

func (c *config) String() string {
	s := fmt.Sprintf("%s %v, %d replicas", c.class, c.typ, c.replicas)
	if c.dynamic {
		s += " dynamic"
	} else if c.replicas > 0 {
		s += " fixed"
	}
	if c.clients != "" {
		s += ", clients " + strings.Join(strings.Split(c.clients, ""), " ")
	}
	if c.room != 0 {
		s += fmt.Sprintf(", queues of %d", c.room)
	}
	if c.freeze {
		s += ", frozen"
	}
	return s
}

func (c *config) explorer() *explorer {
	var at []int
	for _, r := range c.clients {
		if r == 'a' {
			at = append(at, 0)
		} else {
			at = append(at, int(r-'0')+1)
		}
	}
	ex := newExplorer(c.typ, at, c.replicas)
	ex.dynamic, ex.freezes, ex.deaths = c.dynamic, c.freeze, true
	if c.room != 0 {
		ex.capMax = uint8(c.room)
	}
	return ex
}

// TestExplore visits every state of the small worlds; CAPSTAN_EXPLORE=1 (make explore) also
// those of the larger ones.
func TestExplore(t *testing.T) {
	full := os.Getenv("CAPSTAN_EXPLORE") != ""
	visited := make([]map[State]bool, len(configs))
	t.Run("worlds", func(t *testing.T) {
		for i := range configs {
			c := &configs[i]
			if !c.short && !full {
				continue
			}
			t.Run(strings.NewReplacer(" ", "_", ",", "").Replace(c.String()), func(t *testing.T) {
				if full {
					t.Parallel()
				}
				ex := c.explorer()
				begun := time.Now()
				limit := 1 << 27
				if raceDetector {
					limit = 20_000
				}
				res := ex.explore(limit)
				t.Logf("%d states, %d transitions, %d steps deep, complete %v, longest drain %d, %v",
					res.states, res.moves, res.deepest, res.complete, res.longest, time.Since(begun).Round(time.Millisecond))
				visited[i] = ex.rows
				if res.broken != "" {
					t.Fatalf("%s\n  %s", res.broken, strings.Join(res.trace, "\n  "))
				}
				if raceDetector {
					return
				}
				if !res.complete {
					t.Fatal("not complete")
				}
				if c.states != 0 && (res.states != c.states || res.moves != c.moves) {
					t.Errorf("%v: %d states, %d transitions; the list says %d and %d: find out what moves otherwise, then change it",
						c, res.states, res.moves, c.states, c.moves)
				}
			})
		}
	})
	if raceDetector || t.Failed() {
		return
	}
	// What has nothing to await is left in the step that enters it, and so is never at rest.
	passing := map[string]bool{"simple lock>sync": true, "simple lock>excl": true, "simple lock>xlock": true,
		"scatter lock>mix": true, "scatter tsyn>sync": true}
	for _, tb := range tables[1:] {
		for s, r := range tb.Rows {
			reached := passing[tb.Class+" "+r.Name]
			for i := range configs {
				reached = reached || configs[i].class == tb.Class && visited[i][State(s)]
			}
			if !reached {
				t.Errorf("%s: %s was never reached", tb.Class, r.Name)
			}
		}
	}
}

// Symmetry must lose nothing: the states found without it, taken up to renaming, are those
// found with it.
func TestSymmetryLosesNoState(t *testing.T) {
	if raceDetector {
		t.Skip("slow under the race detector; runs without it")
	}
	for _, c := range []config{{typ: IAuth, clients: "aa"}, {typ: IAuth, replicas: 2, dynamic: true}, {typ: INest, replicas: 2}} {
		with := c.explorer()
		without := c.explorer()
		names := without.names
		without.names = names[:1]
		if len(names) < 2 {
			t.Fatalf("%v has no symmetry", &c)
		}
		var classes hashSet
		without.eachState(func(w *world) { classes.add(w.key(names)) })
		if res := with.explore(1 << 20); classes.n != res.states {
			t.Errorf("%v: %d states up to renaming, found %d", &c, classes.n, res.states)
		}
	}
}

// eachState visits all states, without looking at them.
func (ex *explorer) eachState(visit func(*world)) {
	var seen hashSet
	queue := []world{ex.w}
	seen.add(ex.w.key(ex.names))
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		visit(&w)
		for _, a := range append([]action(nil), ex.possible(&w, false)...) {
			if ex.do(&w, a) && !ex.beyond() && seen.add(ex.w.key(ex.names)) {
				queue = append(queue, ex.w)
			}
		}
	}
}
