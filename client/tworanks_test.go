package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// ranksWorld is a cluster of two ranks that do nothing by themselves but open sessions and ack
// renewals: a test answers.
type ranksWorld struct {
	t *testing.T
	c *Client

	mu      sync.Mutex
	links   [2]*rankLink
	heard   [2][]wire.Message
	dialled [2][]wire.Instance
	gone    bool // rank 1 should not be there any more
	changed chan struct{}
}

type rankLink struct {
	w    *ranksWorld
	n    int
	recv Receiver
	once sync.Once
}

func newRanksWorld(t *testing.T) *ranksWorld {
	w := &ranksWorld{t: t, changed: make(chan struct{})}
	c, err := New(context.Background(), Config{Cluster: w, Host: "test", Log: zerolog.Nop(), Now: func() int64 { return time.Now().UnixNano() }})
	if err != nil {
		t.Fatal(err)
	}
	w.c = c
	t.Cleanup(c.abandon)
	return w
}

func (w *ranksWorld) Rank(n wire.Rank) (string, wire.Instance, clustermap.RankState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > 1 || n == 1 && w.gone {
		return "", wire.Instance{}, clustermap.RankNone
	}
	return fmt.Sprint(n), wire.Instance{Kind: wire.KindMDS, Nonce: uint64(n) + 1}, clustermap.RankActive
}

func (w *ranksWorld) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *ranksWorld) Objects(wire.Instance) Objects { return noObjects{} }

type noObjects struct{}

func (noObjects) Submit(wire.ObjectID, []wire.ObjOp, wire.Epoch, ObjDone)     {}
func (noObjects) Waiting(func(wire.ObjectID) bool) (pg wire.PGID, waits bool) { return pg, false }
func (noObjects) Close()                                                      {}

func (w *ranksWorld) Dial(_ context.Context, addr string, self wire.Instance, recv Receiver) (Link, error) {
	n := int(addr[0] - '0')
	l := &rankLink{w: w, n: n, recv: recv}
	w.mu.Lock()
	w.links[n], w.dialled[n] = l, append(w.dialled[n], self)
	w.mu.Unlock()
	return l, nil
}

func (l *rankLink) Flush() {}
func (l *rankLink) Close() { l.once.Do(func() { go l.recv.Closed(nil) }) }

func (l *rankLink) Send(_ uint64, m wire.Message) error {
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m := m.(type) {
	case *wire.SessionOpen:
		o := &wire.SessionOpened{RankInstance: wire.Instance{Kind: wire.KindMDS, Nonce: uint64(l.n) + 1}, ValidityMs: 15000, KernelMs: 5000, LayoutPool: 2, ObjectSize: 1 << 22}
		if l.n == 0 {
			o.RootStat = *shown(wire.RootIno)
		}
		go l.recv.Messages([]wire.Message{o})
	case *wire.Renew:
		go l.recv.Messages([]wire.Message{&wire.RenewAck{Seq: m.Seq}})
	case *wire.Request:
		q := *m
		w.heard[l.n] = append(w.heard[l.n], &q)
	default:
		w.heard[l.n] = append(w.heard[l.n], m)
	}
	return nil
}

// shown is a directory without caps.
func shown(ino wire.Ino) *wire.InodeStat {
	return &wire.InodeStat{Ino: ino, Valid: wire.MaskAuth | wire.MaskLink | wire.MaskFile, Attr: wire.Attr{Mode: 0o40755, Nlink: 2}, Pool: 2, ObjectSize: 1 << 22}
}

// next takes the next request that rank n has heard.
func (w *ranksWorld) next(n int) *wire.Request {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, m := range w.heard[n] {
		if q, ok := m.(*wire.Request); ok {
			w.heard[n] = slices.Delete(w.heard[n], i, i+1)
			return q
		}
	}
	w.t.Fatalf("rank %d heard no request", n)
	return nil
}

func (w *ranksWorld) quiet(n int) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.heard[n]) > 0 {
		w.t.Fatalf("rank %d heard %T%+v", n, w.heard[n][0], w.heard[n][0])
	}
}

func (w *ranksWorld) tell(n int, m wire.Message) {
	w.mu.Lock()
	l := w.links[n]
	w.mu.Unlock()
	l.recv.Messages([]wire.Message{m})
	synctest.Wait()
}

// run starts a call; its end is awaited by the function that is returned.
func (w *ranksWorld) run(f func(k *Caller) error) (done func() error) {
	ch := make(chan error, 1)
	go func() { ch <- f(&Caller{}) }()
	synctest.Wait()
	return func() error {
		w.t.Helper()
		synctest.Wait()
		select {
		case err := <-ch:
			return err
		default:
			w.t.Fatal("the call has not ended")
			return nil
		}
	}
}

const dirD, fileF wire.Ino = 1 << 40, 2 << 40

// knows makes the client know D, of rank 0 as it believes.
func (w *ranksWorld) knows() {
	w.t.Helper()
	end := w.run(func(k *Caller) error { _, err := w.c.Lookup(k, wire.RootIno, "d"); return err })
	w.tell(0, &wire.Reply{Tid: w.next(0).Tid, Target: shown(dirD)})
	if err := end(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *ranksWorld) mkdir(name string) (done func() error) {
	return w.run(func(k *Caller) error {
		_, err := w.c.Mknod(k, dirD, name, Make{Mode: 0o40755})
		return err
	})
}

// toRank1 redirects the next request that rank 0 hears.
func (w *ranksWorld) toRank1() *wire.Request {
	w.t.Helper()
	q := w.next(0)
	w.tell(0, &wire.Redirect{Tid: q.Tid, Ino: dirD, Rank: 1})
	return w.next(1)
}

// A request goes to another rank when the one that was asked says so, under a tid of that session,
// which is opened then; what follows goes there at once. What rank 1 has not made durable keeps an
// fsync of its directory waiting, and nothing of rank 0 does.
func TestARedirectIsFollowedAndRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRanksWorld(t)
		w.knows()
		if len(w.dialled[1]) != 0 {
			t.Fatal("rank 1 has a session, and nobody asked for it")
		}
		made := w.mkdir("f")
		q := w.toRank1()
		if q.Tid != 1 || q.Op != wire.OpMkdir || q.Name != "f" || len(w.dialled[1]) != 1 || w.dialled[1][0] != w.dialled[0][0] {
			t.Fatalf("%+v, sessions %v", q, w.dialled)
		}
		w.tell(1, &wire.Reply{Tid: q.Tid, Early: true, Target: shown(fileF)})
		if err := made(); err != nil {
			t.Fatal(err)
		}
		w.quiet(0)
		again := w.mkdir("g")
		q = w.next(1)
		if q.Tid != 2 || q.Oldest != 1 {
			t.Fatalf("%+v", q)
		}
		w.tell(1, &wire.Reply{Tid: q.Tid, Errno: uint32(eNOENT)})
		if err := again(); err != eNOENT {
			t.Fatal(err)
		}
		w.c.mu.Lock()
		s0, s1, at := w.c.rank0.unsafeTid(), w.c.sessions[1].unsafeTid(), w.c.inodes[fileF].at.num
		w.c.mu.Unlock()
		if s0 != 0 || s1 != 1 || at != 1 {
			t.Fatalf("unsafe of rank 0: %d, of rank 1: %d; the new directory is at rank %d", s0, s1, at)
		}
		synced := w.run(func(*Caller) error { return w.c.Sync(context.Background()) })
		w.tell(1, &wire.Safe{Tid: 2})
		if err := synced(); err != nil {
			t.Fatal(err)
		}
	})
}

// Two ranks that each name the other do not make the client spin: it asks again after a pause, and
// gets there when one of them knows.
func TestRedirectsInARingPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRanksWorld(t)
		w.knows()
		end := w.run(func(k *Caller) error { _, err := w.c.Lookup(k, dirD, "x"); return err })
		at, asked := 0, 0
		for ; asked < 2*maxHops; asked++ {
			w.mu.Lock()
			n := len(w.heard[at])
			w.mu.Unlock()
			if n == 0 {
				break
			}
			q := w.next(at)
			at = 1 - at
			w.tell(1-at, &wire.Redirect{Tid: q.Tid, Ino: dirD, Rank: wire.Rank(at)})
		}
		if asked != maxHops+1 {
			t.Fatalf("asked %d times at once", asked)
		}
		time.Sleep(2 * hopPause)
		w.tell(at, &wire.Reply{Tid: w.next(at).Tid, Errno: uint32(eNOENT)})
		if err := end(); err != eNOENT {
			t.Fatal(err)
		}
	})
}

// A redirect to a rank that there should not be, by the client's map, is not waited on: one of the two
// maps is old, and rank 0 is asked again.
func TestARedirectToNobodyComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRanksWorld(t)
		w.knows()
		w.mu.Lock()
		w.gone = true
		w.mu.Unlock()
		end := w.run(func(k *Caller) error { _, err := w.c.Lookup(k, dirD, "x"); return err })
		w.tell(0, &wire.Redirect{Tid: w.next(0).Tid, Ino: dirD, Rank: 1})
		w.quiet(0)
		time.Sleep(2 * hopPause)
		w.tell(0, &wire.Reply{Tid: w.next(0).Tid, Errno: uint32(eNOENT)})
		if err := end(); err != eNOENT {
			t.Fatal(err)
		}
	})
}

// The fence is of the instance: whichever rank evicts it, the client is a new one for all of them.
func TestAnEvictionByOneRankIsOneByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRanksWorld(t)
		w.knows()
		lost := w.mkdir("f")
		w.toRank1()
		other := w.run(func(k *Caller) error { return w.c.Unlink(k, wire.RootIno, "x") })
		w.next(0)
		w.tell(1, &wire.Evicted{Reason: "test"})
		if err := lost(); err != ErrLost {
			t.Fatal(err)
		}
		if err := other(); err != ErrLost {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for n := range 2 {
			if d := w.dialled[n]; len(d) != 2 || d[0] == d[1] || d[1] != w.dialled[0][1] {
				t.Fatalf("sessions %v", w.dialled)
			}
		}
	})
}

// A rank that stops for good closes the session: what it answered is safe, what it did not is asked
// of rank 0.
func TestARankThatStopsGivesItsRequestsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRanksWorld(t)
		w.knows()
		done := w.mkdir("f")
		q := w.toRank1()
		w.tell(1, &wire.Reply{Tid: q.Tid, Early: true, Target: shown(fileF)})
		if err := done(); err != nil {
			t.Fatal(err)
		}
		waits := w.mkdir("g")
		w.next(1)
		w.mu.Lock()
		w.gone = true
		w.mu.Unlock()
		w.tell(1, &wire.SessionClosed{})
		q = w.next(0)
		if q.Name != "g" {
			t.Fatalf("%+v", q)
		}
		w.tell(0, &wire.Reply{Tid: q.Tid, Errno: uint32(eNOENT)})
		if err := waits(); err != eNOENT {
			t.Fatal(err)
		}
		synced := w.run(func(*Caller) error { return w.c.Sync(context.Background()) })
		if err := synced(); err != nil {
			t.Fatal(err)
		}
		w.c.mu.Lock()
		at := w.c.inodes[fileF].at.num
		w.c.mu.Unlock()
		if at != 0 {
			t.Fatalf("the directory is at rank %d, which is no more", at)
		}
	})
}

// A session that Close has ended is not begun again by whoever keeps the line up: nobody would
// close that one, and others would wait for what it holds until it has expired.
func TestAClosedSessionIsNotBegunAgain(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := newRanksWorld(t)
			end := make(chan error, 1)
			go func() { end <- w.c.Close(context.Background()) }()
			synctest.Wait()
			w.mu.Lock()
			closes := slices.ContainsFunc(w.heard[0], func(m wire.Message) bool { _, ok := m.(*wire.SessionClose); return ok })
			w.mu.Unlock()
			if !closes {
				t.Fatalf("rank 0 heard %v", w.heard[0])
			}
			w.tell(0, &wire.SessionClosed{})
			select {
			case err := <-end:
				if err != nil {
					t.Error(err)
				}
			default:
				t.Error("Close does not return")
			}
			if len(w.dialled[0]) != 1 {
				t.Errorf("rank 0 was dialled %d times", len(w.dialled[0]))
			}
		})
	}
}

// A signal ends the wait for a file lock also while the request is on its way from one rank to another,
// and when the session with the other is not there yet. The cancel went to the rank that no longer had it.
func TestASignalFindsALockBetweenRanks(t *testing.T) {
	for _, opened := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newRanksWorld(t)
			w.knows()
			if opened {
				made := w.mkdir("x")
				w.tell(1, &wire.Reply{Tid: w.toRank1().Tid, Errno: uint32(eNOENT)})
				made()
				w.c.mu.Lock()
				w.c.inodes[dirD].at = w.c.rank0
				w.c.mu.Unlock()
			}
			cancel := make(chan struct{})
			ch := make(chan error, 1)
			go func() {
				k := &Caller{Cancel: cancel, Killed: func(uint32) bool { return false }}
				w.c.mu.Lock()
				f := w.c.openFile(w.c.inodes[dirD], false, false, false)
				w.c.unlockFlush()
				ch <- w.c.Setlk(k, f, wire.FileLock{Type: wire.LockWrite, Owner: 1, End: EndOfFile, Wait: true})
			}()
			q := w.next(0)
			close(cancel)
			synctest.Wait()
			w.tell(0, &wire.Redirect{Tid: q.Tid, Ino: dirD, Rank: 1})
			w.mu.Lock()
			heard := slices.Clone(w.heard[1])
			w.mu.Unlock()
			for _, m := range heard {
				if l, ok := m.(*wire.LockCancel); ok {
					w.tell(1, &wire.Reply{Tid: l.Tid, Errno: uint32(syscall.EINTR)})
				}
			}
			select {
			case err := <-ch:
				if err != syscall.EINTR {
					t.Errorf("opened %v: %v", opened, err)
				}
			default:
				t.Errorf("opened %v: it waits on", opened)
				w.c.abandon()
			}
		})
	}
}

// A file that is open when the directory above it goes to another rank is announced there by itself, and
// what was at hand of it is not used any more; one that is not open is asked of that rank when it is needed.
func TestAnOpenFileFollowsItsDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRanksWorld(t)
		for ino, open := range map[wire.Ino]bool{fileF: true, fileF + 1: false} {
			st := shown(ino)
			st.Attr.Mode, st.Cap = 0o100644, &wire.Cap{ID: uint64(ino), Seq: 1, Pending: caps.Pin | caps.AuthShared | caps.FileShared | caps.FileRd | caps.FileCache}
			w.c.mu.Lock()
			w.c.ref(w.c.applyStat(w.c.rank0, st))
			w.c.mu.Unlock()
			if open {
				if _, err := w.c.Open(&Caller{}, ino, 0, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, ino := range []wire.Ino{fileF, fileF + 1, fileF + 2} {
			w.tell(0, &wire.CapGrant{Op: wire.CapExport, To: 1, Stat: wire.InodeStat{Ino: ino, Cap: &wire.Cap{}}})
		}
		q := w.next(1)
		if q.Op != wire.OpOpen || q.Ino != fileF || q.Want&caps.FileRd == 0 {
			t.Fatalf("rank 1 hears %+v", q)
		}
		w.quiet(1)
		w.quiet(0)
		st := shown(fileF)
		st.Attr.Mode, st.Cap = 0o100644, &wire.Cap{ID: 7, Seq: 1, Pending: caps.Pin | caps.FileRd}
		w.tell(1, &wire.Reply{Tid: q.Tid, Target: st})
		w.tell(0, &wire.CapGrant{Op: wire.CapExport, To: 1, Stat: wire.InodeStat{Ino: fileF, Cap: &wire.Cap{}}}) // said again
		synctest.Wait()
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		f, g := w.c.inodes[fileF], w.c.inodes[fileF+1]
		if f.at.num != 1 || f.cap.id != 7 || f.refs != 2 || g.at.num != 1 || g.cap.id != 0 || g.cap.issued != 0 || w.c.inodes[fileF+2] != nil {
			t.Errorf("open: rank %d, cap %+v, %d references; not open: rank %d, cap %+v", f.at.num, f.cap, f.refs, g.at.num, g.cap)
		}
	})
}
