package client

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/scene"
	"github.com/capstan-fs/capstan/wire"
)

// kernelOf is a Namer whose threads take their answers in when the test says so.
type kernelOf map[uint32]bool // threads that have not

func (kernelOf) Attrs(wire.Ino)        {}
func (kernelOf) Pages(wire.Ino)        {}
func (kernelOf) Prune(wire.Ino)        {}
func (kernelOf) Name(wire.Ino, string) {}
func (kernelOf) Always() bool          { return false }
func (k kernelOf) TookIn(threads []uint32, _ time.Duration) []uint32 {
	return slices.DeleteFunc(slices.Clone(threads), func(th uint32) bool { return !k[th] })
}

// toldABC is a directory of which two threads were answered about a and b, and one about c before it
// asked for b.
func toldABC(now int64) *dirState {
	d := &dirState{}
	t := &d.told
	for i, name := range []string{"a", "b", "c", "b"} {
		th := uint32(min(i, 2))
		t.room(name, th)
		if _, ok := t.threads[th]; ok {
			t.wentOn(th, now+nameTimeout)
		}
		t.note(name, now+nameTimeout)
		t.threads[th] = answer{name, uint64(i + 1)}
	}
	return d
}

func only(name string) func(string) bool { return func(n string) bool { return n == name } }

// Whoever takes a name back waits for the threads that were told of this name last, and for no other.
func TestThreadsOfAName(t *testing.T) {
	d := toldABC(1)
	for name, want := range map[string][]uint32{"a": {0}, "b": {1, 2}, "c": nil} {
		names, threads := d.told.take(2, only(name))
		slices.Sort(threads)
		if !slices.Equal(names, []string{name}) || !slices.Equal(threads, want) {
			t.Errorf("%s: names %q, threads %v, want %v", name, names, threads, want)
		}
		d.told.gone(names, threads, 3)
	}
	if len(d.told.threads) != 0 || len(d.told.leaving) != 0 {
		t.Errorf("left: %v %v", d.told.threads, d.told.leaving)
	}
}

// However old it is: a name of which a thread may not have taken in what it was told is trusted, and
// from when it was seen to have for one timeout more.
func TestANameUnderWayIsTrusted(t *testing.T) {
	c := &Client{toldDirs: map[*Inode]struct{}{}, now: func() int64 { return int64(time.Hour) }}
	k := kernelOf{1: true}
	c.namer = k
	d := &Inode{c: c, dir: toldABC(1)}
	c.toldDirs[d] = struct{}{}
	expect := func(now int64, want ...string) {
		t.Helper()
		trusts := d.dir.told.trusted(now)
		var got []string
		for _, n := range []string{"a", "b", "c"} {
			if trusts(n) {
				got = append(got, n)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("trusted: %q, want %q", got, want)
		}
	}
	expect(c.now(), "a", "b")
	c.watchTold()
	expect(c.now(), "a", "b")
	expect(c.now()+nameTimeout, "b")
	delete(k, 1)
	d.dir.told.writing = 1 // not written yet: it sleeps because it waits for us
	c.watchTold()
	expect(c.now()+nameTimeout, "b")
	d.dir.told.writing = 0
	c.watchTold()
	expect(c.now()+nameTimeout-1, "a", "b")
	expect(c.now() + nameTimeout)
	if d.trustsNames(c.now() + nameTimeout) {
		t.Error("something is trusted")
	}
	c.now = func() int64 { return int64(2 * time.Hour) }
	c.watchTold()
	if len(c.toldDirs) != 0 || d.dir.told.until != nil {
		t.Error("what is over is not forgotten")
	}
}

// A rename takes what the kernel knows to the new name, also when the old one is being expired: that
// waits for the rename, and finds another name then (N4, N5).
func TestARenameTakesAnExpiryWithIt(t *testing.T) {
	d := toldABC(1)
	names, threads := d.told.take(2, only("b"))
	moved(d, "b", d, "new", false, 3)
	if got := d.told.of("new"); len(got) != len(threads) {
		t.Errorf("threads %v of the new name, want %v", got, threads)
	}
	d.told.gone(names, threads, 4)
	if got, _ := d.told.take(5, only("new")); len(got) != 1 {
		t.Error("the new name counts as unknown to the kernel")
	}
}

// Rows of a listing are many names: who takes one of them back waits for the thread that lists.
func TestThreadsOfRows(t *testing.T) {
	d := toldABC(1)
	d.told.threads[9] = answer{rows, 9}
	if names, threads := d.told.take(int64(time.Hour), only("c")); len(names) != 1 || !slices.Equal(threads, []uint32{9}) {
		t.Errorf("names %q, threads %v", names, threads)
	}
}

// A rank that asks for a lease and at once for Fs of its directory gets both back: what is kept when
// Fs goes is not what it has asked for. The two were taken for one another, and the name counted as
// leased for ever (a storm saw ENOENT of a file that another mount had made).
func TestALeaseThatIsAskedForIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := calmDirectory(t)
		go func() {
			e, err := w.c.Lookup(&Caller{PID: 7}, d, "x")
			if err != eNOENT || e.TTL == 0 {
				t.Errorf("absent: %v, for %v", err, e.TTL)
			}
			w.c.Told(d, "x", &e, true)
		}()
		synctest.Wait()
		w.play(t, "reply lookup errno=ENOENT", "r2 lookup d/x")
		n := w.rank.nodes[d]
		st := w.rank.show(n, n.pending&^caps.FileShared, 0)
		w.rank.link.recv.Messages([]wire.Message{
			&wire.LeaseRevoke{Dir: d, Name: "x", Seq: 1},
			&wire.CapGrant{Op: wire.CapRevoke, Stat: *st},
		})
		synctest.Wait()
		w.play(t, "wait 1ms", "update d@2 keeps pAsLsXs wants -", "lease of d/x given back")
		w.play(t, "lookup l d x", "r3 lookup d/x")
		w.play(t, "reply lookup ino=made caps=pAsLs", "l: made")
	})
}

// calmDirectory is a mount whose kernel may trust names, and a directory in which it may.
func calmDirectory(t *testing.T) (*world, wire.Ino) {
	w := newWorld(t)
	w.c.SetNotifier(kernelOf{})
	w.play(t, "dir d caps=pAsLsXsFs")
	return w, w.inos["d"]
}

// play is a line of a scene, and what happens then.
func (w *world) play(t *testing.T, line string, want ...string) {
	t.Helper()
	text := line + "\n----\n" + strings.Join(append(want, ""), "\n")
	got, err := scene.Play(text, w)
	if err != nil || strings.TrimSpace(got) != strings.TrimSpace(text) {
		t.Fatalf("%v, and\n%s", err, got)
	}
}

// parkedKernel is a Namer that expires a name when the test says so.
type parkedKernel struct {
	kernelOf
	goes chan struct{}
}

func (k parkedKernel) Name(wire.Ino, string) { <-k.goes }

// The rank may ask for the old name of a rename right behind the answer, for another host that makes it
// anew. The kernel, which has not heard the answer yet, still shows what was there.
func TestTheKernelHearsOfARenameLaterThanWe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := parkedKernel{kernelOf{}, make(chan struct{})}
		w.c.SetNotifier(k)
		w.play(t, "dir d caps=pAsLsXsFs")
		d := w.inos["d"]
		w.play(t, "lookup l d a", "r2 lookup d/a")
		w.play(t, "reply lookup ino=a caps=pAsLs", "l: a")
		if w.tells(d, "a") == 0 {
			t.Fatal("the kernel is not told of a: the test shows nothing")
		}
		go w.c.Rename(&Caller{}, d, "a", d, "b", 0)
		synctest.Wait()
		w.rank.link.recv.Messages([]wire.Message{&wire.Reply{Tid: w.rank.take(wire.OpRename).Tid}, &wire.LeaseRevoke{Dir: d, Name: "a", Seq: 1}})
		synctest.Wait()
		w.events = nil
		w.play(t, "wait 1ms")
		close(k.goes)
		w.play(t, "wait 1ms", "lease of d/a given back")
	})
}

// What comes right behind the last part of a listing comes before its caller goes on: a change of our own,
// or Fs that goes and comes back. The listing is not complete then. It counted as complete, and for as long
// as Fs was held, names that others had made in between did not exist here.
func TestAListingIsAsOldAsItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, own := range []bool{false, true} {
			w := newWorld(t)
			w.play(t, "dir d caps=pAsLsXsFs")
			d := w.inos["d"]
			n := w.rank.nodes[d]
			w.play(t, "list a d", "r2 readdir d")
			m := []wire.Message{&wire.Reply{Tid: w.rank.take(wire.OpReaddir).Tid, End: true, Entries: []wire.DirEntry{{Name: "x", Ino: 0x9000, Mode: 0o100000, Cookie: 10}}}}
			if own {
				w.play(t, "unlink u d x", "1 unlink d/x")
				m = append(m, &wire.Reply{Tid: w.rank.take(wire.OpUnlink).Tid, Early: true})
			} else {
				revoke := w.rank.show(n, n.pending&^caps.FileShared, 0)
				m = append(m, &wire.CapGrant{Op: wire.CapRevoke, Stat: *revoke}, &wire.CapGrant{Op: wire.CapGrantOp, Stat: *w.rank.show(n, n.pending|caps.FileShared, wire.MaskFile)})
			}
			w.rank.link.recv.Messages(m)
			synctest.Wait()
			w.events, w.results = nil, nil
			if own {
				w.play(t, "lookup l d x", "l: ENOENT")
			} else {
				w.play(t, "lookup l d z", "r3 lookup d/z")
				w.play(t, "reply lookup errno=ENOENT", "l: ENOENT")
			}
			w.c.mu.Lock()
			if w.c.inodes[d].dir.listing != nil {
				t.Errorf("own %v: the listing counts as complete", own)
			}
			w.c.mu.Unlock()
		}
	})
}
