package store

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/internal/crashdisk"
)

// The files of a store are sparse, and its host's file system may be full before they are. Then
// Space says so, early enough for those who ask before they write; and what is on its way all
// the same waits for room instead of ending the store, as deletes, on this or another OSD or by
// the host's people, will make some.

// hostReserve is what is left to the log and the metadata, which grow on deletes too.
const hostReserve = 64 << 20

const hostEvery = 200 * time.Millisecond // between two looks

// host is the file system that the store's directory is in.
type host struct {
	dir     string
	at      atomic.Int64 // of the last look
	free    atomic.Uint64
	leaving chan struct{} // closed: nobody waits any more
	once    sync.Once
	waited  atomic.Uint64 // Counters.HostFull
	lastAt  atomic.Int64  // of the newest of them
}

// room is what the host has for the block file; more than any disk has where that is not known.
func (h *host) room() uint64 {
	now := time.Now().UnixNano()
	if last := h.at.Load(); (last == 0 || now-last >= int64(hostEvery)) && h.at.CompareAndSwap(last, now) {
		h.free.Store(h.look())
	}
	return h.free.Load()
}

func (h *host) look() uint64 {
	var st unix.Statfs_t
	if h.dir == "" || unix.Statfs(h.dir, &st) != nil {
		return 1 << 62
	}
	// A small file system has a small reserve: a quarter at most.
	free, reserve := st.Bavail*uint64(st.Bsize), min(hostReserve, st.Blocks*uint64(st.Bsize)/4)
	return free - min(free, reserve)
}

// waits reports whether err is lack of room, after a while; false also when the store is closing.
func (h *host) waits(err error) bool {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return false
	}
	h.waited.Add(1)
	h.lastAt.Store(time.Now().UnixNano())
	select {
	case <-h.leaving:
		return false
	case <-time.After(hostEvery):
		return true
	}
}

// HostFull says when a write last found no room on the host; the zero time: never.
func (s *Store) HostFull() (at time.Time) {
	if ns := s.host.lastAt.Load(); ns != 0 {
		at = time.Unix(0, ns)
	}
	return at
}

// StopWaiting ends the wait for room: from now on a write that finds none ends the store, whose
// Close needs it. For who is about to close it, and may not come so far while others wait.
func (s *Store) StopWaiting() { s.host.leave() }

func (h *host) leave() { h.once.Do(func() { close(h.leaving) }) }

// patientFile is a file whose writes wait for room. A sync does not: what it could not write the
// system has forgotten, and the next one would succeed without it.
type patientFile struct {
	crashdisk.File
	h *host
}

func (f patientFile) WriteAt(p []byte, off int64) (n int, err error) {
	for {
		if n, err = f.File.WriteAt(p, off); err == nil || !f.h.waits(err) {
			return n, err
		}
	}
}

// updateMeta is meta.update, which changes nothing when it fails.
func (s *Store) updateMeta(b *batch) error {
	for {
		if err := s.meta.update(b); err == nil || !s.host.waits(err) {
			return err
		}
	}
}
