package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/fsck/walk"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/mds"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/wire"
)

// patient is a cluster in this process whose objects a test damages.
type patient struct {
	*testing.T
	l   *Local
	s   *objectStore
	p   fsck.Params
	ino map[string]wire.Ino
}

// newPatient makes a tree through a client: /d/f and /d/sub/g with data, /hard and /d/hard of one
// inode, and a stray's worth of removed names; then the metadata daemon stops.
func newPatient(t *testing.T) *patient {
	c := conf.Default()
	c.OSDs, c.PGNumMeta, c.PGNumData, c.OSDSize = 1, 4, 4, 256<<20
	l, err := OpenLocal(filepath.Join(t.TempDir(), "c"), c)
	if err != nil {
		t.Fatal(err)
	}
	pt := &patient{T: t, l: l, ino: map[string]wire.Ino{}}
	t.Cleanup(func() {
		if _, err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	cl, mons, err := l.Env.dialClient(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer mons.Close()
	pt.tree(cl)
	pt.online("after a few operations") // the rank runs, the client's session is open
	if err := cl.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mdsd := l.daemons[len(l.daemons)-1]
	if err := mdsd.Close(); err != nil {
		t.Fatal(err)
	}
	l.daemons = l.daemons[:len(l.daemons)-1]
	self := instance(wire.KindTool, 0)
	m, err := l.Env.dialMons(t.Context(), self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	peer := msgr.Peer{Instance: self, Cluster: m.OSDMap().Cluster}
	pt.s = &objectStore{env: l.Env, mon: m, peer: peer, obj: objecter.New(objecter.Config{Net: l.Env.Net, Maps: m, Self: peer, Log: l.Env.Log})}
	t.Cleanup(pt.s.obj.Close)
	pt.p = fsck.Params{MetaPool: m.FSMap().MetaPool, DataPool: m.FSMap().DataPool, InoRanges: m.FSMap().Ranks[0].InoRanges, Now: wire.TimeOf(time.Now())}
	return pt
}

func (pt *patient) tree(cl *client.Client) {
	k := &client.Caller{}
	must := func(err error) {
		if err != nil {
			pt.Helper()
			pt.Fatal(err)
		}
	}
	dir := func(in wire.Ino, name string) wire.Ino {
		e, err := cl.Mknod(k, in, name, client.Make{Mode: 0o040755})
		must(err)
		pt.ino[name] = e.Ino
		return e.Ino
	}
	file := func(in wire.Ino, name string) wire.Ino {
		e, f, err := cl.Create(k, in, name, 0o644, 0, 2)
		must(err)
		_, err = cl.Write(k, f, []byte("data of "+name), 0, client.WriteFlags{})
		must(err)
		must(cl.Fsync(k, f))
		cl.Release(f)
		pt.ino[name] = e.Ino
		return e.Ino
	}
	d := dir(wire.RootIno, "d")
	sub := dir(d, "sub")
	file(d, "f")
	file(sub, "g")
	h := file(wire.RootIno, "hard")
	_, err := cl.Link(k, h, d, "hard2")
	must(err)
	file(d, "gone")
	must(cl.Unlink(k, d, "gone"))
	must(cl.Sync(pt.Context()))
}

// online checks beside the running rank.
func (pt *patient) online(when string) {
	pt.Helper()
	rep, _, err := pt.l.Env.Fsck(pt.Context(), FsckOptions{})
	if err != nil {
		pt.Fatal(err)
	}
	if !rep.Live || len(rep.Findings) > 0 {
		pt.Errorf("%s: online %v, found %s", when, rep.Live, texts(rep))
	}
	if _, _, err := pt.l.Env.Fsck(pt.Context(), FsckOptions{Repair: true}); err == nil || !strings.Contains(err.Error(), "stop the metadata daemons") {
		pt.Errorf("a repair beside a running rank: %v", err)
	}
}

func texts(rep *walk.Report) string {
	var out []string
	for i := range rep.Findings {
		out = append(out, rep.Findings[i].Text())
	}
	return strings.Join(out, "\n")
}

func (pt *patient) check() *walk.Report {
	pt.Helper()
	rep, err := walk.Check(pt.Context(), pt.s, pt.p, nil)
	if err != nil {
		pt.Fatal(err)
	}
	return rep
}

func (pt *patient) do(obj wire.ObjectID, ops ...wire.ObjOp) []wire.ObjResult {
	pt.Helper()
	for i := range ops {
		ops[i].DataLen = uint32(len(ops[i].Data))
	}
	e, res, err := pt.s.Do(pt.Context(), obj, ops)
	if err != nil || e != 0 {
		pt.Fatalf("%v: errno %d, %v", obj, e, err)
	}
	return res
}

func (pt *patient) dirObject(ino wire.Ino) wire.ObjectID {
	return wire.ObjectID{Pool: pt.p.MetaPool, Name: mds.DirObjectName(ino)}
}

func (pt *patient) put(dir wire.Ino, name string, val []byte) {
	pt.do(pt.dirObject(dir), wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: mds.DentryKey(name), Val: val}}})
}

func (pt *patient) remove(dir wire.Ino, name string) {
	pt.do(pt.dirObject(dir), wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: []string{mds.DentryKey(name)}})
}

func (pt *patient) get(dir wire.Ino, name string) mds.DentryRecord {
	pt.Helper()
	res := pt.do(pt.dirObject(dir), wire.ObjOp{Kind: wire.ObjOmapGet, Keys: []string{mds.DentryKey(name)}})
	if len(res[0].Pairs) != 1 {
		pt.Fatalf("%v has no %q", dir, name)
	}
	rec, err := mds.DecodeDentry(res[0].Pairs[0].Val)
	if err != nil {
		pt.Fatal(err)
	}
	return rec
}

func (pt *patient) change(dir wire.Ino, name string, f func(*mds.DentryRecord)) {
	pt.Helper()
	rec := pt.get(dir, name)
	f(&rec)
	pt.put(dir, name, mds.EncodeRecord(&rec))
}

func (pt *patient) header(dir wire.Ino, f func(*mds.HeaderRecord)) {
	pt.Helper()
	res := pt.do(pt.dirObject(dir), wire.ObjOp{Kind: wire.ObjGetXattrs})
	h, err := mds.DecodeHeader(res[0].Pairs)
	if err != nil {
		pt.Fatal(err)
	}
	f(&h)
	pt.do(pt.dirObject(dir), wire.ObjOp{Kind: wire.ObjSetXattr, Key: mds.HeaderXattr, Data: mds.EncodeRecord(&h)})
}

func (pt *patient) data(ino wire.Ino, block uint64, bytes string, off uint64) {
	pt.do(wire.DataObject(pt.p.DataPool, ino, block), wire.ObjOp{Kind: wire.ObjWrite, Off: off, Data: []byte(bytes)})
}

func (pt *patient) index(ino wire.Ino) wire.ObjectID {
	return wire.ObjectID{Pool: pt.p.MetaPool, Name: mds.IndexObjectName(ino)}
}

// object is what one holds.
type object struct {
	data []byte
	x    []wire.KV
	omap []wire.KV
}

// image is every object but the journal's.
func (pt *patient) image() map[wire.ObjectID]object {
	out := map[wire.ObjectID]object{}
	for _, pool := range []uint32{pt.p.MetaPool, pt.p.DataPool} {
		var names []string
		err := pt.s.List(pt.Context(), pool, func(objs []wire.PGObject, _, _ int) {
			for _, o := range objs {
				names = append(names, o.Name)
			}
		})
		if err != nil {
			pt.Fatal(err)
		}
		for _, n := range names {
			if kind, _, _ := mds.MetaObject(n); kind == mds.MetaJournal || kind == mds.MetaJournalHead {
				continue
			}
			id := wire.ObjectID{Pool: pool, Name: n}
			res := pt.do(id, wire.ObjOp{Kind: wire.ObjRead, Len: 8 << 20}, wire.ObjOp{Kind: wire.ObjGetXattrs}, wire.ObjOp{Kind: wire.ObjOmapRange, Max: 1000})
			out[id] = object{res[0].Data, res[1].Pairs, res[2].Pairs}
		}
	}
	return out
}

func (o object) String() string { return fmt.Sprintf("%x %x %x", o.data, o.x, o.omap) }

// differ lists the objects that two images have otherwise.
func differ(a, b map[wire.ObjectID]object) (out []wire.ObjectID) {
	for id, o := range a {
		if p, ok := b[id]; !ok || p.String() != o.String() {
			out = append(out, id)
		}
	}
	for id := range b {
		if _, ok := a[id]; !ok {
			out = append(out, id)
		}
	}
	return out
}

func (pt *patient) same(what string, want map[wire.ObjectID]object) {
	pt.Helper()
	got := pt.image()
	for _, id := range differ(want, got) {
		pt.Errorf("%s: object %v is\n%.300s, was\n%.300s", what, id, got[id], want[id])
	}
}

// restore makes the objects what they were in an image.
func (pt *patient) restore(want map[wire.ObjectID]object) {
	got := pt.image()
	for _, id := range differ(want, got) {
		if _, ok := got[id]; ok {
			pt.do(id, wire.ObjOp{Kind: wire.ObjRemove})
		}
		o, ok := want[id]
		if !ok {
			continue
		}
		ops := []wire.ObjOp{{Kind: wire.ObjWriteFull, Data: o.data}}
		for _, kv := range o.x {
			ops = append(ops, wire.ObjOp{Kind: wire.ObjSetXattr, Key: kv.Key, Data: kv.Val})
		}
		if len(o.omap) > 0 {
			ops = append(ops, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: o.omap})
		}
		pt.do(id, ops...)
	}
}

func (pt *patient) undo(path string) {
	pt.Helper()
	f, err := os.Open(path)
	if err != nil {
		pt.Fatal(err)
	}
	defer f.Close()
	if _, err := walk.Undo(pt.Context(), pt.s, pt.p, pt.s.peer.Cluster.String(), f); err != nil {
		pt.Fatal(err)
	}
}

// damages is one of each kind that fsck repairs, done to the objects behind everybody's back.
var damages = []struct {
	code fsck.Code
	do   func(pt *patient)
}{
	{fsck.DentryUnreadable, func(pt *patient) { pt.put(pt.ino["d"], "f", []byte{1, 2, 3}) }},
	{fsck.HeaderUnreadable, func(pt *patient) {
		pt.do(pt.dirObject(pt.ino["d"]), wire.ObjOp{Kind: wire.ObjSetXattr, Key: mds.HeaderXattr, Data: []byte{9}})
	}},
	{fsck.HeaderUnreadable, func(pt *patient) {
		pt.do(pt.dirObject(pt.ino["d"]), wire.ObjOp{Kind: wire.ObjRmXattr, Key: mds.HeaderXattr})
	}},
	{fsck.SystemMissing, func(pt *patient) { pt.remove(mds.BaseIno, mds.RootName) }},
	{fsck.InodeTwice, func(pt *patient) {
		rec := pt.get(pt.ino["d"], "f")
		rec.Hash = mds.HashName("twin")
		pt.put(wire.RootIno, "twin", mds.EncodeRecord(&rec))
	}},
	{fsck.NameDangling, func(pt *patient) {
		pt.change(pt.ino["d"], "hard2", func(r *mds.DentryRecord) { r.Ino += 1000 })
	}},
	{fsck.HomeMisplaced, func(pt *patient) {
		links := wire.LinksDir(0, mds.ShardOf(pt.ino["hard"]))
		rec := pt.get(links, mds.StrayName(pt.ino["hard"]))
		pt.remove(links, mds.StrayName(pt.ino["hard"]))
		rec.Hash = mds.HashName("astray")
		pt.put(links, "astray", mds.EncodeRecord(&rec))
	}},
	{fsck.InodeUnnamed, func(pt *patient) {
		pt.remove(wire.RootIno, "hard")
		pt.remove(pt.ino["d"], "hard2")
	}},
	{fsck.DirLoop, func(pt *patient) { // /d moves below its own child
		rec := pt.get(wire.RootIno, "d")
		pt.remove(wire.RootIno, "d")
		pt.put(pt.ino["sub"], "d", mds.EncodeRecord(&rec))
	}},
	{fsck.DirOrphan, func(pt *patient) { pt.remove(pt.ino["d"], "sub") }},
	{fsck.DirMissing, func(pt *patient) { pt.do(pt.dirObject(pt.ino["sub"]), wire.ObjOp{Kind: wire.ObjRemove}) }},
	{fsck.LinkCount, func(pt *patient) { pt.change(pt.ino["d"], "f", func(r *mds.DentryRecord) { r.Inode.Nlink = 3 }) }},
	{fsck.BackPointers, func(pt *patient) {
		pt.change(wire.LinksDir(0, mds.ShardOf(pt.ino["hard"])), mds.StrayName(pt.ino["hard"]), func(r *mds.DentryRecord) { r.Inode.Backs = r.Inode.Backs[:1] })
	}},
	{fsck.TypeWrong, func(pt *patient) { pt.change(pt.ino["d"], "f", func(r *mds.DentryRecord) { r.Type = 0o120000 }) }},
	{fsck.CookieTwice, func(pt *patient) {
		h := pt.get(pt.ino["d"], "sub").Hash
		pt.change(pt.ino["d"], "f", func(r *mds.DentryRecord) { r.Hash = h })
	}},
	{fsck.DirVersion, func(pt *patient) { pt.header(pt.ino["d"], func(h *mds.HeaderRecord) { h.Version = 1 }) }},
	{fsck.DirCounts, func(pt *patient) { pt.header(pt.ino["d"], func(h *mds.HeaderRecord) { h.Entries++; h.Subdirs-- }) }},
	{fsck.RstatSums, func(pt *patient) {
		pt.header(pt.ino["sub"], func(h *mds.HeaderRecord) { h.RBytes += 1000; h.RFiles-- })
	}},
	{fsck.RstatStale, func(pt *patient) { // header and name of the directory above agree with each other
		pt.header(pt.ino["d"], func(h *mds.HeaderRecord) { h.RBytes += 7 })
		pt.change(pt.ino["d"], "sub", func(r *mds.DentryRecord) { r.Inode.Nest.RBytes += 7 })
	}},
	{fsck.RstatCharge, func(pt *patient) { // counted at both names
		pt.change(pt.ino["d"], "hard2", func(r *mds.DentryRecord) { r.Charge = &mds.ChargeRecord{Bytes: 12} })
	}},
	{fsck.RstatCharge, func(pt *patient) { // counted nowhere
		pt.change(wire.RootIno, "hard", func(r *mds.DentryRecord) { r.Charge = nil })
	}},
	{fsck.DataOrphan, func(pt *patient) { pt.data(pt.ino["g"]+5, 2, "nobody's", 100) }},
	{fsck.DataBeyond, func(pt *patient) { pt.data(pt.ino["f"], 7, "beyond", 0) }},
	{fsck.DataBeyond, func(pt *patient) { pt.data(pt.ino["f"], 0, "behind the end", 5000) }},
	{fsck.CutForgotten, func(pt *patient) {
		pt.data(pt.ino["f"], 1, "to be cut", 0)
		pt.change(pt.ino["d"], "f", func(r *mds.DentryRecord) { r.Inode.CutFrom = 8 << 20 })
	}},
	{fsck.IndexWrong, func(pt *patient) {
		pt.do(pt.index(pt.ino["f"]), wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: []string{mds.IndexKey(pt.ino["f"])}})
	}},
	{fsck.IndexStale, func(pt *patient) {
		ino := pt.ino["f"] + 900
		pt.do(pt.index(ino), wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: mds.IndexKey(ino), Val: mds.EncodeRecord(&mds.IndexRecord{Dir: 1, Name: "x"})}}})
	}},
	{fsck.InoAboveTable, func(pt *patient) {
		rec := pt.get(pt.ino["d"], "f")
		rec.Ino += 1 << 20
		rec.Inode.Ino, rec.Inode.Size, rec.Hash = rec.Ino, 0, mds.HashName("high")
		pt.put(wire.RootIno, "high", mds.EncodeRecord(&rec))
	}},
}

func (pt *patient) repair(undo string, crash func(int) bool) (*walk.Report, error) {
	return walk.Repair(pt.Context(), pt.s, pt.p, walk.RepairOptions{Cluster: pt.s.peer.Cluster.String(), UndoPath: undo,
		Allowed: func() error { return nil }, Crash: crash})
}

// Each kind of damage is found by its code and repaired, also when the repair is cut short
// before any of its first changes; the check after it finds nothing; undo brings every byte back.
func TestFsckFindsRepairsAndUndoes(t *testing.T) {
	pt := newPatient(t)
	if rep := pt.check(); len(rep.Findings) > 0 {
		t.Fatalf("a sound tree:\n%s", texts(rep))
	}
	covered := map[fsck.Code]bool{}
	for i, x := range damages {
		covered[x.code] = true
		t.Run(fmt.Sprintf("%d-%s", i, x.code), func(t *testing.T) {
			pt := &patient{T: t, l: pt.l, s: pt.s, p: pt.p, ino: pt.ino}
			sound := pt.image()
			x.do(pt)
			hurt := pt.image()
			if rep := pt.check(); rep.Exit() != walk.ExitLeft || !strings.Contains(texts(rep), string(x.code)+" ") {
				t.Fatalf("exit %d, found:\n%s", rep.Exit(), texts(rep))
			}
			dir := t.TempDir()
			var logs []string
			log := func() string {
				logs = append(logs, filepath.Join(dir, fmt.Sprint(len(logs), ".undo")))
				return logs[len(logs)-1]
			}
			for stop := range 2 {
				_, err := pt.repair(log(), func(n int) bool { return n == stop })
				if err != nil && !errors.Is(err, walk.ErrStopped) {
					t.Fatal(err)
				}
				if err == nil {
					break // it had fewer changes
				}
				pt.undo(logs[len(logs)-1])
				pt.same(fmt.Sprintf("undone after a stop before change %d", stop), hurt)
			}
			if _, err := pt.repair(log(), func(n int) bool { return n == 1 }); err != nil && !errors.Is(err, walk.ErrStopped) {
				t.Fatal(err)
			}
			last := log()
			rep, err := pt.repair(last, nil) // what the one before left
			if err != nil || len(rep.Findings) > 0 && rep.Exit() != walk.ExitRepaired {
				t.Fatalf("%v, exit %d:\n%s", err, rep.Exit(), texts(rep))
			}
			if rep := pt.check(); rep.Exit() != walk.ExitClean {
				t.Errorf("after the repair:\n%s", texts(rep))
			}
			pt.restore(sound)
			pt.same("restored", sound)
			x.do(pt)
			whole := log()
			if rep, err := pt.repair(whole, nil); err != nil || rep.Exit() != walk.ExitRepaired || rep.UndoLog != whole {
				t.Fatalf("%v:\n%s", err, texts(rep))
			}
			pt.undo(whole)
			pt.same("undone", hurt)
			pt.undo(whole)
			pt.same("undone twice", hurt)
			if i == 0 { // the next one's journal is another's
				if _, err := pt.repair(log(), nil); err != nil {
					t.Fatal(err)
				}
				f, err := os.Open(whole)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				_, err = walk.Undo(t.Context(), pt.s, pt.p, pt.s.peer.Cluster.String(), f)
				wantError(t, err, "has run since")
			}
			pt.restore(sound)
		})
	}
	for _, c := range fsck.Codes {
		if c.Repair != "" && !covered[c.Code] && c.Code != fsck.JournalLeftover { // that one: fsck/model_test.go
			t.Errorf("no test does damage of kind %s", c.Code)
		}
	}
}
