package client

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// killedCaller is one that a SIGKILL is found for when then has run.
func killedCaller(then func()) *Caller {
	cancel := make(chan struct{})
	close(cancel)
	return &Caller{PID: 7, Cancel: cancel, Killed: func(uint32) bool { then(); return true }}
}

// The answer comes in the very moment in which its caller is found to be killed. It was taken in as
// one that somebody hears, and nobody heard it: a file lock that was granted so stayed, for as long as
// anybody else had the file open.
func TestAnAnswerThatCrossesAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.play(t, "file f caps=pAsLsXsFscr")
		w.play(t, "handle h f r")
		f := w.files["h"]
		var err error
		done := make(chan struct{})
		go func() {
			k := killedCaller(func() { w.rank.tell(&wire.Reply{Tid: w.rank.take(wire.OpSetlk).Tid}) })
			err = w.c.Setlk(k, f, wire.FileLock{Type: wire.LockWrite, Owner: 1, End: EndOfFile, Wait: true})
			close(done)
		}()
		<-done
		synctest.Wait()
		if unlocked := strings.Contains(strings.Join(w.events, "\n"), "unlock"); err != nil && w.c.Holds(f, 1) && !unlocked {
			t.Errorf("the lock is held, and its caller was told %v", err)
		}
		w.events = nil
	})
}

// tells looks a name up that is known, and returns for how long the kernel may trust it.
func (w *world) tells(d wire.Ino, name string) time.Duration {
	e, err := w.c.Lookup(&Caller{PID: 8}, d, name)
	if e.TTL > 0 {
		w.c.Told(d, name, &e, err == nil)
	}
	return e.TTL
}

// A change whose caller was killed may still come about: until it is known whether it has, the kernel is
// not told for how long to trust names of the directory. It was, and showed the old name for a second
// after another host had seen it go; and of a rename it was believed that the kernel had followed.
func TestNoNameIsTrustedWhileAnAbandonedChangeIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := calmDirectory(t)
		w.play(t, "lookup l d a", "r2 lookup d/a")
		w.play(t, "reply lookup ino=a caps=pAsLs", "l: a")
		if w.tells(d, "a") == 0 {
			t.Fatal("a calm directory gets no timeouts: the test shows nothing")
		}
		done := make(chan error)
		go func() { done <- w.c.Rename(killedCaller(func() {}), d, "a", d, "b", 0) }()
		if err := <-done; err != ErrInterrupted {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if ttl := w.tells(d, "a"); ttl != 0 {
			t.Errorf("a is trusted for %v while its rename may be carried out", ttl)
		}
		w.events = nil
		w.play(t, "reply rename")
		w.play(t, "lookup l d b", "r3 lookup d/b")
		w.play(t, "reply lookup ino=a caps=pAsLs", "l: a")
		w.play(t, "wait 3s")
		if ttl := w.tells(d, "b"); ttl == 0 {
			t.Error("no timeouts any more")
		}
	})
}

// While the kernel is still to be told that a rename was given up, it has the old name: the answer that
// comes in between does not change that.
func TestARenameThatWasGivenUpMovesNoName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := calmDirectory(t)
		w.play(t, "lookup l d a", "r2 lookup d/a")
		w.play(t, "reply lookup ino=a caps=pAsLs", "l: a")
		w.tells(d, "a")
		go func() { w.c.Rename(killedCaller(func() {}), d, "a", d, "b", 0) }()
		synctest.Wait()
		w.events = nil
		w.play(t, "reply rename")
		w.c.mu.Lock()
		in := w.c.inodes[d]
		if !in.dir.told.trusted(w.c.now())("a") {
			t.Error("it is believed that the kernel does not trust the old name any more")
		}
		w.c.mu.Unlock()
	})
}
