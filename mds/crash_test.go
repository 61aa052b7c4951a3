package mds

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// scramble sends random operations from several clients, several at a time.
func scramble(w *world, clients, ops int) []*client {
	var cs []*client
	for i := 0; i < clients; i++ {
		cs = append(cs, w.client())
	}
	dirs := []wire.Ino{root}
	for i := 0; i < 3; i++ {
		dirs = append(dirs, cs[0].mkdir(root, fmt.Sprintf("d%d", i)))
	}
	for i := 0; i < ops; i++ {
		c := cs[w.rng.Intn(len(cs))]
		c.ask(randomOp(w, dirs))
		for n := w.rng.Intn(12); n > 0; n-- {
			w.progress()
		}
	}
	w.settleAll(cs)
	return cs
}

func (w *world) settleAll(cs []*client) {
	w.until("all answered", func() bool {
		for _, c := range cs {
			for tid := wire.Tid(1); tid <= c.tid; tid++ {
				if c.replies[tid] == nil {
					return false
				}
			}
			for tid := wire.Tid(1); tid <= c.rtid; tid++ {
				if c.replies[tid|wire.ReadTid] == nil {
					return false
				}
			}
		}
		return true
	})
}

func randomOp(w *world, dirs []wire.Ino) *wire.Request {
	dir := func() wire.Ino { return dirs[w.rng.Intn(len(dirs))] }
	name := func() string { return fmt.Sprintf("n%d", w.rng.Intn(6)) }
	m := &wire.Request{Ino: dir(), Name: name(), Mode: 0o644, OpenFlags: oEXCL}
	switch w.rng.Intn(10) {
	case 0, 1, 2:
		m.Op = wire.OpCreate
	case 3:
		m.Op, m.Mode = wire.OpMkdir, 0o755
	case 4, 5:
		m.Op = wire.OpUnlink
	case 6:
		m.Op = wire.OpRmdir
	case 7, 8:
		m.Op, m.NewDir, m.NewName = wire.OpRename, dir(), name()
		if w.rng.Intn(4) == 0 {
			m.RenameFlags = wire.RenameExchange
		}
	case 9:
		m.Op = wire.OpLookup
	}
	return m
}

// tree draws everything that is under root, from the cache alone: all must be complete.
func (w *world) tree() string {
	var b strings.Builder
	var walk func(in *inode, path string)
	walk = func(in *inode, path string) {
		d := w.r.dirOf(in)
		if !d.complete {
			w.r.whenComplete(d, func() {})
			w.r.settle()
			w.collect()
			w.until("fetch", func() bool { return d.complete })
		}
		var names []string
		for n, dn := range d.names {
			if dn.kind != dnNull {
				names = append(names, n)
			}
		}
		sort.Strings(names)
		for _, n := range names {
			dn := d.names[n]
			x := dn.in
			if x == nil {
				x = w.r.inodes[dn.ino]
			}
			if x == nil {
				w.r.whenComplete(w.r.linksDir(dn.ino), func() {})
				w.r.settle()
				w.collect()
				w.until("links", func() bool { return w.r.linksDir(dn.ino).complete })
				x = w.r.inodes[dn.ino]
			}
			if x == nil {
				w.t.Fatalf("%s/%s leads to %v, which is nowhere", path, n, dn.ino)
			}
			fmt.Fprintf(&b, "%s/%s %v %o nlink=%d size=%d\n", path, n, x.ino(), x.rec.Mode, x.rec.Nlink, x.rec.Size)
			if x.isDir() {
				walk(x, path+"/"+n)
			}
		}
	}
	walk(w.r.root, "")
	return b.String()
}

// collect takes effects that were made outside of a step, by a test that reached into the rank.
func (w *world) collect() {
	w.ops = append(w.ops, w.r.eff.Objects...)
	w.r.eff.Objects = w.r.eff.Objects[:0]
}

// Whatever moment a rank dies at: every answered operation stays true, none runs twice, and
// the tree is the one the answers describe. One client works alone, so the model is simply
// the answers in order; its early answers must survive by being resent.
func TestCrashAtAnyMomentLosesNothingAnswered(t *testing.T) {
	for seed := int64(1); seed <= 200; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			c := w.client()
			m := newModel()
			d := []wire.Ino{root}
			var keep []wire.Ino
			for i := 0; i < 3; i++ {
				q := &wire.Request{Op: wire.OpMkdir, Ino: root, Name: fmt.Sprintf("d%d", i), Mode: 0o755}
				rep := c.must(q)
				c.made(q, rep)
				m.apply(q, rep)
				d = append(d, rep.Target.Ino)
			}
			for round := 0; round < 3; round++ {
				for i := w.rng.Intn(60); i > 0; i-- {
					q := randomOp(w, d)
					if files := m.files(); w.rng.Intn(6) == 0 && len(files) > 0 {
						f := files[w.rng.Intn(len(files))]
						q = &wire.Request{Op: wire.OpLink, Ino: q.Ino, Name: q.Name, Other: f}
						keep = append(keep, f)
					}
					rep := c.do(q)
					if rep.Target != nil && rep.Errno == 0 && (q.Op == wire.OpCreate || q.Op == wire.OpMkdir) {
						c.made(q, rep)
					}
					m.apply(q, rep)
					if w.rng.Intn(3) == 0 {
						c.dropSome(append(keep, d...))
					}
				}
				if w.rng.Intn(3) == 0 {
					w.quiet()
				}
				for _, ino := range sortedInos(c.caps) {
					c.names[ino] = m.where(ino)
				}
				w.crash()
				w.fsck("after the crash")
				w.restart()
				if got, want := w.tree(), m.tree(); got != want {
					t.Fatalf("round %d: after replay\n%s\nwant\n%s", round, got, want)
				}
			}
			w.quiet()
			w.fsck("at rest")
			if w.r.segs == nil || len(w.r.segs) > w.cfg.MaxSegments+2 {
				t.Errorf("%d segments are kept", len(w.r.segs))
			}
		})
	}
}

// dropSome releases caps, but not of directories that unsafe requests name: a client keeps those.
func (c *client) dropSome(but []wire.Ino) {
	var inos []wire.Ino
	for ino := range c.caps {
		inos = append(inos, ino)
	}
	sort.Slice(inos, func(i, j int) bool { return inos[i] < inos[j] })
	for _, ino := range inos {
		if ino >= wire.FirstFreeIno && !slices.Contains(but, ino) && c.w.rng.Intn(2) == 0 {
			c.drop(ino)
		}
	}
}

// model is a file system of maps.
type model struct {
	kids map[wire.Ino]map[string]wire.Ino
	mode map[wire.Ino]uint32
}

func newModel() *model {
	return &model{kids: map[wire.Ino]map[string]wire.Ino{root: {}}, mode: map[wire.Ino]uint32{root: modeDir}}
}

// apply checks an answer against the model and follows it.
func (m *model) apply(q *wire.Request, rep *wire.Reply) {
	bad := func(what string) {
		panic(fmt.Sprintf("%v %v/%q -> %v/%q flags %d answered %d: %s\n%s", q.Op, q.Ino, q.Name, q.NewDir, q.NewName, q.RenameFlags, rep.Errno, what, m.tree()))
	}
	dir, alive := m.kids[q.Ino]
	if !alive {
		if rep.Errno == 0 {
			bad("the directory is gone")
		}
		return
	}
	ino, there := dir[q.Name]
	switch q.Op {
	case wire.OpLookup:
		if there != (rep.Errno == 0) || there && rep.Target.Ino != ino {
			bad("wrong binding")
		}
	case wire.OpCreate, wire.OpMkdir:
		if there != (rep.Errno == uint32(eEXIST)) {
			bad("exists?")
		}
		if rep.Errno == 0 {
			n := rep.Target.Ino
			dir[q.Name] = n
			m.mode[n] = rep.Target.Attr.Mode
			if q.Op == wire.OpMkdir {
				m.kids[n] = map[string]wire.Ino{}
			}
		}
	case wire.OpUnlink, wire.OpRmdir:
		if rep.Errno == 0 {
			if !there || (m.kids[ino] != nil) != (q.Op == wire.OpRmdir) || len(m.kids[ino]) > 0 {
				bad("should have failed")
			}
			delete(dir, q.Name)
			delete(m.kids, ino)
		} else if there && (m.kids[ino] != nil) == (q.Op == wire.OpRmdir) && len(m.kids[ino]) == 0 {
			bad("should have worked")
		}
	case wire.OpLink:
		if rep.Errno == 0 {
			if there {
				bad("linked over a name")
			}
			dir[q.Name] = q.Other
		} else if rep.Errno != uint32(eSTALE) && !there {
			bad("should have worked")
		}
	case wire.OpRename:
		if rep.Errno != 0 {
			return
		}
		to, alive := m.kids[q.NewDir]
		if !there || !alive {
			bad("should have failed")
		}
		old, over := to[q.NewName]
		if old == ino && over {
			return
		}
		if q.RenameFlags == wire.RenameExchange {
			if !over {
				bad("nothing to exchange")
			}
			dir[q.Name], to[q.NewName] = old, ino
			return
		}
		if over {
			if len(m.kids[old]) > 0 || (m.kids[old] != nil) != (m.kids[ino] != nil) {
				bad("replaced what it must not")
			}
			delete(m.kids, old)
		}
		delete(dir, q.Name)
		to[q.NewName] = ino
	}
}

// files lists every file that has a name.
func (m *model) files() []wire.Ino {
	seen := map[wire.Ino]*wire.Cap{}
	for _, kids := range m.kids {
		for _, i := range kids {
			if m.kids[i] == nil {
				seen[i] = nil
			}
		}
	}
	return sortedInos(seen)
}

func (m *model) links(ino wire.Ino) int {
	n := 0
	for _, kids := range m.kids {
		for _, i := range kids {
			if i == ino {
				n++
			}
		}
	}
	return n
}

func (m *model) where(ino wire.Ino) hint {
	for d, kids := range m.kids {
		for n, i := range kids {
			if i == ino {
				return hint{d, n}
			}
		}
	}
	return hint{}
}

func (m *model) tree() string {
	var b strings.Builder
	var walk func(ino wire.Ino, path string)
	walk = func(ino wire.Ino, path string) {
		var names []string
		for n := range m.kids[ino] {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			i := m.kids[ino][n]
			fmt.Fprintf(&b, "%s/%s %v %o nlink=%d size=0\n", path, n, i, m.mode[i], m.links(i))
			walk(i, path+"/"+n)
		}
	}
	walk(root, "")
	return b.String()
}

// T9: the client was told of its file, nobody else was; rank and journal tail are lost. The
// resent create gives the same file with the same number.
func TestEarlyCreateOutlivesTheRank(t *testing.T) {
	for seed := int64(1); seed <= 30; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		w.quiet()
		w.hold = true
		f := c.create(root, "f")
		tid := c.tid
		w.hold = false
		w.crash()
		w.restart()
		if got := c.lookup(root, "f"); got != f {
			t.Fatalf("seed %d: f is %v, was %v", seed, got, f)
		}
		g := c.create(root, "g")
		if g == f {
			t.Fatal("a number was given twice")
		}
		_ = tid
	}
}

// Client and rank die together: the file was never there, and its number is burned.
func TestEarlyCreateDiesWithClientAndRank(t *testing.T) {
	for seed := int64(1); seed <= 30; seed++ {
		w := newWorld(t, seed)
		a, b := w.client(), w.client()
		w.quiet()
		w.hold = true
		f := a.create(root, "f")
		look := b.ask(&wire.Request{Op: wire.OpLookup, Ino: root, Name: "f"})
		w.quiet()
		if b.replies[look] != nil {
			t.Fatal("B saw a file that a crash takes back")
		}
		w.writes = nil // the disk never saw it
		w.crash()
		a.gone, w.hold = true, false
		w.restart()
		if got := b.lookup(root, "f"); got != 0 {
			t.Fatalf("f exists: %v", got)
		}
		if g := b.create(root, "g"); g <= f {
			t.Fatalf("number %v after %v was shown", g, f)
		}
	}
}

// A journaled request that is resent is answered from the record and does not run again.
func TestResentRequestDoesNotRunTwice(t *testing.T) {
	for seed := int64(1); seed <= 20; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		c.create(root, "a")
		w.quiet()
		// The rename is durable; its answer, say, got lost with the connection.
		q := &wire.Request{Op: wire.OpRename, Ino: root, Name: "a", NewDir: root, NewName: "b"}
		c.must(q)
		w.quiet()
		delete(c.early, q.Tid)
		c.unsafe = append(c.unsafe, q)
		w.crash()
		w.restart()
		delete(c.replies, q.Tid)
		if rep := c.wait2(q.Tid); rep.Errno != 0 {
			t.Fatalf("resent rename: errno %d", rep.Errno)
		}
	}
}

func (c *client) wait2(tid wire.Tid) *wire.Reply {
	for _, q := range c.unsafe {
		if q.Tid == tid {
			dup := *q
			dup.Flags |= wire.ReqRetry
			c.post(tid, &dup)
		}
	}
	return c.wait(tid)
}

// The journal stays short: directories are flushed, segments go, and what was flushed is
// found again by a rank that starts from there.
func TestJournalIsTrimmedAndDirectoriesRead(t *testing.T) {
	w := newWorld(t, 9)
	c := w.client()
	d := c.mkdir(root, "d")
	for i := 0; i < 300; i++ {
		c.create(d, fmt.Sprintf("f%d", i))
	}
	c.must(&wire.Request{Op: wire.OpLink, Ino: root, Name: "hard", Other: c.lookup(d, "f7")})
	w.quiet()
	if n := len(w.r.segs); n > w.cfg.MaxSegments+1 {
		t.Fatalf("%d segments", n)
	}
	if w.r.segs[0].at.Pos == 0 {
		t.Fatal("nothing was trimmed")
	}
	want := w.tree()
	for i := 0; i < 3; i++ {
		c.names[d] = hint{root, "d"}
		for _, ino := range sortedInos(c.caps) {
			if ino >= wire.FirstFreeIno && ino != d {
				delete(c.caps, ino)
			}
		}
		w.crash()
		w.restart()
		if got := w.tree(); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
	if got := len(c.list(d)); got != 300 {
		t.Fatalf("%d names", got)
	}
}

func sortedInos(m map[wire.Ino]*wire.Cap) []wire.Ino {
	var out []wire.Ino
	for i := range m {
		out = append(out, i)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

// The cache keeps to its bound, and what it dropped comes back from the objects.
func TestCacheIsTrimmed(t *testing.T) {
	w := newWorld(t, 11)
	w.cfg.CacheBytes = 200 << 10
	w.crash()
	w.restart()
	c := w.client()
	var dirs []wire.Ino
	for i := 0; i < 10; i++ {
		d := c.mkdir(root, fmt.Sprintf("d%d", i))
		dirs = append(dirs, d)
		for j := 0; j < 20; j++ {
			c.drop(c.create(d, fmt.Sprintf("f%d", j)))
		}
	}
	w.quiet()
	w.r.flushAll()
	w.collect()
	for i := 0; i < 500; i++ {
		w.quiet()
		w.step(Event{Kind: Tick})
	}
	if m := w.r.Memory(); m.Used > m.Budget || w.r.counts.Trimmed == 0 {
		t.Fatalf("%+v", m)
	}
	for _, d := range dirs {
		if got := len(c.list(d)); got != 20 {
			t.Fatalf("%d names", got)
		}
	}
}

// A clean stop leaves one segment and nothing to replay but its head.
func TestStopLeavesNothingToReplay(t *testing.T) {
	for seed := int64(1); seed <= 10; seed++ {
		w := newWorld(t, seed)
		c := w.client()
		d := c.mkdir(root, "d")
		for i := 0; i < 40; i++ {
			c.create(d, fmt.Sprintf("f%d", i))
		}
		c.must(&wire.Request{Op: wire.OpSetattr, Ino: d, Set: wire.SetMtime, Attr: wire.SetAttr{Mtime: wire.Time{Sec: 42}}})
		e := c.mkdir(d, "empty")
		born := c.stat(e)
		w.quiet()
		want := w.tree()
		w.step(Event{Kind: Stop})
		w.until("stopped", func() bool { return w.r.State() == stateStopped })
		w.crash()
		c.gone = true
		w.restart()
		if n := len(w.r.replayedDirs()); n != 0 {
			t.Fatalf("%d directories were dirty after replay", n)
		}
		b := w.client()
		// A cold stat of a directory reads its header, not its entries.
		if got := b.lookup(root, "d"); got != d {
			t.Fatalf("d is %v", got)
		}
		if a := b.stat(d); a.Size != 41 || a.Nlink != 3 || w.r.inodes[d].dir.complete {
			t.Fatalf("cold stat: %+v", a)
		}
		b.lookup(d, "empty")
		if a := b.stat(e); a.Mtime != born.Mtime || a.Size != 0 {
			t.Fatalf("cold stat of an empty directory: %+v, was %+v", a, born)
		}
		if got := w.tree(); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		// Stopped again with nothing dirty: no flush will end, and still it stops.
		w.quiet()
		w.step(Event{Kind: Stop})
		w.until("stopped again", func() bool { return w.r.State() == stateStopped })
	}
}

// replayedDirs are dirty directories other than what the start itself touched.
func (r *Rank) replayedDirs() (out []*dir) {
	for _, d := range r.dirtyDirs {
		if !d.in.isSystem() {
			out = append(out, d)
		}
	}
	return out
}

// A directory larger than the cache goes on knowing its names: creating one more reads
// nothing, and a file that was dropped comes back with one small read.
func TestDirectoryLargerThanTheCache(t *testing.T) {
	w := newWorld(t, 12)
	w.cfg.CacheBytes = 220 << 10
	w.crash()
	w.restart()
	c := w.client()
	first := c.create(root, "f0")
	c.must(&wire.Request{Op: wire.OpSetattr, Ino: first, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
	c.must(&wire.Request{Op: wire.OpLink, Ino: root, Name: "hard", Other: first})
	c.drop(first)
	for i := 1; i < 600; i++ {
		c.drop(c.create(root, fmt.Sprintf("f%d", i)))
	}
	w.quiet()
	fetches := w.r.counts.Fetches
	if n := len(w.r.inodes); n > 400 || w.r.inodes[first] != nil {
		t.Fatalf("%d inodes are cached", n)
	}
	c.create(root, "one-more")
	c.fails(&wire.Request{Op: wire.OpCreate, Ino: root, Name: "f3", OpenFlags: oEXCL}, eEXIST)
	for _, name := range []string{"f0", "hard"} {
		if got := c.lookup(root, name); got != first {
			t.Fatalf("%s is %v", name, got)
		}
	}
	if a := c.stat(first); a.Mode != modeReg|0o600 || a.Nlink != 2 {
		t.Fatalf("%+v", a)
	}
	c.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "f5"})
	c.must(&wire.Request{Op: wire.OpRename, Ino: root, Name: "f6", NewDir: root, NewName: "f7"})
	if got := len(c.list(root)); got != 600 {
		t.Fatalf("%d names", got)
	}
	if w.r.counts.Fetches != fetches {
		t.Fatal("the directory was read again")
	}
	w.crash()
	w.restart()
	if got := len(c.list(root)); got != 600 {
		t.Fatalf("%d names after a restart", got)
	}
}
