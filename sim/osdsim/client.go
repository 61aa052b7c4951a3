package osdsim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// client is one instance with a few operations open at a time, and an objecter's manners.
type client struct {
	w    *World
	num  int
	inst wire.Instance
	m    *clustermap.OSDMap
	tid  wire.Tid
	open []*clientOp // by tid
	dead bool        // told that it is fenced
	stop bool
	slow int64  // longest time that a map takes to it
	mix  [5]int // of kinds
	lag  int64  // not 0: every map takes exactly so long to it
	many bool   // does not wait for answers before it asks on
	pace int64  // longest rest between two operations, mostly
}

type clientOp struct {
	tid      wire.Tid
	rec      *record
	pg       wire.PGID
	ops      []wire.ObjOp
	first    wire.Epoch // of its first sending
	interval uint64
	any      bool // asks any member of S, and the primary when that refuses
	then     func()
}

type kind uint8

const (
	kRead kind = iota
	kAppend
	kWrite
	kRemove
	kCreate // exclusive create and append
)

var kindNames = [...]string{"read", "append", "write", "remove", "create"}

// record is one operation as its client saw it.
type record struct {
	client    int
	kind      kind
	obj       string
	token     string
	call, ret int64
	done      bool
	errno     uint32
	out       string

	hidden bool // linearize: what it wrote is shown by no read
}

func (r *record) String() string {
	return fmt.Sprintf("[%.4f,%.4f] c%d %s %s %q -> errno %d %q done=%v", float64(r.call)/1e9, float64(r.ret)/1e9, r.client, kindNames[r.kind], r.obj, r.token, r.errno, r.out, r.done)
}

const maxObjects = 8

func (w *World) addClient(i int) *client {
	w.nonce++
	c := &client{w: w, num: len(w.clients), inst: wire.Instance{Kind: wire.KindClient, Num: uint32(i), Nonce: w.nonce}, m: w.mon.M,
		slow: []int64{5 * ms, 400 * ms, 6 * second}[w.rng.IntN(3)], mix: w.mix, pace: w.pace}
	if w.readers && i < 99 {
		if i%2 == 0 {
			c.slow, c.pace = 5*ms, 250*ms
		} else {
			c.mix, c.slow, c.lag, c.many, c.pace = [5]int{10}, 6*second, w.between(2*second, 4*second), true, 80*ms
		}
	}
	w.clients = append(w.clients, c)
	for range 1 + w.rng.IntN(3) {
		w.after(w.between(0, 100*ms), c.think)
	}
	return c
}

// think begins an operation and comes back when it is answered.
func (c *client) think() {
	w := c.w
	if c.dead || c.stop {
		return
	}
	r := &record{client: c.num, obj: fmt.Sprintf("o%d", w.rng.IntN(w.objects))}
	total := 0
	for _, k := range c.mix {
		total += k
	}
	for d := w.rng.IntN(total); d >= c.mix[r.kind]; r.kind++ {
		d -= c.mix[r.kind]
	}
	r.token = fmt.Sprintf("<%d.%d>", c.num, c.tid+1)
	d := w.between(5*ms, c.pace)
	if w.dice(0.1) {
		d = w.between(0, w.rest)
	}
	if c.many { // reads park at a primary that cannot commit, one object after the other
		if len(c.open) < 40 {
			c.begin(r, func() {})
		}
		w.after(d, c.think)
		return
	}
	c.begin(r, func() { w.after(d, c.think) })
}

func (c *client) begin(r *record, then func()) {
	w := c.w
	c.tid++
	q := &clientOp{tid: c.tid, rec: r, then: then, first: c.m.Epoch}
	// What the data says, the omap says too.
	mark := wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: r.token}}}
	switch r.kind {
	case kRead:
		q.ops = []wire.ObjOp{{Kind: wire.ObjRead, Len: 1 << 20}, {Kind: wire.ObjOmapRange, Max: 1 << 14}}
		if w.fetched > 0 && w.dice(0.8) {
			q.ops = q.ops[:1] // only reads of data alone are left for later
		}
	case kAppend:
		q.ops = []wire.ObjOp{{Kind: wire.ObjAppend, Data: []byte(r.token)}, mark}
	case kWrite:
		q.ops = []wire.ObjOp{{Kind: wire.ObjWriteFull, Data: []byte(r.token)}, {Kind: wire.ObjOmapClear}, mark}
	case kRemove:
		q.ops = []wire.ObjOp{{Kind: wire.ObjRemove}}
	case kCreate:
		q.ops = []wire.ObjOp{{Kind: wire.ObjCreate, Excl: true}, {Kind: wire.ObjAppend, Data: []byte(r.token)}, mark}
	}
	for i := range q.ops {
		q.ops[i].DataLen = uint32(len(q.ops[i].Data))
	}
	r.call = w.now
	w.history = append(w.history, r)
	c.open = append(c.open, q)
	c.choose(q)
	c.send(q)
	var again func()
	again = func() {
		if slices.Contains(c.open, q) && !c.dead {
			if w.dice(0.5) && c.slow < second || w.healed {
				c.newMap(w.mon.M)
			}
			c.choose(q)
			c.send(q)
			w.after(w.between(300*ms, 1500*ms), again)
		}
	}
	w.after(w.between(300*ms, 1500*ms), again)
}

// choose decides who is asked for a read. The last reads, after all faults, ask everybody alike.
func (c *client) choose(q *clientOp) {
	q.any = q.rec.kind == kRead && c.w.anyRead > 0 && c.w.dice(c.w.anyRead)
}

func (c *client) send(q *clientOp) {
	w := c.w
	q.pg = c.m.PGOf(wire.ObjectID{Pool: 1, Name: q.rec.obj})
	cfg := c.m.PGs[q.pg]
	q.interval = cfg.Interval
	if cfg.Primary == wire.NoOSD {
		return
	}
	to := cfg.Primary
	var flags wire.OSDOpFlags
	if q.any {
		to, flags = cfg.InSync[w.rng.IntN(len(cfg.InSync))].ID, wire.OSDAnyMember
	}
	m := &wire.OSDOp{Flags: flags, Epoch: c.m.Epoch, Oldest: c.open[0].tid, PG: q.pg, Object: q.rec.obj, Ops: q.ops}
	front := encode(m)
	var data [][]byte
	for i := range q.ops {
		data = append(data, q.ops[i].Data)
	}
	all, n, inst := concat(data), w.nodes[to], c.inst
	w.log("c%d > osd.%d tid %d %s %s epoch %d", c.num, n.id, q.tid, kindNames[q.rec.kind], q.rec.obj, m.Epoch)
	conn := c.num + 1
	w.carry(100+c.num, int(n.id), func() {
		n.do(func() { n.clientOp(conn, inst, q.tid, front, all) })
	})
}

func (c *client) newMap(m *clustermap.OSDMap) {
	if c.dead || m.Epoch <= c.m.Epoch {
		return
	}
	c.m = m
	for _, q := range slices.Clone(c.open) {
		if m.PGs[q.pg].Interval != q.interval {
			c.send(q)
		}
	}
}

func (c *client) answered(tid wire.Tid, m *wire.OSDReply) {
	w := c.w
	i := slices.IndexFunc(c.open, func(q *clientOp) bool { return q.tid == tid })
	if i < 0 || c.dead {
		return
	}
	q := c.open[i]
	switch m.Status {
	case wire.OSDBlocklisted:
		w.log("c%d is told that it is fenced", c.num)
		if _, ok := w.mon.M.Blocklist[c.inst]; !ok {
			w.fail("c%d was told that it is fenced, and is not", c.num)
		}
		c.dead = true
		w.addClient(int(c.inst.Num))
		if w.healed {
			w.clients[len(w.clients)-1].stop = true
		}
		return
	case wire.OSDWrong:
		if q.any {
			q.any = false
			c.send(q)
			return
		}
		d := 200 * ms
		if c.many && w.anyRead > 0 && w.cutAtSplit > 0 { // the map comes late all the same: it goes on asking members
			d = c.lag
		}
		w.after(w.between(ms, d), func() { c.newMap(w.mon.M) })
		return
	case wire.OSDFull:
		w.fail("ENOSPC from nowhere")
		return
	}
	r := q.rec
	if m.Errno == 5 {
		// No good copy was within reach: the operation tells nothing, and must have done nothing.
		if w.res.Rot == 0 {
			w.fail("EIO from nowhere")
		}
		w.res.EIO++
		i := slices.Index(w.history, r)
		w.history = slices.Delete(w.history, i, i+1)
	}
	r.done, r.ret, r.errno = true, w.now, m.Errno
	if r.kind == kRead && m.Errno == 0 {
		r.out = string(m.Ops[0].Data)
		if len(m.Ops) > 1 {
			if at := inOmap(r.out, m.Ops[1].Pairs); at != "" {
				w.fail("omap: c%d reads %q of %s, and its omap has %v: %s", c.num, r.out, r.obj, m.Ops[1].Pairs, at)
			}
		}
	}
	w.log("c%d tid %d: %v", c.num, tid, r)
	c.open = slices.Delete(c.open, i, i+1)
	q.then()
}

// inOmap says how an omap differs from the data that was read with it.
func inOmap(data string, kvs []wire.KV) string {
	tokens := strings.SplitAfter(data, ">")
	tokens = tokens[:len(tokens)-1] // nothing is behind the last
	slices.Sort(tokens)
	for i, t := range tokens {
		if i >= len(kvs) || kvs[i].Key != t {
			return "lacks " + t
		}
	}
	if len(kvs) > len(tokens) {
		return "has " + kvs[len(tokens)].Key
	}
	return ""
}

// final reads see what the faults have left.
func (w *World) finalReads(then func()) {
	c := w.addClient(99)
	c.stop = true
	left := w.objects
	for i := range w.objects {
		c.begin(&record{client: c.num, kind: kRead, obj: fmt.Sprintf("o%d", i)}, func() {
			if left--; left == 0 {
				then()
			}
		})
	}
}
