package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

func init() { ops[wire.OpOpen] = &opOpen }

// open: says what the client will do with the file and waits until it may begin. Reads and
// writes need their bit; caching bits come when they come, in a GRANT.
var opOpen = opDesc{
	name: "open",
	plan: func(r *Rank, q *request) errno {
		in, e := r.inodeOf(q, q.Ino)
		if e != ok {
			return e
		}
		q.in = in
		if in.isDir() {
			if e := r.header(q, in); e != ok {
				return e
			}
		}
		q.set.Rd(&in.locks[lockAuth])
		return ok
	},
	apply: func(r *Rank, q *request) errno {
		in := q.in
		if !r.mayOpen(in, q.sess, q.Want) {
			return r.parkOpen(q)
		}
		r.reply(q, &wire.Reply{Tid: q.Tid, Target: r.show(q, in, wire.MaskAll)})
		return ok
	},
}

// parkOpen lets q, an open of q.in or a create that found the file there, wait for its caps.
func (r *Rank) parkOpen(q *request) errno {
	fs := q.in.fileState()
	fs.opens = append(fs.opens, waitingOpen{q.sess.client(), r.waker(q)})
	return r.parkFree(q, "caps of others must come back")
}

// waitingOpen is an open that waits for its caps.
type waitingOpen struct {
	client uint64
	wake   func()
}

// mayOpen notes the wish and reports whether a reply can carry the bits that an open cannot
// do without.
func (r *Rank) mayOpen(in *inode, s *session, wanted caps.Bits) bool {
	need := wanted & (caps.FileRd | caps.FileWr) & in.issuable()
	if need == 0 {
		return true
	}
	rec := r.capFor(in, s)
	r.settleFor(in, rec, wanted)
	if rec.Pending.Has(need) {
		return true
	}
	return !rec.Revoking() && !rec.Stale && in.allowed(rec.Client).Has(need)
}

// wakeOpens runs the opens of in again: the rows or the caps changed.
func (r *Rank) wakeOpens(in *inode) {
	if !in.awaited() {
		return
	}
	list := in.file.opens
	in.file.opens = nil
	for i := range list {
		list[i].wake()
	}
}

// opensBy reports whether an open of client waits: its reply will carry what a GRANT would.
func (in *inode) opensBy(client uint64) bool {
	return in.file != nil && slices.ContainsFunc(in.file.opens, func(w waitingOpen) bool { return w.client == client })
}
