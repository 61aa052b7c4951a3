package osd

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// op is a client's operation that has no version yet.
type op struct {
	conn   ConnID
	inst   wire.Instance
	tid    wire.Tid
	at     int64
	msg    *wire.OSDOp
	data   []byte // of the frame: msg's steps refer to it
	muts   bool
	why    string // what it waits for, for people
	inStep bool   // what it reads is read in the step: bytes fetched beside it were bad
}

func (o *OSD) reply(q *op, m *wire.OSDReply, data ...[]byte) {
	m.Epoch = o.m.Epoch
	o.eff.Replies = append(o.eff.Replies, Reply{Conn: q.conn, Tid: q.tid, Msg: m, Data: data})
}

// clientOp is §4.1: the barrier comes before anything else.
func (o *OSD) clientOp(q *op, data []byte) {
	o.stats.Ops++
	o.clientAt = o.now
	if err := wire.CutOpData(q.msg.Ops, data); err != nil {
		o.reply(q, &wire.OSDReply{Errno: eINVAL})
		return
	}
	for i := range q.msg.Ops {
		q.muts = q.muts || q.msg.Ops[i].Kind.Mutates()
	}
	q.data = data
	o.start(q)
}

func (o *OSD) start(q *op) {
	m := q.msg
	if !o.lives || m.Epoch > o.m.Epoch && !o.fault(FaultNoBarrier) {
		q.why = whyMap
		o.waitMap = append(o.waitMap, q)
		o.wantEpoch(m.Epoch)
		return
	}
	p := o.pgs[m.PG]
	here := p != nil && p.role == roleMember && m.Flags&wire.OSDAnyMember != 0 && !q.muts
	if p == nil || !p.primary() && !here {
		o.reply(q, &wire.OSDReply{Status: wire.OSDWrong})
		return
	}
	if len(m.Object) == 0 || len(m.Object) > wire.MaxObjName || len(m.Ops) == 0 || len(m.Ops) > wire.MaxObjOps {
		o.reply(q, &wire.OSDReply{Errno: eINVAL})
		return
	}
	if at := o.m.PGOf(wire.ObjectID{Pool: m.PG.Pool, Name: m.Object}); at != m.PG && !o.fault(FaultSplitUnchecked) {
		if clustermap.SplitFrom(at.Num, m.PG.Num+1) == m.PG.Num { // aimed by a map from before a split
			o.reply(q, &wire.OSDReply{Status: wire.OSDWrong})
		} else {
			o.reply(q, &wire.OSDReply{Errno: eINVAL})
		}
		return
	}
	if here {
		switch {
		case o.m.IsBlocklisted(q.inst):
			o.reply(q, &wire.OSDReply{Status: wire.OSDBlocklisted})
		case !p.readHere(q):
			o.stats.MemberRefused++
			o.reply(q, &wire.OSDReply{Status: wire.OSDWrong})
		}
		return
	}
	if !p.active {
		q.why = whyPeering
		p.waitActive = append(p.waitActive, q)
		return
	}
	p.enqueue(q)
}

// enqueue runs the op now, or behind those that wait for the same object: otherwise a stream
// of writes would starve a read that waits for the last of them.
func (p *pg) enqueue(q *op) {
	ob := p.objs[q.msg.Object]
	if ob != nil && len(ob.queue) > 0 {
		ob.queue = append(ob.queue, q)
		return
	}
	if p.run(q) {
		return
	}
	p.o.stats.Parked++
	ob = p.object(q.msg.Object)
	ob.queue = append(ob.queue, q)
	p.park(ob)
}

func (p *pg) park(ob *object) {
	if !ob.parked {
		ob.parked = true
		p.parked = append(p.parked, ob)
	}
}

// run executes the op; false: it must wait, for a lease or an uncommitted entry of its object.
func (p *pg) run(q *op) bool {
	o := p.o
	if o.m.IsBlocklisted(q.inst) {
		o.reply(q, &wire.OSDReply{Status: wire.OSDBlocklisted})
		return true
	}
	h, retired := p.dedup.find(q.inst, q.tid)
	if retired {
		return true // its client has the answer: a ghost of the network
	}
	p.lastUse = o.now
	if h != nil {
		o.stats.DedupHits++
		if p.committed.Less(h.Version) {
			e := p.log[p.after(h.Version)-1]
			must.Holdf(e.h == h, "%v: dedup record %v is not the log's", p, h.Version)
			e.waiters = append(e.waiters, waiter{q.conn, q.tid})
			return true
		}
		p.answer(waiter{q.conn, q.tid}, h)
		return true
	}
	if !q.muts {
		return p.read(q)
	}
	if len(p.cfg.InSync) < p.minSize() {
		q.why = whyMinSize
		p.waitMin = append(p.waitMin, q)
		return true
	}
	if p.full(q) {
		o.reply(q, &wire.OSDReply{Status: wire.OSDFull, Errno: eNOSPC})
		return true
	}
	return p.write(q)
}

// full decides ENOSPC, before anything is logged: deletes and truncates always pass. A large
// write must leave room for as large ones that other primaries are letting in at the same
// moment: together they would use the reserve up, in which the rank's journal has to write
// what deletes something.
func (p *pg) full(q *op) bool {
	o := p.o
	if !o.m.Full && !o.full && !o.failsafe {
		size := uint64(0)
		for i := range q.msg.Ops {
			size += uint64(len(q.msg.Ops[i].Data))
		}
		total, used := o.store.Space()
		if total == 0 || q.msg.Flags&wire.OSDFullTry != 0 || used+4*size <= total/100*fullPct {
			return false
		}
	}
	if q.msg.Flags&wire.OSDFullTry != 0 && !o.failsafe {
		return false
	}
	for i := range q.msg.Ops {
		switch k := q.msg.Ops[i].Kind; k {
		case wire.ObjRemove, wire.ObjTruncate, wire.ObjZero, wire.ObjRmXattr, wire.ObjOmapRemove, wire.ObjOmapClear:
		default:
			if k.Mutates() {
				return true
			}
		}
	}
	return false
}

// read is §5.
func (p *pg) read(q *op) bool {
	o := p.o
	if ob := p.objs[q.msg.Object]; ob != nil && ob.uncommitted > 0 && !o.fault(FaultReadUncommitted) {
		q.why = whyWrite
		return false
	}
	if !p.leased() {
		q.why = whyLease
		o.wantLeases = true
		return false
	}
	o.stats.Reads++
	x := exec{aside: !q.inStep && onlyReads(q.msg.Ops)}
	x.begin(p, q.msg.Object)
	x.run(q.msg.Ops)
	if x.errno == eIO && p.heal(q.msg.Object) {
		q.why = whyHeal
		return false
	}
	if len(x.later) > 0 {
		p.fetch(q, &x)
		return true
	}
	r := &wire.OSDReply{Errno: x.errno, Version: x.st.Version, Ops: x.results}
	o.reply(q, r, x.data...)
	o.eff.Replies[len(o.eff.Replies)-1].Own = onlyReads(q.msg.Ops)
	p.readDone(q)
	return true
}

// onlyReads: all data of the answer is in buffers made for it.
func onlyReads(ops []wire.ObjOp) bool {
	for i := range ops {
		if ops[i].Kind != wire.ObjRead {
			return false
		}
	}
	return true
}

// write is §4.3: the result is fixed now, on the newest state; everything after is waiting.
// False: what it reads is damaged, and it waits for a good copy.
func (p *pg) write(q *op) bool {
	o := p.o
	var x exec
	x.begin(p, q.msg.Object)
	x.run(q.msg.Ops)
	v := wire.Version{Interval: p.interval, N: p.last.N + 1}
	if x.errno == eIO || x.damaged(v) {
		if p.busy(q.msg.Object) { // nobody has its newest state for sure: nobody can be asked
			q.why = whyWrite
			return false
		}
		if p.heal(q.msg.Object) {
			q.why = whyHeal
			return false
		}
		x.errno, x.muts = eIO, nil
	}
	o.stats.Writes++
	if q.msg.Flags&wire.OSDResent != 0 {
		o.stats.Resent++
	}
	prior := wire.Version{}
	if x.existed {
		prior = x.st.Version
	}
	h := &wire.LogEntry{Version: v, Prev: p.last, Object: q.msg.Object, Prior: prior, After: prior,
		Client: q.inst, Tid: q.tid, Oldest: q.msg.Oldest, Errno: x.errno, NOps: uint8(len(x.results))}
	if h.Oldest > h.Tid {
		h.Oldest = h.Tid
	}
	for i := range x.results {
		if r := &x.results[i]; r.Errno != 0 || r.DataLen != 0 || r.Size != 0 || r.More || len(r.Pairs) > 0 || r.Version != (wire.Version{}) {
			h.Results = x.results
			break
		}
	}
	for _, d := range x.data {
		h.ResData = append(h.ResData, d...)
	}
	if x.errno == 0 && len(x.muts) > 0 {
		h.After = v
		if x.muts[len(x.muts)-1].Kind == wire.ObjRemove {
			h.After = wire.Version{}
		}
	}
	rec, err := wire.Append(nil, h)
	must.NoErr(err, "encode entry %v", v)
	e := &entry{h: h, rec: rec, muts: x.muts, waiters: []waiter{{q.conn, q.tid}}, data: q.data, at: q.at, logged: o.now, why: q.why}
	if h.After == h.Prior {
		e.muts = nil
	}
	if o.cfg.Logged != nil {
		o.cfg.Logged(p.id, h)
	}
	p.appendEntry(e)
	p.object(h.Object).uncommitted++
	t := &Txn{Append: []LogRec{{v, rec}}}
	if ot, ok := e.objTxn(); ok {
		t.Objs = []ObjTxn{ot}
		if ot.Replace || ot.Remove {
			p.whole(ot.Name)
		}
	}
	p.trim(t)
	p.submit(t)
	p.touch()
	return true
}

// objTxn is what the entry does to its object.
func (e *entry) objTxn() (ObjTxn, bool) {
	if e.h.After == e.h.Prior {
		return ObjTxn{}, false
	}
	return changeOf(e.h.Object, e.h.After, e.muts), true
}

// changeOf is what steps with resulting bytes do to an object.
func changeOf(name string, after wire.Version, muts []wire.ObjOp) ObjTxn {
	t := ObjTxn{Name: name, Version: after, Muts: muts}
	for i := len(t.Muts) - 1; i >= 0; i-- {
		if t.Muts[i].Kind == wire.ObjRemove {
			if i == len(t.Muts)-1 {
				return ObjTxn{Name: name, Remove: true}
			}
			t.Replace, t.Muts = true, t.Muts[i+1:]
			break
		}
	}
	return t
}

// damaged: what the vector changes in part cannot be read.
func (x *exec) damaged(after wire.Version) bool {
	if x.errno != 0 || len(x.muts) == 0 || !x.existed {
		return false
	}
	t := changeOf(x.name, after, x.muts)
	return x.p.o.store.Damaged(x.p.id, &t)
}

// answer sends the recorded result.
func (p *pg) answer(w waiter, h *wire.LogEntry) {
	r := &wire.OSDReply{Epoch: p.o.m.Epoch, Errno: h.Errno, Version: h.Version, Ops: h.Results}
	if r.Ops == nil && h.NOps > 0 {
		r.Ops = make([]wire.ObjResult, h.NOps)
	}
	var data [][]byte
	if len(h.ResData) > 0 {
		data = [][]byte{h.ResData}
	}
	p.o.eff.Replies = append(p.o.eff.Replies, Reply{Conn: w.conn, Tid: w.tid, Msg: r, Data: data})
}

// advance is R4: it moves the watermark to what every member, the pending one and the own store
// have durably, in this interval.
func (p *pg) advance() {
	if !p.active || len(p.cfg.InSync) < p.minSize() || p.heldBack() != nil {
		return
	}
	c := p.durable
	for _, q := range p.peers {
		if (!q.learner || q == p.pending) && q.acked.Less(c) {
			c = q.acked
		}
	}
	if !p.committed.Less(c) {
		return
	}
	i := p.after(p.committed)
	p.committed = c
	woken := false
	for ; i < len(p.log) && !c.Less(p.log[i].h.Version); i++ {
		e := p.log[i]
		if p.o.cfg.Committed != nil {
			p.o.cfg.Committed(p.id, e.h)
		}
		if len(e.waiters) > 0 {
			p.writeDone(e)
		}
		for _, w := range e.waiters {
			p.answer(w, e.h)
		}
		e.waiters = nil
		ob := p.objs[e.h.Object]
		if ob.uncommitted--; ob.uncommitted == 0 {
			if len(ob.queue) == 0 {
				delete(p.objs, e.h.Object)
			} else {
				woken = true
			}
		}
	}
	p.dropMuts()
	if woken {
		p.runParked()
	}
}

// dropMuts lets go of transactions that nobody will ask for again.
func (p *pg) dropMuts() {
	have := p.committed
	for _, q := range p.peers {
		if q.confirmed && q.acked.Less(have) {
			have = q.acked
		}
	}
	for i := p.after(have) - 1; i >= 0 && !p.log[i].noMuts; i-- {
		e := p.log[i]
		if len(e.data) > 0 && p.unsent(e) {
			p.o.eff.Free = append(p.o.eff.Free, e.data)
		}
		e.muts, e.noMuts, e.data = nil, true, nil
	}
}

// runParked retries the objects with waiting ops, oldest first.
func (p *pg) runParked() {
	list := p.parked
	p.parked = nil
	for _, ob := range list {
		ob.parked = false
		for len(ob.queue) > 0 && p.run(ob.queue[0]) {
			ob.queue = ob.queue[1:]
		}
		if len(ob.queue) > 0 {
			p.park(ob)
		} else if ob.uncommitted == 0 {
			delete(p.objs, ob.name)
		}
	}
}

func (p *pg) connClosed(gone func(*op) bool) {
	p.waitActive = slices.DeleteFunc(p.waitActive, gone)
	p.waitMin = slices.DeleteFunc(p.waitMin, gone)
	list := p.parked
	p.parked = nil
	for _, ob := range list {
		ob.queue = slices.DeleteFunc(ob.queue, gone)
		ob.parked = false
		if len(ob.queue) > 0 {
			p.park(ob)
		} else if ob.uncommitted == 0 {
			delete(p.objs, ob.name)
		}
	}
	if p.primary() && p.active {
		p.runParked()
	}
}
