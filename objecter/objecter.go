package objecter

import (
	"context"
	"errors"
	"golang.org/x/sync/semaphore"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// ErrBlocklisted ends every operation of an instance that the cluster has fenced: nothing that
// was not answered before will be answered. ErrClosed ends those open at Close.
var (
	ErrBlocklisted = errors.New("objecter: this instance is blocklisted")
	ErrClosed      = errors.New("objecter: closed")
)

// Maps is where the objecter learns of the cluster; *monc.Client is one.
type Maps interface {
	OSDMap() *clustermap.OSDMap
	OnMaps(func(*clustermap.OSDMap, *clustermap.FSMap))
	WaitOSDEpoch(ctx context.Context, e wire.Epoch) (*clustermap.OSDMap, error)
}

// Config of an Objecter.
type Config struct {
	Net              msgr.Network
	Maps             Maps
	Self             msgr.Peer
	Log              zerolog.Logger
	MaxInFlightBytes int // back-pressure of Do; 0: 64 MiB
	// SpreadReads is from how many bytes on a read may be served by any member of the PG; 0: none.
	SpreadReads uint64
}

// Options of one operation.
type Options struct {
	Barrier wire.Epoch // the OSD must have a map at least this new
	FullTry bool       // may use the reserve of a full cluster
}

// Result is the OSD's answer. Errno is the operation's own failure. The data of reads is in
// Ops[i].Data and belongs to the receiver.
type Result struct {
	Errno   uint32
	Ops     []wire.ObjResult
	Version wire.Version
}

// Objecter is one instance's line to all OSDs.
type Objecter struct {
	cfg  Config
	room *semaphore.Weighted

	mu      sync.Mutex
	m       *clustermap.OSDMap
	tid     wire.Tid
	open    map[wire.Tid]*op
	head    *op // open ops in tid order; head.tid is the oldest unanswered
	tail    *op
	lines   map[wire.OSDID]*line
	retry   *time.Timer // ops that were told WRONG under a map no newer than ours
	hedge   *time.Timer
	blocked bool
	closed  bool

	changing map[wire.ObjectID]int // open mutations, where reads are spread
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	stats    Stats

	slowLimit time.Duration
	slow      func(SlowOp)
}

// Stats counts what an Objecter did.
type Stats struct {
	Ops, Sent, Resent, Wrong uint64
	Open                     int
	// Reads sent to members that are not the primary, refused by them, and not answered in time.
	MemberReads, MemberRefused, MemberSilent uint64
	Took                                     watch.Hist // from Submit to the answer
}

// op is an open operation.
type op struct {
	tid        wire.Tid
	obj        wire.ObjectID
	pg         wire.PGID
	ops        []wire.ObjOp
	opt        Options
	at         time.Time // of Submit
	done       func(Result, error)
	prev, next *op

	line     *line  // where it was or will be sent; nil: nobody can take it under the present map
	interval uint64 // of the PG when it was sent
	sent     bool   // on line
	resent   bool
	mutates  bool
	spread   bool // any member may serve it
	atMember bool // line is that of a member that is not the primary
	sentAt   time.Time
}

// New makes an Objecter. It follows cfg.Maps for ever after.
func New(cfg Config) *Objecter {
	if cfg.MaxInFlightBytes == 0 {
		cfg.MaxInFlightBytes = 64 << 20
	}
	o := &Objecter{cfg: cfg, room: semaphore.NewWeighted(int64(cfg.MaxInFlightBytes)), m: &clustermap.OSDMap{},
		open: map[wire.Tid]*op{}, lines: map[wire.OSDID]*line{}, changing: map[wire.ObjectID]int{}}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	cfg.Maps.OnMaps(func(m *clustermap.OSDMap, _ *clustermap.FSMap) { o.newMap(m) })
	return o
}

// Submit sends the vector and calls done exactly once with its answer, from a connection's
// goroutine: done must be short and must not block. Data of ops must not change until then.
func (o *Objecter) Submit(obj wire.ObjectID, ops []wire.ObjOp, opt Options, done func(Result, error)) {
	for i := range ops {
		ops[i].DataLen = uint32(len(ops[i].Data))
	}
	o.mu.Lock()
	if o.closed || o.blocked {
		err := ErrClosed
		if o.blocked {
			err = ErrBlocklisted
		}
		o.mu.Unlock()
		done(Result{}, err)
		return
	}
	o.tid++
	q := &op{tid: o.tid, obj: obj, ops: ops, opt: opt, done: done, at: time.Now()}
	o.stats.Ops++
	q.spread = o.spreads(ops)
	o.link(q)
	o.aim(q)
	l := q.line
	if l != nil && l.conn != nil {
		o.sendOp(q)
	}
	o.mu.Unlock()
	if l != nil {
		l.flush()
	}
}

// Do is Submit for callers that wait. It first waits for room: bytes in flight are bounded. An
// operation given up by ctx may still take effect.
func (o *Objecter) Do(ctx context.Context, obj wire.ObjectID, ops []wire.ObjOp, opt Options) (Result, error) {
	size := int64(512)
	for i := range ops {
		size += int64(len(ops[i].Data))
		if ops[i].Kind == wire.ObjRead {
			size += int64(min(ops[i].Len, wire.MaxOpData))
		}
	}
	size = min(size, int64(o.cfg.MaxInFlightBytes))
	if err := o.room.Acquire(ctx, size); err != nil {
		return Result{}, err
	}
	defer o.room.Release(size)
	type answer struct {
		r   Result
		err error
	}
	ch := make(chan answer, 1)
	o.Submit(obj, ops, opt, func(r Result, err error) { ch <- answer{r, err} })
	select {
	case a := <-ch:
		return a.r, a.err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// Stats returns the counters.
func (o *Objecter) Stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	s.Open = len(o.open)
	return s
}

// Close ends all open operations with ErrClosed and all connections.
func (o *Objecter) Close() {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.closed = true
	o.cancel()
	if o.retry != nil {
		o.retry.Stop()
	}
	if o.hedge != nil {
		o.hedge.Stop()
	}
	var conns []*msgr.Conn
	for _, l := range o.lines {
		if l.conn != nil {
			conns = append(conns, l.conn)
		}
	}
	o.lines = map[wire.OSDID]*line{}
	all := o.takeAll()
	o.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	for _, q := range all {
		q.done(Result{}, ErrClosed)
	}
	o.wg.Wait()
}

// Waiting names the PG of an open op on an object that about picks: the oldest that no OSD can
// take at present, else the oldest.
func (o *Objecter) Waiting(about func(wire.ObjectID) bool) (pg wire.PGID, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for q := o.head; q != nil; q = q.next {
		if !about(q.obj) || ok && q.line != nil {
			continue
		}
		if pg, ok = q.pg, true; q.line == nil {
			break
		}
	}
	return pg, ok
}

func (o *Objecter) link(q *op) {
	o.open[q.tid] = q
	q.prev = o.tail
	if o.tail != nil {
		o.tail.next = q
	} else {
		o.head = q
	}
	o.tail = q
	if o.cfg.SpreadReads == 0 {
		return
	}
	for i := range q.ops {
		q.mutates = q.mutates || q.ops[i].Kind.Mutates()
	}
	if q.mutates {
		o.changing[q.obj]++
	}
}

func (o *Objecter) unlink(q *op) {
	if q.mutates {
		if o.changing[q.obj]--; o.changing[q.obj] == 0 {
			delete(o.changing, q.obj)
		}
	}
	delete(o.open, q.tid)
	if q.prev != nil {
		q.prev.next = q.next
	} else {
		o.head = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	} else {
		o.tail = q.prev
	}
}

func (o *Objecter) takeAll() (all []*op) {
	for q := o.head; q != nil; q = q.next {
		all = append(all, q)
	}
	o.head, o.tail = nil, nil
	clear(o.open)
	clear(o.changing)
	return all
}

// aim finds the primary of the op's PG under the present map.
func (o *Objecter) aim(q *op) {
	q.line, q.sent, q.atMember = nil, false, false
	q.pg = o.m.PGOf(q.obj)
	cfg, ok := o.m.Config(q.pg)
	if !ok || cfg.Primary == wire.NoOSD {
		return
	}
	d, ok := o.m.OSD(cfg.Primary)
	if !ok || !d.Up {
		return
	}
	q.interval = cfg.Interval
	if q.line = o.memberFor(q, cfg); q.line != nil {
		q.atMember = true
		return
	}
	q.line = o.lineTo(d)
}

// sendOp queues q on its line, which is connected. Its epoch is the map's: what the OSD answers
// must hold at least under what this instance knows; a barrier beyond that as well.
func (o *Objecter) sendOp(q *op) {
	var flags wire.OSDOpFlags
	if q.opt.FullTry {
		flags |= wire.OSDFullTry
	}
	if q.atMember {
		flags |= wire.OSDAnyMember
		q.sentAt = time.Now()
		o.stats.MemberReads++
		o.armPatience()
	}
	o.stats.Sent++
	if q.resent {
		flags |= wire.OSDResent
		o.stats.Resent++
	}
	m := &wire.OSDOp{Epoch: max(o.m.Epoch, q.opt.Barrier), Oldest: o.head.tid, PG: q.pg, Object: q.obj.Name, Flags: flags, Ops: q.ops}
	var few [4][]byte
	data := few[:0]
	for i := range q.ops {
		if len(q.ops[i].Data) > 0 {
			data = append(data, q.ops[i].Data)
		}
	}
	q.sent, q.resent = true, true
	if err := q.line.conn.Send(uint64(q.tid), m, data...); err != nil {
		q.sent = false // the connection ends, or its queue is full: retry
		if l := q.line; errors.Is(err, msgr.ErrClosed) {
			// Its Closed may have come before dial had taken it, and comes no more: on another line.
			if o.lines[l.id] == l {
				delete(o.lines, l.id)
			}
			l.dead = true
		}
		o.armRetry()
	}
}

// newMap aims every open op again whose primary or interval changed, in tid order.
func (o *Objecter) newMap(m *clustermap.OSDMap) {
	o.mu.Lock()
	if o.closed || m == nil || m.Epoch <= o.m.Epoch {
		o.mu.Unlock()
		return
	}
	o.m = m
	if m.IsBlocklisted(o.cfg.Self.Instance) {
		o.fence()
		return
	}
	var drop []*msgr.Conn
	for id, l := range o.lines {
		if d, ok := m.OSD(id); !ok || !d.Up || d.Instance != l.inst {
			if l.conn != nil {
				drop = append(drop, l.conn)
			}
			l.dead = true
			delete(o.lines, id)
		}
	}
	o.resend(func(q *op) bool {
		cfg, _ := m.Config(q.pg)
		return q.line == nil || q.line.dead || !q.sent || cfg.Interval != q.interval || m.PGOf(q.obj) != q.pg
	})
	for _, c := range drop {
		c.Close()
	}
}

// resend aims and sends the open ops that which picks; called with mu held, returns without it.
func (o *Objecter) resend(which func(*op) bool) {
	var touched []*line
	for q := o.head; q != nil; q = q.next {
		if !which(q) {
			continue
		}
		o.aim(q)
		if q.line != nil && q.line.conn != nil {
			o.sendOp(q)
			if !slices.Contains(touched, q.line) {
				touched = append(touched, q.line)
			}
		}
	}
	o.mu.Unlock()
	for _, l := range touched {
		l.flush()
	}
}

// fence ends everything; called with mu held, returns without it.
func (o *Objecter) fence() {
	o.blocked = true
	all := o.takeAll()
	o.mu.Unlock()
	for _, q := range all {
		q.done(Result{}, ErrBlocklisted)
	}
}

// armRetry sends what is unsent once more in a moment.
func (o *Objecter) armRetry() {
	if o.retry != nil || o.closed {
		return
	}
	o.retry = time.AfterFunc(50*time.Millisecond, func() {
		o.mu.Lock()
		o.retry = nil
		if o.closed {
			o.mu.Unlock()
			return
		}
		o.resend(func(q *op) bool { return !q.sent })
	})
}

// answered is called for every frame of an OSD.
func (o *Objecter) answered(l *line, f *msgr.Frame) {
	r, ok := f.Msg.(*wire.OSDReply)
	if !ok {
		return
	}
	o.mu.Lock()
	q := o.open[wire.Tid(f.Tid)]
	if q == nil {
		o.mu.Unlock()
		return
	}
	switch r.Status {
	case wire.OSDBlocklisted:
		o.fence()
		return
	case wire.OSDWrong:
		if q.atMember && q.line == l {
			o.refused(q, l)
			return
		}
		o.stats.Wrong++
		if q.line == l {
			q.sent = false
		}
		if r.Epoch > o.m.Epoch {
			o.want(r.Epoch)
		} else {
			o.armRetry()
		}
		o.mu.Unlock()
		return
	}
	o.unlink(q)
	s, slow := o.ended(q, l)
	tell := o.slow
	o.mu.Unlock()
	if slow {
		tell(s)
	}
	res := Result{Errno: r.Errno, Ops: r.Ops, Version: r.Version}
	if len(f.Data) > 0 {
		if err := wire.CutResultData(res.Ops, f.Retain()); err != nil {
			q.done(Result{}, err)
			return
		}
	}
	q.done(res, nil)
}

// want fetches a newer map in the background; OnMaps brings it.
func (o *Objecter) want(e wire.Epoch) {
	o.wg.Add(1)
	go func() {
		defer o.wg.Done()
		o.cfg.Maps.WaitOSDEpoch(o.ctx, e)
	}()
}
