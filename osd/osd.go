package osd

import (
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Fault switches a rule off, so that tests can show that its loss is noticed. Never set elsewhere.
type Fault uint32

// Seeded faults (reference §11).
const (
	FaultAckAnyInterval    Fault = 1 << iota // acks of another interval are counted
	FaultNoLeaseWait                         // a new primary does not wait its lease out (R7)
	FaultOneLease                            // the lease of one member is enough (R5)
	FaultReadUncommitted                     // reads do not park behind uncommitted entries
	FaultCutNotAtomic                        // R8's cut in pieces
	FaultNoPending                           // addition proposed without needing the newcomer's acks (R9)
	FaultNoDedupCopy                         // the table is not copied to learners
	FaultNoBarrier                           // an op's epoch is ignored
	FaultUUIDIgnored                         // members are known by id alone (R1)
	FaultAddBeforeActive                     // additions are proposed by a primary that has not waited
	FaultAckDamaged                          // a member acknowledges what it wrote over a part of damaged bytes
	FaultMendStale                           // a scrub's copy is installed over what was written since
	FaultLogOfUnfilled                       // a learner whose copy was not finished is filled by log
	FaultLogNoCut                            // the objects of a learner's divergent tail are taken for good
	FaultHealStale                           // a damaged object is replaced by whatever a replica has
	FaultSplitNoDedup                        // the parts of a PG begin with empty tables
	FaultSplitNotAtomic                      // a PG is divided by a transaction for each part
	FaultSplitNoLease                        // a part does not know of the lease that was given
	FaultSplitUnchecked                      // a primary takes operations on objects that its PG had before a split
	FaultMemberNoLease                       // a member answers reads without a lease of the primary
	FaultMemberUncommitted                   // a member answers reads of objects with uncommitted entries
	FaultNoDropWait                          // writes commit while a dropped member may answer reads
	FaultMemberNoBarrier                     // a member answers reads whose barrier the primary has not met
	FaultLendFreely                          // a primary lends for longer than it holds leases itself
	FaultLendPending                         // an addition is proposed before the newcomer covers what was lent
	FaultSplitNoLent                         // a part does not know of the read leases that were given
	FaultFilledLacks                         // a learner that was filled acknowledges what its damaged copy cannot take
	FaultFilledAhead                         // a learner counts as filled while copies contain what its log lacks
	FaultOmapForgotten                       // a copy of an omap leaves out what cannot be read, without a word
	FaultFetchTorn                           // of stores: bytes that come later are those that the object has then
	FaultPendingLacks                        // a learner that is proposed is told that it does not count
)

// Config of a core. Durations are nanoseconds; zero takes the default.
type Config struct {
	ID       wire.OSDID
	Instance wire.Instance
	// Stored is what Store calls when transaction seq of pg is durable: the shell turns it into
	// an event EvStored. It must not call the core.
	Stored func(pg wire.PGID, seq uint64, err error)

	LeaseNs     int64 // L, 2 s
	GraceNs     int64 // repl_grace: no ack for so long makes a proposal to drop, 3 s
	ReconNs     int64 // the same for a reconciliation, 8 s
	ResendNs    int64 // 300 ms
	HeartbeatNs int64 // a peer silent for so long is pinged, 1 s; reported after 4 of them
	ScrubNs     int64 // between deep scrubs of a PG that begin by themselves; 0: none do
	LogKeep     int   // entries of log kept, 256; 8 times as many while a replica is away
	// RecoveryBytes is how much a second is copied to learners while clients have operations; 0: no limit.
	RecoveryBytes int64
	StrayNs       int64 // a PG that this OSD has left is removed after so long, 60 s
	SlowNs        int64 // operations that take longer are told of; 0: none
	Faults        Fault

	// Logged and Committed, when not nil, see every entry that gets a version here, and every one
	// that this primary commits; for checkers.
	Logged, Committed func(pg wire.PGID, h *wire.LogEntry)

	// Buffer makes room for n bytes of a reply, with any contents; nil: make.
	Buffer func(n int) []byte

	// UpSet says where replicas should be; nil: the map's CRUSH. Sim has its own.
	UpSet func(*clustermap.OSDMap, wire.PGID) []wire.OSDID
}

func (c *Config) defaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.LeaseNs, 2e9)
	def(&c.GraceNs, 3e9)
	def(&c.ReconNs, 8e9)
	def(&c.ResendNs, 300e6)
	def(&c.HeartbeatNs, 1e9)
	def(&c.StrayNs, 60e9)
	if c.Buffer == nil {
		c.Buffer = func(n int) []byte { return make([]byte, n) }
	}
	if c.UpSet == nil {
		c.UpSet = (*clustermap.OSDMap).UpSet
	}
	if c.LogKeep == 0 {
		c.LogKeep = 256
	}
}

// ConnID is the shell's name for a client connection; never reused.
type ConnID uint64

// EventKind says which fields of an Event are set.
type EventKind uint8

// Events.
const (
	EvTick       EventKind = iota + 1 // about every 100 ms
	EvOp                              // Conn, From, Tid, Msg *wire.OSDOp, Data (owned by the core)
	EvConnClosed                      // Conn
	EvPeer                            // From, Msg, Data (owned by the core unless Lent)
	EvMap                             // Map
	EvStored                          // PG, Seq
	EvFetched                         // Seq: Fetch.ID, Got (owned by the core, from Config.Buffer), CRC, Bad
)

// Event is one thing that happened at Now, on the OSD's own clock: monotone, running on in sleep.
type Event struct {
	Kind EventKind
	Now  int64
	Conn ConnID
	From wire.Instance
	Tid  wire.Tid
	Msg  wire.Message
	Data []byte
	Lent bool // Data is valid until Step returns; only for a *wire.Repl of fewer bytes than LendBelow, and a Store that keeps none of it
	Map  *clustermap.OSDMap
	PG   wire.PGID
	Seq  uint64
	Got  [][]byte
	CRC  uint32 // crc32c of Got when that is one slice
	Bad  bool   // a Later has failed, and Got is what the others gave
}

// Send is a message to a peer OSD, best effort.
type Send struct {
	To   wire.OSDID
	Msg  wire.Message
	Data [][]byte
}

// Reply answers a client.
type Reply struct {
	Conn ConnID
	Tid  wire.Tid
	Msg  *wire.OSDReply
	Data [][]byte
	Own  bool // Data came from Config.Buffer, and nobody else knows it

	Summed bool // CRC is the crc32c of Data, which is one slice
	CRC    uint32
}

// Proposal is a compare-and-set of a PG's configuration at the monitors (M1).
type Proposal struct {
	PG       wire.PGID
	Expected uint64 // interval
	InSync   []clustermap.Member
	Primary  wire.OSDID
	Learners []clustermap.Member
	Reason   string
}

// Effects is what the shell must do; valid until the next Step.
type Effects struct {
	Sends     []Send
	Replies   []Reply
	Fetches   []Fetch
	Proposals []Proposal
	Failures  []wire.OSDID // silent peers, to be reported to the monitors
	Slow      []SlowOp     // for the log
	Free      [][]byte     // of Event.Data: it is durable, and no message refers to it any more
	WantEpoch wire.Epoch   // fetch a map at least this new; 0: none wanted
}

// OSD is the core.
type OSD struct {
	cfg   Config
	store Store
	now   int64
	m     *clustermap.OSDMap
	lives bool // the map contains this boot (R2)
	pgs   map[wire.PGID]*pg
	order []*pg // sorted by id
	dirty []*pg // with something for Flush to assemble

	leaseSlack int64 // L(1+ε)
	bootLease  int64 // R2: a lease given at the start
	fetches    map[uint64]*fetching
	fetchID    uint64
	waitMap    []*op // ops whose barrier is ahead of the map
	later      []Event
	heard      map[wire.OSDID]int64
	pinged     int64
	full       bool // by the own store: the map's flag comes seconds later, and 3 % of a small disk fill faster
	failsafe   bool
	wantLeases bool
	wantReads  []*pg      // members that want a read lease
	copying    []copyWait // learners in turn
	copyLeft   int64      // of recovery's share
	sharedAt   int64      // when it was filled up
	clientAt   int64      // of the last client's operation
	eff        Effects
	stats      Stats
	latency    Latency
}

// Stats counts what the core did.
type Stats struct {
	Ops, Reads, Writes, Resent, DedupHits, Parked, Repls, Recons, Copied uint64
	Strays                                                               uint64 // PGs removed that this OSD had left
	Splits                                                               uint64 // PGs divided
	MemberReads, MemberRefused, Lent                                     uint64 // reads answered, and left to the primary, as a member; read leases given
	Fetched                                                              uint64 // reads that waited for the disk beside the core
	ByLog, CopiedBytes                                                   uint64 // learners that were filled by log, bytes of copies to learners
	Damaged, Healed, Mended                                              uint64 // own copies found damaged, replaced by good ones; members' copies replaced
}

// New makes the core over an opened store, at time now.
func New(cfg Config, st Store, now int64) *OSD {
	cfg.defaults()
	o := &OSD{cfg: cfg, store: st, now: now, sharedAt: now, copyLeft: copyBurst, clientAt: now - idleNs, m: &clustermap.OSDMap{}, pgs: map[wire.PGID]*pg{}, heard: map[wire.OSDID]int64{}, fetches: map[uint64]*fetching{}}
	o.leaseSlack = cfg.LeaseNs + cfg.LeaseNs/64 // rates differ by less than 1 %
	if !st.Fresh() {
		o.bootLease = now + o.leaseSlack
	}
	for _, id := range st.PGs() {
		o.load(id)
	}
	return o
}

// Step applies one event. Call Flush after a batch of them.
func (o *OSD) Step(ev *Event) {
	if ev.Now > o.now {
		o.now = ev.Now
	}
	switch ev.Kind {
	case EvTick:
		o.tick()
	case EvOp:
		o.clientOp(&op{conn: ev.Conn, inst: ev.From, tid: ev.Tid, msg: ev.Msg.(*wire.OSDOp), at: o.now}, ev.Data)
	case EvConnClosed:
		o.connClosed(ev.Conn)
	case EvPeer:
		o.peerMsg(ev)
	case EvMap:
		o.newMap(ev.Map)
	case EvStored:
		if p := o.pgs[ev.PG]; p != nil {
			p.stored(ev.Seq)
		}
	case EvFetched:
		o.fetched(ev)
	}
}

// Flush assembles what the events since the last one left to say. The result is valid until
// Step or Flush is called again.
func (o *OSD) Flush() *Effects {
	for len(o.dirty) > 0 {
		d := o.dirty
		o.dirty = nil
		for _, p := range d {
			p.dirty = false
			p.flush()
		}
	}
	if o.wantLeases {
		o.wantLeases = false
		o.askLeases(true)
	}
	if len(o.wantReads) > 0 {
		o.askReads()
	}
	return &o.eff
}

// Done tells that the Effects were carried out.
func (o *OSD) Done() {
	clear(o.eff.Sends)
	clear(o.eff.Replies)
	clear(o.eff.Fetches)
	clear(o.eff.Proposals)
	clear(o.eff.Slow)
	clear(o.eff.Free)
	o.eff = Effects{Free: o.eff.Free[:0], Slow: o.eff.Slow[:0], Sends: o.eff.Sends[:0], Replies: o.eff.Replies[:0], Fetches: o.eff.Fetches[:0], Proposals: o.eff.Proposals[:0], Failures: o.eff.Failures[:0]}
}

// Stats returns the counters.
func (o *OSD) Stats() Stats { return o.stats }

// Epoch is that of the newest map.
func (o *OSD) Epoch() wire.Epoch { return o.m.Epoch }

func (o *OSD) send(to wire.OSDID, m wire.Message, data ...[]byte) {
	if to != wire.NoOSD {
		o.eff.Sends = append(o.eff.Sends, Send{to, m, data})
	}
}

func (o *OSD) wantEpoch(e wire.Epoch) {
	if e > o.m.Epoch && e > o.eff.WantEpoch {
		o.eff.WantEpoch = e
	}
}

func (o *OSD) fault(f Fault) bool { return o.cfg.Faults&f != 0 }

func (o *OSD) get(id wire.PGID) *pg {
	if p := o.pgs[id]; p != nil {
		return p
	}
	p := newPG(o, id)
	o.pgs[id] = p
	i, _ := slices.BinarySearchFunc(o.order, id, func(q *pg, id wire.PGID) int { return comparePG(q.id, id) })
	o.order = slices.Insert(o.order, i, p)
	return p
}

// newMap adopts a map: §6.1 for every PG it concerns.
func (o *OSD) newMap(m *clustermap.OSDMap) {
	if m.Epoch <= o.m.Epoch {
		return
	}
	o.m = m
	me, ok := m.OSDs[o.cfg.ID]
	o.lives = ok && me.Instance == o.cfg.Instance && me.UUID == o.store.UUID()
	if !o.lives {
		return
	}
	if !o.splitAll() {
		o.lives = false
		return
	}
	ids := slices.SortedFunc(maps.Keys(m.PGs), comparePG)
	for _, id := range ids {
		cfg := m.PGs[id]
		if o.concerns(cfg) || o.pgs[id] != nil {
			p := o.get(id)
			p.adopt(cfg)
			if p.primary() {
				p.up = o.cfg.UpSet(m, id)
			}
		}
	}
	for _, p := range o.order {
		p.forgetBlocked()
	}
	wait, later := o.waitMap, o.later
	o.waitMap, o.later = nil, nil
	for _, q := range wait {
		o.start(q)
	}
	for i := range later {
		o.peerMsg(&later[i])
	}
}

// isMember reports whether m names this store (R1).
func (o *OSD) isMember(m clustermap.Member) bool {
	return m.ID == o.cfg.ID && (m.UUID == o.store.UUID() || o.fault(FaultUUIDIgnored))
}

func (o *OSD) concerns(c clustermap.PGConfig) bool {
	return slices.ContainsFunc(c.InSync, o.isMember) || slices.ContainsFunc(c.Learners, o.isMember)
}

// peerMsg dispatches a message of another OSD. Its life must be the one the map knows: an ack
// of an earlier life may speak of a log that is gone.
func (o *OSD) peerMsg(ev *Event) {
	from := wire.OSDID(ev.From.Num)
	o.heard[from] = o.now
	switch m := ev.Msg.(type) {
	case *wire.OSDPing:
		o.wantEpoch(m.Epoch)
		o.send(from, &wire.OSDPong{Epoch: o.m.Epoch})
		return
	case *wire.OSDPong:
		o.wantEpoch(m.Epoch)
		return
	}
	if !o.lives || o.m.OSDs[from].Instance != ev.From {
		// Either it is a ghost, or its boot is in a map still under way.
		_, _, epoch := route(ev.Msg)
		o.wantEpoch(epoch)
		if !o.lives || epoch > o.m.Epoch {
			o.keep(ev)
		}
		return
	}
	switch m := ev.Msg.(type) {
	case *wire.LeaseReq:
		o.leaseReq(from, ev.From, m)
		return
	case *wire.LeaseGrant:
		o.leaseGrant(from, m)
		return
	case *wire.ReadLeaseReq:
		o.onReadLeaseReq(from, ev.From, m)
		return
	case *wire.ReadLease:
		o.onReadLease(from, m)
		return
	case *wire.ReplNack:
		o.wantEpoch(m.Epoch)
		return
	}
	id, interval, epoch := route(ev.Msg)
	p := o.pgs[id]
	if p == nil && (epoch > o.m.Epoch || id.Num >= o.m.Pools[id.Pool].PGNum) || p != nil && interval > p.interval {
		// A newer interval: the map first.
		o.wantEpoch(max(epoch, o.m.Epoch+1))
		o.keep(ev)
		return
	}
	if p == nil {
		return
	}
	if m, ok := ev.Msg.(*wire.LeaseReleased); ok {
		p.released(ev.From, m)
		return
	}
	if interval < p.interval {
		if a, ok := ev.Msg.(*wire.ReplAck); ok && o.fault(FaultAckAnyInterval) && p.primary() {
			p.onAck(from, a)
		}
		if m, ok := ev.Msg.(*wire.Repl); ok && o.fault(FaultAckAnyInterval) && len(m.Entries) > 0 {
			h := new(wire.LogEntry)
			must.NoErr(wire.Unmarshal(m.Entries[len(m.Entries)-1].Rec, h), "entry")
			o.send(from, &wire.ReplAck{PG: id, Interval: m.Interval, Version: h.Version})
			return
		}
		if fromPrimary(ev.Msg) {
			o.send(from, &wire.ReplNack{PG: id, Interval: p.interval, Epoch: o.m.Epoch})
		}
		return
	}
	if fromPrimary(ev.Msg) {
		_, fetch := ev.Msg.(*wire.ObjFetch)
		if p.cfg.Primary != from || p.role == roleNone && !fetch || p.role == rolePrimary {
			return
		}
	} else if p.role != rolePrimary {
		return // of an answer to a question that nobody here has
	}
	switch m := ev.Msg.(type) {
	case *wire.Repl:
		p.onRepl(from, ev.From, m, ev.Data, !ev.Lent)
	case *wire.ReplAck:
		p.onAck(from, m)
	case *wire.Recon:
		p.onRecon(from, ev.From, m)
	case *wire.ReconState:
		p.onReconState(from, m)
	case *wire.ReconFix:
		p.onReconFix(m, ev.Data)
	case *wire.LearnReq:
		p.onLearnReq(from, ev.From, m)
	case *wire.LearnStart:
		p.onLearnStart(m)
	case *wire.CopyNext:
		p.onCopyNext(from, m)
	case *wire.CopyRange:
		p.onCopyRange(m)
	case *wire.CopyGet:
		p.onCopyGet(from, m)
	case *wire.CopyObj:
		p.onCopyObj(m, ev.Data)
	case *wire.ScrubReq:
		p.onScrubReq(from, m)
	case *wire.ScrubMap:
		p.onScrubMap(from, m)
	case *wire.ObjFetch:
		p.onObjFetch(from, m)
	case *wire.ObjFetched:
		p.onObjFetched(m, ev.Data)
	case *wire.ObjMend:
		p.onObjMend(m, ev.Data)
	case *wire.ObjBad:
		p.onObjBad(from, m)
	}
}

// keep puts a message aside until there is a newer map.
func (o *OSD) keep(ev *Event) {
	if len(o.later) >= 512 {
		return
	}
	later := *ev
	if later.Lent {
		later.Data, later.Lent = slices.Clone(ev.Data), false
	}
	o.later = append(o.later, later)
}

// route tells which PG and interval a message is about, and the sender's epoch where it says.
func route(m wire.Message) (wire.PGID, uint64, wire.Epoch) {
	switch m := m.(type) {
	case *wire.Repl:
		return m.PG, m.Interval, m.Epoch
	case *wire.ReplAck:
		return m.PG, m.Interval, 0
	case *wire.Recon:
		return m.PG, m.Interval, m.Epoch
	case *wire.ReconState:
		return m.PG, m.Interval, 0
	case *wire.ReconFix:
		return m.PG, m.Interval, 0
	case *wire.LearnReq:
		return m.PG, m.Interval, m.Epoch
	case *wire.LearnStart:
		return m.PG, m.Interval, 0
	case *wire.CopyNext:
		return m.PG, m.Interval, 0
	case *wire.CopyRange:
		return m.PG, m.Interval, 0
	case *wire.CopyGet:
		return m.PG, m.Interval, 0
	case *wire.CopyObj:
		return m.PG, m.Interval, 0
	case *wire.ScrubReq:
		return m.PG, m.Interval, 0
	case *wire.ScrubMap:
		return m.PG, m.Interval, 0
	case *wire.ObjFetch:
		return m.PG, m.Interval, 0
	case *wire.ObjFetched:
		return m.PG, m.Interval, 0
	case *wire.ObjMend:
		return m.PG, m.Interval, 0
	case *wire.ObjBad:
		return m.PG, m.Interval, 0
	case *wire.LeaseReleased:
		return m.PG, m.Interval, 0
	}
	return wire.PGID{}, 0, 0
}

func fromPrimary(m wire.Message) bool {
	switch m.(type) {
	case *wire.Repl, *wire.Recon, *wire.ReconFix, *wire.LearnStart, *wire.CopyRange, *wire.CopyObj,
		*wire.ScrubReq, *wire.ObjFetch, *wire.ObjMend:
		return true
	}
	return false
}

// From how full on, in percent, a store takes what only deletes may write, and nothing more.
const (
	fullPct     = 95
	failsafePct = 98
)

// tick drives everything that waits for time.
func (o *OSD) tick() {
	total, used := o.store.Space()
	o.full, o.failsafe = total > 0 && used > total/100*fullPct, total > 0 && used > total/100*failsafePct
	if !o.lives {
		return
	}
	for _, p := range o.order {
		p.tick()
	}
	o.refillShare()
	o.askLeases(false)
	if o.now-o.pinged >= o.cfg.HeartbeatNs {
		o.pinged = o.now
		o.heartbeat()
	}
	if len(o.waitMap) > 0 {
		o.wantEpoch(o.waitMap[0].msg.Epoch)
	}
	for i := range o.later {
		_, _, e := route(o.later[i].Msg)
		o.wantEpoch(max(e, o.m.Epoch+1))
	}
}

// heartbeat pings peers that share a PG and have been silent, and reports those that stay so.
func (o *OSD) heartbeat() {
	var peers []wire.OSDID
	for _, p := range o.order {
		for _, m := range p.cfg.InSync {
			peers = append(peers, m.ID)
		}
		for _, m := range p.cfg.Learners {
			peers = append(peers, m.ID)
		}
	}
	slices.Sort(peers)
	for _, id := range slices.Compact(peers) {
		if id == o.cfg.ID || !o.m.OSDs[id].Up {
			delete(o.heard, id)
			continue
		}
		at, ok := o.heard[id]
		if !ok {
			at = o.now
			o.heard[id] = at
		}
		if o.now-at >= o.cfg.HeartbeatNs-o.cfg.HeartbeatNs/8 {
			o.send(id, &wire.OSDPing{Epoch: o.m.Epoch})
		}
		if o.now-at > 4*o.cfg.HeartbeatNs {
			o.eff.Failures = append(o.eff.Failures, id)
		}
	}
}

func (o *OSD) connClosed(c ConnID) {
	gone := func(q *op) bool { return q.conn == c }
	o.waitMap = slices.DeleteFunc(o.waitMap, gone)
	maps.DeleteFunc(o.fetches, func(_ uint64, f *fetching) bool { return gone(f.q) })
	for _, p := range o.order {
		p.connClosed(gone)
	}
}

// Walk checks everything that must hold inside one OSD; for tests.
func (o *OSD) Walk() {
	for i, p := range o.order {
		must.Holdf(i == 0 || comparePG(o.order[i-1].id, p.id) < 0, "osd.%d: PG order", o.cfg.ID)
		p.walk()
	}
}
