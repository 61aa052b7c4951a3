package locker

import "github.com/capstan-fs/capstan/internal/must"

// Try takes l now or not at all; nobody waits and nothing is kicked. A lock that others wait
// for is not taken past them.
func (e *Engine) Try(l *Lock, mode Mode, by Owner) bool {
	return !l.Contended() && e.take(l, mode, by)
}

// take adds a hold if the present row and the other holds admit it.
func (e *Engine) take(l *Lock, mode Mode, by Owner) bool {
	row := l.row()
	switch mode {
	case Rd:
		if !l.admits(row.Rd, by) || l.recovering() {
			return false
		}
	case Wr:
		if !l.admits(row.Wr, by) || row.X == ByAuth && l.ext != nil && l.ext.hasX {
			return false
		}
	case X:
		return e.takeX(l, row, by)
	default:
		must.Holdf(false, "%v: %v takes it in mode %v", l, by, mode)
	}
	x := e.extend(l)
	x.holds = append(x.holds, hold{by, mode})
	return true
}

// takeX takes the xlock: in the Local class when nobody else holds anything, elsewhere in
// prexlock by the request that it is reserved for.
func (e *Engine) takeX(l *Lock, row *Row, by Owner) bool {
	t := l.table()
	switch {
	case row.X == ByAuth:
		if l.ext != nil && len(l.ext.holds) > 0 {
			return false
		}
		e.extend(l).hasX = true
		l.ext.xlocker = by
	case l.state == t.preXlock && l.ext != nil && l.ext.hasX && l.ext.xlocker == by:
		e.enter(l, t.xlock)
	default:
		return false
	}
	l.ext.holds = append(l.ext.holds, hold{by, X})
	return true
}

// Release drops by's hold of l. Who may have waited for it is seen to by Settle.
func (e *Engine) Release(l *Lock, mode Mode, by Owner) {
	x := l.ext
	if x == nil { // must.Holdf would box its arguments each time
		must.Holdf(false, "%v: %v releases %v, nobody holds it", l, by, mode)
	}
	for i := range x.holds {
		if h := x.holds[i]; h.by == by && h.mode == mode {
			last := len(x.holds) - 1
			copy(x.holds[i:], x.holds[i+1:])
			x.holds = x.holds[:last]
			if mode == X {
				x.hasX, x.xlocker = false, Owner{}
				// What the row gave the holder's client besides it may keep no longer, and no
				// row changes to say so: a truncate's xlock that rested would wait for ever.
				if row := l.row(); row.Holder != row.All && types[l.typ].mask != 0 && l.obj.Clients() > 0 {
					e.Reissue(l.obj)
				}
			}
			e.Touch(l)
			return
		}
	}
	must.Holdf(false, "%v: %v does not hold it as %v", l, by, mode)
}

// Rest keeps an xlock past the step that applied and submitted (ES6: a truncate that is
// cutting objects): from now on the same client may read the new value, nobody else.
func (e *Engine) Rest(l *Lock, by Owner) {
	t := l.table()
	must.Holdf(l.state == t.xlock && l.HeldBy(by) == X, "%v: %v rests in an xlock it does not hold", l, by)
	e.enter(l, t.xlockDone)
	e.Touch(l)
}

// writes says whose turn a mode belongs to (O10): readers' or writers'.
func writes(m Mode) bool { return m != Rd }

// serve grants what the present row admits to those whose turn it is: all readers, all
// writers, or one xlocker. served: something was granted. Otherwise need says what the one
// whose turn it is needs of the policy.
func (e *Engine) serve(l *Lock) (need Mode, by Owner, served bool) {
	x := l.ext
	if x == nil || len(x.waiters) == 0 {
		return None, Owner{}, false
	}
	if x.hasX && l.state == l.table().preXlock {
		for i, w := range x.waiters {
			if w.mode == X && w.set.Owner == x.xlocker {
				e.grant(l, i)
				return None, Owner{}, true
			}
		}
	}
	turn := 0
	if x.wrote && writes(x.waiters[0].mode) {
		for i := range x.waiters { // after a writer's turn queued readers come first
			if !writes(x.waiters[i].mode) {
				turn = i
				break
			}
		}
	}
	mode := x.waiters[turn].mode
	for i := turn; i < len(x.waiters); {
		w := x.waiters[i]
		if w.mode == mode && l.mayTake(mode, w.set.Owner) {
			e.grant(l, i)
			served = true
			if mode == X {
				break
			}
			continue
		}
		i++
	}
	if served {
		return None, Owner{}, true
	}
	return mode, x.waiters[turn].set.Owner, false
}

func (l *Lock) mayTake(mode Mode, by Owner) bool {
	row := l.row()
	switch mode {
	case Rd:
		return l.admits(row.Rd, by) && !l.recovering()
	case Wr:
		return l.admits(row.Wr, by) && !(row.X == ByAuth && l.ext.hasX)
	}
	return row.X == ByAuth && len(l.ext.holds) == 0 || row.X == ByHolder && l.ext.hasX && l.ext.xlocker == by && l.state == l.table().preXlock
}

// grant gives the i-th waiter its hold and wakes it: it owns the lock from here on, so that
// no newcomer can slip in before it runs.
func (e *Engine) grant(l *Lock, i int) {
	x := l.ext
	w := x.waiters[i]
	copy(x.waiters[i:], x.waiters[i+1:])
	x.waiters[len(x.waiters)-1] = waiter{}
	x.waiters = x.waiters[:len(x.waiters)-1]
	if !e.take(l, w.mode, w.set.Owner) {
		must.Holdf(false, "%v: %v was promised %v", l, w.set.Owner, w.mode)
	}
	x.wrote = writes(w.mode)
	w.set.granted(e, l, w.mode)
}
