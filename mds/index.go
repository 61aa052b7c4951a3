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

// place is where an inode is, as far as this rank can tell.
type place struct {
	in   *inode    // here
	rank wire.Rank // in nil: another rank's; NoRank: nowhere, or on its way
	m    *move     // it is on its way, at or below this directory, and it is not decided whose it is
}

// openByIno finds an inode of ours by number, and what lies above it; done gets nil when it is nowhere here.
func (r *Rank) openByIno(ino wire.Ino, done func(*inode)) {
	r.locate(ino, 0, func(p place) { done(p.in) })
}

// locate finds an inode by number, whoever has it: up the index to a directory that is cached here, was
// handed over, or is the root or the links directory of some rank. Every line of what was handed over is
// in the index before that (checkpoint in exporttree.go), and the line of the directory itself before the
// rank it comes from forgets that it went (indexWait); so a line may be old, but leads to the right rank.
func (r *Rank) locate(ino wire.Ino, depth int, done func(place)) {
	if in := r.inodes[ino]; in != nil && !in.stub {
		done(place{in: in})
		return
	}
	nowhere := place{rank: wire.NoRank}
	here := func() {
		if in := r.inodes[ino]; in != nil && !in.stub {
			done(place{in: in})
			return
		}
		done(nowhere)
	}
	switch m := r.moves[ino]; {
	case depth > 4096:
		done(nowhere)
		return
	case ino < wire.FirstFreeIno:
		if at := ino.SystemRank(); at != r.cfg.Rank {
			nowhere.rank = at
		}
		done(nowhere)
		return
	case m == nil:
	case m.State == moveGiven:
		done(place{rank: m.Rank})
		return
	case m.State == movePending:
		done(place{rank: wire.NoRank, m: m})
		return
	case m.State == moveTaken:
		r.openIn(r.linksDir(ino), ino, strayName(ino), here)
		return
	}
	get := []wire.ObjOp{{Kind: wire.ObjOmapGet, Keys: []string{indexKey(ino)}}}
	r.object(0, r.indexObject(ino), get, func(e uint32, res []wire.ObjResult) {
		var rec indexRec
		if e != 0 || len(res) != 1 || len(res[0].Pairs) != 1 || wire.Unmarshal(res[0].Pairs[0].Val, &rec) != nil {
			if at := r.giver(ino); at != r.cfg.Rank {
				nowhere.rank = at
			}
			here()
			return
		}
		r.locate(rec.Dir, depth+1, func(p place) {
			if p.in == nil {
				done(p)
				return
			}
			if !p.in.isDir() {
				done(nowhere)
				return
			}
			r.openIn(r.dirOf(p.in), ino, rec.Name, here)
		})
	})
}
