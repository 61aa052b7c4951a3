package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
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

type pair struct {
	key, val []byte // nil val: remove
	bad      bool   // stored so that nobody can read it
}

func newBatch() *batch { return &batch{put: map[byte][]pair{}} }

func (b *batch) set(bucket byte, key, val []byte) {
	b.put[bucket] = append(b.put[bucket], pair{key: key, val: val})
}

// spoil stores a key whose value is an error for whoever reads it.
func (b *batch) spoil(bucket byte, key []byte) {
	b.put[bucket] = append(b.put[bucket], pair{key: key, val: []byte{}, bad: true})
}

// badValue is a value whose checksum does not fit.
type badValue struct {
	bucket byte
	key    []byte
}

func (e *badValue) Error() string {
	return fmt.Sprintf("%v: %s: %s has a bad checksum", ErrCorrupt, metaName, describeKey(e.bucket, e.key))
}

// Unwrap makes errors.Is(err, ErrCorrupt) true.
func (e *badValue) Unwrap() error { return ErrCorrupt }

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

// boltDB adds what bbolt lacks: a checksum on every value, of its bucket and key too, so that
// a flipped bit is an error that names them and not another value; and an error instead of a
// panic where a page makes no sense.
type boltDB struct{ db *bbolt.DB }

const sumBytes = 4

func metaSum(bucket byte, key, val []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte{bucket})
	return crc32.Update(crc32.Update(sum, castagnoli, key), castagnoli, val)
}

// unsum cuts the checksum off and verifies it.
func unsum(bucket byte, key, v []byte) ([]byte, error) {
	if n := len(v) - sumBytes; n >= 0 && binary.LittleEndian.Uint32(v[n:]) == metaSum(bucket, key, v[:n]) {
		return v[:n:n], nil
	}
	return nil, &badValue{bucket, append([]byte{}, key...)}
}

// describeKey says what a value of meta.db is.
func describeKey(bucket byte, k []byte) string {
	switch {
	case bucket == bktState:
		return fmt.Sprintf("the store's %q", k)
	case bucket == bktOmap && len(k) >= 8:
		return fmt.Sprintf("key %q of omap %d", k[8:], binary.BigEndian.Uint64(k))
	case len(k) < 8:
	case bucket == bktPG:
		return fmt.Sprintf("the head of pg %v", pgOfKey(k))
	case bucket == bktMeta:
		return fmt.Sprintf("value %q of pg %v", k[8:], pgOfKey(k))
	case bucket == bktLog && len(k) == 24:
		return fmt.Sprintf("log entry %v of pg %v", versionAt(k[8:]), pgOfKey(k))
	case bucket == bktObj:
		return fmt.Sprintf("the record of pg %v object %q", pgOfKey(k), k[8:])
	}
	return fmt.Sprintf("key %x of bucket %c", k, bucket)
}

// asError makes an error of bbolt's panic over a page.
func asError(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %s: %v", ErrCorrupt, metaName, r)
	}
}

// metaFits refuses a database file that is shorter than its head says: bbolt would run over
// the end of the mapping. The head is the newer of two, in the first two pages: 16 bytes of
// page header, then magic, version, page size, flags (4 each), root (16), free list (8), and
// the number of pages in use.
func metaFits(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 { // about to be made
		return err
	}
	b := make([]byte, 128)
	page := int64(os.Getpagesize())
	for at := int64(0); at < 2*page; at += page {
		n, _ := f.ReadAt(b, at)
		if n < len(b) {
			return fmt.Errorf("%w: %s is cut: %d bytes", ErrCorrupt, metaName, st.Size())
		}
		if binary.NativeEndian.Uint32(b[16:]) != 0xED0CDAED { // bbolt says what is wrong with it
			continue
		}
		size := uint64(binary.NativeEndian.Uint32(b[24:]))
		if pages := binary.NativeEndian.Uint64(b[56:]); size == uint64(page) && pages > uint64(st.Size())/size {
			return fmt.Errorf("%w: %s is cut: %d bytes, its head says %d pages of %d", ErrCorrupt, metaName, st.Size(), pages, size)
		}
	}
	return nil
}

// openBolt opens or makes meta.db; its file lock also keeps a second process out of the store.
func openBolt(path string, o *bbolt.Options) (_ metaDB, err error) {
	defer asError(&err)
	if err := metaFits(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := walkable(path); err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, o)
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
	defer asError(&err)
	err = m.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte{bucket}).Get(key)
		if v == nil {
			return nil
		}
		v, err := unsum(bucket, key, v)
		if err == nil {
			val = append([]byte{}, v...)
		}
		return err
	})
	return val, err
}

func (m *boltDB) scan(bucket byte, from []byte, fn func(k, v []byte) bool) (err error) {
	defer asError(&err)
	return m.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte{bucket}).Cursor()
		for k, v := c.Seek(from); k != nil; k, v = c.Next() {
			v, err := unsum(bucket, k, v)
			if err != nil {
				return err
			}
			if !fn(k, v) {
				return nil
			}
		}
		return nil
	})
}

func (m *boltDB) update(b *batch) (err error) {
	defer asError(&err)
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
					v, sum := append(make([]byte, 0, len(p.val)+sumBytes), p.val...), metaSum(name, p.key, p.val)
					if p.bad {
						sum = ^sum
					}
					err = bk.Put(p.key, binary.LittleEndian.AppendUint32(v, sum))
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
	switch {
	case !ok:
		return nil, nil
	case p.bad:
		return nil, &badValue{bucket, p.key}
	}
	return append([]byte{}, p.val...), nil
}

func (m *cellDB) scan(bucket byte, from []byte, fn func(k, v []byte) bool) error {
	var err error
	(*m.trees.Load())[bucket].AscendGreaterOrEqual(pair{key: from}, func(p pair) bool {
		if p.bad {
			err = &badValue{bucket, p.key}
			return false
		}
		return fn(p.key, p.val)
	})
	return err
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
