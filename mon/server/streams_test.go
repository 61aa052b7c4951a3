package server

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// Raft's transport handles a heartbeat on the goroutine of its stream, against the store; so
// nobody may be left in a stream when the store is closed, and nobody may come in later.
func TestEndWaitsForWhoeverIsInAStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cluster := wire.UUID{1}
	s := &streams{Listener: l, self: raftAddress("a", l.Addr().String()), cluster: cluster, open: map[*greeted]struct{}{}}
	defer l.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(append(preface(cluster, "a"), 'x')); err != nil {
			t.Fatal(err)
		}
		return c
	}
	defer dial().Close()
	in, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	hungUp, handled, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() { // what raft's transport does: handle, read on, leave
		in.Read(make([]byte, 1))
		close(hungUp)
		<-handled
		in.Close()
	}()
	go func() { s.end(); close(ended) }()
	<-hungUp // end began: it alone hangs up
	select {
	case <-ended:
		t.Fatal("end did not wait for the stream in which something was handled")
	case <-time.After(20 * time.Millisecond):
	}
	close(handled)
	<-ended
	defer dial().Close()
	if c, err := s.Accept(); err == nil {
		c.Close()
		t.Fatal("a stream came in after the end")
	}
}
