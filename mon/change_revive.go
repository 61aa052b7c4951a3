package mon

import (
	"fmt"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// PGRevive is the operator's word that a PG whose members' stores are all gone goes on with the
// copy of an OSD that had left it (M3: nothing is invented, somebody must say so). What was
// acknowledged after that OSD had left is lost, if anything was.
type PGRevive struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       wire.PGID
	Interval uint64 // as the operator saw it
	Heir     clustermap.Member
}

func (c *PGRevive) String() string {
	return fmt.Sprintf("revive pg %v with the copy of osd.%d (%v)", c.PG, c.Heir.ID, c.Heir.UUID)
}

func (c *PGRevive) apply(e *edit) error {
	m := e.old.OSD
	cfg, ok := m.PGs[c.PG]
	if !ok {
		return refuse(ENOENT, "no pg %v", c.PG)
	}
	if cfg.Interval != c.Interval {
		return refuse(ESTALE, "pg %v is in interval %d", c.PG, cfg.Interval)
	}
	for _, mb := range cfg.InSync {
		if !m.StoreGone(mb) {
			return refuse(EPERM, "pg %v: the store of osd.%d (%v) is not known to be gone; start that OSD with it, or, if that disk is dead, with an empty directory", c.PG, mb.ID, mb.UUID)
		}
	}
	if !m.IsUp(c.Heir) {
		return refuse(EAGAIN, "osd.%d is not up with store %v", c.Heir.ID, c.Heir.UUID)
	}
	e.osdMap().PGs[c.PG] = clustermap.PGConfig{Interval: cfg.Interval + 1, Primary: c.Heir.ID, InSync: []clustermap.Member{c.Heir}}
	return nil
}
