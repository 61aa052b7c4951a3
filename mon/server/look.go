package server

import (
	"strconv"
	"time"
)

// RaftState is how raft sees itself here, for metrics and for people.
type RaftState struct {
	State       string  `json:"state"` // Leader, Follower, Candidate, Shutdown
	Term        uint64  `json:"term"`
	Commit      uint64  `json:"commit_index"`
	Applied     uint64  `json:"applied_index"`
	LastContact float64 `json:"last_contact_seconds"` // since it heard the leader; 0: it leads; -1: never
}

// RaftState asks raft.
func (d *Daemon) RaftState() (s RaftState) {
	r := d.raft.Load()
	if r == nil {
		return RaftState{State: "Shutdown", LastContact: -1}
	}
	s = RaftState{State: r.State().String(), Commit: r.CommitIndex(), Applied: r.AppliedIndex()}
	s.Term, _ = strconv.ParseUint(r.Stats()["term"], 10, 64)
	switch at := r.LastContact(); {
	case s.State == "Leader":
	case at.IsZero():
		s.LastContact = -1
	default:
		s.LastContact = time.Since(at).Seconds()
	}
	return s
}
