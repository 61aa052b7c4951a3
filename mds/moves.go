package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Directories that change hands (docs/ranks.md). The name of a directory stays with the rank that
// owns the directory above; the inode, its names and all below belong to one rank. Where the two
// differ, the first has a remote name and the second the inode in links/:
//
//	rank that has the name            rank that has the directory
//	given: N is rank I's       ⟷      taken: N is here, its name is rank X's
//
// On the way a directory is pending with who is to get it: journaled, and served to nobody until the
// rank it comes from has said how it ended. What the journal of that one says decides (rule XP2).
//
// The table of these is small, one line for each pinned directory; an entry brings the line that it
// changes, and the head of a segment all (XP6), so that a replay knows whom the rank is auth for
// before it reads a directory.

// moveState says what a line of the table means.
type moveState uint8

const (
	moveNone    moveState = iota // no line: the number's range says whose it is
	moveGiven                    // the directory is rank's
	moveTaken                    // it is ours, its name is rank's
	movePending                  // rank gives it to us, perhaps
)

// moveRec is a line as the journal has it.
type moveRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      wire.Ino
	State    moveState
	Rank     wire.Rank
	Attempt  uint64
	Named    bool // the name is ours
	Parent   wire.Ino
	Name     string
	Path     string // as it was when it was handed over; for people
	Pin      int32  // while pending: rank + 1
	Dentry   []byte // while pending: what is to be installed, as the exporter sent it
	Header   []byte
}

// move is a line and what is not durable of it.
type move struct {
	moveRec
	settled bool       // given: the other side is known to have ended it
	kept    errno      // given: why its rank does not give it back, while it is told
	waiters []func()   // requests for a directory whose owner is not decided
	ending  bool       // pending: it is being installed
	told    *wire.Sums // taken: what the name's rank was told and has not answered
}

func (m *moveRec) put(b []byte) []byte {
	b = putArray(b, 11)
	b = putUint(b, uint64(m.Ino))
	b = putUint(b, uint64(m.State))
	b = putInt(b, int64(m.Rank))
	b = putUint(b, m.Attempt)
	b = putBool(b, m.Named)
	b = putUint(b, uint64(m.Parent))
	b = putString(b, m.Name)
	b = putString(b, m.Path)
	b = putInt(b, int64(m.Pin))
	b = putBytes(b, m.Dentry)
	return putBytes(b, m.Header)
}

// Pending reports whether the line says that the directory is on its way.
func (m *moveRec) Pending() bool { return m.State == movePending }

func putMoves(b []byte, list []*move) []byte {
	b = putArray(b, len(list))
	for _, m := range list {
		b = m.moveRec.put(b)
	}
	return b
}

// sortedMoves is the table in an order that no map decides.
func (r *Rank) sortedMoves() []*move {
	out := make([]*move, 0, len(r.moves))
	for _, m := range r.moves {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *move) int {
		if a.Ino < b.Ino {
			return -1
		}
		return 1
	})
	return out
}

// setMove changes the line of a directory, in the cache and in ent.
func (r *Rank) setMove(ent *entry, rec moveRec) *move {
	m := &move{moveRec: rec}
	if rec.State == moveNone {
		delete(r.moves, rec.Ino)
	} else {
		r.moves[rec.Ino] = m
	}
	ent.moves = append(ent.moves, m)
	return m
}

// replayMove takes a line of the journal in. What was given away is not ours to flush, whatever the
// journal said of it before.
func (r *Rank) replayMove(rec *moveRec) {
	delete(r.moves, rec.Ino)
	if rec.State == moveNone {
		return
	}
	r.moves[rec.Ino] = &move{moveRec: *rec}
	if rec.State == moveGiven {
		if in := r.inodes[rec.Ino]; in != nil && in.home == nil {
			r.forget(in)
		}
	}
}

const (
	whyArriving = "the directory is on its way from another rank"
	whyLeaving  = "the directory is on its way to another rank"

	whyNotActive = "the other rank is failing over"
	whyAskedBack = "another rank is asked for the directory"
)

// undecided parks q until it is known whose directory m is.
func (r *Rank) undecided(q *request, m *move) errno {
	m.waiters = append(m.waiters, r.waker(q))
	return r.parkFree(q, whyArriving)
}

func (m *move) wake() {
	w := m.waiters
	m.waiters = nil
	for _, fn := range w {
		fn()
	}
}

// mustHoldMoves: a directory is in the cache of its owner only, and at home where the table says.
func (r *Rank) mustHoldMoves() {
	for ino, m := range r.moves {
		in := r.inodes[ino]
		switch m.State {
		case moveGiven, movePending:
			must.Holdf(in == nil || in.stub && (in.dir == nil || !in.dir.isDirty), "%v is in the cache, and the table says %d", ino, m.State)
		case moveTaken:
			must.Holdf(in == nil || in.stub || in.home == nil || in.home.dir.in.ino().IsLinksDir(), "%v was taken, and is at home in %v", ino, in)
		}
	}
}

// moveOf is the line of the directory that dn, a far name, leads to, decided; q waits until it is.
func (r *Rank) moveOf(q *request, dn *dentry) (*move, errno) {
	m := r.moves[dn.ino]
	switch {
	case m == nil:
		r.logf(LogError, "%v leads to a directory of another rank, and nobody knows of which", dn)
		return nil, eIO
	case m.State == movePending:
		return nil, r.undecided(q, m)
	}
	return m, ok
}
