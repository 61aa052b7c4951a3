package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Kinds of findings.
const (
	BadFile     = "bad-file"     // missing, cut, of another store or format
	BadPage     = "bad-page"     // meta.db's own structure
	BadValue    = "bad-value"    // a value of meta.db with a wrong checksum, or that makes no sense
	BadLog      = "bad-log"      // the write-ahead log has lost acknowledged records, or one makes no sense
	BadData     = "bad-data"     // a block of an object that does not fit its checksum
	DoubleBlock = "double-block" // a block that two objects lead to, or that lies outside of the file
	LostPairs   = "lost-pairs"   // an omap that no object has
	WrongPG     = "wrong-pg"     // an object that its PG does not hold any more, for it was divided, or never did
)

// Finding is one thing that is wrong.
type Finding struct {
	File   string `json:"file"`
	Kind   string `json:"kind"`
	PG     string `json:"pg,omitempty"`
	Object string `json:"object,omitempty"`
	Off    uint64 `json:"offset,omitempty"` // in the object
	Block  uint32 `json:"block,omitempty"`  // in the block file
	Text   string `json:"text"`
}

// Check is what Fsck saw.
type Check struct {
	Dir      string    `json:"dir"`
	UUID     string    `json:"uuid"`
	Owner    string    `json:"owner"`
	Bytes    uint64    `json:"bytes"` // of the block file
	Used     uint64    `json:"used"`  // of these, what objects lead to
	PGs      int       `json:"pgs"`
	Objects  int       `json:"objects"`
	Pairs    int       `json:"omap_pairs"`
	Entries  int       `json:"log_entries"`
	Records  int       `json:"wal_records"` // not yet in meta.db: the store was not closed, or it was killed
	Found    int       `json:"found"`
	Findings []Finding `json:"findings"` // the first thousand
}

const maxFindings = 1000

func (c *Check) add(f Finding) {
	if c.Found++; len(c.Findings) < maxFindings {
		c.Findings = append(c.Findings, f)
	}
}

// Fsck reads the whole store in dir, which no process may have open, and changes nothing: the
// database with its structure and checksums, the log from where the database ends, every block
// that either leads to, and whether a block has two owners. An error: it could not look.
func Fsck(dir string) (*Check, error) {
	c := &Check{Dir: dir, Findings: []Finding{}}
	fs := crashdisk.ReadOnly(dir)
	o := Options{FS: fs}
	o.fill(dir)
	o.Create = false
	names, err := fs.List()
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	ours := 0
	for _, n := range names {
		if n == superName || n == blockName || n == walName || n == metaName {
			ours++
		}
	}
	if ours == 0 {
		return nil, fmt.Errorf("store %s: %w: none of %s, %s, %s, %s is there", dir, ErrNoStore, superName, blockName, walName, metaName)
	}
	sp, err := readSuper(fs)
	if err != nil {
		c.add(Finding{File: superName, Kind: BadFile, Text: err.Error()})
		return c, nil // nothing says what the rest should be
	}
	c.Owner = sp.Owner
	id, err := sp.uuid()
	if err != nil {
		c.add(Finding{File: superName, Kind: BadFile, Text: err.Error()})
		return c, nil
	}
	c.UUID = id.String()
	k := &checker{Check: c, s: &Store{o: o, dir: dir, uuid: id, pgs: map[wire.PGID]*pgState{}}, omaps: map[uint64]*object{}, pgNum: map[wire.PGID]uint32{}}
	defer k.s.closeFiles()
	if err := k.openBlock(); err != nil {
		return c, nil
	}
	if err := k.readMeta(); err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	k.readLog()
	c.Bytes, c.Used = uint64(k.s.alloc.total-1)*BlockBytes, uint64(k.s.alloc.total-1-k.s.alloc.free)*BlockBytes
	c.PGs = len(k.s.pgs)
	return c, nil
}

// FsckIn is Fsck of dir, or of the store in it when dir is a daemon's data directory.
func FsckIn(dir string) (*Check, error) {
	if _, err := os.Stat(filepath.Join(dir, superName)); err != nil {
		if _, err := os.Stat(filepath.Join(dir, "store", superName)); err == nil {
			dir = filepath.Join(dir, "store")
		}
	}
	return Fsck(dir)
}

// checker walks one store. Its Store has files and an allocator, and never runs.
type checker struct {
	*Check
	s     *Store
	omaps map[uint64]*object // that objects of meta.db have
	pgNum map[wire.PGID]uint32
}

func (k *checker) openBlock() (err error) {
	bad := func(err error) error {
		k.add(Finding{File: blockName, Kind: BadFile, Text: err.Error()})
		return err
	}
	if k.s.data.f, err = open(k.s.o.FS, blockName); err != nil {
		return bad(err)
	}
	size, err := checkHeader(k.s.data.f, blockName, blockMagic, k.s.uuid)
	if err != nil {
		return bad(err)
	}
	if size, err = growBlockFile(k.s.data.f, size, 0); err != nil {
		return bad(err)
	}
	k.s.alloc = newAllocator(uint32(size/BlockBytes) + 1)
	return nil
}

// readMeta checks the database. Its error: another process has it.
func (k *checker) readMeta() (err error) {
	m, err := openBoltReadOnly(k.s.dir + "/" + metaName)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%w: stop the OSD first", ErrBusy)
	}
	if err != nil {
		k.add(Finding{File: metaName, Kind: BadFile, Text: err.Error()})
		return nil
	}
	k.s.meta = m
	for _, b := range buckets {
		var pairs map[uint64]int
		if b == bktOmap {
			pairs = map[uint64]int{}
		}
		err := m.each(b, func(key, v []byte, err error) {
			if err == nil {
				err = k.value(b, key, v, pairs)
			}
			if err != nil {
				f := Finding{File: metaName, Kind: BadValue, Text: err.Error()}
				if len(key) >= 8 && b != bktOmap && b != bktState {
					f.PG = pgOfKey(key).String()
				}
				if b == bktObj && len(key) > 8 {
					f.Object = string(key[8:])
				}
				if b == bktOmap && len(key) >= 8 {
					if o := k.omaps[omapOf(key)]; o != nil {
						f.PG, f.Object = o.pg.id.String(), o.name
					}
				}
				k.add(f)
			}
		})
		if err != nil {
			k.add(Finding{File: metaName, Kind: BadPage, Text: err.Error()})
		}
		for id, n := range pairs {
			if k.omaps[id] == nil {
				k.add(Finding{File: metaName, Kind: LostPairs, Text: fmt.Sprintf("%d pairs of omap %d, which no object has", n, id)})
			}
		}
	}
	return nil
}

// value looks at one intact value.
func (k *checker) value(bucket byte, key, v []byte, pairs map[uint64]int) error {
	if bucket != bktState && len(key) < 8 {
		return fmt.Errorf("key %x in bucket %c", key, bucket)
	}
	switch bucket {
	case bktState:
		if string(key) == "header" {
			h, err := journal.DecodeHeader(v)
			if err != nil {
				return err
			}
			k.s.header = h
		}
	case bktPG:
		return k.s.pg(pgOfKey(key)).decodeHead(v)
	case bktMeta:
		if n, ok := osd.PGNumIn(wire.KV{Key: string(key[8:]), Val: v}); ok {
			k.pgNum[pgOfKey(key)] = n
		}
	case bktLog:
		if len(key) != 24 {
			return fmt.Errorf("key %x in bucket %c", key, bucket)
		}
		p := k.s.pg(pgOfKey(key))
		t := &osd.Txn{PG: p.id, Append: []osd.LogRec{{Version: versionAt(key[8:])}}}
		if err := p.checkLog(t); err != nil {
			return err
		}
		p.applyLog(t)
		k.Entries++
	case bktObj:
		p := k.s.pg(pgOfKey(key))
		o := &object{pg: p, name: string(key[8:])}
		if err := o.decode(v); err != nil {
			return err
		}
		k.Objects++
		if n := k.pgNum[p.id]; n != 0 {
			if at := osd.Place(p.id.Pool, o.name, n); at != p.id {
				k.add(Finding{File: metaName, Kind: WrongPG, PG: p.id.String(), Object: o.name, Text: fmt.Sprintf("of %d PGs it belongs to pg %v", n, at)})
			}
		}
		if o.omap != 0 {
			k.omaps[o.omap] = o
		}
		k.refs(p.id, o.name, 0, o.refs, metaName)
	case bktOmap:
		k.Pairs++
		pairs[binary.BigEndian.Uint64(key)]++
	}
	return nil
}

// refs takes and reads the blocks that a record leads to, side by side ones together.
func (k *checker) refs(pg wire.PGID, name string, first uint64, refs []ref, file string) {
	find := func(i int, file, kind, text string) {
		k.add(Finding{File: file, Kind: kind, PG: pg.String(), Object: name, Off: (first + uint64(i)) * BlockBytes, Block: refs[i].phys, Text: text})
	}
	buf := make([]byte, 64*BlockBytes)
	for i := 0; i < len(refs); {
		r := refs[i]
		if r.phys == 0 {
			i++
			continue
		}
		if e := (extent{r.phys, 1}); !k.s.alloc.valid(e) || k.s.alloc.anyTaken(e) {
			find(i, file, DoubleBlock, fmt.Sprintf("block %d lies outside of the file, or another object leads there too", r.phys))
			i++
			continue
		}
		n := 1
		for i+n < len(refs) && n < 64 && refs[i+n].phys == r.phys+uint32(n) {
			if e := (extent{refs[i+n].phys, 1}); !k.s.alloc.valid(e) || k.s.alloc.anyTaken(e) {
				break
			}
			n++
		}
		k.s.alloc.take(extent{r.phys, uint32(n)})
		for at := 0; at < n; {
			bad, err := k.s.data.read(buf[:(n-at)*BlockBytes], refs[i+at:i+n])
			if bad < 0 {
				break
			}
			if err != nil && n-at > 1 { // which one of them?
				if b, _ := k.s.data.read(buf[:BlockBytes], refs[i+at:i+at+1]); b < 0 {
					at++
					continue
				}
			}
			text := fmt.Sprintf("block %d has a bad checksum", refs[i+at+bad].phys)
			if err != nil {
				text = fmt.Sprintf("block %d cannot be read: %v", refs[i+at+bad].phys, err)
			}
			find(i+at+bad, blockName, BadData, text)
			at += bad + 1
		}
		i += n
	}
}

// readLog checks what the database does not have yet.
func (k *checker) readLog() {
	bad := func(kind string, err error) { k.add(Finding{File: walName, Kind: kind, Text: err.Error()}) }
	f, err := open(k.s.o.FS, walName)
	if err != nil {
		bad(BadFile, err)
		return
	}
	k.s.wal.f = f
	ring, err := checkHeader(f, walName, walMagic, k.s.uuid)
	if err != nil {
		bad(BadFile, err)
		return
	}
	k.s.wal.ring = journal.Ring{Base: BlockBytes, Size: ring}
	var parts bytes.Buffer
	_, err = journal.Replay(k.s.wal.read(k.s.header.Expire.Pos), k.s.header, k.s.o.Limits, func(r journal.Record) error {
		if len(r.Data) == 0 {
			return fmt.Errorf("empty record at %d", r.Pos)
		}
		if r.Data[0]&partFirst != 0 {
			parts.Reset()
		}
		parts.Write(r.Data[1:])
		if r.Data[0]&partLast == 0 {
			return nil
		}
		rec := append([]byte{}, parts.Bytes()...)
		parts.Reset()
		k.Records++
		if err := k.record(rec); err != nil {
			bad(BadLog, fmt.Errorf("record at %d: %w", r.Pos, err))
		}
		return nil
	})
	if err != nil {
		bad(BadLog, err)
	}
}

func (k *checker) record(rec []byte) error {
	pl, err := decodePlan(rec)
	if err != nil {
		return err
	}
	p := k.s.pg(pl.t.PG)
	for i := range pl.t.Objs {
		for _, x := range pl.objOps(i) {
			if len(x.refs) > 0 {
				k.refs(p.id, pl.t.Objs[i].Name, x.off, x.refs, walName)
			}
		}
	}
	if err := p.checkLog(pl.t); err != nil {
		return err
	}
	if !pl.t.RemovePG {
		p.applyLog(pl.t)
	} else {
		p.log = nil
	}
	return nil
}

// ---- the database, of which nothing is changed -----------------------------------------

func openBoltReadOnly(path string) (_ *boltDB, err error) {
	defer asError(&err)
	if err := metaFits(path); err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	return &boltDB{db}, nil
}

// errOrder: bbolt's search would miss the key, or find another.
var errOrder = errors.New("out of order")

// walkable goes over every page of an existing database before bbolt is given it to write. bbolt
// itself does so when it opens one, to find the free pages, but in a goroutine that goes on, or
// panics, where nobody can catch it when a page is bad: the daemon would die without a word of why.
func walkable(path string) error {
	if st, err := os.Stat(path); err != nil || st.Size() == 0 {
		return nil // to be made
	}
	m, err := openBoltReadOnly(path)
	if err != nil {
		return err
	}
	defer m.close()
	for _, bucket := range buckets {
		var bad error
		err := m.each(bucket, func(_, _ []byte, err error) {
			if bad == nil && errors.Is(err, errOrder) {
				bad = err
			}
		})
		if err != nil && !errors.Is(err, errNoBucket) { // buckets follow in a transaction of their own
			return err
		}
		if bad != nil {
			return bad
		}
	}
	return nil
}

// errNoBucket is of a database that was about to be made.
var errNoBucket = errors.New("is missing")

// each calls fn for every pair of a bucket, also of those whose checksum is wrong. It goes over
// every page of the bucket; bbolt's own check would do so in a goroutine whose panic at a bad
// page nobody can catch.
func (m *boltDB) each(bucket byte, fn func(k, v []byte, err error)) (err error) {
	defer asError(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return m.db.View(func(tx *bbolt.Tx) error {
		bk := tx.Bucket([]byte{bucket})
		if bk == nil {
			return fmt.Errorf("%w: %s: bucket %c %w", ErrCorrupt, metaName, bucket, errNoBucket)
		}
		c := bk.Cursor()
		var last []byte
		for k, v := c.First(); k != nil; k, v = c.Next() {
			v, err := unsum(bucket, k, v)
			if last != nil && bytes.Compare(last, k) >= 0 {
				err = errors.Join(err, fmt.Errorf("%w: %s: %s is %w", ErrCorrupt, metaName, describeKey(bucket, k), errOrder))
			}
			fn(k, v, err)
			last = append(last[:0], k...)
		}
		return nil
	})
}
