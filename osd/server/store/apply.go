package store

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

// apply makes a transaction part of the newest state. Submit and replay both come here; an
// error (bad metadata) ends the store; a bad block under a partial overwrite does not, see
// base.go. Caller holds mu.
func (s *Store) apply(pl *plan) error {
	t := pl.t
	p := s.pg(t.PG)
	if t.RemovePG {
		return s.removePG(p)
	}
	p.applyLog(t)
	for k := range t.Objs {
		x := &t.Objs[k]
		o, err := s.object(p, x.Name)
		if err != nil {
			return err
		}
		if x.Remove {
			s.empty(o)
			continue
		}
		s.touch(o)
		if x.Replace {
			s.empty(o)
		}
		if !o.exists {
			o.exists = true
			p.count++
		}
		o.version = x.Version
		ops := pl.objOps(k)
		for i := range ops {
			s.step(o, &ops[i])
		}
	}
	p.applyMeta(t)
	return nil
}

func (s *Store) step(o *object, x *op) {
	switch x.kind {
	case wire.ObjWrite:
		s.writeSmall(o, x.off, x.data)
	case opBlocks:
		for i, r := range x.refs {
			s.dropBlock(o, uint32(x.off)+uint32(i))
			o.setRef(uint32(x.off)+uint32(i), r)
			o.addUsed(1)
		}
		o.size = max(o.size, (x.off+uint64(len(x.refs)))*BlockBytes)
	case wire.ObjTruncate:
		s.truncate(o, x.off)
	case wire.ObjZero:
		s.zero(o, x.off, x.len)
	case wire.ObjSetXattr:
		if o.xattrs == nil {
			o.xattrs = map[string][]byte{}
		}
		// A copy: the caller's slice may be a corner of a large frame, and this one stays.
		o.xattrs[x.key] = append([]byte{}, x.data...)
	case wire.ObjRmXattr:
		delete(o.xattrs, x.key)
	case wire.ObjOmapSet:
		for i := range x.pairs {
			s.omapPut(o, x.pairs[i].Key, append([]byte{}, x.pairs[i].Val...))
		}
	case wire.ObjOmapRemove:
		for _, k := range x.keys {
			s.omapPut(o, k, nil)
		}
	case wire.ObjOmapClear:
		s.omapClear(o)
	case wire.ObjOmapDamage:
		for _, k := range x.keys {
			s.omapDamage(o, k)
		}
	case wire.ObjDamage:
		for i, end := x.off/BlockBytes, min(blocksOf(x.off+x.len), blocksOf(o.size)); i < end; i++ {
			s.buffer(o, uint32(i), false).bad = true
		}
	}
}

func (s *Store) writeSmall(o *object, off uint64, data []byte) {
	end := off + uint64(len(data))
	for at := off; at < end; {
		i := uint32(at / BlockBytes)
		from := int(at % BlockBytes)
		n := min(int(end-at), BlockBytes-from)
		whole := from == 0 && (n == BlockBytes || end >= o.size) // behind the end it is zeros
		b := s.buffer(o, i, whole)
		copy(b.b[from:], data[at-off:at-off+uint64(n)])
		if whole {
			clear(b.b[n:])
		}
		at += uint64(n)
	}
	o.size = max(o.size, end)
}

// buffer returns a buffer of block i that may be changed, holding the block's newest content
// unless all of it is about to be overwritten.
func (s *Store) buffer(o *object, i uint32, whole bool) *buf {
	old := o.bufs[i]
	if old != nil && !old.frozen {
		old.bad = old.bad && !whole
		return old
	}
	b, r := (*buf)(nil), o.ref(i)
	if old == nil && !whole && r.phys != 0 {
		b = s.takeBase(r.phys)
	}
	if b == nil {
		b = s.newBuf()
		switch {
		case whole:
		case old != nil:
			b.b, b.bad = old.b, old.bad
		case r.phys == 0:
			clear(b.b[:])
		default:
			if d := s.inFlight(r.phys); d != nil {
				copy(b.b[:], d)
				break
			}
			bad, _ := s.data.read(b.b[:], []ref{r})
			b.bad = bad >= 0
		}
	}
	if o.bufs == nil {
		o.bufs = map[uint32]*buf{}
	}
	if old == nil && r.phys == 0 {
		o.addUsed(1)
	}
	o.bufs[i] = b
	s.reserved++
	s.dirtyBufs++
	return b
}

func (s *Store) newBuf() *buf {
	if n := len(s.spareBufs); n > 0 {
		b := s.spareBufs[n-1]
		s.spareBufs = s.spareBufs[:n-1]
		b.frozen, b.bad = false, false
		return b
	}
	return new(buf)
}

// dropBlock makes block i a hole.
func (s *Store) dropBlock(o *object, i uint32) {
	b, r := o.bufs[i], o.ref(i)
	if b == nil && r.phys == 0 {
		return
	}
	o.addUsed(-1)
	if b != nil {
		delete(o.bufs, i)
		if !b.frozen { // a frozen one has its block already and belongs to the checkpoint
			s.reserved--
			s.dirtyBufs--
			s.spareBufs = append(s.spareBufs, b)
		}
	}
	if r.phys != 0 {
		s.free(r.phys)
		o.setRef(i, ref{})
	}
}

// free promises a block back. The last checkpoint or the log may still lead to it, so it is
// not to be overwritten before the next checkpoint is durable.
func (s *Store) free(phys uint32) {
	s.nfreed++
	if n := len(s.freed); n > 0 && s.freed[n-1].phys+s.freed[n-1].n == phys {
		s.freed[n-1].n++
		return
	}
	s.freed = append(s.freed, extent{phys, 1})
}

func (s *Store) truncate(o *object, size uint64) {
	if size < o.size {
		keep := blocksOf(size)
		for i := keep; i < uint64(len(o.refs)); i++ {
			s.dropBlock(o, uint32(i))
		}
		for i := range o.bufs {
			if uint64(i) >= keep {
				s.dropBlock(o, i)
			}
		}
		if uint64(len(o.refs)) > keep {
			o.refs = o.refs[:keep]
		}
		s.zeroPart(o, size, keep*BlockBytes)
	}
	o.size = size
}

// zero makes [off, off+n) read as zeros, within the object.
func (s *Store) zero(o *object, off, n uint64) {
	end := off + n
	if end < off || end >= o.size {
		end = blocksOf(o.size) * BlockBytes // behind the end it is zeros already
	}
	if off >= end {
		return
	}
	first, last := blocksOf(off), end/BlockBytes
	if first > last { // within one block
		s.zeroPart(o, off, end)
		return
	}
	if last-first > uint64(len(o.refs)+len(o.bufs)) {
		o.blocks(func(i uint32) {
			if uint64(i) >= first && uint64(i) < last {
				s.dropBlock(o, i)
			}
		})
	} else {
		for i := first; i < last; i++ {
			s.dropBlock(o, uint32(i))
		}
	}
	s.zeroPart(o, off, first*BlockBytes)
	s.zeroPart(o, last*BlockBytes, end)
}

// zeroPart zeroes [from, to), which lies in one block, if that block holds anything.
func (s *Store) zeroPart(o *object, from, to uint64) {
	i := uint32(from / BlockBytes)
	if from >= to || from >= MaxObjectBytes || o.bufs[i] == nil && o.ref(i).phys == 0 {
		return
	}
	b := s.buffer(o, i, false)
	clear(b.b[from%BlockBytes : (to-1)%BlockBytes+1])
}

// empty takes everything from an object and makes it absent.
func (s *Store) empty(o *object) {
	if !o.exists {
		return
	}
	s.touch(o)
	for i := range o.refs {
		s.dropBlock(o, uint32(i))
	}
	for i := range o.bufs {
		s.dropBlock(o, i)
	}
	s.omapClear(o)
	o.refs, o.xattrs, o.size, o.version, o.exists = nil, nil, 0, wire.Version{}, false
	o.pg.count--
}

// removePG removes all that a PG has. Blocks are known to object records only, so each one
// is looked at.
func (s *Store) removePG(p *pgState) error {
	after := ""
	for {
		objs, err := s.listLocked(p, after, 1024)
		if err != nil {
			return err
		}
		for _, v := range objs {
			o, err := s.object(p, v.Name)
			if err != nil {
				return err
			}
			s.empty(o)
			after = v.Name
		}
		if len(objs) < 1024 {
			break
		}
	}
	if p.count != 0 {
		return fmt.Errorf("%w: pg %v: %d objects left after all were removed", ErrCorrupt, p.id, p.count)
	}
	p.drop(0, len(p.log))
	p.tail, p.committed, p.headDirty = wire.Version{}, wire.Version{}, true
	for k := range p.meta {
		p.setMeta(k, nil)
	}
	return nil
}
