package osd

import (
	"fmt"

	"github.com/capstan-fs/capstan/wire"
)

const listMax = 4096 // names in one answer

// List names up to max objects of a PG behind a name, with their sizes, for tools. It shows the
// newest state, committed or not, and no lease stands behind it: what matters is read again. pgNum
// is what the PG is divided for: who sees it grow lists the parts from that name on, too.
func (o *OSD) List(id wire.PGID, after string, max int) (objs []wire.PGObject, more bool, pgNum uint32, err error) {
	p := o.pgs[id]
	if p == nil || !p.primary() || !p.active {
		return nil, false, 0, fmt.Errorf("osd.%d is not primary of an active pg %v", o.cfg.ID, id)
	}
	if max <= 0 || max > listMax {
		max = listMax
	}
	names := o.store.ListObjects(id, after, max)
	for _, n := range names {
		if st, ok := o.store.Stat(id, n.Name); ok {
			objs = append(objs, wire.PGObject{Name: n.Name, Size: st.Size})
		}
	}
	return objs, len(names) == max, p.pgNum, nil
}

// Look tells what this OSD has of a PG, for who must choose a copy when the members are lost.
func (o *OSD) Look(id wire.PGID) *wire.PGLooked {
	p := o.pgs[id]
	if p == nil || p.gone {
		return &wire.PGLooked{Role: roleNone.String()}
	}
	r := &wire.PGLooked{Whole: p.learn.state != learnGoing, Role: p.role.String(), Last: p.last, Committed: p.committed, Objects: uint64(o.store.Count(id))}
	r.Have = r.Objects > 0 || r.Last != (wire.Version{})
	return r
}

// Whole reports whether a store's copy of a PG is not one that was begun to be filled and is not
// finished: only such a one may be anybody's truth.
func Whole(st Store, id wire.PGID) bool {
	for _, kv := range st.Meta(id, learnKey) {
		if kv.Key == learnKey && len(kv.Val) > 0 && kv.Val[0] == learnGoing {
			return false
		}
	}
	return true
}
