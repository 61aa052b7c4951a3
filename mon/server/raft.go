package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	"github.com/capstan-fs/capstan/msgr"
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
	trans raft.Transport
}

func openRaft(cfg *Config, f *fsm) (p raftParts, err error) {
	logger := quiet(cfg.Log)
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(cfg.Name)
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
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.store, err = raftboltdb.New(raftboltdb.Options{Path: filepath.Join(cfg.Dir, "raft.db"), BoltOptions: &bbolt.Options{Timeout: 2 * time.Second, NoFreelistSync: true}})
	if err != nil {
		return p, fmt.Errorf("open %s (is another monitor running there?): %w", filepath.Join(cfg.Dir, "raft.db"), err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, 2, logger)
	if err != nil {
		return p, fmt.Errorf("open snapshots in %s: %w", cfg.Dir, err)
	}
	self := raft.ServerAddress(cfg.Name)
	if len(cfg.Mons) > 1 {
		in := cfg.self()
		self = raft.ServerAddress(in.RaftAddr)
		l, err := cfg.Net.Listen(in.RaftAddr)
		if err != nil {
			return p, fmt.Errorf("listen for other monitors on %s: %w", in.RaftAddr, err)
		}
		p.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: &streams{Listener: l, net: cfg.Net}, MaxPool: 3, Timeout: 5 * time.Second, Logger: logger})
	} else {
		_, p.trans = raft.NewInmemTransport(self)
	}
	has, err := raft.HasExistingState(p.store, p.store, snaps)
	if err != nil {
		return p, fmt.Errorf("read %s: %w", filepath.Join(cfg.Dir, "raft.db"), err)
	}
	if !has {
		var servers []raft.Server
		for _, in := range cfg.Mons {
			servers = append(servers, raft.Server{ID: raft.ServerID(in.Name), Address: raft.ServerAddress(in.RaftAddr)})
		}
		if len(cfg.Mons) == 1 {
			servers[0].Address = self
		}
		if err := raft.BootstrapCluster(rc, p.store, p.store, snaps, p.trans, raft.Configuration{Servers: servers}); err != nil {
			return p, fmt.Errorf("make the quorum: %w", err)
		}
	}
	if p.raft, err = raft.NewRaft(rc, f, p.store, p.store, snaps, p.trans); err != nil {
		return p, fmt.Errorf("start raft on %s: %w", cfg.Dir, err)
	}
	return p, nil
}

func (p *raftParts) close() error {
	var err error
	if p.raft != nil {
		err = p.raft.Shutdown().Error()
	}
	if c, ok := p.trans.(io.Closer); ok {
		c.Close()
	}
	if p.store != nil {
		if e := p.store.Close(); err == nil {
			err = e
		}
	}
	return err
}

// streams lets raft talk over the cluster's network, memory included.
type streams struct {
	net.Listener
	net msgr.Network
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.net.Dial(ctx, string(addr))
}

// quiet passes raft's log on at debug level, its errors as warnings: what it calls an error
// (a vote lost, a peer gone) is ordinary life.
func quiet(l zerolog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: &lines{log: l}, DisableTime: true})
}

type lines struct {
	log zerolog.Logger
}

// Write takes one line of hclog.
func (w *lines) Write(b []byte) (int, error) {
	ev := w.log.Debug()
	if bytes.HasPrefix(b, []byte("[ERROR]")) {
		ev = w.log.Warn()
	}
	ev.Msg(string(bytes.TrimSpace(b)))
	return len(b), nil
}
