package mds

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Truncation (4.15). The entry holds the new size and CutFrom, the byte up to which objects
// may exist: the intent. Then the objects go, behind the entry; then an entry says done; then
// the lock goes. Meanwhile ifile rests in xlockdone, so nobody is given r, w or c and no data
// can be written where it will be cut. Whoever replays the intent does the cut again.

// cut is one truncate under way. q is the request that asked for it and keeps ifile x, long
// after its early answer and, if need be, after its session; nil when a replay found the cut.
type cut struct {
	in     *inode
	q      *request
	next   uint64
	end    uint64
	partly bool // block `next` is cut in its middle
	left   int
}

const cutFlight = 16 // object operations of one cut under way

// beginCut is called when an entry with CutFrom was submitted. From now on q holds ifile x alone.
func (r *Rank) beginCut(in *inode, q *request) {
	size := uint64(in.rec.ObjectSize)
	c := &cut{in: in, q: q, next: in.rec.Size / size, partly: in.rec.Size%size != 0, end: in.blocksOf(in.rec.CutFrom)}
	in.pins++
	if q != nil {
		q.set.Rest(r.engine, &in.locks[lockFile])
		q.set.ReleaseBut(r.engine, &in.locks[lockFile])
	}
	r.cuts = append(r.cuts, c)
}

// continueCuts moves every truncate on, after a step came to rest.
func (r *Rank) continueCuts() {
	if len(r.cuts) == 0 || r.jw == nil {
		return
	}
	cuts := r.cuts
	r.cuts = nil
	for _, c := range cuts {
		if !r.continueCut(c) {
			r.cuts = append(r.cuts, c)
		}
	}
	if len(r.cuts) == 0 && r.replay != nil && r.replay.afterCuts != nil {
		fn := r.replay.afterCuts
		r.replay.afterCuts = nil
		fn()
	}
	r.settle()
}

func (r *Rank) continueCut(c *cut) (ended bool) {
	in := c.in
	for c.next < c.end && c.left < cutFlight {
		ops := []wire.ObjOp{{Kind: wire.ObjRemove}}
		if c.partly {
			// A truncate would make an absent object: the stat fails with ENOENT first.
			ops = []wire.ObjOp{{Kind: wire.ObjStat}, {Kind: wire.ObjTruncate, Off: in.rec.Size % uint64(in.rec.ObjectSize)}}
		}
		c.partly = false
		obj := wire.DataObject(in.rec.Pool, in.ino(), c.next)
		c.next++
		c.left++
		r.object(in.rest.pos, obj, ops, func(e uint32, _ []wire.ObjResult) {
			c.left--
			if e != 0 && errno(e) != eNOENT {
				r.damaged(fmt.Errorf("mds: truncate %v: errno %d", obj, e))
			}
		})
	}
	if c.left > 0 || c.next < c.end {
		return false
	}
	in.rec.CutFrom = 0
	in.rec.Reach = in.rec.Size
	ent := r.newEntry()
	ent.inode(in)
	r.submit(ent)
	in.pins--
	if c.q != nil {
		r.finish(c.q)
	}
	r.noteStray(in)
	return true
}

// cutting lists the files of which a truncate has begun: also those that replay has found and
// not taken up yet, or a stop at that moment would trim the intents away.
func (r *Rank) cutting() (list []*inode) {
	if r.replay == nil {
		for _, c := range r.cuts {
			list = append(list, c.in)
		}
		return list
	}
	for _, in := range r.inodes {
		if in.rec.CutFrom != 0 && in.home != nil {
			list = append(list, in)
		}
	}
	slices.SortFunc(list, func(a, b *inode) int { return cmp.Compare(a.ino(), b.ino()) })
	return list
}

// redoCuts does the truncates again that the journal left half done, before any client may
// touch the files; then continues.
func (r *Rank) redoCuts(then func()) {
	for _, in := range r.cutting() {
		r.beginCut(in, nil)
	}
	if len(r.cuts) == 0 {
		then()
		return
	}
	r.replay.afterCuts = then
}
