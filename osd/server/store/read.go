package store

import (
	"bytes"
	"hash/crc32"
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

// reading is a read between the look at the object, under mu, and the block file, beside it.
type reading struct {
	s    *Store
	pg   wire.PGID
	name string
	off  uint64
	n    int
	dst  []byte // nil: nothing is in it yet, all is in todo
	todo []piece
	gen  int // of its pin
}

// Read fills dst from off and returns how many bytes are valid.
func (s *Store) Read(pg wire.PGID, name string, off uint64, dst []byte) (int, error) {
	var room [8]piece
	r := reading{s: s, pg: pg, name: name, off: off, todo: room[:0]}
	err := r.look(uint64(len(dst)), func(n int) []byte { return dst[:n] })
	if err != nil || r.n == 0 {
		return 0, err
	}
	r.dst = dst[:r.n]
	if len(r.todo) > 0 {
		defer s.unpin(r.gen)
		err = r.fill()
	}
	if err != nil {
		return 0, err
	}
	return r.n, nil
}

// quickRead is up to how many bytes Start reads by itself what the page cache has.
const quickRead = 64 << 10

// Start implements osd.Store.
func (s *Store) Start(pg wire.PGID, name string, off, n uint64, room func(int) []byte) ([]byte, osd.Later, error) {
	r := &reading{s: s, pg: pg, name: name, off: off}
	if err := r.look(n, room); err != nil || r.n == 0 {
		return nil, nil, err
	}
	if len(r.todo) == 0 {
		return r.dst, nil, nil
	}
	if r.n > quickRead || !r.quick(room) {
		return nil, r, nil
	}
	s.unpin(r.gen)
	return r.dst, nil, nil
}

// look finds out where the bytes are, and copies those that are in memory. Blocks that are to be
// read from the block file are pinned when there are any.
func (r *reading) look(n uint64, room func(int) []byte) error {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.peek(r.pg, r.name)
	if o == nil || err != nil || r.off >= o.size || n == 0 {
		return err
	}
	r.n = int(min(n, o.size-r.off))
	dst := func() []byte {
		if r.dst == nil {
			r.dst = room(r.n)
		}
		return r.dst
	}
	if r.off >= MaxObjectBytes {
		clear(dst())
		return nil
	}
	first, last := uint32(r.off/BlockBytes), uint32((r.off+uint64(r.n)-1)/BlockBytes)
	for i := first; i <= last; i++ {
		x := o.ref(i)
		if b := o.bufs[i]; b != nil && b.bad {
			s.data.bad.Add(1)
			return &BadBlock{PG: r.pg, Object: r.name, Off: uint64(i) * BlockBytes, Block: x.phys}
		} else if b != nil {
			copyBlock(dst(), r.off, i, b.b[:])
		} else if x.phys == 0 {
			copyBlock(dst(), r.off, i, zeroes[:])
		} else if b := s.inFlight(x.phys); b != nil {
			copyBlock(dst(), r.off, i, b)
		} else if k := len(r.todo) - 1; k >= 0 && r.todo[k].block+uint32(len(r.todo[k].refs)) == i && r.todo[k].refs[len(r.todo[k].refs)-1].phys+1 == x.phys {
			r.todo[k].refs = append(r.todo[k].refs, x)
		} else {
			r.todo = append(r.todo, piece{i, append(make([]ref, 0, last-i+1), x)})
		}
	}
	if len(r.todo) > 0 {
		r.gen = s.pin()
	}
	return nil
}

// quick reads everything if the page cache has it.
func (r *reading) quick(room func(int) []byte) bool {
	if r.s.data.cached == nil {
		return false
	}
	if r.dst == nil {
		r.dst = room(r.n)
	}
	for _, p := range r.todo {
		into, whole := r.into(p)
		if !r.s.data.cached.ReadCached(into, int64(p.refs[0].phys)*BlockBytes) || badIn(into, p.refs) >= 0 {
			return false // whoever reads it in earnest finds that out again
		}
		if !whole {
			r.cut(p, into)
		}
	}
	return true
}

// fill reads what is to come from the block file.
func (r *reading) fill() error {
	for _, p := range r.todo {
		into, whole := r.into(p)
		if bad, err := r.s.data.read(into, p.refs); bad >= 0 {
			return &BadBlock{PG: r.pg, Object: r.name, Off: (uint64(p.block) + uint64(bad)) * BlockBytes, Block: p.refs[bad].phys, Err: err}
		}
		if !whole {
			r.cut(p, into)
		}
	}
	return nil
}

// into is where the whole blocks of p are read: in place, or in a buffer when they are ragged.
func (r *reading) into(p piece) (b []byte, whole bool) {
	from := uint64(p.block) * BlockBytes
	to := from + uint64(len(p.refs))*BlockBytes
	if from >= r.off && to <= r.off+uint64(len(r.dst)) {
		return r.dst[from-r.off : to-r.off], true
	}
	return make([]byte, to-from), false
}

func (r *reading) cut(p piece, blocks []byte) {
	for i := range p.refs {
		copyBlock(r.dst, r.off, p.block+uint32(i), blocks[i*BlockBytes:(i+1)*BlockBytes])
	}
}

// Len implements osd.Later.
func (r *reading) Len() int { return r.n }

// Fetch implements osd.Later.
func (r *reading) Fetch(room func(int) []byte) ([]byte, uint32, error) {
	defer r.s.unpin(r.gen)
	all := r.dst == nil
	if all {
		r.dst = room(r.n)
	}
	if err := r.fill(); err != nil {
		return nil, 0, err
	}
	if !all || r.off%BlockBytes != 0 || r.n%BlockBytes != 0 {
		return r.dst, crc32.Checksum(r.dst, castagnoli), nil
	}
	crc := uint32(0) // every block has just been compared with its own
	for _, p := range r.todo {
		for i := range p.refs {
			crc = appendBlockCRC(crc, p.refs[i].crc)
		}
	}
	return r.dst, crc, nil
}

// Drop implements osd.Later.
func (r *reading) Drop() { r.s.unpin(r.gen) }

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
