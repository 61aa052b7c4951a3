package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Who owns what. A rank serves what it owns and nothing else: a request that names something of
// another rank is answered with a redirect, and one that would need two ranks with EXDEV.
//
// No directory of the tree moves between ranks yet, so an inode belongs to the rank that gave its
// number out, which the FSMap tells by the range that the number is of.

// owner is the rank that owns inode number ino. A number that is of nobody's range is ours to call
// stale, and so is one of a rank that has stopped: it owned nothing then.
func (r *Rank) owner(ino wire.Ino) wire.Rank {
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
	return r.cfg.Rank
}

// elsewhere refuses a request that names ino, of another rank: the answer tells the client whom to
// ask when it is what the request is addressed by, and that two ranks would be needed when it is the
// other thing that the request is about.
func (r *Rank) elsewhere(q *request, ino wire.Ino) errno {
	if ino != q.Ino {
		return eXDEV
	}
	q.to = r.owner(ino)
	return redirected
}

// Subtree is a part of the tree that a rank owns, from a directory down to the next ones of others.
type Subtree struct {
	Ino  string `json:"ino"`
	Path string `json:"path"`
}

// Subtrees lists what the rank owns of the tree.
func (r *Rank) Subtrees() []Subtree {
	if r.cfg.Rank != 0 || r.root == nil {
		return []Subtree{}
	}
	return []Subtree{{Ino: wire.RootIno.String(), Path: "/"}}
}
