package msgr

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Network makes and accepts byte streams.
type Network interface {
	Listen(addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// unackedTimeout ends a TCP stream whose peer's machine is gone without a word.
const unackedTimeout = 20 * time.Second

type tcp struct{}

// TCP is the network between processes; addresses are host:port.
func TCP() Network { return tcp{} }

func tune(_, _ string, rc syscall.RawConn) error {
	return rc.Control(func(fd uintptr) {
		// Best effort: without it a dead peer is noticed later, by keepalive.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTimeout.Milliseconds()))
	})
}

func (tcp) Listen(addr string) (net.Listener, error) {
	lc := net.ListenConfig{Control: tune} // accepted sockets inherit the option
	return lc.Listen(context.Background(), "tcp", addr)
}

func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, Control: tune}
	return d.DialContext(ctx, "tcp", addr)
}
