package fuse

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A directory found at another place is another inode for the kernel, until that forgets
// the first; what the kernel moves itself keeps its node id.
func TestPlacesOfADirectory(t *testing.T) {
	const a, b, d = 10, 11, 1 << 40
	p := newPlaces(wire.RootIno)
	show := func(dir uint64, name string, want uint64, fresh bool) {
		t.Helper()
		if id, f := p.show(dir, name, d); id != want || f != fresh || p.ino(id) != d {
			t.Fatalf("%d/%s: node id %#x fresh %v, want %#x %v", dir, name, id, f, want, fresh)
		}
	}
	const second, third = d | 1<<inoBits, d | 2<<inoBits
	show(a, "x", d, true)
	show(a, "x", d, false)
	show(b, "x", second, true) // moved by another host
	show(a, "x", d, false)     // and back
	show(b, "x", second, false)
	p.renamed(place{b, "x"}, place{b, "y"}, false) // by the kernel
	show(b, "y", second, false)
	show(b, "x", third, true)
	if n := p.others(d); len(n) != 2 || n[0] != second || n[1] != third {
		t.Fatalf("others: %#x", n)
	}
	p.forget(d, 3)
	show(b, "y", second, false) // the first id is gone, the one in use stays
	show(a, "x", d, true)
	p.forget(d, 1)
	p.forget(second, 4)
	p.forget(third, 1)
	if len(p.at)+len(p.all)+len(p.ids) != 0 {
		t.Fatalf("left over: %v %v %v", p.at, p.all, p.ids)
	}
}

func TestPlacesExchanged(t *testing.T) {
	p := newPlaces(wire.RootIno)
	x, _ := p.show(1, "x", 1<<40)
	y, _ := p.show(1, "y", 1<<40+1)
	p.renamed(place{1, "x"}, place{1, "y"}, true)
	if id, fresh := p.show(1, "y", p.ino(x)); id != x || fresh {
		t.Fatal("x was not followed")
	}
	if id, fresh := p.show(1, "x", p.ino(y)); id != y || fresh {
		t.Fatal("y was not followed")
	}
	p.renamed(place{1, "x"}, place{1, "y"}, false) // y replaces x
	if id, _ := p.show(1, "y", p.ino(y)); id != y {
		t.Fatal("y was not followed over x")
	}
}
