package locker

import "fmt"

// order is a schedule of progress actions.
type order uint8

const (
	firstFirst order = iota
	lastFirst
	orders
)

// silent names who does nothing any more: a bit per client, then a bit per replica.
type silent uint8

func (s silent) client(i int) bool  { return s>>i&1 != 0 }
func (s silent) replica(r int) bool { return s>>(maxClients+r)&1 != 0 }

// drained runs progress actions only until w rests, or until it meets a state from which
// that is known to end (V1). No schedule of n steps may go round.
func (ex *explorer) drained(w world, o order, ended *hashSet) (steps int, why string) {
	for ; steps < 400; steps++ {
		if ended != nil && !ended.add(w.key(ex.names)) {
			return steps, ""
		}
		if !ex.progress(&w, o, 0) {
			return steps, ex.rests(&w, 0)
		}
	}
	return steps, "no end in 400 steps"
}

// progress takes one step of the schedule; false: nothing moves any more.
func (ex *explorer) progress(w *world, o order, s silent) bool {
	acts := ex.possible(w, true)
	for i := range acts {
		a := acts[i]
		if o == lastFirst {
			a = acts[len(acts)-1-i]
		}
		switch a.kind {
		case clientHears, rankHears:
			if s.client(int(a.who)) {
				continue
			}
		case replicaHears, authHears, replicaDrops:
			if s.replica(int(a.who)) {
				continue
			}
		}
		if ex.do(w, a) && ex.w != *w && !ex.beyond() { // a queue that is full is emptied first
			*w = ex.w
			return true
		}
	}
	return false
}

// rests says what is left to be desired of a world in which nothing moves.
func (ex *explorer) rests(w *world, gone silent) string {
	ex.load(w)
	l := ex.lock()
	if !l.Steady() {
		return fmt.Sprintf("stuck in %s, awaiting %v", l.State(), l.Awaits())
	}
	for i := range ex.at {
		c := &w.cl[i]
		if c.nDown|c.nUp != 0 {
			return fmt.Sprintf("queues of c%d are not empty", i+1)
		}
		if c.H != c.B || c.B != c.P {
			return fmt.Sprintf("c%d ends with H=%v B=%v P=%v", i+1, Letters(c.H), Letters(c.B), Letters(c.P))
		}
	}
	for r := range ex.nr {
		if w.rep[r].nDown|w.rep[r].nUp != 0 || w.rep[r].absent == 0 && State(w.rep[r].state) != l.row().Born {
			return fmt.Sprintf("mds.%d in %s under %s", r, l.table().Row(State(w.rep[r].state)).Name, l.State())
		}
	}
	return ""
}

// drainedWithout is V4 and V5: whoever s names is silent, everything else goes on until
// nothing moves, then the silent are evicted and the rest must end.
func (ex *explorer) drainedWithout(w world, s silent) string {
	for n := 0; ex.progress(&w, firstFirst, s); n++ {
		if n > 400 {
			return "no end in 400 steps"
		}
	}
	ex.load(&w)
	for i := range ex.at {
		if s.client(i) {
			ex.die(i)
		}
	}
	for r := range ex.nr {
		if s.replica(r) {
			ex.rankDies(r)
		}
	}
	ex.settle()
	if why := ex.check(); why != "" {
		return why
	}
	for n, v := 0, ex.w; ; n++ {
		if n > 400 {
			return "no end in 400 steps"
		}
		if !ex.progress(&v, firstFirst, 0) {
			return ex.rests(&v, s)
		}
	}
}
