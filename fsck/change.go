package fsck

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Change is what one atomic operation does to one object.
type Change struct {
	Object wire.ObjectID
	Set    []wire.KV // omap
	Del    []string  // omap
	Xattrs []wire.KV
	Size   *uint64 // truncate to
	Remove bool
}

// DataChange cuts a data object.
type DataChange struct {
	Object wire.ObjectID
	Size   uint64
	Remove bool
}

const changeBytes = 256 << 10 // of records in one operation

// Changes lists what a repair does to objects, in an order in which stopping anywhere loses
// nothing: first whole new records and headers appear, then names go, then data and objects.
func (m *Model) Changes() (out []Change) {
	var later []Change
	for _, d := range m.sortedDirs() {
		if !d.write {
			continue
		}
		obj := wire.ObjectID{Pool: m.p.MetaPool, Name: mds.DirObjectName(d.ino)}
		c := Change{Object: obj}
		last := Change{Object: obj, Xattrs: []wire.KV{{Key: mds.HeaderXattr, Val: mds.EncodeRecord(&d.hdr)}}}
		size := 0
		for _, n := range sortedNames(d) {
			if n.null() {
				last.Del = append(last.Del, mds.DentryKey(n.name))
				continue
			}
			kv := wire.KV{Key: mds.DentryKey(n.name), Val: mds.EncodeRecord(&n.rec)}
			c.Set = append(c.Set, kv)
			if size += len(kv.Key) + len(kv.Val); size > changeBytes {
				out = append(out, c)
				c, size = Change{Object: obj}, 0
			}
		}
		if len(last.Del) == 0 {
			c.Xattrs = last.Xattrs
			out = append(out, c)
			continue
		}
		if len(c.Set) > 0 {
			out = append(out, c)
		}
		later = append(later, last)
	}
	out = append(out, m.indexChanges()...)
	out = append(out, later...)
	for i := range m.cut {
		x := &m.cut[i]
		c := Change{Object: x.Object, Remove: x.Remove}
		if !x.Remove {
			c.Size = &x.Size
		}
		out = append(out, c)
	}
	for _, o := range m.drop {
		out = append(out, Change{Object: o, Remove: true})
	}
	return out
}

// sortedNames is the names that a repair changed.
func sortedNames(d *dir) (out []*name) {
	for _, n := range d.names {
		if n.write {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *name) int { return cmp.Compare(a.name, b.name) })
	return out
}

func (m *Model) indexChanges() (out []Change) {
	by := map[string]*Change{}
	var order []string
	for _, ino := range sortedKeys(m.setIndex) {
		name := mds.IndexObjectName(ino)
		c := by[name]
		if c == nil {
			c = &Change{Object: wire.ObjectID{Pool: m.p.MetaPool, Name: name}}
			by[name] = c
			order = append(order, name)
		}
		if rec := m.setIndex[ino]; rec != nil {
			c.Set = append(c.Set, wire.KV{Key: mds.IndexKey(ino), Val: mds.EncodeRecord(rec)})
		} else {
			c.Del = append(c.Del, mds.IndexKey(ino))
		}
	}
	for _, name := range order {
		out = append(out, *by[name])
	}
	return out
}
