package store

import (
	"fmt"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/osd"
)

// Submit applies t at once for every later read and calls done when it is durable, never from
// inside Submit, in the order of the log. It waits while too much is held in memory or in the
// log or is on its way to the block file, until there is room; nothing that done does can be in
// the way of that. Bytes that go straight to the block file are read after it has returned.
func (s *Store) Submit(t *osd.Txn, done func(error)) {
	pl := plans.Get().(*plan)
	defer pl.release()
	err := pl.build(t, s.o.DirectBytes)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = s.admit(pl)
	}
	if err == nil && pl.direct > 0 {
		pl.extents = s.alloc.alloc(pl.extents, uint32(pl.direct))
		pl.place()
		s.launch(pl)
	}
	if err == nil {
		err = s.pg(t.PG).checkLog(t)
	}
	if err == nil {
		err = s.apply(pl)
	}
	s.dropBases()
	if err != nil {
		s.fail(err)
		if s.closing { // the loops that tell may have gone home
			go done(s.failed)
			return
		}
		s.ready = append(s.ready, completion{done: done, err: s.failed})
		s.work.Signal()
		return
	}
	s.count.Txns++
	s.waiting = append(s.waiting, completion{pos: s.log(pl), done: done})
	if s.w.InFlight() < 2 {
		s.work.Signal()
	}
	if s.wantsCheckpoint() {
		s.askCheckpoint()
	}
}

// log appends the transaction to the log and returns where it ends.
func (s *Store) log(pl *plan) (pos journal.Pos) {
	limit := s.o.Limits.Record
	if pl.bytes < limit {
		b := s.w.Begin()
		b = append(b, partFirst|partLast)
		b = pl.encode(b)
		if s.w.Len(b) > pl.bytes {
			must.Holdf(false, "log record of %d bytes, estimated %d", s.w.Len(b), pl.bytes)
		}
		return s.w.Commit(b)
	}
	rec := pl.encode(make([]byte, 0, pl.bytes))
	must.Holdf(len(rec) < pl.bytes, "log record of %d bytes, estimated %d", len(rec), pl.bytes)
	part := byte(partFirst)
	for len(rec) > 0 {
		n := min(len(rec), limit-1)
		if n == len(rec) {
			part |= partLast
		}
		b := append(s.w.Begin(), part)
		pos = s.w.Commit(append(b, rec[:n]...))
		rec, part = rec[n:], 0
	}
	return pos
}

// logBytes is an upper bound of what the transaction takes in the log.
func (s *Store) logBytes(pl *plan) int64 {
	parts := pl.bytes/(s.o.Limits.Record-1) + 1
	return int64(pl.bytes + parts*(journal.HeaderBytes+16))
}

// reserveBlocks are kept for transactions that give space back but need a block to do so.
func (s *Store) reserveBlocks() uint32 { return min(256, s.alloc.total/64) }

// admit waits until there is room for the transaction: in memory, in the log, in the block
// file. Caller holds mu.
func (s *Store) admit(pl *plan) error {
	if max := s.wal.ring.Size - int64(s.o.Limits.Window()); s.logBytes(pl) > max/2 {
		return fmt.Errorf("%w: pg %v: %d bytes to be logged, at most %d", ErrTooLarge, pl.t.PG, s.logBytes(pl), max/2)
	}
	for {
		if s.failed != nil {
			return s.failed
		}
		if s.closing {
			return ErrClosed
		}
		if s.aloft > 0 && s.aloft+pl.direct*BlockBytes > maxAloft {
			s.room.Wait()
			continue
		}
		if s.logBytes(pl) > s.wal.ring.Room(s.header.Expire.Pos, s.w.End(), s.o.Limits) ||
			(s.dirtyBufs+len(s.frozen)) > 0 && (s.dirtyBufs+len(s.frozen)+pl.small)*BlockBytes > s.o.DirtyBytes ||
			s.dirtyKeys > 4*s.o.DirtyObjects {
			s.askCheckpoint()
			s.room.Wait()
			continue
		}
		need := uint32(pl.direct + pl.small)
		keep := uint32(0)
		if pl.grows {
			keep = s.reserveBlocks()
		}
		if s.avail() >= need+keep {
			return nil
		}
		if s.nfreed == 0 && s.dirtyBufs == 0 && !s.ckptBusy {
			return fmt.Errorf("%w: pg %v: %d blocks wanted, %d of %d left", ErrNoSpace, pl.t.PG, need, s.avail(), s.alloc.total-1)
		}
		s.askCheckpoint() // brings back what was freed, and what buffers replace
		s.room.Wait()
	}
}

// wantsCheckpoint says whether enough has changed for a checkpoint. Caller holds mu.
func (s *Store) wantsCheckpoint() bool {
	if s.ckptBusy || s.ckptWant {
		return false
	}
	room := s.wal.ring.Room(s.header.Expire.Pos, s.w.End(), s.o.Limits)
	return s.dirtyBufs*BlockBytes > s.o.DirtyBytes/2 || s.dirtyKeys > s.o.DirtyObjects ||
		room < (s.wal.ring.Size-int64(s.o.Limits.Window()))/2 ||
		s.nfreed > s.alloc.total/8
}
