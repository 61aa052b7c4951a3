package mds

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

func TestSessionOpenCreateLookupGetattr(t *testing.T) {
	w := newCapWorld(t)
	c1 := w.client("c1")
	if c1.open.ValidityMs != 15000 || c1.open.RootStat.Ino != wire.RootIno {
		t.Fatalf("%+v", c1.open)
	}
	ino := c1.create("f", wW)
	c1.has(ino, "pAsLsXsFsxcrwa")
	c1.write(ino, 10)
	c2 := w.client("c2")
	rep := c2.must(wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: "f"})
	if rep.Target.Valid&wire.MaskFile != 0 {
		t.Fatal("the size is the writer's to know")
	}
	rep = c2.must(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskAll})
	if rep.Target.Valid != wire.MaskAll || rep.Target.Attr.Size != 10 {
		t.Fatalf("%+v", rep.Target)
	}
}
