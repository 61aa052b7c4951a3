package locker

import (
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// testObject is an inode or dentry with clients of its own.
type testObject struct {
	key      Key
	locks    []Lock
	clients  []ClientCaps
	loner    uint64
	ideal    uint64
	traits   Traits
	replicas []wire.Rank
}

func (o *testObject) Key() Key                { return o.key }
func (o *testObject) Locks() []Lock           { return o.locks }
func (o *testObject) Clients() int            { return len(o.clients) }
func (o *testObject) Client(i int) ClientCaps { return o.clients[i] }
func (o *testObject) Loner() uint64           { return o.loner }
func (o *testObject) IdealLoner() uint64      { return o.ideal }
func (o *testObject) SetLoner(c uint64)       { o.loner = c }
func (o *testObject) Traits() Traits          { return o.traits }
func (o *testObject) Replicas() []wire.Rank   { return o.replicas }

func newObject(ino wire.Ino, ts ...Type) *testObject {
	o := &testObject{key: Key{Ino: ino}, locks: make([]Lock, len(ts))}
	if ts[0] == Dn {
		o.key = Key{Dentry: true, Ino: ino, Name: "f"}
	}
	InitAll(o.locks, ts, o)
	return o
}

// testHost notes what the engine asks for.
type testHost struct {
	woken    []*LockSet
	reissued []Object
	pins     int
}

func (h *testHost) Reissue(o Object)           { h.reissued = append(h.reissued, o) }
func (h *testHost) Wake(s *LockSet)            { h.woken = append(h.woken, s) }
func (h *testHost) Pin(_ Object, n int)        { h.pins += n }
func (h *testHost) Absorb(*Lock) bool          { return true }
func (h *testHost) Base(*Lock)                 {}
func (h *testHost) Tell(wire.Rank, *Lock, Msg) {}

func TestSetattrWaitsForSharedCaps(t *testing.T) {
	h := &testHost{}
	e := New(h)
	in := newObject(5, FileTypes...)
	in.clients = []ClientCaps{{1, caps.AllShared, 0}, {2, caps.AllShared, 0}}
	auth := Find(in.locks, IAuth)
	s := &LockSet{Owner: Owner{3, 1}}
	s.Begin()
	s.X(auth)
	if done, on := s.Acquire(e); done || on != auth {
		t.Fatalf("acquired %v over shared caps", auth)
	}
	e.Settle()
	if len(h.reissued) != 1 || Allowed(in, 1)&caps.AuthMask != 0 || h.pins != 1 {
		t.Fatalf("no revoke: %v, allowed %v, pins %d", auth.Describe(), Allowed(in, 1), h.pins)
	}
	for i := range in.clients {
		in.clients[i].Issued &^= caps.AuthShared
		e.Changed(in)
		e.Settle()
		if got := len(h.woken) == 1; got != (i == 1) {
			t.Fatalf("after %d acks woken=%v: %v", i+1, got, auth.Describe())
		}
	}
	s.Begin()
	s.X(auth)
	if done, _ := s.Acquire(e); !done || auth.State() != "xlock" {
		t.Fatalf("woken without the lock: %v", auth.Describe())
	}
	s.Release(e)
	e.Settle()
	if auth.State() != "sync" || h.pins != 0 || !auth.Idle() {
		t.Fatalf("after release: %v pins %d", auth.Describe(), h.pins)
	}
}

func BenchmarkCreateLocks(b *testing.B) {
	e := New(&testHost{})
	dir := newObject(1, DirTypes...)
	dn := newObject(1, Dn)
	s := &LockSet{Owner: Owner{3, 1}}
	b.ReportAllocs()
	for b.Loop() {
		s.Begin()
		s.X(&dn.locks[0])
		s.Rd(Find(dir.locks, IPolicy))
		s.Rd(Find(dir.locks, IAuth))
		s.Wr(Find(dir.locks, IFile))
		s.Wr(Find(dir.locks, INest))
		if done, _ := s.Acquire(e); !done {
			b.Fatal("contended")
		}
		s.Release(e)
		e.Settle()
	}
}

func BenchmarkRd(b *testing.B) {
	e := New(&testHost{})
	l := &newObject(1, FileTypes...).locks[2]
	o := Owner{3, 1}
	b.ReportAllocs()
	for b.Loop() {
		e.Try(l, Rd, o)
		e.Release(l, Rd, o)
		e.Settle()
	}
}
