package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Config of a monitor.
type Config struct {
	Net      msgr.Network
	Dir      string       // its own; must exist or be makeable
	Name     string       // "a"
	Addr     string       // where it listens for daemons and clients
	Listener net.Listener // instead of Addr
	RaftAddr string       // where it listens for other monitors; unused in a quorum of one
	Cluster  wire.UUID
	Instance wire.Instance        // zero: made of Cluster and Name
	Mons     []clustermap.MonInfo // the whole quorum, this one included; nil: a quorum of one

	// How a new cluster begins; ignored later. Zeros: 3, what is left of a majority, 8, 16.
	Size, MinSize    int
	MetaPGs, DataPGs uint32

	Settings    mon.Settings  // zero: mon.Defaults
	RaftTimeout time.Duration // heartbeat of a larger quorum; zero: 1 s
	Log         zerolog.Logger
}

func (c *Config) complete() error {
	if c.Name == "" || c.Cluster.IsZero() {
		return errors.New("a monitor needs a name and the cluster's uuid")
	}
	if c.Size == 0 {
		c.Size = 3
	}
	if c.MinSize == 0 {
		c.MinSize = c.Size/2 + c.Size%2
	}
	if c.MetaPGs == 0 {
		c.MetaPGs = 8
	}
	if c.DataPGs == 0 {
		c.DataPGs = 16
	}
	if c.Settings == (mon.Settings{}) {
		c.Settings = mon.Defaults()
	}
	if c.RaftTimeout == 0 {
		c.RaftTimeout = time.Second
	}
	if c.Instance.IsZero() {
		c.Instance = wire.Instance{Kind: wire.KindMon, Nonce: uint64(time.Now().UnixNano())}
	}
	return nil
}

func (c *Config) self() clustermap.MonInfo {
	i := slices.IndexFunc(c.Mons, func(in clustermap.MonInfo) bool { return in.Name == c.Name })
	return c.Mons[i]
}

// Daemon is a running monitor.
type Daemon struct {
	cfg     Config
	addr    string
	start   time.Time
	log     zerolog.Logger
	fsm     *fsm
	has     bool   // the store held something when we started
	member  string // identity in the quorum; set before raft is
	parts   raftParts
	raft    atomic.Pointer[raft.Raft] // nil until begun
	made    atomic.Bool               // another monitor knows of the cluster
	joining atomic.Bool               // it does not vote yet

	begun     sync.WaitGroup // a begin that runs beside Start
	admitting sync.Mutex     // one joiner at a time; before mu
	self      msgr.Peer
	srv       *msgr.Server
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	failed    chan error

	push   chan struct{} // the state changed
	verify chan struct{} // job is to be done
	lead   chan struct{} // closed and replaced when leadership comes or goes

	mu     sync.Mutex
	leader *mon.Leader // nil: not leading
	term   uint64      // of leader, counts its replacements
	conns  map[mon.ConnID]*conn
	lastID mon.ConnID
	queue  []proposal
	job    verifyJob
	queued chan struct{}
	flush  map[*conn]struct{} // written to during this step
}

// Start starts a monitor and returns when it listens; ctx bounds only that. Whether it leads
// is another matter: see WaitLeader.
func Start(ctx context.Context, cfg Config) (*Daemon, error) {
	wrap := func(err error) error { return fmt.Errorf("mon.%s: %w", cfg.Name, err) }
	if err := cfg.complete(); err != nil {
		return nil, wrap(err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, wrap(err)
	}
	l := cfg.Listener
	if l == nil {
		var err error
		if l, err = cfg.Net.Listen(cfg.Addr); err != nil {
			return nil, wrap(fmt.Errorf("listen on %s: %w", cfg.Addr, err))
		}
	}
	if cfg.Mons == nil {
		cfg.Mons = []clustermap.MonInfo{{Name: cfg.Name, Addr: l.Addr().String(), RaftAddr: cfg.RaftAddr}}
	} else if !slices.ContainsFunc(cfg.Mons, func(in clustermap.MonInfo) bool { return in.Name == cfg.Name }) {
		l.Close()
		return nil, wrap(errors.New("it is not in the list of monitors"))
	}
	d := &Daemon{cfg: cfg, addr: l.Addr().String(), start: time.Now(), log: cfg.Log, fsm: newFSM(), failed: make(chan error, 1),
		push: make(chan struct{}, 1), verify: make(chan struct{}, 1), lead: make(chan struct{}), conns: map[mon.ConnID]*conn{}, queued: make(chan struct{}, 1), flush: map[*conn]struct{}{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.fsm.changed = func() { poke(d.push) }
	d.fsm.fatal = d.fatal
	fail := func(err error) (*Daemon, error) {
		l.Close()
		d.cancel()
		d.parts.close()
		return nil, wrap(err)
	}
	var err error
	if d.parts, d.has, err = openStore(&cfg); err != nil {
		return fail(err)
	}
	if err := d.readMember(); err != nil {
		return fail(err)
	}
	d.self = msgr.Peer{Instance: cfg.Instance, Addr: d.addr, Cluster: cfg.Cluster}
	d.srv = msgr.Serve(l, d.self, d.accept, cfg.Log)
	if !d.has && len(cfg.Mons) > 1 { // has to ask the others first, who may start after us
		d.begun.Go(func() {
			if err := d.begin(); err != nil && d.ctx.Err() == nil {
				d.fatal(err)
			}
		})
		return d, nil
	}
	if err := d.begin(); err != nil {
		d.srv.Close()
		return fail(err)
	}
	if s := d.fsm.now(); s.OSD.Epoch != 0 && s.OSD.Cluster != cfg.Cluster {
		d.Close()
		return nil, wrap(fmt.Errorf("%s belongs to cluster %v, not to %v", cfg.Dir, s.OSD.Cluster, cfg.Cluster))
	}
	return d, nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Addr is where daemons and clients find it.
func (d *Daemon) Addr() string { return d.addr }

// Failed gives an error when the monitor cannot go on.
func (d *Daemon) Failed() <-chan error { return d.failed }

func (d *Daemon) fatal(err error) {
	d.log.Error().Err(err).Msg("monitor cannot go on")
	select {
	case d.failed <- fmt.Errorf("mon.%s: %w", d.cfg.Name, err):
	default:
	}
}

// Leading reports whether it is the leader and serves.
func (d *Daemon) Leading() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leader != nil
}

// WaitLeader waits until it leads and serves.
func (d *Daemon) WaitLeader(ctx context.Context) error {
	for {
		d.mu.Lock()
		leading, c := d.leader != nil, d.lead
		d.mu.Unlock()
		if leading {
			return nil
		}
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("mon.%s: does not lead: %w", d.cfg.Name, ctx.Err())
		}
	}
}

// State is the newest that this monitor has applied.
func (d *Daemon) State() mon.State { return d.fsm.now() }

// Close stops the monitor; what was committed is on disk.
func (d *Daemon) Close() error {
	d.cancel()
	d.srv.Close()
	d.begun.Wait() // it may be about to start raft
	err := d.parts.close()
	d.wg.Wait()
	if err != nil {
		return fmt.Errorf("mon.%s: %w", d.cfg.Name, err)
	}
	return nil
}

// watchLeadership starts and ends the leader's part.
func (d *Daemon) watchLeadership() {
	for {
		select {
		case <-d.ctx.Done():
			return
		case leads := <-d.raft.Load().LeaderCh():
			if !leads {
				d.resign()
			} else if err := d.takeOffice(); err != nil && d.ctx.Err() == nil {
				d.log.Warn().Err(err).Msg("elected, but could not take office")
			}
		}
	}
}

// takeOffice applies all that earlier leaders committed, makes the cluster if there is none,
// and begins to serve.
func (d *Daemon) takeOffice() error {
	if d.Leading() {
		d.resign() // the loss in between was not heard of
	}
	r := d.raft.Load()
	if err := r.Barrier(0).Error(); err != nil {
		return err
	}
	fresh := false
	s := d.fsm.now()
	if s.OSD.Epoch == 0 {
		b := &mon.Bootstrap{Cluster: d.cfg.Cluster, Size: d.cfg.Size, MinSize: d.cfg.MinSize, MetaPGs: d.cfg.MetaPGs, DataPGs: d.cfg.DataPGs, Mons: d.cfg.Mons}
		if err := d.commit(b); err != nil {
			return err
		}
		fresh = true
	}
	if s := d.fsm.now(); s.OSD.Cluster != d.cfg.Cluster {
		err := fmt.Errorf("%s belongs to cluster %v, not to %v", d.cfg.Dir, s.OSD.Cluster, d.cfg.Cluster)
		d.fatal(err)
		return err
	}
	me := d.cfg.self()
	me.Addr = d.addr // it may listen on another port than last time
	if err := d.commit(&mon.MonSet{Info: me}); err != nil {
		return err
	}
	d.mu.Lock()
	d.term++
	d.leader = mon.NewLeader(d.cfg.Settings, d.now(), d.fsm.now(), fresh)
	close(d.lead)
	d.lead = make(chan struct{})
	d.mu.Unlock()
	d.log.Info().Uint64("osd_epoch", uint64(d.fsm.now().OSD.Epoch)).Msg("leading")
	poke(d.push)
	return nil
}

// commit proposes a change and waits for it.
func (d *Daemon) commit(c mon.Change) error {
	f := d.raft.Load().Apply(mon.EncodeChange(c), 0)
	if err := f.Error(); err != nil {
		return err
	}
	return f.Response().(applied).err
}

// resign forgets the leader's memory and sends everybody away.
func (d *Daemon) resign() {
	d.mu.Lock()
	was := d.leader != nil
	d.leader, d.queue = nil, nil
	d.term++
	clear(d.flush)
	conns := d.conns
	d.conns = map[mon.ConnID]*conn{}
	addr := d.leaderAddr()
	d.mu.Unlock()
	for _, c := range conns {
		_ = c.c.SendNow(0, &wire.MonNotLeader{Leader: addr})
	}
	if was {
		d.log.Info().Str("leader", addr).Msg("not leading any more")
	}
}

// leaderAddr is where the leader serves, as far as is known here.
func (d *Daemon) leaderAddr() string {
	name := d.Leader()
	if name == d.cfg.Name {
		return ""
	}
	if in, ok := d.fsm.now().Mon.ByName(name); ok {
		return in.Addr
	}
	for _, in := range d.cfg.Mons {
		if in.Name == name {
			return in.Addr
		}
	}
	return ""
}

func (d *Daemon) now() int64 { return int64(time.Since(d.start)) }
