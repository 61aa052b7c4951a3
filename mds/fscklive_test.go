package mds

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A reading that takes hundreds of steps of the rank, names moving under it all the while, is
// one moment all the same: nothing is found, at the first reading.
func TestFsckWhileTheTreeMoves(t *testing.T) {
	for seed := int64(1); seed <= 20; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			cs := scramble(w, 3, 60)
			w.r.cfg.MaxSegments = 1000 // what is read too slowly is another matter (overtaken)
			dirs := []wire.Ino{root}
			for i := range 3 {
				dirs = append(dirs, cs[0].lookup(root, fmt.Sprintf("d%d", i)))
			}
			w.between = func() {
				for range 2 {
					cs[w.rng.Intn(len(cs))].ask(randomOp(w, dirs))
					for n := w.rng.Intn(12); n > 0; n-- {
						w.progress()
					}
				}
				if w.rng.Intn(3) == 0 {
					w.r.flushAll() // objects show the moves as well, some of them
					w.r.settle()
					w.collect()
				}
			}
			w.fsck("beside a moving rank")
		})
	}
}
