package locker

import (
	"testing"
	"unsafe"

	"github.com/capstan-fs/capstan/caps"
)

func TestLockIsSmall(t *testing.T) {
	if s := unsafe.Sizeof(Lock{}); s > 32 {
		t.Fatalf("a lock takes %d bytes, and an inode has eight", s)
	}
}

// O1 and O8: quiesce first, dentries before inodes, by object, by type; writers imply the
// version lock of their object.
func TestAcquireSortsAndImplies(t *testing.T) {
	e := New(&testHost{})
	in7 := newObject(7, Quiesce, IFile, IAuth, IVersion)
	in3 := newObject(3, IFile, IAuth)
	dn := newObject(9, Dn, DVersion)
	s := &LockSet{Owner: Owner{1, 1}}
	s.Begin()
	s.X(&in7.locks[2])
	s.Wr(&in7.locks[1])
	s.Rd(&in3.locks[1])
	s.Rd(&in3.locks[0])
	s.Rd(&dn.locks[0])
	s.X(&dn.locks[0]) // O3: the stronger one counts
	s.Rd(nil)
	if done, _ := s.Acquire(e); !done {
		t.Fatal("contended")
	}
	want := []*Lock{&in7.locks[0], &dn.locks[0], &dn.locks[1], &in3.locks[0], &in3.locks[1], &in7.locks[1], &in7.locks[2], &in7.locks[3]}
	mode := []Mode{Rd, X, Wr, Rd, Rd, Wr, X, Wr}
	if len(s.items) != len(want) {
		t.Fatalf("%d locks", len(s.items))
	}
	for i, it := range s.items {
		if it.l != want[i] || it.held != mode[i] || it.l.HeldBy(s.Owner) != mode[i] {
			t.Errorf("%d: %v %v, want %v %v", i, it.l, it.held, want[i], mode[i])
		}
	}
	// Several updates may be in the journal on top of each other: wr on the version lock is
	// shared, x (a participant's) is not.
	o2 := Owner{2, 2}
	if v := &in7.locks[3]; !e.Try(v, Wr, o2) || e.Try(v, X, Owner{3, 3}) || e.Try(&in7.locks[0], X, o2) {
		t.Error("version lock or quiesce let the wrong one in")
	} else {
		e.Release(v, Wr, o2)
	}
	s.Release(e)
	e.Settle()
	for _, l := range want {
		if !l.Idle() {
			t.Errorf("left behind: %v", l.Describe())
		}
	}
	if v := &in7.locks[3]; !e.Try(v, X, o2) || e.Try(v, Wr, s.Owner) || e.Try(v, Rd, s.Owner) {
		t.Error("x on a version lock is not alone")
	}
}

// O2: a walk takes by try; when it fails nothing is held while it waits, and the lock it
// waited for is its own when it starts again.
func TestWalkHoldsNothingWhileItWaits(t *testing.T) {
	h := &testHost{}
	e := New(h)
	a, b := newObject(1, Dn), newObject(2, Dn)
	x := &LockSet{Owner: Owner{9, 9}}
	x.Begin()
	x.X(&b.locks[0])
	x.Acquire(e)
	walk := &LockSet{Owner: Owner{1, 1}}
	walk.Begin()
	if !walk.Try(e, &a.locks[0], Rd) || !walk.Try(e, &a.locks[0], Rd) {
		t.Fatal("first step")
	}
	if walk.Try(e, &b.locks[0], Rd) || a.locks[0].Held(Rd) || walk.WaitingOn() != &b.locks[0] {
		t.Fatalf("held while waiting: %v", a.locks[0].Describe())
	}
	walk.Begin()
	if !walk.Try(e, &a.locks[0], Rd) || walk.Try(e, &b.locks[0], Rd) {
		t.Fatal("started again too early")
	}
	x.Release(e)
	e.Settle()
	if len(h.woken) != 1 || !walk.Holds(&b.locks[0], Rd) {
		t.Fatal("not woken with the lock in hand")
	}
	walk.Begin()
	if !walk.Try(e, &a.locks[0], Rd) || !walk.Try(e, &b.locks[0], Rd) {
		t.Fatal("second walk")
	}
	if done, _ := walk.Acquire(e); !done {
		t.Fatal("acquire after the walk")
	}
	walk.Begin() // another walk that no longer comes by a
	walk.Try(e, &b.locks[0], Rd)
	if done, _ := walk.Acquire(e); !done || a.locks[0].Held(Rd) {
		t.Fatal("a lock that is no longer wanted stays")
	}
}

func TestWhatClientsMayHold(t *testing.T) {
	h := &testHost{}
	e := New(h)
	in := newObject(1, FileTypes...)
	in.clients = []ClientCaps{{1, caps.AllShared, caps.FileRd}, {2, caps.Pin, 0}}
	all := caps.AllShared | caps.FileCache | caps.FileRd | caps.FileLazy
	if got := Allowed(in, 1); got != all {
		t.Fatalf("in sync: %v, want %v", got, all)
	}
	f := Find(in.locks, IFile)
	x := &LockSet{Owner: Owner{2, 1}}
	x.Begin()
	x.X(f)
	x.Acquire(e)
	e.Settle()
	if now, end := Allowed(in, 1), AllowedAtGoal(in, 1); now&caps.FileMask != caps.FileCache || end != now {
		t.Fatalf("going to lock: %v, then %v", now, end)
	}
	if Readable(f, 1) != true {
		t.Fatal("G3: the value is true until the first writer can exist")
	}
	in.clients[0].Issued &^= caps.FileShared
	e.Changed(in)
	e.Settle()
	if Readable(f, 1) || Readable(f, 2) || f.State() != "xlock" {
		t.Fatalf("an undecided value is shown: %v", f)
	}
	x.Rest(e, f)
	if Readable(f, 1) || !Readable(f, 2) || f.AllowedBy(2) != caps.FileShared|caps.FileCache || f.AllowedBy(1) != caps.FileCache {
		t.Fatalf("xlockdone: holder %v, others %v", f.AllowedBy(2), f.AllowedBy(1))
	}
	x.ReleaseBut(e, f)
	if !x.Holds(f, X) {
		t.Fatal("the resting xlock went")
	}
	x.Release(e)
	e.Settle()
	if err := Check(in); err != nil || f.State() != "sync" {
		t.Fatalf("%v, %v", f, err)
	}
	in.traits = Recovering
	if Readable(f, 1) || e.Try(f, Rd, Owner{1, 9}) {
		t.Fatal("R1: a size that is not known is shown")
	}
}

// Scatter is a wish that survives until mix is reached; a file that nobody uses goes back.
func TestScatterCyclesTheLock(t *testing.T) {
	var path []string
	e := New(&testHost{})
	e.Trace = func(_ *Lock, _, to string) { path = append(path, to) }
	in := newObject(1, DirTypes...)
	f := Find(in.locks, IFile)
	hold := Owner{1, 1}
	e.Try(f, Rd, hold)
	e.Scatter(f)
	e.Settle()
	if f.State() != "sync" {
		t.Fatalf("%v under a reader", f)
	}
	e.Release(f, Rd, hold)
	e.Settle()
	if f.State() != "sync" || len(path) < 4 || path[1] != "mix" {
		t.Fatalf("%v by way of %v", f, path)
	}
}

// The walk must see what it is for.
func TestCheckSeesBrokenLocks(t *testing.T) {
	in := func() *testObject {
		o := newObject(1, FileTypes...)
		o.clients = []ClientCaps{{1, caps.AllShared, 0}}
		return o
	}
	e := New(&testHost{})
	for name, spoil := range map[string]func(*testObject){
		"SO1": func(o *testObject) { o.clients[0].Issued |= caps.FileWr },
		"L2": func(o *testObject) {
			x := e.extend(&o.locks[1])
			x.holds = append(x.holds, hold{Owner{1, 1}, Rd}, hold{Owner{2, 2}, Wr})
		},
		"X1":          func(o *testObject) { e.extend(&o.locks[2]).holds = []hold{{Owner{1, 1}, X}} },
		"X1 reserved": func(o *testObject) { e.extend(&o.locks[2]).hasX = true },
		"Q1":          func(o *testObject) { e.extend(&o.locks[2]).gather = append(e.extend(&o.locks[2]).gather, 1) },
		"V1": func(o *testObject) {
			s := &LockSet{Owner: Owner{1, 1}, waiting: &o.locks[2]}
			e.extend(&o.locks[2]).waiters = []waiter{{s, Rd}}
		},
		"order": func(o *testObject) { o.locks[0], o.locks[1] = o.locks[1], o.locks[0] },
	} {
		o := in()
		if err := Check(o); err != nil {
			t.Fatal(err)
		}
		spoil(o)
		if err := Check(o); err == nil {
			t.Errorf("%s is not seen", name)
		}
	}
}

func TestNestedSettleIsHarmless(t *testing.T) {
	h := &nestingHost{}
	h.e = New(h)
	in := newObject(1, FileTypes...)
	in.clients = []ClientCaps{{1, caps.AllShared, 0}}
	x := &LockSet{Owner: Owner{2, 1}}
	x.Begin()
	x.X(&in.locks[2])
	x.Acquire(h.e)
	h.e.Settle()
	if x.WaitingOn() != nil || h.calls == 0 {
		t.Fatalf("%v", in.locks[2].Describe())
	}
}

// nestingHost takes caps back at once, inside Reissue, and settles there.
type nestingHost struct {
	testHost
	e     *Engine
	calls int
}

func (h *nestingHost) Reissue(o Object) {
	h.calls++
	ob := o.(*testObject)
	ob.clients[0].Issued &= Allowed(ob, 1)
	h.e.Changed(ob)
	h.e.Settle()
}
