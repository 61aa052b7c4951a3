package mds

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// sums judges recursive statistics: against a walk of the tree, against what clients are shown,
// and that rctime never goes back, not over crashes either.
type sums struct {
	w     *world
	c     *client
	dirs  []wire.Ino // some of them removed
	files []wire.Ino
	seen  map[wire.Ino]wire.Time
}

func newSums(w *world, c *client) *sums {
	return &sums{w: w, c: c, dirs: []wire.Ino{root}, seen: map[wire.Ino]wire.Time{}}
}

// op does something random that may change a sum; what is refused is as good.
func (s *sums) op() {
	dir := func() wire.Ino { return s.dirs[s.w.rng.Intn(len(s.dirs))] }
	name := func() string { return fmt.Sprintf("n%d", s.w.rng.Intn(5)) }
	file := func() wire.Ino {
		if len(s.files) == 0 {
			return 0
		}
		return s.files[s.w.rng.Intn(len(s.files))]
	}
	m := &wire.Request{Ino: dir(), Name: name(), Mode: 0o644, OpenFlags: oEXCL}
	switch s.w.rng.Intn(16) {
	case 0, 1:
		m.Op = wire.OpCreate
	case 2:
		m.Op, m.Target = wire.OpSymlink, "to/somewhere"
	case 3, 4:
		m.Op, m.Mode = wire.OpMkdir, 0o755
	case 5, 6:
		m.Op = wire.OpUnlink
	case 7:
		m.Op = wire.OpRmdir
	case 8, 9, 10:
		m.Op, m.NewDir, m.NewName = wire.OpRename, dir(), name()
		if s.w.rng.Intn(3) == 0 {
			m.RenameFlags = wire.RenameExchange
		}
	case 11, 12:
		m.Op, m.Other = wire.OpLink, file()
	default:
		m = &wire.Request{Op: wire.OpSetattr, Ino: file(), Set: wire.SetSize, Attr: wire.SetAttr{Size: uint64(s.w.rng.Intn(20000))}}
	}
	rep := s.c.do(m)
	if rep.Errno != 0 {
		return
	}
	switch m.Op {
	case wire.OpCreate:
		s.files = append(s.files, s.c.made(m, rep))
	case wire.OpMkdir:
		s.dirs = append(s.dirs, s.c.made(m, rep))
	}
}

// settle waits until nobody owes.
func (s *sums) settle() {
	s.w.t.Helper()
	s.w.until("sums are settled", func() bool { return len(s.w.r.nest.owing)+len(s.w.r.nest.seek) == 0 })
}

// check compares all with a walk.
func (s *sums) check(when string) {
	s.w.t.Helper()
	s.settle()
	s.w.tree() // everything is in the cache now
	s.walk(s.w.r.root, when, "")
}

func (s *sums) walk(in *inode, when, path string) (n nestRec) {
	s.w.t.Helper()
	entries, subdirs := 0, 0
	for _, dn := range in.dir.sortedNames() {
		if dn.isNull() {
			continue
		}
		entries++
		x := s.w.r.inodes[dn.ino]
		switch {
		case x.isDir():
			subdirs++
			below := s.walk(x, when, path+"/"+dn.name)
			below.RSubdirs++
			n.add(below)
		case dn.kind == dnHome || x.rec.Backs[0] == backRec{Dir: in.ino(), Name: dn.name}:
			n.add(nestRec{RBytes: x.rec.Size, RFiles: 1})
		default:
			continue
		}
		n.RCtime = wire.MaxTime(n.RCtime, x.rec.Ctime)
	}
	show := func(name string) string {
		rep := s.c.must(&wire.Request{Op: wire.OpGetvxattr, Ino: in.ino(), Xname: "ceph.dir." + name})
		return string(rep.Value)
	}
	for name, want := range map[string]uint64{"entries": uint64(entries), "subdirs": uint64(subdirs), "files": uint64(entries - subdirs),
		"rbytes": n.RBytes, "rfiles": n.RFiles, "rsubdirs": n.RSubdirs + 1, "rentries": n.RFiles + n.RSubdirs + 1} {
		if got := show(name); got != strconv.FormatUint(want, 10) {
			s.w.t.Errorf("%s: %s/ %s is %s, it holds %d", when, path, name, got, want)
		}
	}
	var at wire.Time
	if _, err := fmt.Sscanf(show("rctime"), "%d.%09d", &at.Sec, &at.Nsec); err != nil || at.Before(n.RCtime) || at.Before(s.seen[in.ino()]) {
		s.w.t.Errorf("%s: %s/ rctime %v, a change below at %v, seen before %v (%v)", when, path, at, n.RCtime, s.seen[in.ino()], err)
	}
	s.seen[in.ino()] = at
	return n
}

// Random operations and crashes: after each, once settled, every directory's sums are those of
// what is below it; that header and names agree is looked at after every step (checkNest), and
// by fsck at the moment of each crash and at rest.
func TestSumsAreThoseOfTheTree(t *testing.T) {
	for seed := int64(1); seed <= 60; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.cfg.NestLagNs = []int64{1e3, 100e3, 1e9}[seed%3]
			w.r.cfg.NestLagNs = w.cfg.NestLagNs
			s := newSums(w, w.client())
			for round := range 4 {
				for i := 10 + w.rng.Intn(60); i > 0; i-- {
					s.op()
					if w.rng.Intn(3) == 0 {
						s.c.dropSome(slices.Concat(s.dirs, s.files))
					}
					if w.rng.Intn(20) == 0 {
						w.r.flushAll()
						w.collect()
					}
				}
				if round%2 == 1 {
					s.check("at rest")
					w.fsck("at rest")
				}
				for _, ino := range sortedInos(s.c.caps) {
					s.c.names[ino] = hint{}
				}
				w.crash()
				w.fsck("after the crash")
				w.restart()
				if w.rng.Intn(2) == 0 {
					s.check(fmt.Sprintf("after crash %d", round))
				}
			}
			s.check("in the end")
			w.step(Event{Kind: Stop})
			w.until("stopped", func() bool { return w.r.State() == stateStopped })
			w.fsck("stopped")
		})
	}
}

// One story, cut off at each journal write of it: sums of a moved directory, of a file with
// several names whose charged one goes, and of a removed tree.
func TestSumsAfterACrashAtEachJournalWrite(t *testing.T) {
	for at, total := 1, 2; at < total; at++ {
		w := newWorld(t, int64(at))
		c := w.client()
		s := newSums(w, c)
		first := w.done
		down := func() bool { return w.done-first >= at }
		story := []func(){
			func() { s.dirs = append(s.dirs, c.mkdir(root, "a")) },
			func() { s.dirs = append(s.dirs, c.mkdir(s.dirs[1], "b")) },
			func() { s.dirs = append(s.dirs, c.mkdir(s.dirs[2], "c")) },
			func() { s.files = append(s.files, c.create(s.dirs[3], "f")) },
			func() {
				c.must(&wire.Request{Op: wire.OpSetattr, Ino: s.files[0], Set: wire.SetSize, Attr: wire.SetAttr{Size: 5000}})
			},
			s.settle,
			func() { s.dirs = append(s.dirs, c.mkdir(root, "z")) },
			func() { c.must(&wire.Request{Op: wire.OpLink, Ino: s.dirs[4], Name: "g", Other: s.files[0]}) },
			func() {
				c.must(&wire.Request{Op: wire.OpRename, Ino: s.dirs[1], Name: "b", NewDir: s.dirs[4], NewName: "b"})
			},
			func() {
				c.must(&wire.Request{Op: wire.OpSetattr, Ino: s.files[0], Set: wire.SetSize, Attr: wire.SetAttr{Size: 9}})
			},
			func() { w.r.flushAll(); w.r.settle(); w.collect() },
			func() { c.must(&wire.Request{Op: wire.OpUnlink, Ino: s.dirs[3], Name: "f"}) },
			s.settle,
			func() { c.must(&wire.Request{Op: wire.OpRmdir, Ino: s.dirs[2], Name: "c"}) },
			func() { c.must(&wire.Request{Op: wire.OpRmdir, Ino: s.dirs[4], Name: "b"}) },
			func() {
				c.must(&wire.Request{Op: wire.OpRename, Ino: s.dirs[4], Name: "g", NewDir: s.dirs[1], NewName: "h"})
			},
			s.settle,
			w.quiet,
		}
		for _, step := range story {
			if step(); down() {
				break
			}
		}
		if !down() {
			total = at // the story has no more writes
		} else {
			total = at + 2
		}
		w.crash()
		w.fsck(fmt.Sprintf("after write %d", at))
		w.restart()
		s.check(fmt.Sprintf("after write %d", at))
		w.fsck("in the end")
		if t.Failed() {
			return
		}
	}
}

// What lags is bounded, and nobody above is written before: a thousand creates in one directory
// cost its ancestors one record each.
func TestSumsCostAncestorsOneRecordPerLag(t *testing.T) {
	w := newWorld(t, 3)
	w.r.cfg.NestLagNs, w.r.cfg.SegmentBytes = 5e9, 1<<20
	c := w.client()
	deep := root
	for i := range 5 {
		deep = c.mkdir(deep, fmt.Sprintf("d%d", i))
	}
	w.quiet()
	before := w.r.counts.Entries
	for i := range 1000 {
		c.create(deep, fmt.Sprintf("f%d", i))
	}
	w.quiet()
	if n := w.r.counts.Entries - before; n > 1020 { // now and then one for inode numbers
		t.Fatalf("%d entries for 1000 creates", n)
	}
	s := newSums(w, c)
	if got := string(c.must(&wire.Request{Op: wire.OpGetvxattr, Ino: root, Xname: "ceph.dir.rfiles"}).Value); got != "0" {
		t.Fatalf("the root counts %s files before it is told", got)
	}
	before = w.r.counts.Entries
	w.now += 5e9
	w.step(Event{Kind: Tick})
	if n := w.r.counts.Entries - before; n != 1 || len(w.r.nest.owing) != 0 {
		t.Fatalf("%d entries tell the ancestors, %d owe still", n, len(w.r.nest.owing))
	}
	s.check("then")
}

// Only directories have them, and only these.
func TestVirtualXattrsThatAreNot(t *testing.T) {
	w := newWorld(t, 4)
	c := w.client()
	f := c.create(root, "f")
	c.fails(&wire.Request{Op: wire.OpGetvxattr, Ino: f, Xname: "ceph.dir.rbytes"}, eNODATA)
	c.fails(&wire.Request{Op: wire.OpGetvxattr, Ino: root, Xname: "ceph.dir.nonsense"}, eNODATA)
	c.fails(&wire.Request{Op: wire.OpSetxattr, Ino: root, Xname: "ceph.dir.rbytes", Xval: []byte("1")}, eOPNOTSUPP)
}

// Damage of back-pointers on disk is no reason to fall: a rename of a name that its inode does not
// list mends the list, and a first name that is nowhere is told of once, not looked for for ever.
func TestSumsBearWrongBackPointers(t *testing.T) {
	w := newWorld(t, 5)
	c := w.client()
	d := c.mkdir(root, "d")
	f := c.create(root, "f")
	c.must(&wire.Request{Op: wire.OpLink, Ino: d, Name: "g", Other: f})
	w.quiet()
	in := w.r.inodes[f]
	w.r.cfg.Check = false // this is damage
	good := in.rec.Backs
	in.rec.Backs = good[:1]
	c.must(&wire.Request{Op: wire.OpRename, Ino: d, Name: "g", NewDir: d, NewName: "h"})
	if len(in.rec.Backs) != 2 || in.rec.Backs[1] != (backRec{Dir: d, Name: "h"}) {
		t.Fatalf("%+v", in.rec.Backs)
	}
	for _, bad := range []backRec{{Dir: d, Name: "nobody"}, {Dir: 1<<40 + 12345, Name: "x"}} {
		in.rec.Backs = []backRec{bad}
		w.r.owes(in)
		w.until("given up", func() bool { return len(w.r.nest.owing)+len(w.r.nest.seek) == 0 })
		if in.owes || in.pins != 0 {
			t.Fatalf("owes %v, %d pins", in.owes, in.pins)
		}
	}
}

// Who owes is known to the next rank also when the journal has forgotten what made it owe: the
// head of the first segment lists it.
func TestSumsOwedSinceBeforeTheJournal(t *testing.T) {
	for seed := int64(1); seed <= 30; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { owedBefore(t, seed) })
	}
}

func owedBefore(t *testing.T, seed int64) {
	w := newWorld(t, seed)
	w.r.cfg.NestLagNs, w.cfg.NestLagNs = 5e9, 1e6
	c := w.client()
	s := newSums(w, c)
	deep := c.mkdir(c.mkdir(root, "a"), "b")
	busy := c.mkdir(root, "busy")
	c.create(deep, "f")
	w.quiet()
	at := w.r.jw.End()
	for i := 0; w.r.expire.oldest <= at; i++ {
		if i == 2000 {
			t.Fatal("the journal is not trimmed")
		}
		c.create(busy, fmt.Sprint("g", i))
		w.quiet()
	}
	if !w.r.inodes[deep].owes {
		t.Fatal("it was settled too early to show anything")
	}
	for _, ino := range sortedInos(c.caps) {
		c.drop(ino)
	}
	w.quiet()
	w.crash()
	w.fsck("after the crash")
	w.restart()
	s.settle() // nothing else reads that directory
	if rep := c.must(&wire.Request{Op: wire.OpGetvxattr, Ino: root, Xname: "ceph.dir.rfiles"}); string(rep.Value) != fmt.Sprint(1+len(c.list(busy))) {
		t.Errorf("the root counts %s files", rep.Value)
	}
	s.check("in the end")
}
