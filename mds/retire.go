package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// Retire: the monitors want fewer ranks than this one's number asks for. It stops when it owns
// nothing: no directory of the tree, no inode that is still being purged. Its sessions are closed,
// its journal is trimmed to one segment, and the next holder, should the number be raised again,
// finds an empty rank with the inode ranges it had.

// retire stops a rank that there should not be, once it can.
func (r *Rank) retire() {
	if !r.retiring || r.state != clustermap.RankActive || r.Owned() > 0 || len(r.moves)+len(r.exports) > 0 || !r.empty() {
		return
	}
	r.logf(LogInfo, "rank %d stops: there should be %d ranks, and it owns nothing", r.cfg.Rank, r.fsmap.MaxRanks)
	r.setState(clustermap.RankStopping)
	for _, s := range slices.Clone(r.order) {
		if s.alive() {
			r.onSessionClose(s, 0)
		}
	}
	r.stop()
}

// empty reports whether the rank owns nothing that a client could name or an OSD still has.
func (r *Rank) empty() bool {
	for i := range wire.SystemShards {
		for _, ino := range []wire.Ino{wire.StrayDir(r.cfg.Rank, i), wire.LinksDir(r.cfg.Rank, i)} {
			in := r.inodes[ino]
			if in == nil {
				return false // the base directory is still being read
			}
			if d := r.dirOf(in); !d.complete {
				r.fetch(d) // its end looks again
				return false
			} else if d.order.Len() > 0 {
				return false
			}
		}
	}
	return true
}

// Owned counts the directories at the top of what the rank owns of the tree: with any, it cannot stop.
func (r *Rank) Owned() int { return len(r.Subtrees()) }
