package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// The purge queue is the stray directories themselves (strays.go). Objects are deleted a few
// at a time in the background; the entry that removes the stray dentries follows, one for
// all that ended while a journal write was under way.

const (
	purgeFlight = 32 // object deletions under way
	purgeGroup  = 64 // strays that one entry removes; fewer when the journal has nothing to do
)

type strayState struct {
	maybe    []*inode // nlink 0: look whether anybody uses them
	queue    []*purge // being deleted or waiting for their turn
	flight   int
	finished []*inode // objects gone, entry due
	guests   int64    // until then nothing is purged: clients may have it open and say so
}

type purge struct {
	in   *inode
	next uint64
	end  uint64
	left int
}

// noteStray says that in may have become purgeable: its last name or its last cap went.
func (r *Rank) noteStray(in *inode) {
	if in.rec.Nlink == 0 && !in.purging && !in.dead {
		r.strays.maybe = append(r.strays.maybe, in)
	}
}

// extent is the byte behind which no data object of in can be, when nobody holds w or b: all
// sizes are flushed then. Only a range whose session vanished may hide more than the size.
func (r *Rank) extent(in *inode) uint64 {
	n := max(in.rec.Size, in.rec.CutFrom)
	for _, g := range in.rec.Ranges {
		if s := r.sessions[g.Session]; s == nil || !s.alive() {
			n = max(n, g.Max)
		}
	}
	return n
}

// blocksOf is the number of objects that bytes [0, n) of in may have.
func (in *inode) blocksOf(n uint64) uint64 {
	if !in.isReg() || in.rec.ObjectSize == 0 {
		return 0
	}
	return (n + uint64(in.rec.ObjectSize) - 1) / uint64(in.rec.ObjectSize)
}

// purgeSome starts and continues deletions, after a step came to rest. Nothing is deleted
// before the reconnect window is over: a client may still have the file open.
func (r *Rank) purgeSome() {
	st := &r.strays
	if r.jw == nil || r.state != stateActive || r.now < st.guests {
		return
	}
	for _, in := range st.maybe {
		if in.dead || in.purging || in.rec.Nlink != 0 || in.pins != 0 || r.capsHeld(in) || r.fileBusy(in) {
			continue // whoever lets go last says so
		}
		in.purging = true
		r.unlist(in)
		r.counts.Strays++
		p := &purge{in: in, end: in.blocksOf(r.extent(in))}
		st.queue = append(st.queue, p)
	}
	clear(st.maybe)
	st.maybe = st.maybe[:0]
	for len(st.queue) > 0 && st.flight < purgeFlight {
		p := st.queue[0]
		if p.in.isDir() {
			if d := p.in.dir; d != nil && (d.flushing || d.fetching) {
				break // its end calls again
			}
			unborn := p.in.dir != nil && p.in.dir.unborn
			r.forgetDir(p.in)
			if !unborn {
				r.purgeObject(p, r.dirObject(p.in.ino()))
			}
		}
		for p.next < p.end && st.flight < purgeFlight {
			p.next++
			r.purgeObject(p, wire.DataObject(p.in.rec.Pool, p.in.ino(), p.next-1))
		}
		if p.next < p.end {
			break
		}
		st.queue = st.queue[1:]
		if p.left == 0 {
			st.finished = append(st.finished, p.in)
		}
	}
	if n := len(st.finished); n >= purgeGroup || n > 0 && r.jw.InFlight() == 0 {
		r.removeStrays()
	}
}

func (r *Rank) purgeObject(p *purge, obj wire.ObjectID) {
	r.strays.flight++
	p.left++
	// ES3: the deletion rests on the unlink.
	r.object(p.in.rest.pos, obj, []wire.ObjOp{{Kind: wire.ObjRemove}}, func(e uint32, _ []wire.ObjResult) {
		r.strays.flight--
		p.left--
		if e != 0 && errno(e) != eNOENT {
			r.damaged(fmt.Errorf("mds: purge %v: errno %d", obj, e))
			return
		}
		if p.left == 0 && p.next == p.end {
			r.strays.finished = append(r.strays.finished, p.in)
		}
	})
}

// removeStrays ends purged inodes with one entry.
func (r *Rank) removeStrays() {
	const most = 1000 // an entry is bounded, and a start may find any number of strays
	for len(r.strays.finished) > most {
		all := r.strays.finished
		r.strays.finished = all[:most:most]
		r.removeStrays()
		r.strays.finished = all[most:]
	}
	ent := r.newEntry()
	for _, in := range r.strays.finished {
		dn := in.home
		r.count(dn, -1)
		r.unbind(dn)
		ent.dentry(dn)
		dn.dir.purged = append(dn.dir.purged, in.ino())
		r.forget(in)
		r.counts.Purged++
	}
	clear(r.strays.finished)
	r.strays.finished = r.strays.finished[:0]
	r.submit(ent)
}

// forget drops an inode that no longer exists.
func (r *Rank) forget(in *inode) {
	r.forgetDir(in)
	r.dropInode(in)
}

// forgetDir drops the contents of a directory that no longer exists: nothing of it is to be flushed.
func (r *Rank) forgetDir(in *inode) {
	d := in.dir
	if d == nil {
		return
	}
	for _, dn := range d.sortedNames() {
		if dn.kind != dnNull {
			r.unbind(dn)
		}
		dn.dirty = false
		for len(dn.leases) > 0 {
			r.dropLease(dn.leases[0]) // nobody has a cap on the directory, so nobody asks for its names
		}
		r.dropDentry(dn) // a request that still has it starts again and does not find the directory
	}
	d.dirty = nil
	if d.isDirty {
		d.isDirty = false
		for i, x := range r.dirtyDirs {
			if x == d {
				r.dirtyDirs = append(r.dirtyDirs[:i], r.dirtyDirs[i+1:]...)
				break
			}
		}
	}
}

// fileBusy reports whether something still works on a file that no client has a cap on.
func (r *Rank) fileBusy(in *inode) bool {
	return in.cutting() || in.file != nil && (in.file.probing || len(in.file.opens) > 0)
}

func (in *inode) cutting() bool { return in.rec.CutFrom != 0 }
