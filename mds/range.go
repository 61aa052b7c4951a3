package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Write ranges (4.9). A client writes only below its journaled range, so after its death the
// true size is known to be no larger. A range outlives its use in the record until the next
// entry of the inode: reopening for write then costs no entry.

// fileState is what only inodes in use have.
type fileState struct {
	rangePos journal.Pos   // entry that a shown range rests on; 0: the create's own, which may be early
	opens    []waitingOpen // opens that wait for their caps
	lonerAt  int64         // when the ideal loner changes by time, 0: it does not
	probing  bool          // R1: the size is being recovered
	again    bool          // … and once more: another writer was fenced meanwhile
	locks    *flockTable
	lockAt   int // place in Rank.lockFiles, while there are locks

	// remotes are the cached remote dentries that lead here, so that it cannot be trimmed
	// from under them.
	remotes []*dentry
}

func (in *inode) fileState() *fileState {
	if in.file == nil {
		in.file = &fileState{}
		in.rank.account(in)
	}
	return in.file
}

func (in *inode) remotes() []*dentry {
	if in.file == nil {
		return nil
	}
	return in.file.remotes
}

func (in *inode) addRemote(dn *dentry) {
	fs := in.fileState()
	fs.remotes = append(fs.remotes, dn)
}

func (in *inode) dropRemote(dn *dentry) {
	if i := slices.Index(in.remotes(), dn); i >= 0 {
		in.file.remotes = slices.Delete(in.file.remotes, i, i+1)
	}
}

// awaited reports whether an open waits for caps of in.
func (in *inode) awaited() bool { return in.file != nil && len(in.file.opens) > 0 }

func roundUp(n, unit uint64) uint64 {
	if unit == 0 {
		unit = 4 << 20
	}
	return (n + unit - 1) / unit * unit
}

// rangeForNew puts the range of the creator into the record of a new file, so that it rides
// in the create's own entry.
func (r *Rank) rangeForNew(in *inode, s *session, want caps.Bits) {
	if s == nil || !in.isReg() || want&(caps.FileWr|caps.FileBuffer) == 0 {
		return
	}
	r.setRange(in, s, roundUp(1, uint64(in.rec.ObjectSize)))
}

func (r *Rank) setRange(in *inode, s *session, top uint64) {
	// A new slice: queued replies and the journal's encoder may still look at the old one.
	out := make([]rangeRec, 0, len(in.rec.Ranges)+1)
	found := false
	for _, g := range in.rec.Ranges {
		if g.Session == s.key {
			g.Max, found = max(g.Max, top), true
		}
		out = append(out, g)
	}
	if !found {
		out = append(out, rangeRec{Session: s.key, Max: top})
	}
	in.rec.Ranges = out
	in.rec.Reach = max(in.rec.Reach, top)
}

func (in *inode) rangeRec(s *session) uint64 {
	for _, g := range in.rec.Ranges {
		if g.Session == s.key {
			return g.Max
		}
	}
	return 0
}

// rangeOf makes sure that s, about to get w, has a journaled range.
func (r *Rank) rangeOf(in *inode, s *session, rec *caps.Record) bool {
	if rec.MaxSize != 0 {
		return true
	}
	if r.jw == nil {
		return false
	}
	old := in.rangeRec(s)
	if old == 0 || old <= in.rec.Size || old > in.rec.Reach {
		r.journalRange(in, s, roundUp(2*in.rec.Size+1, uint64(in.rec.ObjectSize)))
	}
	rec.MaxSize = in.rangeRec(s)
	return true
}

// growRange answers a wish for more, also while a REVOKE is open: a WRITE that waits for it
// may own a page that the revoke's invalidation needs (Q-e).
func (r *Rank) growRange(s *session, in *inode, rec *caps.Record, wish uint64) {
	if rec.Issued&caps.FileWr == 0 || wish > wire.MaxFileBytes {
		return
	}
	r.journalRange(in, s, roundUp(min(2*(wish+1), wire.MaxFileBytes), uint64(in.rec.ObjectSize)))
	rec.MaxSize = in.rangeRec(s)
	r.sendCap(s, in, rec, wire.CapRange, 0, false)
}

func (r *Rank) journalRange(in *inode, s *session, top uint64) {
	r.setRange(in, s, top)
	e := r.newEntry()
	e.inode(in)
	in.fileState().rangePos = r.submit(e)
}

// rangeStamp is what a message that shows a range waits for.
func (in *inode) rangeStamp() journal.Pos {
	if in.file == nil {
		return 0
	}
	return in.file.rangePos
}

// tidyRanges drops the ranges of those who cannot write any more from the record; the entry
// that follows makes it durable.
func (r *Rank) tidyRanges(in *inode) {
	if in.file != nil && in.file.probing {
		return // the ranges of the dead bound the probe
	}
	gone := func(g rangeRec) bool {
		rec := in.ledger.Get(uint64(g.Session))
		return rec == nil || rec.MaxSize == 0
	}
	if slices.ContainsFunc(in.rec.Ranges, gone) {
		in.rec.Ranges = slices.DeleteFunc(slices.Clone(in.rec.Ranges), gone)
	}
}
