package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"

	"github.com/capstan-fs/capstan/wire"
)

// MaxObjectBytes bounds where data may lie in an object; a write behind it is refused.
const MaxObjectBytes = 1 << 30

// object is the newest state of one object. A block's content is its buffer, if it has one,
// else what its ref leads to.
type object struct {
	pg       *pgState
	name     string
	exists   bool
	size     uint64
	version  wire.Version
	omap     uint64 // number of its omap; 0: none
	xattrs   map[string][]byte
	refs     []ref           // may be shorter than size
	bufs     map[uint32]*buf // small writes not yet in the block file
	used     uint32          // blocks with a ref or a buffer
	runs     uint32          // of side by side blocks, when it was last encoded
	dirty    bool            // changed since the last checkpoint began
	flushing bool            // part of the checkpoint under way

	prev, next *object // lru, while clean
}

// buf is one block's newest content, in memory.
type buf struct {
	b      [BlockBytes]byte
	frozen bool // a checkpoint is writing it: change a copy
	bad    bool // its base could not be read: nobody may see it
}

func (o *object) ref(i uint32) ref {
	if int(i) < len(o.refs) {
		return o.refs[i]
	}
	return ref{}
}

func (o *object) setRef(i uint32, r ref) {
	if r.phys == 0 && int(i) >= len(o.refs) {
		return
	}
	if n := int(i) + 1; n > len(o.refs) {
		if n > cap(o.refs) {
			grown := make([]ref, len(o.refs), max(n, min(2*n, 1024)))
			copy(grown, o.refs)
			o.refs = grown
		}
		o.refs = o.refs[:n]
	}
	o.refs[i] = r
}

// allocated is the storage that the object's data takes.
func (o *object) allocated() uint64 { return uint64(o.used) * BlockBytes }

// addUsed counts blocks that the object gets or gives back.
func (o *object) addUsed(n int) {
	o.used += uint32(n)
	o.pg.used += int64(n)
}

// blocks calls fn for each block that holds data, in order.
func (o *object) blocks(fn func(i uint32)) {
	last := len(o.refs)
	var behind []uint32
	for i := range o.bufs {
		if int(i) >= last {
			behind = append(behind, i)
		}
	}
	for i, r := range o.refs {
		if r.phys != 0 || o.bufs[uint32(i)] != nil {
			fn(uint32(i))
		}
	}
	sort.Slice(behind, func(i, j int) bool { return behind[i] < behind[j] })
	for _, i := range behind {
		fn(i)
	}
}

// The record of bucket o, integers as uvarints unless said otherwise:
//
//	1 version byte
//	2×8 object version, big-endian
//	size, omap number
//	number of xattrs; each: length, key, length, value; by key
//	number of runs; each: blocks of hole before it, first block in the file, blocks, then
//	  4 bytes of crc32c for each block
//	4 crc32c of the above
const objRecVersion = 1

func (o *object) encode() []byte {
	b := make([]byte, 0, 64+4*len(o.refs))
	b = append(b, objRecVersion)
	b = binary.BigEndian.AppendUint64(b, o.version.Interval)
	b = binary.BigEndian.AppendUint64(b, o.version.N)
	b = binary.AppendUvarint(b, o.size)
	b = binary.AppendUvarint(b, o.omap)
	b = binary.AppendUvarint(b, uint64(len(o.xattrs)))
	for _, k := range xattrKeys(o.xattrs) {
		b = appendString(b, k)
		b = appendString(b, o.xattrs[k])
	}
	type run struct{ hole, first, n int }
	var runs []run
	hole := 0
	for i := 0; i < len(o.refs); i++ {
		if o.refs[i].phys == 0 {
			hole++
			continue
		}
		n := 1
		for i+n < len(o.refs) && o.refs[i+n].phys == o.refs[i].phys+uint32(n) {
			n++
		}
		runs = append(runs, run{hole, i, n})
		hole = 0
		i += n - 1
	}
	o.runs = uint32(len(runs))
	b = binary.AppendUvarint(b, uint64(len(runs)))
	for _, r := range runs {
		b = binary.AppendUvarint(b, uint64(r.hole))
		b = binary.AppendUvarint(b, uint64(o.refs[r.first].phys))
		b = binary.AppendUvarint(b, uint64(r.n))
		for _, f := range o.refs[r.first : r.first+r.n] {
			b = binary.LittleEndian.AppendUint32(b, f.crc)
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func (o *object) decode(b []byte) error {
	bad := func(what string) error {
		return fmt.Errorf("%w: %s: record of pg %v object %q: %s", ErrCorrupt, metaName, o.pg.id, o.name, what)
	}
	if len(b) < 21 {
		return bad("too short")
	}
	if b[0] != objRecVersion {
		return fmt.Errorf("%w: record of pg %v object %q has version %d, this program knows %d", ErrFormat, o.pg.id, o.name, b[0], objRecVersion)
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return bad("checksum")
	}
	o.version = versionAt(body[1:])
	d := decoder{b: body[17:]}
	o.size, o.omap = d.uvarint(), d.uvarint()
	if n := d.count(2); n > 0 {
		o.xattrs = make(map[string][]byte, n)
		for range n {
			k := string(d.bytes())
			o.xattrs[k] = append([]byte{}, d.bytes()...)
		}
	}
	o.refs = nil
	runs := d.count(3)
	o.runs = uint32(runs)
	if runs > 0 {
		o.refs = make([]ref, 0, min(blocksOf(o.size), uint64(len(d.b)/4)))
	}
	for range runs {
		hole, phys, n := d.uvarint(), d.uvarint(), d.uvarint()
		if d.bad || hole > MaxObjectBytes/BlockBytes || n > MaxObjectBytes/BlockBytes || uint64(len(o.refs))+hole+n > MaxObjectBytes/BlockBytes || phys == 0 || phys+n > maxBlocks {
			return bad("block run")
		}
		for range hole {
			o.refs = append(o.refs, ref{})
		}
		for i := range n {
			c := d.take(4)
			if d.bad {
				return bad("block run")
			}
			o.refs = append(o.refs, ref{uint32(phys + i), binary.LittleEndian.Uint32(c)})
			o.used++
		}
	}
	if d.bad || len(d.b) != 0 {
		return bad("length")
	}
	o.exists = true
	return nil
}

func xattrKeys(m map[string][]byte) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	sort.Strings(ks)
	return ks
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads what append* wrote; after an error everything is zero and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }

func (d *decoder) byte() byte {
	if p := d.take(1); len(p) == 1 {
		return p[0]
	}
	return 0
}

func (d *decoder) version() wire.Version {
	if p := d.take(16); len(p) == 16 {
		return versionAt(p)
	}
	return wire.Version{}
}

// count reads the number of things of at least size bytes each.
func (d *decoder) count(size int) int {
	v := d.uvarint()
	if v > uint64(len(d.b)/size) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(v)
}

// ---- cache -----------------------------------------------------------------------------

// list is the lru of clean objects, oldest first.
type list struct {
	head, tail *object
	n          int
}

func (l *list) add(o *object) {
	o.prev, o.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = o
	} else {
		l.head = o
	}
	l.tail = o
	l.n++
}

func (l *list) remove(o *object) {
	if o.prev != nil {
		o.prev.next = o.next
	} else {
		l.head = o.next
	}
	if o.next != nil {
		o.next.prev = o.prev
	} else {
		l.tail = o.prev
	}
	o.prev, o.next = nil, nil
	l.n--
}

// object returns the newest state of an object, which may be that it does not exist. It is
// kept in memory, so the caller may change it. Caller holds mu.
func (s *Store) object(p *pgState, name string) (*object, error) {
	if o := p.objs[name]; o != nil {
		if !o.dirty && !o.flushing && s.lru.tail != o {
			s.lru.remove(o)
			s.lru.add(o)
		}
		return o, nil
	}
	o := &object{pg: p, name: name}
	rec, err := s.meta.get(bktObj, append(pgKey(p.id), name...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metaName, err)
	}
	if rec != nil {
		if err := o.decode(rec); err != nil {
			return nil, err
		}
		s.noteScattered([]*object{o}) // of an earlier life of the process, perhaps
	}
	p.objs[name] = o
	s.lru.add(o)
	s.evict()
	return o, nil
}

func (s *Store) evict() {
	for s.lru.n > s.o.CacheObjects {
		old := s.lru.head
		s.lru.remove(old)
		delete(old.pg.objs, old.name)
	}
}

// touch marks an object as changed. Caller holds mu.
func (s *Store) touch(o *object) {
	if o.dirty {
		return
	}
	if !o.flushing {
		s.lru.remove(o)
		o.pg.dirty.ReplaceOrInsert(o)
	}
	o.dirty = true
	s.dirtyKeys++
}

// settle puts an object that a checkpoint has stored back among the clean ones.
func (s *Store) settle(o *object) {
	o.flushing = false
	if !o.dirty {
		o.pg.dirty.Delete(o)
		s.lru.add(o)
		s.evict()
	}
}
