package clustermap

import (
	"fmt"
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// Whatever a pool grows from and to: an object's new PG comes from its old one, and the objects
// of a PG that does not split stay. OSDs, monitors and clients all rely on it.
func TestSplitMovesObjectsToTheirPGsDescendantsOnly(t *testing.T) {
	for n := uint32(1); n <= 40; n++ {
		for _, m := range []uint32{n, n + 1, n + 3, 2 * n, 3*n + 1, 8 * n, 1000} {
			if m < n {
				continue
			}
			moved := 0
			for i := range 400 {
				name := fmt.Sprintf("%x.%08d", i*7919, i)
				from, to := PGNumOf(name, n), PGNumOf(name, m)
				if SplitFrom(to, n) != from {
					t.Fatalf("%q: of %d PGs in %d, of %d in %d, which comes from %d", name, n, from, m, to, SplitFrom(to, n))
				}
				into := SplitInto(wire.PGID{Num: from}, n, m)
				if to != from && !slices.Contains(into, wire.PGID{Num: to}) {
					t.Fatalf("%q goes from %d to %d, which is not in %v", name, from, to, into)
				}
				if to != from {
					moved++
				}
			}
			if m == 2*n && (moved < 120 || moved > 280) {
				t.Errorf("%d to %d PGs: %d of 400 objects moved, not about half", n, m, moved)
			}
		}
	}
}
