package mds

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/capstan-fs/capstan/wire"
)

// The index finds the home of an inode that is known by number only (4.15): omap objects
// index.<ino>>12>, key the number, value (directory, name). It is written together with the
// directory's flush, never per operation; what the journal holds is newer and in the cache
// after every replay, so a stale line is never asked for. A purge takes its line out.

// indexRec is one line.
type indexRec struct {
	_msgpack struct{} `msgpack:",as_array"`
	Dir      wire.Ino
	Name     string
}

const indexShift = 12

func (r *Rank) indexObject(ino wire.Ino) wire.ObjectID {
	return wire.ObjectID{Pool: r.cfg.MetaPool, Name: fmt.Sprintf("index.%x", uint64(ino)>>indexShift)}
}

func indexKey(ino wire.Ino) string { return strconv.FormatUint(uint64(ino), 16) }

// indexOps are the operations that bring the index up to date with what a flush of d writes.
func (r *Rank) indexOps(d *dir) (objs []wire.ObjectID, ops [][]wire.ObjOp) {
	type line struct {
		ino wire.Ino
		val []byte // nil: the inode is gone
	}
	var lines []line
	for _, dn := range d.dirty {
		if dn.kind == dnHome && !dn.indexed && dn.ino >= wire.FirstFreeIno {
			dn.indexed = true
			b := putString(putUint(putArray([]byte{recordVersion}, 2), uint64(d.in.ino())), dn.name)
			lines = append(lines, line{dn.ino, b})
		}
	}
	for _, ino := range d.purged {
		lines = append(lines, line{ino, nil})
	}
	d.purged = nil
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.ino, b.ino) })
	for i := 0; i < len(lines); {
		var set []wire.KV
		var del []string
		first := lines[i].ino
		for ; i < len(lines) && lines[i].ino>>indexShift == first>>indexShift; i++ {
			if lines[i].val != nil {
				set = append(set, wire.KV{Key: indexKey(lines[i].ino), Val: lines[i].val})
			} else {
				del = append(del, indexKey(lines[i].ino))
			}
		}
		op := []wire.ObjOp{{Kind: wire.ObjCreate}} // harmless when it is there
		if len(set) > 0 {
			op = append(op, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: set})
		}
		if len(del) > 0 {
			op = append(op, wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: del})
		}
		objs, ops = append(objs, r.indexObject(first)), append(ops, op)
	}
	return objs, ops
}

// openByIno finds an inode by number, and what lies above it; done gets nil when it is nowhere.
func (r *Rank) openByIno(ino wire.Ino, done func(*inode)) { r.openDepth(ino, 0, done) }

func (r *Rank) openDepth(ino wire.Ino, depth int, done func(*inode)) {
	if in := r.inodes[ino]; in != nil && !in.stub {
		done(in)
		return
	}
	if ino < wire.FirstFreeIno || depth > 4096 {
		done(nil)
		return
	}
	if m := r.moves[ino]; m != nil && m.State == moveTaken {
		r.openIn(r.linksDir(ino), ino, strayName(ino), func() {
			in := r.inodes[ino]
			if in != nil && in.stub {
				in = nil
			}
			done(in)
		})
		return
	}
	if r.owner(ino) != r.cfg.Rank {
		done(nil)
		return
	}
	get := []wire.ObjOp{{Kind: wire.ObjOmapGet, Keys: []string{indexKey(ino)}}}
	r.object(0, r.indexObject(ino), get, func(e uint32, res []wire.ObjResult) {
		var rec indexRec
		if e != 0 || len(res) != 1 || len(res[0].Pairs) != 1 || wire.Unmarshal(res[0].Pairs[0].Val, &rec) != nil {
			done(nil)
			return
		}
		r.openDepth(rec.Dir, depth+1, func(dir *inode) {
			if dir == nil || !dir.isDir() {
				done(nil)
				return
			}
			r.openIn(r.dirOf(dir), ino, rec.Name, func() {
				in := r.inodes[ino]
				if in != nil && in.stub {
					in = nil
				}
				done(in)
			})
		})
	})
}
