package mds

import (
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// inoTable gives inode numbers out. [next, durableEnd) may be shown; end is what the journal
// was told, max the end of the rank's range. After a replay next is the journaled end: what
// lay before it is burned, except for creates that are resent with the number they had (4.15).
type inoTable struct {
	next       wire.Ino
	durableEnd wire.Ino
	end        wire.Ino
	endPos     journal.Pos
	max        wire.Ino
	burned     wire.Ino // resent creates may use numbers below, if nobody else does
}

const inoChunk = 8192

// extendInos journals the next numbers before any is shown: durable, not merely stamped.
func (r *Rank) extendInos() {
	t := &r.inos
	if t.end != t.durableEnd || t.end-t.next > inoChunk/2 || t.end >= t.max {
		return
	}
	t.end = min(t.end+inoChunk, t.max)
	e := r.newEntry()
	e.inoEnd = t.end
	end := t.end
	t.endPos = r.submit(e)
	r.whenDurable(t.endPos, func() { t.durableEnd = end })
}

// allocIno is a number nobody ever had, or the one that a resent create was given.
func (r *Rank) allocIno(q *request) (wire.Ino, errno) {
	t := &r.inos
	if g := q.GivenIno; q.replay && g >= wire.FirstFreeIno && g < t.burned && r.mayReuse(g) {
		return g, ok
	}
	r.extendInos()
	if t.next < t.durableEnd {
		t.next++
		return t.next - 1, ok
	}
	if t.end >= t.max && t.next >= t.end {
		return 0, eNOSPC
	}
	wake := r.waker(q)
	r.whenDurable(t.endPos, wake)
	return 0, r.park(q, "inode numbers are being journaled")
}

// mayReuse reports whether a resent create may have its number back. A reconnecting client may
// have named it as a directory already; what that left behind goes.
func (r *Rank) mayReuse(ino wire.Ino) bool {
	in := r.inodes[ino]
	if in == nil {
		return true
	}
	if !in.stub || in.home != nil || in.pins != 0 || in.dir != nil && (in.dir.isDirty || in.dir.order.Len() > 0) {
		return false
	}
	r.forget(in)
	return true
}
