package mds

import (
	"slices"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/mds/filelock"
	"github.com/capstan-fs/capstan/wire"
)

// clients is what a Rank keeps for its sessions and caps as a whole.
type clients struct {
	order  []*session // by seq: the deterministic order of sessions
	ghosts []*session // evicted and fenced; what they cache ends by silence (K2)
	early  []Event    // what came before the journal was read
	opens  []Event    // SessionOpens that came before the rank was active

	capID    uint64
	leaseSeq uint32

	first  []ask // unanswered REVOKEs in the order they were sent: asked again at R/2
	second []ask // asked twice: the deadline is R
	silent []ask // the deadline passed, but nothing that a fence must take back is owed
	busy   map[*caps.Record]busy
	loners []*inode // whose ideal loner changes by time alone

	lonerNext int64      // the first of their times; 0: none
	owing     []*session // in order of owedAt: with a watermark that waits for a reply to ride on

	flocks    *filelock.Graph
	lockFiles []*inode            // those with a table of file locks
	flocking  map[uint64]*request // parked Setlk by the handle that filelock knows
	untold    []untold            // of those, whose clients do not know their places yet, as they were queued
	probing   int                 // size probes under way

	reclaimed   []*inode // reconnect: with caps that clients said they have
	window      int64    // reconnect: end of the window, 0: not in it
	lastAnswer  int64
	nextSession int64        // when tickSessions is due, as it said last
	showing     *caps.Record // a reply with this cap is being built: no GRANT for it

	hushed      []func() // changes that wait for silentUntil
	silentUntil int64    // takeover: shared access only before this (section 6, silent sessions)
}

// sessionLive is what a session keeps of its client's life (4.7).
type sessionLive struct {
	lastRenew int64     // when the last renewal came (monotonic ns)
	leases    leaseList // every dentry lease, oldest first
	recall    recallState
	lastWork  int64               // when its last request came
	goodbye   string              // why it is evicted
	last      bool                // reconnect: it has said everything
	parts     int                 // reconnect: inodes that are still being opened
	said      int                 // reconnect: how often it had to begin anew
	claims    []lockClaim         // reconnect: file locks, until active
	refused   int64               // stale: when a file lock of it was first in the way of one who would not wait; 0: not yet
	unplaced  []wire.ReconnectCap // of inodes that are not there, until clientreplay has ended
	left      []leftCap           // of inodes that are at another rank, until the window has ended
}

// Times of 4.7 that derive from V, in nanoseconds. ε is 1 %.
func (r *Rank) validity() int64   { return r.cfg.ValidityNs }
func (r *Rank) kernel() int64     { return r.cfg.ValidityNs / 3 }
func (r *Rank) staleAfter() int64 { return slack(r.validity()) }
func (r *Rank) silence() int64    { return slack(r.validity() + r.kernel()) }
func (r *Rank) autoclose() int64  { return 20 * r.validity() }
func (r *Rank) deadline() int64   { return r.cfg.RevokeNs }

func slack(d int64) int64 { return d + d/100 }

func (s *session) client() uint64 { return uint64(s.key) }

// live reports whether the session may be sent caps and answers.
func (s *session) alive() bool {
	return s.state == sessOpen || s.state == sessOpening || s.state == sessStale
}

// capOwner is the session of a record, nil when only its silence is awaited.
func (r *Rank) capOwner(rec *caps.Record) *session { return r.sessions[SessionKey(rec.Client)] }

func (r *Rank) addSession(s *session) {
	r.sessions[s.key] = s
	r.order = append(r.order, s)
}

func (r *Rank) removeSession(s *session) {
	if r.sessions[s.key] == s {
		delete(r.sessions, s.key)
	}
	r.dropClaims(s, func(*lockClaim) bool { return true })
	if i := slices.Index(r.order, s); i >= 0 {
		r.order = slices.Delete(r.order, i, i+1)
	}
}

// soonest keeps the earlier of two deadlines; 0 is none.
func soonest(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
