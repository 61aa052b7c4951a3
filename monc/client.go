package monc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Times of the connection's upkeep.
const (
	dialTimeout = time.Second // of a host that is gone no packet says so
	pingEvery   = time.Second // asks again for maps: a sign of life for both sides
	silentPings = 3           // unanswered ones after which the monitor is given up
	backoffMin  = 10 * time.Millisecond
	backoffMax  = 500 * time.Millisecond
)

// ErrNoLeader: a monitor answers, and knows of none that leads: too few of them are there.
var ErrNoLeader = errors.New("no monitor leads")

// ErrClosed ends calls of a closed client.
var ErrClosed = errors.New("monc: closed")

// Config of a Client.
type Config struct {
	Net   msgr.Network
	Addrs []string  // monitors, for the first contact
	Self  msgr.Peer // its Cluster may be zero
	Log   zerolog.Logger
}

// Client is safe for use by any number of goroutines.
type Client struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}

	osd atomic.Pointer[clustermap.OSDMap]
	fs  atomic.Pointer[clustermap.FSMap]
	mon atomic.Pointer[clustermap.MonMap]

	maps mapState

	mu         sync.Mutex
	conn       *msgr.Conn
	leader     string // where the last redirect pointed; used once
	next       int    // address to try
	lastErr    error
	leaderless bool // the last monitor that answered knew of no leader
	tid        uint64
	pending    map[uint64]*call

	heard atomic.Int64 // pings since the last frame
}

type call struct {
	m    wire.Message
	done chan wire.Message // one reply
}

// Dial connects and waits for the first maps; ctx bounds only that. The client then lives
// until Close.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("monc: no monitor addresses")
	}
	c := &Client{cfg: cfg, done: make(chan struct{}), pending: map[uint64]*call{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.maps.init()
	go c.run()
	select {
	case <-c.maps.first:
		return c, nil
	case <-ctx.Done():
		c.Close()
		c.mu.Lock()
		err := c.lastErr
		if c.leaderless {
			err = ErrNoLeader
		}
		c.mu.Unlock()
		if err == nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("monc: no monitor of %v answers: %w", cfg.Addrs, err)
	}
}

// OSDMap is the newest one known; epoch 0 before the cluster is made.
func (c *Client) OSDMap() *clustermap.OSDMap { return c.osd.Load() }

// FSMap is the newest one known.
func (c *Client) FSMap() *clustermap.FSMap { return c.fs.Load() }

// Call sends m to the leading monitor until somebody answers, however long that takes; ctx
// and Close end it. The reply's own Errno is the caller's to read.
func (c *Client) Call(ctx context.Context, m wire.Message) (wire.Message, error) {
	cl := &call{m: m, done: make(chan wire.Message, 1)}
	c.mu.Lock()
	c.tid++
	tid := c.tid
	c.pending[tid] = cl
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		_ = conn.SendNow(tid, m) // a broken connection: sent again on the next one
	}
	defer func() {
		c.mu.Lock()
		delete(c.pending, tid)
		c.mu.Unlock()
	}()
	select {
	case r := <-cl.done:
		return r, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("monc: call %v: %w", m.WireType(), ctx.Err())
	case <-c.ctx.Done():
		return nil, fmt.Errorf("monc: call %v: %w", m.WireType(), ErrClosed)
	}
}

// Send gives m to the present connection, if there is one: for reports that are repeated anyway.
func (c *Client) Send(m wire.Message) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		_ = conn.SendNow(0, m)
	}
}

// Close ends the client; calls in progress fail with ErrClosed. It does not wait for a map
// callback that is running.
func (c *Client) Close() {
	c.cancel()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
	<-c.done
}

// run keeps one connection up.
func (c *Client) run() {
	defer close(c.done)
	backoff := backoffMin
	for c.ctx.Err() == nil {
		addr := c.target()
		served, err := c.serve(addr)
		c.mu.Lock()
		c.conn = nil
		redirected := c.leader != ""
		if err != nil {
			c.lastErr = err
		}
		c.mu.Unlock()
		if served {
			backoff = backoffMin
		}
		if c.ctx.Err() != nil {
			return
		}
		if err != nil {
			c.cfg.Log.Debug().Err(err).Str("mon", addr).Msg("monitor connection ended")
		}
		if redirected && backoff == backoffMin {
			backoff *= 2
			continue
		}
		select {
		case <-time.After(backoff):
		case <-c.ctx.Done():
		}
		backoff = min(backoff*2, backoffMax)
	}
}

// target is the leader somebody named, or the next monitor in turn: those of the newest
// MonMap besides the configured ones.
func (c *Client) target() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.leader; a != "" {
		c.leader = ""
		return a
	}
	addrs := c.cfg.Addrs
	if m := c.mon.Load(); m != nil {
		for _, in := range m.Mons {
			addrs = appendNew(addrs, in.Addr)
		}
	}
	a := addrs[c.next%len(addrs)]
	c.next++
	return a
}

func appendNew(addrs []string, a string) []string {
	for _, b := range addrs {
		if a == b || a == "" {
			return addrs
		}
	}
	return append(addrs[:len(addrs):len(addrs)], a)
}

// serve dials addr and stays until the connection ends. served: it led at least once.
func (c *Client) serve(addr string) (served bool, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	h := &handler{c: c, closed: make(chan struct{})}
	conn, err := msgr.Dial(ctx, c.cfg.Net, addr, c.cfg.Self, h)
	if err != nil {
		return false, fmt.Errorf("monc: %s: %w", addr, err)
	}
	defer conn.Close()
	c.heard.Store(0)
	c.subscribe(conn)
	c.mu.Lock()
	c.conn = conn
	for tid, cl := range c.pending { // order does not matter: each has its own caller waiting
		_ = conn.Send(tid, cl.m)
	}
	c.mu.Unlock()
	conn.Flush()
	if c.ctx.Err() != nil { // Close may have looked for the connection before it was there
		return false, ErrClosed
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-h.closed:
			return h.led.Load(), h.err
		case <-c.ctx.Done():
			return true, ErrClosed
		case <-ping.C:
			if c.heard.Add(1) > silentPings {
				return h.led.Load(), fmt.Errorf("monc: %s: silent", addr)
			}
			c.subscribe(conn)
		}
	}
}

func (c *Client) subscribe(conn *msgr.Conn) {
	m := &wire.MonSubscribe{}
	if o := c.OSDMap(); o != nil {
		m.OSDEpoch = o.Epoch
	}
	if f := c.FSMap(); f != nil {
		m.FSEpoch = f.Epoch
	}
	_ = conn.SendNow(0, m)
}

// handler is the receiving side of one connection.
type handler struct {
	c      *Client
	led    atomic.Bool
	err    error
	closed chan struct{}
}

// Frames takes in maps and replies.
func (h *handler) Frames(conn *msgr.Conn, batch []msgr.Frame) {
	h.c.heard.Store(0)
	for i := range batch {
		switch m := batch[i].Msg.(type) {
		case *wire.MonMaps:
			h.led.Store(true)
			if err := h.c.takeMaps(m); err != nil {
				h.c.cfg.Log.Warn().Err(err).Msg("maps from monitor are unusable, asking for whole ones")
				_ = conn.Send(0, &wire.MonSubscribe{})
			}
		case *wire.MonNotLeader:
			h.c.mu.Lock()
			if m.Leader != conn.Peer().Addr {
				h.c.leader = m.Leader
			}
			h.c.leaderless = m.Leader == ""
			h.c.mu.Unlock()
			conn.Close() // what is pending goes to the leader
			return
		default:
			h.c.mu.Lock()
			cl := h.c.pending[batch[i].Tid]
			delete(h.c.pending, batch[i].Tid)
			h.c.mu.Unlock()
			if cl != nil {
				cl.done <- batch[i].Msg
			}
		}
	}
}

// Closed ends serve.
func (h *handler) Closed(_ *msgr.Conn, err error) {
	h.err = err
	close(h.closed)
}
