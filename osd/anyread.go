package osd

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// Reads at a member that is not the primary (reference §11). A member answers a read that allows
// it (wire.OSDAnyMember) under these conditions, and refuses it otherwise: the client asks the
// primary.
//
//   - It holds a read lease of the primary of its interval. The primary lends no longer than it
//     holds the leases of all members itself, so a successor that waits its own grant to the old
//     primary out (R7) has waited for the members that this one had lent to.
//   - After a member was dropped, nothing commits until what was lent to it has run out: it may
//     not have heard.
//   - Its log has no uncommitted entry of the object. What commits has been acknowledged by
//     every member, so a member that knows of no such entry has the newest committed state.
//   - The lease was given under a map at least as new as the operation demands: a barrier that
//     only this member had met would not stop the fenced instance at the primary (I6).
//
// A lease is counted from the sending of the question, by the asking member's own clock.

// readLease is the member's.
type readLease struct {
	until   int64
	epoch   wire.Epoch
	asked   int64
	used    int64 // when a read last came that this member may have answered
	badTold map[string]int64
}

// lent is a read lease as the primary that gave it counts: it has run out at until for certain.
type lent struct {
	m     clustermap.Member
	until int64
}

// readHere answers the read as a member; false: the primary must.
func (p *pg) readHere(q *op) bool {
	o := p.o
	p.reads.used = o.now
	if !p.mayReadHere(q.msg) {
		if o.now-p.reads.asked >= o.cfg.ResendNs/10 {
			p.wantRead()
		}
		return false
	}
	x := exec{aside: !q.inStep && onlyReads(q.msg.Ops)}
	x.begin(p, q.msg.Object)
	x.run(q.msg.Ops)
	if x.errno == eIO {
		p.tellBad(q.msg.Object)
		return false
	}
	o.stats.MemberReads++
	if len(x.later) > 0 {
		p.fetch(q, &x)
		return true
	}
	o.reply(q, &wire.OSDReply{Errno: x.errno, Version: x.st.Version, Ops: x.results}, x.data...)
	o.eff.Replies[len(o.eff.Replies)-1].Own = onlyReads(q.msg.Ops)
	p.readDone(q)
	return true
}

func (p *pg) mayReadHere(m *wire.OSDOp) bool {
	o := p.o
	if p.reads.until <= o.now && !o.fault(FaultMemberNoLease) || m.Epoch > p.reads.epoch && !o.fault(FaultMemberNoBarrier) {
		return false
	}
	if o.fault(FaultMemberUncommitted) {
		return true
	}
	return !slices.ContainsFunc(p.log[p.after(p.committed):], func(e *entry) bool { return e.h.Object == m.Object })
}

// wantRead asks for a read lease at the next Flush, all PGs of a primary at once.
func (p *pg) wantRead() {
	p.reads.asked = p.o.now
	p.o.wantReads = append(p.o.wantReads, p)
}

// readTick renews a lease that is in use.
func (p *pg) readTick() {
	o := p.o
	if p.reads.used > 0 && o.now-p.reads.used < 2*o.cfg.LeaseNs && p.reads.until-o.now < o.cfg.LeaseNs/2 && o.now-p.reads.asked >= o.cfg.ResendNs/10 {
		p.wantRead()
	}
}

func (o *OSD) askReads() {
	reqs := map[wire.OSDID][]wire.PGInterval{}
	var to []wire.OSDID
	for _, p := range o.wantReads {
		if id := p.cfg.Primary; p.role == roleMember && id != wire.NoOSD {
			if reqs[id] == nil {
				to = append(to, id)
			}
			reqs[id] = append(reqs[id], wire.PGInterval{PG: p.id, Interval: p.interval})
		}
	}
	clear(o.wantReads)
	o.wantReads = o.wantReads[:0]
	for _, id := range to {
		o.send(id, &wire.ReadLeaseReq{Epoch: o.m.Epoch, Sent: o.now, PGs: reqs[id]})
	}
}

// onReadLeaseReq (primary) lends what it holds.
func (o *OSD) onReadLeaseReq(from wire.OSDID, inst wire.Instance, m *wire.ReadLeaseReq) {
	o.wantEpoch(m.Epoch)
	r := &wire.ReadLease{Epoch: o.m.Epoch, Sent: m.Sent}
	for _, pi := range m.PGs {
		p := o.pgs[pi.PG]
		if p == nil || !p.primary() || !p.active || p.interval != pi.Interval {
			continue
		}
		q := p.peer(from)
		if q == nil || q.learner || q.inst != inst {
			continue
		}
		p.lastUse = o.now
		ns := p.leaseEnd() - o.now
		if ns <= 0 {
			o.wantLeases = true
			continue
		}
		p.lend(q.m, ns)
		r.PGs = append(r.PGs, wire.PGRead{PG: p.id, Interval: p.interval, Ns: ns, Committed: p.committed})
	}
	if len(r.PGs) > 0 {
		o.stats.Lent += uint64(len(r.PGs))
		o.send(from, r)
	}
}

// leaseEnd is until when this primary holds the leases of everybody that it needs (R5).
func (p *pg) leaseEnd() int64 {
	if p.o.fault(FaultLendFreely) {
		return p.o.now + p.o.cfg.LeaseNs
	}
	end := p.o.now + p.o.cfg.LeaseNs
	for _, q := range p.peers {
		if !q.learner || q == p.pending {
			end = min(end, q.leaseUntil)
		}
	}
	return end
}

// lend notes that m may answer reads for ns of its own clock, which may be slower than this one.
func (p *pg) lend(m clustermap.Member, ns int64) {
	until := p.o.now + ns + ns/64
	for i := range p.lent {
		if p.lent[i].m == m {
			p.lent[i].until = max(p.lent[i].until, until)
			return
		}
	}
	p.lent = append(p.lent, lent{m, until})
}

// lentNow is what still runs.
func (p *pg) lentNow() []lent {
	p.lent = slices.DeleteFunc(p.lent, func(l lent) bool { return l.until <= p.o.now })
	return p.lent
}

// heldBack names a dropped member that may still answer reads: nothing may commit meanwhile. In
// an active interval all of S have adopted it, and with it given up what they were lent before.
func (p *pg) heldBack() *lent {
	if len(p.lent) == 0 || p.o.fault(FaultNoDropWait) {
		return nil
	}
	for i, l := range p.lentNow() {
		if !slices.Contains(p.cfg.InSync, l.m) {
			return &p.lent[i]
		}
	}
	return nil
}

// lentWire is what a primary that steps down tells its successor.
func (p *pg) lentWire() (out []wire.Lent) {
	for _, l := range p.lentNow() {
		out = append(out, wire.Lent{Member: l.m, Ns: l.until - p.o.now})
	}
	return out
}

// takeLent (successor) heeds what the old primary lent.
func (p *pg) takeLent(ls []wire.Lent) {
	for _, l := range ls {
		if l.Ns > 0 {
			p.lend(l.Member, min(l.Ns, 2*p.o.cfg.LeaseNs))
		}
	}
}

// onReadLease (member).
func (o *OSD) onReadLease(from wire.OSDID, m *wire.ReadLease) {
	if m.Sent > o.now {
		return
	}
	for i := range m.PGs {
		r := &m.PGs[i]
		p := o.pgs[r.PG]
		if p == nil || p.role != roleMember || p.interval != r.Interval || p.cfg.Primary != from {
			continue
		}
		p.reads.until = max(p.reads.until, m.Sent+min(r.Ns, o.cfg.LeaseNs))
		p.reads.epoch = max(p.reads.epoch, m.Epoch)
		if c := r.Committed; p.last.Less(c) {
			p.setCommitted(p.last)
		} else {
			p.setCommitted(c)
		}
	}
}

// tellBad (member) asks the primary for a good copy.
func (p *pg) tellBad(name string) {
	o := p.o
	if at, ok := p.reads.badTold[name]; ok && o.now-at < 4*o.cfg.ResendNs {
		return
	}
	if p.reads.badTold == nil || len(p.reads.badTold) > 1000 {
		p.reads.badTold = map[string]int64{}
	}
	p.reads.badTold[name] = o.now
	o.stats.Damaged++
	o.send(p.cfg.Primary, &wire.ObjBad{PG: p.id, Interval: p.interval, Name: name})
}

// onObjBad (primary) sends a good copy: of committed state, for then the member has its entries.
func (p *pg) onObjBad(from wire.OSDID, m *wire.ObjBad) {
	if q := p.peer(from); q == nil || q.learner || !p.active || p.busy(m.Name) {
		return // a later read finds it again
	}
	c, err := p.copyOf(m.Name)
	if err != nil || c.Damaged() {
		p.heal(m.Name)
		return
	}
	p.o.stats.Mended++
	p.o.send(from, &wire.ObjMend{PG: p.id, Interval: p.interval, At: p.last, Object: c}, c.Data)
}
