package mon

import (
	"fmt"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// MDSAssign gives a rank to a daemon. The holder before, if there still is one, is fenced in
// the same change (M6), and the successor waits its lease out (LS).
type MDSAssign struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     wire.Rank
	Daemon   clustermap.DaemonInfo
	Old      wire.Instance // the holder that is replaced; zero: none
}

func (c *MDSAssign) String() string {
	return fmt.Sprintf("assign rank %d to mds.%s (%v)", c.Rank, c.Daemon.Name, c.Daemon.Instance)
}

func (c *MDSAssign) apply(e *edit) error {
	in, ok := e.old.FS.Ranks[c.Rank]
	switch {
	case !ok:
		return refuse(ENOENT, "no rank %d", c.Rank)
	case in.Daemon.Instance != c.Old:
		return refuse(ESTALE, "rank %d is held by %v", c.Rank, in.Daemon.Instance)
	case in.State == clustermap.RankDamaged:
		return refuse(EPERM, "rank %d is damaged", c.Rank)
	case !e.old.FS.Wanted(c.Rank):
		return refuse(ENOENT, "there should be no rank %d", c.Rank)
	case c.Daemon.Instance.IsZero() || e.old.OSD.IsBlocklisted(c.Daemon.Instance):
		return refuse(EPERM, "%v is fenced", c.Daemon.Instance)
	}
	if r, _, ok := e.old.FS.Holder(c.Daemon.Instance); ok {
		return refuse(EEXIST, "%v holds rank %d", c.Daemon.Instance, r)
	}
	if !c.Old.IsZero() {
		e.fence(&in, c.Old, "replaced by mds."+c.Daemon.Name)
	}
	fs := e.fsMap()
	in.Daemon, in.Assigned = c.Daemon, fs.Epoch
	in.State = clustermap.RankCreating
	if in.Created {
		in.State = clustermap.RankReplay
	}
	delete(fs.Standbys, c.Daemon.Instance)
	fs.Ranks[c.Rank] = in
	return nil
}

// fence ends a holder that did not end by itself.
func (e *edit) fence(in *clustermap.RankInfo, old wire.Instance, reason string) {
	e.block(old, reason, false)
	in.LeaseWait = true
	in.FencedAt = e.old.OSD.Blocklist[old].Since
	if e.osd != nil {
		in.FencedAt = e.osd.Blocklist[old].Since
	}
}

// MDSFail takes a rank from a holder that nobody can succeed yet.
type MDSFail struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     wire.Rank
	Instance wire.Instance
	Reason   string
}

func (c *MDSFail) String() string {
	return fmt.Sprintf("fail rank %d of %v (%s)", c.Rank, c.Instance, c.Reason)
}

func (c *MDSFail) apply(e *edit) error {
	in, ok := e.old.FS.Ranks[c.Rank]
	if !ok || in.Daemon.Instance != c.Instance || c.Instance.IsZero() {
		return refuse(ESTALE, "rank %d is not held by %v", c.Rank, c.Instance)
	}
	e.fence(&in, c.Instance, c.Reason)
	in.State, in.Daemon = clustermap.RankFailed, clustermap.DaemonInfo{}
	e.fsMap().Ranks[c.Rank] = in
	return nil
}

// MDSState moves a rank on at its holder's wish.
type MDSState struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     wire.Rank
	Instance wire.Instance
	State    clustermap.RankState
}

func (c *MDSState) String() string { return fmt.Sprintf("move rank %d to %v", c.Rank, c.State) }

func (c *MDSState) apply(e *edit) error {
	in, ok := e.old.FS.Ranks[c.Rank]
	if !ok || in.Daemon.Instance != c.Instance || c.Instance.IsZero() {
		return refuse(ESTALE, "rank %d is not held by %v", c.Rank, c.Instance)
	}
	if in.State == c.State {
		return nil
	}
	if !rankMay(in.State, c.State) {
		return refuse(EINVAL, "rank %d cannot go from %v to %v", c.Rank, in.State, c.State)
	}
	switch c.State {
	case clustermap.RankStopped:
		// It answers nothing any more and its writes are done, so its successor need not wait
		// for a lease; it is fenced all the same, and the entry may expire.
		e.block(c.Instance, "stopped", true)
		in.Daemon, in.LeaseWait, in.FencedAt = clustermap.DaemonInfo{}, false, e.osdMap().Epoch
	case clustermap.RankDamaged:
		e.fence(&in, c.Instance, "rank damaged")
		in.Daemon = clustermap.DaemonInfo{}
	case clustermap.RankActive:
		in.Created = true
	}
	in.State = c.State
	e.fsMap().Ranks[c.Rank] = in
	return nil
}

// MDSRepaired lets a damaged rank be held again: an operator says that the object which could
// not be read was restored, or wants the rank to try again.
type MDSRepaired struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     wire.Rank
}

func (c *MDSRepaired) String() string { return fmt.Sprintf("rank %d is repaired", c.Rank) }

func (c *MDSRepaired) apply(e *edit) error {
	in, ok := e.old.FS.Ranks[c.Rank]
	if !ok || in.State != clustermap.RankDamaged {
		return refuse(EINVAL, "rank %d is not damaged", c.Rank)
	}
	in.State = clustermap.RankFailed
	e.fsMap().Ranks[c.Rank] = in
	return nil
}

// rankMay: forward through the life cycle, or out of it; a new rank is active once it is made.
func rankMay(from, to clustermap.RankState) bool {
	switch {
	case to == clustermap.RankStopped || to == clustermap.RankDamaged:
		return from >= clustermap.RankCreating && from <= clustermap.RankStopping
	case from == clustermap.RankCreating:
		return to == clustermap.RankActive
	}
	return from >= clustermap.RankReplay && to > from && to <= clustermap.RankStopping
}

// FSRanks says how many ranks there should be. New ones are free for any daemon; those above the
// number stop when they own nothing any more, and then no daemon gets them.
type FSRanks struct {
	_msgpack struct{} `msgpack:",as_array"`
	N        uint32
}

func (c *FSRanks) String() string { return fmt.Sprintf("set the number of ranks to %d", c.N) }

func (c *FSRanks) apply(e *edit) error {
	if c.N < 1 || c.N > wire.MaxRanks {
		return refuse(EINVAL, "a file system has 1 to %d ranks, not %d", wire.MaxRanks, c.N)
	}
	if e.old.FS.MaxRanks == c.N {
		return nil
	}
	fs := e.fsMap()
	for r := wire.Rank(0); uint32(r) < c.N; r++ {
		if _, ok := fs.Ranks[r]; !ok {
			fs.Ranks[r] = clustermap.RankInfo{State: clustermap.RankNone}
		}
	}
	for r, in := range fs.Ranks {
		if uint32(r) >= c.N && in.State == clustermap.RankNone && !in.Created && len(in.InoRanges) == 0 {
			delete(fs.Ranks, r) // nobody ever held it
		}
	}
	fs.MaxRanks = c.N
	return nil
}

// MDSStandby lists a daemon that waits for a rank, or with Gone takes it off the list.
type MDSStandby struct {
	_msgpack struct{} `msgpack:",as_array"`
	Daemon   clustermap.DaemonInfo
	Gone     bool
}

func (c *MDSStandby) String() string {
	return fmt.Sprintf("standby mds.%s gone=%v", c.Daemon.Name, c.Gone)
}

func (c *MDSStandby) apply(e *edit) error {
	i := c.Daemon.Instance
	have, ok := e.old.FS.Standbys[i]
	if _, _, holds := e.old.FS.Holder(i); holds || e.old.OSD.IsBlocklisted(i) {
		return refuse(EPERM, "%v is no standby", i)
	}
	switch {
	case c.Gone && ok:
		delete(e.fsMap().Standbys, i)
	case !c.Gone && have != c.Daemon:
		e.fsMap().Standbys[i] = c.Daemon
	}
	return nil
}

// InoRange gives a rank another range of inode numbers. Asked twice it gives two: numbers
// are many, and one given out twice would be a disaster.
type InoRange struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     wire.Rank
	Instance wire.Instance
}

func (c *InoRange) String() string { return fmt.Sprintf("inode range for rank %d", c.Rank) }

// maxInoRange keeps numbers below 2^63, where some user-space programs stop.
const maxInoRange = 1 << 23

func (c *InoRange) apply(e *edit) error {
	in, ok := e.old.FS.Ranks[c.Rank]
	if !ok || in.Daemon.Instance != c.Instance || c.Instance.IsZero() {
		return refuse(ESTALE, "rank %d is not held by %v", c.Rank, c.Instance)
	}
	if e.old.FS.NextInoRange >= maxInoRange {
		return refuse(EAGAIN, "no inode numbers are left")
	}
	fs := e.fsMap()
	in.InoRanges = append(in.InoRanges[:len(in.InoRanges):len(in.InoRanges)], fs.NextInoRange)
	fs.NextInoRange++
	fs.Ranks[c.Rank] = in
	return nil
}
