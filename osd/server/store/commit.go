package store

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// walFile is the log's place: a header block, then a ring.
type walFile struct {
	f    crashdisk.File
	ring journal.Ring
}

// makeWAL writes the whole ring once: a write into space that was never written makes the
// file system commit its own journal at every sync.
func makeWAL(f crashdisk.File, id wire.UUID, size int64) error {
	size = max(size/BlockBytes, 4) * BlockBytes
	if _, err := f.WriteAt(fileHeader(walMagic, id, size), 0); err != nil {
		return err
	}
	const step = 1 << 20
	zero := make([]byte, min(step, size))
	for at := int64(0); at < size; at += step {
		if _, err := f.WriteAt(zero[:min(step, size-at)], BlockBytes+at); err != nil {
			return err
		}
	}
	return nil
}

func (w *walFile) write(off journal.Pos, b []byte) error {
	at, first := w.ring.At(off, len(b))
	if _, err := w.f.WriteAt(b[:first], at); err != nil {
		return err
	}
	if first == len(b) {
		return nil
	}
	_, err := w.f.WriteAt(b[first:], w.ring.Base)
	return err
}

// read serves journal.Replay: at most one round of the ring from the position where the log
// begins.
func (w *walFile) read(from journal.Pos) journal.ReadFunc {
	return func(off journal.Pos, n int) ([]byte, error) {
		n = int(min(int64(n), w.ring.Size-int64(off-from)))
		if n <= 0 {
			return nil, nil
		}
		b := make([]byte, n)
		at, first := w.ring.At(off, n)
		if _, err := w.f.ReadAt(b[:first], at); err != nil && err != io.EOF {
			return nil, err
		}
		if first < n {
			if _, err := w.f.ReadAt(b[first:], w.ring.Base); err != nil && err != io.EOF {
				return nil, err
			}
		}
		return b, nil
	}
}

// commitLoop makes the log durable; two of it run, so that the next group is on its way while
// one is being synced. Whoever ends a group also tells the submitters, unless the other one is
// at that already: a submitter's callback may block on a lock that a waiting Submit holds, and
// then the other loop goes on committing, which is what that Submit waits for.
func (s *Store) commitLoop() {
	defer s.wg.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.tell()
		off, b, ok := journal.Pos(0), []byte(nil), false
		if s.failed == nil {
			if s.w.InFlight() == 1 && s.w.Queued() {
				// The disk is busy anyway. Submitters that the last commit has woken get their
				// turn before the group closes: larger groups, fewer syncs, no timer.
				s.mu.Unlock()
				runtime.Gosched()
				s.mu.Lock()
			}
			off, b, ok = s.w.Next()
		}
		if !ok {
			if s.closing && (s.failed != nil || !s.w.Queued() && s.w.InFlight() == 0) && len(s.ready) == 0 {
				return
			}
			s.work.Wait()
			continue
		}
		// Every large write of these records was launched before they were logged; its bytes
		// must be durable before the record can be.
		began, direct := time.Now(), s.launched
		syncData := s.synced < direct
		err := s.awaitLanding(direct)
		s.mu.Unlock()
		if err == nil {
			err = s.commit(off, b, syncData)
		}
		took := time.Since(began)
		s.mu.Lock()
		s.count.CommitTook.Add(int64(took))
		if err != nil {
			s.fail(err)
			continue
		}
		if syncData {
			s.synced = max(s.synced, direct)
		}
		s.count.Commits++
		s.count.LogBytes += uint64(len(b))
		durable := s.w.Done(off)
		n := 0
		for n < len(s.waiting) && s.waiting[n].pos <= durable {
			n++
		}
		if n > 0 {
			s.ready = append(s.ready, s.waiting[:n]...)
			clear(s.waiting[copy(s.waiting, s.waiting[n:]):])
			s.waiting = s.waiting[:len(s.waiting)-n]
		}
		if s.ckptBusy {
			s.room.Broadcast() // it waits for what it shows to be durable
		}
		if s.closing || s.w.Queued() {
			s.work.Signal()
		}
	}
}

func (s *Store) commit(off journal.Pos, b []byte, syncData bool) error {
	if syncData {
		if err := s.data.f.Sync(); err != nil {
			return fmt.Errorf("%s: %w", blockName, err)
		}
	}
	if err := s.wal.write(off, b); err != nil {
		return fmt.Errorf("%s: %w", walName, err)
	}
	if err := s.wal.f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", walName, err)
	}
	return nil
}

// tell calls the callbacks that are due, outside of mu, one loop at a time.
func (s *Store) tell() {
	if s.telling || len(s.ready) == 0 {
		return
	}
	s.telling = true
	var batch []completion
	for len(s.ready) > 0 {
		batch, s.ready = s.ready, batch[:0]
		s.mu.Unlock()
		for i := range batch {
			batch[i].done(batch[i].err)
		}
		clear(batch)
		s.mu.Lock()
	}
	s.telling = false
	if s.closing {
		s.work.Broadcast()
	}
}
