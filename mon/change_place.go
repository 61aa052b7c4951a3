package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// OSDCrush moves an OSD in the hierarchy, or changes its weight or class. What is empty or
// negative stays as it is. Data follows by itself.
type OSDCrush struct {
	_msgpack         struct{} `msgpack:",as_array"`
	ID               wire.OSDID
	Zone, Rack, Host string
	Weight           int64 // 16.16; below 0: keep
	Class            string
	NoClass          bool
}

func (c *OSDCrush) String() string { return fmt.Sprintf("place osd.%d in the hierarchy", c.ID) }

func (c *OSDCrush) apply(e *edit) error {
	old := e.old.OSD.Crush
	d, ok := old.Device(int32(c.ID))
	if !ok {
		return refuse(ENOENT, "no osd.%d", c.ID)
	}
	if c.Weight > crush.MaxWeight {
		return refuse(EINVAL, "osd.%d: weight %d is too large", c.ID, c.Weight)
	}
	if c.Weight >= 0 {
		d.Weight = uint32(c.Weight)
	}
	if c.Class != "" || c.NoClass {
		d.Class = c.Class
	}
	loc := locationOf(&old, int32(c.ID))
	moved := false
	for _, l := range []struct{ to, from *string }{{&loc.Zone, &c.Zone}, {&loc.Rack, &c.Rack}, {&loc.Host, &c.Host}} {
		if *l.from != "" && *l.to != *l.from {
			*l.to, moved = *l.from, true
		}
	}
	cm := old
	var err error
	if moved {
		// Out and in again, so that buckets left empty go.
		cm = cm.WithoutDevice(d.ID)
	}
	if cm, err = cm.WithDevice(d, loc); err != nil {
		return refuse(EINVAL, "%v", err)
	}
	m := e.osdMap()
	m.Crush = cm
	return nil
}

// locationOf is where a device stands.
func locationOf(m *crush.Map, item int32) (l crush.Location) {
	for {
		b, ok := m.Parent(item)
		if !ok {
			if l.Root == "" {
				l.Root = RootName
			}
			return l
		}
		switch b.Type {
		case crush.Host:
			l.Host = b.Name
		case crush.Rack:
			l.Rack = b.Name
		case crush.Zone:
			l.Zone = b.Name
		case crush.Root:
			l.Root = b.Name
		}
		item = b.ID
	}
}

// OSDRemove forgets an OSD for ever. It must hold nothing: be down, and in no PG.
type OSDRemove struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       wire.OSDID
}

func (c *OSDRemove) String() string { return fmt.Sprintf("remove osd.%d", c.ID) }

func (c *OSDRemove) apply(e *edit) error {
	o, ok := e.old.OSD.OSDs[c.ID]
	if !ok {
		return refuse(ENOENT, "no osd.%d", c.ID)
	}
	if n := held(e.old.OSD, c.ID); n > 0 {
		return refuse(EAGAIN, "osd.%d takes part in %d PGs: `osd drain %d` moves them away first", c.ID, n, c.ID)
	}
	if o.Up {
		return refuse(EAGAIN, "osd.%d is up: stop it first", c.ID)
	}
	m := e.osdMap()
	delete(m.OSDs, c.ID)
	m.Crush = m.Crush.WithoutDevice(int32(c.ID))
	for _, ex := range slices.Clone(m.Crush.Exceptions) {
		if ex.From == int32(c.ID) || ex.To == int32(c.ID) {
			m.Crush = m.Crush.WithException(crush.Exception{X: ex.X, From: ex.From, To: ex.From})
		}
	}
	return nil
}

// held counts the PGs that an OSD of this id takes part in, with whatever store.
func held(m *clustermap.OSDMap, id wire.OSDID) (n int) {
	is := func(mb clustermap.Member) bool { return mb.ID == id }
	for _, cfg := range m.PGs {
		if slices.ContainsFunc(cfg.InSync, is) || slices.ContainsFunc(cfg.Learners, is) {
			n++
		}
	}
	return n
}

// PoolSet changes a pool's replicas; 0 keeps.
type PoolSet struct {
	_msgpack      struct{} `msgpack:",as_array"`
	Name          string
	Size, MinSize int
}

func (c *PoolSet) String() string { return fmt.Sprintf("set pool %q", c.Name) }

func (c *PoolSet) apply(e *edit) error {
	for id, p := range e.old.OSD.Pools {
		if p.Name != c.Name {
			continue
		}
		if c.Size != 0 {
			p.Size = c.Size
		}
		if c.MinSize != 0 {
			p.MinSize = c.MinSize
		}
		if p.MinSize > p.Size {
			return refuse(EINVAL, "pool %q: min_size %d above size %d: no write would ever be allowed", c.Name, p.MinSize, p.Size)
		}
		if p == e.old.OSD.Pools[id] {
			return nil
		}
		m := e.osdMap()
		m.Pools[id] = p
		if err := m.Check(); err != nil {
			return refuse(EINVAL, "%v", err)
		}
		return nil
	}
	return refuse(ENOENT, "no pool %q", c.Name)
}

// Except replaces the balancer's exceptions by others, in one epoch.
type Except struct {
	_msgpack struct{} `msgpack:",as_array"`
	Off, On  []crush.Exception
}

func (c *Except) String() string {
	return fmt.Sprintf("move %d PGs for balance, take back %d", len(c.On), len(c.Off))
}

func (c *Except) apply(e *edit) error {
	m := e.osdMap()
	for _, ex := range c.Off {
		m.Crush = m.Crush.WithException(crush.Exception{X: ex.X, From: ex.From, To: ex.From})
	}
	for _, ex := range c.On {
		if _, ok := m.OSDs[wire.OSDID(ex.To)]; !ok {
			e.osd = nil
			return refuse(ESTALE, "osd.%d is gone", ex.To)
		}
		m.Crush = m.Crush.WithException(ex)
	}
	if err := m.Check(); err != nil {
		e.osd = nil
		return refuse(EINVAL, "%v", err)
	}
	return nil
}
