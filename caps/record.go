package caps

import "fmt"

// Record is one client's cap on one inode as the rank keeps it (4.2). It sits in the
// inode's Ledger and in its session's List.
type Record struct {
	Client uint64 // session key
	Ino    uint64
	ID     uint64 // unique per incarnation of the cap

	Pending Bits // what the client was told last
	Issued  Bits // upper bound of what it may use (B0): never underestimates
	Wanted  Bits

	Seq      uint32 // of the last message sent on this cap (Q-a)
	IssueSeq uint32 // of the last one after which a RELEASE sent earlier must not count (Q-f)
	NarrowAt uint32 // of the last one that took bits away
	Mseq     uint32
	asked    uint32 // place in the queue for turns (T6), 0: not in it

	RevokedAt  int64 // when the oldest unanswered REVOKE was sent, in the caller's ticks
	AskedTwice bool  // the ladder's second step was taken
	Stale      bool  // the session's validity has passed: nothing is granted (4.7)

	MaxSize uint64 // write range shown to the client (4.9)

	prev, next *Record // session list
}

// Verdict says what must be sent after Tell.
type Verdict uint8

// Verdicts of Tell.
const (
	Nothing Verdict = iota
	Grant
	Revoke
)

func (v Verdict) String() string { return [...]string{"nothing", "grant", "revoke"}[v] }

// Revoking reports whether a REVOKE is unanswered.
func (r *Record) Revoking() bool { return r.Issued&^r.Pending != 0 }

// Owed are the bits whose return is awaited.
func (r *Record) Owed() Bits { return r.Issued &^ r.Pending }

// Tell moves what the client is told toward may and returns the message this takes. Bits
// that must go are taken first; none is added while a REVOKE is unanswered or in the
// message that takes some (Q-e): an answer could not say which of the two it saw.
func (r *Record) Tell(may Bits, now int64) Verdict {
	lost := r.Pending &^ may
	if lost != 0 {
		if !r.Revoking() {
			r.RevokedAt, r.AskedTwice = now, false
		}
		r.Pending &^= lost
		r.Seq++ // Q-a
		r.NarrowAt = r.Seq
		return Revoke
	}
	gain := may &^ r.Pending
	if gain == 0 || r.Revoking() || r.Stale {
		return Nothing
	}
	r.add(gain)
	r.Seq++
	r.IssueSeq = r.Seq
	return Grant
}

// Show accounts for a reply that carries the cap, adding gain when nothing stands against
// it. Even one that adds nothing counts as an issue: the client may have dropped the cap
// meanwhile, and the reply gives it the cap back, so its earlier RELEASE must not count.
func (r *Record) Show(gain Bits) {
	if !r.Revoking() && !r.Stale {
		r.add(gain)
	}
	r.Seq++
	r.IssueSeq = r.Seq
}

func (r *Record) add(gain Bits) {
	r.Pending |= gain
	r.Issued |= gain
}

// Current reports whether a message that names (id, mseq) speaks of this cap (Q-d): any
// other is to be ignored whole.
func (r *Record) Current(id uint64, mseq uint32) bool { return id == r.ID && mseq >= r.Mseq }

// Answer applies "retained, as of seq" from the client and reports whether the bound shrank.
//
// Q-b: only an answer to the last message is exact. One that has seen the last narrowing
// but not what followed is nearly so: what followed showed no more than pending, so the
// bound is what it retained or is told by then. Without this an answer that crosses a
// reply would be lost, and the client has no reason to repeat it. Q-c: retained never
// widens.
func (r *Record) Answer(seq uint32, retained Bits) bool {
	retained &= r.Issued
	before := r.Issued
	switch {
	case seq == r.Seq:
		r.Issued = retained
		r.Pending &= retained
	case seq >= r.NarrowAt && seq < r.Seq:
		r.Issued = retained | r.Pending
	}
	if !r.Revoking() {
		r.RevokedAt, r.AskedTwice = 0, false
	}
	return r.Issued != before
}

// Releasable reports whether a RELEASE that has seen issueSeq drops the cap (Q-f).
func (r *Record) Releasable(issueSeq uint32) bool { return issueSeq >= r.IssueSeq && issueSeq <= r.Seq }

// MayFlush reports whether the client may still write back the groups of dirty: the bound
// holds an exclusive or writing bit of each (FW). To be asked before Answer of the same
// message, which gives those bits up.
func (r *Record) MayFlush(dirty Bits) bool {
	for _, g := range [...]struct{ group, need Bits }{
		{AuthMask, AuthExcl},
		{LinkMask, LinkExcl},
		{XattrMask, XattrExcl},
		{FileMask, FileExcl | FileWr | FileBuffer},
	} {
		if dirty&g.group != 0 && r.Issued&g.need == 0 {
			return false
		}
	}
	return true
}

// Seize takes bits back without an answer: by silence (K2) or after the fence.
func (r *Record) Seize(bits Bits) {
	r.Issued &^= bits
	r.Pending &^= bits
	if !r.Revoking() {
		r.RevokedAt, r.AskedTwice = 0, false
	}
}

// Check reports a broken record: the walk that tests run after every step.
func (r *Record) Check() error {
	if r.Pending&^r.Issued != 0 {
		return fmt.Errorf("cap %d of client %d on %#x: pending %v exceeds the bound %v (B0)", r.ID, r.Client, r.Ino, r.Pending, r.Issued)
	}
	if r.IssueSeq > r.Seq || r.NarrowAt > r.Seq {
		return fmt.Errorf("cap %d of client %d on %#x: issue seq %d, narrow seq %d beyond seq %d", r.ID, r.Client, r.Ino, r.IssueSeq, r.NarrowAt, r.Seq)
	}
	return nil
}

func (r *Record) String() string {
	s := fmt.Sprintf("c%d=%v", r.Client, r.Pending)
	if r.Revoking() {
		s += fmt.Sprintf("(-%v)", r.Owed())
	}
	if r.Wanted != 0 {
		s += fmt.Sprintf(" wants %v", r.Wanted)
	}
	if r.Stale {
		s += " stale"
	}
	return s
}

// List is the records of one session, in the order they were made.
type List struct {
	head, tail *Record
	n          int
}

// Len is the number of caps.
func (l *List) Len() int { return l.n }

// Add appends r, which is in no list.
func (l *List) Add(r *Record) {
	r.prev, r.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = r
	} else {
		l.head = r
	}
	l.tail = r
	l.n++
}

// Remove takes r out.
func (l *List) Remove(r *Record) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		l.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		l.tail = r.prev
	}
	r.prev, r.next = nil, nil
	l.n--
}

// First is the oldest record, nil when there is none.
func (l *List) First() *Record { return l.head }

// Next is the record after r.
func (r *Record) Next() *Record { return r.next }
