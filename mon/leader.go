package mon

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// Settings are times in nanoseconds and shares in percent.
type Settings struct {
	OSDSilence  int64 // no sign of life for so long: down
	OSDBroken   int64 // its connection broke and it did not come back for so long: down
	ReportAge   int64 // a failure report counts for so long
	DropGrace   int64 // down for so long: dropped from in-sync sets
	Cold        int64 // rule M5: how long a new leader drops nobody, unless it hears of all before
	OutAfter    int64 // down for so long: its share goes to others
	FlapWindow  int64 // boots are counted over so long …
	FlapBoots   int   // … of one life, and after so many it is kept down for half as long; 0: never
	BalanceWait int64 // between looks of the balancer at a cluster at rest; 0: it is off
	MDSLease    int64 // G: a rank without beacon for so long is failed
	CreateWait  int64 // PGs are made below full size after this
	CleanExpiry int64 // blocklist entries of clean ends go
	UsageEvery  int64 // usage is recorded at most so often, flags at once
	FullPct     uint64
	NearFullPct uint64
}

const second = int64(1e9)

// flapAsk is how often an OSD that is kept down asks again: it may be needed earlier.
const flapAsk = 5 * second

// Defaults are the settings of a cluster that says nothing else.
func Defaults() Settings {
	return Settings{OSDSilence: 6 * second, OSDBroken: 2 * second, ReportAge: 8 * second, DropGrace: 2 * second, Cold: 30 * second,
		OutAfter: 600 * second, FlapWindow: 600 * second, FlapBoots: 5, BalanceWait: 30 * second, MDSLease: 3 * second, CreateWait: 10 * second, CleanExpiry: 3600 * second, UsageEvery: 5 * second,
		FullPct: 95, NearFullPct: 85}
}

// ConnID names a connection of the shell.
type ConnID uint64

// Event is what happens to a leader: one of the types below.
type Event any

// Events.
type (
	// Tick lets time pass.
	Tick struct{}
	// Message arrived on a connection; Peer is who the hello said it is.
	Message struct {
		From ConnID
		Peer wire.Instance
		Tid  uint64
		Msg  wire.Message
	}
	// Gone: the connection ended.
	Gone struct{ From ConnID }
	// Committed: proposal ID was applied, or not for Err; State is the newest.
	Committed struct {
		ID    uint64
		State State
		Err   error
	}
	// Verified: leadership was confirmed after all effects up to Verify were given.
	Verified struct{ Verify uint64 }
)

// Effects is what the shell must do, in this order.
type Effects struct {
	Propose []Proposal
	Send    []Send
	Verify  uint64 // not 0: confirm the leadership now, then say Verified with this number
}

// Proposal is a change for raft; the shell answers Committed with its ID, in raft's order.
type Proposal struct {
	ID     uint64
	Change Change
}

// Send is a message for a connection.
type Send struct {
	To  ConnID
	Tid uint64
	Msg wire.Message
}

// Leader decides what to propose. One lives as long as its monitor leads without a break.
type Leader struct {
	set   Settings
	now   int64
	since int64
	state State
	cold  bool // rule M5: not every OSD was heard of yet
	eff   Effects

	nextID    uint64
	waiting   map[uint64]request // by proposal
	inFlight  map[string]uint64  // decisions under way, by what they are about
	osds      map[wire.OSDID]*osdLife
	mdss      mdsWatch
	cleanAt   map[wire.Instance]int64 // blocklist entries of clean ends, since when known
	usageAt   int64
	pgStats   map[wire.PGID]wire.PGStat
	balanceAt int64
	upAt      int64 // when the first OSD was seen up, for CreateWait; 0: none
}

// request is whom to answer when a proposal is decided.
type request struct {
	to    ConnID
	tid   uint64
	reply func(s State, err error) wire.Message // nil: nobody waits
	key   string
	heir  wire.Instance // of an assignment
}

// NewLeader starts with what raft has applied. Fresh: this leader made the cluster itself, so
// nobody's boot can be outstanding and the cold start is over.
func NewLeader(set Settings, now int64, s State, fresh bool) *Leader {
	return &Leader{set: set, now: now, since: now, state: s, cold: !fresh, waiting: map[uint64]request{}, inFlight: map[string]uint64{},
		osds: map[wire.OSDID]*osdLife{}, mdss: newMDSWatch(), cleanAt: map[wire.Instance]int64{}, pgStats: map[wire.PGID]wire.PGStat{}}
}

// State is the newest the leader knows.
func (l *Leader) State() State { return l.state }

// Step applies one event. Now never goes back.
func (l *Leader) Step(now int64, ev Event) Effects {
	l.now = max(l.now, now)
	l.eff = Effects{}
	switch ev := ev.(type) {
	case Tick:
		l.decide()
		l.decideSlow()
	case Message:
		l.message(ev)
	case Gone:
		l.gone(ev.From)
	case Committed:
		l.committed(ev)
		l.decide()
	case Verified:
		l.verified(ev.Verify)
	}
	l.mdss.verify(l)
	return l.eff
}

func (l *Leader) propose(c Change, r request) {
	l.nextID++
	l.waiting[l.nextID] = r
	if r.key != "" {
		l.inFlight[r.key] = l.nextID
	}
	l.eff.Propose = append(l.eff.Propose, Proposal{ID: l.nextID, Change: c})
}

// decideOnce proposes what the leader itself wants, unless it is under way.
func (l *Leader) decideOnce(key string, c Change) bool {
	if _, busy := l.inFlight[key]; busy {
		return false
	}
	l.propose(c, request{key: key})
	return true
}

func (l *Leader) send(to ConnID, tid uint64, m wire.Message) {
	l.eff.Send = append(l.eff.Send, Send{To: to, Tid: tid, Msg: m})
}

func (l *Leader) committed(ev Committed) {
	if ev.State.OSD != nil {
		l.state = ev.State
	}
	r, ok := l.waiting[ev.ID]
	delete(l.waiting, ev.ID)
	if !ok {
		return
	}
	if r.key != "" {
		delete(l.inFlight, r.key)
	}
	if r.reply == nil {
		return
	}
	var ref *Refused
	if ev.Err != nil && !errors.As(ev.Err, &ref) {
		// Nobody knows whether it was decided: whoever asked asks the next leader again.
		l.send(r.to, r.tid, &wire.MonNotLeader{})
		return
	}
	l.send(r.to, r.tid, r.reply(l.state, ev.Err))
}

// errnoOf takes a refusal apart for a reply.
func errnoOf(err error) (uint32, string) {
	var ref *Refused
	if errors.As(err, &ref) {
		return ref.Errno, ref.Text
	}
	return 0, ""
}

func monReply(s State, err error) wire.Message {
	errno, text := errnoOf(err)
	return &wire.MonReply{Errno: errno, Text: text, Epoch: s.OSD.Epoch}
}

func (l *Leader) message(ev Message) {
	ask := func(c Change, reply func(State, error) wire.Message) {
		l.propose(c, request{to: ev.From, tid: ev.Tid, reply: reply})
	}
	switch m := ev.Msg.(type) {
	case *wire.OSDBoot:
		if wait := l.flapping(m); wait > 0 {
			l.send(ev.From, ev.Tid, &wire.OSDBooted{Errno: EAGAIN, WaitMs: uint32(min(wait, flapAsk) / 1e6), Epoch: l.state.OSD.Epoch,
				Text: fmt.Sprintf("osd.%d went up and down %d times in %d s: kept down for %d s more", m.ID, l.set.FlapBoots, l.set.FlapWindow/second, wait/second)})
			return
		}
		l.heard(m.ID, m.Instance, ev.From)
		ask(&OSDBoot{OSDBoot: *m}, func(s State, err error) wire.Message {
			errno, text := errnoOf(err)
			return &wire.OSDBooted{Errno: errno, Text: text, Epoch: s.OSD.Epoch}
		})
	case *wire.OSDStopping:
		ask(&OSDDown{ID: m.ID, Instance: m.Instance, Reason: "stopped"}, monReply)
	case *wire.OSDStats:
		l.stats(m, ev.From)
	case *wire.OSDFailure:
		l.report(m, ev.Peer)
	case *wire.PGCAS:
		l.cas(ev, m)
	case *wire.BlocklistAdd:
		if in, ok := l.state.OSD.Blocklist[m.Instance]; ok && (m.Clean || !in.Clean) {
			l.send(ev.From, ev.Tid, &wire.MonReply{Epoch: in.Since})
			return
		}
		i := m.Instance
		ask(&Block{Instance: i, Reason: m.Reason, Clean: m.Clean}, func(s State, err error) wire.Message {
			errno, text := errnoOf(err)
			return &wire.MonReply{Errno: errno, Text: text, Epoch: s.OSD.Blocklist[i].Since}
		})
	case *wire.MDSBeacon:
		l.beacon(ev, m)
	case *wire.InoRange:
		rank := m.Rank
		ask(&InoRange{Rank: m.Rank, Instance: m.Instance}, func(s State, err error) wire.Message {
			errno, text := errnoOf(err)
			r := &wire.InoRangeReply{Errno: errno, Text: text}
			if given := s.FS.Ranks[rank].InoRanges; err == nil && len(given) > 0 {
				r.Range = given[len(given)-1]
			}
			return r
		})
	case *wire.MonCommand:
		l.command(ev, m)
	default:
		l.send(ev.From, ev.Tid, &wire.MonReply{Errno: EINVAL, Text: "a monitor does not know what to do with " + ev.Msg.WireType().String()})
	}
}

// cas passes an OSD's proposal on. Only the cold start is judged here, for only the leader
// knows of it.
func (l *Leader) cas(ev Message, m *wire.PGCAS) {
	reply := func(s State, err error) wire.Message {
		errno, text := errnoOf(err)
		return &wire.PGCASReply{Errno: errno, Text: text, Epoch: s.OSD.Epoch, Interval: s.OSD.PGs[m.PG].Interval}
	}
	if len(m.DropMembers) > 0 && l.isCold() {
		l.send(ev.From, ev.Tid, reply(l.state, refuse(EAGAIN, "pg %v: the monitor has just started, nobody is dropped yet (M5)", m.PG)))
		return
	}
	l.propose(&PGCAS{PGCAS: *m}, request{to: ev.From, tid: ev.Tid, reply: reply})
}

// isCold: rule M5's first half. It is over early when every OSD that is in was heard of
// since this leader began: then no boot is outstanding.
func (l *Leader) isCold() bool {
	if !l.cold || l.now-l.since >= l.set.Cold {
		l.cold = false
		return false
	}
	for id, o := range l.state.OSD.OSDs {
		if o.In && (!o.Up || l.osds[id] == nil || l.osds[id].heardAt == 0) {
			return true
		}
	}
	l.cold = len(l.state.OSD.OSDs) == 0
	return l.cold
}

func (l *Leader) gone(c ConnID) {
	for _, life := range l.osds {
		if life.conn == c {
			life.conn, life.brokenAt = 0, max(l.now, 1)
		}
	}
	l.mdss.gone(c, l.state.FS)
}

// decide looks at everything that may want a change. It is cheap for a map of some thousand
// PGs and runs after every commit and tick.
func (l *Leader) decide() {
	if l.state.OSD.Epoch == 0 {
		return
	}
	l.decideDown()
	l.decideDrops()
	l.decidePools()
	l.decideRanks()
}

// decideSlow is what can wait for the next tick.
func (l *Leader) decideSlow() {
	if l.state.OSD.Epoch == 0 {
		return
	}
	l.decideUsage()
	l.decideSurplus()
	l.decideSplit()
	l.decideBalance()
	l.decideOut()
	l.decideExpiry()
}

// decidePools makes the PGs of new pools when enough OSDs are up.
func (l *Leader) decidePools() {
	m := l.state.OSD
	up := 0
	for _, o := range m.OSDs {
		if o.Up {
			up++
		}
	}
	if up > 0 && l.upAt == 0 {
		l.upAt = l.now
	}
	for _, id := range sortedKeys(m.Pools) {
		pool := m.Pools[id]
		if _, made := m.PGs[wire.PGID{Pool: id}]; made || up < pool.MinSize {
			continue
		}
		few := l.now-l.upAt >= l.set.CreateWait
		if up >= pool.Size || few {
			c := &PGCreate{Pool: id, Few: few}
			if _, err := l.state.Apply(c); err == nil { // not all of them need be in the up set
				l.decideOnce("create pool "+pool.Name, c)
			}
		}
	}
}

func (l *Leader) decideExpiry() {
	var old []wire.Instance
	for _, i := range l.state.OSD.BlockedInstances() {
		if !l.state.OSD.Blocklist[i].Clean {
			continue
		}
		if _, known := l.cleanAt[i]; !known {
			l.cleanAt[i] = l.now
		}
		if l.now-l.cleanAt[i] >= l.set.CleanExpiry {
			old = append(old, i)
		}
	}
	if len(l.cleanAt) > len(l.state.OSD.Blocklist) {
		for i := range l.cleanAt {
			if !l.state.OSD.IsBlocklisted(i) {
				delete(l.cleanAt, i)
			}
		}
	}
	if len(old) > 0 {
		l.decideOnce("expire", &Unblock{Instances: old})
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	ks := make([]K, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

// member is the present identity of an OSD.
func member(m *clustermap.OSDMap, id wire.OSDID) clustermap.Member {
	return clustermap.Member{ID: id, UUID: m.OSDs[id].UUID}
}
