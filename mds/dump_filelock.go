package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/mds/filelock"
)

// FileLockInfo is one flock or fcntl lock that is held or awaited. The ticket is the grant's,
// or a waiter's place in the queue.
type FileLockInfo struct {
	Kind    string `json:"kind"` // flock, or fcntl: POSIX and OFD locks
	Client  string `json:"client"`
	Host    string `json:"host,omitempty"`
	Owner   string `json:"owner"`
	PID     uint32 `json:"pid"`
	Type    string `json:"type"` // read or write
	Start   uint64 `json:"start"`
	End     uint64 `json:"end"` // inclusive; 9223372036854775807: to the end of the file
	Ticket  uint64 `json:"ticket"`
	Waiting bool   `json:"waiting,omitempty"`
	Thread  uint32 `json:"thread,omitempty"` // of a waiter: its thread on that host, unless a failover has come between
	WaitsMs int64  `json:"waits_ms,omitempty"`
	Told    bool   `json:"told,omitempty"` // its client knows its place: the next rank will too
}

// fileLocks lists grants and queues.
func (r *Rank) fileLocks(in *inode) (out []FileLockInfo) {
	if in.file == nil || in.file.locks == nil {
		return nil
	}
	add := func(kind string, h filelock.Held) *FileLockInfo {
		f := FileLockInfo{Kind: kind, Client: fmt.Sprintf("%x", h.Owner.Client), Owner: fmt.Sprintf("%x", h.Owner.Token), PID: h.PID,
			Type: filelock.TypeName(h.Type), Start: h.Start, End: h.End, Ticket: h.Ticket}
		if s := r.sessionOf(h.Owner.Client); s != nil {
			f.Client, f.Host = s.instance.String(), s.host
		}
		out = append(out, f)
		return &out[len(out)-1]
	}
	for i, kind := range []string{"fcntl", "flock"} {
		for _, h := range in.file.locks.Held(i == 1) {
			add(kind, h)
		}
		for _, w := range in.file.locks.Waiting(i == 1) {
			f := add(kind, w.Held)
			f.Waiting = true
			if q := r.flocking[w.Req]; q != nil {
				f.WaitsMs, f.Told, f.Thread = (r.now-q.since)/1e6, q.told, q.PID
			}
		}
	}
	return out
}
