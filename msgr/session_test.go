package msgr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// breaking is a network whose streams die after a random number of bytes, in the middle of a
// frame as likely as not, each direction on its own.
type breaking struct {
	Network
	mu    sync.Mutex
	rng   *rand.Rand
	count int
	left  int // streams that will still be broken
}

type fragile struct {
	net.Conn
	n            *breaking
	rleft, wleft int
	mu           sync.Mutex
}

func (b *breaking) Dial(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := b.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		return nc, nil
	}
	b.left--
	if b.count++; b.count == 1 {
		return &fragile{Conn: nc, rleft: 5000, wleft: 5000}, nil // the first hello must succeed
	}
	return &fragile{Conn: nc, rleft: b.rng.IntN(8000), wleft: b.rng.IntN(8000)}, nil
}

var errSnapped = errors.New("snapped")

func (f *fragile) Read(p []byte) (int, error) {
	f.mu.Lock()
	left := f.rleft
	f.mu.Unlock()
	if left == 0 {
		f.Conn.Close()
		return 0, errSnapped
	}
	n, err := f.Conn.Read(p[:min(len(p), left)])
	f.mu.Lock()
	f.rleft -= n
	f.mu.Unlock()
	return n, err
}

func (f *fragile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) > f.wleft {
		n, _ := f.Conn.Write(p[:f.wleft])
		f.wleft = 0
		f.Conn.Close()
		return n, errSnapped
	}
	f.wleft -= len(p)
	return f.Conn.Write(p)
}

// counter expects the numbers 1, 2, 3 … and reports when it has seen the last one.
type counter struct {
	t    *testing.T
	name string
	next uint64
	last uint64
	done chan struct{}
	end  chan error
}

func newCounter(t *testing.T, name string, last uint64) *counter {
	return &counter{t: t, name: name, next: 1, last: last, done: make(chan struct{}), end: make(chan error, 2)}
}

func (k *counter) Frames(c *Conn, batch []Frame) {
	for _, f := range batch {
		seq := f.Msg.(*wire.Renew).Seq
		if seq != k.next {
			k.t.Errorf("%s: got %d, expected %d", k.name, seq, k.next)
		}
		if want := int(seq % 700); len(f.Data) != want {
			k.t.Errorf("%s: frame %d has %d bytes of data, expected %d", k.name, seq, len(f.Data), want)
		}
		if k.next++; k.next == k.last+1 {
			close(k.done)
		}
	}
}

func (k *counter) Closed(c *Conn, err error) { k.end <- err }

// Streams break at random points while both sides send. Nothing may be lost, doubled or
// reordered, and both queues must be empty in the end.
func TestSessionSurvivesBreaks(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			const frames = 400
			n := &breaking{Network: NewMemory(), rng: rand.New(rand.NewPCG(seed, 1)), left: 30}
			there, here := newCounter(t, "server", frames), newCounter(t, "client", frames)
			conns := make(chan *Conn, 100)
			s := serve(t, n, "mem:x", func(c *Conn) Handler { conns <- c; return there }, Options{Linger: 3 * time.Second})
			c, err := DialSession(ctxFor(t), n, s.Addr(), clientSelf, here, Options{})
			if err != nil {
				t.Fatal(err)
			}
			send := func(c *Conn) {
				for i := uint64(1); i <= frames; i++ {
					if err := c.Send(i, &wire.Renew{Seq: i}, make([]byte, i%700)); err != nil {
						t.Error(err)
					}
					if i%7 == 0 {
						c.Flush()
					}
				}
				c.Flush()
			}
			var wg sync.WaitGroup
			far := <-conns
			wg.Go(func() { send(c) })
			wg.Go(func() { send(far) })
			wg.Wait()
			for _, k := range []*counter{there, here} {
				select {
				case <-k.done:
				case <-time.After(10 * time.Second):
					t.Fatalf("%s stopped at %d", k.name, k.next)
				}
			}
			if len(conns) != 0 {
				t.Error("a resume was taken for a new session")
			}
			c.Close()
			if err := <-here.end; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			// The goodbye may fall into a break like anything else; then the linger ends it.
			if err := <-there.end; !errors.Is(err, ErrGoodbye) && !errors.Is(err, ErrLingered) {
				t.Error("server:", err)
			}
		})
	}
}

// The server is a new process: it does not know the session. The user must hear it, for
// what was sent may be lost.
func TestForgottenSessionIsToldToTheUser(t *testing.T) {
	n := NewMemory()
	l, _ := n.Listen("mem:x")
	first := ServeWith(l, Peer{Instance: instance(wire.KindMDS, 1)}, func(*Conn) Handler { return funcs{} }, Options{})
	end := make(chan error, 1)
	c, err := DialSession(ctxFor(t), n, "mem:x", clientSelf, funcs{closed: func(_ *Conn, err error) { end <- err }}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// A crash: no goodbye, the streams just end.
	first.mu.Lock()
	for fc := range first.conns {
		fc.sess = func() *session { fc.mu.Lock(); defer fc.mu.Unlock(); fc.closed = true; return fc.sess }()
		fc.link.nc.Close()
	}
	first.mu.Unlock()
	first.Close()
	serve(t, n, "mem:x", func(*Conn) Handler { return funcs{} }, Options{})
	select {
	case err = <-end:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was told")
	}
	if !errors.Is(err, ErrUnknownSession) {
		t.Errorf("got %v", err)
	}
	if err := c.Send(1, &wire.Renew{}); !errors.Is(err, ErrClosed) {
		t.Errorf("send on a forgotten session: %v", err)
	}
}

// A server does not keep what nobody comes back for.
func TestLingerEndsASession(t *testing.T) {
	n := NewMemory()
	end := make(chan error, 1)
	s := serve(t, n, "mem:x", func(*Conn) Handler {
		return funcs{closed: func(_ *Conn, err error) { end <- err }}
	}, Options{Linger: 10 * time.Millisecond})
	nc, _ := n.Dial(ctxFor(t), s.Addr())
	if err := say(nc, helloOf(clientSelf, Options{}, wire.SessionHello{ID: wire.UUID{7}})); err != nil {
		t.Fatal(err)
	}
	if _, err := hear(newLink(nc)); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if err := <-end; !errors.Is(err, ErrLingered) {
		t.Errorf("got %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions)+len(s.conns) != 0 {
		t.Error("the server still knows it")
	}
}

// One-way traffic is acknowledged without replies to ride on, or the sender's memory fills.
func TestOneWaySessionIsAcknowledged(t *testing.T) {
	n := NewMemory()
	k := newCounter(t, "server", 2000)
	s := serve(t, n, "mem:x", func(*Conn) Handler { return k }, Options{})
	c, err := DialSession(ctxFor(t), n, s.Addr(), clientSelf, funcs{}, Options{MaxQueued: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := uint64(1); i <= 2000; {
		switch err := c.SendNow(i, &wire.Renew{Seq: i}, make([]byte, i%700)); {
		case err == nil:
			i++
		case errors.Is(err, ErrFull):
			time.Sleep(100 * time.Microsecond)
		default:
			t.Fatal(err)
		}
	}
	<-k.done
	for deadline := time.Now().Add(5 * time.Second); c.Queued() > 64<<10; {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are still unacknowledged", c.Queued())
		}
		time.Sleep(time.Millisecond)
	}
}

// A second stream for the same session wins even when the first one looks alive.
func TestResumeReplacesALivingStream(t *testing.T) {
	n := NewMemory()
	var c0 *Conn
	s := serve(t, n, "mem:x", func(c *Conn) Handler { c0 = c; return funcs{frames: echo} }, Options{})
	open := func(sh wire.SessionHello) (*link, wire.Message) {
		nc, err := n.Dial(ctxFor(t), s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if err := say(nc, helloOf(clientSelf, Options{}, sh)); err != nil {
			t.Fatal(err)
		}
		l := newLink(nc)
		m, err := hear(l)
		if err != nil {
			t.Fatal(err)
		}
		l.rd.known(DefaultLimits)
		return l, m
	}
	id := wire.UUID{9}
	first, _ := open(wire.SessionHello{ID: id})
	if err := c0.SendNow(5, &wire.Renew{Seq: 5}); err != nil {
		t.Fatal(err)
	}
	if err := first.rd.next(1); err != nil {
		t.Fatal(err)
	}
	second, m := open(wire.SessionHello{ID: id, Resume: true}) // frame 5 got lost on our side
	if h, ok := m.(*wire.Hello); !ok || !h.Session.Resume || h.Session.Received != 0 {
		t.Fatalf("answer %+v", m)
	}
	if err := second.rd.next(1); err != nil || second.rd.batch[0].Tid != 5 || second.rd.heads[0].seq != 1 {
		t.Fatalf("resent: %v %+v", err, second.rd.batch[0])
	}
	if err := first.rd.next(1); err == nil {
		t.Error("the first stream still delivers")
	}
	_, m = open(wire.SessionHello{ID: id, Resume: true, Received: 17}) // it never sent so many
	if r, ok := m.(*wire.HelloRefused); !ok || r.Code != wire.RefusedUnknownSession {
		t.Errorf("answer %+v", m)
	}
}
