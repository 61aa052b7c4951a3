package store

import (
	"bytes"
	"sort"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
	"github.com/google/btree"
)

// peek returns an object that exists, or nil. Caller holds mu.
func (s *Store) peek(pg wire.PGID, name string) (*object, error) {
	p := s.pgs[pg]
	if p == nil {
		return nil, nil
	}
	o, err := s.object(p, name)
	if err != nil || !o.exists {
		return nil, err
	}
	return o, nil
}

// peekOrFail is peek for calls that have no way to return an error: metadata that cannot be
// read ends the store, and the next Submit says why. Caller holds mu.
func (s *Store) peekOrFail(pg wire.PGID, name string) *object {
	o, err := s.peek(pg, name)
	if err != nil {
		s.fail(err)
	}
	return o
}

// Stat reports an object.
func (s *Store) Stat(pg wire.PGID, name string) (osd.ObjStat, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.peekOrFail(pg, name)
	if o == nil {
		return osd.ObjStat{}, false
	}
	return osd.ObjStat{Size: o.size, Allocated: o.allocated(), Version: o.version}, true
}

// Xattr returns one xattr.
func (s *Store) Xattr(pg wire.PGID, name, key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.peekOrFail(pg, name); o != nil {
		v, ok := o.xattrs[key]
		return v, ok
	}
	return nil, false
}

// Xattrs returns all of them, sorted by key.
func (s *Store) Xattrs(pg wire.PGID, name string) []wire.KV {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.peekOrFail(pg, name)
	if o == nil {
		return nil
	}
	var kvs []wire.KV
	for _, k := range xattrKeys(o.xattrs) {
		kvs = append(kvs, wire.KV{Key: k, Val: o.xattrs[k]})
	}
	return kvs
}

// Extents lists the parts of the object that hold data, sorted.
func (s *Store) Extents(pg wire.PGID, name string) []wire.Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.peekOrFail(pg, name)
	if o == nil {
		return nil
	}
	var es []wire.Extent
	o.blocks(func(i uint32) {
		off := uint64(i) * BlockBytes
		n := min(BlockBytes, o.size-off)
		if k := len(es); k > 0 && es[k-1].Off+es[k-1].Len == off {
			es[k-1].Len += n
		} else {
			es = append(es, wire.Extent{Off: off, Len: n})
		}
	})
	return es
}

// piece is a part of a read that must come from the block file: refs that lie side by side.
type piece struct {
	block uint32 // first, in the object
	refs  []ref
}

// Read fills dst from off and returns how many bytes are valid.
func (s *Store) Read(pg wire.PGID, name string, off uint64, dst []byte) (int, error) {
	s.reuse.RLock()
	defer s.reuse.RUnlock()
	var room [8]piece
	s.mu.Lock()
	o, err := s.peek(pg, name)
	if o == nil || err != nil || off >= o.size || len(dst) == 0 {
		s.mu.Unlock()
		return 0, err
	}
	dst = dst[:min(uint64(len(dst)), o.size-off)]
	if off >= MaxObjectBytes {
		s.mu.Unlock()
		clear(dst)
		return len(dst), nil
	}
	todo := room[:0]
	first, last := uint32(off/BlockBytes), uint32((off+uint64(len(dst))-1)/BlockBytes)
	for i := first; i <= last; i++ {
		r := o.ref(i)
		if b := o.bufs[i]; b != nil && b.bad {
			s.mu.Unlock()
			s.data.bad.Add(1)
			return 0, &BadBlock{PG: pg, Object: name, Off: uint64(i) * BlockBytes, Block: r.phys}
		} else if b != nil {
			copyBlock(dst, off, i, b.b[:])
		} else if r.phys == 0 {
			copyBlock(dst, off, i, zeroes[:])
		} else if b := s.inFlight(r.phys); b != nil {
			copyBlock(dst, off, i, b)
		} else if k := len(todo) - 1; k >= 0 && todo[k].block+uint32(len(todo[k].refs)) == i && todo[k].refs[len(todo[k].refs)-1].phys+1 == r.phys {
			todo[k].refs = append(todo[k].refs, r)
		} else {
			todo = append(todo, piece{i, append(make([]ref, 0, min(last-i+1, 64)), r)})
		}
	}
	s.mu.Unlock()

	for _, p := range todo {
		if err := s.readPiece(dst, off, p); err != nil {
			err.PG, err.Object = pg, name
			return 0, err
		}
	}
	return len(dst), nil
}

// readPiece reads whole blocks into dst where they fit, the ragged ones through a buffer.
func (s *Store) readPiece(dst []byte, off uint64, p piece) *BadBlock {
	from := uint64(p.block) * BlockBytes
	to := from + uint64(len(p.refs))*BlockBytes
	into := []byte(nil)
	if from >= off && to <= off+uint64(len(dst)) {
		into = dst[from-off : to-off]
	} else {
		into = make([]byte, to-from)
	}
	if bad, err := s.data.read(into, p.refs); bad >= 0 {
		return &BadBlock{Off: from + uint64(bad)*BlockBytes, Block: p.refs[bad].phys, Err: err}
	}
	if from < off || to > off+uint64(len(dst)) {
		for i := range p.refs {
			copyBlock(dst, off, p.block+uint32(i), into[i*BlockBytes:(i+1)*BlockBytes])
		}
	}
	return nil
}

// copyBlock copies what block i of an object has in common with dst, which begins at off.
func copyBlock(dst []byte, off uint64, i uint32, block []byte) {
	at := uint64(i) * BlockBytes
	if at < off {
		copy(dst, block[off-at:])
	} else {
		copy(dst[at-off:], block)
	}
}

// ListObjects lists up to max objects with name > after, sorted by name.
func (s *Store) ListObjects(pg wire.PGID, after string, max int) []wire.ObjVersion {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pgs[pg]
	if p == nil || max <= 0 {
		return nil
	}
	objs, err := s.listLocked(p, after, max)
	if err != nil {
		s.fail(err)
	}
	return objs
}

func (s *Store) listLocked(p *pgState, after string, max int) (objs []wire.ObjVersion, err error) {
	seek := func(from string) *object { return firstAtLeast(p.dirty, from) }
	next := seek(after + "\x00")
	below := func(name string, last bool) bool {
		for next != nil && (last || next.name < name) {
			if next.exists {
				if len(objs) >= max {
					return false
				}
				objs = append(objs, wire.ObjVersion{Name: next.name, Version: next.version})
			}
			next = seek(next.name + "\x00")
		}
		return len(objs) < max
	}
	prefix := pgKey(p.id)
	more := true
	err = s.meta.scan(bktObj, append(pgKey(p.id), after+"\x00"...), func(k, v []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		name := string(k[8:])
		if more = below(name, false); !more {
			return false
		}
		if next != nil && next.name == name {
			return true // changed or removed since: below has it next time
		}
		if len(v) >= 17 {
			objs = append(objs, wire.ObjVersion{Name: name, Version: versionAt(v[1:])})
		}
		more = len(objs) < max
		return more
	})
	if more {
		below("", true)
	}
	return objs, err
}

func firstAtLeast(t *btree.BTreeG[*object], name string) (found *object) {
	t.AscendGreaterOrEqual(&object{name: name}, func(o *object) bool {
		found = o
		return false
	})
	return found
}

func sortedNames(m map[string]struct{}) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	sort.Strings(ks)
	return ks
}
