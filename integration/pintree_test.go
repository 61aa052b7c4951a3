package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// A directory full of files is handed from rank to rank and back while two mounts work in it: one writes to
// an open file, one makes and removes files, one has a file open that loses its name meanwhile. Either rank is
// killed on the way. Nothing that was acknowledged is lost, nobody hears an error, and fsck finds nothing.
func TestAFullDirectoryIsHandedOver(t *testing.T) {
	t.Parallel()
	harness.NeedMount(t)
	c := harness.Up(t, harness.Args("--ranks", "2", "--standbys", "2", "--beacon-interval", "500ms"))
	a, b := c.Mount(), c.Mount()
	held := awaitHolders(t, c, 2, 2)
	d := filepath.Join(a, "d")
	for i := range 8 {
		sub := filepath.Join(d, fmt.Sprint("s", i), "deep")
		must(t, os.MkdirAll(sub, 0o755))
		for j := range 8 {
			must(t, os.WriteFile(filepath.Join(sub, fmt.Sprint("f", j)), fmt.Appendf(nil, "%d/%d", i, j), 0o644))
		}
	}
	all := func(m string) {
		t.Helper()
		for i := range 8 {
			for j := range 8 {
				p := filepath.Join(m, "d", fmt.Sprint("s", i), "deep", fmt.Sprint("f", j))
				if got, err := os.ReadFile(p); err != nil || string(got) != fmt.Sprintf("%d/%d", i, j) {
					t.Errorf("%s: %q, %v", p, got, err)
				}
			}
		}
	}
	all(b)
	pin := func(m, rank string) {
		t.Helper()
		if err := setPin(filepath.Join(m, "d"), rank); err != nil {
			t.Errorf("pin to %s: %v\n%s", rank, err, c.Why())
		}
	}

	must(t, os.WriteFile(filepath.Join(d, "s0", "gone"), []byte("still here"), 0o644))
	gone, err := os.Open(filepath.Join(a, "d", "s0", "gone"))
	must(t, err)
	defer gone.Close()

	var stop atomic.Bool
	var wg sync.WaitGroup
	var lines, made int
	work := func(f func(i int) error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; !stop.Load(); i++ {
				if err := f(i); err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
			}
		}()
	}
	log, err := os.OpenFile(filepath.Join(d, "s1", "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(t, err)
	work(func(i int) error {
		_, err := fmt.Fprintf(log, "%06d\n", i)
		lines = i + 1
		return err
	})
	work(func(i int) error {
		p := func(i int) string { return filepath.Join(b, "d", "s2", "deep", fmt.Sprint("n", i)) }
		if err := os.WriteFile(p(i), fmt.Append(nil, i), 0o644); err != nil {
			return err
		}
		made = i + 1
		if i < 3 {
			return nil
		}
		if got, err := os.ReadFile(p(i - 3)); err != nil || string(got) != fmt.Sprint(i-3) {
			return fmt.Errorf("%q, %w", got, err)
		}
		return os.Remove(p(i - 3))
	})

	pin(a, "1")
	must(t, os.Remove(filepath.Join(b, "d", "s0", "gone")))
	all(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pin(b, "-1")
		pin(b, "1")
	}()
	c.Kill(held[1])
	<-done
	held = awaitHolders(t, c, 2, 1)
	done = make(chan struct{})
	go func() {
		defer close(done)
		pin(a, "-1")
	}()
	c.Kill(held[0])
	<-done
	pin(a, "1")
	stop.Store(true)
	wg.Wait()
	must(t, log.Close())

	all(a)
	buf := make([]byte, 32)
	if n, _ := gone.ReadAt(buf, 0); string(buf[:n]) != "still here" {
		t.Errorf("a file that was open when its name went has %q", buf[:n])
	}
	for _, m := range []string{a, b} {
		text, err := os.ReadFile(filepath.Join(m, "d", "s1", "log"))
		if err != nil || len(text) != 7*lines {
			t.Errorf("%d bytes of %d lines, %v", len(text), lines, err)
		}
		for i := 0; 7*(i+1) <= len(text); i++ {
			if got := string(text[7*i : 7*i+6]); got != fmt.Sprintf("%06d", i) {
				t.Fatalf("line %d is %q", i, got)
			}
		}
		names, err := os.ReadDir(filepath.Join(m, "d", "s2", "deep"))
		if want := 8 + min(made, 3); err != nil || len(names) != want {
			t.Errorf("%d files, %v; want %d", len(names), err, want)
		}
	}

	// A file lock stays with its rank: with one below, the directory does too.
	won := make(chan *os.File)
	flock(t, filepath.Join(a, "d", "s3", "deep", "f0"), won)
	f := <-won
	if err := setPin(d, "-1"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a file lock below: %v", err)
	}
	must(t, f.Close())
	eventually(t, "without the lock", func() string { // close does not wait for the unlock
		if err := setPin(filepath.Join(b, "d"), "-1"); err != nil {
			return err.Error()
		}
		return ""
	})
	all(b)
	eventually(t, "files below the root", func() string {
		if got, want := vxattr(t, a, "rfiles"), fmt.Sprint(64+1+min(made, 3)); got != want {
			return got + ", not " + want
		}
		return ""
	})
}
