package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// Whom a hand-over waits for, and what waits for a hand-over (export.go, import.go).

func onRank(n wire.Rank, text string) On {
	return On{Kind: "rank", Rank: int32(n), Text: fmt.Sprintf("mds rank %d %s", n, text)}
}

// moveOwners names whom q waits for when that has to do with a directory on its way; nil: it has not.
func (r *Rank) moveOwners(q *request) []On {
	for _, x := range r.sortedExports() {
		if x.q == q && x.alive() {
			return r.exportOwners(x)
		}
	}
	switch q.why {
	case whyLeaving:
		for _, ino := range []wire.Ino{q.Ino, q.NewDir, q.Other} {
			in := r.inodes[ino]
			if in == nil {
				continue
			}
			if x := r.exportOf(in); x != nil {
				on := On{Kind: "request", Client: x.q.sess.instance.String(), Host: x.q.sess.place(), Tid: uint64(x.q.Tid), Ino: x.in.ino().String(), SinceMs: (r.now - x.q.began) / 1e6}
				on.Text = fmt.Sprintf("%v of %s, which hands %s to mds rank %d: %s", x.q, r.asker(x.q), r.pathOf(x.in), x.to, x.q.why)
				return []On{on}
			}
		}
	case whyArriving:
		for _, m := range r.sortedMoves() {
			if m.State == movePending {
				return []On{onRank(m.Rank, fmt.Sprintf("to say whether %s is ours now", m.Path))}
			}
		}
	case whyNotActive:
		if m := r.moves[q.Ino]; m != nil {
			return []On{onRank(m.Rank, "to be active again")}
		}
		if in := r.inodes[q.Ino]; in != nil {
			if to, e := r.pinWanted(q, in); e == ok {
				return []On{onRank(to, "to be active again")}
			}
		}
	case whyAskedBack:
		if in := r.inodes[q.Ino]; in != nil && in.dir != nil {
			if dn := in.dir.names[q.Name]; dn != nil && r.moves[dn.ino] != nil {
				return []On{onRank(r.moves[dn.ino].Rank, fmt.Sprintf("to give %s back", r.moves[dn.ino].Path))}
			}
		}
	}
	return nil
}

// asker is who asked for q, for people.
func (r *Rank) asker(q *request) string {
	if q.sess == r.self {
		return "another rank"
	}
	return q.sess.place()
}

// exportOwners names whom an attempt waits for.
func (r *Rank) exportOwners(x *export) (out []On) {
	switch {
	case x.attempt != 0 && !x.acked:
		return []On{onRank(x.to, "to take "+r.pathOf(x.in))}
	case x.tree.phase == treeTrim:
		text := fmt.Sprintf("the OSDs: what is below %s is being written; %d directories are dirty, the journal begins at %d, not yet at %d", r.pathOf(x.in), len(r.dirtyDirs), r.expire.oldest, x.tree.mark)
		return []On{{Kind: "object", Ino: x.in.ino().String(), Text: text}}
	case x.tree.phase == treeDrain && len(x.tree.todo) == 0 && len(r.nest.seek) > 0:
		return []On{{Kind: "object", Ino: r.nest.seek[0].String(), Text: fmt.Sprintf("the OSDs: %d directories are read for the sums above them, ino %v first", len(r.nest.seek), r.nest.seek[0])}}
	case x.tree.phase != treeDrain || len(x.tree.todo) == 0:
		return nil // the lock, object or journal that it waits for is named like anybody's
	}
	if n := len(x.tree.leased); n > 0 {
		dn := x.tree.leased[n-1]
		for _, l := range dn.leases {
			out = append(out, r.askOf(l.sess.client(), nil, dn))
		}
		return out
	}
	in := x.tree.todo[len(x.tree.todo)-1]
	out = r.asksOn(in, nobody)
	if len(out) == 0 {
		out = []On{onRank(r.cfg.Rank, fmt.Sprintf("to end what it does with ino %v", in.ino()))}
	}
	return out
}
