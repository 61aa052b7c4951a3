package server_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mds/server"
	monserver "github.com/capstan-fs/capstan/mon/server"
	"github.com/capstan-fs/capstan/msgr"
	osdserver "github.com/capstan-fs/capstan/osd/server"
	"github.com/capstan-fs/capstan/osd/server/store"
	"github.com/capstan-fs/capstan/wire"
)

// world is a monitor and an OSD over a memory network; metadata daemons come and go.
type world struct {
	*testing.T
	net msgr.Network
	log zerolog.Logger
	d   *server.Daemon
}

var cluster = wire.UUID{7}

func newWorld(t *testing.T) *world {
	w := &world{T: t, net: msgr.NewMemory(), log: zerolog.Nop()}
	if os.Getenv("CAPSTAN_LOG") != "" {
		w.log = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true}).With().Timestamp().Logger()
	}
	m, err := monserver.Start(t.Context(), monserver.Config{Net: w.net, Dir: t.TempDir(), Name: "a", Addr: "mem:mon.a", Cluster: cluster,
		Instance: wire.Instance{Kind: wire.KindMon, Nonce: 1}, Size: 1, MinSize: 1, MetaPGs: 2, DataPGs: 2, Log: w.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	o, err := osdserver.Start(t.Context(), osdserver.Config{Net: w.net, Dir: t.TempDir(), ID: 0, Listen: "mem:osd.0", MonAddrs: []string{"mem:mon.a"},
		Cluster: cluster, Log: w.log, Store: store.Options{Bytes: 256 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return w
}

func (w *world) mds() *server.Daemon {
	d, err := server.Start(w.Context(), server.Config{Net: w.net, Name: "a", Listen: "mem:mds.a", MonAddrs: []string{"mem:mon.a"}, Cluster: cluster,
		Beacon: 200 * time.Millisecond, Log: w.log})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(d.Kill)
	w.d = d
	return d
}

// session is a client that speaks wire messages and nothing else.
type session struct {
	w    *world
	c    *msgr.Conn
	mu   sync.Mutex
	got  map[uint64]chan wire.Message
	tid  uint64
	inst wire.Instance
	back chan *wire.Reconnected
}

func (s *session) Frames(_ *msgr.Conn, batch []msgr.Frame) {
	for _, f := range batch {
		s.mu.Lock()
		ch := s.got[f.Tid]
		s.mu.Unlock()
		if ch != nil {
			ch <- f.Msg
			continue
		}
		switch m := f.Msg.(type) {
		case *wire.Reconnected:
			s.back <- m
		case *wire.CapGrant: // it uses nothing, so it gives up at once
			k := m.Stat.Cap
			s.c.Send(0, &wire.CapUpdate{Ino: m.Stat.Ino, CapID: k.ID, Seq: k.Seq, Mseq: k.Mseq, Retained: k.Pending})
		case *wire.LeaseRevoke:
			s.c.Send(0, &wire.LeaseAck{Dir: m.Dir, Name: m.Name, Seq: m.Seq})
		}
	}
}

func (s *session) Closed(*msgr.Conn, error) {}

func (w *world) session(nonce uint64) *session {
	s := &session{w: w, got: map[uint64]chan wire.Message{}, back: make(chan *wire.Reconnected, 1), inst: wire.Instance{Kind: wire.KindClient, Num: 1, Nonce: nonce}}
	s.dial()
	return s
}

func (s *session) dial() {
	ctx, cancel := context.WithTimeout(s.w.Context(), 10*time.Second)
	defer cancel()
	for {
		c, err := msgr.DialSession(ctx, s.w.net, "mem:mds.a", msgr.Peer{Instance: s.inst, Cluster: cluster}, s, msgr.Options{Log: s.w.log})
		if err == nil {
			s.c = c
			s.w.Cleanup(c.Close)
			return
		}
		if ctx.Err() != nil {
			s.w.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *session) call(m wire.Message) wire.Message {
	s.w.Helper()
	s.mu.Lock()
	s.tid++
	tid := s.tid
	if q, ok := m.(*wire.Request); ok {
		if !q.Op.Mutates() {
			tid |= uint64(wire.ReadTid)
		}
		q.Tid = wire.Tid(tid)
	}
	ch := make(chan wire.Message, 1)
	s.got[tid] = ch
	s.mu.Unlock()
	if err := s.c.SendNow(tid, m); err != nil {
		s.w.Fatal(err)
	}
	select {
	case r := <-ch:
		return r
	case <-time.After(30 * time.Second):
		s.w.Fatalf("no answer to %+v; what waits: %+v", m, s.w.d.Why())
		return nil
	}
}

func (s *session) reconnect() *wire.Reconnected {
	if err := s.c.SendNow(0, &wire.Reconnect{Instance: s.inst, Last: true}); err != nil {
		s.w.Fatal(err)
	}
	select {
	case r := <-s.back:
		return r
	case <-time.After(10 * time.Second):
		s.w.Fatal("no answer to a reconnect")
		return nil
	}
}

func (s *session) ask(q wire.Request) *wire.Reply {
	s.w.Helper()
	r, ok := s.call(&q).(*wire.Reply)
	if !ok || r.Errno != 0 {
		s.w.Fatalf("%v: %+v", q.Op, r)
	}
	return r
}

func (s *session) open() *wire.SessionOpened {
	s.w.Helper()
	o, ok := s.call(&wire.SessionOpen{Instance: s.inst, Host: "test"}).(*wire.SessionOpened)
	if !ok {
		s.w.Fatal("no session")
	}
	return o
}

func TestSessionCreateAndLookupOverTheNetwork(t *testing.T) {
	w := newWorld(t)
	d := w.mds()
	c1, c2 := w.session(11), w.session(12)
	c1.open()
	c2.open()
	if d.State() != clustermap.RankActive {
		t.Fatal(d.State())
	}
	for i := range 20 {
		c1.ask(wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: fmt.Sprint("f", i), Mode: 0o644, Want: caps.FileRd})
	}
	r := c2.ask(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f7"})
	if r.Target == nil || r.Target.Cap == nil || !r.Target.Cap.Pending.Has(caps.Pin) {
		t.Fatalf("%+v", r.Target)
	}
}

// What a rank answered is there after a clean stop and after a crash; the first needs no
// lease wait.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	d := w.mds()
	c := w.session(21)
	c.open()
	c.ask(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "d", Mode: 0o755})
	for c.ask(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "d"}).Target == nil {
	}
	if _, ok := c.call(&wire.SessionClose{}).(*wire.SessionClosed); !ok {
		t.Fatal("close")
	}
	c.c.Close()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	d = w.mds()
	c = w.session(22)
	c.open()
	c.ask(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "d"})
	if el := time.Since(at); el > 500*time.Millisecond {
		t.Errorf("a start after a clean stop took %v", el)
	}
	c.ask(wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: "e", Mode: 0o755})
	c3 := w.session(23)
	c3.open() // its entry is durable behind that of e
	d.Kill()

	d = w.mds()
	c = w.session(24)
	for _, s := range []uint64{22, 23} { // the old sessions come back
		old := w.session(s)
		if s == 22 {
			go old.reconnect() // answered when all have spoken
			continue
		}
		if r := old.reconnect(); !r.Known {
			t.Fatalf("session %d was durable, the rank does not know it", s)
		}
	}
	c.open()
	c.ask(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "e"})
}
