package server

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"
)

// How much of raft's log is kept: maps are small, so snapshots are cheap.
const (
	snapshotAfter = 1024
	snapshotEvery = 20 * time.Second
	trailingLogs  = 256
)

// raftParts is what a raft instance holds open.
type raftParts struct {
	raft  *raft.Raft
	store *raftboltdb.BoltStore
	snaps *raft.FileSnapshotStore
	trans raft.Transport
	peers *streams // below trans; nil in a quorum of one
}

// openStore opens raft's files and reports whether anything is in them.
func openStore(cfg *Config) (p raftParts, has bool, err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.store, err = raftboltdb.New(raftboltdb.Options{Path: filepath.Join(cfg.Dir, "raft.db"), BoltOptions: &bbolt.Options{Timeout: 2 * time.Second, NoFreelistSync: true}})
	if err != nil {
		return p, false, fmt.Errorf("open %s (is another monitor running there?): %w", filepath.Join(cfg.Dir, "raft.db"), err)
	}
	p.snaps, err = raft.NewFileSnapshotStoreWithLogger(cfg.Dir, 2, quiet(cfg.Log))
	if err != nil {
		return p, false, fmt.Errorf("open snapshots in %s: %w", cfg.Dir, err)
	}
	has, err = raft.HasExistingState(p.store, p.store, p.snaps)
	if err != nil {
		return p, false, fmt.Errorf("read %s: %w", filepath.Join(cfg.Dir, "raft.db"), err)
	}
	return p, has, nil
}

// openRaft starts raft on the opened store.
func (d *Daemon) openRaft(how beginning) error {
	cfg, p := &d.cfg, &d.parts
	logger := quiet(cfg.Log)
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(d.member)
	rc.Logger = logger
	rc.SnapshotThreshold, rc.SnapshotInterval, rc.TrailingLogs = snapshotAfter, snapshotEvery, trailingLogs
	rc.BatchApplyCh = true
	rc.NoLegacyTelemetry = true
	// A quorum of one has nobody to wait for, so its election may be as quick as it likes.
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout, rc.CommitTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond, 5*time.Millisecond
	if len(cfg.Mons) > 1 {
		t := cfg.RaftTimeout
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout, rc.CommitTimeout = t, t, t/2, max(t/20, time.Millisecond)
	}
	self := raftAddress(d.member, cfg.self().RaftAddr)
	if len(cfg.Mons) > 1 {
		at := cfg.self().RaftAddr
		l, err := cfg.Net.Listen(at)
		if err != nil {
			return fmt.Errorf("listen for other monitors on %s: %w", at, err)
		}
		p.peers = &streams{Listener: l, net: cfg.Net, self: self, cluster: cfg.Cluster, open: map[*greeted]struct{}{}}
		p.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: p.peers, MaxPool: 3, Timeout: 5 * time.Second, Logger: logger})
	} else {
		_, p.trans = raft.NewInmemTransport(self)
	}
	if !d.has && how == bootstrap {
		var servers []raft.Server
		for _, in := range cfg.Mons {
			servers = append(servers, raft.Server{ID: raft.ServerID(in.Name), Address: raftAddress(in.Name, in.RaftAddr)})
		}
		if err := raft.BootstrapCluster(rc, p.store, p.store, p.snaps, p.trans, raft.Configuration{Servers: servers}); err != nil {
			return fmt.Errorf("make the quorum: %w", err)
		}
	}
	r, err := raft.NewRaft(rc, d.fsm, p.store, p.store, p.snaps, p.trans)
	if err != nil {
		return fmt.Errorf("start raft on %s: %w", cfg.Dir, err)
	}
	p.raft = r
	d.raft.Store(r)
	return nil
}

func (p *raftParts) close() error {
	var err error
	if p.raft != nil {
		err = p.raft.Shutdown().Error()
	}
	if c, ok := p.trans.(io.Closer); ok {
		c.Close()
	}
	if p.peers != nil {
		p.peers.end()
	}
	if p.store != nil {
		if e := p.store.Close(); err == nil {
			err = e
		}
	}
	return err
}

// quiet passes raft's log on at debug level, its errors as warnings, each kind once in a
// while: what it calls an error (a vote lost, a peer gone) is ordinary life, many times a second.
func quiet(l zerolog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: &lines{log: l, last: map[string]time.Time{}}, DisableTime: true})
}

const repeatAfter = 30 * time.Second

type lines struct {
	log  zerolog.Logger
	last map[string]time.Time // when a kind of error was last a warning
}

// Write takes one line of hclog, which calls it under a lock.
func (w *lines) Write(b []byte) (int, error) {
	ev := w.log.Debug()
	if bytes.HasPrefix(b, []byte("[ERROR]")) {
		kind, _, _ := strings.Cut(string(b), ": ")
		if _, rest, ok := strings.Cut(string(b), "peer="); ok {
			kind, _, _ = strings.Cut(rest, " ")
		}
		if now := time.Now(); now.Sub(w.last[kind]) >= repeatAfter {
			w.last[kind] = now
			ev = w.log.Warn()
		}
	}
	ev.Msg(string(bytes.TrimSpace(b)))
	return len(b), nil
}
