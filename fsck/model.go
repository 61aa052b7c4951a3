package fsck

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/wire"
)

// Params say whose objects these are.
type Params struct {
	Rank               wire.Rank
	MetaPool, DataPool uint32
	ObjectSize         uint32    // of files that are made of orphaned data
	InoRanges          []uint64  // ranges of 2^40 numbers that the rank owns; empty: not known
	Others             []Other   // the other ranks of the file system; a repair knows none
	Live               bool      // the rank runs: what the journal does not speak of may be under way
	Now                wire.Time // for times of what a repair makes
}

// Other is a further rank: its journal speaks of directories too.
type Other struct {
	Rank      wire.Rank
	InoRanges []uint64
}

// ledger is what the journal of another rank says besides its records.
type ledger struct {
	Other
	inoEnd   wire.Ino
	expire   journal.Pos
	journals []uint64
}

// Model is the file system as the facts show it. A file costs it some 700 bytes.
type Model struct {
	p     Params
	dirs  map[wire.Ino]*dir
	index map[wire.Ino]indexLine
	data  map[wire.Ino][]Block

	touched  map[wire.Ino]bool // inodes and directories that the journal speaks of
	owing    map[wire.Ino]bool // inodes that the journal lists as owing to the directory above
	pending  map[pending]bool  // directories on their way from one rank to another, whose end its journal does not tell
	expire   journal.Pos
	journals []uint64 // places of journal objects
	others   map[wire.Rank]*ledger
	unknown  []string
	inoEnd   wire.Ino
	inoMax   wire.Ino
	names    int

	homes   map[wire.Ino][]*name // by inode; built by each check
	remotes map[wire.Ino][]*name
	found   []Finding

	// of a repair
	freeIno  wire.Ino
	lost     *dir
	setIndex map[wire.Ino]*mds.IndexRecord // nil value: the line goes
	cut      []DataChange
	drop     []wire.ObjectID
}

// dir is one directory's contents.
type dir struct {
	ino     wire.Ino
	hdr     mds.HeaderRecord
	hasHdr  bool
	object  bool // there is one
	badHdr  string
	journal bool // the journal speaks of it
	names   map[string]*name

	write  bool // a repair changed it
	remove bool
}

// name is one name of a directory; of kind null it is a name that the journal took away.
type name struct {
	dir   *dir
	name  string
	rec   mds.DentryRecord
	bad   string // its record cannot be read
	write bool
}

type indexLine struct {
	rec mds.IndexRecord
	bad string
}

// Block is a data object of a file.
type Block struct {
	Index uint64
	Size  uint64
}

// New makes an empty model.
func New(p Params) *Model {
	if p.ObjectSize == 0 {
		p.ObjectSize = 4 << 20
	}
	others := map[wire.Rank]*ledger{}
	for _, o := range p.Others {
		others[o.Rank] = &ledger{Other: o}
	}
	return &Model{p: p, others: others, dirs: map[wire.Ino]*dir{}, index: map[wire.Ino]indexLine{}, data: map[wire.Ino][]Block{}, touched: map[wire.Ino]bool{}, owing: map[wire.Ino]bool{}, pending: map[pending]bool{},
		setIndex: map[wire.Ino]*mds.IndexRecord{}}
}

func (m *Model) dir(ino wire.Ino) *dir {
	d := m.dirs[ino]
	if d == nil {
		d = &dir{ino: ino, names: map[string]*name{}}
		m.dirs[ino] = d
	}
	return d
}

// MetaObject takes the name of an object of the metadata pool.
func (m *Model) MetaObject(object string) {
	kind, n, rank := mds.MetaObject(object)
	journal := kind == mds.MetaJournal || kind == mds.MetaJournalHead
	switch o := m.others[rank]; {
	case kind == mds.MetaUnknown, journal && rank != m.p.Rank && o == nil:
		m.unknown = append(m.unknown, object)
	case kind == mds.MetaJournal && rank != m.p.Rank:
		o.journals = append(o.journals, n)
	case kind == mds.MetaDir:
		m.dir(wire.Ino(n)).object = true
	case kind == mds.MetaJournal:
		m.journals = append(m.journals, n)
	}
}

// Header takes the xattrs of a directory's object.
func (m *Model) Header(ino wire.Ino, xattrs []wire.KV) {
	d := m.dir(ino)
	d.object = true
	h, err := mds.DecodeHeader(xattrs)
	if err != nil {
		d.badHdr = err.Error()
		return
	}
	d.header(h)
}

func (d *dir) header(h mds.HeaderRecord) {
	if !d.hasHdr || h.Version > d.hdr.Version {
		d.hdr, d.hasHdr = h, true
	}
}

// Dentry takes one pair of a directory's omap.
func (m *Model) Dentry(ino wire.Ino, key string, val []byte) {
	what, ok := mds.DentryName(key)
	d := m.dir(ino)
	if !ok {
		m.unknown = append(m.unknown, mds.DirObjectName(ino)+" key "+key)
		return
	}
	rec, err := mds.DecodeDentry(val)
	n := d.names[what]
	switch {
	case err != nil && n == nil:
		m.names++
		d.names[what] = &name{dir: d, name: what, bad: err.Error()}
	case err == nil:
		m.record(d, what, rec)
	}
}

// record takes a record unless a newer one is known.
func (m *Model) record(d *dir, what string, rec mds.DentryRecord) {
	n := d.names[what]
	if n == nil {
		n = &name{dir: d, name: what}
		m.names++
		d.names[what] = n
	} else if n.bad == "" && n.rec.Version >= rec.Version {
		if rec.Ino != n.rec.Ino && rec.Ino != 0 {
			m.touched[rec.Ino] = true // only the journal can be newer than the object
		}
		return
	}
	if n.rec.Ino != 0 && n.rec.Ino != rec.Ino {
		m.touched[n.rec.Ino] = true
	}
	n.rec, n.bad = rec, ""
}

// Entry takes one entry of a rank's journal.
func (m *Model) Entry(rank wire.Rank, e *mds.EntryRecord) error {
	for i := range e.Dentries {
		x := &e.Dentries[i]
		rec, err := mds.DecodeDentry(x.Rec)
		if err != nil {
			return fmt.Errorf("record of %v/%q: %w", x.Dir, x.Name, err)
		}
		d := m.dir(x.Dir)
		if ino, err := strconv.ParseUint(x.Name, 16, 64); err == nil && (d.isStray(m) || d.isLinks(m)) {
			m.touched[wire.Ino(ino)] = true // also when the record says that it is gone
		}
		d.journal, m.touched[x.Dir] = true, true
		if rec.Ino != 0 {
			m.touched[rec.Ino] = true
		}
		m.record(d, x.Name, rec)
	}
	for i := range e.Headers {
		h, err := mds.DecodeHeaderBytes(e.Headers[i].Rec)
		if err != nil {
			return fmt.Errorf("header of %v: %w", e.Headers[i].Dir, err)
		}
		d := m.dir(e.Headers[i].Dir)
		d.journal, m.touched[d.ino] = true, true
		d.header(h)
	}
	if t := e.Tables; t != nil {
		m.moves(rank, t.Moves)
		for _, ino := range t.Owing {
			m.owing[ino] = true
		}
	}
	m.moves(rank, e.Moves)
	if o := m.others[rank]; o != nil {
		o.inoEnd = max(o.inoEnd, e.InoEnd)
		if t := e.Tables; t != nil {
			o.inoEnd = max(o.inoEnd, t.InoEnd)
		}
		return nil
	}
	m.inoEnd = max(m.inoEnd, e.InoEnd)
	if t := e.Tables; t != nil {
		m.inoEnd, m.inoMax = max(m.inoEnd, t.InoEnd), max(m.inoMax, t.InoMax)
	}
	return nil
}

// pending is a directory that a rank is perhaps given.
type pending struct {
	by  wire.Rank
	ino wire.Ino
}

// moves takes lines of a rank's table of directories that change hands, in the order of its journal.
func (m *Model) moves(by wire.Rank, list []mds.MoveRecord) {
	for i := range list {
		if k := (pending{by, list[i].Ino}); list[i].Pending() {
			m.pending[k] = true
		} else {
			delete(m.pending, k)
		}
	}
}

// inTransit: a directory's home is in the journal of a rank that does not know yet whether it has it.
func (m *Model) inTransit(ino wire.Ino) bool {
	return slices.ContainsFunc(m.ranks(), func(r wire.Rank) bool { return m.pending[pending{r, ino}] })
}

// Expire takes the position at which a rank's journal begins.
func (m *Model) Expire(rank wire.Rank, at journal.Pos) {
	if o := m.others[rank]; o != nil {
		o.expire = at
		return
	}
	m.expire = at
}

// ranks are all that there are, in order.
func (m *Model) ranks() []wire.Rank {
	out := []wire.Rank{m.p.Rank}
	for _, o := range m.p.Others {
		out = append(out, o.Rank)
	}
	slices.Sort(out)
	return out
}

// Gone says that a directory's object that was listed is no more.
func (m *Model) Gone(ino wire.Ino) { m.dir(ino).object = false }

// Damage is the finding of a journal that cannot be read.
func Damage(subject, what string) Finding {
	return Finding{Code: JournalDamaged, Subject: subject, What: what, Means: infoOf(JournalDamaged).Means}
}

// IndexKey takes one pair of an index object.
func (m *Model) IndexKey(object, key string, val []byte) {
	n, err := strconv.ParseUint(key, 16, 64)
	if err != nil || mds.IndexKey(wire.Ino(n)) != key || mds.IndexObjectName(wire.Ino(n)) != object {
		m.unknown = append(m.unknown, object+" key "+key)
		return
	}
	m.IndexLine(wire.Ino(n), val)
}

// IndexLine takes one pair of an index object.
func (m *Model) IndexLine(ino wire.Ino, val []byte) {
	rec, err := mds.DecodeIndex(val)
	l := indexLine{rec: rec}
	if err != nil {
		l.bad = err.Error()
	}
	m.index[ino] = l
}

// Data takes one object of the data pool.
func (m *Model) Data(object string, size uint64) {
	ino, block, ok := mds.DataObjectParts(object)
	if !ok {
		m.unknown = append(m.unknown, fmt.Sprintf("%d/%s", m.p.DataPool, object))
		return
	}
	m.data[ino] = append(m.data[ino], Block{block, size})
}

// Sum counts what was looked at.
type Sum struct {
	Dirs        int `json:"directories"`
	Names       int `json:"names"`
	Inodes      int `json:"inodes"`
	Strays      int `json:"strays"`
	Files       int `json:"files_with_data"`
	DataObjects int `json:"data_objects"`
}

// Sum counts; after a Check.
func (m *Model) Sum() (s Sum) {
	for _, d := range m.dirs {
		for _, n := range d.names {
			if !n.null() {
				s.Names++
			}
		}
		if m.homes[d.ino] != nil || d.ino.IsBaseDir() {
			s.Dirs++
		}
	}
	for _, h := range m.homes {
		s.Inodes++
		if h[0].dir.isStray(m) {
			s.Strays++
		}
	}
	for _, b := range m.data {
		s.Files++
		s.DataObjects += len(b)
	}
	return s
}

func (n *name) null() bool { return n.bad == "" && n.rec.Kind == mds.DentryNull }
func (n *name) home() bool { return n.bad == "" && n.rec.Kind == mds.DentryHome }
func (n *name) String() string {
	return fmt.Sprintf("%v/%q", n.dir.ino, n.name)
}

func (n *name) isDir() bool { return n.home() && n.rec.Inode.Mode&modeType == modeDir }

func (d *dir) isStray(*Model) bool { return d.ino.IsStrayDir() }
func (d *dir) isLinks(*Model) bool { return d.ino.IsLinksDir() }

// shard is which of its rank's stray or links directories d is.
func (d *dir) shard() int {
	first := wire.StrayDir(0, 0)
	if d.ino.IsLinksDir() {
		first = wire.LinksDir(0, 0)
	}
	return int(d.ino-first) % wire.SystemShards
}

// sorted is a directory's names in order, nulls left out.
func (d *dir) sorted() []*name {
	out := make([]*name, 0, len(d.names))
	for _, n := range d.names {
		if !n.null() {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *name) int { return strings.Compare(a.name, b.name) })
	return out
}

func (m *Model) sortedDirs() []*dir { return sortedValues(m.dirs) }

func sortedKeys[V any](in map[wire.Ino]V) []wire.Ino {
	out := make([]wire.Ino, 0, len(in))
	for k := range in {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func sortedValues(in map[wire.Ino]*dir) []*dir {
	out := make([]*dir, 0, len(in))
	for _, d := range in {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *dir) int { return cmp.Compare(a.ino, b.ino) })
	return out
}

// pathOf is where an inode is in the tree; "" when nothing leads there from the root.
func (m *Model) pathOf(ino wire.Ino) string {
	path := ""
	for range 4096 {
		if ino == wire.RootIno {
			return max("/", path)
		}
		if ino.IsBaseDir() {
			return ""
		}
		h := m.homes[ino]
		if len(h) == 0 {
			return ""
		}
		n := h[0]
		if n.dir.isLinks(m) {
			if r := m.remotes[ino]; len(r) > 0 {
				n = r[0]
			}
		}
		path = "/" + n.name + path
		ino = n.dir.ino
	}
	return ""
}

func (m *Model) pathOfName(n *name) string {
	if p := m.pathOf(n.dir.ino); p != "" {
		return strings.TrimSuffix(p, "/") + "/" + n.name
	}
	return ""
}

const (
	modeType = 0o170000
	modeReg  = 0o100000
	modeDir  = 0o040000
)
