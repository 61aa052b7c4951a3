package store

import (
	"sort"

	"github.com/capstan-fs/capstan/wire"
)

// Space goes back to the file system by holes in the block file, in chunks of 64 KiB that are
// wholly free: smaller holes would cost the file system more than they bring. Only what a
// checkpoint frees is looked at, together with what lies free beside it in the same chunk.
const punchBlocks = 16

// giveBack collects the chunks that will be free once freed is, and takes what is free of them
// already, so that nobody is given it while the holes are made. Caller holds mu; freed is taken.
func (s *Store) giveBack(freed []extent) (chunks, taken []extent) {
	if s.noPunch {
		return nil, nil
	}
	mine := map[uint32]uint32{} // chunk to blocks of it that are freed
	for _, e := range freed {
		for b := e.phys; b < e.phys+e.n; {
			end := min(e.phys+e.n, (b/punchBlocks+1)*punchBlocks)
			mine[b/punchBlocks] += end - b
			b = end
		}
	}
	order := make([]uint32, 0, len(mine))
	for c := range mine {
		order = append(order, c)
	}
	sort.Slice(order, func(i, j int) bool { return order[i] < order[j] })
	for _, c := range order {
		from, end := c*punchBlocks, min((c+1)*punchBlocks, s.alloc.total)
		used := uint32(0)
		for b := from; b < end; b++ {
			if s.alloc.taken(b) {
				used++
			}
		}
		if used != mine[c] { // others, the header among them, lie there too
			continue
		}
		for b := from; b < end; b++ {
			if !s.alloc.taken(b) {
				s.alloc.take(extent{b, 1})
				taken = append(taken, extent{b, 1})
			}
		}
		if k := len(chunks) - 1; k >= 0 && chunks[k].phys+chunks[k].n == from {
			chunks[k].n += end - from
		} else {
			chunks = append(chunks, extent{from, end - from})
		}
	}
	return chunks, taken
}

// punch makes the holes. A file system that cannot is not asked again.
func (s *Store) punch(chunks []extent) (bytes uint64, ok bool) {
	for _, e := range chunks {
		if err := s.data.f.Punch(int64(e.phys)*BlockBytes, int64(e.n)*BlockBytes); err != nil {
			return bytes, false
		}
		bytes += uint64(e.n) * BlockBytes
	}
	return bytes, true
}

// Many small overwrites scatter an object, for each goes to a fresh block. One with more than
// Options.MaxRuns runs, and fewer than goodRun blocks in each, is read after a checkpoint and
// put among the small writes of the next, which lays it side by side. Nothing is logged: its
// bytes are the same. One object for each checkpoint, the worst; the others wait, and a store at
// rest goes on with them.
const goodRun = 8

// place names an object.
type place struct {
	pg   wire.PGID
	name string
}

// maxScattered is how many objects wait to be put together; of more the worst are kept.
const maxScattered = 1024

// noteScattered remembers those objects of a checkpoint that are to be put together. Caller holds mu.
func (s *Store) noteScattered(objs []*object) {
	for _, o := range objs {
		at := place{o.pg.id, o.name}
		if !o.exists || o.runs <= uint32(s.o.MaxRuns) || o.runs*goodRun <= o.used {
			delete(s.scattered, at)
			continue
		}
		if len(s.scattered) >= maxScattered {
			least, min := place{}, o.runs
			for p, n := range s.scattered {
				if n < min {
					least, min = p, n
				}
			}
			if min == o.runs {
				continue
			}
			delete(s.scattered, least)
		}
		s.scattered[at] = o.runs
	}
}

// nextScattered takes the worst of them, nil: there is none. Caller holds mu.
func (s *Store) nextScattered() *object {
	for len(s.scattered) > 0 {
		worst, most := place{}, uint32(0)
		for p, n := range s.scattered {
			if n > most || n == most && (p.name < worst.name || p.name == worst.name && p.pg.Num < worst.pg.Num) {
				worst, most = p, n
			}
		}
		delete(s.scattered, worst)
		if o, err := s.peek(worst.pg, worst.name); err == nil && o != nil {
			return o
		}
	}
	return nil
}

// gather makes buffers of all of the object's blocks. An object that changes meanwhile keeps
// what is new; a bad block stays where it is.
func (s *Store) gather(o *object) {
	type block struct {
		i uint32
		r ref
		b *buf
	}
	var todo []block
	s.mu.Lock()
	defer s.unpin(s.pin())
	room := s.o.DirtyBytes/2 - s.dirtyBufs*BlockBytes
	if o.exists && int(o.used)*BlockBytes <= room && s.avail() >= o.used+s.reserveBlocks() && s.failed == nil && !s.closing {
		for i, r := range o.refs {
			if r.phys != 0 && o.bufs[uint32(i)] == nil && s.inFlight(r.phys) == nil {
				todo = append(todo, block{i: uint32(i), r: r, b: s.newBuf()})
			}
		}
	}
	s.mu.Unlock()
	good := todo[:0]
	for _, x := range todo {
		if bad, _ := s.data.read(x.b.b[:], []ref{x.r}); bad < 0 {
			good = append(good, x)
		}
	}
	if len(good) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pgs[o.pg.id] != o.pg || o.pg.objs[o.name] != o { // gone from memory meanwhile
		return
	}
	moved := false
	for _, x := range good {
		if o.exists && o.ref(x.i) == x.r && o.bufs[x.i] == nil && s.avail() > s.reserveBlocks() {
			if o.bufs == nil {
				o.bufs = map[uint32]*buf{}
			}
			o.bufs[x.i] = x.b
			s.reserved++
			s.dirtyBufs++
			s.count.Moved += BlockBytes
			moved = true
		} else {
			s.spareBufs = append(s.spareBufs, x.b)
		}
	}
	if moved {
		s.touch(o)
		s.moved = true
	}
}
