package fsck

import (
	"slices"

	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// A repair mends the model, phase by phase, until nothing more is found; what became different
// is then a list of changes of objects (change.go).

const repairRounds = 50 // of a repair that finds something new each time

// Repair mends what can be. free is the first of the inode numbers that it may use (Floor).
// Found is everything that was wrong, what came to light on the way included.
func (m *Model) Repair(free wire.Ino) (found []Finding) {
	m.freeIno = free
	found = m.Check()
	known := map[string]bool{}
	for i := range found {
		known[found[i].Key()] = true
	}
	for range repairRounds {
		if !m.repairPhase(func(f Finding) {
			if !known[f.Key()] {
				known[f.Key()] = true
				found = append(found, f)
			}
		}) {
			break
		}
	}
	left := map[string]bool{}
	for _, f := range m.Check() {
		left[f.Key()] = true
	}
	for i := range found {
		found[i].Repaired = found[i].fix != nil && !left[found[i].Key()]
	}
	return found
}

// repairPhase mends what the first phase finds that finds something; false: none did.
func (m *Model) repairPhase(note func(Finding)) (again bool) {
	for _, phase := range phases {
		m.found = nil
		m.link()
		phase(m)
		for _, f := range m.found {
			note(f)
			if f.fix != nil {
				f.fix()
				again = true
			}
		}
		if again {
			m.settle()
			return true
		}
	}
	return false
}

// touch numbers a change of a directory, as a rank would.
func (d *dir) touch() uint64 {
	d.write, d.hasHdr = true, true
	d.hdr.Version += 2
	return d.hdr.Version - 1
}

// rewrite changes a record.
func (m *Model) rewrite(n *name, change func()) {
	change()
	n.rec.Version, n.write = n.dir.touch(), true
}

// removeName takes a name away.
func (m *Model) removeName(n *name) {
	if n.null() {
		return
	}
	d := n.dir
	if d.hdr.Entries > 0 {
		d.hdr.Entries--
	}
	if n.bad == "" && n.rec.Type == modeDir && d.hdr.Subdirs > 0 {
		d.hdr.Subdirs--
	}
	n.bad = ""
	n.rec = mds.DentryRecord{Version: d.touch(), Kind: mds.DentryNull}
	n.write = true
}

// addName makes a name; one that is there already goes.
func (m *Model) addName(d *dir, what string, rec mds.DentryRecord) *name {
	if old := d.names[what]; old != nil {
		m.removeName(old)
	}
	rec.Hash = d.freeCookie(what)
	rec.Version = d.touch()
	n := &name{dir: d, name: what, rec: rec, write: true}
	d.names[what] = n
	d.hdr.Entries++
	if rec.Type == modeDir {
		d.hdr.Subdirs++
	}
	return n
}

func (m *Model) addHome(d *dir, what string, in *mds.InodeRecord) *name {
	return m.addName(d, what, mds.DentryRecord{Kind: mds.DentryHome, Ino: in.Ino, Type: in.Mode & modeType, Inode: in})
}

func (m *Model) addRemote(d *dir, what string, in *mds.InodeRecord) *name {
	return m.addName(d, what, mds.DentryRecord{Kind: mds.DentryRemote, Ino: in.Ino, Type: in.Mode & modeType})
}

// freeCookie is a place in listings that no other name has.
func (d *dir) freeCookie(what string) uint64 {
	used := map[uint64]bool{}
	for _, n := range d.names {
		if n.bad == "" && n.rec.Kind != mds.DentryNull {
			used[n.rec.Hash] = true
		}
	}
	h := mds.HashName(what)
	for used[h] {
		h++
	}
	return h
}

func (m *Model) freshInode(ino wire.Ino, mode uint32) *mds.InodeRecord {
	in := &mds.InodeRecord{}
	in.Ino, in.Mode, in.Nlink, in.Change = ino, mode, 1, 1
	in.Atime, in.Mtime, in.Ctime, in.Btime = m.p.Now, m.p.Now, m.p.Now, m.p.Now
	return in
}

// freshDir is the inode of a directory that lost its own; its contents are what its object holds.
func (m *Model) freshDir(ino wire.Ino) *mds.InodeRecord {
	mode := uint32(modeDir | 0o700)
	if ino == wire.RootIno {
		mode = modeDir | 0o755
	}
	return m.freshInode(ino, mode)
}

// rebuildHeader makes a header of the names.
func (m *Model) rebuildHeader(d *dir) {
	h := mds.HeaderRecord{Mtime: m.p.Now, Ctime: m.p.Now}
	for _, n := range d.names {
		h.Version = max(h.Version, n.rec.Version)
		if n.home() {
			h.Change = max(h.Change, n.rec.Inode.Change)
		}
	}
	d.hdr, d.hasHdr, d.badHdr = h, true, ""
	m.recount(d)
}

func (m *Model) recount(d *dir) {
	names := d.sorted()
	d.hdr.Entries, d.hdr.Subdirs = uint64(len(names)), 0
	for _, n := range names {
		if n.bad == "" && n.rec.Type == modeDir {
			d.hdr.Subdirs++
		}
	}
	d.touch()
}

func (m *Model) raise(d *dir, version uint64) {
	d.hdr.Version = version
	d.touch()
}

func (m *Model) makeDir(ino wire.Ino) {
	d := m.dir(ino)
	m.rebuildHeader(d)
	d.object = true
}

// dropHome ends that n embeds an inode that lives in best.
func (m *Model) dropHome(n, best *name) {
	in := best.rec.Inode
	if in.Mode&modeType == modeDir || n.dir.isStray(m) || n.dir.isLinks(m) {
		m.removeName(n)
		return
	}
	m.rewrite(n, func() { n.rec.Kind, n.rec.Type, n.rec.Inode = mds.DentryRemote, in.Mode&modeType, nil })
}

// moveToLinks gives an inode with several names the home that it must have.
func (m *Model) moveToLinks(h *name) {
	in := h.rec.Inode
	if h.dir.isLinks(m) || h.dir.isStray(m) {
		m.removeName(h)
	} else {
		m.rewrite(h, func() { h.rec.Kind, h.rec.Inode = mds.DentryRemote, nil })
	}
	m.addHome(m.dir(wire.LinksDir(m.p.Rank, mds.ShardOf(in.Ino))), mds.StrayName(in.Ino), in)
}

func (m *Model) moveToStray(h *name) {
	in := h.rec.Inode
	m.removeName(h)
	m.addHome(m.dir(wire.StrayDir(m.p.Rank, mds.ShardOf(in.Ino))), mds.StrayName(in.Ino), in)
}

// lostFound is /lost+found, made when it is first needed.
func (m *Model) lostFound() *dir {
	if m.lost != nil {
		return m.lost
	}
	root := m.dir(wire.RootIno)
	what := "lost+found"
	for n := root.names[what]; n != nil && !n.null(); n = root.names[what] {
		if n.isDir() {
			m.lost = m.dir(n.rec.Ino)
			return m.lost
		}
		what += "_"
	}
	ino := m.freeIno
	m.freeIno++
	m.addHome(root, what, m.freshInode(ino, modeDir|0o700))
	m.makeDir(ino)
	m.lost = m.dir(ino)
	return m.lost
}

// lostName is a free name there.
func (m *Model) lostName(ino wire.Ino) string {
	d := m.lostFound()
	what := mds.StrayName(ino)
	for n := d.names[what]; n != nil && !n.null(); n = d.names[what] {
		what += "_"
	}
	return what
}

func (m *Model) nameInLost(h *name) {
	m.addRemote(m.lostFound(), m.lostName(h.rec.Ino), h.rec.Inode)
}

func (m *Model) moveToLost(h *name) {
	in := h.rec.Inode
	what := m.lostName(in.Ino)
	m.removeName(h)
	m.addHome(m.lost, what, in)
}

// adoptDir attaches a directory that no name leads to.
func (m *Model) adoptDir(d *dir) {
	if len(d.sorted()) == 0 {
		d.remove = true
		delete(m.dirs, d.ino)
		m.drop = append(m.drop, wire.ObjectID{Pool: m.p.MetaPool, Name: mds.DirObjectName(d.ino)})
		return
	}
	m.addHome(m.lostFound(), m.lostName(d.ino), m.freshDir(d.ino))
}

// adoptData makes a file of data objects.
func (m *Model) adoptData(ino wire.Ino) {
	in := m.freshInode(ino, modeReg|0o600)
	in.Pool, in.ObjectSize = m.p.DataPool, m.p.ObjectSize
	in.Size = endOf(m.data[ino], uint64(in.ObjectSize))
	in.Reach, in.Sparse = in.Size, true
	m.addHome(m.lostFound(), m.lostName(ino), in)
}

// cutData removes what lies behind a byte.
func (m *Model) cutData(ino wire.Ino, limit, unit uint64) {
	var keep []Block
	for _, b := range m.data[ino] {
		begin, end := b.Index*unit, b.Index*unit+b.Size
		obj := wire.DataObject(m.p.DataPool, ino, b.Index)
		switch {
		case begin+min(b.Size, 1) > limit || begin >= limit:
			m.cut = append(m.cut, DataChange{Object: obj, Remove: true})
		case end > limit:
			m.cut = append(m.cut, DataChange{Object: obj, Size: limit - begin})
			keep = append(keep, Block{b.Index, limit - begin})
		default:
			keep = append(keep, b)
		}
	}
	m.data[ino] = keep
}

func (m *Model) setLine(ino wire.Ino, rec *mds.IndexRecord) {
	m.setIndex[ino] = rec
	if rec == nil {
		delete(m.index, ino)
		return
	}
	m.index[ino] = indexLine{rec: *rec}
}

func (m *Model) dropObject(obj wire.ObjectID, place uint64) {
	m.drop = append(m.drop, obj)
	m.journals = slices.DeleteFunc(m.journals, func(i uint64) bool { return i == place })
}
