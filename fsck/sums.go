package fsck

import (
	"cmp"
	"slices"

	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Recursive statistics (mds/nest.go). What a directory's header counts for its names is exact
// at every moment. What the directory above counts for it may lag, but only where the journal
// speaks of the directory or lists it as owing: elsewhere nobody would ever correct it.

func (m *Model) system(ino wire.Ino) bool { return ino != wire.RootIno && ino < wire.FirstFreeIno }

// nestOf is what the directory above counts of an inode.
func nestOf(in *mds.InodeRecord) mds.NestRecord {
	if in.Nest == nil {
		return mds.NestRecord{}
	}
	return *in.Nest
}

func chargeOf(in *mds.InodeRecord) mds.NestRecord {
	return mds.NestRecord{RBytes: in.Size, RFiles: 1, RCtime: in.Ctime}
}

// sumOf is what d's names count for; false: one cannot be read.
func (m *Model) sumOf(d *dir) (s mds.NestRecord, ok bool) {
	for _, n := range d.names {
		switch {
		case n.bad != "":
			return s, false
		case n.null():
		case n.isDir():
			in := n.rec.Inode
			c := nestOf(in)
			s.RBytes, s.RFiles, s.RSubdirs = s.RBytes+c.RBytes, s.RFiles+c.RFiles, s.RSubdirs+c.RSubdirs+1
			s.RCtime = wire.MaxTime(s.RCtime, wire.MaxTime(c.RCtime, in.Ctime))
		case n.home():
			s.RBytes, s.RFiles = s.RBytes+n.rec.Inode.Size, s.RFiles+1
			s.RCtime = wire.MaxTime(s.RCtime, n.rec.Inode.Ctime)
		case n.rec.Nest != nil: // a directory of another rank
			c := *n.rec.Nest
			s.RBytes, s.RFiles, s.RSubdirs = s.RBytes+c.RBytes, s.RFiles+c.RFiles, s.RSubdirs+c.RSubdirs+1
			s.RCtime = wire.MaxTime(s.RCtime, c.RCtime)
		case n.rec.Charge != nil:
			s.RBytes, s.RFiles = s.RBytes+n.rec.Charge.Bytes, s.RFiles+1
			if h := m.homes[n.rec.Ino]; len(h) > 0 {
				s.RCtime = wire.MaxTime(s.RCtime, nestOf(h[0].rec.Inode).RCtime)
			}
		}
	}
	return s, true
}

// sumsOf is what d's header says.
func sumsOf(d *dir) mds.NestRecord {
	return mds.NestRecord{RBytes: d.hdr.RBytes, RFiles: d.hdr.RFiles, RSubdirs: d.hdr.RSubdirs, RCtime: d.hdr.RCtime}
}

// counted reports whether d is a directory of the tree, whose sums count.
func (m *Model) counted(d *dir) bool {
	h := m.homes[d.ino]
	return d.hasHdr && !m.system(d.ino) && len(h) > 0 && !h[0].dir.isStray(m)
}

func (m *Model) checkSums() {
	bySettling := func() {} // repairPhase settles all when a phase has mended something
	for _, ino := range sortedKeys(m.homes) {
		h := m.homes[ino][0]
		if h.dir.isLinks(m) && len(m.remotes[ino]) > 0 {
			if what := m.wrongCharge(h, !m.touched[ino] && !m.owing[ino]); what != "" {
				m.find(RstatCharge, ino.String(), m.pathOf(ino), bySettling, "%s", what)
			}
		}
	}
	for _, d := range m.sortedDirs() {
		if !m.counted(d) {
			continue
		}
		sum, readable := m.sumOf(d)
		if !readable {
			continue
		}
		has := sumsOf(d)
		sum.RCtime = wire.MaxTime(sum.RCtime, has.RCtime) // what changed last may be gone
		if has != sum {
			m.find(RstatSums, d.ino.String(), m.pathOf(d.ino), bySettling, "its header counts %v; its names %v", &has, &sum)
		}
		if h := m.homes[d.ino][0]; d.ino != wire.RootIno && nestOf(h.rec.Inode) != has && !d.journal && !m.owing[d.ino] {
			above := nestOf(h.rec.Inode)
			m.find(RstatStale, d.ino.String(), m.pathOf(d.ino), bySettling, "it holds %v; above it counts as %v", &has, &above)
		}
	}
}

// wrongCharge says what is wrong with how an inode of several names is counted.
func (m *Model) wrongCharge(h *name, settled bool) string {
	in := h.rec.Inode
	if h.isDir() {
		far := m.remotes[in.Ino][0]
		if settled && !m.touched[far.dir.ino] && (far.rec.Nest == nil || *far.rec.Nest != nestOf(in)) {
			return "it lives with another rank, and its name counts something else than it says"
		}
		return ""
	}
	charged := false
	for _, n := range m.remotes[in.Ino] {
		if n.rec.Charge == nil {
			continue
		}
		switch {
		case len(in.Backs) == 0 || in.Backs[0] != mds.BackPointer{Dir: n.dir.ino, Name: n.name}:
			return n.String() + " counts it and is not its first name"
		case in.Nest == nil || in.Nest.RBytes != n.rec.Charge.Bytes:
			return n.String() + " counts other bytes than the inode says"
		}
		charged = true
	}
	switch {
	case !charged && in.Nest != nil:
		return "the inode says that it is counted, and no name does"
	case settled && nestOf(in) != chargeOf(in):
		return "what is counted is not its size and last change, or nothing is"
	}
	return ""
}

// settle makes all sums right, from the leaves up.
func (m *Model) settle() {
	m.link()
	for _, ino := range sortedKeys(m.homes) {
		if h := m.homes[ino][0]; h.dir.isLinks(m) && len(m.remotes[ino]) > 0 && m.wrongCharge(h, true) != "" {
			m.recharge(h)
		}
	}
	depth := map[*dir]int{}
	dirs := m.sortedDirs()
	for _, d := range dirs {
		for at := d.ino; depth[d] < 4096 && at != wire.RootIno && len(m.homes[at]) > 0; at = m.homes[at][0].dir.ino {
			depth[d]++
		}
	}
	slices.SortStableFunc(dirs, func(a, b *dir) int { return cmp.Compare(depth[b], depth[a]) })
	for _, d := range dirs {
		sum, readable := m.sumOf(d)
		if !readable || !m.counted(d) {
			continue
		}
		sum.RCtime = wire.MaxTime(sum.RCtime, d.hdr.RCtime)
		if sumsOf(d) != sum {
			d.hdr.RBytes, d.hdr.RFiles, d.hdr.RSubdirs, d.hdr.RCtime = sum.RBytes, sum.RFiles, sum.RSubdirs, sum.RCtime
			d.touch()
		}
		if h := m.homes[d.ino][0]; d.ino != wire.RootIno && nestOf(h.rec.Inode) != sum {
			m.rewrite(h, func() { h.rec.Inode.Nest = &sum })
		}
	}
}

// recharge counts an inode at its first name and nowhere else.
func (m *Model) recharge(h *name) {
	in := h.rec.Inode
	names := m.remotes[in.Ino]
	first := names[0]
	for _, n := range names {
		if len(in.Backs) > 0 && in.Backs[0] == (mds.BackPointer{Dir: n.dir.ino, Name: n.name}) {
			first = n
		}
	}
	for _, n := range names {
		if n != first && n.rec.Charge != nil {
			m.rewrite(n, func() { n.rec.Charge = nil })
		}
	}
	if h.isDir() {
		nest := nestOf(in)
		m.rewrite(first, func() { first.rec.Nest = &nest })
		return
	}
	want := chargeOf(in)
	m.rewrite(first, func() { first.rec.Charge = &mds.ChargeRecord{Bytes: want.RBytes} })
	m.rewrite(h, func() { in.Nest = &want })
}
