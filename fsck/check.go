package fsck

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// phases are the checks in their order: each may rely on what those before it would have mended.
var phases = []func(*Model){
	(*Model).checkRecords,
	(*Model).checkSystem,
	(*Model).checkHomes,
	(*Model).checkReach,
	(*Model).checkNames,
	(*Model).checkDirs,
	(*Model).checkSums,
	(*Model).checkData,
	(*Model).checkIndex,
	(*Model).checkNumbers,
	(*Model).checkPool,
}

// Check finds everything that is wrong.
func (m *Model) Check() []Finding {
	m.found = nil
	m.link()
	for _, phase := range phases {
		phase(m)
	}
	return m.found
}

// link finds out which names lead to which inode.
func (m *Model) link() {
	m.homes, m.remotes = map[wire.Ino][]*name{}, map[wire.Ino][]*name{}
	for _, d := range m.sortedDirs() {
		for _, n := range d.sorted() {
			switch {
			case n.bad != "":
			case n.home():
				m.homes[n.rec.Ino] = append(m.homes[n.rec.Ino], n)
			default:
				m.remotes[n.rec.Ino] = append(m.remotes[n.rec.Ino], n)
			}
		}
	}
}

// find notes a finding; fix mends the model, nil when nothing can.
func (m *Model) find(c Code, subject, path string, fix func(), what string, args ...any) {
	i := infoOf(c)
	m.found = append(m.found, Finding{Code: c, Subject: subject, Path: path, What: fmt.Sprintf(what, args...), Means: i.Means, Repair: i.Repair, fix: fix})
}

func (m *Model) checkRecords() {
	for _, d := range m.sortedDirs() {
		for _, n := range d.sorted() {
			if n.bad != "" {
				m.find(DentryUnreadable, n.String(), m.pathOfName(n), func() { m.removeName(n) }, "%s", n.bad)
			}
		}
		if d.badHdr != "" && !d.journal {
			m.find(HeaderUnreadable, d.ino.String(), m.pathOf(d.ino), func() { m.rebuildHeader(d) }, "%s", d.badHdr)
		}
	}
}

// checkSystem looks at the names in the base directories.
func (m *Model) checkSystem() {
	for _, r := range m.ranks() {
		m.checkBase(r)
	}
}

func (m *Model) checkBase(rank wire.Rank) {
	base := m.dir(wire.BaseDir(rank))
	names, inos := mds.SystemDirs(rank)
	for i, what := range names {
		n := base.names[what]
		if n != nil && n.isDir() && n.rec.Ino == inos[i] {
			continue
		}
		m.find(SystemMissing, what, "", func() {
			if n != nil {
				m.removeName(n)
			}
			m.addHome(base, what, m.freshDir(inos[i]))
		}, "the base directory has no directory %s of inode %v", what, inos[i])
	}
}

// checkHomes: every inode has one home, where its kind lives, and every remote name leads to one.
func (m *Model) checkHomes() {
	for _, ino := range sortedKeys(m.homes) {
		hs := m.homes[ino]
		if len(hs) > 1 {
			best := slices.MaxFunc(hs, m.better)
			for _, n := range hs {
				if n != best {
					m.find(InodeTwice, ino.String()+" at "+n.String(), m.pathOfName(n), func() { m.dropHome(n, best) }, "%v is at home in %v as well, with change %d against %d here", ino, best,
						best.rec.Inode.Change, n.rec.Inode.Change)
				}
			}
			continue
		}
		h := hs[0]
		links, stray := h.dir.isLinks(m), h.dir.isStray(m)
		rem := len(m.remotes[ino])
		switch {
		case rem > 0 && (!links || h.name != mds.StrayName(ino) || h.dir.shard() != mds.ShardOf(ino)):
			m.find(HomeMisplaced, ino.String(), m.pathOf(ino), func() { m.moveToLinks(h) }, "it has %d more names and lives in %v", rem, h)
		case stray && (h.name != mds.StrayName(ino) || h.dir.shard() != mds.ShardOf(ino)):
			m.find(HomeMisplaced, ino.String(), "", func() { m.moveToStray(h) }, "a stray filed as %v", h)
		case links && rem == 0:
			m.find(InodeUnnamed, ino.String(), "", func() { m.nameInLost(h) }, "%v has no name", h)
		}
	}
	for _, ino := range sortedKeys(m.remotes) {
		if m.homes[ino] == nil && !m.inTransit(ino) {
			for _, n := range m.remotes[ino] {
				m.find(NameDangling, n.String(), m.pathOfName(n), func() { m.removeName(n) }, "it leads to inode %v, which is nowhere", ino)
			}
		}
	}
}

// better orders two homes of one inode: one with a name before a stray, then the newer.
func (m *Model) better(a, b *name) int {
	if x, y := a.dir.isStray(m), b.dir.isStray(m); x != y {
		if x {
			return -1
		}
		return 1
	}
	if c := cmp.Compare(a.rec.Inode.Change, b.rec.Inode.Change); c != 0 {
		return c
	}
	if a.rec.Inode.Ctime.Before(b.rec.Inode.Ctime) {
		return -1
	}
	return 0
}

// checkReach: the base leads to every directory that has contents or a name.
func (m *Model) checkReach() {
	const good, bad = 1, 2
	state := map[wire.Ino]int{}
	for _, r := range m.ranks() {
		state[wire.BaseDir(r)] = good
	}
	for _, d := range m.sortedDirs() {
		var path []wire.Ino
		at := d.ino
		for state[at] == 0 {
			state[at] = -1
			path = append(path, at)
			h := m.homes[at]
			if len(h) == 0 {
				break
			}
			at = h[0].dir.ino
		}
		s := state[at]
		if s == -1 { // a loop, or an end without a home
			s = bad
			if h := m.homes[at]; len(h) > 0 && slices.Contains(path, at) {
				h := h[0]
				m.find(DirLoop, at.String(), "", func() { m.moveToLost(h) }, "%v leads to itself", h)
			}
		}
		for _, ino := range path {
			state[ino] = s
		}
	}
	for _, d := range m.sortedDirs() {
		if len(m.homes[d.ino]) > 0 || d.ino.IsBaseDir() || !d.object && len(d.sorted()) == 0 {
			continue
		}
		if m.inTransit(d.ino) || m.p.Live && m.touched[d.ino] {
			continue // just removed; its object is being deleted
		}
		m.find(DirOrphan, d.ino.String(), "", func() { m.adoptDir(d) }, "%d names, and no name leads to it", len(d.sorted()))
	}
}

// checkNames: link counts, back-pointers, types, cookies.
func (m *Model) checkNames() {
	for _, ino := range sortedKeys(m.homes) {
		h := m.homes[ino][0]
		in := h.rec.Inode
		want := uint32(1)
		rem := m.remotes[ino]
		switch {
		case h.dir.isStray(m):
			want = 0
		case h.dir.isLinks(m) && len(rem) > 0:
			want = uint32(len(rem))
		}
		if in.Nlink != want {
			m.find(LinkCount, ino.String(), m.pathOf(ino), func() { m.rewrite(h, func() { in.Nlink = want }) }, "the link count is %d, its names are %d", in.Nlink, want)
		}
		if backs := backsOf(rem); !sameBacks(in.Backs, backs) {
			m.find(BackPointers, ino.String(), m.pathOf(ino), func() { m.rewrite(h, func() { in.Backs = backs }) }, "it lists %v, but %v lead to it", backText(in.Backs), backText(backs))
		}
		for _, n := range append([]*name{h}, rem...) {
			if typ := in.Mode & modeType; n.rec.Type != typ {
				m.find(TypeWrong, n.String(), m.pathOfName(n), func() { m.rewrite(n, func() { n.rec.Type = typ }) }, "type %#o, its inode says %#o", n.rec.Type, typ)
			}
		}
	}
	for _, d := range m.sortedDirs() {
		seen := map[uint64]*name{}
		for _, n := range d.sorted() {
			if n.bad != "" {
				continue
			}
			if first := seen[n.rec.Hash]; first != nil {
				m.find(CookieTwice, n.String(), m.pathOfName(n), func() { m.rewrite(n, func() { n.rec.Hash = d.freeCookie(n.name) }) }, "cookie %#x is also that of %q", n.rec.Hash, first.name)
				continue
			}
			seen[n.rec.Hash] = n
		}
	}
}

func backsOf(rem []*name) (out []mds.BackPointer) {
	for _, n := range rem {
		out = append(out, mds.BackPointer{Dir: n.dir.ino, Name: n.name})
	}
	return out
}

func sameBacks(a, b []mds.BackPointer) bool {
	order := func(x, y mds.BackPointer) int {
		return cmp.Or(cmp.Compare(x.Dir, y.Dir), cmp.Compare(x.Name, y.Name))
	}
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}

func backText(bs []mds.BackPointer) string {
	s := ""
	for i, b := range bs {
		if i == 4 {
			return fmt.Sprintf("%s and %d more", s, len(bs)-i)
		}
		s += fmt.Sprintf(" %v/%q", b.Dir, b.Name)
	}
	if s == "" {
		return "none"
	}
	return s[1:]
}

// checkDirs: every directory has its object, and its header says what it holds.
func (m *Model) checkDirs() {
	for _, ino := range sortedKeys(m.homes) {
		h := m.homes[ino][0]
		d := m.dirs[ino]
		if !h.isDir() || h.dir.isStray(m) || m.touched[ino] && (d == nil || !d.object) || m.touched[ino] && m.p.Live {
			continue
		}
		if d == nil || !d.object && !d.journal && !d.write {
			m.find(DirMissing, ino.String(), m.pathOf(ino), func() { m.makeDir(ino) }, "object %s does not exist", mds.DirObjectName(ino))
		}
	}
	for _, d := range m.sortedDirs() {
		h := m.homes[d.ino]
		if !d.ino.IsBaseDir() && (len(h) == 0 || h[0].dir.isStray(m)) || !d.hasHdr {
			continue // removed, or being removed
		}
		names := d.sorted()
		subdirs, readable := uint64(0), true
		newest := uint64(0)
		for _, n := range names {
			readable = readable && n.bad == ""
			newest = max(newest, n.rec.Version)
			if n.bad == "" && n.rec.Type == modeDir {
				subdirs++
			}
		}
		if newest > d.hdr.Version {
			m.find(DirVersion, d.ino.String(), m.pathOf(d.ino), func() { m.raise(d, newest) }, "version %d, a name has %d", d.hdr.Version, newest)
		}
		system := d.ino != wire.RootIno && d.ino < wire.FirstFreeIno // nobody asks for subdirectories there
		if readable && (d.hdr.Entries != uint64(len(names)) || !system && d.hdr.Subdirs != subdirs) {
			m.find(DirCounts, d.ino.String(), m.pathOf(d.ino), func() { m.recount(d) }, "its header says %d names and %d subdirectories, it holds %d and %d", d.hdr.Entries, d.hdr.Subdirs, len(names), subdirs)
		}
	}
}
