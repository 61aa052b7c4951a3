package mds

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// A long journal takes more steps, not longer ones: between them the daemon sends its beacons.
func TestReplayGoesInPieces(t *testing.T) {
	w := newWorld(t, 1)
	w.r.cfg.MaxSegments = 1000
	c := w.client()
	for i := range 60 {
		ino := c.create(root, fmt.Sprintf("file-%d", i))
		c.must(&wire.Request{Op: wire.OpSetxattr, Ino: ino, Xname: "user.long", Xval: make([]byte, 60<<10)})
	}
	w.quiet()
	from, to := w.r.segs[0].at.Pos, w.r.jw.End()
	w.crash()
	w.nextLife()
	last, most, steps := from, journal.Pos(0), 0
	w.until("journal open", func() bool {
		if rp := w.r.replay; rp != nil && rp.reader.replay != nil {
			if at := rp.reader.replay.Pos(); at > last {
				most, last, steps = max(most, at-last), at, steps+1
			}
		}
		return w.r.jw != nil
	})
	if last != to {
		t.Errorf("seen to read up to %d, the journal ended at %d", last, to)
	}
	if most > 2*replayRead+100<<10 {
		t.Errorf("%d of %d bytes in one step", most, to-from)
	}
	if steps < 6 {
		t.Errorf("only %d steps: the journal is too short to say anything", steps)
	}
}
