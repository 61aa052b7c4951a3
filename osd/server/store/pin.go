package store

import "sync/atomic"

// Blocks are read outside of mu. Before a freed block becomes free whoever may still have it in
// hand must have finished: a reader never meets another object's bytes. Readers pin the present
// generation, and a checkpoint begins the next one and waits for those of the last. Nobody else
// waits, neither for the checkpoint nor for readers, however long a disk takes.

// pins counts the readers of two generations: the present one and, while a checkpoint waits, the
// one before.
type pins struct {
	readers [2]atomic.Int64
	gen     int         // guarded by mu
	waited  atomic.Bool // a checkpoint waits
}

// pin keeps every block that an object refers to now from being used again. Caller holds mu.
func (s *Store) pin() int {
	s.pins.readers[s.pins.gen].Add(1)
	return s.pins.gen
}

func (s *Store) unpin(gen int) {
	if s.pins.readers[gen].Add(-1) == 0 && s.pins.waited.Load() {
		s.mu.Lock()
		s.room.Broadcast()
		s.mu.Unlock()
	}
}

// awaitReaders returns when everybody who had pinned before it was called has finished. Caller
// holds mu, and is the checkpoint.
func (s *Store) awaitReaders() {
	old := s.pins.gen
	s.pins.gen = 1 - old // nobody is left there since the last time
	s.pins.waited.Store(true)
	for s.pins.readers[old].Load() > 0 {
		s.room.Wait()
	}
	s.pins.waited.Store(false)
}
