package locker

// explored is what came of an exploration.
type explored struct {
	states, moves int
	deepest       int // steps from the start
	longest       int // schedule of progress actions until rest or a state seen before
	complete      bool
	broken        string
	trace         []string
}

// explore visits every reachable state breadth first, at most limit, and from each lets
// everything end (V1), under two schedules. From one in 37 it does so with one client or
// replica silent (V4, V5). A violation is looked for again with memory of how it came about.
func (ex *explorer) explore(limit int) explored {
	start := ex.w
	res := ex.search(start, limit, nil)
	if res.broken != "" {
		var from []step
		res = ex.search(start, limit, &from)
	}
	return res
}

// beyond reports that a queue of the model had no room.
func (ex *explorer) beyond() bool { return ex.broken == "model: a queue is full" }

// step remembers how a state was reached.
type step struct {
	parent int32
	by     action
}

func (ex *explorer) search(start world, limit int, from *[]step) (res explored) {
	ex.rows = map[State]bool{}
	var seen hashSet
	var ended [orders]hashSet
	level := []world{start}
	seen.add(start.key(ex.names))
	if from != nil {
		*from = append(*from, step{parent: -1})
	}
	for base := 0; len(level) > 0; res.deepest++ {
		var next []world
		for i := range level {
			w := &level[i]
			ex.note(w)
			if why := ex.endings(w, base+i, &ended, &res); why != "" {
				res.broken = why
				res.trace = ex.trace(from, base+i, "then it ends badly")
				return res
			}
			acts := append([]action(nil), ex.possible(w, false)...)
			for _, a := range acts {
				if !ex.do(w, a) {
					continue
				}
				res.moves++
				if ex.beyond() {
					continue
				}
				if why := ex.check(); why != "" {
					res.broken, res.states = why, seen.n
					res.trace = ex.trace(from, base+i, ex.name(a))
					return res
				}
				if seen.add(ex.w.key(ex.names)) {
					next = append(next, ex.w)
					if from != nil {
						*from = append(*from, step{int32(base + i), a})
					}
				}
			}
			if seen.n > limit {
				res.states = seen.n
				return res
			}
		}
		base += len(level)
		level = next
	}
	res.states, res.complete = seen.n, true
	return res
}

func (ex *explorer) note(w *world) {
	ex.rows[State(w.state)] = true
	for r := range ex.nr {
		ex.rows[State(w.rep[r].state)] = true
	}
}

// endings is §3.3 from one state.
func (ex *explorer) endings(w *world, n int, ended *[orders]hashSet, res *explored) string {
	if ex.safety {
		return ""
	}
	for o := range orders {
		steps, why := ex.drained(*w, o, &ended[o])
		if why != "" {
			return "V1: " + why
		}
		res.longest = max(res.longest, steps)
	}
	if n%37 != 0 || w.frozen == frozen {
		return ""
	}
	for i := range ex.at {
		if why := ex.drainedWithout(*w, 1<<i); why != "" {
			return "V4: " + why
		}
	}
	for r := range ex.nr {
		attached := false
		for _, a := range ex.at {
			attached = attached || a == r+1
		}
		if !attached && w.rep[r].known != 0 {
			if why := ex.drainedWithout(*w, 1<<(maxClients+r)); why != "" {
				return "V5: " + why
			}
		}
	}
	return ""
}

// trace is the way to state i, and the last action.
func (ex *explorer) trace(from *[]step, i int, last string) []string {
	if from == nil {
		return nil
	}
	out := []string{last}
	for ; (*from)[i].parent >= 0; i = int((*from)[i].parent) {
		out = append([]string{ex.name((*from)[i].by)}, out...)
	}
	return out
}
