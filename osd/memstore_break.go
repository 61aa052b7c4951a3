package osd

import (
	"errors"
	"hash/crc32"

	"github.com/capstan-fs/capstan/wire"
)

// What tests and sim break in a MemStore: bytes that rot, bytes that lie, a disk that takes its time.

var errDamaged = errors.New("damaged for a test")

// Damage makes an object's data unreadable until it is replaced, as bit rot does; for tests.
func (s *MemStore) Damage(pg wire.PGID, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range []map[wire.PGID]*memPG{s.cur, s.dur} {
		if p := m[pg]; p != nil && p.objs[name] != nil {
			p.objs[name].bad = true
		}
	}
}

// DamageOmap makes what a key of an object's omap has unreadable, as bit rot does; the key need not
// be there before. For tests.
func (s *MemStore) DamageOmap(pg wire.PGID, name, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range []map[wire.PGID]*memPG{s.cur, s.dur} {
		if p := m[pg]; p != nil && p.objs[name] != nil {
			p.objs[name].damageKey(key)
		}
	}
}

// Sound reports whether the store has the object at that version, undamaged; for tests.
func (s *MemStore) Sound(pg wire.PGID, name string, v wire.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.obj(pg, name)
	return o != nil && o.sound() && o.version == v
}

// BadKeys is how many pairs of an object's omap cannot be read; for tests.
func (s *MemStore) BadKeys(pg wire.PGID, name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.obj(pg, name); o != nil {
		return len(o.badKeys)
	}
	return 0
}

func (o *memObj) sound() bool { return !o.bad && len(o.badKeys) == 0 }

// Kept is Sound of what a crash leaves for sure.
func (s *MemStore) Kept(pg wire.PGID, name string, v wire.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.dur[pg]
	return p != nil && p.objs[name] != nil && p.objs[name].sound() && p.objs[name].version == v
}

// Spoil changes an object's data behind everybody's back, with checksums that fit; for tests.
func (s *MemStore) Spoil(pg wire.PGID, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.obj(pg, name); o != nil && len(o.data) > 0 {
		o.data[0] ^= 1
	}
}

func (o *memObj) damageKey(key string) {
	if o.badKeys == nil {
		o.badKeys = map[string]bool{}
	}
	o.omap[key], o.badKeys[key] = []byte{}, true
}

// SetSlow makes Start leave those reads for Later for which slow says so. torn is a fault: they
// then see what the object has when they are fetched.
func (s *MemStore) SetSlow(slow func() bool, torn bool) { s.slow, s.torn = slow, torn }

// memLater is a read that was begun.
type memLater struct {
	s    *MemStore
	pg   wire.PGID
	name string
	off  uint64
	b    []byte
}

// Start implements Store.
func (s *MemStore) Start(pg wire.PGID, name string, off, n uint64, room func(int) []byte) ([]byte, Later, error) {
	b := room(int(n))
	k, err := s.Read(pg, name, off, b)
	if err != nil {
		return nil, nil, err
	}
	if k == 0 || s.slow == nil || !s.slow() {
		return b[:k], nil, nil
	}
	return nil, &memLater{s, pg, name, off, b[:k]}, nil
}

func (l *memLater) Len() int { return len(l.b) }

// Fetch implements Later: bytes that went bad meanwhile are bad.
func (l *memLater) Fetch(func(int) []byte) ([]byte, uint32, error) {
	now := make([]byte, len(l.b))
	if _, err := l.s.Read(l.pg, l.name, l.off, now); err != nil {
		return nil, 0, err
	}
	if l.s.torn {
		l.b = now
	}
	return l.b, crc32.Checksum(l.b, crc32.MakeTable(crc32.Castagnoli)), nil
}

func (l *memLater) Drop() {}
