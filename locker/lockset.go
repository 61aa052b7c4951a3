package locker

import "github.com/capstan-fs/capstan/internal/must"

// LockSet is the locks of one request. The zero value with Owner (and User) set is ready.
type LockSet struct {
	Owner Owner
	User  any // for the host: what to run again at Wake

	items   []item
	waiting *Lock // in whose queue we stand
	inCall  bool  // Acquire is running: a grant needs no Wake
	room    [6]item
}

type item struct {
	l          *Lock
	want, held Mode
}

// Begin forgets what was wanted; what is held stays until Acquire has seen the new wishes.
func (s *LockSet) Begin() {
	if s.items == nil {
		s.items = s.room[:0]
	}
	for i := range s.items {
		s.items[i].want = None
	}
}

// Rd wants l for reading; a nil lock is no wish, as with Wr and X.
func (s *LockSet) Rd(l *Lock) { s.add(l, Rd) }

// Wr wants l for writing beside others. Locks of the Simple class have no such mode.
func (s *LockSet) Wr(l *Lock) {
	must.Holdf(l == nil || l.table() != simpleTable, "%v: no wrlock on a simple lock", l)
	s.add(l, Wr)
}

// X wants l alone. Locks of the Scatter class have no such mode.
func (s *LockSet) X(l *Lock) {
	must.Holdf(l == nil || l.table() != scatterTable, "%v: no xlock on a scatter lock", l)
	s.add(l, X)
}

// add notes a wish; the strongest per lock counts (O3).
func (s *LockSet) add(l *Lock, m Mode) {
	if l == nil {
		return
	}
	for i := range s.items {
		if s.items[i].l == l {
			s.items[i].want = max(s.items[i].want, m)
			return
		}
	}
	if s.items == nil {
		s.items = s.room[:0]
	}
	s.items = append(s.items, item{l: l, want: m})
}

// Acquire takes what is wanted, in the canonical order (O1). True: everything is held. False:
// the set stands in the queue of waitingOn and holds only what comes before it (O5); Wake
// comes when that lock is held too, then the request runs again from its top.
func (s *LockSet) Acquire(e *Engine) (done bool, waitingOn *Lock) {
	s.imply()
	s.trim(e)
	s.sort()
	for i := range s.items {
		it := &s.items[i]
		if it.held == it.want {
			continue
		}
		if s.waiting == nil && e.Try(it.l, it.want, s.Owner) {
			it.held = it.want
			continue
		}
		if s.waiting != it.l {
			s.leave(e)
			s.queue(e, it.l, it.want)
			if it.held == it.want { // it needed but a push
				continue
			}
		}
		for j := i + 1; j < len(s.items); j++ {
			s.drop(e, &s.items[j])
		}
		return false, it.l
	}
	return true, nil
}

// Try takes one lock while a path is walked (O2): true when it is held. False: everything is
// released, the set stands in its queue, and the walk starts again at Wake. It adds to the
// wishes.
func (s *LockSet) Try(e *Engine, l *Lock, m Mode) bool {
	s.add(l, m)
	var it *item
	for i := range s.items {
		if s.items[i].l == l {
			it = &s.items[i]
		}
	}
	if it.held >= m {
		return true
	}
	if it.held == None && s.waiting == nil && e.Try(l, m, s.Owner) {
		it.held = m
		return true
	}
	if s.waiting == l {
		return false
	}
	s.leave(e)
	s.drop(e, it)
	it.want = m
	s.queue(e, l, m)
	if it.held == m { // it needed but a push
		return true
	}
	for i := range s.items {
		s.drop(e, &s.items[i])
	}
	return false
}

// queue enters l's queue and pushes l as far as it goes at once.
func (s *LockSet) queue(e *Engine, l *Lock, m Mode) {
	x := e.extend(l)
	x.waiters = append(x.waiters, waiter{s, m})
	s.waiting = l
	s.inCall = true
	e.advance(l)
	s.inCall = false
}

// granted is the engine's word that s holds l.
func (s *LockSet) granted(e *Engine, l *Lock, m Mode) {
	for i := range s.items {
		if s.items[i].l == l {
			s.items[i].held = m
		}
	}
	s.waiting = nil
	if !s.inCall {
		e.host.Wake(s)
	}
}

// leave gives up the place in a queue, and a reservation with it (O5).
func (s *LockSet) leave(e *Engine) {
	l := s.waiting
	if l == nil {
		return
	}
	s.waiting = nil
	x := l.ext
	for i := range x.waiters {
		if x.waiters[i].set == s {
			copy(x.waiters[i:], x.waiters[i+1:])
			x.waiters[len(x.waiters)-1] = waiter{}
			x.waiters = x.waiters[:len(x.waiters)-1]
			break
		}
	}
	if x.hasX && x.xlocker == s.Owner {
		x.hasX, x.xlocker = false, Owner{}
	}
	e.Touch(l)
}

func (s *LockSet) drop(e *Engine, it *item) {
	if it.held != None {
		e.Release(it.l, it.held, s.Owner)
		it.held = None
	}
}

// trim releases what is held and no longer wanted in that mode, and forgets it.
func (s *LockSet) trim(e *Engine) {
	kept := s.items[:0]
	for i := range s.items {
		it := s.items[i]
		if it.held != it.want {
			s.drop(e, &it)
		}
		if it.want == None {
			if s.waiting == it.l {
				s.leave(e)
			}
			continue
		}
		kept = append(kept, it)
	}
	clear(s.items[len(kept):])
	s.items = kept
}

// imply adds the locks that others imply: quiesce for every inode lock, the version lock for
// a wrlock or xlock (O8), where the object has them.
func (s *LockSet) imply() {
	for i, n := 0, len(s.items); i < n; i++ {
		it := s.items[i]
		if it.want == None {
			continue
		}
		locks := it.l.obj.Locks()
		if locks[0].typ == Quiesce && it.l.typ != Quiesce {
			s.add(&locks[0], Rd)
		}
		if last := &locks[len(locks)-1]; it.want != Rd && it.l != last && (last.typ == IVersion || last.typ == DVersion) {
			s.add(last, Wr)
		}
	}
}

// sort puts the items into the order O1. Sets are small and nearly sorted.
func (s *LockSet) sort() {
	for i := 1; i < len(s.items); i++ {
		for j := i; j > 0 && before(s.items[j].l, s.items[j-1].l); j-- {
			s.items[j], s.items[j-1] = s.items[j-1], s.items[j]
		}
	}
}

// before is the canonical order of two locks.
func before(a, b *Lock) bool {
	if qa, qb := a.typ == Quiesce, b.typ == Quiesce; qa != qb {
		return qa
	}
	if a.obj == b.obj {
		return a.typ < b.typ
	}
	ka, kb := a.obj.Key(), b.obj.Key()
	return ka.compare(&kb) < 0
}

// Holds reports whether the set holds l in mode or a stronger one.
func (s *LockSet) Holds(l *Lock, m Mode) bool {
	for i := range s.items {
		if s.items[i].l == l {
			return s.items[i].held >= m
		}
	}
	return false
}

// WaitingOn is the lock whose queue the set stands in, nil when it waits for none.
func (s *LockSet) WaitingOn() *Lock { return s.waiting }

// Rest keeps the xlock on l past this step (see Engine.Rest); the set goes on holding it
// when the others are released by ReleaseBut.
func (s *LockSet) Rest(e *Engine, l *Lock) { e.Rest(l, s.Owner) }

// Release drops everything and leaves any queue: the request is done, or dead.
func (s *LockSet) Release(e *Engine) {
	s.leave(e)
	for i := range s.items {
		s.drop(e, &s.items[i])
	}
	clear(s.items)
	s.items = s.items[:0]
}

// ReleaseBut drops everything but one lock: the xlock that rests (ES6).
func (s *LockSet) ReleaseBut(e *Engine, keep *Lock) {
	for i := range s.items {
		if s.items[i].l != keep {
			s.items[i].want = None
		} else {
			s.items[i].want = s.items[i].held
		}
	}
	s.trim(e)
}
