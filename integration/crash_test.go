package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// ledger is what a load knows to be durable: name → bytes.
type ledger struct {
	mu   sync.Mutex
	want map[string][]byte
}

// fill creates, writes and fsyncs files (and their directory) until stop, entering into the
// ledger only what fsync returned for. Errors end it: the cluster is being killed.
func (l *ledger) fill(dir string, worker int, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name := fmt.Sprintf("w%d-%d", worker, i)
		b := bytes.Repeat([]byte(name+" "), 1+i%700)
		if err := durable(dir, name, b); err != nil {
			return
		}
		l.mu.Lock()
		l.want[name] = b
		if i%5 == 4 { // a rename that was made durable, too
			l.mu.Unlock()
			to := name + "-renamed"
			if os.Rename(filepath.Join(dir, name), filepath.Join(dir, to)) != nil || syncDir(dir) != nil {
				l.mu.Lock()
				delete(l.want, name) // either name may be the one
				l.mu.Unlock()
				return
			}
			l.mu.Lock()
			delete(l.want, name)
			l.want[to] = b
		}
		l.mu.Unlock()
	}
}

func durable(dir, name string, b []byte) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *ledger) check(t *testing.T, dir string) {
	t.Helper()
	bad := 0
	for name, want := range l.want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d of %d bytes right in length, %v", name, len(got), len(want), err)
			if bad++; bad > 10 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d durable files found", len(l.want))
}

func load(dir string, workers int) (l *ledger, halt func()) {
	l = &ledger{want: map[string][]byte{}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			l.fill(dir, w, stop)
		}()
	}
	return l, func() { close(stop); wg.Wait() }
}

// Everything is killed at once in the middle of load: daemons and mounts. What fsync returned
// for is there after the restart.
func TestKillEverythingLosesNothingFsynced(t *testing.T) {
	c := harness.Up(t, harness.Args("--session-validity", "3s")) // dead mounts are waited for
	for round := range 2 {
		m := c.Mount()
		d := mkdir(t, filepath.Join(m, fmt.Sprintf("round%d", round)))
		if err := syncDir(m); err != nil {
			t.Fatal(err)
		}
		l, halt := load(d, 4)
		time.Sleep(span(4*time.Second) / 2)
		c.Kill()
		c.KillMounts()
		halt()
		c.Start()
		m = c.Mount()
		l.check(t, filepath.Join(m, fmt.Sprintf("round%d", round)))
		if len(l.want) < 20 {
			t.Fatalf("only %d files became durable before the kill: the test shows nothing", len(l.want))
		}
		c.Unmount(m)
	}
}

// One daemon at a time is killed and started again under a mount that stays: operations wait,
// then go on, and nothing is lost.
func TestMountSurvivesRestartOfEachDaemon(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	d := mkdir(t, filepath.Join(m, "d"))
	for _, victim := range []string{"osd.1", "mds.a", "mon.a"} {
		sub := mkdir(t, filepath.Join(d, victim))
		l, halt := load(sub, 2)
		time.Sleep(time.Second)
		c.Kill(victim)
		time.Sleep(500 * time.Millisecond)
		c.Start()
		time.Sleep(2 * time.Second)
		halt()
		l.check(t, sub)
		if len(l.want) == 0 {
			t.Fatalf("nothing was written around the restart of %s", victim)
		}
		if err := os.WriteFile(filepath.Join(sub, "after"), []byte("x"), 0o644); err != nil {
			t.Fatalf("after the restart of %s: %v", victim, err)
		}
	}
}

// An OSD loses its disk while writes go on: it comes back empty under the same id, is another
// store (rule R1), and is filled again.
func TestOSDWithAnEmptyDiskIsFilledAgain(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount()
	d := mkdir(t, filepath.Join(m, "d"))
	l, halt := load(d, 2)
	time.Sleep(time.Second)
	c.Kill("osd.1")
	if err := os.RemoveAll(filepath.Join(c.Dir, "osd.1")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	c.Start()
	time.Sleep(time.Second)
	halt()
	c.WaitClean(60 * time.Second)
	// The others go: what is read now comes from the one that was filled.
	c.Unmount(m)
	m = c.Mount()
	l.check(t, filepath.Join(m, "d"))
	if len(l.want) < 10 {
		t.Fatalf("only %d durable files", len(l.want))
	}
}
