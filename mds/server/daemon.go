package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/boottime"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// Config of a metadata daemon.
type Config struct {
	Net      msgr.Network
	Name     string // "a"
	Listen   string
	MonAddrs []string
	Cluster  wire.UUID // zero: whatever the monitors say

	Validity     time.Duration // V; 0: 15 s
	Revoke       time.Duration // R; 0: 10 s
	MaxFileLocks int           // held and awaited by one client; 0: 100 000
	RstatLag     time.Duration // of recursive statistics; 0: 1 s
	Beacon       time.Duration // 0: 1 s; the rank lease G is three of them
	CacheBytes   int64         // what the rank may cache; 0: the rank's default
	MaxCaps      int           // caps of one client; 0: the rank's default
	ObjectSize   uint32        // of new files; 0: 4 MiB
	Wrong        wrong.Set
	Slow         time.Duration // operations that take longer are logged and kept; 0: none
	Log          zerolog.Logger
}

// baseMemory is what a daemon takes besides its cache: code, connections, journal buffers, maps.
const baseMemory = 32 << 20

// CacheShare is what a rank may cache in a process of so many bytes. A quarter of the rest is
// the collector's: it runs when the garbage of requests has filled that, so a smaller part
// would cost processor time, and the process keeps to its memory (lean.Memory).
func CacheShare(process uint64) int64 { return int64(max(process, 2*baseMemory)-baseMemory) / 4 * 3 }

// ErrReplaced ends a daemon whose rank was given to another one.
var ErrReplaced = errors.New("mds: replaced by another daemon")

// ErrRetired ends a daemon whose rank there should not be any more (`capstan fs set ranks`). It may
// come back as a standby.
var ErrRetired = errors.New("mds: its rank has stopped: fewer are wanted")

// Daemon is a running metadata daemon.
type Daemon struct {
	cfg    Config
	log    zerolog.Logger
	self   msgr.Peer
	mon    *monc.Client
	obj    *objecter.Objecter
	srv    *msgr.Server
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	failed chan error // one value at most: it ended by itself
	nudge  chan struct{}
	mapped chan struct{} // there are newer maps

	said    *wire.MDSBeacon // the last beacon, and when the core was asked for it: of beacons alone
	saidAt  time.Time
	lease   atomic.Int64 // answers may leave until then
	freeing atomic.Bool  // somebody is about to let go what waited for it

	mu       sync.Mutex
	rank     *mds.Rank // nil until a rank was assigned
	num      wire.Rank
	assigned wire.Epoch
	making   bool // a rank is being made
	conns    map[mds.SessionKey]*msgr.Conn
	early    []mds.Event // what came before the rank
	lines    map[wire.Rank]*peerLine
	heldFor  []mds.PeerSend // rule LS, toward ranks
	touched  []*msgr.Conn
	held     []mds.Send // rule LS: waits for the lease
	hangup   []mds.SessionKey
	quiet    int64 // before it no answer may leave, lease or not
	state    clustermap.RankState
	timer    *time.Timer
	timerAt  int64
	stopping bool
	stopped  chan struct{} // closed when the core is stopped
	ended    bool          // nothing leaves any more
	stats    Stats

	slow        watch.Ring
	journalTook watch.Hist
	traceRead   time.Time // when a trace was last read; zero: none is on
}

// Stats counts what a daemon did.
type Stats struct {
	Frames, Steps, JournalWrites, JournalBytes, Objects uint64
}

// Start makes a daemon and lets it go on by itself. It returns when the monitors were
// reached; the rank becomes active later.
func Start(ctx context.Context, cfg Config) (*Daemon, error) {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Validity, 15*time.Second)
	def(&cfg.Revoke, 10*time.Second)
	def(&cfg.Beacon, time.Second)
	d := &Daemon{cfg: cfg, log: cfg.Log, num: wire.NoRank, conns: map[mds.SessionKey]*msgr.Conn{}, lines: map[wire.Rank]*peerLine{}, state: clustermap.RankBoot,
		failed: make(chan error, 1), nudge: make(chan struct{}, 1), mapped: make(chan struct{}, 1), stopped: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	l, err := cfg.Net.Listen(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("mds.%s: listen on %s: %w", cfg.Name, cfg.Listen, err)
	}
	d.self = msgr.Peer{Instance: newInstance(cfg.Name), Addr: l.Addr().String(), Cluster: cfg.Cluster}
	d.mon, err = monc.Dial(ctx, monc.Config{Net: cfg.Net, Addrs: cfg.MonAddrs, Self: d.self, Log: cfg.Log})
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("mds.%s: monitors: %w", cfg.Name, err)
	}
	if d.self.Cluster.IsZero() {
		d.self.Cluster = d.mon.OSDMap().Cluster
	}
	d.obj = objecter.New(objecter.Config{Net: cfg.Net, Maps: d.mon, Self: d.self, Log: cfg.Log})
	d.srv = msgr.ServeWith(l, d.self, d.accept, msgr.Options{Log: cfg.Log})
	d.mon.OnMaps(d.onMaps)
	d.wg.Add(3)
	go d.follow()
	go d.beacons()
	go d.slowLoop()
	d.log.Info().Str("addr", d.self.Addr).Stringer("instance", d.self.Instance).Msg("mds started")
	return d, nil
}

func newInstance(name string) wire.Instance {
	h := fnv.New32a()
	h.Write([]byte(name))
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // the kernel has no randomness: nothing is safe
	}
	return wire.Instance{Kind: wire.KindMDS, Num: h.Sum32(), Nonce: binary.LittleEndian.Uint64(b[:])>>1 | 1}
}

// Addr is where it listens; Instance is this life of it.
func (d *Daemon) Addr() string            { return d.self.Addr }
func (d *Daemon) Instance() wire.Instance { return d.self.Instance }

// Failed yields an error when the daemon ended by itself: it was replaced, fenced, or found
// its rank damaged.
func (d *Daemon) Failed() <-chan error { return d.failed }

// NameTaken reports, of a daemon that was replaced, whether another daemon of its own name has
// its rank. Such a daemon must not come back: the newest life of a name is the one that counts,
// so the two would take the rank from each other for ever.
func (d *Daemon) NameTaken(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m := d.mon.OSDMap()
	for !m.IsBlocklisted(d.self.Instance) { // we heard it from an ack: the maps come behind it
		var err error
		if m, err = d.mon.WaitOSDEpoch(ctx, m.Epoch+1); err != nil {
			return false
		}
	}
	d.mu.Lock()
	rank := d.num
	d.mu.Unlock()
	in, ok := d.mon.FSMap().Ranks[rank]
	return ok && in.Daemon.Name == d.cfg.Name && in.Daemon.Instance != d.self.Instance
}

// State is where its rank is in its life.
func (d *Daemon) State() clustermap.RankState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Close stops cleanly: flush, say so to the monitors, so that the next start waits for no
// lease. It gives up after a while: nothing depends on a clean end.
func (d *Daemon) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return d.Stop(ctx)
}

// Stop is Close within ctx.
func (d *Daemon) Stop(ctx context.Context) error {
	d.mu.Lock()
	clean := !d.ended
	d.stopping = true
	if clean && d.rank != nil {
		d.step(mds.Event{Kind: mds.Stop})
	}
	touched := d.takeTouched()
	has := d.rank != nil
	d.mu.Unlock()
	flush(touched, nil)
	var err error
	if clean {
		if has {
			select {
			case <-d.stopped:
			case <-ctx.Done():
				err = fmt.Errorf("mds.%s: not flushed in time; the next start replays the journal", d.cfg.Name)
			case <-d.ctx.Done():
			}
		}
		d.silence()
		if err == nil {
			d.sayStopped(ctx)
		}
	}
	d.shut()
	return err
}

// Kill ends it at once, as a crash would.
func (d *Daemon) Kill() {
	d.silence()
	d.shut()
}

// silence: from here on nothing leaves and no event is taken.
func (d *Daemon) silence() {
	d.mu.Lock()
	d.ended = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.mu.Unlock()
}

func (d *Daemon) shut() {
	d.cancel()
	d.srv.Close()
	d.obj.Close()
	d.wg.Wait()
	d.mon.Close()
}

// fail ends the daemon by itself; it writes nothing any more.
func (d *Daemon) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failLocked(err)
}

func (d *Daemon) failLocked(err error) {
	if d.ended {
		return
	}
	d.ended = true
	d.log.Error().Err(err).Msg("mds ends")
	select {
	case d.failed <- err:
	default:
	}
	d.cancel()
	go d.srv.Close()
}

// damagedLocked ends the daemon because its rank met an object that it cannot read. The
// monitors hear of it first: started again, it would only meet that object again.
func (d *Daemon) damagedLocked(err error) {
	if d.ended {
		return
	}
	d.ended = true // nothing leaves any more
	d.log.Error().Err(err).Msg("rank damaged")
	go func() {
		ctx, cancel := context.WithTimeout(d.ctx, 2*time.Second)
		defer cancel()
		m := &wire.MDSBeacon{Seq: 1 << 62, Name: d.cfg.Name, Instance: d.self.Instance, Addr: d.self.Addr, Rank: d.num, State: uint8(clustermap.RankDamaged)}
		if _, berr := d.mon.Call(ctx, m); berr != nil {
			d.log.Warn().Err(berr).Msg("the monitors did not hear of the damage")
		}
		d.mu.Lock()
		d.ended = false
		d.failLocked(fmt.Errorf("rank %d is damaged: %w", d.num, err))
		d.mu.Unlock()
	}()
}

// now is a clock that runs on while the machine sleeps, as leases demand.
func now() int64 { return boottime.Now() }
