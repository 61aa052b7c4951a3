package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"sync/atomic"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/wire"
	"github.com/google/btree"
	"go.etcd.io/bbolt"
)

// metaDB holds what checkpoints have written. Two make it: bbolt on a real disk and, because
// bbolt cannot run on a simulated one, cellDB, which promises the same: an update is atomic,
// durable when it returns, and readers see one state.
type metaDB interface {
	// get copies the value of a key, nil: absent.
	get(bucket byte, key []byte) ([]byte, error)
	// scan calls fn for keys >= from until it returns false; the slices die with the call.
	scan(bucket byte, from []byte, fn func(k, v []byte) bool) error
	update(b *batch) error
	close() error
}

// Buckets, by what their keys are. Keys of one PG lie together.
const (
	bktState = byte('s') // "header": journal.Header; "omap": next omap number
	bktPG    = byte('p') // pg: tail and committed
	bktMeta  = byte('m') // pg, name of the value
	bktLog   = byte('l') // pg, version: log record
	bktObj   = byte('o') // pg, object name: object record
	bktOmap  = byte('k') // omap number, key: value
)

var buckets = []byte{bktState, bktPG, bktMeta, bktLog, bktObj, bktOmap}

// batch is one checkpoint's changes. Ranges are removed first.
type batch struct {
	drop []prefix
	put  map[byte][]pair
}

type prefix struct {
	bucket byte
	key    []byte
}

type pair struct{ key, val []byte } // nil val: remove

func newBatch() *batch { return &batch{put: map[byte][]pair{}} }

func (b *batch) set(bucket byte, key, val []byte) {
	b.put[bucket] = append(b.put[bucket], pair{key, val})
}

// sort brings the keys into the order of the tree. Of equal keys the last set one wins.
func (b *batch) sort() {
	for _, ps := range b.put {
		sort.SliceStable(ps, func(i, j int) bool { return bytes.Compare(ps[i].key, ps[j].key) < 0 })
	}
}

func pgKey(pg wire.PGID) []byte {
	k := make([]byte, 8, 40)
	binary.BigEndian.PutUint32(k, pg.Pool)
	binary.BigEndian.PutUint32(k[4:], pg.Num)
	return k
}

func pgOfKey(k []byte) wire.PGID {
	return wire.PGID{Pool: binary.BigEndian.Uint32(k), Num: binary.BigEndian.Uint32(k[4:])}
}

func logKey(pg wire.PGID, v wire.Version) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(pgKey(pg), v.Interval), v.N)
}

func omapKey(id uint64, key string) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(key)), id), key...)
}

// ---- bbolt -----------------------------------------------------------------------------

type boltDB struct{ db *bbolt.DB }

// openBolt opens or makes meta.db; its file lock also keeps a second process out of the store.

func openBolt(path string, timeout *bbolt.Options) (metaDB, error) {
	db, err := bbolt.Open(path, 0o600, timeout)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte{b}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &boltDB{db}, nil
}

func (m *boltDB) get(bucket byte, key []byte) (val []byte, err error) {
	err = m.db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket([]byte{bucket}).Get(key); v != nil {
			val = append([]byte{}, v...)
		}
		return nil
	})
	return val, err
}

func (m *boltDB) scan(bucket byte, from []byte, fn func(k, v []byte) bool) error {
	return m.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte{bucket}).Cursor()
		for k, v := c.Seek(from); k != nil && fn(k, v); k, v = c.Next() {
		}
		return nil
	})
}

func (m *boltDB) update(b *batch) error {
	b.sort()
	return m.db.Update(func(tx *bbolt.Tx) error {
		for _, p := range b.drop {
			c := tx.Bucket([]byte{p.bucket}).Cursor()
			for k, _ := c.Seek(p.key); k != nil && bytes.HasPrefix(k, p.key); k, _ = c.Seek(p.key) {
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		for _, name := range buckets {
			bk := tx.Bucket([]byte{name})
			bk.FillPercent = 0.8
			for _, p := range b.put[name] {
				var err error
				if p.val == nil {
					err = bk.Delete(p.key)
				} else {
					err = bk.Put(p.key, p.val)
				}
				if err != nil {
					return fmt.Errorf("bucket %c: %w", name, err)
				}
			}
		}
		return nil
	})
}

func (m *boltDB) close() error { return m.db.Close() }

// ---- cell ------------------------------------------------------------------------------

// cells is what a simulated disk offers instead of a database file.
type cells interface {
	Cell(name string) any
	Commit(name string, life int, v any) error
	Life() int
}

var _ cells = (*crashdisk.Disk)(nil)

type cellTree = btree.BTreeG[pair]

type cellDB struct {
	disk  cells
	life  int
	trees atomic.Pointer[map[byte]*cellTree] // replaced, never changed: the disk holds the same
}

func pairLess(a, b pair) bool { return bytes.Compare(a.key, b.key) < 0 }

func openCells(disk cells) metaDB {
	m := &cellDB{disk: disk, life: disk.Life()}
	old, _ := disk.Cell(metaName).(map[byte]*cellTree)
	own := map[byte]*cellTree{}
	for _, b := range buckets {
		if own[b] = old[b]; own[b] == nil {
			own[b] = btree.NewG(16, pairLess)
		}
	}
	m.trees.Store(&own)
	return m
}

func (m *cellDB) get(bucket byte, key []byte) ([]byte, error) {
	p, ok := (*m.trees.Load())[bucket].Get(pair{key: key})
	if !ok {
		return nil, nil
	}
	return append([]byte{}, p.val...), nil
}

func (m *cellDB) scan(bucket byte, from []byte, fn func(k, v []byte) bool) error {
	(*m.trees.Load())[bucket].AscendGreaterOrEqual(pair{key: from}, func(p pair) bool { return fn(p.key, p.val) })
	return nil
}

func (m *cellDB) update(b *batch) error {
	b.sort()
	next := map[byte]*cellTree{}
	for _, k := range buckets {
		next[k] = (*m.trees.Load())[k].Clone()
	}
	for _, p := range b.drop {
		var gone []pair
		next[p.bucket].AscendGreaterOrEqual(pair{key: p.key}, func(q pair) bool {
			if !bytes.HasPrefix(q.key, p.key) {
				return false
			}
			gone = append(gone, q)
			return true
		})
		for _, q := range gone {
			next[p.bucket].Delete(q)
		}
	}
	for bucket, ps := range b.put {
		for _, p := range ps {
			if p.val == nil {
				next[bucket].Delete(p)
			} else {
				next[bucket].ReplaceOrInsert(p)
			}
		}
	}
	if err := m.disk.Commit(metaName, m.life, next); err != nil {
		return err
	}
	m.trees.Store(&next)
	return nil
}

func (m *cellDB) close() error { return nil }
