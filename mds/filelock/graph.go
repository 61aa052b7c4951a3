package filelock

import (
	"slices"

	"github.com/capstan-fs/capstan/internal/wrong"
)

// Graph joins the tables of a rank: who waits where. It answers whether a new waiter would
// close a circle of waiting (fcntl only: EDEADLK).
type Graph struct {
	waits  map[Owner][]*Table // an entry per waiter
	frozen bool
	wrong  wrong.Set // seeded bugs: see wrong.go
}

// NewGraph is an empty graph, with seeded bugs in a cluster that is to have them.
func NewGraph(bugs wrong.Set) *Graph { return &Graph{waits: map[Owner][]*Table{}, wrong: bugs} }

// NewTable is an empty table that belongs to the graph.
func (g *Graph) NewTable() *Table {
	t := &Table{g: g}
	t.spaces[0].wrong, t.spaces[1].wrong, t.spaces[1].flock = g.wrong, g.wrong, true
	return t
}

func (g *Graph) add(o Owner, t *Table) { g.waits[o] = append(g.waits[o], t) }

func (g *Graph) remove(o Owner, t *Table) {
	l := g.waits[o]
	if i := slices.Index(l, t); i >= 0 {
		l = slices.Delete(l, i, i+1)
	}
	if len(l) == 0 {
		delete(g.waits, o)
	} else {
		g.waits[o] = l
	}
}

// deadlock searches from the owners that w would wait for, over what those wait for, of any
// length and over any files, for w's own owner.
func (g *Graph) deadlock(t *Table, s *space, w *Waiter) bool {
	if g.wrong.Has(wrong.NoDeadlock) {
		return false
	}
	seen := map[Owner]bool{}
	var todo []Owner
	found := false
	visit := func(o Owner) bool {
		if o == w.Owner {
			found = true
			return true
		}
		if !seen[o] {
			seen[o] = true
			todo = append(todo, o)
		}
		return false
	}
	s.inTheWay(&w.Held, len(s.wait), visit)
	for len(todo) > 0 && !found {
		o := todo[0]
		todo = todo[1:]
		for _, at := range g.waits[o] {
			ps := at.space(false)
			for i := range ps.wait {
				if ps.wait[i].Owner == o {
					ps.inTheWay(&ps.wait[i].Held, i, visit)
				}
			}
		}
	}
	return found
}
