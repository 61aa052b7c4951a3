package store

import (
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

// tight makes a store that checkpoints, waits and turns its ring all the time.
func tight() Options {
	return Options{Create: true, Bytes: 16 << 20, WALBytes: 512 << 10, Limits: journal.Limits{Run: 16 << 10, Record: 32 << 10},
		DirtyBytes: 256 << 10, DirtyObjects: 20, CacheObjects: 16, DirectBytes: 8 << 10, CheckpointMax: -1}
}

func mustOpen(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformanceOnDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (osd.Store, func() osd.Store) {
		dir := t.TempDir()
		s := mustOpen(t, dir, tight())
		return s, func() osd.Store {
			if err := s.verify(); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, dir, tight())
			return s
		}
	})
}

func TestConformanceOnSimulatedDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (osd.Store, func() osd.Store) {
		o := tight()
		disk := crashdisk.New(1)
		o.FS = disk
		s := mustOpen(t, "sim", o)
		return s, func() osd.Store { // a process that dies, not a clean end
			disk.Kill()
			s.Close()
			s = mustOpen(t, "sim", o)
			return s
		}
	})
}

func TestConformanceOfMemStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (osd.Store, func() osd.Store) {
		return osd.NewMemStore(wire.UUID{1}).AutoCommit(), nil
	})
}
