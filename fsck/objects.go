package fsck

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// The checks of what is not a directory: data objects, the index, inode numbers, the rest.

// top is the byte behind which nobody may have written.
func top(in *mds.InodeRecord) uint64 {
	if in.Mode&modeType != modeReg {
		return 0
	}
	n := max(in.Size, in.CutFrom)
	for _, g := range in.Ranges {
		n = max(n, g.Max)
	}
	return n
}

func (m *Model) checkData() {
	newest := map[wire.Ino]wire.Ino{} // by range: each rank gives out of its own
	for ino := range m.homes {
		newest[ino>>40] = max(newest[ino>>40], ino)
	}
	for _, ino := range sortedKeys(m.data) {
		blocks := m.data[ino]
		if m.p.Live && (m.touched[ino] || ino > newest[ino>>40]) {
			continue // just made, cut or removed
		}
		hs := m.homes[ino]
		if len(hs) == 0 {
			m.find(DataOrphan, ino.String(), "", func() { m.adoptData(ino) }, "%d objects, %d bytes at most, of no inode", len(blocks), endOf(blocks, uint64(m.p.ObjectSize)))
			continue
		}
		h := hs[0]
		in := h.rec.Inode
		if h.dir.isStray(m) {
			continue // being purged
		}
		limit, unit := top(in), uint64(max(in.ObjectSize, 1))
		var over []Block
		for _, b := range blocks {
			if b.Index*unit+min(b.Size, 1) > limit || b.Index*unit+b.Size > limit {
				over = append(over, b)
			}
		}
		if len(over) > 0 {
			m.find(DataBeyond, ino.String(), m.pathOf(ino), func() { m.cutData(ino, limit, unit) }, "size %d, %d objects reach up to %d", in.Size, len(over), endOf(over, unit))
		}
	}
	for _, ino := range sortedKeys(m.homes) {
		h := m.homes[ino][0]
		if in := h.rec.Inode; in.CutFrom != 0 && !m.touched[ino] && !h.dir.isStray(m) {
			m.find(CutForgotten, ino.String(), m.pathOf(ino), func() {
				size, unit := in.Size, uint64(max(in.ObjectSize, 1))
				m.rewrite(h, func() { in.CutFrom, in.Reach = 0, in.Size })
				m.cutData(ino, size, unit)
			}, "objects between %d and %d were to be cut off", in.Size, in.CutFrom)
		}
	}
}

func endOf(blocks []Block, unit uint64) (end uint64) {
	for _, b := range blocks {
		end = max(end, b.Index*unit+b.Size)
	}
	return end
}

// checkIndex: a line is written with a directory's flush, so what the journal speaks of may
// have an older one.
func (m *Model) checkIndex() {
	for _, ino := range sortedKeys(m.homes) {
		h := m.homes[ino][0]
		if ino < wire.FirstFreeIno || m.touched[ino] {
			continue
		}
		l, ok := m.index[ino]
		if ok && l.bad == "" && l.rec.Dir == h.dir.ino && l.rec.Name == h.name {
			continue
		}
		what := "no line"
		switch {
		case l.bad != "":
			what = l.bad
		case ok:
			what = fmt.Sprintf("the line says %v/%q", l.rec.Dir, l.rec.Name)
		}
		m.find(IndexWrong, ino.String(), m.pathOf(ino), func() {
			m.setLine(ino, &mds.IndexRecord{Dir: h.dir.ino, Name: h.name})
		}, "it lives in %v; %s", h, what)
	}
	for _, ino := range sortedKeys(m.index) {
		if len(m.homes[ino]) == 0 && !m.touched[ino] {
			l := m.index[ino]
			m.find(IndexStale, ino.String(), "", func() { m.setLine(ino, nil) }, "the line says %v/%q", l.rec.Dir, l.rec.Name)
		}
	}
}

// checkNumbers: no number in use can be given out again.
func (m *Model) checkNumbers() {
	if m.inoEnd == 0 {
		return // no journal was read
	}
	for _, ino := range sortedKeys(m.homes) {
		if ino < wire.FirstFreeIno {
			continue
		}
		in := m.inoEnd
		if o := m.giver(ino); o != nil {
			if ino >= o.inoEnd && uint64(ino)>>40 == uint64(o.inoEnd)>>40 {
				m.find(InoAboveTable, ino.String(), m.pathOf(ino), nil, "numbers from %v on are free, says the journal of rank %d", o.inoEnd, o.Rank)
			}
			continue
		}
		if len(m.p.InoRanges) > 0 && !slices.Contains(m.p.InoRanges, uint64(ino)>>40) {
			m.find(InoAboveTable, ino.String(), m.pathOf(ino), nil, "of no range that the monitors gave to rank %d", m.p.Rank)
			continue
		}
		if ino >= in && uint64(ino)>>40 == uint64(in)>>40 {
			m.find(InoAboveTable, ino.String(), m.pathOf(ino), func() { m.inoEnd = max(m.inoEnd, ino+1) }, "numbers from %v on are free, says the journal", in)
		}
	}
}

// giver is the other rank whose range ino is of; nil: none.
func (m *Model) giver(ino wire.Ino) *ledger {
	for _, r := range m.ranks() {
		if o := m.others[r]; o != nil && slices.Contains(o.InoRanges, uint64(ino)>>40) {
			return o
		}
	}
	return nil
}

// Floor is the number below which nothing may be given out any more before a repair, with
// room for the inodes that it makes.
func (m *Model) Floor() (floor, free wire.Ino) {
	top := m.inoEnd
	for ino := range m.homes {
		if uint64(ino)>>40 == uint64(m.inoEnd)>>40 {
			top = max(top, ino+1)
		}
	}
	for ino := range m.data {
		if uint64(ino)>>40 == uint64(m.inoEnd)>>40 {
			top = max(top, ino+1)
		}
	}
	return top + repairInos, top
}

const repairInos = 64 // numbers that a repair may use

func (m *Model) checkPool() {
	for _, i := range m.journals {
		if (i+1)*journal.ObjectBytes <= uint64(m.expire) {
			obj := wire.ObjectID{Pool: m.p.MetaPool, Name: journal.ObjectName(mds.JournalPrefix(m.p.Rank), i)}
			m.find(JournalLeftover, obj.String(), "", func() { m.dropObject(obj, i) }, "the journal begins at %d", m.expire)
		}
	}
	for _, r := range m.ranks() {
		if o := m.others[r]; o != nil {
			for _, i := range o.journals {
				if (i+1)*journal.ObjectBytes <= uint64(o.expire) {
					obj := wire.ObjectID{Pool: m.p.MetaPool, Name: journal.ObjectName(mds.JournalPrefix(r), i)}
					m.find(JournalLeftover, obj.String(), "", nil, "the journal of rank %d begins at %d", r, o.expire)
				}
			}
		}
	}
	slices.Sort(m.unknown)
	for _, u := range m.unknown {
		m.find(ObjectUnknown, u, "", nil, "no rank makes such an object")
	}
}
