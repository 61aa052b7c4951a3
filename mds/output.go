package mds

import (
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Output: what leaves waits for the journal, and for nothing else (rules ES, ES3, ES4, N1).

// queued is one message behind the journal position that it rests on.
type queued struct {
	stamp journal.Pos
	tid   uint64
	msg   wire.Message
}

// outQueue is the one FIFO of a session: a message leaves when the journal is durable up to
// the highest stamp at or before it. head indexes the first one that waits.
type outQueue struct {
	items   []queued
	head    int
	waiting bool // listed in Rank.waiting
}

func (o *outQueue) empty() bool { return o.head == len(o.items) }

// send queues m toward s. With nothing queued and a durable stamp it leaves in this step.
func (r *Rank) send(s *session, stamp journal.Pos, tid uint64, m wire.Message) {
	if s.state == sessDead || s.state == sessEvicting && m.WireType() != wire.TEvicted {
		return
	}
	if s.out.empty() && stamp <= r.durablePos {
		r.eff.Sends = append(r.eff.Sends, Send{s.key, tid, m})
		return
	}
	s.out.items = append(s.out.items, queued{stamp, tid, m})
	if !s.out.waiting {
		s.out.waiting = true
		r.waiting = append(r.waiting, s)
	}
}

// drain sends what the journal has caught up with, after the durable position moved.
func (r *Rank) drain() {
	keep := r.waiting[:0]
	for _, s := range r.waiting {
		o := &s.out
		for !o.empty() && o.items[o.head].stamp <= r.durablePos {
			q := &o.items[o.head]
			r.eff.Sends = append(r.eff.Sends, Send{s.key, q.tid, q.msg})
			*q = queued{}
			o.head++
		}
		if o.empty() {
			o.items, o.head, o.waiting = o.items[:0], 0, false
			continue
		}
		if o.head > 64 && o.head*2 > len(o.items) {
			n := copy(o.items, o.items[o.head:])
			clear(o.items[n:])
			o.items, o.head = o.items[:n], 0
		}
		keep = append(keep, s)
	}
	clear(r.waiting[len(keep):])
	r.waiting = keep
}

// noteUnsafe remembers that tid of s, a request answered early or a flush, is durable with
// pos; safe watermarks are made of these.
func (r *Rank) noteUnsafe(s *session, tid wire.Tid, pos journal.Pos) {
	if len(s.unsafe) == 0 {
		r.unsafe = append(r.unsafe, s)
	}
	s.unsafe = append(s.unsafe, unsafeTid{tid, pos})
}

// advanceSafe sends each session the watermark that this commit earned: the highest t such
// that every flush and every early answered request ≤ t is durable (section 7).
func (r *Rank) advanceSafe() {
	keep := r.unsafe[:0]
	for _, s := range r.unsafe {
		n := 0
		lowest := wire.ReadTid // of those popped now
		for n < len(s.unsafe) && s.unsafe[n].pos <= r.durablePos {
			lowest = min(lowest, s.unsafe[n].tid)
			s.durable = max(s.durable, s.unsafe[n].tid)
			n++
		}
		s.unsafe = s.unsafe[:copy(s.unsafe, s.unsafe[n:])]
		if len(s.unsafe) > 0 {
			keep = append(keep, s)
		}
		if n == 0 {
			continue
		}
		t := s.durable
		for _, u := range s.unsafe {
			t = min(t, u.tid-1) // still on its way: the watermark stays below it
		}
		// A request that had parked may become durable below a watermark sent before its
		// reply; that watermark did not cover it, so it is said again.
		if t > s.safe || lowest <= t {
			s.safe = max(s.safe, t)
			r.sendSafe(s, t, n)
		}
	}
	clear(r.unsafe[len(keep):])
	r.unsafe = keep
}

// sendSafe sends a watermark that n more tids earned. A session that is being answered all the
// time gets it with its next reply, which saves a message, a system call and a wake-up of the
// client per commit; one that does one thing after the other gets it at once, or its fsync would
// pay for that.
func (r *Rank) sendSafe(s *session, t wire.Tid, n int) {
	if s.owed != 0 {
		s.owed = max(s.owed, t)
		return
	}
	if r.cfg.SafeRideNs == 0 || n < 2 || len(s.parked) > 0 || !s.out.empty() || r.now-s.replied >= r.cfg.SafeRideNs || s.state != sessOpen {
		r.send(s, 0, 0, &wire.Safe{Tid: t})
		return
	}
	s.owed, s.owedAt = t, r.now+r.cfg.SafeRideNs
	r.owing = append(r.owing, s)
}

// paySafe sends the watermarks that found no reply in time.
func (r *Rank) paySafe() {
	n := 0
	for _, s := range r.owing {
		if s.owed != 0 && s.owedAt > r.now {
			break
		}
		if n++; s.owed != 0 {
			t := s.owed
			s.owed = 0
			r.send(s, 0, 0, &wire.Safe{Tid: t})
		}
	}
	r.owing = append(r.owing[:0], r.owing[n:]...)
}

// ride puts an owed watermark on a reply that leaves now. It counts as sent before the reply:
// what the reply itself answers early is not covered.
func (r *Rank) ride(s *session, rep *wire.Reply) {
	if !s.out.empty() {
		return
	}
	s.replied = r.now
	rep.Safe, s.owed = s.owed, 0
}

// after is a continuation that waits for a position.
type after struct {
	pos journal.Pos
	fn  func()
}

// whenDurable runs fn in the step in which the journal is durable up to pos, at once when it is.
func (r *Rank) whenDurable(pos journal.Pos, fn func()) {
	if pos <= r.durablePos {
		fn()
		return
	}
	r.afters = append(r.afters, after{pos, fn})
}

// runAfters runs the continuations that the journal has caught up with, in order of asking.
func (r *Rank) runAfters() {
	for i := 0; i < len(r.afters); {
		if r.afters[i].pos > r.durablePos {
			i++
			continue
		}
		fn := r.afters[i].fn
		r.afters = append(r.afters[:i], r.afters[i+1:]...)
		fn() // may append
	}
}

// objectEffect is a mutation of an object behind its stamp (rules ES3, WA).
type objectEffect struct {
	stamp journal.Pos
	op    ObjectOp
}

// object asks for ops on obj; done runs in the step of the answer. A mutation leaves behind
// its stamp and behind every mutation asked before it, so one object's are in order.
func (r *Rank) object(stamp journal.Pos, obj wire.ObjectID, ops []wire.ObjOp, done func(errno uint32, res []wire.ObjResult)) {
	r.token++
	op := ObjectOp{Token: r.token, Obj: obj, Ops: ops, FullTry: true, Barrier: r.barrier}
	r.objectDone[r.token] = done
	mutates := false
	for i := range ops {
		mutates = mutates || ops[i].Kind.Mutates()
	}
	if !mutates || len(r.objects) == r.objectHead && stamp <= r.durablePos {
		r.eff.Objects = append(r.eff.Objects, op)
		return
	}
	r.objects = append(r.objects, objectEffect{stamp, op})
}

func (r *Rank) drainObjects() {
	for r.objectHead < len(r.objects) && r.objects[r.objectHead].stamp <= r.durablePos {
		r.eff.Objects = append(r.eff.Objects, r.objects[r.objectHead].op)
		r.objects[r.objectHead] = objectEffect{}
		r.objectHead++
	}
	if r.objectHead == len(r.objects) {
		r.objects, r.objectHead = r.objects[:0], 0
	}
}

func (r *Rank) onObjectDone(ev *Event) {
	done, ok := r.objectDone[ev.Token]
	if !ok {
		return // of a life before, or answered twice by a confused shell
	}
	delete(r.objectDone, ev.Token)
	done(ev.Errno, ev.Res)
}

// onJournalDone moves the durable position and lets out what waited for it.
func (r *Rank) onJournalDone(ev *Event) {
	d := r.jw.Done(ev.Off)
	if d <= r.durablePos {
		return
	}
	r.durablePos = d
	r.drain()
	r.drainPeers()
	r.advanceSafe()
	r.drainObjects()
	r.runAfters()
	if r.expire.stopped != nil {
		// A rank with nothing dirty has no flush whose end would look: its last segment's head
		// being durable is all that a clean stop waits for.
		r.expire.due = true
	}
}
