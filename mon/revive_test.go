package mon

import (
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// A PG whose last member's store is gone goes on with the copy that an operator names: only then,
// in the interval that he saw, and with an OSD that is up.
func TestALostPGGoesOnWithTheCopyThatIsNamed(t *testing.T) {
	w := newWorld(t, 3) // so that all of them have it
	// osd.0 is dropped with its data whole; then the disks of the other two go.
	w.down(0)
	w.do(w.drop(0))
	revive := func(o, uuid int) *PGRevive {
		return &PGRevive{PG: pg0, Interval: w.cfg().Interval, Heir: mb(o, uuid)}
	}
	w.do(bootOf(0, 1, 2))
	w.refuses(EPERM, revive(0, 1))
	w.do(bootOf(1, 2, 2))
	w.refuses(EPERM, revive(0, 1))
	w.do(bootOf(2, 2, 2))
	if cfg := w.cfg(); !w.s.OSD.Lost(cfg) || cfg.Primary != wire.NoOSD || len(cfg.InSync) != 1 {
		t.Fatalf("not lost: %+v", cfg)
	}
	w.refuses(EAGAIN, revive(0, 9))
	late := revive(0, 1)
	late.Interval--
	w.refuses(ESTALE, late)
	w.do(revive(0, 1))
	if cfg := w.cfg(); len(cfg.InSync) != 1 || !cfg.Has(mb(0, 1)) || cfg.Primary != 0 || w.s.OSD.Lost(cfg) {
		t.Fatalf("%+v", cfg)
	}
	w.refuses(EPERM, revive(1, 2))
}
