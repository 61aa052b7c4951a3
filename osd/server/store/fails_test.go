package store

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

// syncless is a disk on which the next sync of one file fails for lack of room, once, as on a thin
// volume: the system then forgets what was to be written, and the sync after it has nothing to say.
type syncless struct {
	*crashdisk.Disk
	name  string
	armed *atomic.Bool
}

func (d syncless) Open(name string) (crashdisk.File, error) {
	f, err := d.Disk.Open(name)
	if name == d.name && err == nil {
		f = synclessFile{f, d.armed}
	}
	return f, err
}

type synclessFile struct {
	crashdisk.File
	armed *atomic.Bool
}

func (f synclessFile) Sync() error {
	if f.armed.CompareAndSwap(true, false) {
		return fmt.Errorf("sync: %w", syscall.ENOSPC)
	}
	return f.File.Sync()
}

// A sync that has failed may not be tried again: the next one succeeds without what was lost.
func TestAFailedSyncIsNotTriedAgain(t *testing.T) {
	for _, name := range []string{walName, blockName} {
		o := tight()
		disk, armed := crashdisk.New(1), new(atomic.Bool)
		o.FS = syncless{disk, name, armed}
		s := mustOpen(t, "sim", o)
		armed.Store(true)
		if err := storetest.Do(s, put("object", 1, 0, fill(64<<10, 'd'))); err == nil {
			t.Errorf("%s could not be synced, and what was written is called durable", name)
		}
		if err := s.Close(); err == nil {
			t.Errorf("%s: closed without a word", name)
		}
	}
}

// fullMeta is a database whose host has no room for the next update.
type fullMeta struct {
	metaDB
	armed atomic.Bool
}

func (m *fullMeta) update(b *batch) error {
	if m.armed.CompareAndSwap(true, false) {
		return fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	return m.metaDB.update(b)
}

// A split waits for room on the host like everything else.
func TestASplitWaitsForRoom(t *testing.T) {
	o := tight()
	o.FS = crashdisk.New(1)
	s := mustOpen(t, "sim", o)
	defer s.Close()
	m := &fullMeta{metaDB: s.meta}
	s.mu.Lock()
	s.meta = m
	s.mu.Unlock()
	pg := wire.PGID{Pool: 1, Num: 2}
	if err := storetest.Do(s, &osd.Txn{PG: pg, Objs: []osd.ObjTxn{{Name: "object", Version: wire.Version{Interval: 1, N: 1}}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	m.armed.Store(true)
	if err := s.Split(storetest.SplitOf(pg)); err != nil {
		t.Fatal(err)
	}
	if m.armed.Load() {
		t.Error("nothing was written")
	}
}

// Small overwrites bring the blocks that they replace back, with the checkpoint that writes them: a
// store that is nearly full takes as many of them as come.
func TestANearlyFullStoreIsOverwritten(t *testing.T) {
	o := tight()
	o.FS, o.Bytes, o.WALBytes, o.DirtyBytes, o.DirtyObjects = crashdisk.New(1), 160*BlockBytes, 4<<20, 4<<20, 4096
	s := mustOpen(t, "sim", o)
	defer s.Close()
	if err := storetest.Do(s, put("object", 1, 0, fill(120*BlockBytes, 'a'))); err != nil {
		t.Fatal(err)
	}
	for i := range 120 {
		if err := storetest.Do(s, put("object", uint64(i+2), uint64(i*BlockBytes), fill(BlockBytes, 'b'))); err != nil {
			t.Fatalf("overwrite of block %d: %v", i, err)
		}
	}
	if err := s.verify(); err != nil {
		t.Error(err)
	}
}
