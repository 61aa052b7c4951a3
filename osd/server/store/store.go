package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/internal/watch"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
	"github.com/google/btree"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// What callers act on.
var (
	ErrNoStore  = errors.New("no store here")
	ErrForeign  = errors.New("the directory belongs to something else")
	ErrFormat   = errors.New("the store has another format")
	ErrCorrupt  = errors.New("the store is corrupt")
	ErrBusy     = errors.New("the store is in use by another process")
	ErrNoSpace  = errors.New("no space left in the block file")
	ErrTooLarge = errors.New("transaction too large")
	ErrBadBlock = errors.New("bad block")
	ErrClosed   = errors.New("store is closed")
)

// Options of Open. The zero value of a field takes the default.
type Options struct {
	Create  bool      // make a store when the directory is empty
	Bytes   int64     // size of the block file: a new one is made so large, sparse, a smaller one grows; default 1 GiB
	Cluster wire.UUID // recorded in a new store and compared with an old one's, when set
	Owner   string    // likewise: "osd.0"

	WALBytes      int64          // ring of the write-ahead log of a new store; default 32 MiB
	Limits        journal.Limits // must stay as they were when the store was made
	DirtyBytes    int            // small writes held in memory; Submit waits beyond it; default 16 MiB
	DirtyObjects  int            // changed objects and keys that start a checkpoint; default 4096
	CacheObjects  int            // unchanged object records kept in memory; default 16384
	DirectBytes   int            // whole blocks of at least this many bytes go straight to the block file, and are read after Submit; default and least for an OSD osd.LendBelow
	MaxRuns       int            // an object in more pieces than that is put together (space.go); default 64
	CheckpointMax time.Duration  // a checkpoint at least this often while something changed; default 5 s, < 0: never
	FS            crashdisk.FS   // default: the directory itself
	Rand          io.Reader      // default: crypto/rand
}

func (o *Options) fill(dir string) {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if o.Bytes == 0 {
		o.Bytes = 1 << 30
	}
	if o.WALBytes == 0 {
		o.WALBytes = 32 << 20
	}
	if o.Limits == (journal.Limits{}) {
		o.Limits = journal.DefaultLimits
	}
	def(&o.DirtyBytes, 16<<20)
	def(&o.DirtyObjects, 4096)
	def(&o.CacheObjects, 16384)
	o.CacheObjects = max(o.CacheObjects, 16)
	def(&o.DirectBytes, osd.LendBelow)
	def(&o.MaxRuns, 64)
	if o.CheckpointMax == 0 {
		o.CheckpointMax = 5 * time.Second
	}
	if o.FS == nil {
		o.FS = crashdisk.OS(dir)
	}
	if o.Rand == nil {
		o.Rand = cryptoRand
	}
}

// Store is an osd.Store on a disk.
type Store struct {
	o     Options
	dir   string
	uuid  wire.UUID
	fresh bool
	meta  metaDB
	data  blockFile
	wal   walFile

	pins pins

	mu   sync.Mutex
	work sync.Cond // for committers: runs are queued, deliveries wait, closing
	room sync.Cond // for Submit and the checkpointer: a commit, a checkpoint or a flight ended
	fly  sync.Cond // for flyers: a flight waits, closing
	down sync.Cond // for committers: a flight has landed

	pgs      map[wire.PGID]*pgState
	lru      list
	omap     *btree.BTreeG[omapItem] // newest pairs, not yet in a checkpoint
	omapOld  *btree.BTreeG[omapItem] // those of the checkpoint under way
	nextOmap uint64
	deadOmap []uint64 // omaps that no object has any more; their pairs go with the next checkpoint

	alloc    *allocator
	reserved uint32   // blocks promised to dirty buffers
	freed    []extent // referenced by the last checkpoint or the log: free after the next checkpoint
	nfreed   uint32

	dirtyBufs int // buffers that are not yet on their way to the block file
	dirtyKeys int // objects and pairs changed since the last checkpoint began

	w         *journal.Writer
	header    journal.Header // as the last checkpoint stored it
	flights   []*flight      // large writes that have not landed, or not all before them
	aloft     int            // bytes of those that have not
	launched  uint64         // flights so far
	landed    uint64         // of those, so many from the first are in the block file
	synced    uint64         // and so many on stable storage
	waiting   []completion   // submitted, in log order
	ready     []completion   // to be told, in log order
	telling   bool
	ckptWant  bool
	ckptBusy  bool
	ckptCount uint64
	closing   bool
	failed    error
	dead      atomic.Bool // failed is set
	kick      chan struct{}
	stop      chan struct{}
	host      *host
	wg        sync.WaitGroup
	frozen    []*frozenBuf
	spareBufs []*buf
	bases     []base           // read by Damaged for the next Submit
	noPunch   bool             // the file system makes no holes
	scattered map[place]uint32 // objects in so many pieces, to be put together
	moved     bool             // an object waits for the next checkpoint to put it together
	count     Counters
}

var _ osd.Store = (*Store)(nil)

// completion is one submitted transaction: it is durable when the log is, up to pos.
type completion struct {
	pos  journal.Pos
	done func(error)
	err  error
}

// Counters say what the store has done since it was opened.
type Counters struct {
	Txns        uint64 // submitted
	Commits     uint64 // writes of the log
	LogBytes    uint64
	Checkpoints uint64
	Replayed    uint64 // log records at Open
	BadBlocks   uint64
	BadPairs    uint64     // of omaps, when they were read
	Punched     uint64     // bytes of the block file given back to the file system
	Moved       uint64     // bytes written anew to put a scattered object together
	HostFull    uint64     // writes that the host's file system had no room for, and that were tried again
	CommitTook  watch.Hist // a write of the log with its fdatasync, and with the large writes that it waits for
}

// Open opens the store in dir, or makes one when the directory is empty and o.Create is set.
// What the log holds is applied; when Open returns everything is in the metadata database.
func Open(dir string, o Options) (*Store, error) {
	o.fill(dir)
	s, err := openStore(dir, o)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	return s, nil
}

func openStore(dir string, o Options) (_ *Store, err error) {
	_, simulated := o.FS.(cells)
	if !simulated && o.Create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	sp, made, err := prepare(o.FS, func() error {
		if simulated {
			return nil
		}
		m, err := openMeta(dir, true)
		if err != nil {
			return err
		}
		return m.close()
	}, o)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, dir: dir, fresh: made, pgs: map[wire.PGID]*pgState{}, scattered: map[place]uint32{}, kick: make(chan struct{}, 1), stop: make(chan struct{}), host: &host{leaving: make(chan struct{})}}
	s.work.L, s.room.L, s.fly.L, s.down.L = &s.mu, &s.mu, &s.mu, &s.mu
	s.omap = newOmapTree()
	if s.uuid, err = sp.uuid(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.closeFiles()
		}
	}()
	if !simulated {
		s.host.dir = dir
	}
	if simulated {
		s.meta = openCells(o.FS.(cells))
	} else if s.meta, err = openMeta(dir, false); err != nil {
		return nil, err
	}
	if s.data.f, err = open(o.FS, blockName); err != nil {
		return nil, err
	}
	s.data.hints()
	size, err := checkHeader(s.data.f, blockName, blockMagic, s.uuid)
	if err != nil {
		return nil, err
	}
	if size, err = growBlockFile(s.data.f, size, o.Bytes); err != nil {
		return nil, err
	}
	s.alloc = newAllocator(uint32(size/BlockBytes) + 1)
	if s.wal.f, err = open(o.FS, walName); err != nil {
		return nil, err
	}
	s.data.f, s.wal.f = patientFile{s.data.f, s.host}, patientFile{s.wal.f, s.host}
	ring, err := checkHeader(s.wal.f, walName, walMagic, s.uuid)
	if err != nil {
		return nil, err
	}
	s.wal.ring = journal.Ring{Base: BlockBytes, Size: ring}
	if min := int64(o.Limits.Window()) + int64(journal.FrameBytes(o.Limits.Record)); ring < min {
		return nil, fmt.Errorf("%w: %s holds %d bytes, %d are needed with these limits", ErrCorrupt, walName, ring, min)
	}
	if err = s.load(); err != nil {
		return nil, err
	}
	if err = s.recover(); err != nil {
		return nil, err
	}
	if s.data.openDirect(o.FS); s.data.direct != nil {
		s.data.direct = patientFile{s.data.direct, s.host}
	}
	s.wg.Add(3 + maxFlyers)
	for range maxFlyers {
		go s.flyLoop()
	}
	go s.commitLoop()
	go s.commitLoop()
	go s.checkpointLoop()
	return s, nil
}

// openMeta opens meta.db, which must be there unless the store is being made.
func openMeta(dir string, create bool) (metaDB, error) {
	path := filepath.Join(dir, metaName)
	if _, err := os.Stat(path); err != nil && !create {
		return nil, fmt.Errorf("%w: %s: %v; %s", ErrCorrupt, metaName, err, giveUp)
	}
	m, err := openBolt(path, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 16 << 20})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: %s is locked", ErrBusy, metaName)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %v; %s", ErrCorrupt, metaName, err, giveUp)
	}
	return m, nil
}

// UUID names the store for ever.
func (s *Store) UUID() wire.UUID { return s.uuid }

// Fresh reports that this Open made the store.
func (s *Store) Fresh() bool { return s.fresh }

// Space is the size of the block file, or what its host's file system lets it be, and what is
// taken or promised of it. Blocks that were freed count as taken until the next checkpoint gives
// them back.
func (s *Store) Space() (total, used uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, used = uint64(s.alloc.total-1)*BlockBytes, uint64(s.alloc.total-1-s.avail())*BlockBytes
	if room := s.host.room(); room < total-used {
		total = used + room
	}
	return total, used
}

// avail is how many blocks can still be promised. Caller holds mu.
func (s *Store) avail() uint32 {
	if s.reserved < s.alloc.free {
		return s.alloc.free - s.reserved
	}
	return 0
}

// Counters returns what the store counted.
func (s *Store) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.count
	c.BadBlocks, c.HostFull = s.data.bad.Load(), s.host.waited.Load()
	return c
}

// Err is what the store has failed with; nil: it works.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Failed reports whether Err is an error, without waiting for anybody. From then on what the store
// shows may lack what could not be read: who has asked it something asks this before he says it to others.
func (s *Store) Failed() bool { return s.dead.Load() }

// fail makes err the answer to everything that is not durable yet and to every later Submit.
// Caller holds mu.
func (s *Store) fail(err error) {
	if s.failed == nil {
		s.failed = err
		s.dead.Store(true)
	}
	for _, c := range s.waiting {
		c.err = s.failed
		s.ready = append(s.ready, c)
	}
	s.waiting = nil
	s.work.Broadcast()
	s.room.Broadcast()
	s.down.Broadcast()
}

// Checkpoint brings the metadata database up to date and gives freed blocks back.
func (s *Store) Checkpoint() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.ckptBusy && s.failed == nil {
		s.room.Wait() // one that began before this call does not count
	}
	want := s.ckptCount + 1
	s.askCheckpoint()
	for s.ckptCount < want && s.failed == nil && !s.closing {
		s.room.Wait()
	}
	return s.failed
}

func (s *Store) askCheckpoint() {
	s.ckptWant = true
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Close makes everything submitted durable, takes a checkpoint and closes the files. Nothing
// may be submitted meanwhile.
func (s *Store) Close() error {
	s.host.leave()
	cerr := s.Checkpoint()
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closing = true
	s.work.Broadcast()
	s.room.Broadcast()
	s.fly.Broadcast()
	s.mu.Unlock()
	close(s.stop)
	s.wg.Wait()
	if cerr == nil {
		cerr = s.Err() // of a checkpoint that came behind the one asked for
	}
	return errors.Join(cerr, s.closeFiles())
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.meta != nil {
		errs = append(errs, s.meta.close())
	}
	for _, f := range []crashdisk.File{s.data.f, s.data.direct, s.wal.f} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// PGs lists every PG that has something.
func (s *Store) PGs() []wire.PGID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []wire.PGID
	for id, p := range s.pgs {
		if !p.empty() {
			ids = append(ids, id)
		}
	}
	sort.Slice(ids, func(i, j int) bool {
		return ids[i].Pool < ids[j].Pool || ids[i].Pool == ids[j].Pool && ids[i].Num < ids[j].Num
	})
	return ids
}
