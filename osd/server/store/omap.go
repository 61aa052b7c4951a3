package store

import (
	"bytes"
	"encoding/binary"

	"github.com/capstan-fs/capstan/wire"
	"github.com/google/btree"
)

// omapItem is a pair that the last checkpoint does not have yet; nil val: removed since.
// An omap is known by a number, so that clearing one is forgetting its number.
type omapItem struct {
	id  uint64
	key string
	val []byte
}

func newOmapTree() *btree.BTreeG[omapItem] {
	return btree.NewG(32, func(a, b omapItem) bool { return a.id < b.id || a.id == b.id && a.key < b.key })
}

// Caller holds mu, as for all of these.
func (s *Store) omapPut(o *object, key string, val []byte) {
	if o.omap == 0 {
		if val == nil {
			return
		}
		s.nextOmap++
		o.omap = s.nextOmap
	}
	s.omap.ReplaceOrInsert(omapItem{o.omap, key, val})
	s.dirtyKeys++
}

func (s *Store) omapClear(o *object) {
	if o.omap == 0 {
		return
	}
	id := o.omap
	o.omap = 0
	s.deadOmap = append(s.deadOmap, id)
	var gone []omapItem
	s.omap.AscendGreaterOrEqual(omapItem{id: id}, func(it omapItem) bool {
		if it.id != id {
			return false
		}
		gone = append(gone, it)
		return true
	})
	for _, it := range gone {
		s.omap.Delete(it)
	}
	s.dirtyKeys++
}

func (s *Store) omapGet(o *object, key string) ([]byte, bool, error) {
	if o.omap == 0 {
		return nil, false, nil
	}
	k := omapItem{id: o.omap, key: key}
	if it, ok := s.omap.Get(k); ok {
		return it.val, it.val != nil, nil
	}
	if s.omapOld != nil {
		if it, ok := s.omapOld.Get(k); ok {
			return it.val, it.val != nil, nil
		}
	}
	v, err := s.meta.get(bktOmap, omapKey(o.omap, key))
	return v, v != nil, err
}

// OmapGet returns the pairs of those keys that exist, in the order of keys.
func (s *Store) OmapGet(pg wire.PGID, name string, keys []string) ([]wire.KV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.peek(pg, name)
	if o == nil || err != nil {
		return nil, err
	}
	var kvs []wire.KV
	for _, k := range keys {
		v, ok, err := s.omapGet(o, k)
		if err != nil {
			return nil, err
		}
		if ok {
			kvs = append(kvs, wire.KV{Key: k, Val: v})
		}
	}
	return kvs, nil
}

// OmapRange returns up to max pairs with key > after, and whether there are more.
func (s *Store) OmapRange(pg wire.PGID, name, after string, max int) (kvs []wire.KV, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.peek(pg, name)
	if o == nil || err != nil || o.omap == 0 {
		return nil, false, err
	}
	// Three layers, newest first: changes, changes of the checkpoint under way, database. Of
	// equal keys the newest layer's counts.
	from := after + "\x00"
	newest := cursor{tree: s.omap, id: o.omap}
	older := cursor{tree: s.omapOld, id: o.omap}
	newest.seek(from)
	older.seek(from)
	prefix := omapKey(o.omap, "")
	// below hands out what the trees have before key (all of it when last is set).
	emit := func(key string, val []byte) bool {
		if val == nil {
			return true
		}
		if len(kvs) >= max {
			more = true
			return false
		}
		kvs = append(kvs, wire.KV{Key: key, Val: val})
		return true
	}
	below := func(key string, last bool) bool {
		for {
			c := &newest
			if !newest.ok || older.ok && older.it.key < newest.it.key {
				c = &older
			}
			if !c.ok || !last && c.it.key >= key {
				return true
			}
			it := c.it
			if c == &newest && older.ok && older.it.key == it.key {
				older.seek(it.key + "\x00")
			}
			if !emit(it.key, it.val) {
				return false
			}
			c.seek(it.key + "\x00")
		}
	}
	full := false
	err = s.meta.scan(bktOmap, omapKey(o.omap, from), func(k, v []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		key := string(k[8:])
		if !below(key, false) {
			full = true
			return false
		}
		var ok bool
		switch {
		case newest.ok && newest.it.key == key:
			ok = emit(key, newest.it.val)
			newest.seek(key + "\x00")
			if older.ok && older.it.key == key {
				older.seek(key + "\x00")
			}
		case older.ok && older.it.key == key:
			ok = emit(key, older.it.val)
			older.seek(key + "\x00")
		default:
			if len(kvs) >= max {
				more = true
				ok = false
			} else {
				ok = emit(key, append([]byte{}, v...))
			}
		}
		full = !ok
		return ok
	})
	if err == nil && !full {
		below("", true)
	}
	return kvs, more, err
}

// cursor walks one omap in a tree. A B-tree of this library has no iterator, so each step is a
// descent; steps happen only for pairs that changed since the last checkpoint.
type cursor struct {
	tree *btree.BTreeG[omapItem]
	id   uint64
	it   omapItem
	ok   bool
}

func (c *cursor) seek(key string) {
	c.ok = false
	if c.tree == nil {
		return
	}
	c.tree.AscendGreaterOrEqual(omapItem{id: c.id, key: key}, func(it omapItem) bool {
		c.it, c.ok = it, it.id == c.id
		return false
	})
}

func omapOf(k []byte) uint64 { return binary.BigEndian.Uint64(k) }
