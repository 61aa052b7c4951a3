package mds

import (
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// Config is what a rank is told at its start.
type Config struct {
	Rank        wire.Rank
	Instance    wire.Instance
	Incarnation journal.Incarnation // higher than any holder's before: the FSMap epoch of the assignment
	MetaPool    uint32
	DataPool    uint32
	ObjectSize  uint32     // of new files
	Create      bool       // nothing exists yet: make the journal and the root
	InoRanges   []uint64   // ranges of 2^40 numbers that this rank owns; the first is used
	Barrier     wire.Epoch // OSDMap epoch of all object operations at the start
	Epoch       wire.Epoch // FSMap epoch of the assignment: upper half of tickets (4.13)
	QuietUntil  int64      // nothing is answered before (rule LS); monotonic ns

	ValidityNs, RevokeNs int64 // V, R (4.7); 0: 15 s, 10 s
	GraceNs              int64 // G, how long a rank that was replaced may go on answering (LS); 0: 3 s
	NestLagNs            int64 // how long a directory above may count what was; 0: 1 s
	LingerNs             int64 // how long an update that was answered early may wait for others to share its journal write; 0: not at all
	SafeRideNs           int64 // how long a watermark may wait for a reply to ride on; 0: not at all

	CacheBytes   int64 // what the cache may take of the heap (memory.go); 0: 256 MiB
	MaxCaps      int   // caps of one session beyond which it is asked to trim; 0: 1 000 000
	MaxFileLocks int   // file locks held and awaited by one client; beyond it ENOLCK; 0: 100 000
	SegmentBytes int   // 0: 2 MiB
	MaxSegments  int   // 0: 8
	LogLevel     LogLevel
	Wrong        wrong.Set // seeded bugs, for scoring test suites
	Check        bool      // walk all invariants after every step (tests)
	FlushOnly    bool      // bring the journal into the objects and stop (offline.go)
	InoFloor     wire.Ino  // with FlushOnly: no number below is given out any more
}

func (c *Config) fill() {
	if c.ValidityNs == 0 {
		c.ValidityNs = 15e9
	}
	if c.RevokeNs == 0 {
		c.RevokeNs = 10e9
	}
	if c.GraceNs == 0 {
		c.GraceNs = 3e9
	}
	if c.NestLagNs == 0 {
		c.NestLagNs = 1e9
	}
	if c.ObjectSize == 0 {
		c.ObjectSize = 4 << 20
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 256 << 20
	}
	if c.MaxCaps == 0 {
		c.MaxCaps = 1_000_000
	}
	if c.MaxFileLocks == 0 {
		c.MaxFileLocks = 100_000
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 2 << 20
	}
	if c.MaxSegments == 0 {
		c.MaxSegments = 8
	}
}

// Rank is one metadata rank. It is passive: Step is the only way in.
type Rank struct {
	cfg    Config
	eff    Effects
	now    int64
	wall   wire.Time
	osdmap *clustermap.OSDMap
	fsmap  *clustermap.FSMap
	state  clustermap.RankState

	moves      map[wire.Ino]*move   // directories of other ranks, or from them (moves.go)
	exports    map[wire.Ino]*export // on their way to another rank
	exportSeq  uint64
	gone       []*inode // given away in this step
	indexWaits []indexWait
	peers      []*peer
	earlyPeers []Event
	self       *session // requests of the rank's own
	mapWaits   []mapWait

	retiring bool // there should be fewer ranks: this one stops when it owns nothing

	barrier wire.Epoch

	// journal and output
	jw           *journal.Writer // nil before replay ended
	durablePos   journal.Pos
	handed       journal.Pos // end of what was handed to the shell to write …
	handedAt     int64       // … and when
	urgent       journal.Pos // end of the newest entry whose author may be waiting for it
	urgentBefore journal.Pos
	ent          entry
	segs         []segment
	waiting      []*session // with queued messages
	unsafe       []*session // with undurable tids
	afters       []after
	objects      []objectEffect
	objectHead   int
	objectDone   map[uint64]func(uint32, []wire.ObjResult)
	token        uint64

	// cache
	inodes      map[wire.Ino]*inode
	base        *inode
	root        *inode
	numDentries int
	idle        []*dentry
	seek        *dentry // for searches by cookie
	dirtyDirs   []*dir  // by since, oldest first
	oldest      *inode  // what may be trimmed, least recently used first
	newest      *inode
	mem         memory

	// sessions and requests
	sessions   map[SessionKey]*session // in deterministic order: clients.order
	sessionSeq uint64
	engine     *locker.Engine
	ready      []*request
	reqSeq     uint64
	freeReqs   []*request

	inos      inoTable
	strays    strayState
	nest      nestState
	cuts      []*cut
	replay    *replayState // until active
	replayEnd journal.Pos  // where this life's journal begins
	expire    expireState
	counts    Counts
	latency   Latency
	slow      []SlowOp // ended, not yet asked for
	trace     *tracer  // nil: off
	clients            // sessions, caps and leases as a whole (F2)
}

// Counts are totals for `capstan status` and tests.
type Counts struct {
	Requests, Entries, Fetches, Flushes, Trimmed, Purged, Strays, Crowded uint64
	Parked, Grants, Revokes, AskedAgain, Evictions, Redirects             uint64
}

// New makes a rank in its first state. Nothing happens before the first event; the shell
// sends Start first.
func New(cfg Config) *Rank {
	cfg.fill()
	r := &Rank{
		cfg:        cfg,
		state:      clustermap.RankBoot,
		barrier:    cfg.Barrier,
		inodes:     map[wire.Ino]*inode{},
		sessions:   map[SessionKey]*session{},
		objectDone: map[uint64]func(uint32, []wire.ObjResult){},
		moves:      map[wire.Ino]*move{},
		exports:    map[wire.Ino]*export{},
		self:       &session{state: sessDead},
	}
	r.seek = &dentry{}
	r.engine = locker.New(r)
	r.initCaps()
	return r
}

// State is where the rank is in its life.
func (r *Rank) State() clustermap.RankState { return r.state }

// Counts shows the totals.
func (r *Rank) Counts() Counts { return r.counts }

// Step applies one event and returns what the shell must now do. The effects belong to the
// rank and are valid until the next Step.
func (r *Rank) Step(ev Event) *Effects {
	r.eff.reset()
	if ev.Now > r.now {
		r.now = ev.Now
	}
	if ev.Wall != (wire.Time{}) {
		r.wall = ev.Wall
	}
	r.dispatch(&ev)
	if r.state == stateClientReplay {
		r.replayNext()
	}
	r.settle()
	r.background()
	r.pump()
	r.eff.State = r.state
	r.eff.NextTick = soonest(soonest(soonest(r.sessionTick(), r.lingerTick()), r.nestTick()), soonest(r.mapTick(), r.guestTick()))
	if r.cfg.Check {
		r.mustHold()
	}
	return &r.eff
}

func (r *Rank) dispatch(ev *Event) {
	switch ev.Kind {
	case Start:
		r.start()
	case FromSession:
		r.onMessage(ev)
	case SessionGone:
		r.sessionGone(ev.Session)
	case JournalDone:
		r.onJournalDone(ev)
	case ObjectDone:
		r.onObjectDone(ev)
	case Tick:
		r.tick()
	case Blocklisted:
		r.barrier = max(r.barrier, ev.Epoch)
		r.onBlocklisted(ev.Instance, ev.Epoch)
	case Maps:
		if ev.OSDMap != nil {
			r.osdmap = ev.OSDMap
		}
		if ev.FSMap != nil {
			r.fsmap = ev.FSMap
			r.retiring = r.cfg.Rank > 0 && uint32(r.cfg.Rank) >= r.fsmap.MaxRanks
			r.wakeMapWaits(true)
		}
	case FromPeer:
		r.fromPeer(ev)
	case PeerUp:
		r.peerUp(ev.Rank)
	case Stop:
		r.stop()
	default:
		must.Holdf(false, "event of kind %d", ev.Kind)
	}
}

// onMessage gives requests to request.go and the rest of the conversation to session code.
func (r *Rank) onMessage(ev *Event) {
	if r.tooEarly(ev) {
		return
	}
	s := r.sessions[ev.Session]
	if q, ok := ev.Msg.(*wire.Request); ok {
		if s != nil && s.state == sessClosing && r.state == clustermap.RankStopping {
			return // a rank that retires: the client hears so, and asks whoever owns it now
		}
		if s == nil || s.state == sessDead || s.state == sessEvicting || s.state == sessClosing {
			r.eff.Sends = append(r.eff.Sends, Send{ev.Session, ev.Tid, &wire.Evicted{Reason: "no session"}})
			return
		}
		q.Tid = wire.Tid(ev.Tid)
		if r.state != stateActive {
			r.hold(s, q)
			return
		}
		r.request(s, q)
		return
	}
	r.fromSession(s, ev)
}

// background does what waits for a step to come to rest.
func (r *Rank) background() {
	r.tendExports()
	r.replayPeers()
	r.wakeMapWaits(false)
	r.purgeSome()
	r.continueCuts()
	r.settleNests()
	r.beginAnew()
	r.tendIndexWaits()
	r.segmentHead()
	if r.expire.due {
		r.expire.due = false
		r.advanceExpire()
	}
	r.trim()
	r.dropIdle()
	r.recallUnderPressure()
	r.letIn()
	r.retire()
}

// settle lets the locks come to rest and runs what they woke, until nothing moves. A request
// never runs inside another one.
func (r *Rank) settle() {
	for {
		r.engine.Settle()
		if len(r.ready) == 0 {
			break
		}
		for i := 0; i < len(r.ready); i++ { // what it wakes joins the end
			r.run(r.ready[i])
		}
		clear(r.ready)
		r.ready = r.ready[:0]
	}
}

// pump hands the journal's next runs out, all that is queued in each: at once while none is
// under way, and beside one under way if an effect waits for what is queued. What nobody waits
// for goes when the write before it ends (ES7), in one group with what has come meanwhile; and
// when it is nothing but updates that were answered early, not sooner than LingerNs after that
// write began. A write costs every OSD a commit, whatever its size, and with few clients on a
// fast disk each create would pay for one of its own.
func (r *Rank) pump() {
	if r.jw == nil {
		return
	}
	for r.jw.InFlight() == 0 && !r.lingers() || r.awaited() {
		off, b, ok := r.jw.Next()
		if !ok {
			return
		}
		r.eff.Journal = append(r.eff.Journal, JournalWrite{off, b})
		r.handedAt, r.handed = r.now, r.jw.End()
	}
}

// lingers: all that is queued was answered early, and the last write began only just now.
func (r *Rank) lingers() bool {
	return r.urgent <= r.handed && r.now-r.handedAt < r.cfg.LingerNs
}

// lingerTick is when pump must look again.
func (r *Rank) lingerTick() int64 {
	if r.jw == nil || r.jw.End() <= r.handed || r.jw.InFlight() > 0 {
		return 0
	}
	return r.handedAt + r.cfg.LingerNs
}

// awaited reports whether an effect waits for the journal.
func (r *Rank) awaited() bool {
	return len(r.waiting) > 0 || len(r.peers) > 0 && r.peersWait() || r.objectHead < len(r.objects) || len(r.afters) > 0 || r.state != stateActive
}

func (r *Rank) tick() {
	r.tickSessions()
}

// Wake implements locker.Host: the awaited lock is held.
func (r *Rank) Wake(set *locker.LockSet) {
	r.ready = append(r.ready, set.User.(*request))
}
