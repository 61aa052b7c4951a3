package client

import (
	"context"
	"sync"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// ClusterConfig of NewCluster.
type ClusterConfig struct {
	Net     msgr.Network
	Maps    *monc.Client
	Cluster wire.UUID
	Log     zerolog.Logger
	// SpreadReads is objecter.Config's.
	SpreadReads uint64
}

// NewCluster is a Cluster over the network: the rank's address from the FSMap, objects
// through an objecter of the instance's own.
func NewCluster(cfg ClusterConfig) Cluster {
	m := &netCluster{cfg: cfg, changed: make(chan struct{})}
	cfg.Maps.OnMaps(func(_ *clustermap.OSDMap, fs *clustermap.FSMap) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if fs != nil && (m.fs == nil || fs.Epoch > m.fs.Epoch) {
			m.fs = fs
			close(m.changed)
			m.changed = make(chan struct{})
		}
	})
	return m
}

type netCluster struct {
	cfg     ClusterConfig
	mu      sync.Mutex
	fs      *clustermap.FSMap
	changed chan struct{}
}

func (m *netCluster) Rank(n wire.Rank) (string, wire.Instance, clustermap.RankState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fs == nil || !m.fs.Wanted(n) {
		return "", wire.Instance{}, clustermap.RankNone
	}
	r := m.fs.Ranks[n]
	return r.Daemon.Addr, r.Daemon.Instance, r.State
}

func (m *netCluster) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *netCluster) Dial(ctx context.Context, addr string, self wire.Instance, r Receiver) (Link, error) {
	c, err := msgr.DialSession(ctx, m.cfg.Net, addr, msgr.Peer{Instance: self, Cluster: m.cfg.Cluster}, &frames{r: r}, msgr.Options{Log: m.cfg.Log})
	if err != nil {
		return nil, err
	}
	return netLink{c}, nil
}

func (m *netCluster) Objects(self wire.Instance) Objects {
	return netObjects{objecter.New(objecter.Config{
		Net: m.cfg.Net, Maps: m.cfg.Maps, Log: m.cfg.Log,
		Self:        msgr.Peer{Instance: self, Cluster: m.cfg.Cluster},
		SpreadReads: m.cfg.SpreadReads,
	})}
}

// frames turns msgr's batches into messages. Its buffer is the reader's own.
type frames struct {
	r   Receiver
	buf []wire.Message
}

func (f *frames) Frames(_ *msgr.Conn, batch []msgr.Frame) {
	f.buf = f.buf[:0]
	for i := range batch {
		f.buf = append(f.buf, batch[i].Msg)
	}
	f.r.Messages(f.buf)
	clear(f.buf)
}

func (f *frames) Closed(_ *msgr.Conn, err error) { f.r.Closed(err) }

type netLink struct{ c *msgr.Session }

func (l netLink) Send(tid uint64, m wire.Message) error { return l.c.Send(tid, m) }
func (l netLink) Flush()                                { l.c.Flush() }
func (l netLink) Close()                                { l.c.Close() }

type netObjects struct{ o *objecter.Objecter }

func (n netObjects) Close() { n.o.Close() }

func (n netObjects) Open(max int) []objecter.OpenOp { return n.o.Open(max) }
func (n netObjects) Stats() objecter.Stats          { return n.o.Stats() }

func (n netObjects) Waiting(about func(wire.ObjectID) bool) (wire.PGID, bool) {
	return n.o.Waiting(about)
}

func (n netObjects) Submit(obj wire.ObjectID, ops []wire.ObjOp, barrier wire.Epoch, done ObjDone) {
	n.o.Submit(obj, ops, objecter.Options{Barrier: barrier}, func(r objecter.Result, err error) { done(r.Errno, r.Ops, err) })
}
