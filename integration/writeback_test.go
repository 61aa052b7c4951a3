package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// What a mount buffers under Fb, how it comes to be durable, and what each death loses
// (docs/data.md).

type dataStats struct {
	Buffered int64  `json:"buffered_bytes"`
	Held     uint64 `json:"writes_buffered"`
	Through  uint64 `json:"writes_through"`
	Lost     uint64 `json:"flights_lost"`
}

func statsOf(t *testing.T, c *harness.Cluster, mnt string) dataStats {
	t.Helper()
	var s struct {
		Data dataStats `json:"data"`
	}
	if err := json.Unmarshal([]byte(c.Must("daemon", mnt, "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s.Data
}

// While two hosts write one file all I/O is synchronous; when one leaves, buffering comes back
// by itself, without anything being opened again.
func TestBufferingComesAndGoesWithSharing(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	f, err := os.Create(filepath.Join(a, "f"))
	must(t, err)
	defer f.Close()
	n := 0
	write := func(w *os.File) {
		t.Helper()
		n++
		_, err := w.WriteAt([]byte(fmt.Sprintf("%08d", n)), 0)
		must(t, err)
	}
	// wrote reports how many of 5 writes of A were buffered.
	wrote := func(also func()) (held, through uint64) {
		t.Helper()
		before := statsOf(t, c, a)
		for range 5 {
			write(f)
			if also != nil {
				also()
			}
		}
		now := statsOf(t, c, a)
		return now.Held - before.Held, now.Through - before.Through
	}
	if held, through := wrote(nil); held != 5 || through != 0 {
		t.Fatalf("alone: %d of 5 writes buffered, %d written through", held, through)
	}
	for range 2 { // it comes back more than once
		g, err := os.OpenFile(filepath.Join(b, "f"), os.O_RDWR, 0)
		must(t, err)
		got := make([]byte, 8)
		look := func() {
			t.Helper()
			_, err := g.ReadAt(got, 0)
			must(t, err)
			if want := fmt.Sprintf("%08d", n); string(got) != want {
				t.Fatalf("the other host reads %q, want %q", got, want)
			}
		}
		look()
		write(g)
		if held, through := wrote(look); held != 0 || through != 5 {
			t.Fatalf("beside another writer: %d of 5 writes buffered, %d written through", held, through)
		}
		must(t, g.Close())
		within(t, 10, "buffering after the other host has left", func() bool {
			held, _ := wrote(nil)
			return held == 5
		})
	}
	// A descriptor that lies about on another host, a reader's or a writer's, takes it away for
	// caps_wanted_delay only, and sees the newest all the same when it is used again.
	idle := c.Mount("--caps-wanted-delay", "200ms")
	for _, mode := range []int{os.O_RDONLY, os.O_RDWR} {
		g, err := os.OpenFile(filepath.Join(idle, "f"), mode, 0)
		must(t, err)
		within(t, 20, "buffering beside an idle descriptor", func() bool {
			held, _ := wrote(nil)
			return held == 5
		})
		got := make([]byte, 8)
		_, err = g.ReadAt(got, 0)
		must(t, err)
		if want := fmt.Sprintf("%08d", n); string(got) != want {
			t.Fatalf("the idle descriptor reads %q, want %q", got, want)
		}
		must(t, g.Close())
	}
	must(t, f.Sync())
	if s := statsOf(t, c, a); s.Buffered != 0 || s.Lost != 0 {
		t.Fatalf("after fsync: %+v", s)
	}
}

// The mount process is killed while it buffers: what was fsynced is there, byte for byte; of the
// rest some may be missing, but whatever the size covers was written, with no zeros between.
func TestKilledMountLosesOnlyWhatWasNotFsynced(t *testing.T) {
	c := harness.Up(t, harness.Args("--session-validity", "3s", "--revoke-deadline", "2s"))
	b := c.Mount()
	byteAt := func(i int) byte { return byte(1 + i*7%251) }
	lost := false
	for round := range 3 {
		a := c.Mount()
		name := fmt.Sprintf("f%d", round)
		f, err := os.Create(filepath.Join(a, name))
		must(t, err)
		const first, rest = 300_000, 9_000_000 // over two objects
		buf := make([]byte, first+rest)
		for i := range buf {
			buf[i] = byteAt(i)
		}
		_, err = f.Write(buf[:first])
		must(t, err)
		must(t, f.Sync())
		for at := first; at < len(buf); {
			n := min(1+at%70_000, len(buf)-at)
			_, err := f.Write(buf[at : at+n])
			must(t, err)
			at += n
		}
		must(t, syscall.Kill(server(t, c, a), syscall.SIGKILL))
		f.Close()
		unix.Unmount(a, unix.MNT_DETACH)
		got, err := os.ReadFile(filepath.Join(b, name))
		must(t, err)
		if len(got) < first || len(got) > len(buf) {
			t.Fatalf("round %d: %d bytes, %d were fsynced and %d written", round, len(got), first, len(buf))
		}
		lost = lost || len(got) < len(buf)
		// Objects land in any order: what lies under the end of a later one may be a hole where an
		// object, or the end of one, is missing. But what is there is right, and the fsynced part whole.
		for i := range got {
			if got[i] != byteAt(i) && (i < first || got[i] != 0) {
				t.Fatalf("round %d: byte %d is %#x, want %#x", round, i, got[i], byteAt(i))
			}
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(b, name), &st))
		if st.Size != int64(len(got)) {
			t.Fatalf("round %d: stat says %d bytes, %d are read", round, st.Size, len(got))
		}
	}
	if !lost {
		t.Log("every round's data had been written back by itself before the kill")
	}
}

// sync() hands what the kernel has to the client, which makes it durable within dirty_expire:
// after that second everything may die (B7). `capstan sync` is exact, see TestSyncVerbIsExact.
func TestSyncIsDurableWithinDirtyExpire(t *testing.T) {
	c := harness.Up(t, harness.Args("--session-validity", "3s"))
	m := c.Mount()
	for i := range 200 {
		must(t, os.WriteFile(filepath.Join(m, fmt.Sprintf("f%d", i)), bytes.Repeat([]byte{'x'}, 100+i), 0o644))
	}
	unix.Sync()
	time.Sleep(time.Second) // the promise under test
	c.KillMounts()
	c.Kill()
	c.Start()
	m = c.Mount()
	for i := range 200 {
		b, err := os.ReadFile(filepath.Join(m, fmt.Sprintf("f%d", i)))
		if err != nil || len(b) != 100+i || bytes.Count(b, []byte{'x'}) != len(b) {
			t.Errorf("f%d: %d bytes, %v", i, len(b), err)
		}
	}
}

// The rank dies, and an OSD in the next round, while a mount buffers and writes back: nothing is
// lost, and no write() fails.
func TestDaemonsDieUnderABuffer(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	for _, victim := range []string{"mds.a", "osd.1"} {
		f, err := os.Create(filepath.Join(a, victim))
		must(t, err)
		var want []byte
		put := func(until time.Time) {
			t.Helper()
			for i := 0; time.Now().Before(until); i++ {
				rec := bytes.Repeat([]byte{byte('a' + i%26)}, 1+i*37%5000)
				_, err := f.Write(rec)
				must(t, err)
				want = append(want, rec...)
				time.Sleep(2 * time.Millisecond)
			}
		}
		put(time.Now().Add(700 * time.Millisecond))
		c.Kill(victim)
		put(time.Now().Add(500 * time.Millisecond))
		c.Start()
		put(time.Now().Add(700 * time.Millisecond))
		must(t, f.Sync())
		must(t, f.Close())
		got, err := os.ReadFile(filepath.Join(b, victim))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes differ from the %d that were written", victim, len(got), len(want))
		}
	}
	if s := statsOf(t, c, a); s.Lost != 0 {
		t.Fatalf("flights were lost: %+v", s)
	}
}

// The cluster fills up behind a buffer: the error comes at fsync or close, once to each open
// file, or from write() itself; what fsync had returned for is whole, and deleting heals.
func TestFullClusterShowsAtFsync(t *testing.T) {
	c := harness.Up(t, harness.Args("--osd-size", "256MiB"))
	m := c.Mount()
	chunk := bytes.Repeat([]byte("capstan!"), 1<<17) // 1 MiB
	durable := 0
	var failed error
	for ; durable < 400 && failed == nil; durable++ {
		f, err := os.Create(filepath.Join(m, fmt.Sprintf("f%d", durable)))
		must(t, err)
		if _, err = f.Write(chunk); err == nil {
			if err = f.Sync(); err != nil {
				if again := f.Sync(); again != nil {
					t.Fatalf("fsync says %v a second time", again)
				}
			}
		}
		if cerr := f.Close(); err == nil && cerr != nil {
			t.Fatalf("close says %v after fsync has returned", cerr)
		}
		failed = err
	}
	durable--
	if e := errnoOf(failed); e != syscall.ENOSPC {
		t.Fatalf("after %d MiB: %v, want ENOSPC", durable, failed)
	}
	for i := range durable {
		got, err := os.ReadFile(filepath.Join(m, fmt.Sprintf("f%d", i)))
		must(t, err)
		if !bytes.Equal(got, chunk) {
			t.Fatalf("f%d was fsynced and is not whole", i)
		}
	}
	for i := range durable + 1 {
		must(t, os.Remove(filepath.Join(m, fmt.Sprintf("f%d", i))))
	}
	within(t, 30, "room to fsync again", func() bool {
		f, err := os.Create(filepath.Join(m, "again"))
		if err != nil {
			return false
		}
		defer f.Close()
		_, err = f.Write(chunk)
		return err == nil && f.Sync() == nil
	})
	within(t, 10, "buffering again", func() bool {
		before := statsOf(t, c, m)
		must(t, os.WriteFile(filepath.Join(m, "small"), []byte("x"), 0o644))
		return statsOf(t, c, m).Held > before.Held
	})
}

// A mount that is stopped with a full buffer is evicted: its data is gone, every file that lost
// some says so once to each open file, and the others go on.
func TestEvictedMountSaysWhatItLost(t *testing.T) {
	c := harness.Up(t, harness.Limit(time.Minute), harness.Args("--session-validity", "3s", "--revoke-deadline", "2s"))
	a, b := c.Mount(), c.Mount()
	must(t, os.WriteFile(filepath.Join(a, "calm"), []byte("calm"), 0o644))
	c.Must("sync", a)
	calm, err := os.OpenFile(filepath.Join(a, "calm"), os.O_RDWR, 0)
	must(t, err)
	defer calm.Close()
	pid := server(t, c, a)
	var f *os.File
	for try := 0; ; try++ { // until the stop comes before the write-back
		name := fmt.Sprintf("f%d", try)
		f, err = os.Create(filepath.Join(a, name))
		must(t, err)
		defer f.Close()
		_, err = f.Write([]byte("lost"))
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		got, err := os.ReadFile(filepath.Join(b, name)) // waits until A is fenced
		must(t, syscall.Kill(pid, syscall.SIGCONT))
		must(t, err)
		if len(got) == 0 {
			break
		}
		if try == 5 {
			t.Skip("the mount was never stopped in time on this machine")
		}
		must(t, f.Close())
		within(t, 10, "the mount to be back", func() bool {
			_, err := os.Stat(filepath.Join(a, "calm"))
			return err == nil
		})
	}
	within(t, 10, "the error at fsync", func() bool { return f.Sync() != nil })
	// The bytes are told once; where the create had not become durable either, its loss is a
	// second thing to tell.
	if err := f.Sync(); err != nil {
		if err = f.Sync(); err != nil {
			t.Fatalf("a third fsync of the same open file: %v", err)
		}
	}
	_, err = f.Write([]byte("anew"))
	must(t, err)
	must(t, f.Sync())
	must(t, calm.Sync())
	if log, _ := exec.Command("sh", "-c", "cat "+filepath.Join(c.Dir, "log", "mount-*")).Output(); !strings.Contains(string(log), "/f") || !strings.Contains(string(log), "lost") {
		t.Errorf("the log of the mount does not name the file that lost data")
	}
}
