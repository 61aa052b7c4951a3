package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/integration/storm"
)

// Two mounts whose kernels trust names whenever that is right, also while the other works in the
// same directory: what is not taken back in time is seen at once, here as in the storms.
func TestNamesTrusted(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount("-o", "name_cache=always"), c.Mount("-o", "name_cache=always")
	playScenes(t, a, b, []scene{
		{"Scene", namesScene},
		{"BindMount", namesBindMount},
		{"Creates", namesCreates},
		{"StormSequential", func(t *testing.T, a, b string) {
			seed := uint64(time.Now().UnixNano())
			n, err := storm.Sequential(context.Background(), storm.Config{Dirs: []string{a, b}, Seed: seed, Duration: span(4 * time.Second)})
			t.Logf("seed %d: %d steps", seed, n)
			must(t, err)
		}},
		{"StormNames", func(t *testing.T, a, b string) {
			seed := uint64(time.Now().UnixNano())
			n, err := storm.Names(context.Background(), storm.Config{Dirs: []string{a, b}, Seed: seed, Duration: span(4 * time.Second)}, 2)
			t.Logf("seed %d: %d rounds", seed, n)
			must(t, err)
		}},
	})
}

// look asks three times: the first answer may carry a timeout, and the kernel answers the next ones
// by itself.
func look(t *testing.T, p string, want error) (ino uint64) {
	t.Helper()
	for range 3 {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", p, err, want)
		}
		ino = st.Ino
	}
	return ino
}

// namesScene: each change of one mount is seen by the other at its next look, whatever it knew:
// that a name was there, that it was not, or what it led to. The other is not asked often (Fs goes
// round), nor always the same (a lease).
func namesScene(t *testing.T, a, b string) {
	gone := syscall.ENOENT
	for i := range 12 {
		x, y := a, b
		if i%2 == 1 {
			x, y = b, a
		}
		p := func(side, name string) string { return filepath.Join(side, name) }
		look(t, p(y, "one"), gone)
		look(t, p(x, "one"), gone)
		must(t, os.WriteFile(p(x, "one"), nil, 0o644))
		ino := look(t, p(y, "one"), nil)
		look(t, p(y, "two"), gone)
		must(t, os.Rename(p(x, "one"), p(x, "two")))
		look(t, p(y, "one"), gone)
		if got := look(t, p(y, "two"), nil); got != ino {
			t.Fatalf("two is %#x after the rename, one was %#x", got, ino)
		}
		must(t, os.WriteFile(p(y, "one"), nil, 0o644))
		other := look(t, p(x, "one"), nil)
		look(t, p(x, "two"), nil)
		must(t, unix.Renameat2(unix.AT_FDCWD, p(y, "one"), unix.AT_FDCWD, p(y, "two"), unix.RENAME_EXCHANGE))
		if o, w := look(t, p(x, "one"), nil), look(t, p(x, "two"), nil); o != ino || w != other {
			t.Fatalf("after an exchange one is %#x and two %#x, want %#x and %#x", o, w, ino, other)
		}
		// What the kernel knows goes with a name of its own (N5), and others change that.
		look(t, p(y, "one"), nil)
		must(t, os.Rename(p(y, "one"), p(y, "three")))
		must(t, os.Rename(p(x, "two"), p(x, "three")))
		if got := look(t, p(y, "three"), nil); got != other {
			t.Fatalf("three is %#x, want %#x", got, other)
		}
		look(t, p(y, "two"), gone)
		must(t, os.Remove(p(x, "three")))
		look(t, p(y, "three"), gone)
		look(t, p(x, "one"), gone)
	}
}

// namesBindMount: what is mounted on a name that is trusted, or below one, stays, whatever the
// other mount does beside it.
func namesBindMount(t *testing.T, a, b string) {
	mkdir(t, filepath.Join(a, "dir/place"))
	mkdir(t, filepath.Join(a, "bound"))
	must(t, os.WriteFile(filepath.Join(a, "bound/inside"), nil, 0o644))
	place := filepath.Join(b, "dir/place")
	must(t, unix.Mount(filepath.Join(b, "bound"), place, "", unix.MS_BIND, ""))
	defer unix.Unmount(place, unix.MNT_DETACH)
	for i := range 25 {
		look(t, filepath.Join(place, "inside"), nil)
		n := fmt.Sprintf("dir/n%d", i)
		look(t, filepath.Join(b, n), syscall.ENOENT)
		must(t, os.Mkdir(filepath.Join(a, n), 0o755))
		look(t, filepath.Join(b, n), nil)
		must(t, os.Rename(filepath.Join(a, "dir"), filepath.Join(a, "elsewhere")))
		must(t, os.Rename(filepath.Join(a, "elsewhere"), filepath.Join(a, "dir")))
		must(t, os.Remove(filepath.Join(a, n)))
		look(t, filepath.Join(b, n), syscall.ENOENT)
	}
	look(t, filepath.Join(place, "inside"), nil)
}

// namesCreates: both mounts create in one directory, each a name that the other has just missed.
// F5 is the normal case here: every expiry meets a CREATE that is parked behind the other's.
func namesCreates(t *testing.T, a, b string) {
	errs := make(chan error, 2)
	for w, side := range []string{a, b} {
		go func() {
			errs <- func() error {
				for i := range 60 {
					for _, n := range []string{fmt.Sprintf("%d-%d", w, i), fmt.Sprintf("%d-%d", 1-w, i)} {
						if err := unix.Access(filepath.Join(side, n), 0); err != nil && err != unix.ENOENT {
							return err
						}
					}
					f, err := os.OpenFile(filepath.Join(side, fmt.Sprintf("%d-%d", w, i)), os.O_CREATE|os.O_EXCL, 0o644)
					if err != nil {
						return err
					}
					f.Close()
				}
				return nil
			}()
		}()
	}
	for range 2 {
		must(t, <-errs)
	}
	for _, side := range []string{a, b} {
		es, err := os.ReadDir(side)
		must(t, err)
		if len(es) != 120 {
			t.Errorf("%d names in %s, want 120", len(es), side)
		}
		for w := range 2 {
			for i := range 60 {
				look(t, filepath.Join(side, fmt.Sprintf("%d-%d", w, i)), nil)
			}
		}
	}
}
