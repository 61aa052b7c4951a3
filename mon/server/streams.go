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
	return &greeted{Conn: c, want: preface(s.cluster, member)}, nil
}

// greeted is a stream whose preface is still to be read.
type greeted struct {
	net.Conn
	want []byte
	once sync.Once
	err  error
}

// Read implements net.Conn.
func (g *greeted) Read(b []byte) (int, error) {
	g.once.Do(func() {
		if g.err = g.greet(); g.err != nil {
			g.Close()
		}
	})
	if g.err != nil {
		return 0, g.err
	}
	return g.Conn.Read(b)
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
