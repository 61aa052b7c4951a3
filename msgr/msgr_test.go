package msgr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/wire"
)

// funcs makes a Handler of two functions.
type funcs struct {
	frames func(c *Conn, batch []Frame)
	closed func(c *Conn, err error)
}

func (f funcs) Frames(c *Conn, batch []Frame) {
	if f.frames != nil {
		f.frames(c, batch)
	}
}

func (f funcs) Closed(c *Conn, err error) {
	if f.closed != nil {
		f.closed(c, err)
	}
}

func echo(c *Conn, batch []Frame) {
	for i := range batch {
		f := &batch[i]
		_ = c.Send(f.Tid, f.Msg, f.Retain())
	}
}

func instance(k wire.Kind, n uint32) wire.Instance {
	return wire.Instance{Kind: k, Num: n, Nonce: uint64(n) + 77}
}

var clientSelf = Peer{Instance: instance(wire.KindClient, 1)}

// networks runs fn over TCP and over memory.
func networks(t *testing.T, fn func(t *testing.T, n Network, addr string)) {
	t.Run("tcp", func(t *testing.T) { fn(t, TCP(), "127.0.0.1:0") })
	t.Run("mem", func(t *testing.T) { fn(t, NewMemory(), "mem:") })
}

func serve(t testing.TB, n Network, addr string, accept func(*Conn) Handler, opt Options) *Server {
	t.Helper()
	l, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := ServeWith(l, Peer{Instance: instance(wire.KindMDS, 0), Addr: l.Addr().String()}, accept, opt)
	t.Cleanup(s.Close)
	return s
}

func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A request with data comes back as it was, whatever its size: in the buffer of the reader,
// across its end, or in a buffer of its own.
func TestEchoOfEverySize(t *testing.T) {
	networks(t, func(t *testing.T, n Network, addr string) {
		s := serve(t, n, addr, func(*Conn) Handler { return funcs{frames: echo} }, Options{})
		k, err := DialCaller(ctxFor(t), n, s.Addr(), clientSelf, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		for _, size := range []int{0, 1, inlineData, inlineData + 1, 4096, directData - 1, directData, readSize - 60, readSize, 1 << 20, 5<<20 + 3} {
			data := bytes.Repeat([]byte{0, 1, 2, 3, byte(size)}, size/5+1)[:size]
			m, got, err := k.Call(ctxFor(t), &wire.Renew{Seq: uint64(size)}, data[:size/3], data[size/3:])
			if err != nil {
				t.Fatal(size, err)
			}
			if m.(*wire.Renew).Seq != uint64(size) || !bytes.Equal(got, data) {
				t.Fatalf("size %d: got %v and %d bytes", size, m, len(got))
			}
		}
		if got := k.Conn().Peer().Instance; got != instance(wire.KindMDS, 0) {
			t.Errorf("peer is %v", got)
		}
	})
}

func TestHelloRefusesAnotherCluster(t *testing.T) {
	n := NewMemory()
	l, _ := n.Listen("mem:x")
	s := Serve(l, Peer{Instance: instance(wire.KindOSD, 3), Cluster: wire.UUID{1}}, func(*Conn) Handler { return funcs{} }, zerolog.Nop())
	defer s.Close()
	self := clientSelf
	self.Cluster = wire.UUID{2}
	_, err := Dial(ctxFor(t), n, "mem:x", self, funcs{})
	if !errors.Is(err, ErrOtherCluster) || !Refused(err) {
		t.Fatalf("got %v", err)
	}
	self.Cluster = wire.UUID{} // a tool that does not know yet
	c, err := Dial(ctxFor(t), n, "mem:x", self, funcs{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Peer().Cluster != (wire.UUID{1}) {
		t.Errorf("learned cluster %v", c.Peer().Cluster)
	}
	c.Close()
}

func TestRefusedByAcceptAndByFeatures(t *testing.T) {
	n := NewMemory()
	s := serve(t, n, "mem:x", func(*Conn) Handler { return nil }, Options{Features: 1})
	if _, err := Dial(ctxFor(t), n, s.Addr(), clientSelf, funcs{}); !errors.Is(err, ErrRefused) {
		t.Errorf("accept said no, got %v", err)
	}
	if _, err := DialWith(ctxFor(t), n, s.Addr(), clientSelf, funcs{}, Options{Need: 2}); !errors.Is(err, ErrFeatures) {
		t.Errorf("feature 2 is missing, got %v", err)
	}
}

// Somebody who connects and says nothing must not hold a descriptor for ever.
func TestSilentPeerIsDropped(t *testing.T) {
	networks(t, func(t *testing.T, n Network, addr string) {
		s := serve(t, n, addr, func(*Conn) Handler { return funcs{} }, Options{HelloTimeout: 20 * time.Millisecond})
		nc, err := n.Dial(ctxFor(t), s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadAll(nc); err != nil {
			t.Errorf("wanted the end of the stream, got %v", err)
		}
	})
}

// Both sides send 32 MiB before either would read a reply; neither reader may wait for the other.
func TestFloodInBothDirections(t *testing.T) {
	networks(t, func(t *testing.T, n Network, addr string) {
		const frames, size = 256, 128 << 10
		count := func(done chan error) Handler {
			got := uint64(0)
			return funcs{frames: func(c *Conn, batch []Frame) {
				for _, f := range batch {
					if f.Tid != got {
						done <- fmt.Errorf("frame %d came as number %d", f.Tid, got)
					}
					got++
				}
				if got == frames {
					done <- nil
				}
			}}
		}
		atServer, atClient := make(chan error, 4), make(chan error, 4)
		flood := func(c *Conn) {
			data := make([]byte, size)
			for i := range uint64(frames) {
				if err := c.SendNow(i, &wire.Renew{}, data); err != nil {
					t.Error(err)
				}
			}
		}
		conns := make(chan *Conn, 1)
		s := serve(t, n, addr, func(c *Conn) Handler { conns <- c; return count(atServer) }, Options{})
		c, err := Dial(ctxFor(t), n, s.Addr(), clientSelf, count(atClient))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { flood(c) })
		wg.Go(func() { flood(<-conns) })
		wg.Wait()
		for _, ch := range []chan error{atServer, atClient} {
			select {
			case err := <-ch:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("stuck")
			}
		}
		for c.Queued() != 0 {
			time.Sleep(time.Millisecond)
		}
		c.Close()
	})
}

// Many goroutines share a connection: every frame arrives whole and once.
func TestSendFromManyGoroutines(t *testing.T) {
	networks(t, func(t *testing.T, n Network, addr string) {
		s := serve(t, n, addr, func(*Conn) Handler { return funcs{frames: echo} }, Options{})
		k, err := DialCaller(ctxFor(t), n, s.Addr(), clientSelf, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 200 {
					seq := uint64(g*1000 + i)
					data := bytes.Repeat([]byte{byte(i)}, i*50)
					m, got, err := k.Call(ctxFor(t), &wire.Renew{Seq: seq}, data)
					if err != nil || m.(*wire.Renew).Seq != seq || !bytes.Equal(got, data) {
						t.Errorf("call %d: %v %v, %d bytes", seq, m, err, len(got))
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestCloseTellsBothSides(t *testing.T) {
	networks(t, func(t *testing.T, n Network, addr string) {
		here, there := make(chan error, 2), make(chan error, 2)
		s := serve(t, n, addr, func(*Conn) Handler {
			return funcs{closed: func(_ *Conn, err error) { there <- err }}
		}, Options{})
		c, err := Dial(ctxFor(t), n, s.Addr(), clientSelf, funcs{closed: func(_ *Conn, err error) { here <- err }})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		c.Close()
		if err := <-here; !errors.Is(err, ErrClosed) {
			t.Errorf("here: %v", err)
		}
		if err := <-there; err != io.EOF {
			t.Errorf("there: %v", err)
		}
		if err := c.SendNow(1, &wire.Renew{}); !errors.Is(err, ErrClosed) {
			t.Errorf("send on a closed connection: %v", err)
		}
	})
}

// A full queue is the sender's to see: Send refuses, and what was queued still arrives.
func TestQueueIsBounded(t *testing.T) {
	n := NewMemory()
	release := make(chan struct{})
	var got int
	done := make(chan struct{})
	s := serve(t, n, "mem:x", func(*Conn) Handler {
		return funcs{frames: func(_ *Conn, b []Frame) {
			<-release
			if got += len(b); b[len(b)-1].Tid == 99 {
				close(done)
			}
		}}
	}, Options{})
	c, err := DialWith(ctxFor(t), n, s.Addr(), clientSelf, funcs{}, Options{MaxQueued: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for {
		if err = c.SendNow(1, &wire.Renew{}, make([]byte, 64<<10)); err != nil {
			break
		}
		sent++
	}
	if !errors.Is(err, ErrFull) || c.Queued() < 1<<20 {
		t.Errorf("%v with %d bytes queued", err, c.Queued())
	}
	close(release)
	for c.SendNow(99, &wire.Renew{}) != nil {
		time.Sleep(time.Millisecond)
	}
	<-done
	if got != sent+1 {
		t.Errorf("%d frames sent, %d arrived", sent+1, got)
	}
}
