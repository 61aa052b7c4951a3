package server

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/boottime"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store"
	"github.com/capstan-fs/capstan/wire"
)

// Config of a daemon.
type Config struct {
	Net      msgr.Network
	Dir      string // of the store; made when missing or empty, with a new uuid (rule R1)
	ID       wire.OSDID
	Listen   string // address to listen on
	Announce string // address that others dial; empty: the listener's
	MonAddrs []string
	Cluster  wire.UUID
	Host     string        // failure domain; empty: its own
	Rack     string        // empty: none
	Class    string        // of device: "ssd", "hdd", or empty
	Store    store.Options // Create, Cluster and Owner are filled in
	Opened   osd.Store     // instead of Dir: for tests
	Core     osd.Config    // timings; ID, Instance and Stored are filled in
	Slow     time.Duration // operations that take longer are logged and kept; 0: none
	Log      zerolog.Logger
}

const (
	tickEvery  = 100 * time.Millisecond
	statsEvery = time.Second
)

// lineOptions let a whole object of the largest size, or one with a very large omap, pass
// between OSDs in one frame.
func lineOptions(log zerolog.Logger) msgr.Options {
	return msgr.Options{Limits: msgr.Limits{Front: 96 << 20, Data: 96 << 20}, Log: log}
}

// Daemon is a running OSD.
type Daemon struct {
	cfg   Config
	self  msgr.Peer
	store osd.Store
	mon   *monc.Client
	srv   *msgr.Server
	log   zerolog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex // the core's lock
	core     *osd.OSD
	m        *clustermap.OSDMap
	nextConn osd.ConnID
	conns    map[osd.ConnID]*msgr.Conn
	peers    map[wire.OSDID]*peerLine
	touched  []*msgr.Conn // to be flushed when mu is free
	wanted   wire.Epoch
	casBusy  map[wire.PGID]bool
	closed   bool
	failed   error
	ended    chan error // one value at most: failed

	slow watch.Ring

	doneMu sync.Mutex // transactions that became durable
	done   []stored
	kick   chan struct{}
	reboot chan struct{}

	fetcher fetcher
}

type stored struct {
	pg  wire.PGID
	seq uint64
	err error
}

// now is the OSD's clock: it runs on while the machine sleeps (leases), and no one sets it.
func now() int64 { return boottime.Now() }

// Start opens the store, joins the cluster and serves until Close. It returns when the
// monitors have admitted this life.
func Start(ctx context.Context, cfg Config) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, store: cfg.Opened, log: cfg.Log, conns: map[osd.ConnID]*msgr.Conn{}, peers: map[wire.OSDID]*peerLine{},
		casBusy: map[wire.PGID]bool{}, kick: make(chan struct{}, 1), reboot: make(chan struct{}, 1), m: &clustermap.OSDMap{}, ended: make(chan error, 1)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.fetcher.kick = make(chan struct{}, 1)
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.store == nil {
		o := cfg.Store
		o.Create, o.Cluster, o.Owner = true, cfg.Cluster, fmt.Sprintf("osd.%d", cfg.ID)
		s, err := store.Open(cfg.Dir, o)
		if err != nil {
			return nil, fmt.Errorf("osd.%d: %w", cfg.ID, err)
		}
		d.store = s
	}
	var nonce [8]byte
	if _, err := crand.Read(nonce[:]); err != nil {
		return nil, err
	}
	inst := wire.Instance{Kind: wire.KindOSD, Num: uint32(cfg.ID), Nonce: binary.LittleEndian.Uint64(nonce[:])}
	var l net.Listener
	if l, err = cfg.Net.Listen(cfg.Listen); err != nil {
		return nil, fmt.Errorf("osd.%d: listen on %s: %w", cfg.ID, cfg.Listen, err)
	}
	addr := cfg.Announce
	if addr == "" {
		addr = l.Addr().String()
	}
	d.self = msgr.Peer{Instance: inst, Addr: addr, Cluster: cfg.Cluster}
	core := cfg.Core
	core.ID, core.Instance, core.Stored, core.SlowNs, core.Buffer = cfg.ID, inst, d.stored, int64(cfg.Slow), msgr.Buffer
	d.core = osd.New(core, d.store, now())
	d.srv = msgr.ServeWith(l, d.self, d.accept, lineOptions(cfg.Log))
	if d.mon, err = monc.Dial(ctx, monc.Config{Net: cfg.Net, Addrs: cfg.MonAddrs, Self: d.self, Log: cfg.Log}); err != nil {
		return nil, fmt.Errorf("osd.%d: %w", cfg.ID, err)
	}
	d.wg.Add(4)
	go d.commits()
	go d.arrivals()
	go d.ticks()
	go d.boots()
	if err = d.boot(ctx); err != nil {
		return nil, err
	}
	d.mon.OnMaps(func(m *clustermap.OSDMap, _ *clustermap.FSMap) { d.newMap(m) })
	return d, nil
}

// UUID is the store's.
func (d *Daemon) UUID() wire.UUID { return d.store.UUID() }

// Instance is this life.
func (d *Daemon) Instance() wire.Instance { return d.self.Instance }

// Addr is where others reach it.
func (d *Daemon) Addr() string { return d.self.Addr }

// Query shows the state of all PGs here, for `pg query`.
func (d *Daemon) Query() []osd.PGState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.core.Query(now())
}

// Stats returns the core's counters.
func (d *Daemon) Stats() osd.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.core.Stats()
}

// Space is the store's size and what is taken of it.
func (d *Daemon) Space() (total, used uint64) { return d.store.Space() }

// Failed yields that error when the daemon stops by itself.
func (d *Daemon) Failed() <-chan error { return d.ended }

// Err is why the daemon stopped by itself: the store failed.
func (d *Daemon) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Close stops: the monitors are told, so that nobody waits for a heartbeat.
func (d *Daemon) Close() error {
	d.stopWaiting()
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	if d.mon != nil && d.core != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, _ = d.mon.Call(ctx, &wire.OSDStopping{ID: d.cfg.ID, Instance: d.self.Instance})
		cancel()
	}
	return d.stop()
}

// Kill stops without a word, as a crash of the process would, for tests. What the store was
// told stays told.
func (d *Daemon) Kill() error {
	d.stopWaiting()
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	return d.stop()
}

// stopWaiting: who holds the core's lock may be waiting for room on a full host.
func (d *Daemon) stopWaiting() {
	if s, ok := d.store.(*store.Store); ok {
		s.StopWaiting()
	}
}

func (d *Daemon) stop() error {
	d.cancel()
	if d.srv != nil {
		d.srv.Close()
	}
	if d.mon != nil {
		d.mon.Close()
	}
	d.mu.Lock()
	var conns []*msgr.Conn
	for _, p := range d.peers {
		if p.conn != nil {
			conns = append(conns, p.conn)
		}
	}
	d.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	d.wg.Wait()
	if d.store != nil {
		if err := d.store.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			return fmt.Errorf("osd.%d: %w", d.cfg.ID, err)
		}
	}
	return nil
}

// enter runs f on the core and carries out what follows.
func (d *Daemon) enter(f func(at int64)) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	f(now())
	e := d.core.Flush()
	dead, _ := d.store.(*store.Store)
	if dead != nil && dead.Failed() {
		// What the core says may be made of what could not be read, of an object whose record has rotted
		// that there is none. Nobody is to hear it.
		d.fetch(e.Fetches) // they are to be dropped
		d.core.Done()
		d.touched = nil
		d.mu.Unlock()
		d.fail(dead.Err())
		return
	}
	d.carryOut(e)
	d.core.Done()
	touched := d.touched
	d.touched = nil
	d.mu.Unlock()
	for _, c := range touched {
		c.Flush()
	}
}

// carryOut queues the messages and hands the rest to goroutines; called with mu held.
func (d *Daemon) carryOut(e *osd.Effects) {
	for i := range e.Replies {
		r := &e.Replies[i]
		if c := d.conns[r.Conn]; c != nil {
			var err error
			switch {
			case r.Summed:
				err = c.SendSummed(uint64(r.Tid), r.Msg, r.CRC, r.Data[0])
			case r.Own:
				err = c.SendOwned(uint64(r.Tid), r.Msg, r.Data...)
			default:
				err = c.Send(uint64(r.Tid), r.Msg, r.Data...)
			}
			if err != nil {
				c.Close() // its client is gone or does not read: it will ask again
				continue
			}
			d.touch(c)
		}
	}
	for i := range e.Sends {
		d.sendPeer(&e.Sends[i])
	}
	d.fetch(e.Fetches)
	if d.cfg.Opened == nil { // a store of tests may keep what it was given
		for _, b := range e.Free {
			msgr.Recycle(b)
		}
	}
	for i := range e.Proposals {
		d.propose(e.Proposals[i])
	}
	for _, id := range e.Failures {
		d.reportFailure(id)
	}
	for i := range e.Slow {
		d.late(&e.Slow[i])
	}
	d.want(e.WantEpoch)
}

func (d *Daemon) touch(c *msgr.Conn) {
	if n := len(d.touched); n > 0 && d.touched[n-1] == c {
		return
	}
	for _, x := range d.touched {
		if x == c {
			return
		}
	}
	d.touched = append(d.touched, c)
}

// stored is called by the store; it must not take the core's lock.
func (d *Daemon) stored(pg wire.PGID, seq uint64, err error) {
	d.doneMu.Lock()
	d.done = append(d.done, stored{pg, seq, err})
	first := len(d.done) == 1
	d.doneMu.Unlock()
	if first {
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
}

// commits tells the core what has become durable, all that has gathered at once.
func (d *Daemon) commits() {
	defer d.wg.Done()
	var spare []stored
	for {
		select {
		case <-d.kick:
		case <-d.ctx.Done():
			return
		}
		d.doneMu.Lock()
		list := d.done
		d.done = spare[:0]
		d.doneMu.Unlock()
		var failed error
		d.enter(func(at int64) {
			for i := range list {
				if list[i].err != nil {
					failed = list[i].err
					return
				}
				d.core.Step(&osd.Event{Kind: osd.EvStored, Now: at, PG: list[i].pg, Seq: list[i].seq})
			}
		})
		if failed != nil {
			d.fail(failed)
			return
		}
		spare = list
	}
}

// fail ends the daemon's service: a store that has failed once can promise nothing more.
func (d *Daemon) fail(err error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	again := d.failed != nil
	d.failed = fmt.Errorf("osd.%d: store: %w", d.cfg.ID, err)
	d.mu.Unlock()
	if again {
		return
	}
	d.ended <- d.failed
	d.log.Error().Err(err).Int32("osd", int32(d.cfg.ID)).Str("dir", d.cfg.Dir).Msg("the store failed: this OSD stops; its PGs go on elsewhere")
	go d.Close()
}

func (d *Daemon) ticks() {
	defer d.wg.Done()
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	last := time.Now()
	var host hostWatch
	for {
		select {
		case <-t.C:
			d.enter(func(at int64) { d.core.Step(&osd.Event{Kind: osd.EvTick, Now: at}) })
			if time.Since(last) >= statsEvery {
				last = time.Now()
				d.sendStats()
				host.look(d)
			}
		case <-d.ctx.Done():
			return
		}
	}
}

// accept serves a connection of a client, a rank or another OSD.
func (d *Daemon) accept(c *msgr.Conn) msgr.Handler {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextConn++
	h := &handler{d: d, id: d.nextConn, osd: c.Peer().Instance.Kind == wire.KindOSD}
	if !h.osd {
		d.conns[h.id] = c
	}
	return h
}

type handler struct {
	d   *Daemon
	id  osd.ConnID
	osd bool
}

// Frames implements msgr.Handler. The time is taken after the frames have arrived: a lease
// that holds now holds at an instant at which their senders were already waiting.
func (h *handler) Frames(c *msgr.Conn, batch []msgr.Frame) {
	h.d.enter(func(at int64) {
		ev := osd.Event{Now: at, Conn: h.id, From: c.Peer().Instance}
		for i := range batch {
			f := &batch[i]
			ev.Kind, ev.Tid, ev.Msg = osd.EvPeer, wire.Tid(f.Tid), f.Msg
			if !h.osd {
				if m, ok := f.Msg.(*wire.PGScrub); ok {
					_ = c.Send(f.Tid, h.d.scrub(m))
					h.d.touch(c)
					continue
				}
				if m, ok := f.Msg.(*wire.PGLook); ok {
					_ = c.Send(f.Tid, h.d.core.Look(m.PG))
					h.d.touch(c)
					continue
				}
				if m, ok := f.Msg.(*wire.PGList); ok {
					_ = c.Send(f.Tid, h.d.list(m))
					h.d.touch(c)
					continue
				}
				if _, ok := f.Msg.(*wire.OSDOp); !ok {
					continue
				}
				ev.Kind = osd.EvOp
			} else if _, ok := f.Msg.(*wire.OSDOp); ok {
				continue
			}
			_, repl := f.Msg.(*wire.Repl)
			if ev.Lent = repl && len(f.Data) < osd.LendBelow && h.d.cfg.Opened == nil; ev.Lent {
				ev.Data = f.Data // most of what a member gets; it is in the store when Step returns
			} else {
				ev.Data = f.Retain()
			}
			h.d.core.Step(&ev)
		}
	})
}

// scrub begins one for a tool, or tells how it goes; called with mu held.
func (d *Daemon) scrub(m *wire.PGScrub) *wire.PGScrubReply {
	if !m.Look {
		if err := d.core.Scrub(m.PG, m.Deep, m.Repair); err != nil {
			return &wire.PGScrubReply{Errno: uint32(syscall.EAGAIN), Text: err.Error()}
		}
		d.log.Info().Stringer("pg", m.PG).Bool("deep", m.Deep).Bool("repair", m.Repair).Msg("scrub")
	}
	s := d.core.Scrubbed(m.PG)
	return &wire.PGScrubReply{Deep: s.Deep, Running: s.Running, Objects: s.Objects, Bytes: s.Bytes, Skipped: s.Skipped, Bad: s.Bad, Differ: s.Differ, Mended: s.Mended, Unsure: s.Unsure}
}

// list names objects for a tool; called with mu held.
func (d *Daemon) list(m *wire.PGList) *wire.PGListed {
	objs, more, n, err := d.core.List(m.PG, m.After, int(m.Max))
	if err != nil {
		return &wire.PGListed{Errno: uint32(syscall.EAGAIN)}
	}
	return &wire.PGListed{More: more, Objects: objs, PGNum: n}
}

// Closed implements msgr.Handler: ops not yet logged die with their connection.
func (h *handler) Closed(*msgr.Conn, error) {
	if h.osd {
		return
	}
	h.d.enter(func(at int64) {
		delete(h.d.conns, h.id)
		h.d.core.Step(&osd.Event{Kind: osd.EvConnClosed, Now: at, Conn: h.id})
	})
}
