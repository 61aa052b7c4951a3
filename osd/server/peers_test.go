package server

import (
	"context"
	"testing"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// closing says when a connection of the line has ended.
type closing struct {
	*peerLine
	done chan struct{}
}

func (h closing) Closed(c *msgr.Conn, err error) {
	h.peerLine.Closed(c, err)
	close(h.done)
}

// Another OSD hangs up right behind its hello, before the line has taken the connection: taken, it
// would be kept for as long as that OSD lives, and nothing would reach it.
func TestAConnectionThatHasEndedIsNotTaken(t *testing.T) {
	net := msgr.NewMemory()
	l, err := net.Listen("mem:1")
	if err != nil {
		t.Fatal(err)
	}
	s := msgr.Serve(l, msgr.Peer{Instance: wire.Instance{Kind: wire.KindOSD, Num: 1, Nonce: 1}}, func(*msgr.Conn) msgr.Handler { return &peerLine{d: &Daemon{}} }, zerolog.Nop())
	defer s.Close()
	p := &peerLine{d: &Daemon{}, id: 1}
	h := closing{p, make(chan struct{})}
	c, err := msgr.Dial(context.Background(), net, "mem:1", msgr.Peer{Instance: wire.Instance{Kind: wire.KindOSD, Num: 2, Nonce: 2}}, h)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-h.done
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.took(c) || p.conn != nil {
		t.Fatal("a connection that has ended was taken")
	}
}
