package store

import (
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// A partial overwrite needs the rest of its block, the base. Damaged reads and verifies the
// bases of a change before anybody decides on it, and keeps them for the Submit that follows,
// so that nothing is read twice. Where that was not asked (replay; a checkpoint between the
// two), a bad base makes a bad buffer: the change happens, and the block stays what it was,
// bytes that nobody may see. It goes to the block file under a checksum that does not fit.

// base is a verified block that a change is about to need.
type base struct {
	phys uint32
	b    *buf
}

const maxBases = 64

// Damaged reports whether the change needs old bytes that are bad: Submit would leave them so.
func (s *Store) Damaged(pg wire.PGID, t *osd.ObjTxn) bool {
	if t.Remove || t.Replace {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.peek(pg, t.Name)
	if o == nil || err != nil { // an unreadable record is Submit's to report
		return false
	}
	size := o.size
	keep := blocksOf(size) // blocks from here on are gone by an earlier step, or never were
	bad := false
	need := func(at, from, to uint64) { // the block at `at` is changed in [from, to)
		i := at / BlockBytes
		if bad || i >= keep || from == i*BlockBytes && to >= min((i+1)*BlockBytes, size) {
			return
		}
		bad = !s.baseIsGood(o, uint32(i))
	}
	for k := range t.Muts {
		m := &t.Muts[k]
		switch m.Kind {
		case wire.ObjWrite:
			if end := m.Off + uint64(len(m.Data)); end > m.Off && end <= MaxObjectBytes {
				need(m.Off, m.Off, min(end, (m.Off/BlockBytes+1)*BlockBytes))
				need(end-1, max(m.Off, (end-1)/BlockBytes*BlockBytes), end)
				size = max(size, end)
			}
		case wire.ObjTruncate:
			if m.Off < size && m.Off%BlockBytes != 0 {
				i := m.Off / BlockBytes
				bad = bad || i < keep && !s.baseIsGood(o, uint32(i))
			}
			size, keep = m.Off, min(keep, blocksOf(m.Off))
		case wire.ObjZero:
			if end := min(m.Off+m.Len, size); m.Len > 0 && m.Off < end {
				need(m.Off, m.Off, min(end, (m.Off/BlockBytes+1)*BlockBytes))
				need(end-1, max(m.Off, (end-1)/BlockBytes*BlockBytes), end)
			}
		}
	}
	return bad
}

// baseIsGood looks at block i and keeps it if it had to be read. Caller holds mu.
func (s *Store) baseIsGood(o *object, i uint32) bool {
	if b := o.bufs[i]; b != nil {
		return !b.bad
	}
	r := o.ref(i)
	if r.phys == 0 || s.findBase(r.phys) >= 0 {
		return true
	}
	if s.inFlight(r.phys) != nil {
		return true
	}
	b := s.newBuf()
	if bad, _ := s.data.read(b.b[:], []ref{r}); bad >= 0 {
		s.spareBufs = append(s.spareBufs, b)
		return false
	}
	if len(s.bases) < maxBases {
		s.bases = append(s.bases, base{r.phys, b})
	} else {
		s.spareBufs = append(s.spareBufs, b)
	}
	return true
}

func (s *Store) findBase(phys uint32) int {
	for k := range s.bases {
		if s.bases[k].phys == phys {
			return k
		}
	}
	return -1
}

// takeBase hands the kept base of a block out, nil: none is. Caller holds mu.
func (s *Store) takeBase(phys uint32) *buf {
	k := s.findBase(phys)
	if k < 0 {
		return nil
	}
	b := s.bases[k].b
	last := len(s.bases) - 1
	s.bases[k] = s.bases[last]
	s.bases = s.bases[:last]
	return b
}

// dropBases forgets what the last Submit did not need: its block may be another's soon.
func (s *Store) dropBases() {
	for _, x := range s.bases {
		s.spareBufs = append(s.spareBufs, x.b)
	}
	clear(s.bases)
	s.bases = s.bases[:0]
}
