package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// configure writes the next configuration of pg: one interval on, with the primary of rule
// M2: the first of the up set that is in the old and in the new S and up, else the lowest
// such id, else none. Every change is a new interval, a learner's too: so a proposal that
// was made in another configuration can never fit (M1).
func (e *edit) configure(pg wire.PGID, inSync, learners []clustermap.Member) {
	e.succeed(pg, e.old.OSD.PGs[pg], inSync, learners)
}

// succeed is configure of a PG whose configuration before was old: its own, or after a split
// that of the PG that it comes from.
func (e *edit) succeed(pg wire.PGID, old clustermap.PGConfig, inSync, learners []clustermap.Member) {
	m := e.osdMap()
	eligible := func(mb clustermap.Member) bool { return old.Has(mb) && m.IsUp(mb) }
	next := clustermap.PGConfig{Interval: old.Interval + 1, InSync: inSync, Learners: learners, Primary: wire.NoOSD}
	for _, mb := range inSync {
		if eligible(mb) && (next.Primary == wire.NoOSD || mb.ID < next.Primary) {
			next.Primary = mb.ID
		}
	}
	for _, id := range m.Wanted(pg) {
		if i := slices.IndexFunc(inSync, func(mb clustermap.Member) bool { return mb.ID == id && eligible(mb) }); i >= 0 {
			next.Primary = id
			break
		}
	}
	m.PGs[pg] = next
}

// PGCreate gives PGs of a pool that have none their first configuration: S is the up set.
// Without Few the whole size must be up, with it min_size will do.
type PGCreate struct {
	_msgpack struct{} `msgpack:",as_array"`
	Pool     uint32
	Few      bool
}

func (c *PGCreate) String() string { return fmt.Sprintf("create pgs of pool %d", c.Pool) }

func (c *PGCreate) apply(e *edit) error {
	pool, ok := e.old.OSD.Pools[c.Pool]
	if !ok {
		return refuse(ENOENT, "no pool %d", c.Pool)
	}
	need := pool.Size
	if c.Few {
		need = pool.MinSize
	}
	for num := range pool.PGNum {
		pg := wire.PGID{Pool: c.Pool, Num: num}
		if _, ok := e.old.OSD.PGs[pg]; ok {
			continue
		}
		up := e.old.OSD.UpSet(pg)
		if len(up) < need {
			return refuse(EAGAIN, "pg %v: %d of %d OSDs are up", pg, len(up), need)
		}
		cfg := clustermap.PGConfig{Interval: 1, Primary: up[0]}
		for _, id := range up {
			cfg.InSync = append(cfg.InSync, clustermap.Member{ID: id, UUID: e.old.OSD.OSDs[id].UUID})
		}
		e.osdMap().PGs[pg] = cfg
	}
	return nil
}

// PGCAS is an OSD's proposal for one PG (rules M1, M2, M3, R9).
type PGCAS struct {
	_msgpack struct{} `msgpack:",as_array"`
	wire.PGCAS
}

func (c *PGCAS) String() string {
	return fmt.Sprintf("change pg %v of interval %d for osd.%d (%s)", c.PG, c.Interval, c.From, c.Reason)
}

func (c *PGCAS) apply(e *edit) error {
	m := e.old.OSD
	cfg, ok := m.PGs[c.PG]
	if !ok {
		return refuse(ENOENT, "pg %v does not exist", c.PG)
	}
	if cfg.Interval != c.Interval { // M1
		return refuse(ESTALE, "pg %v is in interval %d", c.PG, cfg.Interval)
	}
	if !m.Booted(c.From, c.Instance) {
		return refuse(EPERM, "osd.%d is not up as %v", c.From, c.Instance)
	}
	from := clustermap.Member{ID: c.From, UUID: m.OSDs[c.From].UUID}
	primary, has := cfg.PrimaryMember()
	byPrimary := has && primary == from
	inSync, learners := slices.Clone(cfg.InSync), slices.Clone(cfg.Learners)
	for _, mb := range c.DropLearners {
		if !byPrimary && mb != from {
			return refuse(EPERM, "osd.%d may not drop learner osd.%d", c.From, mb.ID)
		}
		if !cfg.HasLearner(mb) {
			return refuse(EINVAL, "osd.%d is no learner of pg %v", mb.ID, c.PG)
		}
		learners = without(learners, mb)
	}
	for _, mb := range c.AddLearners {
		switch {
		case !byPrimary && mb != from:
			return refuse(EPERM, "osd.%d may not add learner osd.%d", c.From, mb.ID)
		case cfg.Has(mb) || slices.Contains(learners, mb):
			return refuse(EINVAL, "osd.%d takes part in pg %v already", mb.ID, c.PG)
		case !m.IsUp(mb) || !slices.Contains(m.UpSet(c.PG), mb.ID):
			return refuse(EPERM, "osd.%d is not in the up set of pg %v", mb.ID, c.PG)
		}
		learners = append(learners, mb)
	}
	for _, mb := range c.AddMembers { // R9: a primary of an active interval, of a learner that is pending
		switch {
		case !byPrimary:
			return refuse(EPERM, "osd.%d is not primary of pg %v", c.From, c.PG)
		case !cfg.HasLearner(mb) || !slices.Contains(learners, mb):
			return refuse(EPERM, "osd.%d is no learner of pg %v", mb.ID, c.PG)
		case !m.IsUp(mb):
			return refuse(EAGAIN, "osd.%d is down", mb.ID)
		}
		inSync, learners = append(inSync, mb), without(learners, mb)
	}
	for _, mb := range c.DropMembers {
		if !byPrimary && mb != from {
			return refuse(EPERM, "osd.%d may not drop osd.%d", c.From, mb.ID)
		}
		if !cfg.Has(mb) {
			return refuse(EINVAL, "osd.%d is not in sync in pg %v", mb.ID, c.PG)
		}
		if err := mayDrop(m, c.PG, cfg, mb); err != nil {
			return err
		}
		inSync = without(inSync, mb)
	}
	if len(c.DropMembers) > 1 && !slices.ContainsFunc(inSync, func(mb clustermap.Member) bool { return cfg.Has(mb) && m.IsUp(mb) }) {
		return refuse(EPERM, "pg %v: nobody that is up would be left (M3)", c.PG)
	}
	if len(c.AddLearners)+len(c.DropLearners)+len(c.AddMembers)+len(c.DropMembers) == 0 {
		if !c.MovePrimary || !cfg.Has(from) {
			return refuse(EINVAL, "pg %v: osd.%d asks for nothing it may have", c.PG, c.From)
		}
		e.configure(c.PG, inSync, learners)
		if e.osd.PGs[c.PG].Primary == cfg.Primary {
			e.osd = nil
			return refuse(EINVAL, "pg %v: osd.%d is the right primary", c.PG, cfg.Primary)
		}
		return nil
	}
	e.configure(c.PG, inSync, learners)
	return nil
}

// mayDrop judges rules M3 and M5 for one member, the cold start excepted, which is the leader's.
func mayDrop(m *clustermap.OSDMap, pg wire.PGID, cfg clustermap.PGConfig, mb clustermap.Member) error {
	if !slices.ContainsFunc(cfg.InSync, func(o clustermap.Member) bool { return o != mb && m.IsUp(o) }) {
		return refuse(EPERM, "pg %v: osd.%d stays, no other member is up (M3)", pg, mb.ID)
	}
	if ManyDown(m) {
		return refuse(EAGAIN, "pg %v: osd.%d stays, more than 1/3 of the OSDs are down (M5)", pg, mb.ID)
	}
	return nil
}

// ManyDown is rule M5's second half: more than a third of the OSDs that are in are down.
func ManyDown(m *clustermap.OSDMap) bool {
	down, all := 0, 0
	for _, o := range m.OSDs {
		if o.In {
			all++
			if !o.Up {
				down++
			}
		}
	}
	return down*3 > all
}

// PGDrop takes one member out of many PGs: a compare-and-set for each, in one epoch (M1).
// The member is down, or surplus: up, but its PG has enough without it.
type PGDrop struct {
	_msgpack struct{} `msgpack:",as_array"`
	Member   clustermap.Member
	Surplus  bool
	PGs      []PGAt
}

// PGAt is a PG in the interval that the proposer saw.
type PGAt struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       wire.PGID
	Interval uint64
}

func (c *PGDrop) String() string {
	return fmt.Sprintf("drop osd.%d from %d pgs", c.Member.ID, len(c.PGs))
}

func (c *PGDrop) apply(e *edit) error {
	var first error
	for _, at := range c.PGs {
		if err := c.drop(e, at); err != nil && first == nil {
			first = err
		}
	}
	if e.osd != nil {
		return nil // refusals of single PGs do not hold up the others
	}
	return first
}

func (c *PGDrop) drop(e *edit, at PGAt) error {
	m := e.old.OSD
	cfg := m.PGs[at.PG]
	if cfg.Interval != at.Interval || e.osd != nil && e.osd.PGs[at.PG].Interval != at.Interval {
		return refuse(ESTALE, "pg %v is in interval %d", at.PG, cfg.Interval)
	}
	if !cfg.Has(c.Member) {
		return refuse(EINVAL, "osd.%d is not in sync in pg %v", c.Member.ID, at.PG)
	}
	if err := mayDrop(m, at.PG, cfg, c.Member); err != nil {
		return err
	}
	switch {
	case c.Surplus:
		if !surplus(m, at.PG, cfg, c.Member) {
			return refuse(EPERM, "pg %v: osd.%d is not surplus", at.PG, c.Member.ID)
		}
	case m.IsUp(c.Member):
		return refuse(EPERM, "pg %v: osd.%d is up", at.PG, c.Member.ID)
	}
	e.configure(at.PG, without(cfg.InSync, c.Member), cfg.Learners)
	return nil
}

// surplus: the up set is in S and does not want mb, and S without it covers min_size (§7).
func surplus(m *clustermap.OSDMap, pg wire.PGID, cfg clustermap.PGConfig, mb clustermap.Member) bool {
	pool := m.Pools[pg.Pool]
	want := m.Wanted(pg)
	if slices.Contains(want, mb.ID) || len(want) < pool.MinSize || len(cfg.InSync)-1 < pool.MinSize {
		return false
	}
	for _, id := range want {
		in := clustermap.Member{ID: id, UUID: m.OSDs[id].UUID}
		if !cfg.Has(in) || !m.IsUp(in) {
			return false
		}
	}
	return true
}

// PGGiveUp is the operator's word that the last member's disk is lost (M3): the PG goes on
// with what one OSD of the up set happens to have. It names the member that is given up.
type PGGiveUp struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       wire.PGID
	Member   clustermap.Member
}

func (c *PGGiveUp) String() string {
	return fmt.Sprintf("give up osd.%d (%v) in pg %v", c.Member.ID, c.Member.UUID, c.PG)
}

func (c *PGGiveUp) apply(e *edit) error {
	m := e.old.OSD
	cfg, ok := m.PGs[c.PG]
	if !ok || !cfg.Has(c.Member) || m.IsUp(c.Member) {
		return refuse(EINVAL, "osd.%d (%v) is not a lost member of pg %v", c.Member.ID, c.Member.UUID, c.PG)
	}
	if len(cfg.InSync) > 1 {
		return refuse(EPERM, "pg %v has other members", c.PG)
	}
	var heir wire.OSDID = wire.NoOSD
	for _, id := range m.UpSet(c.PG) {
		mb := clustermap.Member{ID: id, UUID: m.OSDs[id].UUID}
		if heir == wire.NoOSD || cfg.HasLearner(mb) {
			heir = id
		}
		if cfg.HasLearner(mb) {
			break // it has at least a part
		}
	}
	if heir == wire.NoOSD {
		return refuse(EAGAIN, "no OSD of the up set of pg %v is up", c.PG)
	}
	e.osdMap().PGs[c.PG] = clustermap.PGConfig{Interval: cfg.Interval + 1, Primary: heir,
		InSync: []clustermap.Member{{ID: heir, UUID: m.OSDs[heir].UUID}}}
	return nil
}
