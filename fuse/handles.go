package fuse

import (
	"sync"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/wire"
)

// handle is one open file of the kernel.
type handle struct {
	f *client.File

	mu     sync.Mutex
	flock  uint64          // owner of its flock; 0: none was taken
	owners map[uint64]bool // of range locks taken through it; true: was seen in a FLUSH (B8)
}

// handles numbers them. Numbers are used again, lowest first is of no use to anybody.
type handles struct {
	mu   sync.RWMutex
	tab  []*handle
	free []uint64
}

func (t *handles) add(f *client.File) uint64 {
	h := &handle{f: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		fh := t.free[n-1]
		t.free = t.free[:n-1]
		t.tab[fh] = h
		return fh
	}
	t.tab = append(t.tab, h)
	return uint64(len(t.tab) - 1)
}

func (t *handles) get(fh uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if fh < uint64(len(t.tab)) {
		return t.tab[fh]
	}
	return nil
}

func (t *handles) remove(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fh >= uint64(len(t.tab)) || t.tab[fh] == nil {
		return nil
	}
	h := t.tab[fh]
	t.tab[fh] = nil
	t.free = append(t.free, fh)
	return h
}

// took notes an owner of a range lock.
func (h *handle) took(owner uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owners == nil {
		h.owners = map[uint64]bool{}
	}
	if !h.owners[owner] {
		h.owners[owner] = false
	}
}

// flocked notes the owner of the open file's flock.
func (h *handle) flocked(owner uint64) {
	h.mu.Lock()
	h.flock = owner
	h.mu.Unlock()
}

// owns reports whether l belongs to the open file, as far as is known: it is its flock, or a
// range lock taken through it by an owner that is no process.
func (h *handle) owns(l *wire.FileLock) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.Flock {
		return h.flock == l.Owner
	}
	posix, ours := h.owners[l.Owner]
	return ours && !posix
}

// flushed notes an owner seen in a FLUSH: a process's file table, hence a POSIX owner.
func (h *handle) flushed(owner uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.owners[owner]; ok {
		h.owners[owner] = true
	}
}

// left are the owners that locked through this handle: at RELEASE those that still hold
// something are open-file-description owners, whom the kernel never unlocks (F14).
func (h *handle) left() []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []uint64
	for o, posix := range h.owners {
		if !posix {
			out = append(out, o)
		}
	}
	return out
}
