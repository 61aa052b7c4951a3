package msgr

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// memory is a network that exists in one process only: mem:NAME addresses, no sockets.
type memory struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	next      atomic.Uint64
}

// NewMemory makes a network with nobody in it. Networks do not see each other.
func NewMemory() Network { return &memory{listeners: map[string]*memListener{}} }

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

type memListener struct {
	net  *memory
	addr memAddr
	in   chan net.Conn
	done chan struct{}
	once sync.Once
}

// Listen takes an address like "mem:osd.0"; "mem:" draws a free one.
func (m *memory) Listen(addr string) (net.Listener, error) {
	if !strings.HasPrefix(addr, "mem:") {
		return nil, fmt.Errorf("msgr: listen on %s: a memory address begins with mem:", addr)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if addr == "mem:" {
		addr = fmt.Sprintf("mem:%d", m.next.Add(1))
	}
	if m.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "mem", Addr: memAddr(addr), Err: syscall.EADDRINUSE}
	}
	l := &memListener{net: m, addr: memAddr(addr), in: make(chan net.Conn, 16), done: make(chan struct{})}
	m.listeners[addr] = l
	return l, nil
}

func (m *memory) Dial(ctx context.Context, addr string) (net.Conn, error) {
	m.mu.Lock()
	l := m.listeners[addr]
	m.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "mem", Addr: memAddr(addr), Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	near, far := memPipe(memAddr(fmt.Sprintf("mem:dialer-%d", m.next.Add(1))), l.addr)
	select {
	case l.in <- far:
		// A listener that closes just now may never accept it; its Close drains the channel.
		select {
		case <-l.done:
			l.drain()
		default:
		}
		return near, nil
	case <-l.done:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) drain() {
	for {
		select {
		case c := <-l.in:
			c.Close()
		default:
			return
		}
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, string(l.addr))
		l.net.mu.Unlock()
		close(l.done)
		l.drain()
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return l.addr }

// memPipe makes the two ends of a stream with a bounded buffer each way.
func memPipe(a, b memAddr) (net.Conn, net.Conn) {
	ab, ba := newHalf(), newHalf()
	return &memConn{in: ba, out: ab, local: a, remote: b}, &memConn{in: ab, out: ba, local: b, remote: a}
}

type memConn struct {
	in, out       *half
	local, remote memAddr
}

func (c *memConn) Read(b []byte) (int, error)              { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error)             { return c.out.write(b) }
func (c *memConn) tryWrite(segs [][]byte) (n int, e error) { return c.out.tryWrite(segs) }
func (c *memConn) LocalAddr() net.Addr                     { return c.local }
func (c *memConn) RemoteAddr() net.Addr                    { return c.remote }

// Close lets the peer read what was written and then see the end, as a TCP close does.
func (c *memConn) Close() error {
	c.in.close(io.ErrClosedPipe, syscall.EPIPE)
	c.out.close(io.EOF, net.ErrClosed)
	return nil
}
