package filelock

import (
	"slices"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// Graph joins the tables of a rank: who waits where, how much each client has, and the
// counter of tickets. It answers whether a new waiter would close a circle of waiting (fcntl
// only: EDEADLK).
type Graph struct {
	waits  map[Owner][]place
	has    map[Owner][]use // the spaces where it holds or awaits fcntl ranges
	count  map[uint64]int  // ranges held and waiters, by client
	limit  int             // of count; 0: none
	ticket uint64          // the last one given out
	last   uint64          // the highest there is
	frozen bool
	looked int       // comparisons of one range with another so far: what a long queue costs (tests)
	wrong  wrong.Set // seeded bugs: see wrong.go
}

// use is how many ranges of a space an owner holds and waits for.
type use struct {
	s *space
	n int
}

// place is where a waiter is.
type place struct {
	s      *space
	ticket uint64
}

// ticketBits is how many tickets one incarnation of a rank has.
const ticketBits = 40

// NewGraph is an empty graph whose tickets are above every one of an earlier epoch: the upper
// bits are the epoch of the map that made this rank's incarnation, which only rises and is
// durable at the monitors. So tickets rise over failovers without a journal write. limit is
// how many ranges and waiters one client may have, 0 for any number. bugs are seeded bugs in a
// cluster that is to have them.
func NewGraph(epoch wire.Epoch, limit int, bugs wrong.Set) *Graph {
	base := uint64(epoch) << ticketBits
	return &Graph{waits: map[Owner][]place{}, has: map[Owner][]use{}, count: map[uint64]int{}, limit: limit, ticket: base, last: base + 1<<ticketBits - 1, wrong: bugs}
}

// draw is the next ticket. After 2^40 (a year of 30 000 a second) the rank must start anew.
func (g *Graph) draw() uint64 {
	must.Holdf(g.ticket < g.last, "filelock: ticket %d is the last one of this epoch", g.ticket)
	g.ticket++
	return g.ticket
}

// NewTable is an empty table that belongs to the graph.
func (g *Graph) NewTable() *Table {
	t := &Table{g: g}
	t.spaces[0].g, t.spaces[1].g, t.spaces[1].flock = g, g, true
	return t
}

// full reports whether the client has as much as it may.
func (g *Graph) full(client uint64) bool { return g.limit > 0 && g.count[client] >= g.limit }

// counted notes that an owner has n ranges or waiters more in a space.
func (g *Graph) counted(o Owner, s *space, n int) {
	if c := g.count[o.Client] + n; c != 0 {
		g.count[o.Client] = c
	} else {
		delete(g.count, o.Client)
	}
	if s.flock {
		return
	}
	l := g.has[o]
	i := slices.IndexFunc(l, func(u use) bool { return u.s == s })
	if i < 0 {
		g.has[o] = append(l, use{s, n})
		return
	}
	if l[i].n += n; l[i].n != 0 {
		return
	}
	if len(l) == 1 {
		delete(g.has, o)
		return
	}
	g.has[o] = slices.Delete(l, i, i+1)
}

func (g *Graph) add(s *space, w *Waiter) {
	g.waits[w.Owner] = append(g.waits[w.Owner], place{s, w.Ticket})
	g.counted(w.Owner, s, 1)
}

func (g *Graph) remove(s *space, w *Waiter) {
	l := g.waits[w.Owner]
	i := slices.Index(l, place{s, w.Ticket})
	must.Holdf(i >= 0, "filelock: %v waits and the graph does not know it", w.Held)
	g.counted(w.Owner, s, -1)
	if len(l) == 1 {
		delete(g.waits, w.Owner)
		return
	}
	g.waits[w.Owner] = slices.Delete(l, i, i+1)
}

// search is one look for a circle.
type search struct {
	want  Owner
	found bool
	seen  map[Owner]bool
	todo  []Owner
	asked map[*space][]asked
}

// asked is a request whose obstacles have been visited: those of a narrower one that was
// queued before it are among them.
type asked struct {
	at         int
	start, end uint64
}

func (f *search) visit(o Owner) bool {
	if o == f.want {
		f.found = true
		return true
	}
	if !f.seen[o] {
		f.seen[o] = true
		f.todo = append(f.todo, o)
	}
	return false
}

// from visits whoever is in the way of h, which is queued at place n of s.
func (f *search) from(s *space, h *Held, n int) {
	for _, a := range f.asked[s] {
		if n <= a.at && a.start <= h.Start && h.End <= a.end {
			return
		}
	}
	// Not the first one, in whose way its own owner is not: that is who is looked for.
	if h.Owner != f.want && h.Type == wire.LockWrite && !s.covered(h) {
		f.asked[s] = append(f.asked[s], asked{n, h.Start, h.End})
	}
	s.inTheWay(h, n, f.visit)
}

// awaited reports whether anybody waits for the owner: else no circle goes through it. One who has
// nothing, or whose ranges nobody queues for, so costs no search, however long other queues are.
func (g *Graph) awaited(o Owner) bool {
	for _, u := range g.has[o] {
		if u.s.awaits(o) {
			return true
		}
	}
	return false
}

// awaits reports whether another owner waits in s that o may be in the way of.
func (s *space) awaits(o Owner) bool {
	if len(s.wait) == 0 {
		return false
	}
	i, to := s.run(o)
	for ; i < to; i++ {
		h := &s.held[i]
		if h.End < s.hull[0] || s.hull[1] < h.Start {
			continue
		}
		for k := range s.wait {
			if s.clash(h, &s.wait[k].Held) {
				return true
			}
		}
	}
	for _, at := range s.g.waits[o] { // who is queued behind it waits for it too
		if at.s == s && s.wait[len(s.wait)-1].Ticket > at.ticket {
			return true
		}
	}
	return false
}

// deadlock searches from the owners that w would wait for, over what those wait for, of any
// length and over any files, for w's own owner.
func (g *Graph) deadlock(s *space, w *Waiter) bool {
	if g.wrong.Has(wrong.NoDeadlock) || !g.awaited(w.Owner) {
		return false
	}
	f := search{want: w.Owner, seen: map[Owner]bool{}, asked: map[*space][]asked{}}
	f.from(s, &w.Held, len(s.wait))
	for len(f.todo) > 0 && !f.found {
		// Who was queued last comes first: what the others of the queue wait for is then asked already.
		o := f.todo[len(f.todo)-1]
		f.todo = f.todo[:len(f.todo)-1]
		for _, at := range g.waits[o] {
			if at.s.flock || f.found {
				continue
			}
			i := at.s.find(at.ticket)
			f.from(at.s, &at.s.wait[i].Held, i)
		}
	}
	return f.found
}
