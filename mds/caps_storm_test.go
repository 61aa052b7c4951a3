package mds

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// Clients open, write, stat, close and forget files while messages of different sessions
// overtake each other as they like. At every moment C1 and C2 hold for what clients believe,
// the rank's bound is never below it (B0), and every stat shows every write that returned
// before it began.
func TestStormOfCaps(t *testing.T) {
	for seed := int64(1); seed <= 120; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { stormOfCaps(t, seed) })
	}
}

func stormOfCaps(t *testing.T, seed int64) {
	rng := rand.New(rand.NewSource(seed))
	w := newCapWorld(t)
	var cs []*capClient
	for i := range 3 {
		c := w.client(fmt.Sprint("c", i+1))
		c.quiet = true
		cs = append(cs, c)
	}
	var inos []wire.Ino
	truth := map[wire.Ino]uint64{}
	for i := range 2 {
		ino := cs[0].create(fmt.Sprint("f", i), 0)
		inos = append(inos, ino)
		for _, c := range cs {
			c.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: fmt.Sprint("f", i)})
		}
	}
	type stat struct {
		c     *capClient
		ino   wire.Ino
		tid   wire.Tid
		least uint64
	}
	var stats []stat
	opens := map[*capClient]map[wire.Ino]wire.Tid{}
	for _, c := range cs {
		opens[c] = map[wire.Ino]wire.Tid{}
	}
	w.hold = true
	check := func() {
		for _, ino := range inos {
			in := w.r.inodes[ino]
			for _, a := range cs {
				ka := a.caps[ino]
				if ka == nil {
					continue
				}
				if rec := in.ledger.Get(uint64(a.key)); rec != nil && rec.ID == ka.id && ka.bits&^rec.Issued != 0 {
					t.Fatalf("B0: %s uses %v of %v, bound %v", a.name, ka.bits, ino, rec.Issued)
				}
				for _, b := range cs {
					kb := b.caps[ino]
					if a == b || kb == nil {
						continue
					}
					if ka.bits&(caps.FileExcl|caps.FileBuffer) != 0 && kb.bits&caps.FileMask != 0 {
						t.Fatalf("C1: %s %v beside %s %v", a.name, ka.bits, b.name, kb.bits)
					}
					if ka.bits&caps.FileWr != 0 && kb.bits&(caps.FileShared|caps.FileCache) != 0 {
						t.Fatalf("C2: %s %v beside %s %v", a.name, ka.bits, b.name, kb.bits)
					}
				}
			}
		}
	}
	answered := func() {
		keep := stats[:0]
		for _, s := range stats {
			rep := s.c.reply[s.tid]
			if rep == nil {
				keep = append(keep, s)
				continue
			}
			if rep.Errno != 0 {
				t.Fatalf("stat: errno %d", rep.Errno)
			}
			size := rep.Target.Attr.Size
			if k := s.c.caps[s.ino]; rep.Target.Valid&wire.MaskFile == 0 && k != nil && k.bits.Has(caps.FileExcl) {
				size = k.size // the sole user knows it best
			} else if rep.Target.Valid&wire.MaskFile == 0 {
				// The lock moved on between: it was its own to know, and was given up meanwhile.
				keep = append(keep, stat{s.c, s.ino, s.c.request(wire.Request{Op: wire.OpGetattr, Ino: s.ino, Mask: wire.MaskFile}), s.least})
				continue
			}
			if size < s.least {
				t.Fatalf("%s: stat of %v shows %d, %d was written before it began", s.c.name, s.ino, size, s.least)
			}
		}
		stats = keep
	}
	for range 400 {
		c, ino := cs[rng.Intn(len(cs))], inos[rng.Intn(len(inos))]
		k := c.caps[ino]
		switch rng.Intn(12) {
		case 0, 1:
			if opens[c][ino] == 0 {
				want := []caps.Bits{wR, wW, wR | wW, wA}[rng.Intn(4)]
				c.want[ino] = want
				opens[c][ino] = c.request(wire.Request{Op: wire.OpOpen, Ino: ino, Want: want})
			}
		case 2:
			if tid := opens[c][ino]; tid != 0 && c.reply[tid] != nil && k != nil && !k.pendingAnswer {
				opens[c][ino] = 0
				c.wants(ino, 0)
			}
		case 3, 4, 5:
			if k != nil && k.bits.Has(caps.FileWr) && truth[ino]+10 < k.max {
				truth[ino] += 10
				c.write(ino, truth[ino])
			}
		case 6, 7:
			stats = append(stats, stat{c, ino, c.request(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskFile}), truth[ino]})
		case 8: // cached
			if k != nil && k.bits.Has(caps.FileShared) && k.bits&caps.FileWr == 0 && k.size < truth[ino] && c.dirty[ino] == nil {
				t.Fatalf("%s trusts size %d under %v, %d was written", c.name, k.size, k.bits, truth[ino])
			}
		case 9: // forget and look up again
			if k != nil && opens[c][ino] == 0 && c.dirty[ino] == nil && !k.pendingAnswer && len(stats) == 0 {
				delete(c.caps, ino)
				c.send(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: ino, CapID: k.id, Mseq: k.mseq, IssueSeq: k.seq}}})
				c.request(wire.Request{Op: wire.OpGetattr, Ino: ino})
			}
		default:
			for n := rng.Intn(12); n > 0 && w.one(rng.Intn); n-- {
				check()
			}
			w.now += int64(rng.Intn(5e6))
		}
		answered()
		check()
	}
	// V1: with everything delivered, every request is answered.
	for n := 0; n < 3000; n++ {
		if !w.one(rng.Intn) {
			for _, c := range cs {
				for _, ino := range inos {
					if k := c.caps[ino]; k != nil && c.want[ino]&^k.bits != 0 && !k.pendingAnswer {
						c.want[ino] = 0
						c.wants(ino, 0)
					}
				}
			}
			w.now += 20e6
			w.step(Event{Kind: Tick})
			answered()
			if len(w.pending) == 0 && n > 100 && len(stats) == 0 {
				break
			}
		}
		check()
	}
	if len(stats) > 0 || len(w.r.Why()) > 0 {
		t.Fatalf("%d stats are not answered: %+v", len(stats), w.r.Why())
	}
}
