package locker

import "fmt"

// Check walks all locks of obj at the end of a step and reports the first thing that cannot
// be: the engine's own mistakes, and caps beyond the rows, which are the host's.
func Check(obj Object) error {
	locks := obj.Locks()
	for i := range locks {
		if err := locks[i].check(); err != nil {
			return fmt.Errorf("%v: %w", locks[i].Describe(), err)
		}
		if i > 0 && locks[i].typ <= locks[i-1].typ {
			return fmt.Errorf("%v: locks are out of order", obj.Key())
		}
	}
	return nil
}

func (l *Lock) check() error {
	t, row := l.table(), l.row()
	if x := l.ext; x != nil {
		for i, h := range x.holds {
			if h.mode == X && !(x.hasX && x.xlocker == h.by) {
				return fmt.Errorf("X1: an xlock without its reservation")
			}
			for _, g := range x.holds[:i] {
				if (h.mode == X) != (g.mode == X) && h.by.Client != g.by.Client {
					return fmt.Errorf("X1: %v %v beside %v %v", h.by, h.mode, g.by, g.mode)
				}
				if h.mode == X && g.mode == X {
					return fmt.Errorf("X1: two xlocks")
				}
				if (h.mode == Rd && g.mode == Wr || h.mode == Wr && g.mode == Rd) && h.by.Client != g.by.Client {
					return fmt.Errorf("L2: %v %v beside %v %v", h.by, h.mode, g.by, g.mode)
				}
			}
		}
		if x.hasX && row.X != ByAuth && l.state != t.lockXlock && l.state != t.preXlock && l.state != t.xlock && l.state != t.xlockDone {
			return fmt.Errorf("X1: reserved for %v", x.xlocker)
		}
		if row.Steady && len(x.gather) > 0 {
			return fmt.Errorf("Q1: steady with an open gather")
		}
		if row.Steady && l.flags&(queued|inAdvance) == 0 {
			for _, w := range x.waiters {
				if w.set.waiting != l {
					return fmt.Errorf("%v stands in a queue it has left", w.set.Owner)
				}
			}
			if len(x.waiters) > 0 && l.mayTake(x.waiters[0].mode, x.waiters[0].set.Owner) && !x.wrote {
				return fmt.Errorf("V1: %v could have been served", x.waiters[0].set.Owner)
			}
		}
	}
	if row.Steady && types[l.typ].mask != 0 && l.flags&queued == 0 {
		ti := &types[l.typ]
		loner := l.obj.Loner()
		for i, n := 0, l.obj.Clients(); i < n; i++ {
			cl := l.obj.Client(i)
			if over := ti.letters(cl.Issued) &^ l.letters(row, cl.Client, loner, l.replica()); over != 0 {
				return fmt.Errorf("SO1: c%d is issued %v beyond the row", cl.Client, ti.bits(over))
			}
		}
	}
	return nil
}
