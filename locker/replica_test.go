package locker

import (
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/wire"
)

// twoRanks is auth and one replica of an object, joined by FIFO queues.
type twoRanks struct {
	auth, copy *testObject
	e          [2]*Engine
	toAuth     []Msg
	toCopy     []Msg
	woken      []*LockSet
}

func (w *twoRanks) Reissue(Object)    {}
func (w *twoRanks) Wake(s *LockSet)   { w.woken = append(w.woken, s) }
func (w *twoRanks) Pin(Object, int)   {}
func (w *twoRanks) Absorb(*Lock) bool { return true }
func (w *twoRanks) Base(*Lock)        {}
func (w *twoRanks) Tell(_ wire.Rank, l *Lock, m Msg) {
	if l.obj == Object(w.copy) {
		w.toAuth = append(w.toAuth, m)
	} else {
		w.toCopy = append(w.toCopy, m)
	}
}

// run delivers until both ranks rest.
func (w *twoRanks) run(t *testing.T) {
	t.Helper()
	for n := 0; ; n++ {
		w.e[0].Settle()
		w.e[1].Settle()
		var err error
		switch {
		case len(w.toAuth) > 0:
			m := w.toAuth[0]
			w.toAuth = w.toAuth[1:]
			err = w.e[0].Receive(&w.auth.locks[0], 1, m)
		case len(w.toCopy) > 0:
			m := w.toCopy[0]
			w.toCopy = w.toCopy[1:]
			err = w.e[1].Receive(&w.copy.locks[0], AuthRank, m)
		default:
			return
		}
		if err != nil || n > 100 {
			t.Fatalf("%v after %d messages", err, n)
		}
	}
}

func newTwoRanks(typ Type) *twoRanks {
	w := &twoRanks{auth: newObject(1, typ), copy: newObject(1, typ)}
	w.auth.replicas = []wire.Rank{1}
	w.copy.traits = Replica
	w.copy.locks[0].BeginReplica(w.auth.locks[0].Born())
	w.e = [2]*Engine{New(w), New(w)}
	return w
}

func TestReplicaAsksAndIsServed(t *testing.T) {
	w := newTwoRanks(INest)
	w.e[0].Touch(&w.auth.locks[0]) // the policy scatters a replicated inest
	w.run(t)
	if a, c := w.auth.locks[0].State(), w.copy.locks[0].State(); a != "mix" || c != "mix" {
		t.Fatalf("auth %s, replica %s", a, c)
	}
	both := []*LockSet{{Owner: Owner{1, 1}}, {Owner: Owner{2, 2}}}
	for i, o := range []*testObject{w.auth, w.copy} { // mix admits writers on both
		both[i].Begin()
		both[i].Wr(&o.locks[0])
		if done, _ := both[i].Acquire(w.e[i]); !done {
			t.Fatalf("rank %d cannot write: %v", i, o.locks[0].Describe())
		}
	}
	rd := &LockSet{Owner: Owner{3, 3}}
	rd.Begin()
	rd.Rd(&w.copy.locks[0])
	if done, _ := rd.Acquire(w.e[1]); done {
		t.Fatal("read beside a writer")
	}
	w.run(t)
	both[0].Release(w.e[0])
	w.run(t)
	if len(w.woken) != 0 {
		t.Fatal("S1: read while the replica's own writer is at work")
	}
	both[1].Release(w.e[1])
	w.run(t)
	if len(w.woken) != 1 || w.copy.locks[0].HeldBy(rd.Owner) != Rd {
		t.Fatalf("not served: auth %v, replica %v", w.auth.locks[0].Describe(), w.copy.locks[0].Describe())
	}
	rd.Release(w.e[1])
	w.run(t)
	if a, c := w.auth.locks[0].State(), w.copy.locks[0].State(); a != "mix" || c != "mix" {
		t.Fatalf("afterwards auth %s, replica %s", a, c)
	}
}

func TestXlockGathersAReplicaAndADeadOneLetsGo(t *testing.T) {
	w := newTwoRanks(IAuth)
	rd := &LockSet{Owner: Owner{3, 3}}
	rd.Begin()
	rd.Rd(&w.copy.locks[0])
	rd.Acquire(w.e[1])
	x := &LockSet{Owner: Owner{1, 1}}
	x.Begin()
	x.X(&w.auth.locks[0])
	x.Acquire(w.e[0])
	w.run(t)
	if len(w.woken) != 0 {
		t.Fatal("X1: xlock beside a reader on another rank")
	}
	w.auth.replicas = nil
	w.e[0].ReplicaGone(&w.auth.locks[0], 1) // V5
	w.e[0].Settle()
	if len(w.woken) != 1 {
		t.Fatalf("still waiting: %v", w.auth.locks[0].Describe())
	}
}

func TestUnawaitedMessagesAreErrors(t *testing.T) {
	w := newTwoRanks(IAuth)
	for _, m := range []Msg{MsgLockAck, MsgMixAck, MsgSyncData, MsgLock} {
		if w.e[0].Receive(&w.auth.locks[0], 1, m) == nil {
			t.Errorf("auth takes %v", m)
		}
	}
	for _, m := range []Msg{MsgSyncData, MsgMix, MsgLockAck, MsgReqRd, Msg(99)} {
		if w.e[1].Receive(&w.copy.locks[0], AuthRank, m) == nil {
			t.Errorf("a replica in sync takes %v", m)
		}
	}
}

func TestRebuildFitsRowsToClaims(t *testing.T) {
	for _, c := range []struct {
		why     string
		clients []ClientCaps
		traits  Traits
		state   string
		loner   uint64
		ok      bool
	}{
		{"nobody", nil, 0, "sync", 0, true},
		{"readers", []ClientCaps{{1, caps.FileRd | caps.FileCache, 0}, {2, caps.FileShared, 0}}, 0, "sync", 0, true},
		{"one writer", []ClientCaps{{1, caps.FileWr | caps.FileBuffer, 0}, {2, caps.Pin, 0}}, 0, "excl", 1, true},
		{"two writers", []ClientCaps{{1, caps.FileWr, 0}, {2, caps.FileWr | caps.FileRd, 0}}, 0, "mix", 0, true},
		{"two owners", []ClientCaps{{1, caps.FileBuffer, 0}, {2, caps.FileBuffer, 0}}, 0, "sync", 0, false},
		{"size unknown", nil, Recovering, "mix", 0, true},
	} {
		o := newObject(1, FileTypes...)
		o.clients, o.traits = c.clients, c.traits
		ok := New(&testHost{}).Rebuild(o)
		if l := Find(o.locks, IFile); ok != c.ok || l.State() != c.state || o.loner != c.loner {
			t.Errorf("%s: %v in %s, loner %d", c.why, ok, l.State(), o.loner)
		}
	}
}
