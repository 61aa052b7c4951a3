package mds

import "github.com/capstan-fs/capstan/wire"

// A rank with Config.FlushOnly serves nobody: it replays the journal, ends the truncates that
// it finds begun, writes what the directories' objects lack, leaves a journal of one segment,
// and stops. It reads no directory, so damage there does not keep it from its work. Sessions
// stay in the journal for the next holder.

func (r *Rank) flushOnly() {
	r.redoCuts(func() {
		if floor := r.cfg.InoFloor; floor > r.inos.end {
			r.inos.end = min(floor, r.inos.max)
		}
		r.stop()
	})
}

// InoEnd is the number below which inode numbers may have been given out.
func (r *Rank) InoEnd() wire.Ino { return r.inos.end }
