package mds

import (
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A number finds its inode, and only one that has a name: in a rank that runs with a cache
// smaller than the tree, and in one that has died at any moment between a change, its journal
// record, the flush of the directory and that of the index, and comes back with nothing cached
// that nobody asks for. What was renamed, linked and replaced meanwhile is found where it is.
func TestNumbersFindTheirInodes(t *testing.T) {
	asked, looked := 0, 0
	for seed := int64(1); seed <= 120; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.cfg.CacheBytes = 100 << 10
			w.crash()
			w.restart()
			c := w.client()
			m := newModel()
			d := []wire.Ino{root}
			ever := map[wire.Ino]*wire.Cap{}
			for i := 0; i < 4; i++ {
				in := d[w.rng.Intn(len(d))]
				q := &wire.Request{Op: wire.OpMkdir, Ino: in, Name: fmt.Sprintf("d%d", i), Mode: 0o755}
				rep := c.must(q)
				m.apply(q, rep)
				d = append(d, c.made(q, rep))
			}
			for round := 0; round < 4; round++ {
				for i := w.rng.Intn(80); i > 0; i-- {
					q := randomOp(w, d)
					if files := m.files(); w.rng.Intn(6) == 0 && len(files) > 0 {
						q = &wire.Request{Op: wire.OpLink, Ino: q.Ino, Name: q.Name, Other: files[w.rng.Intn(len(files))]}
					}
					rep := c.do(q)
					if rep.Target != nil && rep.Errno == 0 {
						ever[rep.Target.Ino] = nil
						c.names[rep.Target.Ino] = m.where(rep.Target.Ino)
					}
					m.apply(q, rep)
				}
				for _, ino := range sortedInos(c.caps) {
					c.names[ino] = m.where(ino)
					c.drop(ino)
				}
				switch w.rng.Intn(3) {
				case 0: // goes on living; what is clean leaves the cache
					w.quiet()
					w.r.flushAll()
					w.collect()
					for range 50 {
						w.quiet()
						w.step(Event{Kind: Tick})
					}
				default:
					w.crash()
					w.restart()
				}
				order := sortedInos(ever)
				w.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				for _, ino := range order {
					if w.r.inodes[ino] == nil {
						looked++
					}
					asked++
					rep := c.do(&wire.Request{Op: wire.OpLookup, Ino: ino, Name: "."})
					if m.links(ino) == 0 {
						if rep.Errno != uint32(eSTALE) {
							t.Fatalf("round %d: %v is deleted, its number answers %d", round, ino, rep.Errno)
						}
						continue
					}
					if rep.Errno != 0 || rep.Target.Ino != ino {
						t.Fatalf("round %d: number %v (%v): errno %d", round, ino, m.where(ino), rep.Errno)
					}
					if m.kids[ino] != nil {
						up := c.must(&wire.Request{Op: wire.OpLookup, Ino: ino, Name: ".."})
						if want := m.where(ino).parent; up.Target.Ino != want {
							t.Fatalf("round %d: above %v is %v, want %v", round, ino, up.Target.Ino, want)
						}
					}
					c.inside(m, ino, d[1+w.rng.Intn(len(d)-1)])
				}
			}
		})
	}
	if looked < asked/20 {
		t.Errorf("of %d numbers only %d were not cached: the index was hardly asked", asked, looked)
	}
}

// inside asks for ino as a mount of top would, and checks the answer against every name it has.
func (c *client) inside(m *model, ino, top wire.Ino) {
	c.w.t.Helper()
	var under func(i wire.Ino) bool
	under = func(i wire.Ino) bool {
		return i == top || i != root && under(m.where(i).parent)
	}
	want := ino == top
	for d, kids := range m.kids {
		for _, i := range kids {
			want = want || i == ino && under(d)
		}
	}
	rep := c.do(&wire.Request{Op: wire.OpLookup, Ino: ino, Name: ".", Other: top})
	if got := rep.Errno == 0; got != want || !got && rep.Errno != uint32(eSTALE) {
		c.w.t.Fatalf("%v below %v: errno %d, want found %v", ino, top, rep.Errno, want)
	}
}

// What has no name any more is stale by number also while somebody has it open, and a number
// of the system's own directories is nobody's.
func TestNumbersThatFindNothing(t *testing.T) {
	w := newWorld(t, 3)
	c, other := w.client(), w.client()
	f := c.create(root, "f")
	c.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "f"})
	if !slices.Contains(sortedInos(c.caps), f) {
		t.Fatal("the creator has no cap: the test does not keep the file from being purged")
	}
	for _, ino := range []wire.Ino{f, f + 1, f + 100_000, 3, 0x100} {
		other.fails(&wire.Request{Op: wire.OpLookup, Ino: ino, Name: "."}, eSTALE)
	}
	d := c.mkdir(root, "d")
	g := c.create(d, "g")
	other.fails(&wire.Request{Op: wire.OpLookup, Ino: g, Name: ".."}, eNOTDIR)
	for _, up := range []wire.Ino{root, d} {
		if rep := other.must(&wire.Request{Op: wire.OpLookup, Ino: up, Name: ".."}); rep.Target.Ino != root {
			t.Errorf("above %v is %v", up, rep.Target.Ino)
		}
	}
}
