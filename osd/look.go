package osd

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/wire"
)

// What an OSD shows of the operations under way, so that no wait is without an owner, and of
// those that took long.

// Reasons why an op has no version yet; op.why is one of them.
const (
	whyMap     = "map"
	whyPeering = "peering"
	whyMinSize = "min_size"
	whyWrite   = "an uncommitted write"
	whyLease   = "a lease"
	whyHeal    = "a good copy of a damaged object"
	whyDisk    = "disk"
)

// OpState is an operation that was not answered yet.
type OpState struct {
	Client  string   `json:"client"`
	Tid     uint64   `json:"tid"`
	PG      string   `json:"pg"`
	Object  string   `json:"object"`
	Writes  bool     `json:"writes"`
	Stage   string   `json:"stage"` // map, peering, min_size, queue, lease, heal, disk, log, replica
	SinceMs int64    `json:"since_ms"`
	On      []WaitOn `json:"on"`
}

// WaitOn is one owner of such a wait.
type WaitOn struct {
	Kind string     `json:"kind"` // osd, monitors, store, op
	OSD  wire.OSDID `json:"osd"`  // -1: not an OSD
	Text string     `json:"text"`
}

// Ops lists the operations under way, PG by PG, at most max.
func (o *OSD) Ops(now int64, max int) []OpState {
	if now > o.now {
		o.now = now
	}
	out := []OpState{}
	add := func(q *op, stage string, on []WaitOn) {
		if len(out) < max {
			out = append(out, OpState{Client: q.inst.String(), Tid: uint64(q.tid), PG: q.msg.PG.String(), Object: q.msg.Object, Writes: q.muts,
				Stage: stage, SinceMs: (o.now - q.at) / 1e6, On: on})
		}
	}
	for _, q := range o.waitMap {
		add(q, "map", []WaitOn{{"monitors", wire.NoOSD, fmt.Sprintf("the monitors for map epoch %d; osd.%d has %d", q.msg.Epoch, o.cfg.ID, o.m.Epoch)}})
	}
	for _, id := range o.fetchIDs() {
		add(o.fetches[id].q, "disk", []WaitOn{{"store", o.cfg.ID, fmt.Sprintf("osd.%d's disk", o.cfg.ID)}})
	}
	for _, p := range o.order {
		for _, q := range p.waitActive {
			add(q, "peering", p.peeringOn())
		}
		for _, q := range p.waitMin {
			add(q, "min_size", p.missingMembers())
		}
		for _, ob := range p.parked {
			for i, q := range ob.queue {
				switch {
				case i > 0:
					add(q, "queue", []WaitOn{{"op", wire.NoOSD, fmt.Sprintf("the ops before it on %q, the first of %v", ob.name, ob.queue[0].inst)}})
				case q.why == whyLease:
					add(q, "lease", p.leasesOn())
				case q.why == whyHeal:
					add(q, "heal", p.healOn(ob.name))
				default:
					add(q, "queue", p.commitOn(p.last))
				}
			}
		}
		for i := p.after(p.committed); i < len(p.log) && len(out) < max; i++ {
			e := p.log[i]
			if len(e.waiters) == 0 {
				continue
			}
			stage := "replica"
			if p.durable.Less(e.h.Version) {
				stage = "log"
			}
			out = append(out, OpState{Client: e.h.Client.String(), Tid: uint64(e.h.Tid), PG: p.id.String(), Object: e.h.Object, Writes: true, Stage: stage,
				SinceMs: (o.now - e.at) / 1e6, On: p.commitOn(e.h.Version)})
		}
	}
	return out
}

// peeringOn names whom an inactive PG waits for.
func (p *pg) peeringOn() (out []WaitOn) {
	for _, q := range p.peers {
		if !q.learner && !q.confirmed {
			out = append(out, WaitOn{"osd", q.m.ID, fmt.Sprintf("osd.%d (%s) to reconcile its log with osd.%d", q.m.ID, p.o.upText(q.m.ID), p.o.cfg.ID)})
		}
	}
	if left := p.leaseUntil - p.o.now; left > 0 {
		out = append(out, WaitOn{"osd", p.o.cfg.ID, fmt.Sprintf("the lease that osd.%d gave to the primary before to run out in %d ms", p.o.cfg.ID, left/1e6)})
	}
	if len(out) == 0 {
		out = append(out, WaitOn{"store", p.o.cfg.ID, fmt.Sprintf("osd.%d's own store to finish what was submitted", p.o.cfg.ID)})
	}
	return out
}

func (o *OSD) upText(id wire.OSDID) string {
	switch d, ok := o.m.OSDs[id]; {
	case !ok:
		return "unknown"
	case !d.Up:
		return "down"
	}
	return "up"
}

// missingMembers names the OSDs that a PG below min_size lacks.
func (p *pg) missingMembers() (out []WaitOn) {
	o := p.o
	seen := map[wire.OSDID]bool{}
	add := func(id wire.OSDID, why string) {
		if !seen[id] {
			seen[id] = true
			out = append(out, WaitOn{"osd", id, fmt.Sprintf("osd.%d, which is %s: %d of the %d members in sync that writes to pg %v need (min_size)", id, why, len(p.cfg.InSync), p.minSize(), p.id)})
		}
	}
	for _, m := range p.cfg.InSync {
		seen[m.ID] = true
	}
	for _, m := range p.cfg.Learners {
		why := "being filled"
		if q := p.peer(m.ID); q != nil && !q.confirmed {
			why = "up and has not begun to be filled"
		}
		if o.upText(m.ID) == "down" {
			why = "down"
		}
		add(m.ID, why)
	}
	for _, id := range o.m.OSDIDs() {
		if d := o.m.OSDs[id]; !d.Up && d.In {
			add(id, "down")
		}
	}
	for _, id := range p.up {
		add(id, o.upText(id)+" and to be added by the monitors")
	}
	if len(out) == 0 {
		out = append(out, WaitOn{"monitors", wire.NoOSD, fmt.Sprintf("the monitors: pg %v has %d of %d members and no OSD is left to be one", p.id, len(p.cfg.InSync), p.minSize())})
	}
	return out
}

// leasesOn names the members whose lease a read waits for.
func (p *pg) leasesOn() (out []WaitOn) {
	for _, q := range p.peers {
		if !q.learner && q.leaseUntil <= p.o.now {
			out = append(out, WaitOn{"osd", q.m.ID, fmt.Sprintf("osd.%d (%s) to grant a read lease", q.m.ID, p.o.upText(q.m.ID))})
		}
	}
	if len(out) == 0 {
		out = append(out, WaitOn{"op", wire.NoOSD, "its turn"})
	}
	return out
}

// healOn names who was asked for a good copy.
func (p *pg) healOn(name string) []WaitOn {
	h := p.healing[name]
	if h == nil || len(h.asked) == 0 {
		return []WaitOn{{"op", wire.NoOSD, "its turn"}}
	}
	id := h.asked[len(h.asked)-1]
	return []WaitOn{{"osd", id, fmt.Sprintf("osd.%d (%s) to send its copy of %q: osd.%d's is damaged", id, p.o.upText(id), name, p.o.cfg.ID)}}
}

// commitOn names whose log lacks version v.
func (p *pg) commitOn(v wire.Version) (out []WaitOn) {
	if p.durable.Less(v) {
		out = append(out, WaitOn{"store", p.o.cfg.ID, fmt.Sprintf("osd.%d's own log to be on disk", p.o.cfg.ID)})
	}
	for _, q := range p.peers {
		if (!q.learner || q == p.pending) && q.acked.Less(v) {
			out = append(out, WaitOn{"osd", q.m.ID, fmt.Sprintf("osd.%d (%s) to acknowledge, silent for %d ms", q.m.ID, p.o.upText(q.m.ID), (p.o.now-p.o.heard[q.m.ID])/1e6)})
		}
	}
	if len(out) == 0 && len(p.cfg.InSync) < p.minSize() {
		out = p.missingMembers()
	}
	if len(out) == 0 {
		out = append(out, WaitOn{"op", wire.NoOSD, "the write before it"})
	}
	return out
}

// Latency is how long operations took at the primary, from their arrival to the answer.
type Latency struct{ Reads, Writes watch.Hist }

// SlowOp is an operation that took longer than Config.SlowNs, and whom it waited for.
type SlowOp struct {
	What, For, Stage, Owner string
	TookNs                  int64
}

// maxSlow bounds the slow operations of one step: a PG that comes back answers thousands.
const maxSlow = 32

func (o *OSD) late(what, object string, pg wire.PGID, inst wire.Instance, tid wire.Tid, took int64, stage, owner string) {
	if len(o.eff.Slow) < maxSlow {
		o.eff.Slow = append(o.eff.Slow, SlowOp{What: fmt.Sprintf("%s of %q in pg %v", what, object, pg), For: fmt.Sprintf("%v tid %d", inst, tid), Stage: stage, Owner: owner, TookNs: took})
	}
}

// readDone notes an answered read.
func (p *pg) readDone(q *op) {
	o := p.o
	took := o.now - q.at
	o.latency.Reads.Add(took)
	if o.cfg.SlowNs == 0 || took < o.cfg.SlowNs {
		return
	}
	stage, owner := "queue", fmt.Sprintf("osd.%d", o.cfg.ID)
	switch q.why {
	case whyLease, whyHeal:
		stage, owner = "lease", p.memberNames()
		if q.why == whyHeal {
			stage = "heal"
		}
	case whyWrite:
		owner = "a write of the same object that was not committed"
	case whyPeering, whyMap:
		stage, owner = q.why, p.memberNames()
	case whyDisk:
		stage = q.why
	}
	o.late("read", q.msg.Object, p.id, q.inst, q.tid, took, stage, owner)
}

// writeDone notes a committed write whose client waits; p.cause says whose word was the last.
func (p *pg) writeDone(e *entry) {
	o := p.o
	took := o.now - e.at
	o.latency.Writes.Add(took)
	if o.cfg.SlowNs == 0 || took < o.cfg.SlowNs {
		return
	}
	stage, owner := "log", fmt.Sprintf("osd.%d's own log", o.cfg.ID)
	switch {
	case e.logged-e.at > took/2:
		stage, owner = "queue", "ops of the same object before it"
		if e.why != "" {
			stage, owner = e.why, p.memberNames()
		}
	case p.cause != o.cfg.ID && p.cause != wire.NoOSD:
		stage, owner = "replica", fmt.Sprintf("osd.%d", p.cause)
	case p.cause == wire.NoOSD:
		stage, owner = "peering", p.memberNames()
	}
	o.late("write", e.h.Object, p.id, e.h.Client, e.h.Tid, took, stage, owner)
}

func (p *pg) memberNames() string {
	var s []string
	for _, q := range p.peers {
		s = append(s, fmt.Sprintf("osd.%d", q.m.ID))
	}
	slices.Sort(s)
	return fmt.Sprint(s)
}

// Latency shows the durations so far.
func (o *OSD) Latency() *Latency { return &o.latency }

// PGCounts counts the PGs here by role and state.
func (o *OSD) PGCounts() map[string]int {
	n := map[string]int{"primary_active": 0, "primary_waiting": 0, "member": 0, "learner": 0, "none": 0}
	for _, p := range o.order {
		switch {
		case p.role == rolePrimary && p.active:
			n["primary_active"]++
		case p.role == rolePrimary:
			n["primary_waiting"]++
		default:
			n[p.role.String()]++
		}
	}
	return n
}

// Missing counts the objects that PGs being filled here still lack, as far as they are listed.
func (o *OSD) Missing() (n int) {
	for _, p := range o.order {
		n += len(p.learn.missing)
	}
	return n
}

// InFlight counts the operations under way.
func (o *OSD) InFlight() int {
	n := len(o.waitMap) + len(o.fetches)
	for _, p := range o.order {
		n += len(p.waitActive) + len(p.waitMin)
		for _, ob := range p.parked {
			n += len(ob.queue)
		}
		if p.primary() {
			n += len(p.log) - p.after(p.committed)
		}
	}
	return n
}
