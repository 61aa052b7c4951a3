package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

const (
	replayRead  = 256 << 10 // bytes per read, applied in one step; divides journal.ObjectBytes
	replayAhead = 8         // reads under way
)

// journalReader reads the journal's objects ahead of a replay that follows it.
type journalReader struct {
	chunks map[journal.Pos][]byte // read, and not wholly behind the replay; empty: nothing is stored there
	first  journal.Pos            // the oldest chunk kept
	asked  journal.Pos            // what was asked for ends here
	have   journal.Pos            // what is there without a gap ends here
	absent int                    // bytes before have in which nothing is stored
	replay *journal.Replayer
}

// readJournal begins to read where the header says.
func (r *Rank) readJournal(h journal.Header) {
	jr := &r.replay.reader
	jr.chunks = map[journal.Pos][]byte{}
	jr.first = h.Expire.Pos / replayRead * replayRead
	jr.asked, jr.have = jr.first, jr.first
	jr.replay = journal.NewReplayer(jr.read, h, journal.DefaultLimits)
	for range replayAhead {
		r.readChunk()
	}
}

// readChunk asks for the next bytes.
func (r *Rank) readChunk() {
	jr := &r.replay.reader
	at := jr.asked
	jr.asked += replayRead
	obj := wire.ObjectID{Pool: r.cfg.MetaPool, Name: journal.ObjectName(r.journalPrefix(), uint64(at)/journal.ObjectBytes)}
	ops := []wire.ObjOp{{Kind: wire.ObjRead, Off: uint64(at) % journal.ObjectBytes, Len: replayRead}}
	r.object(0, obj, ops, func(e uint32, res []wire.ObjResult) {
		if jr.chunks == nil {
			return // behind the end
		}
		switch {
		case errno(e) == eNOENT:
			jr.chunks[at] = nil
		case e != 0 || len(res) != 1:
			r.damaged(fmt.Errorf("mds: read journal at %d: errno %d", at, e))
			return
		default:
			jr.chunks[at] = res[0].Data
		}
		r.chunksCame()
	})
}

// chunksCame applies some of what is there without a gap, and ends when nothing was stored for a
// whole window: by then the reads of that window have caught up with all before it.
func (r *Rank) chunksCame() {
	jr := &r.replay.reader
	for {
		b, ok := jr.chunks[jr.have]
		if !ok {
			break
		}
		jr.have += replayRead
		if jr.absent += replayRead; len(b) > 0 {
			jr.absent = 0
		}
	}
	if jr.absent > journal.DefaultLimits.Window()+replayRead {
		r.journalRead()
		return
	}
	if ahead := journal.Pos(journal.DefaultLimits.Ahead()); jr.have > ahead {
		// Two reads' worth: what came out of turn does not make one long step.
		if err := jr.replay.Until(min(jr.have-ahead, jr.replay.Pos()+2*replayRead), r.applyRecord); err != nil {
			r.damaged(err)
			return
		}
		jr.forget()
	}
	for jr.asked < jr.have+replayAhead*replayRead {
		r.readChunk()
	}
}

// journalRead ends the replay: all is there.
func (r *Rank) journalRead() {
	jr := &r.replay.reader
	end, err := jr.replay.Finish(r.applyRecord)
	jr.chunks, jr.replay = nil, nil
	if err != nil {
		r.damaged(err)
		return
	}
	r.recallPurged()
	r.recallOwing()
	r.replayed(end)
}

func (r *Rank) applyRecord(rec journal.Record) error {
	e, err := decodeEntry(rec.Data)
	if err != nil {
		return err
	}
	if err := r.applyEntry(e, journal.Mark{Pos: rec.Pos, Seq: rec.Seq, Inc: rec.Inc}, rec.End); err != nil {
		return fmt.Errorf("mds: journal entry at %d: %w", rec.Pos, err)
	}
	return nil
}

// forget lets go of chunks that the replay does not need again.
func (jr *journalReader) forget() {
	for jr.first+replayRead <= jr.replay.Pos() {
		delete(jr.chunks, jr.first)
		jr.first += replayRead
	}
}

// read is the replay's journal.ReadFunc.
func (jr *journalReader) read(off journal.Pos, n int) ([]byte, error) {
	var out []byte
	for len(out) < n {
		at := off / replayRead * replayRead
		c := jr.chunks[at]
		skip := int(off - at)
		if skip >= len(c) {
			break
		}
		part := c[skip:min(len(c), skip+n-len(out))]
		out = append(out, part...)
		off += journal.Pos(len(part))
		if skip+len(part) < replayRead {
			break
		}
	}
	return out, nil
}
