package lockcert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The workers are this test binary, started again.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == Verb {
		if err := Worker(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// mounts are two bind mounts of one directory of the local file system where that may be
// made, else two paths to it.
func mounts(t *testing.T) []string {
	t.Helper()
	return mountsBelow(t, t.TempDir())
}

// ext4 is a directory on a fresh ext4 in a loop file, or the reason why there is none.
func ext4(t *testing.T) (dir, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return "", "needs root to mount"
	}
	img, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(f.Truncate(200<<20), f.Close())
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", img}, {"mount", "-o", "loop", img, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Sprintf("%v: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) }) // the loop device goes with it
	return dir, ""
}

func mountsBelow(t *testing.T, base string) []string {
	t.Helper()
	var dirs []string
	real := filepath.Join(base, "real")
	for _, d := range []string{real, filepath.Join(base, "a"), filepath.Join(base, "b")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if d == real {
			continue
		}
		if unix.Mount(real, d, "", unix.MS_BIND, "") == nil {
			t.Cleanup(func() { unix.Unmount(d, unix.MNT_DETACH) })
		} else {
			os.Remove(d)
			if err := os.Symlink(real, d); err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, d)
	}
	return dirs
}

// ext4 through two bind mounts is the reference: what fails there is an error of the kit. Where
// no loop device is to be had it is the file system of the temporary directory.
func TestTheLocalFileSystemConforms(t *testing.T) {
	base, why := ext4(t)
	if why != "" {
		t.Logf("no ext4 in a loop file: %s", why)
		base = t.TempDir()
	}
	rep, err := Run(context.Background(), Config{Dirs: mountsBelow(t, base), Slice: 30 * time.Millisecond, Grace: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var sb strings.Builder
	rep.WriteMatrix(&sb)
	if testing.Verbose() || !rep.Conformant() {
		t.Log("\n" + sb.String())
	}
	if !rep.Conformant() {
		t.Fatalf("seed %d", rep.Seed)
	}
}

// Each wrong implementation is noticed by the checks that are named beside it. A
// race may need several laps on a busy machine: it goes on until all have failed. Most of the
// time goes into waiting for calls that never return, so all are tried at once.
func TestEveryWrongImplementationIsCaught(t *testing.T) {
	var wg sync.WaitGroup
	room := make(chan struct{}, 12)
	for _, f := range Faults {
		dirs := mounts(t)
		for _, check := range f.Catches {
			wg.Add(1)
			go func() {
				defer wg.Done()
				room <- struct{}{}
				defer func() { <-room }()
				caught(t, f, check, dirs)
			}()
		}
	}
	wg.Wait()
}

func caught(t *testing.T, f Fault, check string, dirs []string) {
	patience := 1200 * time.Millisecond
	if f.Across {
		patience = 30 * time.Second // on one mount it must pass, on a busy machine too
	}
	rep, err := Run(context.Background(), Config{Dirs: slices.Clone(dirs), Only: []string{check}, wrong: f.Name, Seed: seeds.Add(1),
		Slice: 100 * time.Millisecond, Minutes: 0.3, Grace: 20 * time.Millisecond, Patience: patience})
	if err != nil {
		t.Errorf("%s: %v", f.Name, err)
		return
	}
	for _, x := range rep.Results {
		want := !f.Across || x.Place == Across
		if failed := x.Status == Fail; failed != want {
			t.Errorf("%s: %s, %s: failed is %v, must be %v (seed %d): %s\n%s", f.Name, x.Check, x.Place, failed, want, rep.Seed, x.Detail, strings.Join(Timeline(x.Trace), "\n"))
		} else if failed && len(x.Trace) == 0 {
			t.Errorf("%s: %s, %s fails without a counter-example: %s", f.Name, x.Check, x.Place, x.Detail)
		}
	}
}

// seeds also keep the directories of runs in one file system apart.
var seeds atomic.Uint64

// No check is there for show: some wrong implementation makes it fail. What is always
// reported apart differs already on correct kernels; what restarts a server has one to be wrong
// in the tests of integration/ only.
func TestEveryCheckCanFail(t *testing.T) {
	caught := map[string]bool{}
	for _, f := range Faults {
		checks, err := Select(f.Catches)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		for _, c := range checks {
			caught[c.Name] = true
		}
	}
	for _, c := range Checks {
		if !caught[c.Name] && c.Apart != "always" && !c.disturb {
			t.Errorf("no wrong implementation is caught by %s", c.Name)
		}
	}
}

// Two directories that are not one file system can not be judged.
func TestTwoFileSystemsAreRefused(t *testing.T) {
	_, err := Run(context.Background(), Config{Dirs: []string{t.TempDir(), t.TempDir()}, Patience: 200 * time.Millisecond})
	if !errors.Is(err, ErrSetup) {
		t.Fatalf("err = %v", err)
	}
}
