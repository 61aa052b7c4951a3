package clustermap

import (
	"maps"
	"slices"
	"sync"

	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// PGOf is the placement group of an object; PGs of a pool that does not exist have Num 0.
func (m *OSDMap) PGOf(obj wire.ObjectID) wire.PGID {
	n := m.Pools[obj.Pool].PGNum
	if n == 0 {
		return wire.PGID{Pool: obj.Pool}
	}
	return wire.PGID{Pool: obj.Pool, Num: slot(nameHash(obj.Name), n)}
}

// nameHash is FNV-1a with a finalizer that spreads names which differ in their last byte.
func nameHash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

// slot maps a hash to [0,n) such that a PG only ever divides into halves when n grows.
func slot(h, n uint32) uint32 {
	mask := uint32(1)
	for mask < n {
		mask <<= 1
	}
	if s := h & (mask - 1); s < n {
		return s
	}
	return h & (mask>>1 - 1)
}

// Config is cfg(pg); false when the PG was not made yet.
func (m *OSDMap) Config(pg wire.PGID) (PGConfig, bool) {
	c, ok := m.PGs[pg]
	return c, ok
}

// IsBlocklisted reports whether i is fenced.
func (m *OSDMap) IsBlocklisted(i wire.Instance) bool {
	if len(m.Blocklist) == 0 {
		return false
	}
	_, ok := m.Blocklist[i]
	return ok
}

// OSD returns the OSD with this id.
func (m *OSDMap) OSD(id wire.OSDID) (OSD, bool) {
	o, ok := m.OSDs[id]
	return o, ok
}

// IsUp reports whether the member's OSD is up with the store that the member has (rule R1).
func (m *OSDMap) IsUp(mb Member) bool {
	o, ok := m.OSDs[mb.ID]
	return ok && o.Up && o.UUID == mb.UUID
}

// StoreGone reports whether the member's store is known to be gone: its OSD has come with another
// one (rule M4), or was removed.
func (m *OSDMap) StoreGone(mb Member) bool {
	o, ok := m.OSDs[mb.ID]
	return !ok || o.UUID != mb.UUID
}

// Lost reports whether nobody of S is left who could go on (rule M3).
func (m *OSDMap) Lost(c PGConfig) bool {
	for _, mb := range c.InSync {
		if !m.StoreGone(mb) {
			return false
		}
	}
	return len(c.InSync) > 0
}

// Booted reports whether instance i of OSD id is up in this map: rule R2, a starting OSD does
// nothing for a PG before.
func (m *OSDMap) Booted(id wire.OSDID, i wire.Instance) bool {
	o, ok := m.OSDs[id]
	return ok && o.Up && o.Instance == i
}

// OSDIDs lists all OSDs in ascending order.
func (m *OSDMap) OSDIDs() []wire.OSDID { return slices.Sorted(maps.Keys(m.OSDs)) }

// PGIDs lists all PGs that have a configuration, by pool and number.
func (m *OSDMap) PGIDs() []wire.PGID { return slices.SortedFunc(maps.Keys(m.PGs), ComparePG) }

// ComparePG orders PGs by pool and number.
func ComparePG(a, b wire.PGID) int {
	if a.Pool != b.Pool {
		return int(int64(a.Pool) - int64(b.Pool))
	}
	return int(int64(a.Num) - int64(b.Num))
}

// UpSet is where CRUSH wants the replicas of pg, first the primary: OSDs that are in, less
// those that are down now.
func (m *OSDMap) UpSet(pg wire.PGID) []wire.OSDID {
	up := m.Wanted(pg)
	return slices.DeleteFunc(up, func(id wire.OSDID) bool { return !m.OSDs[id].Up })
}

// Wanted is the up set with those that are down for the moment.
func (m *OSDMap) Wanted(pg wire.PGID) []wire.OSDID {
	pool, ok := m.Pools[pg.Pool]
	if !ok {
		return nil
	}
	p, rw := m.placerOf()
	var ids []wire.OSDID
	for _, d := range p.Place(pool.Rule, PlaceX(pg), pool.Size, rw) {
		if d != crush.Hole {
			ids = append(ids, wire.OSDID(d))
		}
	}
	return ids
}

// PlaceX is the number that CRUSH places a PG by; exceptions name it.
func PlaceX(pg wire.PGID) uint64 { return uint64(pg.Pool)<<32 | uint64(pg.Num) }

type lazyPlacer struct {
	once     sync.Once
	placer   *crush.Placer
	reweight []uint32
}

func (m *OSDMap) placerOf() (*crush.Placer, []uint32) {
	l := m.placer
	if l == nil {
		l = &lazyPlacer{}
	}
	l.once.Do(func() {
		l.placer = m.Crush.Placer()
		l.reweight = m.reweights()
	})
	return l.placer, l.reweight
}

// reweights is by OSD id. A device that CRUSH knows and the OSDMap does not accepts nothing.
func (m *OSDMap) reweights() []uint32 {
	var rw []uint32
	for _, d := range m.Crush.Devices {
		for int(d.ID) >= len(rw) {
			rw = append(rw, 0)
		}
		if o, ok := m.OSDs[wire.OSDID(d.ID)]; ok && o.In {
			rw[d.ID] = o.Reweight
		}
	}
	return rw
}

// Seal prepares a map that was just made or changed: UpSet works its placer out once.
func (m *OSDMap) Seal() *OSDMap {
	m.placer = &lazyPlacer{}
	return m
}

// Clone is a copy whose maps may be changed; the values in them are shared and must be
// replaced, not changed.
func (m *OSDMap) Clone() *OSDMap {
	n := *m
	n.Pools, n.OSDs, n.PGs, n.Blocklist = maps.Clone(m.Pools), maps.Clone(m.OSDs), maps.Clone(m.PGs), maps.Clone(m.Blocklist)
	if n.Pools == nil {
		n.Pools = map[uint32]Pool{}
	}
	if n.OSDs == nil {
		n.OSDs = map[wire.OSDID]OSD{}
	}
	if n.PGs == nil {
		n.PGs = map[wire.PGID]PGConfig{}
	}
	if n.Blocklist == nil {
		n.Blocklist = map[wire.Instance]BlockEntry{}
	}
	return n.Seal()
}

// Has reports whether mb is in S.
func (c *PGConfig) Has(mb Member) bool { return slices.Contains(c.InSync, mb) }

// HasLearner reports whether mb is a learner.
func (c *PGConfig) HasLearner(mb Member) bool { return slices.Contains(c.Learners, mb) }

// PrimaryMember is the member of S that is primary; false when there is none.
func (c *PGConfig) PrimaryMember() (Member, bool) {
	for _, mb := range c.InSync {
		if mb.ID == c.Primary {
			return mb, c.Primary != wire.NoOSD
		}
	}
	return Member{}, false
}

// Equal compares two configurations.
func (c *PGConfig) Equal(d PGConfig) bool {
	return c.Interval == d.Interval && c.Primary == d.Primary && slices.Equal(c.InSync, d.InSync) && slices.Equal(c.Learners, d.Learners)
}
