package caps

// Loner remembers the one client whose interest lets it hold exclusive bits (4.6). Those who
// take turns at appending (T6) queue by Record.asked.
type Loner struct {
	client uint64 // 0: none
	since  int64  // when its phase began
	phase  phase
}

// phase is where a loner is in its turn.
type phase uint8

const (
	chosen phase = iota // it does not have what it wants yet, or wants nothing
	served              // it was first seen to have it: the quantum of its turn runs
	idle                // its wanted fell
)

// interest are the bits whose wanting counts.
const interest = FileRd | FileWr | FileBuffer | FileExcl | AuthExcl | LinkExcl | XattrExcl

// LonerOf is the present loner, 0 when there is none.
func (l *Loner) LonerOf() uint64 { return l.client }

// SetLoner installs a new one (0: none); legal only when SO1 holds, which the caller checks.
func (l *Loner) SetLoner(c uint64, now int64) { l.client, l.since, l.phase = c, now, chosen }

func (l *Loner) forget(c uint64) {
	if l.client == c {
		*l = Loner{}
	}
}

// Ask notes that a client wants bits it does not have: it queues for its turn, and stays in
// the queue until it was seen with what it wants. The loner may ask, too: its turn may be
// over, or end before the bits reach it, and it will not say it again. Idle openers do not
// ask, so a turn that nobody waits for lasts as long as it likes.
func (l *Ledger) Ask(c uint64) {
	rec := l.Get(c)
	if rec == nil || rec.asked != 0 {
		return
	}
	rec.asked = 1
	for _, r := range l.recs {
		if r != rec {
			rec.asked = max(rec.asked, r.asked+1)
		}
	}
}

// firstAsker is who waits for a turn longest, nil when nobody does; but is not looked at.
func (l *Ledger) firstAsker(but uint64) (first *Record) {
	for _, r := range l.recs {
		if r.asked != 0 && r.Client != but && !r.Stale && (first == nil || r.asked < first.asked) {
			first = r
		}
	}
	return first
}

// lacks reports whether r's client waits for something that a turn would bring.
func (r *Record) lacks() bool { return r.Wanted&interest&^r.Pending != 0 }

// LonerTimes shape the choice, in the caller's ticks.
type LonerTimes struct {
	Linger  int64 // keep an idle loner this long, unless another asks
	Quantum int64 // least length of a turn
}

// Turns reports whether appenders share the file: somebody appends (wants Fx on a file) and
// somebody else is interested too.
func (l *Ledger) Turns() bool {
	appender, interested := false, 0
	for _, r := range l.recs {
		if r.Stale || r.Wanted&interest == 0 {
			continue
		}
		interested++
		appender = appender || r.Wanted&FileExcl != 0
	}
	return appender && interested > 1
}

// Ideal is the client that should be loner, 0 for none, and when to ask again because only
// time stands in the way (0: no such time).
func (l *Ledger) Ideal(dir bool, now int64, t LonerTimes) (client uint64, again int64) {
	if dir {
		// Of a directory: whoever is alone with it.
		if len(l.recs) == 1 && !l.recs[0].Stale {
			return l.recs[0].Client, 0
		}
		return 0, 0
	}
	var only uint64
	n := 0
	for _, r := range l.recs {
		if !r.Stale && r.Wanted&interest != 0 {
			only = r.Client
			n++
		}
	}
	switch {
	case n > 1 && l.Turns():
		return l.turn(now, t)
	case n == 1:
		if l.phase == idle {
			l.phase = served
		}
		return only, 0
	case n > 1:
		return 0, 0
	}
	// Nobody is interested: an open-close loop should not pay two transitions per round.
	r := l.Get(l.client)
	if r == nil {
		return 0, 0
	}
	if r.Stale {
		if l.LeftAlone(r) {
			return r.Client, 0
		}
		return 0, 0
	}
	if l.phase != idle {
		l.phase, l.since = idle, now
	}
	if until := l.since + t.Linger; now < until {
		return l.client, until
	}
	return 0, 0
}

// LeftAlone reports whether r, whose session is stale, stays the loner because nobody else is
// interested. 4.6 counts no stale client. By the letter that makes a REVOKE which nobody answers,
// of bits that nobody wants, and V + R after it was heard of last the client is evicted with all
// that it buffers; but 4.7 leaves a session that nobody waits for until autoclose.
func (l *Ledger) LeftAlone(r *Record) bool {
	if r.Client != l.client || !r.Stale || r.Issued&AnyWrite == 0 {
		return false
	}
	for _, o := range l.recs {
		if !o.Stale && o.Wanted&interest != 0 {
			return false
		}
	}
	return true
}

// Served notes when the loner first has what it wants, and reports whether that begins the
// quantum of a turn that others wait for.
func (l *Ledger) Served(now int64) bool {
	cur := l.Get(l.client)
	if l.phase != chosen || cur == nil || cur.lacks() {
		return false
	}
	l.phase, l.since = served, now
	cur.asked = 0
	for _, r := range l.recs {
		if r.asked != 0 {
			return true
		}
	}
	return false
}

// turn is the loner among several appenders: the present one for a quantum at least, then
// the first of those who asked.
func (l *Ledger) turn(now int64, t LonerTimes) (uint64, int64) {
	for _, r := range l.recs {
		if !r.lacks() {
			r.asked = 0
		}
	}
	next := l.firstAsker(l.client)
	if cur := l.Get(l.client); cur != nil && !cur.Stale && cur.Wanted&interest != 0 {
		if next == nil {
			return l.client, 0
		}
		// The quantum begins when the bits are there: who is asked back before it could use them
		// would never get on.
		until := l.since + t.Linger
		if l.Served(now); l.phase != chosen {
			until = l.since + t.Quantum
		}
		if now < until {
			return l.client, until
		}
	}
	if next != nil {
		return next.Client, 0
	}
	for _, r := range l.recs { // nobody asked in so many words
		if !r.Stale && r.Wanted&FileExcl != 0 {
			return r.Client, 0
		}
	}
	return 0, 0
}
