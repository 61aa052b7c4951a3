package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/mon/server"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

var cluster = wire.UUID{1, 2, 3}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func one(t *testing.T, net msgr.Network, dir string) *server.Daemon {
	t.Helper()
	d, err := server.Start(t.Context(), server.Config{Net: net, Dir: dir, Name: "a", Addr: "mem:mon.a", Cluster: cluster, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func client(t *testing.T, net msgr.Network, addrs ...string) *monc.Client {
	t.Helper()
	c, err := monc.Dial(within(t), monc.Config{Net: net, Addrs: addrs, Self: msgr.Peer{Instance: wire.Instance{Kind: wire.KindTool, Nonce: uint64(time.Now().UnixNano())}, Cluster: cluster}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func boot(t *testing.T, c *monc.Client, id int) wire.Epoch {
	t.Helper()
	r, err := c.Call(within(t), &wire.OSDBoot{ID: wire.OSDID(id), UUID: wire.UUID{9, byte(id)}, Instance: wire.Instance{Kind: wire.KindOSD, Num: uint32(id), Nonce: uint64(time.Now().UnixNano())}, Addr: fmt.Sprintf("mem:osd.%d", id), Total: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	b := r.(*wire.OSDBooted)
	if b.Errno != 0 {
		t.Fatal(b.Text)
	}
	return b.Epoch
}

func waitMap(t *testing.T, c *monc.Client, what string, ok func(*clustermap.OSDMap) bool) *clustermap.OSDMap {
	t.Helper()
	ctx := within(t)
	m := c.OSDMap()
	for !ok(m) {
		var err error
		if m, err = c.WaitOSDEpoch(ctx, m.Epoch+1); err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
	return m
}

// A quorum of one must be ready at once on an empty directory, hold what it said over a
// restart, and never show an older epoch than before.
func TestRestartKeepsEpochs(t *testing.T) {
	net, dir := msgr.NewMemory(), t.TempDir()
	began := time.Now()
	d := one(t, net, dir)
	c := client(t, net, "mem:mon.a")
	t.Logf("first maps after %v", time.Since(began))
	for id := range 3 {
		boot(t, c, id)
	}
	m := waitMap(t, c, "placement groups", func(m *clustermap.OSDMap) bool { return len(m.PGs) == 24 })
	for pg, cfg := range m.PGs {
		if cfg.Interval != 1 || len(cfg.InSync) != 3 || cfg.Primary != m.UpSet(pg)[0] {
			t.Fatalf("pg %v: %+v", pg, cfg)
		}
	}
	r, err := c.Call(within(t), &wire.BlocklistAdd{Instance: wire.Instance{Kind: wire.KindClient, Nonce: 7}, Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	fenced := r.(*wire.MonReply).Epoch
	if m, err = c.WaitOSDEpoch(within(t), fenced); err != nil || !m.IsBlocklisted(wire.Instance{Kind: wire.KindClient, Nonce: 7}) {
		t.Fatalf("epoch %d does not fence: %v", fenced, err)
	}
	before := d.State()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	d = one(t, net, dir)
	if err := d.WaitLeader(within(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("leading again after %v", time.Since(began))
	if after := d.State(); !after.OSD.Equal(before.OSD) || !after.FS.Equal(before.FS) {
		t.Fatalf("osdmap %d and fsmap %d became %d and %d", before.OSD.Epoch, before.FS.Epoch, after.OSD.Epoch, after.FS.Epoch)
	}
	// The client comes back by itself and goes on with deltas.
	if e := boot(t, c, 0); e <= before.OSD.Epoch {
		t.Fatalf("boot in epoch %d after %d", e, before.OSD.Epoch)
	}
	m = waitMap(t, c, "the second boot", func(m *clustermap.OSDMap) bool { return m.OSDs[0].BootEpoch > before.OSD.Epoch })
	if !m.Equal(d.State().OSD) {
		t.Fatal("the client's map, made of deltas, is not the monitor's")
	}
}

func TestDirectoryOfAnotherClusterIsRefused(t *testing.T) {
	net, dir := msgr.NewMemory(), t.TempDir()
	d := one(t, net, dir)
	if err := d.WaitLeader(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := server.Start(t.Context(), server.Config{Net: net, Dir: dir, Name: "a", Addr: "mem:mon.a", Cluster: wire.UUID{66}, Log: zerolog.Nop()})
	if err == nil {
		defer d.Close()
		select {
		case err = <-d.Failed():
		case <-within(t).Done():
		}
	}
	if err == nil || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Fatalf("got %v", err)
	}
}

func TestCommands(t *testing.T) {
	net := msgr.NewMemory()
	one(t, net, t.TempDir())
	c := client(t, net, "mem:mon.a")
	for id := range 3 {
		boot(t, c, id)
	}
	waitMap(t, c, "placement groups", func(m *clustermap.OSDMap) bool { return len(m.PGs) == 24 })
	ask := func(words ...string) *wire.MonCommandReply {
		b, _ := json.Marshal(words)
		r, err := c.Call(within(t), &wire.MonCommand{Args: b})
		if err != nil {
			t.Fatal(err)
		}
		return r.(*wire.MonCommandReply)
	}
	for _, words := range []string{"status", "osd tree", "osd df", "osd dump", "pg dump", "fs dump", "blocklist ls", "mon dump"} {
		if r := ask(strings.Fields(words)...); r.Errno != 0 || !json.Valid(r.JSON) {
			t.Errorf("%s: %d %s %s", words, r.Errno, r.Text, r.JSON)
		}
	}
	// Subscribers get a map when raft applies it, which may be a moment before the leader that
	// answers commands has heard of it.
	var s mon.Status
	for within := within(t); s.PGsFull != 24; {
		if err := json.Unmarshal(ask("status").JSON, &s); err != nil || s.OSDsUp != 3 || within.Err() != nil {
			t.Fatalf("status %+v, %v", s, err)
		}
	}
	if r := ask("blocklist", "add", "client.7/1a2b", "gone", "mad"); r.Errno != 0 {
		t.Error(r.Text)
	}
	if r := ask("blocklist", "ls"); !strings.Contains(string(r.JSON), "client.7/1a2b") {
		t.Errorf("%s", r.JSON)
	}
	for _, bad := range [][]string{{}, {"make", "coffee"}, {"blocklist", "add", "x"}, {"osd", "out", "99"}, {"osd", "reweight", "0", "7"}} {
		if r := ask(bad...); r.Errno == 0 || r.Text == "" {
			t.Errorf("%v was accepted: %s", bad, r.JSON)
		}
	}
}

// Three monitors; the leader dies. Somebody else must lead, with everything that was
// answered, and no client may ever see an epoch go back.
func TestLeaderLossKeepsWhatWasAnswered(t *testing.T) {
	net := msgr.NewMemory()
	var mons []clustermap.MonInfo
	var addrs []string
	for _, n := range []string{"a", "b", "c"} {
		mons = append(mons, clustermap.MonInfo{Name: n, Addr: "mem:mon." + n, RaftAddr: "mem:raft." + n})
		addrs = append(addrs, "mem:mon."+n)
	}
	ds := map[string]*server.Daemon{}
	for _, in := range mons {
		d, err := server.Start(t.Context(), server.Config{Net: net, Dir: t.TempDir(), Name: in.Name, Addr: in.Addr, RaftAddr: in.RaftAddr, Cluster: cluster, Mons: mons, RaftTimeout: 200 * time.Millisecond, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		ds[in.Name] = d
	}
	c := client(t, net, addrs...)
	var last wire.Epoch
	c.OnMaps(func(o *clustermap.OSDMap, _ *clustermap.FSMap) {
		if o.Epoch < last {
			t.Errorf("epoch %d after %d", o.Epoch, last)
		}
		last = o.Epoch
	})
	answered := boot(t, c, 0)
	for name, d := range ds {
		if d.Leading() {
			t.Logf("%s led at epoch %d", name, answered)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			delete(ds, name)
			break
		}
	}
	if e := boot(t, c, 1); e <= answered {
		t.Fatalf("boot in epoch %d after %d", e, answered)
	}
	m := waitMap(t, c, "both", func(m *clustermap.OSDMap) bool { return len(m.OSDs) == 2 })
	if m.OSDs[0].BootEpoch != answered {
		t.Fatalf("osd.0 booted in %d, it was told %d", m.OSDs[0].BootEpoch, answered)
	}
}
