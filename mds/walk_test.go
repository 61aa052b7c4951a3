package mds

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// walker is a client that keeps every cap it gets until it is asked to trim.
type walker struct {
	*benchRank
	caps    map[wire.Ino]wire.ReleasedCap
	order   []wire.Ino // oldest first
	deaf    bool       // it gives nothing back
	top     int64      // the most that the cache took
	renewed int64
}

func newWalker(t *testing.T, budget int64) *walker {
	w := &walker{benchRank: newBench(t), caps: map[wire.Ino]wire.ReleasedCap{}}
	w.r.cfg.CacheBytes, w.r.cfg.SegmentBytes, w.r.cfg.MaxSegments = budget, 256<<10, 4
	w.onMsg = w.hear
	return w
}

func (w *walker) hold(st *wire.InodeStat) {
	if st == nil || st.Cap == nil {
		return
	}
	if _, has := w.caps[st.Ino]; !has {
		w.order = append(w.order, st.Ino)
	}
	w.caps[st.Ino] = wire.ReleasedCap{Ino: st.Ino, CapID: st.Cap.ID, Mseq: st.Cap.Mseq, IssueSeq: st.Cap.Seq}
}

func (w *walker) hear(m wire.Message) {
	w.top = max(w.top, w.r.mem.used)
	switch m := m.(type) {
	case *wire.Reply:
		w.hold(m.Target)
		w.hold(m.Dir)
		for i := range m.Entries {
			w.hold(m.Entries[i].Stat)
		}
	case *wire.CapGrant:
		w.hold(&m.Stat)
	case *wire.Recall:
		if !w.deaf {
			w.trim(int(m.Max))
		}
	}
}

// trim gives back the oldest caps until keep are left, in batches.
func (w *walker) trim(keep int) {
	var rel []wire.ReleasedCap
	for len(w.caps) > keep && len(w.order) > 0 {
		ino := w.order[0]
		w.order = w.order[1:]
		if ino == wire.RootIno {
			w.order = append(w.order, ino)
			continue
		}
		rel = append(rel, w.caps[ino])
		delete(w.caps, ino)
		if len(rel) == 1000 {
			w.later(&wire.CapRelease{Caps: rel})
			rel = nil
		}
	}
	if len(rel) > 0 {
		w.later(&wire.CapRelease{Caps: rel})
	}
}

// later sends a message after the step that runs.
func (w *walker) later(m wire.Message) {
	w.after = append(w.after, func() { w.step(Event{Kind: FromSession, Session: w.key, Msg: m}) })
}

func (w *walker) list(d wire.Ino) (names int) {
	for cookie := uint64(0); ; {
		rep := w.ask(&wire.Request{Op: wire.OpReaddir, Ino: d, Cookie: cookie})
		names += len(rep.Entries)
		if rep.End {
			return names
		}
		cookie = rep.Entries[len(rep.Entries)-1].Cookie
	}
}

// ask is do for what may have to wait for room.
func (w *walker) ask(m *wire.Request) *wire.Reply {
	if w.now > w.renewed+1e9 {
		w.renewed = w.now
		w.step(Event{Kind: FromSession, Session: w.key, Msg: &wire.Renew{Seq: uint64(w.now)}})
	}
	w.last = nil
	w.tid++
	tid := w.tid
	if !m.Op.Mutates() {
		tid |= uint64(wire.ReadTid)
	}
	m.Oldest = w.safe + 1
	w.step(Event{Kind: FromSession, Session: w.key, Tid: tid, Msg: m})
	for n := 0; w.last == nil; n++ {
		if n > 1000 {
			w.b.Fatalf("%v is not answered: %+v", m.Op, w.r.Why())
		}
		w.now += 10e6
		w.step(Event{Kind: Tick})
	}
	if w.last.Errno != 0 {
		w.b.Fatalf("%v %q: errno %d", m.Op, m.Name, w.last.Errno)
	}
	w.top = max(w.top, w.r.mem.used)
	return w.last
}

// tree makes dirs directories of files files each.
func (w *walker) tree(dirs, files int) {
	for i := range dirs {
		d := w.ask(&wire.Request{Op: wire.OpMkdir, Ino: wire.RootIno, Name: fmt.Sprintf("d%d", i), Mode: 0o755}).Target.Ino
		for j := range files {
			w.ask(&wire.Request{Op: wire.OpCreate, Ino: d, Name: fmt.Sprintf("file-%d", j), Mode: 0o644, OpenFlags: oEXCL})
		}
	}
}

func (w *walker) walk(dirs, files int) {
	for i := range dirs {
		d := w.ask(&wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: fmt.Sprintf("d%d", i)}).Target.Ino
		if n := w.list(d); n != files {
			w.b.Fatalf("d%d has %d names", i, n)
		}
	}
}

func (w *walker) within(t *testing.T, what string) {
	t.Helper()
	budget := w.r.cfg.CacheBytes
	t.Logf("%s: most %d %% of the budget, %d waited for room, %d trimmed, %d caps now", what, w.top*100/budget, w.r.counts.Crowded, w.r.counts.Trimmed, w.r.mem.caps)
	if w.top > budget*11/10 {
		t.Errorf("%s: the cache took %d bytes, %d %% of its budget", what, w.top, w.top*100/budget)
	}
	w.top = 0
}

// The cache stays within a tenth of its budget while a client makes and walks a tree ten
// times as large and keeps all that it is shown until it is asked to trim.
func TestBudgetHoldsWhileATreeIsWalked(t *testing.T) {
	const dirs, files = 150, 200 // 30 000 files, some 30 MB
	w := newWalker(t, 3<<20)
	w.tree(dirs, files)
	w.within(t, "create")
	w.walk(dirs, files)
	w.within(t, "walk")
	if w.r.mem.caps > int(w.r.cfg.CacheBytes/capBytes()) || w.r.counts.Trimmed < dirs*files {
		t.Errorf("%+v", w.r.Memory())
	}
}

// One directory larger than the cache: its names stay together (one fragment), its inodes
// come and go a window at a time.
func TestWalkOfADirectoryLargerThanTheCache(t *testing.T) {
	w := newWalker(t, 6<<20)
	w.tree(1, 12_000) // 12 MB of inodes, 3 MB of names
	w.within(t, "create")
	w.walk(1, 12_000)
	w.within(t, "walk")
}

// A client that gives nothing back slows itself down and nobody dies of it: what would bring
// more in waits, a second at most, and the session is named in the log.
func TestWalkerThatIgnoresRecall(t *testing.T) {
	w := newWalker(t, 1<<20)
	w.deaf = true
	w.r.cfg.LogLevel = LogWarn
	w.tree(1, 1500)
	start := w.now
	w.tree2("e", 100)
	if w.r.counts.Crowded == 0 || w.now-start < 50*admitWait {
		t.Errorf("%d requests waited, %d ms for 100 creates", w.r.counts.Crowded, (w.now-start)/1e6)
	}
	if !w.warned {
		t.Error("nobody is told")
	}
}

func (w *walker) tree2(prefix string, n int) {
	for j := range n {
		w.ask(&wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: fmt.Sprint(prefix, j), Mode: 0o644, OpenFlags: oEXCL})
	}
}
