package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/internal/metrics"
	mdsserver "github.com/capstan-fs/capstan/mds/server"
	"github.com/capstan-fs/capstan/mon"
	monserver "github.com/capstan-fs/capstan/mon/server"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/osd"
	osdserver "github.com/capstan-fs/capstan/osd/server"
	"github.com/capstan-fs/capstan/osd/server/store"
	"github.com/capstan-fs/capstan/wire"
)

// Env is what the daemons and mounts of one process share.
type Env struct {
	Net  msgr.Network
	Conf *conf.Config
	Log  zerolog.Logger

	Metrics *metrics.Server // nil: off
}

// Daemon is a running one.
type Daemon struct {
	Name, Role string
	Addr       string
	Failed     <-chan error // it ended by itself; nil: it never does
	// Returns says whether it should begin a new life after it ended by itself with err, before
	// Close; nil: never.
	Returns func(ctx context.Context, err error) bool
	close   func() error
	dir     *DataDir
	admin   *admin.Registry
	socket  *admin.Server
	source  metrics.Source
	env     *Env
}

// Close stops the daemon cleanly and gives its directory up.
func (d *Daemon) Close() error {
	d.env.Metrics.Remove(d.Name)
	d.socket.Close()
	err := d.close()
	d.dir.Close()
	if err != nil {
		return fmt.Errorf("stop %s: %w", d.Name, err)
	}
	return nil
}

// instance draws a new life of a process.
func instance(kind wire.Kind, num uint32) wire.Instance {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // documented never to fail
	}
	return wire.Instance{Kind: kind, Num: num, Nonce: binary.LittleEndian.Uint64(b[:])}
}

// NewClusterID draws the uuid of a cluster.
func NewClusterID() (u wire.UUID) {
	if _, err := rand.Read(u[:]); err != nil {
		panic(err)
	}
	return u
}

// explain says what to do about an error of a daemon's start.
func explain(name, addr, setting string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: the address %s is in use by another process: stop that one (`ss -ltnp` shows it), or choose another %s", name, addr, setting)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %s is no address of this machine: correct %s", name, addr, setting)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: this user may not listen on %s: choose a port above 1023 in %s", name, addr, setting)
	case errors.Is(err, msgr.ErrOtherCluster):
		return fmt.Errorf("%w: correct mon_addrs or cluster in the configuration", err)
	}
	return err
}

// start is what the three kinds of daemon have in common: the directory and its cleanup.
func (e *Env) start(ctx context.Context, dir, role, name string, run func(d *Daemon) error) (*Daemon, error) {
	data, err := Claim(dir, e.Conf.Cluster, role, name)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Name: name, Role: role, dir: data, admin: admin.NewRegistry(), env: e}
	err = guarded(dir, e.Log, func() error { return run(d) })
	if err == nil {
		d.admin.Register("status", func(json.RawMessage) (any, error) {
			return map[string]any{"name": name, "role": role, "addr": d.Addr, "pid": os.Getpid(), "cluster": data.Meta.Cluster, "wrong": e.wrong().Names(),
				"metrics": e.Metrics.Addr()}, nil
		})
		e.Metrics.Add(name, d.source)
		path := e.Conf.AdminSocket
		if path == "" {
			path = data.File(admin.SocketName)
		}
		d.socket, err = admin.Serve(path, d.admin)
	}
	if err != nil {
		if d.socket == nil && d.close != nil {
			_ = d.close() // it ran, but came to nothing
		}
		data.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return d, nil
}

// quorum lists the monitors, and where `name` listens; nil for a quorum of one.
func (e *Env) quorum(name string) (mons []clustermap.MonInfo, at string, err error) {
	c := e.Conf
	if len(c.MonAddrs) < 2 {
		return nil, c.MonListen, nil
	}
	for i, addr := range c.MonAddrs {
		mons = append(mons, clustermap.MonInfo{Name: conf.MonName(i), Addr: addr, RaftAddr: c.MonRaftAddrs[i]})
		if conf.MonName(i) == name {
			at = addr
		}
	}
	if at == "" {
		return nil, "", fmt.Errorf("mon_addrs has %d monitors, named a to %s: there is no mon.%s", len(mons), mons[len(mons)-1].Name, name)
	}
	return mons, at, nil
}

// StartMon starts monitor `name` on its directory, listening where the configuration says
// unless listen is given; an empty directory makes the cluster, or joins it.
func (e *Env) StartMon(ctx context.Context, name, dir, listen string) (*Daemon, error) {
	return e.start(ctx, dir, "mon", "mon."+name, func(d *Daemon) error {
		mons, at, err := e.quorum(name)
		if err != nil {
			return err
		}
		if listen == "" {
			listen = at
		}
		if err := checkMonStore(d.dir, len(mons) > 1); err != nil {
			return err
		}
		settings := mon.Defaults()
		// Peers' reports count as soon as the setting says; for silence alone an OSD, which speaks
		// once a second, may miss two words.
		settings.OSDSilence = int64(max(e.Conf.DownGrace, 3*time.Second))
		settings.MDSLease = int64(e.Conf.RankLease())
		settings.DropGrace, settings.OutAfter, settings.BalanceWait = int64(e.Conf.DropGrace), int64(e.Conf.OutAfter), int64(e.Conf.BalanceEvery)
		run, err := monserver.Start(ctx, monserver.Config{
			Net: e.Net, Dir: d.dir.File("store"), Name: name, Addr: listen, Cluster: e.Conf.Cluster, Mons: mons, RaftTimeout: e.Conf.MonElection,
			Instance: instance(wire.KindMon, 0), Size: e.Conf.PoolSize, MinSize: e.Conf.MinSize(),
			MetaPGs: uint32(e.Conf.PGNumMeta), DataPGs: uint32(e.Conf.PGNumData),
			Settings: settings, Log: e.Log.With().Str("daemon", "mon."+name).Logger(),
		})
		if err != nil {
			return explain("mon."+name, listen, "mon_listen", err)
		}
		d.Addr, d.close, d.Failed = run.Addr(), run.Close, run.Failed()
		d.admin.Register("maps", func(json.RawMessage) (any, error) {
			s := run.State()
			return map[string]any{"leading": run.Leading(), "osd": s.OSD.Epoch, "fs": s.FS.Epoch}, nil
		})
		d.admin.Register("quorum", func(json.RawMessage) (any, error) {
			return map[string]any{"member": run.Member(), "leader": run.Leader(), "members": run.Quorum()}, nil
		})
		d.admin.Register("raft", func(json.RawMessage) (any, error) { return run.RaftState(), nil })
		d.source = monMetrics(run)
		if err := run.WaitQuorum(ctx); err != nil {
			return err
		}
		return noteMade(d.dir)
	})
}

// StartOSD starts OSD `id` on its directory.
func (e *Env) StartOSD(ctx context.Context, id int, dir, listen string) (*Daemon, error) {
	name := fmt.Sprintf("osd.%d", id)
	return e.start(ctx, dir, "osd", name, func(d *Daemon) error {
		if err := checkOSDStore(d.dir); err != nil {
			return err
		}
		run, err := osdserver.Start(ctx, osdserver.Config{
			Net: e.Net, Dir: d.dir.File("store"), ID: wire.OSDID(id), Listen: listen, MonAddrs: e.Conf.MonAddrs,
			Cluster: e.Conf.Cluster, Log: e.Log.With().Str("daemon", name).Logger(),
			Host: e.Conf.OSDHost, Rack: e.Conf.OSDRack, Class: e.Conf.OSDClass,
			Store: store.Options{Bytes: int64(e.Conf.OSDSize)},
			Slow:  e.Conf.SlowOp,
			Core: osd.Config{LeaseNs: int64(e.Conf.OSDLease), GraceNs: int64(e.Conf.ReplGrace), HeartbeatNs: int64(e.Conf.OSDHeartbeat), ScrubNs: int64(e.Conf.ScrubEvery),
				RecoveryBytes: int64(e.Conf.RecoveryRate)},
		})
		if err != nil {
			return explain(name, listen, "osd_listen", err)
		}
		d.Addr, d.close, d.Failed = run.Addr(), run.Close, run.Failed()
		d.source = osdMetrics(run)
		run.Register(d.admin)
		return nil
	})
}

// StartMDS starts a metadata daemon; the monitors give it a rank.
func (e *Env) StartMDS(ctx context.Context, name, dir, listen string) (*Daemon, error) {
	return e.start(ctx, dir, "mds", "mds."+name, func(d *Daemon) error {
		run, err := mdsserver.Start(ctx, mdsserver.Config{
			Net: e.Net, Name: name, Listen: listen, MonAddrs: e.Conf.MonAddrs, Cluster: e.Conf.Cluster,
			Validity: e.Conf.SessionValidity, Revoke: e.Conf.RevokeDeadline, MaxFileLocks: e.Conf.MaxFileLocks, RstatLag: e.Conf.RstatLag, Beacon: e.Conf.BeaconInterval,
			CacheBytes: mdsserver.CacheShare(e.Conf.MDSMemory), MaxCaps: e.Conf.MDSMaxCaps,
			ObjectSize: uint32(e.Conf.ObjectSize), Log: e.Log.With().Str("daemon", "mds."+name).Logger(), Wrong: e.wrong(), Slow: e.Conf.SlowOp,
		})
		if err != nil {
			return explain("mds."+name, listen, "mds_listen", err)
		}
		d.Addr, d.close, d.Failed = run.Addr(), run.Close, run.Failed()
		d.Returns = func(ctx context.Context, err error) bool {
			return errors.Is(err, mdsserver.ErrRetired) || errors.Is(err, mdsserver.ErrReplaced) && !run.NameTaken(ctx)
		}
		d.source = mdsMetrics(run)
		run.Register(d.admin)
		return nil
	})
}
