package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// What a rank has promised to take away from data objects goes in the end, whenever it dies.

// fileOf makes a file f of so many blocks with bytes in each.
func (w *world) fileOf(c *client, blocks uint64) wire.Ino {
	f := c.create(root, "f")
	c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: blocks * 4096}})
	for i := range blocks {
		w.object(wire.DataObject(2, f, i), true).write(0, make([]byte, 4096))
	}
	return f
}

// A truncate that dies between its entry and its last object is done again before anybody may
// write there.
func TestTruncateIsRedoneAfterACrash(t *testing.T) {
	for seed := int64(1); seed <= 40; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		f := w.fileOf(c, 20)
		w.quiet()
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 4096 + 1}})
		for n := w.rng.Intn(20); n > 0; n-- {
			w.progress()
		}
		w.crash()
		w.restart()
		w.quiet()
		if a := c.stat(f); a.Size != 4097 {
			t.Fatalf("seed %d: size %d", seed, a.Size)
		}
		w.until("cut", func() bool { return len(w.r.cuts) == 0 && w.r.inodes[f].rec.CutFrom == 0 })
		for i := uint64(1); i < 20; i++ {
			o := w.object(wire.DataObject(2, f, i), false)
			if i == 1 && len(o.data) != 1 || i > 1 && o != nil {
				t.Fatalf("seed %d: block %d was not cut", seed, i)
			}
		}
	}
}

// A rank that is stopped right after its replay, before it has taken up the truncates that it
// found, leaves them to the next one.
func TestStopAfterReplayKeepsTheCuts(t *testing.T) {
	stopped := 0
	for seed := int64(1); seed <= 40; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		f := w.fileOf(c, 20)
		w.quiet()
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: f, Set: wire.SetSize, Attr: wire.SetAttr{Size: 4096}})
		w.crash()
		w.nextLife()
		w.until("journal open", func() bool { return w.r.jw != nil })
		if len(w.r.cuts) == 0 && w.r.inodes[f] != nil && w.r.inodes[f].rec.CutFrom != 0 {
			stopped++
		}
		w.step(Event{Kind: Stop})
		w.until("stopped", func() bool { return w.r.State() == clustermap.RankStopped })
		w.crash()
		w.restart()
		w.quiet()
		for i := uint64(1); i < 20; i++ {
			if o := w.object(wire.DataObject(2, f, i), false); o != nil {
				t.Fatalf("seed %d: block %d was not cut", seed, i)
			}
		}
	}
	if stopped == 0 {
		t.Fatal("no stop came between replay and the cuts")
	}
}

// Purging survives crashes too: the objects of an unlinked file go in the end, and its number
// is not seen again.
func TestPurgeIsRedoneAfterACrash(t *testing.T) {
	for seed := int64(1); seed <= 40; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		f := w.fileOf(c, 50)
		c.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "f"})
		c.drop(f)
		for n := w.rng.Intn(40); n > 0; n-- {
			w.progress()
		}
		w.crash()
		w.restart()
		w.quiet()
		for i := uint64(0); i < 50; i++ {
			if w.object(wire.DataObject(2, f, i), false) != nil {
				t.Fatalf("seed %d: block %d is left\n%s", seed, i, w.dump())
			}
		}
		if w.r.inodes[f] != nil {
			t.Fatalf("seed %d: the inode is left", seed)
		}
	}
}
