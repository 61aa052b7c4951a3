package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
	"github.com/google/btree"
)

// omapItem is a pair that the last checkpoint does not have yet; nil val: removed since.
// An omap is known by a number, so that clearing one is forgetting its number.
type omapItem struct {
	id  uint64
	key string
	val []byte
	bad bool // what it had cannot be read: it goes to the database under a checksum that does not fit
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
	s.omap.ReplaceOrInsert(omapItem{id: o.omap, key: key, val: val})
	s.dirtyKeys++
}

// omapDamage makes what a key has unreadable: a copy of an object says so of what it lacks.
func (s *Store) omapDamage(o *object, key string) {
	s.omapPut(o, key, []byte{})
	s.omap.ReplaceOrInsert(omapItem{id: o.omap, key: key, val: []byte{}, bad: true})
}

// badPair counts and names a pair that cannot be read.
func (s *Store) badPair(o *object, key string, err error) error {
	s.count.BadPairs++
	return &osd.BadPair{Key: key, Err: fmt.Errorf("store: pg %v object %q: %w", o.pg.id, o.name, err)}
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
	it, ok := s.omap.Get(k)
	if !ok && s.omapOld != nil {
		it, ok = s.omapOld.Get(k)
	}
	switch {
	case ok && it.bad:
		return nil, false, s.badPair(o, key, &badValue{bktOmap, omapKey(o.omap, key)})
	case ok:
		return it.val, it.val != nil, nil
	}
	v, err := s.meta.get(bktOmap, omapKey(o.omap, key))
	if err != nil {
		err = s.badPair(o, key, err)
	}
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

// OmapRange returns up to max pairs with key > after, and whether there are more; with an
// *osd.BadPair those before the one that it names.
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
	var bad error
	// emit hands a pair out, unless there is no room or it cannot be read.
	emit := func(key string, val []byte, err error) bool {
		switch {
		case val == nil && err == nil:
			return true
		case len(kvs) >= max:
			more = true
			return false
		case err != nil:
			bad = s.badPair(o, key, err)
			return false
		}
		kvs = append(kvs, wire.KV{Key: key, Val: val})
		return true
	}
	item := func(it omapItem) bool {
		if it.bad {
			return emit(it.key, nil, &badValue{bktOmap, omapKey(it.id, it.key)})
		}
		return emit(it.key, it.val, nil)
	}
	// below hands out what the trees have before key (all of it when last is set).
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
			if !item(it) {
				return false
			}
			c.seek(it.key + "\x00")
		}
	}
	// at hands out a pair of the database, or what the trees have instead.
	at := func(key string, val []byte, err error) bool {
		if !below(key, false) {
			return false
		}
		inNewest, inOlder := newest.ok && newest.it.key == key, older.ok && older.it.key == key
		it := newest.it
		if !inNewest {
			it = older.it
		}
		if inNewest {
			newest.seek(key + "\x00")
		}
		if inOlder {
			older.seek(key + "\x00")
		}
		if inNewest || inOlder {
			return item(it)
		}
		return emit(key, val, err)
	}
	full := false
	for again := true; again && !full; {
		again = false
		err = s.meta.scan(bktOmap, omapKey(o.omap, from), func(k, v []byte) bool {
			if !bytes.HasPrefix(k, prefix) {
				return false
			}
			full = !at(string(k[8:]), append([]byte{}, v...), nil)
			return !full
		})
		var b *badValue
		if errors.As(err, &b) {
			err = nil
			if bytes.HasPrefix(b.key, prefix) { // else it is another omap's
				key := string(b.key[8:])
				full, again, from = !at(key, nil, b), true, key+"\x00"
			}
		}
	}
	if err == nil && !full {
		below("", true)
	}
	if err == nil {
		err = bad
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
