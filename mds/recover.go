package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Size recovery (R1): a client with a write range vanished without flushing. What it wrote
// is in the objects, below its range; the rank asks them. The ifile lock reaches no readable
// row meanwhile (locker.Recovering). The probe carries the barrier, so no write of the
// fenced client can land behind it.

// recoverRange starts the recovery of in when s, fenced, had a range there.
func (r *Rank) recoverRange(in *inode, s *session) {
	if in == nil || in.dead || !in.isReg() || in.rangeRec(s) == 0 {
		return
	}
	if rec := in.ledger.Get(s.client()); rec != nil && rec.MaxSize == 0 {
		return // it had flushed and given w back; the range was only kept for later
	}
	r.probe(in)
}

// recoverUnknown does the same after a restart for ranges of sessions that are no more.
func (r *Rank) recoverUnknown(in *inode) {
	for _, g := range in.rec.Ranges {
		if r.sessions[g.Session] == nil {
			r.probe(in)
			return
		}
	}
}

// loaded looks at an inode that was read from a dirfrag. Its writer may have died together
// with a rank before us, when it was in nobody's cache.
func (r *Rank) loaded(in *inode) {
	if len(in.rec.Ranges) > 0 && r.window == 0 && r.state >= stateReconnect {
		r.recoverUnknown(in) // earlier ones are looked at when all sessions have spoken
	}
}

// probe asks the objects from the old size up to the largest range which of them exist.
func (r *Rank) probe(in *inode) {
	fs := in.fileState()
	if fs.probing {
		fs.again = true // what was looked at may have been written to until this fence
		return
	}
	if in.purging {
		return
	}
	fs.probing = true
	r.probing++
	in.pins++
	unit := uint64(in.rec.ObjectSize)
	var top uint64
	for _, g := range in.rec.Ranges {
		top = max(top, g.Max)
	}
	first, last := in.rec.Size/unit, (top+unit-1)/unit
	size, left := in.rec.Size, 1
	seq := in.rec.TruncSeq
	var more func()
	var stat func(i uint64)
	done := func() {
		left--
		more()
		if left > 0 {
			return
		}
		fs.probing = false
		r.probing--
		if fs.again {
			fs.again = false
			r.probe(in)
			r.unpinInode(in)
			return
		}
		if in.rec.TruncSeq == seq {
			old := in.rec.Size
			in.rec.Size = max(in.rec.Size, size)
			r.resized(in, old)
		}
		in.rec.Mtime = wire.MaxTime(in.rec.Mtime, r.wall)
		in.rec.Ranges = slices.DeleteFunc(slices.Clone(in.rec.Ranges), func(g rangeRec) bool {
			return r.sessions[g.Session] == nil
		})
		e := r.newEntry()
		e.inode(in)
		r.submit(e)
		r.unpinInode(in)
		r.noteStray(in)
		r.engine.Changed(in)
		r.engine.Reissue(in)
		r.recovered()
	}
	next := first
	more = func() {
		for ; next < last && left < probeFlight; next++ {
			left++
			stat(next)
		}
	}
	stat = func(i uint64) {
		r.object(0, wire.DataObject(in.rec.Pool, in.rec.Ino, i), []wire.ObjOp{{Kind: wire.ObjStat}},
			func(errno uint32, res []wire.ObjResult) {
				if errno == 0 && len(res) > 0 && res[0].Size > 0 {
					size = max(size, i*unit+res[0].Size)
				}
				done()
			})
	}
	done()
}

const probeFlight = 64 // stats of one recovery under way
