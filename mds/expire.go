package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Segments. Each begins with an entry that holds everything that is not in dirfrags (the
// tables), so replay may begin at any of them. The oldest may go when no directory's object
// lacks records from it.

type segment struct {
	at   journal.Mark // the position of its tables entry
	from journal.Pos  // the end of that entry
}

type expireState struct {
	oldest  journal.Pos // objects before this were removed
	due     bool        // look for what may go when the step comes to rest
	busy    bool        // a header is being written
	upto    journal.Pos // the journal is to begin here, however short it is (exporttree.go)
	stopped func()      // runs when the journal holds one segment and nothing is dirty
}

func (r *Rank) journalPrefix() string { return fmt.Sprintf("journal.%d", r.cfg.Rank) }

// journalHead is the object of the journal's header.
func (r *Rank) journalHead() wire.ObjectID {
	return wire.ObjectID{Pool: r.cfg.MetaPool, Name: journal.HeadName(r.journalPrefix())}
}

// segmentHead opens a new segment when the last one is full: at the end of a step, so that the
// head shows nothing that an entry behind it brings, and every cut that was begun.
func (r *Rank) segmentHead() {
	if n := len(r.segs); r.jw == nil || n == 0 || r.jw.End()-r.segs[n-1].from < journal.Pos(r.cfg.SegmentBytes) {
		return
	}
	r.newSegment()
	r.expire.due = true
}

func (r *Rank) newSegment() {
	at := r.jw.Mark()
	e := r.newEntry()
	e.tables = true
	for _, in := range r.cutting() { // replay must find the intents
		e.dentry(in.home)
	}
	r.segs = append(r.segs, segment{at, r.submit(e)})
}

// advanceExpire flushes what keeps the oldest surplus segments and trims them when nothing does.
func (r *Rank) advanceExpire() {
	if r.jw == nil || len(r.segs) == 0 {
		return
	}
	surplus := r.surplus(r.cfg.MaxSegments)
	if surplus > 0 {
		bound := r.segs[surplus].at.Pos
		for i, n := 0, 0; i < len(r.dirtyDirs) && n < 16; i++ {
			d := r.dirtyDirs[i]
			if d.since >= bound {
				break
			}
			n++ // so many flushes at a time
			r.flush(d)
		}
	}
	// Everything before the oldest dirty directory's first entry may go.
	free := 0
	for free+1 < len(r.segs) && (len(r.dirtyDirs) == 0 || r.segs[free+1].at.Pos <= r.dirtyDirs[0].since) &&
		r.segs[free+1].at.Pos < r.durablePos && free < r.surplus(r.keepSegments()) {
		free++
	}
	if free == 0 || r.expire.busy {
		r.maybeStopped()
		return
	}
	at := r.segs[free].at
	r.expire.busy = true
	h := journal.Header{Expire: at, Inc: r.jw.Incarnation(), Start: r.replayEnd, Durable: max(r.jw.Durable(), r.replayEnd)}
	b := h.Encode()
	r.object(r.durablePos, r.journalHead(), []wire.ObjOp{{Kind: wire.ObjWriteFull, Data: b, DataLen: uint32(len(b))}},
		func(e uint32, _ []wire.ObjResult) {
			r.expire.busy = false
			if e != 0 {
				r.damaged(fmt.Errorf("mds: write journal header: errno %d", e))
				return
			}
			first, end := journal.Trimmable(r.expire.oldest, at.Pos)
			for i := first; i < end; i++ {
				obj := wire.ObjectID{Pool: r.cfg.MetaPool, Name: journal.ObjectName(r.journalPrefix(), i)}
				r.object(0, obj, []wire.ObjOp{{Kind: wire.ObjRemove}}, func(uint32, []wire.ObjResult) {}) // gone already is as good
			}
			r.expire.oldest = at.Pos
			for len(r.segs) > 0 && r.segs[0].at.Pos < at.Pos {
				r.segs = r.segs[1:]
			}
			r.advanceExpire()
		})
}

// surplus is how many of the oldest segments are to go, of which keep may stay.
func (r *Rank) surplus(keep int) int {
	n := max(0, len(r.segs)-keep)
	for n+1 < len(r.segs) && r.segs[n+1].at.Pos <= r.expire.upto {
		n++
	}
	return n
}

func (r *Rank) keepSegments() int {
	if r.expire.stopped != nil {
		return 1
	}
	return r.cfg.MaxSegments
}

// stop flushes everything and trims the journal to one segment, so that the next holder has
// nothing to replay. The shell waits for state stopped, or gives up: nothing depends on it.
func (r *Rank) stop() {
	if r.jw == nil {
		return
	}
	if r.expire.stopped != nil {
		return
	}
	r.expire.stopped = func() { r.setState(stateStopped) }
	r.settleAll()
	if !r.ent.busy {
		r.newSegment()
	}
	r.flushAll()
	r.maybeStopped()
}

func (r *Rank) flushAll() {
	for _, d := range append([]*dir(nil), r.dirtyDirs...) {
		r.flush(d)
	}
}

func (r *Rank) maybeStopped() {
	if r.expire.stopped == nil || r.expire.busy {
		return
	}
	r.settleAll()
	if len(r.dirtyDirs) > 0 {
		r.flushAll()
		return
	}
	if len(r.segs) == 1 {
		fn := r.expire.stopped
		r.expire.stopped = nil
		fn()
	}
}
