package clustermap

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// sample is a map with something of everything.
func sample(t testing.TB, osds int) *OSDMap {
	t.Helper()
	m := (&OSDMap{Epoch: 7, Cluster: wire.UUID{1}}).Clone()
	m.Crush = m.Crush.WithRoot("default")
	m.Crush = m.Crush.WithRule(crush.Replicated("r", "default", "", crush.Host))
	for id := range osds {
		var err error
		m.Crush, err = m.Crush.WithDevice(crush.Device{ID: int32(id), Weight: crush.One}, crush.Location{Root: "default", Host: fmt.Sprint("h", id)})
		if err != nil {
			t.Fatal(err)
		}
		m.OSDs[wire.OSDID(id)] = OSD{ID: wire.OSDID(id), UUID: wire.UUID{2, byte(id)}, Instance: wire.Instance{Kind: wire.KindOSD, Num: uint32(id), Nonce: 5}, Addr: "a", Up: true, In: true, BootEpoch: 3, Reweight: crush.One}
	}
	m.Pools[1] = Pool{ID: 1, Name: "meta", Size: 3, MinSize: 2, PGNum: 8, Rule: "r"}
	for n := range uint32(8) {
		pg := wire.PGID{Pool: 1, Num: n}
		c := PGConfig{Interval: 1, Primary: wire.NoOSD}
		for _, id := range m.UpSet(pg) {
			c.InSync = append(c.InSync, Member{ID: id, UUID: m.OSDs[id].UUID})
		}
		c.Primary = c.InSync[0].ID
		m.PGs[pg] = c
	}
	m.Blocklist[wire.Instance{Kind: wire.KindClient, Nonce: 9}] = BlockEntry{Since: 4, Reason: "evicted"}
	return m.Seal()
}

func TestEncodeIsExactAndStable(t *testing.T) {
	m := sample(t, 4)
	b := m.Encode()
	n, err := DecodeOSDMap(b)
	if err != nil {
		t.Fatal(err)
	}
	if !n.Equal(m) || !m.Equal(n) || !slices.Equal(n.Encode(), b) {
		t.Fatal("decoded map differs")
	}
	for pg := range m.PGs {
		if !slices.Equal(m.UpSet(pg), n.UpSet(pg)) {
			t.Fatalf("pg %v: up sets differ", pg)
		}
	}
	b[0] = 9
	if _, err := DecodeOSDMap(b); !errors.Is(err, wire.ErrVersion) {
		t.Fatal(err)
	}
	f := (&FSMap{Epoch: 3, MetaPool: 1, DataPool: 2, NextInoRange: 4}).Clone()
	f.Ranks[0] = RankInfo{State: RankActive, Daemon: DaemonInfo{Name: "a", Instance: wire.Instance{Kind: wire.KindMDS, Nonce: 1}}, Created: true, InoRanges: []uint64{1, 2}}
	g, err := DecodeFSMap(f.Encode())
	if err != nil || !g.Equal(f) {
		t.Fatalf("%+v, %v", g, err)
	}
}

// A delta, over any number of changes, gives exactly the newer map.
func TestDeltaGivesTheNewerMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		old := sample(t, 5)
		m := old.Clone()
		for range rapid.IntRange(0, 12).Draw(rt, "changes") {
			m = m.Clone()
			m.Epoch++
			id := wire.OSDID(rapid.IntRange(0, 4).Draw(rt, "osd"))
			pg := wire.PGID{Pool: 1, Num: uint32(rapid.IntRange(0, 7).Draw(rt, "pg"))}
			switch rapid.IntRange(0, 6).Draw(rt, "kind") {
			case 0:
				o := m.OSDs[id]
				o.ID, o.Up = id, !o.Up
				m.OSDs[id] = o
			case 1:
				c := m.PGs[pg]
				c.Interval++
				m.PGs[pg] = c
			case 2:
				m.Blocklist[wire.Instance{Kind: wire.KindClient, Nonce: rapid.Uint64().Draw(rt, "nonce")}] = BlockEntry{Since: m.Epoch}
			case 3:
				clear(m.Blocklist)
			case 4:
				m.Full = !m.Full
			case 5:
				m.Crush = m.Crush.WithException(crush.Exception{X: uint64(id), From: 1, To: 2})
			case 6:
				delete(m.OSDs, id)
			}
		}
		n, err := old.ApplyDelta(m.EncodeDelta(old))
		if err != nil {
			rt.Fatal(err)
		}
		if !n.Equal(m) {
			rt.Fatalf("map %d from a delta differs", m.Epoch)
		}
		if m.Epoch > old.Epoch {
			if _, err := m.ApplyDelta(m.EncodeDelta(old)); err == nil {
				rt.Fatal("a delta was applied to another map")
			}
		}
	})
}

func TestCheckRefusesNonsense(t *testing.T) {
	pg := wire.PGID{Pool: 1}
	for name, spoil := range map[string]func(*OSDMap){
		"empty S":         func(m *OSDMap) { m.PGs[pg] = PGConfig{Interval: 1, Primary: wire.NoOSD} },
		"primary outside": func(m *OSDMap) { c := m.PGs[pg]; c.Primary = 99; m.PGs[pg] = c },
		"pg of no pool":   func(m *OSDMap) { m.PGs[wire.PGID{Pool: 5}] = m.PGs[pg] },
		"min_size":        func(m *OSDMap) { p := m.Pools[1]; p.MinSize = 4; m.Pools[1] = p },
		"boot in future":  func(m *OSDMap) { o := m.OSDs[0]; o.BootEpoch = 8; m.OSDs[0] = o },
		"pg_num":          func(m *OSDMap) { p := m.Pools[1]; p.PGNum = 1 << 30; m.Pools[1] = p },
		"wrong key":       func(m *OSDMap) { m.OSDs[77] = m.OSDs[0] },
	} {
		m := sample(t, 3)
		spoil(m)
		if m.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPGOfIsEvenAndOnlyHalves(t *testing.T) {
	m := &OSDMap{Pools: map[uint32]Pool{2: {ID: 2, PGNum: 16}}}
	n := &OSDMap{Pools: map[uint32]Pool{2: {ID: 2, PGNum: 24}}}
	count := map[uint32]int{}
	for i := range uint64(16000) {
		o := wire.DataObject(2, wire.Ino(1<<40+i/4), i%4)
		a, b := m.PGOf(o).Num, n.PGOf(o).Num
		count[a]++
		if b != a && b != a+16 {
			t.Fatalf("%v moved from pg %d to %d", o, a, b)
		}
	}
	for num := range uint32(16) {
		if count[num] < 850 || count[num] > 1150 {
			t.Errorf("pg %d holds %d of 16000 objects", num, count[num])
		}
	}
	if golden := m.PGOf(wire.ObjectID{Pool: 2, Name: "10000000000.00000000"}).Num; golden != 5 {
		t.Errorf("objects moved between PGs: %d", golden)
	}
}

func TestUpSetLeavesOutWhoIsDownOrOut(t *testing.T) {
	m := sample(t, 4)
	for pg := range m.PGs {
		up := m.UpSet(pg)
		if len(up) != 3 {
			t.Fatalf("pg %v: %v", pg, up)
		}
		n := m.Clone()
		o := n.OSDs[up[0]]
		o.Up = false
		n.OSDs[up[0]] = o
		if got := n.Seal().UpSet(pg); !slices.Equal(got, up[1:]) || !slices.Equal(n.Wanted(pg), up) {
			t.Fatalf("pg %v: %v became %v", pg, up, got)
		}
		o.In = false
		n.OSDs[up[0]] = o
		if got := n.Seal().UpSet(pg); len(got) != 3 || slices.Contains(got, up[0]) {
			t.Fatalf("pg %v: %v", pg, got)
		}
	}
}

func FuzzDecodeOSDMap(f *testing.F) {
	m := sample(f, 3)
	f.Add(m.Encode())
	f.Add((&OSDMap{}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeOSDMap(b)
		if err != nil {
			return
		}
		for pg := range m.PGs {
			m.UpSet(pg)
		}
		p := m.Crush.Placer()
		for _, r := range m.Crush.Rules {
			if got := p.Place(r.Name, 5, 3, nil); len(got) > 3 {
				t.Fatalf("%d places for 3", len(got))
			}
		}
		if n, err := DecodeOSDMap(m.Encode()); err != nil || !n.Equal(m) {
			t.Fatalf("map %d does not survive: %v", m.Epoch, err)
		}
	})
}

func FuzzDelta(f *testing.F) {
	m := sample(f, 3)
	n := m.Clone()
	n.Epoch++
	n.Full = true
	f.Add(n.EncodeDelta(m))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := m.ApplyDelta(b); err == nil {
			if err := n.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzDecodeFSMap(f *testing.F) {
	f.Add((&FSMap{Epoch: 1, Ranks: map[wire.Rank]RankInfo{0: {}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeFSMap(b); err == nil {
			m.Encode()
		}
	})
}
