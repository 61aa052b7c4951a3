package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Who owns what. A rank serves what it owns and nothing else: a request that names something of
// another rank is answered with a redirect, and one that would need two ranks with EXDEV.
//
// Whose an inode is follows from where it is at home: it belongs to the rank that has the nearest
// directory above it that was handed over, or to rank 0, which has the root (locate in index.go). What
// was never flushed has no line in the index, and was never handed over with a directory either: it
// is still with the rank that gave its number out, which the FSMap tells by the number's range.

// giver is the rank that gave inode number ino out, as far as this one knows. A number of a range that
// has no rank any more is ours to call stale, and so is one of a rank that has stopped: it owned
// nothing then. NoRank: the range was given out after our map was made.
func (r *Rank) giver(ino wire.Ino) wire.Rank {
	if ino < wire.FirstFreeIno || r.fsmap == nil || slices.Contains(r.cfg.InoRanges, uint64(ino)>>40) {
		if ino == wire.RootIno {
			return 0
		}
		return r.cfg.Rank
	}
	for n := range wire.Rank(wire.MaxRanks) {
		in, there := r.fsmap.Ranks[n]
		if there && r.fsmap.Wanted(n) && slices.Contains(in.InoRanges, uint64(ino)>>40) {
			return n
		}
	}
	if uint64(ino)>>40 >= r.fsmap.NextInoRange {
		return wire.NoRank
	}
	return r.cfg.Rank
}

// mapWait is a request that names a number of which our map does not say whose it is.
type mapWait struct {
	until int64
	wake  func()
}

// mapPatience is how long a newer map is waited for: monitors tell of one within milliseconds, and a
// number that nobody ever gave out must be called stale in the end.
const mapPatience = 1e9

func (r *Rank) awaitMap(q *request) errno {
	if q.mapped == 0 {
		q.mapped = max(r.now, 1)
	}
	if r.now-q.mapped >= mapPatience {
		return eSTALE
	}
	r.mapWaits = append(r.mapWaits, mapWait{q.mapped + mapPatience, r.waker(q)})
	return r.parkFree(q, "a newer map is waited for: no rank of ours has given the number out")
}

// wakeMapWaits lets those look again for whom there is a newer map, or no hope of one.
func (r *Rank) wakeMapWaits(newer bool) {
	n := 0
	for n < len(r.mapWaits) && (newer || r.mapWaits[n].until <= r.now) {
		n++
	}
	if n == 0 {
		return
	}
	due := r.mapWaits[:n]
	r.mapWaits = slices.Clone(r.mapWaits[n:])
	for _, w := range due {
		w.wake()
	}
	if !newer {
		r.settle()
	}
}

func (r *Rank) mapTick() int64 {
	if len(r.mapWaits) == 0 {
		return 0
	}
	return r.mapWaits[0].until
}

// elsewhere refuses a request that names ino, of another rank: the answer tells the client whom to
// ask when it is what the request is addressed by, and that two ranks would be needed when it is the
// other thing that the request is about.
func (r *Rank) elsewhere(q *request, ino wire.Ino, at wire.Rank) errno {
	if ino != q.Ino {
		return eXDEV
	}
	q.to = at
	return redirected
}

// Subtree is a part of the tree that a rank owns, from a directory down to the next ones of others.
// Path is where the directory was when it was handed over.
type Subtree struct {
	Ino  string `json:"ino"`
	Path string `json:"path"`
}

// Subtrees lists what the rank owns of the tree.
func (r *Rank) Subtrees() []Subtree {
	list := []Subtree{}
	if r.cfg.Rank == 0 && r.root != nil {
		list = append(list, Subtree{Ino: wire.RootIno.String(), Path: "/"})
	}
	for _, m := range r.sortedMoves() {
		if m.State == moveTaken || m.State == movePending && !m.Named {
			list = append(list, Subtree{Ino: m.Ino.String(), Path: m.Path})
		}
	}
	return list
}
