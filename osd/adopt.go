package osd

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// peer is another replica as the primary sees it in the present interval.
type peer struct {
	m          clustermap.Member
	inst       wire.Instance // the life whose acks count
	learner    bool
	confirmed  bool     // member: log made equal (§6.3); learner: started
	nonce      uint64   // learner: of its newest request
	copied     bool     // learner: its last ack said that nothing is missing
	missing    uint64   // learner: what it said that it lacks
	listed     int      // learner: names that it has compared, by copy
	byLog      bool     // learner: it compares none
	wants      []string // learner: objects on order
	acked      wire.Version
	sent       wire.Version
	since      int64 // last progress while something is owed
	owes       bool  // something was sent, or is about to be, that it has not acknowledged
	sentAt     int64
	resentAt   int64
	leaseUntil int64
	leaseSent  int64 // the newest request of ours that it has granted
	unfitAt    int64 // member: since when it lacks what cannot be read here
}

// adopt takes the PG's configuration from a newer map.
func (p *pg) adopt(cfg clustermap.PGConfig) {
	must.Holdf(cfg.Interval >= p.interval, "%v: interval %d after %d", p, cfg.Interval, p.interval)
	if cfg.Interval == p.interval {
		p.cfg = cfg
		return
	}
	o := p.o
	wasPrimary := p.primary()
	p.cfg, p.interval, p.adoptedAt = cfg, cfg.Interval, o.now
	p.reads = readLease{used: p.reads.used}
	p.active, p.pending, p.stage, p.confirm, p.reconciled, p.gap = false, nil, nil, false, false, false
	p.peers, p.ackDue, p.ackSent, p.proposedAt, p.fix = nil, false, 0, o.now, fixing{}

	// Ops not yet logged die with the interval; their owners send them again.
	p.waitActive, p.waitMin, p.parked = nil, nil, nil
	clear(p.objs)
	p.gone = false
	for n := range p.broken { // whoever comes now may have it
		p.broken[n] = 0
	}
	if cfg.Primary != o.cfg.ID {
		p.broken, p.unsure = nil, nil
	}
	p.healing, p.scrub, p.scrubbed.Running = nil, nil, false

	me := o.cfg.ID
	switch {
	case cfg.Primary == me && slices.ContainsFunc(cfg.InSync, o.isMember):
		p.role = rolePrimary
	case slices.ContainsFunc(cfg.InSync, o.isMember):
		p.role = roleMember
	case slices.ContainsFunc(cfg.Learners, o.isMember):
		p.role = roleLearner
	default:
		p.role = roleNone
	}
	if p.role != rolePrimary {
		for _, e := range p.log {
			e.waiters, e.muts, e.noMuts, e.data = nil, nil, true, nil
		}
		if wasPrimary && cfg.Primary != wire.NoOSD {
			o.send(cfg.Primary, &wire.LeaseReleased{PG: p.id, Interval: cfg.Interval, Lent: p.lentWire()})
		}
	}
	switch p.role {
	case rolePrimary:
		p.learn.end(p)
		p.lead()
	case roleMember:
		p.learn.end(p)
	case roleLearner:
		p.learn.begin(p)
	}
	p.touch()
}

// lead starts the primary's work in a new interval: reconcile everyone, and meanwhile wait the
// lease out that this store gave to primaries before (R7).
func (p *pg) lead() {
	o := p.o
	for _, e := range p.log[p.after(p.committed):] {
		p.object(e.h.Object).uncommitted++
	}
	add := func(m clustermap.Member, learner bool) {
		if o.isMember(m) {
			return
		}
		p.peers = append(p.peers, &peer{m: m, inst: o.m.OSDs[m.ID].Instance, learner: learner, since: o.now})
	}
	for _, m := range p.cfg.InSync {
		add(m, false)
	}
	for _, m := range p.cfg.Learners {
		add(m, true)
	}
	slices.SortStableFunc(p.peers, func(a, b *peer) int {
		if a.learner != b.learner {
			if a.learner {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.m.ID, b.m.ID)
	})
	for _, q := range p.peers {
		if !q.learner {
			p.askRecon(q)
		}
	}
	p.tryActivate()
}

// tryActivate is §6.5.
func (p *pg) tryActivate() {
	if p.active {
		return
	}
	for _, q := range p.peers {
		if !q.learner && !q.confirmed {
			return
		}
	}
	if p.leaseUntil > p.o.now && !p.o.fault(FaultNoLeaseWait) {
		return
	}
	p.active = true
	p.lastUse = p.o.now
	p.advance()
	wait := p.waitActive
	p.waitActive = nil
	for _, q := range wait {
		p.enqueue(q)
	}
	p.touch()
}

func (p *pg) peer(id wire.OSDID) *peer {
	for _, q := range p.peers {
		if q.m.ID == id {
			return q
		}
	}
	return nil
}

func (p *pg) object(name string) *object {
	ob := p.objs[name]
	if ob == nil {
		ob = &object{name: name}
		p.objs[name] = ob
	}
	return ob
}

func (p *pg) minSize() int { return p.o.m.Pools[p.id.Pool].MinSize }

func (p *pg) propose(inSync, learners []clustermap.Member, format string, args ...any) {
	p.proposedAt = p.o.now
	p.o.eff.Proposals = append(p.o.eff.Proposals, Proposal{PG: p.id, Expected: p.interval, InSync: inSync, Primary: p.o.cfg.ID, Learners: learners, Reason: fmt.Sprintf(format, args...)})
}

func without(ms []clustermap.Member, m clustermap.Member) []clustermap.Member {
	return slices.DeleteFunc(slices.Clone(ms), func(x clustermap.Member) bool { return x == m })
}

// tick resends, gives up on silent peers by proposal, and looks for OSDs to fill.
func (p *pg) tick() {
	o := p.o
	switch p.role {
	case rolePrimary:
	case roleLearner:
		p.learn.tick(p)
		return
	case roleNone:
		p.strayTick()
		return
	case roleMember:
		p.readTick()
		return
	default:
		return
	}
	if !p.active {
		for _, q := range p.peers {
			if !q.learner && !q.confirmed {
				if o.now-q.sentAt >= o.cfg.ResendNs {
					p.askRecon(q)
				}
				if o.now-q.since > o.cfg.ReconNs && o.now-p.proposedAt > 1e9 {
					p.propose(without(p.cfg.InSync, q.m), p.cfg.Learners, "osd.%d does not reconcile", q.m.ID)
				}
			}
		}
		p.tryActivate()
	}
	if p.active {
		if len(p.lent) > 0 {
			p.advance()
		}
		p.healTick()
		p.scrubTick()
		for _, q := range p.peers {
			if !q.confirmed || q.acked == p.last {
				continue
			}
			if o.now-q.sentAt >= o.cfg.ResendNs && q.acked.Less(q.sent) {
				q.sent = q.acked
				p.touch()
			}
			if o.now-q.since > o.cfg.GraceNs && o.now-p.proposedAt > 1e9 {
				switch {
				case !q.learner:
					p.propose(without(p.cfg.InSync, q.m), p.cfg.Learners, "osd.%d has not acknowledged %v", q.m.ID, p.last)
				case p.pending != q && len(p.log) > 32*o.cfg.LogKeep:
					p.propose(p.cfg.InSync, without(p.cfg.Learners, q.m), "osd.%d, being filled, has not acknowledged %v", q.m.ID, q.acked)
				case p.pending == q:
					p.propose(p.cfg.InSync, without(p.cfg.Learners, q.m), "osd.%d, about to be added, has not acknowledged %v", q.m.ID, p.last)
				}
			}
		}
		if len(p.parked) > 0 && !p.leased() {
			o.wantLeases = true
		}
		for _, q := range p.peers {
			if (!q.learner || q == p.pending) && len(p.parked) > 0 && q.leaseUntil+o.cfg.GraceNs < o.now && o.now-p.parked[0].queue[0].at > o.cfg.GraceNs && o.now-p.proposedAt > 1e9 {
				if q.learner {
					p.propose(p.cfg.InSync, without(p.cfg.Learners, q.m), "osd.%d, about to be added, grants no lease", q.m.ID)
				} else {
					p.propose(without(p.cfg.InSync, q.m), p.cfg.Learners, "osd.%d grants no lease", q.m.ID)
				}
			}
		}
		p.runParked()
	}
	p.proposeMembers()
}

// proposeMembers brings S towards the up set: learners are named, a caught-up one is added (R9),
// surplus members leave.
func (p *pg) proposeMembers() {
	o := p.o
	if !p.active && !o.fault(FaultAddBeforeActive) || o.now-p.proposedAt < 1e9 {
		return
	}
	if p.pending != nil {
		p.proposePending()
		return
	}
	up := p.up
	learners := slices.DeleteFunc(slices.Clone(p.cfg.Learners), func(m clustermap.Member) bool {
		d, ok := o.m.OSDs[m.ID]
		return !ok || !d.Up || d.UUID != m.UUID || !slices.Contains(up, m.ID)
	})
	for _, id := range up {
		d := o.m.OSDs[id]
		m := clustermap.Member{ID: id, UUID: d.UUID}
		if d.Up && !slices.Contains(p.cfg.InSync, m) && !slices.Contains(learners, m) && !slices.ContainsFunc(p.cfg.InSync, func(x clustermap.Member) bool { return x.ID == id }) {
			learners = append(learners, m)
		}
	}
	if !slices.Equal(learners, p.cfg.Learners) {
		p.propose(p.cfg.InSync, learners, "learners are now %v", ids(learners))
		return
	}
	if pool := o.m.Pools[p.id.Pool]; len(up) >= pool.Size && len(up) >= pool.MinSize && len(p.cfg.InSync) > len(up) {
		for _, id := range up {
			if !slices.ContainsFunc(p.cfg.InSync, func(m clustermap.Member) bool { return m.ID == id }) {
				return
			}
		}
		keep := slices.DeleteFunc(slices.Clone(p.cfg.InSync), func(m clustermap.Member) bool {
			return !slices.Contains(up, m.ID) && m.ID != o.cfg.ID
		})
		if len(keep) < len(p.cfg.InSync) {
			p.propose(keep, p.cfg.Learners, "surplus after a placement change")
		}
	}
}

func ids(ms []clustermap.Member) []wire.OSDID {
	out := make([]wire.OSDID, len(ms))
	for i, m := range ms {
		out[i] = m.ID
	}
	return out
}

// considerAddition is R9: only a primary of an active interval adds, and from the moment it
// proposes it needs the newcomer's acks and leases, for it cannot know when the monitors agreed.
func (p *pg) considerAddition(q *peer) {
	if !q.learner || !q.copied || q.acked != p.last || p.pending != nil {
		return
	}
	if !p.active && !p.o.fault(FaultAddBeforeActive) {
		return
	}
	if p.o.fault(FaultNoPending) {
		if p.o.now-p.proposedAt > 3e8 {
			p.propose(append(slices.Clone(p.cfg.InSync), q.m), without(p.cfg.Learners, q.m), "osd.%d is caught up", q.m.ID)
		}
		return
	}
	p.pending, p.pendingAt = q, p.o.now
	q.since = p.o.now
	p.proposePending()
}

// proposePending proposes it. Where members may answer reads the newcomer must first have given a
// lease that outlasts what they were lent before it counted: as a successor it would not wait
// for them.
func (p *pg) proposePending() {
	q := p.pending
	if q.leaseSent < p.pendingAt && len(p.lentNow()) > 0 && !p.o.fault(FaultLendPending) {
		p.o.send(q.m.ID, &wire.LeaseReq{Epoch: p.o.m.Epoch, Sent: p.o.now, PGs: []wire.PGInterval{{PG: p.id, Interval: p.interval}}})
		return
	}
	p.propose(append(slices.Clone(p.cfg.InSync), q.m), without(p.cfg.Learners, q.m), "osd.%d is caught up", q.m.ID)
}
