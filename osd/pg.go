package osd

import (
	"fmt"
	"slices"
	"sort"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

type role uint8

const (
	roleNone role = iota
	rolePrimary
	roleMember
	roleLearner
)

var roleNames = [...]string{"none", "primary", "member", "learner"}

func (r role) String() string { return roleNames[r] }

// entry is one element of the log. muts are kept by the primary for resends until everybody
// has them; a replica that needs an older one gets copies of objects.
type entry struct {
	h       *wire.LogEntry
	rec     []byte
	muts    []wire.ObjOp
	noMuts  bool
	data    []byte // primary: what arrived with the operation and muts refer to
	sent    sentTo
	waiters []waiter

	at, logged int64  // primary: when the op came, and when it got its version
	why        string // what it waited for between
}

type waiter struct {
	conn ConnID
	tid  wire.Tid
}

// mark remembers what the log's last was when a transaction was submitted.
type mark struct {
	seq     uint64
	version wire.Version
	data    []byte // a member's: the store reads it until the transaction is durable
}

// pg is one placement group at one OSD.
type pg struct {
	o     *OSD
	id    wire.PGID
	dirty bool

	// The log: entries in (tail, last]; what of it is durable and committed.
	log       []*entry
	tail      wire.Version
	last      wire.Version
	durable   wire.Version
	committed wire.Version
	seq, done uint64
	pgNum     uint32 // of the pool, as of when the state here was made or divided
	numStored bool   // the store has it, and something of the PG
	marks     []mark
	dedup     *table // as of last
	base      *table // as of tail; what Meta holds

	// Configuration.
	cfg       clustermap.PGConfig
	interval  uint64 // adopted; 0: none in this life
	role      role
	adoptedAt int64
	up        []wire.OSDID // primary: where CRUSH wants it, of the newest map

	// The lease given to primaries (R6, R7).
	leaseUntil    int64
	leaseTo       wire.Instance
	leaseInterval uint64

	// Primary.
	active     bool
	lent       []lent     // read leases that this OSD, as primary now or before, has given or heard of
	peers      []*peer    // other members, then learners; sorted by id within each
	cause      wire.OSDID // whose word moved the watermark last: a member, this OSD, or nobody's
	pending    *peer      // proposed for addition (R9)
	pendingAt  int64
	objs       map[string]*object
	parked     []*object // with a queue, in the order they got one
	waitActive []*op
	waitMin    []*op
	proposedAt int64
	lastUse    int64 // of leases
	healing    map[string]*healing
	broken     map[string]int64 // nobody has a good copy, as asked for then
	unsure     map[string]bool  // of the last scrub: nobody knows which copy is good
	healed     uint64
	scrub      *scrub // nil: none is running
	scrubbed   ScrubSum
	scrubDue   int64 // when the next one begins by itself; 0: not decided

	// Member and learner.
	reads   readLease
	ackDue  bool
	ackSent int64 // lease request to echo
	gap     bool
	stage   *stage
	confirm bool // a Recon waits for durability
	// reconciled: equal to the primary once in this interval; a late ReconFix must not cut again.
	reconciled bool
	fix        fixing
	gone       bool // nothing of it is left in the store
	learn      learner
}

// object is a primary's state of an object with uncommitted entries or waiting ops.
type object struct {
	name        string
	uncommitted int
	queue       []*op
	parked      bool
}

func newPG(o *OSD, id wire.PGID) *pg {
	return &pg{o: o, id: id, pgNum: o.m.Pools[id.Pool].PGNum, dedup: newTable(), base: newTable(), objs: map[string]*object{}, leaseUntil: o.bootLease, cause: wire.NoOSD}
}

// load reads a PG from the store at start.
func (o *OSD) load(id wire.PGID) {
	p := o.get(id)
	l := o.store.Log(id)
	p.tail, p.committed = l.Tail, l.Committed
	p.last = l.Tail
	for _, r := range l.Recs {
		h := new(wire.LogEntry)
		must.NoErr(wire.Unmarshal(r.Rec, h), "osd.%d pg %v: log entry %v", o.cfg.ID, id, r.Version)
		p.log = append(p.log, &entry{h: h, rec: r.Rec, noMuts: true})
		p.last = r.Version
	}
	if p.committed.Less(p.tail) {
		p.committed = p.tail
	}
	if p.last.Less(p.committed) { // of a log that was thrown away since (a learner's new start)
		p.committed = p.last
	}
	p.durable = p.last
	p.pgNum, p.numStored = DividedFor(o.store, id), true
	must.Holdf(p.pgNum > id.Num, "%v: its record %q says %d: written by another program?", p, pgNumKey, p.pgNum)
	p.base = loadTable(o.store.Meta(id, dedupPrefix))
	p.rebuildDedup()
	p.learn.load(p, o.store.Meta(id, learnKey))
}

func (p *pg) primary() bool { return p.role == rolePrimary }

func (p *pg) touch() {
	if !p.dirty {
		p.dirty = true
		p.o.dirty = append(p.o.dirty, p)
	}
}

// submit hands a transaction to the store and remembers what will be durable with it.
func (p *pg) submit(t *Txn) {
	t.PG = p.id
	if t.RemovePG {
		p.numStored = false
	} else if !p.numStored {
		t.Meta = append(t.Meta, pgNumKV(p.pgNum))
		p.numStored = true
	}
	p.seq++
	seq, id, stored := p.seq, p.id, p.o.cfg.Stored
	p.marks = append(p.marks, mark{seq: seq, version: p.last})
	p.o.store.Submit(t, func(err error) { stored(id, seq, err) })
}

func (p *pg) stored(seq uint64) {
	must.Holdf(seq == p.done+1, "pg %v: transaction %d durable after %d", p.id, seq, p.done)
	p.done = seq
	n := 0
	for n < len(p.marks) && p.marks[n].seq <= seq {
		p.durable = p.marks[n].version
		if d := p.marks[n].data; len(d) > 0 {
			p.o.eff.Free = append(p.o.eff.Free, d)
		}
		n++
	}
	p.marks = slices.Delete(p.marks, 0, n)
	switch p.role {
	case rolePrimary:
		p.cause = p.o.cfg.ID
		p.advance()
		p.cause = wire.NoOSD
	case roleMember, roleLearner:
		p.ackDue = true
		p.learn.settle(p)
		p.touch()
	}
}

// quiet reports whether everything submitted is durable.
func (p *pg) quiet() bool { return p.done == p.seq }

// find returns the index of the first entry newer than v.
func (p *pg) after(v wire.Version) int {
	return sort.Search(len(p.log), func(i int) bool { return v.Less(p.log[i].h.Version) })
}

// has reports whether the log joins at v.
func (p *pg) has(v wire.Version) bool {
	if v == p.tail {
		return true
	}
	i := p.after(v)
	return i > 0 && p.log[i-1].h.Version == v
}

// appendEntry adds e in memory.
func (p *pg) appendEntry(e *entry) {
	must.Holdf(e.h.Prev == p.last && p.last.Less(e.h.Version), "osd.%d pg %v: entry %v after %v on a log that ends at %v", p.o.cfg.ID, p.id, e.h.Version, e.h.Prev, p.last)
	p.log = append(p.log, e)
	p.last = e.h.Version
	p.dedup.add(e.h)
}

// cutLog drops the entries newer than v in memory and their dedup records with them.
func (p *pg) cutLog(v wire.Version) {
	i := p.after(v)
	clear(p.log[i:])
	p.log = p.log[:i]
	p.last = v
	p.capDurable(v)
	p.rebuildDedup()
}

// capDurable forgets, of transactions under way, what a cut has taken back: when they become
// durable, no more than v of this log is.
func (p *pg) capDurable(v wire.Version) {
	for i := range p.marks {
		if v.Less(p.marks[i].version) {
			p.marks[i].version = v
		}
	}
	if v.Less(p.durable) {
		p.durable = v
	}
}

func (p *pg) rebuildDedup() {
	p.dedup = p.base.clone()
	for _, e := range p.log {
		p.dedup.add(e.h)
	}
}

// trim adds to t the trimming of old committed entries, in runs so that it costs little.
func (p *pg) trim(t *Txn) {
	n := len(p.log) - p.keep()
	if n < 64 {
		return
	}
	n = min(n, p.after(p.committed))
	for _, q := range p.peers {
		if q.learner && q.confirmed { // it still needs entries; tick sees to it that it does not for ever
			n = min(n, p.after(q.acked))
		}
	}
	if n <= 0 {
		return
	}
	touched := map[wire.Instance]bool{}
	var order []wire.Instance
	for _, e := range p.log[:n] {
		p.base.add(e.h)
		if !touched[e.h.Client] {
			touched[e.h.Client] = true
			order = append(order, e.h.Client)
		}
	}
	t.Trim = p.log[n-1].h.Version
	p.tail = t.Trim
	p.log = slices.Clone(p.log[n:])
	for _, c := range order {
		t.Meta = append(t.Meta, p.base.kv(c))
	}
	t.Committed = p.committed
}

// keep is how many entries a primary keeps: more while somebody is away who may come back and
// be filled by log.
func (p *pg) keep() int {
	if p.primary() && len(p.cfg.InSync) < p.o.m.Pools[p.id.Pool].Size {
		return 8 * p.o.cfg.LogKeep
	}
	return p.o.cfg.LogKeep
}

func (p *pg) setCommitted(v wire.Version) {
	if p.committed.Less(v) {
		p.committed = v
	}
}

func (p *pg) forgetBlocked() {
	p.dedup.forget(p.o.m.IsBlocklisted)
	for _, k := range p.base.forget(p.o.m.IsBlocklisted) {
		p.learn.drop = append(p.learn.drop, wire.KV{Key: k})
	}
	if len(p.learn.drop) > 0 && p.role != roleNone {
		p.submit(&Txn{Meta: p.learn.drop})
		p.learn.drop = nil
	}
}

func (p *pg) walk() {
	v := p.tail
	for _, e := range p.log {
		if e.h.Prev != v || !v.Less(e.h.Version) { // asked first: to pass what the message says costs more than to look
			must.Holdf(false, "osd.%d pg %v: log entry %v names %v before it, found %v", p.o.cfg.ID, p.id, e.h.Version, e.h.Prev, v)
		}
		v = e.h.Version
	}
	must.Holdf(v == p.last, "osd.%d pg %v: last %v, log ends at %v", p.o.cfg.ID, p.id, p.last, v)
	must.Holdf(!p.last.Less(p.committed), "osd.%d pg %v: committed %v beyond last %v", p.o.cfg.ID, p.id, p.committed, p.last)
	if p.primary() {
		n := 0
		for _, ob := range p.objs {
			n += ob.uncommitted
			must.Holdf(ob.uncommitted > 0 || len(ob.queue) > 0, "osd.%d pg %v: idle object %q kept", p.o.cfg.ID, p.id, ob.name)
		}
		must.Holdf(n == len(p.log)-p.after(p.committed), "osd.%d pg %v: %d uncommitted entries counted, %d in the log", p.o.cfg.ID, p.id, n, len(p.log)-p.after(p.committed))
	}
}

func (p *pg) String() string { return fmt.Sprintf("osd.%d pg %v", p.o.cfg.ID, p.id) }
