package fuse

import (
	"sync"

	"github.com/capstan-fs/capstan/wire"
)

// places gives directories their node ids. The kernel keeps one dentry per directory inode:
// when another host has moved a directory, a lookup at its new place makes it move the old
// dentry, which it can only try (it needs locks out of order), and during a rename(), or
// while the old parent is busy, the system call fails with ESTALE. So a directory found at
// a place other than the one the kernel has it at is shown under another node id, and for
// the kernel it is another inode; st_ino is the same. The old id goes when it is forgotten.
//
// A node id is an inode number with the count of its directory's earlier places in the bits
// above; other things than directories may have many dentries, and have count 0.
type places struct {
	root wire.Ino // shown as node 1: the volume's root, or a sub-directory that is mounted

	mu  sync.Mutex
	at  map[place]uint64      // the node id shown there
	all map[uint64]*shown     // by node id
	ids map[wire.Ino][]uint64 // of directories that have a node id above 0
}

type place struct {
	dir  uint64
	name string
}

// shown is what the kernel knows of one node id.
type shown struct {
	at place
	n  uint64 // references of the kernel
}

const (
	rootNode = 1 // FUSE_ROOT_ID
	inoBits  = 56
	maxShown = 1<<(64-inoBits) - 1
)

func newPlaces(root wire.Ino) places {
	return places{root: root, at: map[place]uint64{}, all: map[uint64]*shown{}, ids: map[wire.Ino][]uint64{}}
}

// ino is the inode that a node id stands for.
func (t *places) ino(n uint64) wire.Ino {
	if n == rootNode {
		return t.root
	}
	return wire.Ino(n & (1<<inoBits - 1))
}

// first is the node id of i, of a directory its first.
func (t *places) first(i wire.Ino) uint64 {
	if i == t.root {
		return rootNode
	}
	return uint64(i)
}

// show counts a reference of the kernel to directory i at dir/name and returns its node id;
// fresh: the kernel did not have it under that id.
func (t *places) show(dir uint64, name string, i wire.Ino) (id uint64, fresh bool) {
	id = t.first(i)
	if id == rootNode || id>>inoBits != 0 {
		return id, false
	}
	p := place{dir, name}
	if name == "." || name == ".." { // by handle: any place will do
		p = place{}
		if name == "." { // and a handle must be answered with the id it holds
			return t.again(dir)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.all[id]
	if s != nil && p.dir != 0 && s.at.dir != 0 && s.at != p {
		id, s = t.other(i, p)
	} else if s == nil && p.dir != 0 {
		if at, ok := t.at[p]; ok && t.ino(at) == i {
			id, s = at, t.all[at] // the first id is gone, a later one is in use here
		}
	}
	if s == nil {
		s, fresh = &shown{}, true
		t.all[id] = s
	}
	if s.at != p && p.dir != 0 {
		t.unplace(id, s)
		s.at = p
		t.at[p] = id
	}
	s.n++
	return id, fresh
}

// again counts a reference to a directory by the node id that a file handle holds.
func (t *places) again(id uint64) (uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.all[id]
	fresh := s == nil
	if fresh {
		s = &shown{}
		t.all[id] = s
		if id>>inoBits != 0 {
			t.ids[t.ino(id)] = append(t.ids[t.ino(id)], id)
		}
	}
	s.n++
	return id, fresh
}

// other finds the id under which i is shown at p, or one that is free.
func (t *places) other(i wire.Ino, p place) (uint64, *shown) {
	if at, ok := t.at[p]; ok && t.ino(at) == i {
		return at, t.all[at]
	}
	for k := uint64(1); k <= maxShown; k++ {
		id := uint64(i) | k<<inoBits
		if t.all[id] == nil {
			t.ids[i] = append(t.ids[i], id)
			return id, nil
		}
	}
	return uint64(i), t.all[uint64(i)] // so many places at once: let the kernel try
}

func (t *places) unplace(id uint64, s *shown) {
	if s.at.dir != 0 && t.at[s.at] == id {
		delete(t.at, s.at)
	}
}

// forget takes back n references.
func (t *places) forget(id, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.all[id]
	if s == nil {
		return
	}
	if s.n -= min(n, s.n); s.n > 0 {
		return
	}
	t.unplace(id, s)
	delete(t.all, id)
	if id>>inoBits == 0 {
		return
	}
	i := t.ino(id)
	left := t.ids[i][:0]
	for _, x := range t.ids[i] {
		if x != id {
			left = append(left, x)
		}
	}
	if t.ids[i] = left; len(left) == 0 {
		delete(t.ids, i)
	}
}

// renamed follows the dentries that the kernel itself moves.
func (t *places) renamed(from, to place, exchange bool) {
	if from == to {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a, okA := t.at[from]
	b, okB := t.at[to]
	delete(t.at, from)
	delete(t.at, to)
	if okB {
		s := t.all[b]
		s.at = place{}
		if exchange {
			s.at = from
			t.at[from] = b
		}
	}
	if okA {
		t.all[a].at = to
		t.at[to] = a
	}
}

// others are the further node ids of i.
func (t *places) others(i wire.Ino) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ids) == 0 {
		return nil
	}
	return append([]uint64(nil), t.ids[i]...)
}
