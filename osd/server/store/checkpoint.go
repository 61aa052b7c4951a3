package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"
	"time"

	"github.com/capstan-fs/capstan/journal"
)

// A checkpoint, step by step. (1) Freeze, under mu: note the end of the log; give every
// buffer a fresh block; encode every changed record. (2) Write the buffers to their blocks,
// sync the block file. (3) Wait until the log is durable up to the noted end: the database
// must not be ahead of it. (4) One database transaction with all changes and the log's new
// beginning. (5) Under mu again: let go of buffers and pairs; what was freed before the freeze
// is given back and becomes free, the log before the noted end is room (space.go). A crash before (4) leaves the old state
// and a log that leads from there to here; the blocks of (1) are then free again.

// frozenBuf is a buffer on its way to the block file.
type frozenBuf struct {
	o   *object
	i   uint32
	b   *buf
	ref ref
}

// checkpoint is one of them, between freeze and finish.
type checkpoint struct {
	mark  journal.Mark
	batch *batch
	objs  []*object
	freed []extent
	n     uint32 // blocks in freed
}

func (s *Store) checkpointLoop() {
	defer s.wg.Done()
	var tick <-chan time.Time
	if s.o.CheckpointMax > 0 {
		t := time.NewTicker(s.o.CheckpointMax)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		case <-tick:
		}
		if err := s.checkpoint(); err != nil {
			s.mu.Lock()
			s.fail(fmt.Errorf("checkpoint: %w", err))
			s.mu.Unlock()
			return
		}
	}
}

func (s *Store) checkpoint() error {
	s.mu.Lock()
	s.ckptWant = false
	if s.failed != nil {
		s.mu.Unlock()
		return nil
	}
	if s.w.End() == s.header.Expire.Pos && !s.moved {
		s.ckptCount++ // nothing was submitted since the last one
		s.room.Broadcast()
		worst := s.nextScattered()
		s.mu.Unlock()
		if worst != nil {
			s.gather(worst)
		}
		return nil
	}
	s.ckptBusy = true
	c, h := s.freeze(), s.header
	s.mu.Unlock()

	if err := s.writeFrozen(); err != nil {
		return fmt.Errorf("%s: %w", blockName, err)
	}
	s.mu.Lock()
	for s.failed == nil && s.w.Durable() < c.mark.Pos {
		s.room.Wait()
	}
	h.Expire, h.Durable = c.mark, s.w.Durable()
	failed := s.failed
	s.mu.Unlock()
	if failed != nil {
		return failed
	}
	c.batch.set(bktState, []byte("header"), h.Encode())
	if err := s.updateMeta(c.batch); err != nil {
		return fmt.Errorf("%s: %w", metaName, err)
	}
	s.finish(c, h)
	return nil
}

// freeze collects what the checkpoint will store. Caller holds mu.
func (s *Store) freeze() *checkpoint {
	c := &checkpoint{mark: s.w.Mark(), batch: newBatch(), freed: s.freed, n: s.nfreed}
	s.freed, s.nfreed, s.moved = nil, 0, false
	for _, id := range s.deadOmap {
		c.batch.drop = append(c.batch.drop, prefix{bktOmap, omapKey(id, "")})
	}
	s.deadOmap = nil
	s.omap.Ascend(func(it omapItem) bool {
		if it.bad {
			c.batch.spoil(bktOmap, omapKey(it.id, it.key))
		} else {
			c.batch.set(bktOmap, omapKey(it.id, it.key), it.val)
		}
		return true
	})
	s.omapOld, s.omap = s.omap, newOmapTree()
	for _, p := range s.pgs {
		s.freezePG(c, p)
	}
	c.batch.set(bktState, []byte("omap"), binary.BigEndian.AppendUint64(nil, s.nextOmap))
	s.dirtyKeys, s.dirtyBufs = 0, 0
	return c
}

func (s *Store) freezePG(c *checkpoint, p *pgState) {
	p.dirty.Ascend(func(o *object) bool {
		s.freezeBufs(c, o)
		key := append(pgKey(p.id), o.name...)
		if o.exists {
			c.batch.set(bktObj, key, o.encode())
		} else {
			c.batch.set(bktObj, key, nil)
		}
		o.dirty, o.flushing = false, true
		c.objs = append(c.objs, o)
		return true
	})
	for _, v := range p.logGone {
		c.batch.set(bktLog, logKey(p.id, v), nil)
	}
	p.logGone = nil
	for i := len(p.log) - 1; i >= 0 && !p.log[i].stored; i-- {
		// Behind the removals: a version may have been dropped and appended again.
		c.batch.set(bktLog, logKey(p.id, p.log[i].Version), append([]byte{}, p.log[i].Rec...))
		p.log[i].stored = true
	}
	for _, k := range sortedNames(p.metaDirty) {
		v, ok := p.meta[k]
		if ok && v == nil {
			v = []byte{}
		}
		c.batch.set(bktMeta, append(pgKey(p.id), k...), v)
	}
	clear(p.metaDirty)
	if p.headDirty {
		if p.empty() {
			c.batch.set(bktPG, pgKey(p.id), nil)
		} else {
			c.batch.set(bktPG, pgKey(p.id), p.encodeHead())
		}
		p.headDirty = false
	}
}

// freezeBufs gives the object's buffers fresh blocks, side by side where there is room.
func (s *Store) freezeBufs(c *checkpoint, o *object) {
	if len(o.bufs) == 0 {
		return
	}
	idx := make([]uint32, 0, len(o.bufs))
	for i := range o.bufs {
		idx = append(idx, i)
	}
	sort.Slice(idx, func(a, b int) bool { return idx[a] < idx[b] })
	extents := s.alloc.alloc(nil, uint32(len(idx)))
	s.reserved -= uint32(len(idx))
	for k, e := 0, 0; k < len(idx); e++ {
		for n := range extents[e].n {
			i := idx[k]
			b := o.bufs[i]
			if old := o.ref(i); old.phys != 0 {
				c.freed = append(c.freed, extent{old.phys, 1})
				c.n++
			}
			b.frozen = true
			r := ref{extents[e].phys + n, crc32.Checksum(b.b[:], castagnoli)}
			if b.bad {
				r.crc = ^r.crc // as bad on the disk as it is here
			}
			o.setRef(i, r)
			s.frozen = append(s.frozen, &frozenBuf{o, i, b, r})
			k++
		}
	}
}

// writeFrozen writes the frozen buffers, which nobody changes, and makes the block file durable.
func (s *Store) writeFrozen() error {
	if len(s.frozen) == 0 {
		return nil // direct writes are synced by the commits that this checkpoint waits for
	}
	fs := s.frozen
	run := make([]byte, 0, 64*BlockBytes)
	for a := 0; a < len(fs); {
		run = append(run[:0], fs[a].b.b[:]...)
		b := a + 1
		for b < len(fs) && b-a < 64 && fs[b].ref.phys == fs[a].ref.phys+uint32(b-a) {
			run = append(run, fs[b].b.b[:]...)
			b++
		}
		if err := s.data.write(extent{fs[a].ref.phys, uint32(b - a)}, run); err != nil {
			return err
		}
		a = b
	}
	return s.data.f.Sync()
}

// finish lets go of what the checkpoint has stored.
func (s *Store) finish(c *checkpoint, h journal.Header) {
	s.mu.Lock()
	for _, f := range s.frozen {
		if f.o.bufs[f.i] == f.b {
			delete(f.o.bufs, f.i)
		}
		f.b.frozen = false
		s.spareBufs = append(s.spareBufs, f.b)
	}
	if keep := s.o.DirtyBytes / BlockBytes / 4; len(s.spareBufs) > keep {
		clear(s.spareBufs[keep:])
		s.spareBufs = s.spareBufs[:keep]
	}
	s.frozen = s.frozen[:0]
	for _, o := range c.objs {
		s.settle(o)
	}
	s.omapOld = nil
	s.header = h
	s.ckptCount++
	s.count.Checkpoints++
	s.awaitReaders() // none has a freed block in hand now, and none will get one
	chunks, taken := s.giveBack(c.freed)
	s.mu.Unlock()
	punched, ok := s.punch(chunks)

	s.mu.Lock()
	s.count.Punched += punched
	s.noPunch = s.noPunch || !ok
	for _, e := range c.freed {
		s.alloc.release(e)
	}
	for _, e := range taken {
		s.alloc.release(e)
	}
	s.ckptBusy = false
	s.room.Broadcast()
	s.noteScattered(c.objs)
	worst := s.nextScattered()
	s.mu.Unlock()
	if worst != nil {
		s.gather(worst)
	}
}
