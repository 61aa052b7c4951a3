package osd

import (
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// Leases (R6) are asked per pair of OSDs for all PGs at once, and only while somebody reads: an
// idle PG lets them end and asks again at the next read.

// leased reports whether the primary may answer reads at this instant (R5).
func (p *pg) leased() bool {
	for _, q := range p.peers {
		if q.learner && q != p.pending {
			continue
		}
		if q.leaseUntil <= p.o.now {
			if p.o.fault(FaultOneLease) && q != p.peers[0] {
				continue
			}
			return false
		}
	}
	return true
}

// askLeases renews what is in use and ends within two thirds of L; at once: what parked ops wait for.
func (o *OSD) askLeases(now bool) {
	var reqs map[wire.OSDID][]wire.PGInterval
	var to []wire.OSDID
	for _, p := range o.order {
		if !p.primary() || !p.active || o.now-p.lastUse > 2*o.cfg.LeaseNs && len(p.parked) == 0 {
			continue
		}
		for _, q := range p.peers {
			if q.learner && q != p.pending {
				continue
			}
			left := q.leaseUntil - o.now
			if left > o.cfg.LeaseNs*2/3 || now && left > 0 {
				continue
			}
			if reqs == nil {
				reqs = map[wire.OSDID][]wire.PGInterval{}
			}
			if reqs[q.m.ID] == nil {
				to = append(to, q.m.ID)
			}
			reqs[q.m.ID] = append(reqs[q.m.ID], wire.PGInterval{PG: p.id, Interval: p.interval})
		}
	}
	slices.Sort(to)
	for _, id := range to {
		o.send(id, &wire.LeaseReq{Epoch: o.m.Epoch, Sent: o.now, PGs: reqs[id]})
	}
}

// grant gives a lease to the primary of the adopted interval.
func (p *pg) grant(to wire.Instance) {
	until := p.o.now + p.o.leaseSlack
	if p.leaseUntil > p.o.now && p.leaseTo != to {
		p.leaseTo = wire.Instance{} // two holders: no single one can hand it back
	} else {
		p.leaseTo = to
	}
	p.leaseUntil = max(p.leaseUntil, until)
	p.leaseInterval = p.interval
}

func (o *OSD) leaseReq(from wire.OSDID, inst wire.Instance, m *wire.LeaseReq) {
	o.wantEpoch(m.Epoch)
	g := &wire.LeaseGrant{Sent: m.Sent}
	for _, pi := range m.PGs {
		p := o.pgs[pi.PG]
		if p == nil || p.interval != pi.Interval || p.cfg.Primary != from || p.role != roleMember && p.role != roleLearner {
			continue
		}
		p.grant(inst)
		g.PGs = append(g.PGs, pi)
	}
	if len(g.PGs) > 0 {
		o.send(from, g)
	}
}

func (o *OSD) leaseGrant(from wire.OSDID, m *wire.LeaseGrant) {
	for _, pi := range m.PGs {
		if p := o.pgs[pi.PG]; p != nil && p.primary() && p.interval == pi.Interval {
			if q := p.peer(from); q != nil {
				p.leaseFrom(q, m.Sent)
			}
		}
	}
}

// leaseFrom counts from the send time of the request: the primary's end comes first.
func (p *pg) leaseFrom(q *peer, sent int64) {
	if sent <= 0 || sent > p.o.now {
		return
	}
	if q == p.pending && q.leaseSent < p.pendingAt && sent >= p.pendingAt {
		q.leaseSent = sent
		p.proposePending()
	}
	q.leaseSent = max(q.leaseSent, sent)
	if until := sent + p.o.cfg.LeaseNs; until > q.leaseUntil {
		q.leaseUntil = until
		if p.active && len(p.parked) > 0 {
			p.runParked()
		}
	}
}

// released takes a lease back: its holder lives and answers nothing below interval any more.
func (p *pg) released(from wire.Instance, m *wire.LeaseReleased) {
	if p.leaseTo == from && m.Interval > p.leaseInterval {
		p.takeLent(m.Lent)
		p.leaseUntil = 0
		if p.primary() {
			p.tryActivate()
		}
	}
}
