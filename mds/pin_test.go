package mds

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// An empty directory is handed to another rank, which makes what is made in it; its name stays, and
// leads there. Nothing that a client believed of it survives the move. Handed back, it is as before.
func TestAPinnedDirectoryIsAnotherRanks(t *testing.T) {
	rk := newRanks(t, 1, 2)
	u, v := rk.user(), rk.user()
	d := u.mkdir(root, "d")
	v.must(&wire.Request{Op: wire.OpReaddir, Ino: d})
	if rep := v.c[0].do(&wire.Request{Op: wire.OpLookup, Ino: d, Name: "f"}); rep.Errno != uint32(eNOENT) {
		t.Fatal(rep)
	}
	if rep := u.pin(d, 1); rep.Errno != 0 || rep.Early {
		t.Fatalf("%+v", rep)
	}
	if c := v.c[0]; len(c.leases) != 0 || c.caps[d] != nil && c.caps[d].Pending&^1 != 0 {
		t.Errorf("who had looked still believes in %v, caps %v", c.leases, c.caps[d])
	}
	rk.rest()
	if rk.owner(d) != 1 {
		t.Fatal("it is not rank 1's")
	}
	if got := v.lookup(root, "d"); got != d || v.at[d] != 1 {
		t.Fatalf("the name leads to %v at %d", got, v.at[d])
	}
	f := v.create(d, "f")
	if f>>40 != 2 {
		t.Errorf("%v is not a number of rank 1", f)
	}
	sub := u.mkdir(d, "sub")
	u.create(sub, "g")
	if u.lookup(d, "f") != f || rk.owner(sub) != 1 {
		t.Error("what one made the other does not see")
	}
	if got := u.vxattr(d, pinXattr); got != "1" {
		t.Errorf("pin %q", got)
	}
	rk.rest()
	if got := u.vxattr(root, "ceph.dir.rfiles") + " " + u.vxattr(root, "ceph.dir.rsubdirs"); got != "2 3" {
		t.Errorf("files and directories at and below the root: %s", got)
	}
	rk.bounds(u, d, f)

	u.fails(&wire.Request{Op: wire.OpRmdir, Ino: root, Name: "d"}, eNOTEMPTY)
	u.must(&wire.Request{Op: wire.OpUnlink, Ino: sub, Name: "g"})
	u.must(&wire.Request{Op: wire.OpRmdir, Ino: d, Name: "sub"})
	u.must(&wire.Request{Op: wire.OpUnlink, Ino: d, Name: "f"})
	u.must(&wire.Request{Op: wire.OpSetxattr, Ino: d, Xname: pinXattr, Xval: []byte("-1")})
	rk.rest()
	if rk.owner(d) != 0 || u.vxattr(d, pinXattr) != "-1" || len(rk.w[0].r.moves)+len(rk.w[1].r.moves) != 0 {
		t.Errorf("owner %d, tables %v %v", rk.owner(d), rk.w[0].r.sortedMoves(), rk.w[1].r.sortedMoves())
	}
	u.create(d, "h")
	u.must(&wire.Request{Op: wire.OpUnlink, Ino: d, Name: "h"})
	u.pin(d, 1)
	u.must(&wire.Request{Op: wire.OpRmdir, Ino: root, Name: "d"})
	rk.rest()
	if u.lookup(root, "d") != 0 {
		t.Error("it is there")
	}
	rk.fsck("in the end")
}

// bounds tries what would need both ranks: refused, and nothing has happened.
func (rk *ranks) bounds(u *user, d, f wire.Ino) {
	rk.t.Helper()
	x := u.create(root, "x")
	for e, list := range map[errno][]*wire.Request{
		eXDEV: {
			{Op: wire.OpRename, Ino: root, Name: "d", NewDir: root, NewName: "e"}, {Op: wire.OpRename, Ino: d, Name: "f", NewDir: root, NewName: "f"},
			{Op: wire.OpRename, Ino: root, Name: "x", NewDir: d, NewName: "x"}, {Op: wire.OpLink, Ino: root, Name: "l", Other: f},
			{Op: wire.OpLink, Ino: d, Name: "l", Other: x}, {Op: wire.OpRename, Ino: root, Name: "x", NewDir: root, NewName: "d", RenameFlags: wire.RenameExchange},
		},
		eISDIR: {{Op: wire.OpUnlink, Ino: root, Name: "d"}, {Op: wire.OpCreate, Ino: root, Name: "d"}, {Op: wire.OpRename, Ino: root, Name: "x", NewDir: root, NewName: "d"}},
		eEXIST: {
			{Op: wire.OpMkdir, Ino: root, Name: "d"}, {Op: wire.OpCreate, Ino: root, Name: "d", OpenFlags: oEXCL}, {Op: wire.OpLink, Ino: root, Name: "d", Other: x},
			{Op: wire.OpRename, Ino: root, Name: "x", NewDir: root, NewName: "d", RenameFlags: wire.RenameNoReplace},
		},
	} {
		for _, m := range list {
			u.fails(m, e)
		}
	}
	if got := u.must(&wire.Request{Op: wire.OpReaddir, Ino: root, Max: 100}); len(got.Entries) != 2 {
		rk.t.Errorf("the root has %+v", got.Entries)
	}
	u.must(&wire.Request{Op: wire.OpUnlink, Ino: root, Name: "x"})
	up := u.must(&wire.Request{Op: wire.OpLookup, Ino: d, Name: ".."})
	if up.Far == nil || *up.Far != (wire.Far{Ino: root, Rank: 0}) {
		rk.t.Errorf("above it is %+v", up.Far)
	}
}

func (rk *ranks) fsck(when string) {
	rk.t.Helper()
	rk.w[0].fsck(when)
}

// Every journal write and every message of a hand-over is a moment at which one side or both may die:
// the directory has one owner in the end, which has everything that was answered, the author of the
// pin is answered, and fsck finds nothing.
func TestAHandOverEndsWithOneOwner(t *testing.T) {
	for _, sc := range handOvers {
		t.Run(sc.name, func(t *testing.T) {
			for seed := int64(1); seed <= 2; seed++ {
				points := playHandOver(t, sc, seed, 0, nil)
				if points < 6 {
					t.Fatalf("%d points only", points)
				}
				for n := 1; n <= points; n++ {
					for _, victims := range [][]wire.Rank{{0}, {1}, {0, 1}} {
						t.Run(fmt.Sprintf("seed=%d,point=%d,dead=%v", seed, n, victims), func(t *testing.T) {
							playHandOver(t, sc, seed, n, victims)
						})
					}
				}
			}
		})
	}
}

type handOver struct {
	name   string
	pinned bool // before it begins
	run    func(u *user, d wire.Ino)
	owner  wire.Rank
	gone   bool
	full   bool // there are files and directories in it
}

var handOvers = []handOver{
	{"pin", false, func(u *user, d wire.Ino) { u.pin(d, 1) }, 1, false, false},
	{"unpin", true, func(u *user, d wire.Ino) { u.pin(d, -1) }, 0, false, false},
	{"rmdir", true, func(u *user, d wire.Ino) { u.ask(&wire.Request{Op: wire.OpRmdir, Ino: root, Name: "d"}) }, 0, true, false},
	{"pin with contents", false, func(u *user, d wire.Ino) { u.pin(d, 1) }, 1, false, true},
	{"unpin with contents", true, func(u *user, d wire.Ino) { u.pin(d, -1) }, 0, false, true},
}

// contents are what a directory that is handed over has in it, in use by two users.
type contents struct {
	d, a, sub, deep, h wire.Ino
}

func (rk *ranks) fill(u, v *user, d wire.Ino) *contents {
	rk.t.Helper()
	c := &contents{d: d}
	c.a = v.create(d, "a")
	c.sub = u.mkdir(d, "sub")
	v.lookup(d, "sub")
	c.deep = v.mkdir(c.sub, "deep")
	u.lookup(c.sub, "deep")
	c.h = u.create(c.deep, "h")
	u.must(&wire.Request{Op: wire.OpOpen, Ino: c.h, Want: caps.FileRd | caps.FileWr | caps.FileShared | caps.FileCache})
	v.lookup(d, "nothing")
	v.must(&wire.Request{Op: wire.OpReaddir, Ino: c.sub, Max: 10})
	return c
}

// check sees whether all is there, under its name and by its number, whichever rank is asked first.
func (c *contents) check(u *user, owner wire.Rank) {
	t := u.rk.t
	t.Helper()
	for _, x := range []struct {
		dir, ino wire.Ino
		name     string
	}{{c.d, c.a, "a"}, {c.d, c.sub, "sub"}, {c.sub, c.deep, "deep"}, {c.deep, c.h, "h"}} {
		if got := u.lookup(x.dir, x.name); got != x.ino {
			t.Errorf("%v/%s is %v, was %v", x.dir, x.name, got, x.ino)
		}
		for n := range u.rk.w {
			u.at[x.ino] = wire.Rank(n)
			if u.must(&wire.Request{Op: wire.OpGetattr, Ino: x.ino}); u.at[x.ino] != owner {
				t.Errorf("who asks mds.%d for %v comes to mds.%d, not %d", n, x.ino, u.at[x.ino], owner)
			}
		}
		for _, w := range u.rk.w {
			if in := w.r.inodes[x.ino]; in != nil && !in.stub && w.cfg.Rank != owner {
				t.Errorf("%v is in the cache of mds.%d", x.ino, w.cfg.Rank)
			}
		}
	}
}

// playHandOver runs one with victims dying at point n, and returns how many points there were.
func playHandOver(t *testing.T, sc handOver, seed int64, n int, victims []wire.Rank) int {
	rk := newRanks(t, seed, 2)
	u, v := rk.user(), rk.user()
	d := u.mkdir(root, "d")
	if sc.pinned {
		u.pin(d, 1)
		v.lookup(root, "d")
		v.create(d, "was")
		v.must(&wire.Request{Op: wire.OpUnlink, Ino: d, Name: "was"})
	}
	if seed%2 == 0 { // the journals have gone beyond what made it
		for range 30 {
			u.create(d, "f")
			u.must(&wire.Request{Op: wire.OpUnlink, Ino: d, Name: "f"})
		}
	}
	v.must(&wire.Request{Op: wire.OpReaddir, Ino: d})
	var in *contents
	files := "1"
	if sc.full {
		in = rk.fill(u, v, d)
		files = "3"
	}
	rk.rest()
	rk.events, rk.log = 0, nil
	rk.crash = func(at int) bool {
		if at != n {
			return false
		}
		for _, x := range victims {
			rk.w[x].crash()
		}
		return true
	}
	defer func() {
		if t.Failed() {
			for _, l := range rk.log {
				t.Log(l)
			}
		}
	}()
	sc.run(u, d)
	rk.rest()
	points := rk.events
	rk.crash = nil
	rk.fsck("after it")
	if !sc.gone {
		if own := rk.owner(d); own != sc.owner {
			t.Fatalf("mds.%d owns it", own)
		}
		if got := v.lookup(root, "d"); got != d {
			t.Fatalf("the name leads to %v", got)
		}
		if sc.full {
			in.check(v, sc.owner)
		}
		f := v.create(d, "f")
		if int64(f>>40) != int64(sc.owner)+1 {
			t.Errorf("%v is not mds.%d's number", f, sc.owner)
		}
		if u.lookup(d, "f") != f {
			t.Error("the other client does not see it")
		}
		rk.rest()
		if got := u.vxattr(root, "ceph.dir.rfiles"); got != files {
			t.Errorf("%s files below the root", got)
		}
	} else if got := v.lookup(root, "d"); got != 0 {
		t.Errorf("it is still there: %v", got)
	}
	for _, w := range rk.w { // what one life knows the next one must
		w.crash()
	}
	rk.rest()
	if !sc.gone {
		if own := rk.owner(d); own != sc.owner {
			t.Fatalf("mds.%d owns it after a restart", own)
		}
		if u.lookup(d, "f") == 0 {
			t.Error("the file is gone")
		}
		if sc.full {
			in.check(u, sc.owner)
		}
	}
	rk.fsck("in the end")
	return points
}

// What the exporter's journal says decides, and only that: an attempt that it does not know was lost.
func TestTheExportersJournalDecides(t *testing.T) {
	rk := newRanks(t, 1, 2)
	u := rk.user()
	d := u.mkdir(root, "d")
	u.pin(d, 1)
	rk.rest()
	w := rk.w[0]
	w.crash()
	rk.rest()
	for attempt, won := range map[uint64]bool{w.r.moves[d].Attempt: true, w.r.moves[d].Attempt + 1: false} {
		line := [2]wire.Rank{0, 1}
		rk.mail[line] = nil
		rk.open[line] = true
		w.step(Event{Kind: FromPeer, Rank: 1, Msg: &wire.ExportAsk{Ino: d, Attempt: attempt}})
		w.until("answer", func() bool { return len(rk.mail[line]) > 0 })
		if m, is := rk.mail[line][0].(*wire.ExportEnd); !is || m.Won != won || m.Attempt != attempt {
			t.Errorf("attempt %d: %+v", attempt, rk.mail[line][0])
		}
	}
}

// Who waits for a directory on its way hears who takes it along, and that one whose caps are still out.
func TestAHandOverSaysWhomItWaitsFor(t *testing.T) {
	rk := newRanks(t, 1, 2)
	u, v := rk.user(), rk.user()
	d := u.mkdir(root, "d")
	in := rk.fill(v, u, d)
	rk.rest()
	v.c[0].passive, u.c[0].passive = true, true
	u.c[0].ask(&wire.Request{Op: wire.OpSetxattr, Ino: d, Xname: pinXattr, Xval: []byte("1")})
	r := rk.w[0].r
	rk.w[0].until("the freeze", func() bool { return r.exportOf(r.inodes[in.h]) != nil })
	u.c[0].ask(&wire.Request{Op: wire.OpLookup, Ino: in.deep, Name: "h"})
	rk.w[0].until("a lookup that waits", func() bool { return slices.ContainsFunc(r.Why(), func(w Wait) bool { return w.Op == "lookup" }) })
	var driver, below string
	for _, w := range r.Why() {
		switch w.Op {
		case "setxattr":
			driver = w.On[0].Kind + ": " + w.On[0].Text
		case "lookup":
			below = w.On[0].Kind + ": " + w.On[0].Text
		}
	}
	if !strings.HasPrefix(driver, "client: ") || !strings.Contains(driver, "to give back") {
		t.Errorf("the hand-over waits for %q", driver)
	}
	if !strings.HasPrefix(below, "request: setxattr") || !strings.Contains(below, "hands /d to mds rank 1") {
		t.Errorf("a lookup below waits for %q", below)
	}
}

// A client that has a file open keeps it over the hand-over, though its name goes before the client comes to
// the new rank: nothing is purged there at first. It is told where to go; when it has let go the file goes too.
func TestAnOpenFileOutlivesAHandOver(t *testing.T) {
	rk := newRanks(t, 1, 2)
	u, v := rk.user(), rk.user()
	d := u.mkdir(root, "d")
	in := rk.fill(u, v, d)
	rk.rest()
	u.c[0].msgs = nil
	if rep := v.pin(d, 1); rep.Errno != 0 {
		t.Fatal(rep.Errno)
	}
	rk.rest()
	told := map[wire.Ino]wire.Rank{}
	for _, m := range u.c[0].msgs {
		if g, is := m.(*wire.CapGrant); is && g.Op == wire.CapExport {
			told[g.Stat.Ino] = g.To
		}
	}
	for _, ino := range []wire.Ino{in.sub, in.deep, in.h} {
		if told[ino] != 1 {
			t.Errorf("of %v the client was told %v", ino, told)
		}
	}
	purged := func() bool { return rk.w[1].r.inodes[in.h] == nil }
	v.lookup(d, "sub")
	v.lookup(in.sub, "deep")
	v.must(&wire.Request{Op: wire.OpUnlink, Ino: in.deep, Name: "h"})
	rk.rest()
	if purged() {
		t.Fatal("it is gone")
	}
	u.at[in.h] = 1
	u.must(&wire.Request{Op: wire.OpOpen, Ino: in.h, Want: caps.FileRd | caps.FileShared})
	for range 20 {
		rk.w[0].tick(rk.w[1].r.validity() / 5)
	}
	rk.rest()
	if purged() {
		t.Fatal("it is gone, and somebody has it open")
	}
	c := u.c[1]
	cp := c.caps[in.h]
	c.post(0, &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: in.h, CapID: cp.ID, Mseq: cp.Mseq, IssueSeq: cp.Seq}}})
	for range 20 {
		rk.w[0].tick(rk.w[1].r.validity() / 5)
		rk.rest()
	}
	if !purged() {
		t.Error("nobody has it open, and it is still there")
	}
	rk.fsck("in the end")
}

// What cannot be moved with a directory is refused, and the directory goes on as it was.
func TestWhatADirectoryMayNotHoldWhenItIsHandedOver(t *testing.T) {
	rk := newRanks(t, 1, 3)
	u, v := rk.user(), rk.user()
	d := u.mkdir(root, "d")
	in := rk.fill(u, v, d)
	refused := func(e errno) {
		t.Helper()
		if rep := u.pin(d, 1); rep.Errno != uint32(e) {
			t.Fatalf("errno %d, want %d", rep.Errno, e)
		}
		rk.rest()
		v.must(&wire.Request{Op: wire.OpSetattr, Ino: in.h, Set: wire.SetMode, Attr: wire.SetAttr{Mode: 0o600}})
		in.check(u, 0)
	}
	u.must(&wire.Request{Op: wire.OpLink, Ino: in.sub, Name: "twin", Other: in.h})
	refused(eMLINK)
	u.must(&wire.Request{Op: wire.OpUnlink, Ino: in.sub, Name: "twin"})
	refused(eMLINK) // it is at home in links/ for good
	u.must(&wire.Request{Op: wire.OpUnlink, Ino: in.deep, Name: "h"})
	in.h = u.create(in.deep, "h")
	lock := wire.FileLock{Type: wire.LockWrite, End: 10, Owner: 1}
	u.must(&wire.Request{Op: wire.OpSetlk, Ino: in.h, Lock: lock})
	refused(eBUSY)
	lock.Type = wire.LockUnlock
	u.must(&wire.Request{Op: wire.OpSetlk, Ino: in.h, Lock: lock})
	e := u.mkdir(in.deep, "e")
	if rep := u.pin(e, 2); rep.Errno != 0 {
		t.Fatal(rep.Errno)
	}
	refused(eBUSY)
	u.must(&wire.Request{Op: wire.OpRmdir, Ino: in.deep, Name: "e"})
	if rep := u.pin(d, 1); rep.Errno != 0 {
		t.Fatal(rep.Errno)
	}
	in.check(v, 1)
	rk.rest()
	rk.fsck("in the end")
}

// A pin to a rank that is failing over waits for it, and says so.
func TestAPinWaitsForItsRank(t *testing.T) {
	rk := newRanks(t, 1, 2)
	u := rk.user()
	d := u.mkdir(root, "d")
	u.create(d, "f")
	w := rk.w[0]
	down := rk.fsmap.Clone()
	in := down.Ranks[1]
	in.State = stateReplay
	down.Ranks[1] = in
	w.step(Event{Kind: Maps, FSMap: down})
	tid := u.c[0].ask(&wire.Request{Op: wire.OpSetxattr, Ino: d, Xname: pinXattr, Xval: []byte("1")})
	for range 40 {
		for rk.progress() {
		}
		w.tick(mapPatience / 4)
	}
	why := w.r.Why()
	if u.c[0].replies[tid] != nil || len(why) != 1 || why[0].On[0].Text != "mds rank 1 to be active again" {
		t.Fatalf("answered %+v; waits: %+v", u.c[0].replies[tid], why)
	}
	w.step(Event{Kind: Maps, FSMap: rk.fsmap})
	w.until("the pin", func() bool { return u.c[0].replies[tid] != nil })
	if rep := u.c[0].replies[tid]; rep.Errno != 0 {
		t.Errorf("errno %d", rep.Errno)
	}
}

// A client that did not hear of a hand-over before its rank died hears of it when it reconnects.
func TestWhoReconnectsHearsWhereThingsWent(t *testing.T) {
	rk := newRanks(t, 1, 2)
	u, v := rk.user(), rk.user()
	in := rk.fill(u, v, u.mkdir(root, "d"))
	rk.rest()
	c := u.c[0]
	had := *c.caps[in.h]
	if rep := v.pin(in.d, 1); rep.Errno != 0 {
		t.Fatal(rep.Errno)
	}
	rk.rest()
	c.caps[in.h] = &had
	c.msgs = nil
	rk.w[0].crash()
	rk.rest()
	for _, m := range c.msgs {
		if g, is := m.(*wire.CapGrant); is && g.Stat.Ino == in.h {
			if g.Op != wire.CapExport || g.To != 1 {
				t.Errorf("it heard %v, to rank %d", g.Op, g.To)
			}
			return
		}
	}
	t.Error("it heard nothing")
}
