package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Raft asks an address for a vote and does not look who answers there. A monitor that lost
// its store has the old address and a new identity, so a raft address here is both,
// member@host:port, and every stream begins with the identity that the caller means; a
// monitor that is somebody else hangs up.

// raftAddress is where raft finds a member.
func raftAddress(member, addr string) raft.ServerAddress {
	return raft.ServerAddress(member + "@" + addr)
}

func splitRaftAddress(a raft.ServerAddress) (member, addr string) {
	member, addr, _ = strings.Cut(string(a), "@")
	return member, addr
}

const (
	maxPreface     = 128
	prefaceTimeout = 5 * time.Second
)

// preface is the first bytes of a stream: a length and whom the caller means.
func preface(cluster wire.UUID, member string) []byte {
	s := cluster.String() + " " + member
	return append([]byte{byte(len(s))}, s...)
}

// streams lets raft talk over the cluster's network, memory included.
type streams struct {
	net.Listener
	net     msgr.Network
	self    raft.ServerAddress
	cluster wire.UUID

	served sync.WaitGroup // streams that raft's transport still reads
	mu     sync.Mutex
	open   map[*greeted]struct{} // the same, to be hung up
	ended  bool
}

// end hangs up on everybody and waits until raft's transport has left every stream. It
// handles heartbeats on the goroutine of the stream, and what one of them finds in a store
// that was closed meanwhile is a panic (raft.setCurrentTerm).
func (s *streams) end() {
	s.mu.Lock()
	s.ended = true
	for g := range s.open {
		g.Conn.Close()
	}
	s.mu.Unlock()
	s.served.Wait()
}

// serve counts a stream that was accepted; false after end.
func (s *streams) serve(g *greeted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.open[g] = struct{}{}
	s.served.Add(1)
	return true
}

func (s *streams) left(g *greeted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[g]; ok {
		delete(s.open, g)
		s.served.Done()
	}
}

// Addr implements net.Listener: how the others name this member.
func (s *streams) Addr() net.Addr { return raftAddr(s.self) }

type raftAddr raft.ServerAddress

func (raftAddr) Network() string  { return "raft" }
func (a raftAddr) String() string { return string(a) }

// Dial implements raft.StreamLayer.
func (s *streams) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	member, addr := splitRaftAddress(to)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := s.net.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(preface(s.cluster, member)); err != nil {
		c.Close()
		return nil, fmt.Errorf("greet %s at %s: %w", member, addr, err)
	}
	return c, nil
}

// Accept implements net.Listener. Who is meant is read with the first bytes, by the
// goroutine that raft gives each stream.
func (s *streams) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	member, _ := splitRaftAddress(s.self)
	g := &greeted{Conn: c, of: s, want: preface(s.cluster, member)}
	if !s.serve(g) {
		c.Close()
		return nil, net.ErrClosed
	}
	return g, nil
}

// greeted is a stream whose preface is still to be read.
type greeted struct {
	net.Conn
	of   *streams
	want []byte
	once sync.Once
	err  error
}

// Read implements net.Conn.
func (g *greeted) Read(b []byte) (int, error) {
	g.once.Do(func() {
		if g.err = g.greet(); g.err != nil {
			g.Conn.Close()
		}
	})
	if g.err != nil {
		return 0, g.err
	}
	return g.Conn.Read(b)
}

// Close implements net.Conn. Raft's transport calls it where it leaves the stream for good.
func (g *greeted) Close() error {
	err := g.Conn.Close()
	g.of.left(g)
	return err
}

func (g *greeted) greet() error {
	if err := g.SetReadDeadline(time.Now().Add(prefaceTimeout)); err != nil {
		return err
	}
	var n [1]byte
	if _, err := io.ReadFull(g.Conn, n[:]); err != nil {
		return err
	}
	if n[0] > maxPreface {
		return fmt.Errorf("monitor stream begins with %d", n[0])
	}
	got := make([]byte, n[0])
	if _, err := io.ReadFull(g.Conn, got); err != nil {
		return err
	}
	if string(got) != string(g.want[1:]) {
		return fmt.Errorf("monitor stream is meant for %q, this is %q", got, g.want[1:])
	}
	return g.SetReadDeadline(time.Time{})
}
