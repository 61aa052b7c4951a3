package fakerank

import (
	"sync"
	"syscall"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/wire"
)

// Store is an object store in memory.
type Store struct {
	mu   sync.Mutex
	objs map[wire.ObjectID]*object
	gate chan struct{} // closed: open
	Ops  int

	parked int // operations that wait for the gate
}

type object struct {
	data   []byte
	blocks map[int]struct{}
}

// NewStore makes an empty one.
func NewStore() *Store {
	g := make(chan struct{})
	close(g)
	return &Store{objs: map[wire.ObjectID]*object{}, gate: g}
}

// Hold parks all operations that come from now on until the returned function is called.
func (s *Store) Hold() (release func()) {
	g := make(chan struct{})
	s.mu.Lock()
	s.gate = g
	s.mu.Unlock()
	var once sync.Once
	return func() { once.Do(func() { close(g) }) }
}

// Parked is how many operations Hold keeps.
func (s *Store) Parked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parked
}

// Close implements client.Objects.
func (s *Store) Close() {}

// Waiting implements client.Objects: it has no PGs.
func (s *Store) Waiting(func(wire.ObjectID) bool) (wire.PGID, bool) { return wire.PGID{}, false }

// Submit implements client.Objects.
func (s *Store) Submit(id wire.ObjectID, ops []wire.ObjOp, _ wire.Epoch, done client.ObjDone) {
	s.mu.Lock()
	g := s.gate
	s.Ops++
	s.parked++
	s.mu.Unlock()
	go func() {
		<-g
		s.mu.Lock()
		s.parked--
		s.mu.Unlock()
		errno, res := s.apply(id, ops)
		done(errno, res, nil)
	}()
}

const block = 4096

func (s *Store) apply(id wire.ObjectID, ops []wire.ObjOp) (uint32, []wire.ObjResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	res := make([]wire.ObjResult, len(ops))
	o := s.objs[id]
	for i, op := range ops {
		switch op.Kind {
		case wire.ObjRead:
			if o == nil {
				return uint32(syscall.ENOENT), res
			}
			if n := uint64(len(o.data)); op.Off < n {
				res[i].Data = append([]byte(nil), o.data[op.Off:min(n, op.Off+op.Len)]...)
			}
		case wire.ObjStat:
			if o == nil {
				return uint32(syscall.ENOENT), res
			}
			res[i].Size, res[i].Allocated = uint64(len(o.data)), uint64(len(o.blocks))*block
		case wire.ObjExtents:
			if o == nil {
				return uint32(syscall.ENOENT), res
			}
			res[i].Size = uint64(len(o.data))
			var es []wire.Extent
			for b := op.Off / block; b*block < min(op.Off+op.Len, uint64(len(o.data))); b++ {
				if _, ok := o.blocks[int(b)]; ok {
					from := max(b*block, op.Off)
					es = append(es, wire.Extent{Off: from, Len: min((b+1)*block, op.Off+op.Len, uint64(len(o.data))) - from})
				}
			}
			res[i].Data = wire.PutExtents(es)
		case wire.ObjWrite:
			if o == nil {
				o = &object{blocks: map[int]struct{}{}}
				s.objs[id] = o
			}
			end := op.Off + uint64(len(op.Data))
			if uint64(len(o.data)) < end {
				o.data = append(o.data, make([]byte, end-uint64(len(o.data)))...)
			}
			copy(o.data[op.Off:], op.Data)
			for b := op.Off / block; b*block < end; b++ {
				o.blocks[int(b)] = struct{}{}
			}
		case wire.ObjZero:
			if o == nil {
				return uint32(syscall.ENOENT), res
			}
			end := min(op.Off+op.Len, uint64(len(o.data)))
			for j := op.Off; j < end; j++ {
				o.data[j] = 0
			}
			for b := (op.Off + block - 1) / block; (b+1)*block <= op.Off+op.Len; b++ {
				delete(o.blocks, int(b))
			}
		default:
			return uint32(syscall.EOPNOTSUPP), res
		}
	}
	return 0, res
}

// cut truncates a file's objects to size.
func (s *Store) cut(pool uint32, ino wire.Ino, size, osize, old uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := size / osize; i*osize < old+osize && i < size/osize+4096; i++ {
		id := wire.DataObject(pool, ino, i)
		o := s.objs[id]
		if o == nil {
			continue
		}
		keep := uint64(0)
		if i*osize < size {
			keep = size - i*osize
		}
		if keep == 0 {
			delete(s.objs, id)
			continue
		}
		o.data = o.data[:min(keep, uint64(len(o.data)))]
		for b := range o.blocks {
			if uint64(b)*block >= keep {
				delete(o.blocks, b)
			}
		}
	}
}
