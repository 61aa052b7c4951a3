package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// OSDBoot admits a life of an OSD (rules R2 and M4).
type OSDBoot struct {
	_msgpack struct{} `msgpack:",as_array"`
	wire.OSDBoot
}

func (c *OSDBoot) String() string { return fmt.Sprintf("boot osd.%d (%v)", c.ID, c.Instance) }

func (c *OSDBoot) apply(e *edit) error {
	if c.ID < 0 || c.UUID.IsZero() || c.Instance.IsZero() {
		return refuse(EINVAL, "osd.%d: id, uuid and instance must be given", c.ID)
	}
	for _, id := range e.old.OSD.OSDIDs() {
		if e.old.OSD.OSDs[id].UUID == c.UUID && id != c.ID {
			return refuse(EEXIST, "the store %v belongs to osd.%d", c.UUID, id)
		}
	}
	old, known := e.old.OSD.OSDs[c.ID]
	if known && old.Up && old.Instance == c.Instance && old.UUID == c.UUID {
		return nil // asked twice
	}
	m := e.osdMap()
	o := clustermap.OSD{ID: c.ID, UUID: c.UUID, Instance: c.Instance, Addr: c.Addr, Up: true, In: true, BootEpoch: m.Epoch,
		Total: c.Total, Used: c.Used, Reweight: crush.One}
	if known {
		o.Reweight = old.Reweight
	}
	m.OSDs[c.ID] = o
	if _, ok := m.Crush.Device(int32(c.ID)); !ok {
		cm, err := m.Crush.WithDevice(crush.Device{ID: int32(c.ID), Weight: c.weight(), Class: c.Class}, c.location())
		if err != nil {
			return refuse(EINVAL, "%v", err)
		}
		m.Crush = cm
	}
	if err := m.Seal().Check(); err != nil {
		return refuse(EINVAL, "%v", err)
	}
	lost := clustermap.Member{ID: c.ID, UUID: old.UUID}
	me := clustermap.Member{ID: c.ID, UUID: c.UUID}
	for _, pg := range e.old.OSD.PGIDs() {
		cfg := e.old.OSD.PGs[pg]
		switch {
		case known && lost != me && (cfg.HasLearner(lost) || cfg.Has(lost)):
			// M4: that store is gone; no delay and no rule of M5 can bring it back. As the last
			// member it stays (M3), but as primary it does not: the OSD of that id is another now.
			inSync := cfg.InSync
			if len(inSync) > 1 {
				inSync = without(inSync, lost)
			}
			e.configure(pg, inSync, without(cfg.Learners, lost))
		case cfg.Has(me) || cfg.HasLearner(me):
			e.configure(pg, cfg.InSync, cfg.Learners) // a boot is a new interval (R2)
		}
	}
	return nil
}

func (c *OSDBoot) weight() uint32 {
	w := uint64(c.Weight)
	if w == 0 {
		w = c.Total >> 24 // 1 TiB = 1.0 = 1<<16
	}
	return uint32(min(max(w, crush.One/64), crush.MaxWeight))
}

func (c *OSDBoot) location() crush.Location {
	l := crush.Location{Root: RootName, Rack: c.Rack, Host: c.Host}
	if l.Host == "" {
		l.Host = fmt.Sprintf("host-osd.%d", c.ID)
	}
	return l
}

func without(ms []clustermap.Member, mb clustermap.Member) []clustermap.Member {
	return slices.DeleteFunc(slices.Clone(ms), func(o clustermap.Member) bool { return o == mb })
}

// OSDDown marks a life of an OSD down. It stays in its in-sync sets; where it was primary
// another member takes over, and as a learner it begins anew when it comes back.
type OSDDown struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       wire.OSDID
	Instance wire.Instance
	Reason   string
}

func (c *OSDDown) String() string { return fmt.Sprintf("mark osd.%d down (%s)", c.ID, c.Reason) }

func (c *OSDDown) apply(e *edit) error {
	o, ok := e.old.OSD.OSDs[c.ID]
	if !ok || o.Instance != c.Instance {
		return refuse(ESTALE, "osd.%d is not %v any more", c.ID, c.Instance)
	}
	if !o.Up {
		return nil
	}
	m := e.osdMap()
	o.Up = false
	m.OSDs[c.ID] = o
	me := clustermap.Member{ID: c.ID, UUID: o.UUID}
	for _, pg := range e.old.OSD.PGIDs() {
		cfg := e.old.OSD.PGs[pg]
		if p, ok := cfg.PrimaryMember(); ok && p == me || cfg.HasLearner(me) {
			e.configure(pg, cfg.InSync, without(cfg.Learners, me))
		}
	}
	return nil
}

// OSDPlace changes how much of its share an OSD gets: In false when it was down for long,
// reweight by the operator.
type OSDPlace struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       wire.OSDID
	In       bool
	Reweight uint32
}

func (c *OSDPlace) String() string {
	return fmt.Sprintf("place osd.%d in=%v reweight=%.3f", c.ID, c.In, float64(c.Reweight)/crush.One)
}

func (c *OSDPlace) apply(e *edit) error {
	o, ok := e.old.OSD.OSDs[c.ID]
	if !ok || c.Reweight > crush.One {
		return refuse(EINVAL, "osd.%d: no such OSD, or reweight above 1", c.ID)
	}
	if o.In == c.In && o.Reweight == c.Reweight {
		return nil
	}
	o.In, o.Reweight = c.In, c.Reweight
	e.osdMap().OSDs[c.ID] = o
	return nil
}

// Usage records how full the OSDs are, and the flags that follow.
type Usage struct {
	_msgpack struct{} `msgpack:",as_array"`
	OSDs     []OSDUsage
	Full     bool
	NearFull bool
}

// OSDUsage is one OSD's.
type OSDUsage struct {
	_msgpack    struct{} `msgpack:",as_array"`
	ID          wire.OSDID
	Total, Used uint64
}

func (c *Usage) String() string { return fmt.Sprintf("usage full=%v nearfull=%v", c.Full, c.NearFull) }

func (c *Usage) apply(e *edit) error {
	m := e.osdMap()
	m.Full, m.NearFull = c.Full, c.NearFull
	for _, u := range c.OSDs {
		if o, ok := m.OSDs[u.ID]; ok {
			o.Total, o.Used = u.Total, u.Used
			m.OSDs[u.ID] = o
		}
	}
	return nil
}
