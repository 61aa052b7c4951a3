package server

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	monserver "github.com/capstan-fs/capstan/mon/server"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// cluster is a monitor and OSDs in one process over memory.
type cluster struct {
	t    testing.TB
	net  msgr.Network
	uuid wire.UUID
	dir  string
	mon  *monserver.Daemon
	osds []*Daemon
	log  zerolog.Logger
	core osd.Config
}

func newCluster(t testing.TB, osds int) *cluster {
	return newClusterWith(t, osds, mon.Defaults(), osd.Config{})
}

func newClusterWith(t testing.TB, osds int, set mon.Settings, core osd.Config) *cluster {
	c := &cluster{core: core, t: t, net: msgr.NewMemory(), uuid: wire.UUID{7}, dir: t.TempDir(), log: zerolog.Nop()}
	if testing.Verbose() {
		c.log = zerolog.New(zerolog.NewTestWriter(t))
	}
	var err error
	if c.mon, err = monserver.Start(t.Context(), monserver.Config{Net: c.net, Dir: c.dir + "/mon", Name: "a", Addr: "mem:mon", Cluster: c.uuid, Settings: set, Log: c.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.mon.Close() })
	c.osds = make([]*Daemon, osds)
	var wg sync.WaitGroup
	for i := range osds {
		wg.Go(func() { c.start(i) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, o := range c.osds {
			if o != nil {
				o.Close()
			}
		}
	})
	return c
}

func (c *cluster) start(i int) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	o, err := Start(ctx, Config{Net: c.net, Dir: fmt.Sprintf("%s/osd.%d", c.dir, i), ID: wire.OSDID(i), Listen: fmt.Sprintf("mem:osd.%d", i), MonAddrs: []string{"mem:mon"}, Cluster: c.uuid, Core: c.core, Log: c.log})
	if err != nil {
		c.t.Error(err)
		return
	}
	c.osds[i] = o
}

func (c *cluster) client(n uint32) (*objecter.Objecter, *monc.Client) {
	self := msgr.Peer{Instance: wire.Instance{Kind: wire.KindClient, Num: n, Nonce: uint64(n) + 1000}, Cluster: c.uuid}
	m, err := monc.Dial(c.t.Context(), monc.Config{Net: c.net, Addrs: []string{"mem:mon"}, Self: self, Log: c.log})
	if err != nil {
		c.t.Fatal(err)
	}
	o := objecter.New(objecter.Config{Net: c.net, Maps: m, Self: self, Log: c.log})
	c.t.Cleanup(func() { o.Close(); m.Close() })
	return o, m
}

// until waits for a state that comes by itself.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(25 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func full(m *clustermap.OSDMap) bool {
	for _, p := range m.PGs {
		if len(p.InSync) < 3 || p.Primary == wire.NoOSD {
			return false
		}
	}
	return len(m.PGs) > 0
}

func write(t testing.TB, o *objecter.Objecter, name string, data []byte) wire.Version {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := o.Do(ctx, wire.ObjectID{Pool: 2, Name: name}, []wire.ObjOp{{Kind: wire.ObjWriteFull, Data: data}}, objecter.Options{})
	if err != nil || r.Errno != 0 {
		t.Fatalf("write %s: %v errno %d", name, err, r.Errno)
	}
	return r.Version
}

func read(t testing.TB, o *objecter.Objecter, name string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := o.Do(ctx, wire.ObjectID{Pool: 2, Name: name}, []wire.ObjOp{{Kind: wire.ObjRead, Len: 1 << 20}, {Kind: wire.ObjStat}}, objecter.Options{})
	if err != nil || r.Errno != 0 {
		t.Fatalf("read %s: %v errno %d", name, err, r.Errno)
	}
	return r.Ops[0].Data
}

// TestAClusterKeepsWhatItAnswered is the whole path once: monitor, three OSDs with real stores,
// two clients; then one OSD loses its directory and comes back under its id while writes go on.
func TestAClusterKeepsWhatItAnswered(t *testing.T) {
	begin := time.Now()
	c := newCluster(t, 3)
	a, maps := c.client(1)
	b, _ := c.client(2)
	write(t, a, "first", []byte("x"))
	t.Logf("first write answered %v after the start", time.Since(begin))
	want := map[string][]byte{}
	for i := range 200 {
		n, d := fmt.Sprintf("o%d", i), bytes.Repeat([]byte{byte(i)}, 100+i*37)
		write(t, a, n, d)
		want[n] = d
	}
	for n, d := range want {
		if got := read(t, b, n); !bytes.Equal(got, d) {
			t.Fatalf("%s: %d bytes, want %d", n, len(got), len(d))
		}
	}
	old := c.osds[1].UUID()
	c.osds[1].Kill()
	c.osds[1] = nil
	if err := removeAll(fmt.Sprintf("%s/osd.1", c.dir)); err != nil {
		t.Fatal(err)
	}
	c.start(1)
	if c.osds[1] == nil {
		t.FailNow()
	}
	if c.osds[1].UUID() == old {
		t.Fatal("an emptied directory kept its uuid")
	}
	for i := range 100 {
		n, d := fmt.Sprintf("o%d", i), bytes.Repeat([]byte{byte(i + 1)}, 50+i*11)
		write(t, a, n, d)
		want[n] = d
	}
	until(t, "all replicas back", func() bool { return full(maps.OSDMap()) })
	// What the new store holds must be everything, byte for byte.
	for n, d := range want {
		pg := maps.OSDMap().PGOf(wire.ObjectID{Pool: 2, Name: n})
		got := make([]byte, len(d)+1)
		k, err := c.osds[1].store.Read(pg, n, 0, got)
		if err != nil || !bytes.Equal(got[:k], d) {
			t.Fatalf("%s in the refilled OSD: %d bytes (%v), want %d", n, k, err, len(d))
		}
		if got := read(t, b, n); !bytes.Equal(got, d) {
			t.Fatalf("%s: %d bytes, want %d", n, len(got), len(d))
		}
	}
}

// A process that died is told to the monitors by its peers at once: its host refuses them.
// Heartbeats, silence and the monitor's own broken connection are out of the way here.
func TestDeadProcessIsReportedWithoutHeartbeats(t *testing.T) {
	set := mon.Defaults()
	set.OSDSilence, set.OSDBroken = int64(time.Hour), int64(time.Hour)
	c := newClusterWith(t, 3, set, osd.Config{HeartbeatNs: int64(time.Hour)})
	o, maps := c.client(1)
	for i := range 32 { // every OSD has talked to every other
		write(t, o, fmt.Sprintf("o%d", i), []byte("x"))
	}
	c.osds[1].Kill()
	c.osds[1] = nil
	until(t, "osd.1 down", func() bool { return !maps.OSDMap().OSDs[1].Up })
}

// The word of an earlier life that comes late, of a monitor that had kept it, does not keep the living
// one out: it announces itself again.
func TestALateBootOfAnEarlierLife(t *testing.T) {
	c := newCluster(t, 3)
	_, maps := c.client(1)
	until(t, "all replicas", func() bool { return full(maps.OSDMap()) })
	d := c.osds[1]
	ghost := d.Instance()
	ghost.Nonce++
	m, err := monc.Dial(t.Context(), monc.Config{Net: c.net, Addrs: []string{"mem:mon"}, Self: msgr.Peer{Instance: ghost, Cluster: c.uuid}, Log: c.log})
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Call(t.Context(), &wire.OSDBoot{ID: 1, UUID: d.UUID(), Instance: ghost, Addr: "mem:nobody", Total: 1 << 30})
	b, ok := r.(*wire.OSDBooted)
	if err != nil || !ok || b.Errno != 0 {
		t.Fatal(r, err)
	}
	m.Close()
	until(t, "the ghost", func() bool { return maps.OSDMap().Epoch >= b.Epoch })
	until(t, "osd.1 as it lives", func() bool {
		o := maps.OSDMap().OSDs[1]
		return o.Up && o.Instance == d.Instance() && full(maps.OSDMap())
	})
}

// A line that breaks before the one who dialed it has taken it is dialed again: nobody is told of its
// end any more.
func TestALineThatBreaksAtOnceIsDialedAgain(t *testing.T) {
	c := newCluster(t, 3)
	o, maps := c.client(1)
	until(t, "all replicas", func() bool { return full(maps.OSDMap()) })
	write(t, o, "o", []byte("x"))
	d := c.osds[0]
	lines := func() (n int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, p := range d.peers {
			if p.conn != nil {
				n++
			}
		}
		return n
	}
	until(t, "both lines", func() bool { return lines() == 2 })
	d.mu.Lock()
	dead := map[wire.OSDID]*msgr.Conn{}
	for id, p := range d.peers {
		dead[id] = p.conn
	}
	d.mu.Unlock()
	for _, c := range dead {
		c.Close()
	}
	until(t, "lines of their own", func() bool { // their end has been told
		d.mu.Lock()
		defer d.mu.Unlock()
		for id, p := range d.peers {
			if p.conn == dead[id] {
				return false
			}
		}
		return true
	})
	d.mu.Lock()
	for id, p := range d.peers {
		if p.conn != nil {
			go p.conn.Close()
		}
		p.conn = dead[id] // as dial does when it gets the lock behind Closed
	}
	d.mu.Unlock()
	until(t, "lines that live", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		for id, p := range d.peers {
			if p.conn == nil || p.conn == dead[id] {
				return false
			}
		}
		return true
	})
}

// BenchmarkWrite4K is a replicated write of 4 KiB through client, primary and two members.
func BenchmarkWrite4K(b *testing.B) {
	c := newCluster(b, 3)
	o, _ := c.client(1)
	data := make([]byte, 4096)
	write(b, o, "o0", data)
	cpu := cpuTime()
	b.ResetTimer()
	var wg sync.WaitGroup
	sem := make(chan struct{}, 32)
	for i := range b.N {
		sem <- struct{}{}
		wg.Add(1)
		o.Submit(wire.ObjectID{Pool: 2, Name: fmt.Sprintf("o%d", i%256)}, []wire.ObjOp{{Kind: wire.ObjWrite, Off: uint64(i/256%256) * 4096, Data: data}}, objecter.Options{}, func(objecter.Result, error) {
			<-sem
			wg.Done()
		})
	}
	wg.Wait()
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N)/1000, "cpu-µs/op")
}

// BenchmarkWrite4KOne has one write in flight.
func BenchmarkWrite4KOne(b *testing.B) {
	c := newCluster(b, 3)
	o, _ := c.client(1)
	data := make([]byte, 4096)
	write(b, o, "o0", data)
	cpu := cpuTime()
	b.ResetTimer()
	for i := range b.N {
		_, _ = o.Do(context.Background(), wire.ObjectID{Pool: 2, Name: "o1"}, []wire.ObjOp{{Kind: wire.ObjWrite, Off: uint64(i%256) * 4096, Data: data}}, objecter.Options{})
	}
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N)/1000, "cpu-µs/op")
}

// BenchmarkRead4K has one read in flight.
func BenchmarkRead4K(b *testing.B) {
	c := newCluster(b, 3)
	o, _ := c.client(1)
	write(b, o, "o0", make([]byte, 64<<10))
	cpu := cpuTime()
	b.ResetTimer()
	for i := range b.N {
		_, _ = o.Do(context.Background(), wire.ObjectID{Pool: 2, Name: "o0"}, []wire.ObjOp{{Kind: wire.ObjRead, Off: uint64(i%16) * 4096, Len: 4096}}, objecter.Options{})
	}
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N)/1000, "cpu-µs/op")
}
