package mds

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// Dumps show a running rank to people; values that encode as JSON.

// Barrier is the OSDMap epoch that everything given from now on carries (K1).
func (r *Rank) Barrier() wire.Epoch { return r.barrier }

// SessionInfo is one row of `capstan sessions`.
type SessionInfo struct {
	Client   string `json:"client"`
	Key      string `json:"key"`
	Host     string `json:"host"`
	PID      uint32 `json:"pid"` // of the mount's process on that host; 0: it did not say
	State    string `json:"state"`
	Caps     int    `json:"caps"`
	Leases   int    `json:"leases"`
	Parked   int    `json:"requests"`
	Unsafe   int    `json:"unsafe"`
	Asked    int    `json:"revokes"` // unanswered
	RenewSec int64  `json:"renewed_seconds_ago"`
	Queued   int    `json:"queued"` // messages that wait for the journal
}

var sessionStates = [...]string{"opening", "open", "stale", "evicting", "closing", "reconnect", "dead"}

func (s sessionState) String() string { return sessionStates[s] }

// DumpSessions lists the sessions, evicted ones whose caches may live on included.
func (r *Rank) DumpSessions() []SessionInfo {
	out := []SessionInfo{}
	asked := map[uint64]int{}
	for _, list := range [][]ask{r.first, r.second, r.silent} {
		for i := range list {
			if r.askOpen(&list[i]) {
				asked[list[i].client()]++
			}
		}
	}
	show := func(s *session) {
		out = append(out, SessionInfo{Client: s.instance.String(), Key: fmt.Sprintf("%x", uint64(s.key)), Host: s.place(), PID: s.pid(), State: s.state.String(),
			Caps: s.caps.Len(), Leases: s.live.leases.n, Parked: len(s.parked), Unsafe: len(s.unsafe), Asked: asked[s.client()],
			RenewSec: (r.now - s.live.lastRenew) / 1e9, Queued: len(s.out.items) - s.out.head})
	}
	for _, s := range r.order {
		show(s)
	}
	for _, s := range r.ghosts {
		show(s)
	}
	return out
}

// CapInfo is one client's cap on an inode.
type CapInfo struct {
	Client   string `json:"client"`
	Host     string `json:"host"`
	PID      uint32 `json:"pid,omitempty"`
	Pending  string `json:"pending"`
	Issued   string `json:"issued"`
	Wanted   string `json:"wanted"`
	Seq      uint32 `json:"seq"`
	MaxSize  uint64 `json:"max_size,omitempty"`
	Revoking string `json:"revoking,omitempty"`
	Since    int64  `json:"revoking_ms,omitempty"`
	Deadline int64  `json:"deadline_ms,omitempty"` // until it is evicted, or what it owes is taken
	Stale    bool   `json:"stale,omitempty"`
}

// InodeInfo is one inode with its caps and what each lock allows.
type InodeInfo struct {
	Ino   string     `json:"ino"`
	Path  string     `json:"path"`
	Size  uint64     `json:"size"`
	Loner uint64     `json:"loner,omitempty"`
	Caps  []CapInfo  `json:"caps"`
	Locks []LockInfo `json:"locks,omitempty"`

	FileLocks []FileLockInfo `json:"file_locks,omitempty"`
}

// LockInfo is one lock of it. For names in words what Awaits names by session key.
type LockInfo struct {
	locker.Info
	For []On `json:"for,omitempty"`
}

// find takes a number (0x…, decimal) or a path from the root.
func (r *Rank) find(name string) (*inode, error) {
	if n, err := strconv.ParseUint(name, 0, 64); err == nil {
		if in := r.inodes[wire.Ino(n)]; in != nil {
			return in, nil
		}
		return nil, fmt.Errorf("no inode %s in the cache", name)
	}
	in := r.root
	if in == nil {
		return nil, fmt.Errorf("rank %d has no root, or is not ready", r.cfg.Rank)
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || part == "." {
			continue
		}
		if in.dir == nil {
			return nil, fmt.Errorf("%s: not in the cache", name)
		}
		dn := in.dir.names[part]
		if dn == nil || dn.in == nil {
			return nil, fmt.Errorf("%s: no such name in the cache", name)
		}
		in = dn.in
	}
	return in, nil
}

func (in *inode) path() string {
	var parts []string
	for p := in; p != nil && p.home != nil; p = p.parent() {
		parts = append([]string{p.home.name}, parts...)
	}
	return strings.Join(parts, "/")
}

func (r *Rank) info(in *inode) *InodeInfo {
	out := &InodeInfo{Ino: in.rec.Ino.String(), Path: in.path(), Size: in.rec.Size, Loner: in.ledger.LonerOf(), Caps: []CapInfo{}}
	for _, rec := range in.ledger.All() {
		c := CapInfo{Client: fmt.Sprintf("%x", rec.Client), Pending: rec.Pending.String(), Issued: rec.Issued.String(), Wanted: rec.Wanted.String(),
			Seq: rec.Seq, MaxSize: rec.MaxSize, Stale: rec.Stale}
		if s := r.sessionOf(rec.Client); s != nil {
			c.Client, c.Host, c.PID = s.instance.String(), s.place(), s.pid()
		}
		if rec.Revoking() {
			c.Revoking, c.Since = rec.Owed().String(), (r.now-rec.RevokedAt)/1e6
			c.Deadline = r.askOf(rec.Client, in, nil).DeadlineMs
		}
		out.Caps = append(out.Caps, c)
	}
	return out
}

// DumpCaps shows who may cache what of one inode.
func (r *Rank) DumpCaps(name string) (*InodeInfo, error) {
	in, err := r.find(name)
	if err != nil {
		return nil, err
	}
	return r.info(in), nil
}

// DumpLocks shows the locks of one inode and of its home dentry with it.
func (r *Rank) DumpLocks(name string) (*InodeInfo, error) {
	in, err := r.find(name)
	if err != nil {
		return nil, err
	}
	out := r.info(in)
	if in.home != nil {
		out.Locks = append(out.Locks, r.lockInfo(&in.home.locks[0]))
	}
	for i := range in.locks {
		out.Locks = append(out.Locks, r.lockInfo(&in.locks[i]))
	}
	out.FileLocks = r.fileLocks(in)
	return out, nil
}

func (r *Rank) lockInfo(l *locker.Lock) LockInfo {
	d := LockInfo{Info: l.Describe()}
	if len(d.Awaits) > 0 {
		d.For = r.ownersOf(l, nil)
	}
	return d
}
