package clustermap

import (
	"errors"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// The maps are kept in the monitors' snapshots and logs: what a newer program wrote is
// refused by the name of what it is, and no flipped byte is worse than an error.
func TestEveryMapRefusesAnotherVersionByName(t *testing.T) {
	m := sample(t, 3)
	for _, c := range []struct {
		name string
		b    []byte
		read func([]byte) error
	}{
		{"osdmap", m.Encode(), func(b []byte) error { _, err := DecodeOSDMap(b); return err }},
		{"osdmap delta", m.EncodeDelta(m), func(b []byte) error { _, err := m.ApplyDelta(b); return err }},
		{"fsmap", (&FSMap{Epoch: 3, Ranks: map[wire.Rank]RankInfo{0: {State: RankActive}}}).Encode(), func(b []byte) error { _, err := DecodeFSMap(b); return err }},
		{"monmap", (&MonMap{Epoch: 3, Mons: []MonInfo{{Name: "a", Addr: "x"}}}).Encode(), func(b []byte) error { _, err := DecodeMonMap(b); return err }},
	} {
		if err := c.read(c.b); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		newer := append([]byte{c.b[0] + 1}, c.b[1:]...)
		if err := c.read(newer); !errors.Is(err, wire.ErrVersion) || !strings.HasPrefix(err.Error(), c.name+":") {
			t.Errorf("%s of a newer version: %v", c.name, err)
		}
		for i := range c.b { // there is no checksum here: raft and bbolt have theirs
			for _, bit := range []byte{1, 0x80, 0xff} {
				bad := append([]byte(nil), c.b...)
				bad[i] ^= bit
				c.read(bad)
			}
			if err := c.read(c.b[:i]); err == nil {
				t.Errorf("%s cut to %d bytes is taken", c.name, i)
			}
		}
	}
}

func FuzzDecodeMonMap(f *testing.F) {
	f.Add((&MonMap{Epoch: 3, Mons: []MonInfo{{Name: "a", Addr: "x"}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeMonMap(b); err == nil {
			if n, err := DecodeMonMap(m.Encode()); err != nil || len(n.Mons) != len(m.Mons) {
				t.Fatalf("%v: %+v and %+v", err, m, n)
			}
		}
	})
}
