package walk

import (
	"context"
	"fmt"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// flush has a rank's core bring the journal into the objects and stop, as the next holder would
// before anything else. No number below floor is given out afterwards.
func flush(ctx context.Context, o Objects, p fsck.Params, floor wire.Ino) error {
	r := mds.New(mds.Config{Rank: p.Rank, MetaPool: p.MetaPool, DataPool: p.DataPool, ObjectSize: p.ObjectSize, InoRanges: p.InoRanges, FlushOnly: true,
		InoFloor: floor, LogLevel: mds.LogError})
	events := []mds.Event{{Kind: mds.Start}}
	begun := time.Now()
	for len(events) > 0 && r.State() != clustermap.RankStopped {
		ev := events[0]
		events = events[1:]
		ev.Now, ev.Wall = int64(time.Since(begun))+1, p.Now
		eff := r.Step(ev)
		if eff.Exit != nil {
			return eff.Exit
		}
		for i := range eff.Journal {
			w := &eff.Journal[i]
			for _, piece := range journal.Pieces(w.Off, len(w.Bytes)) {
				obj := wire.ObjectID{Pool: p.MetaPool, Name: journal.ObjectName(mds.JournalPrefix(p.Rank), piece.Index)}
				data := append([]byte(nil), w.Bytes[piece.Skip:piece.Skip+piece.Len]...)
				if e, _, err := o.Do(ctx, obj, []wire.ObjOp{{Kind: wire.ObjWrite, Off: uint64(piece.Off), Data: data, DataLen: uint32(len(data))}}); err != nil || e != 0 {
					return fmt.Errorf("write %v: errno %d, %w", obj, e, err)
				}
			}
			events = append(events, mds.Event{Kind: mds.JournalDone, Off: w.Off})
		}
		for _, op := range append([]mds.ObjectOp(nil), eff.Objects...) {
			e, res, err := o.Do(ctx, op.Obj, op.Ops)
			if err != nil {
				return fmt.Errorf("flush the journal: %v: %w", op.Obj, err)
			}
			events = append(events, mds.Event{Kind: mds.ObjectDone, Token: op.Token, Errno: e, Res: res})
		}
	}
	if r.State() != clustermap.RankStopped {
		return fmt.Errorf("the journal of rank %d could not be flushed: its core waits in state %v", p.Rank, r.State())
	}
	return nil
}
