package fuse_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/client/fakerank"
	"github.com/capstan-fs/capstan/fuse"
)

// mounted is a real mount over a fake rank.
type mounted struct {
	dir  string
	rank *fakerank.Rank
	c    *client.Client
	s    *fuse.Server
}

// watchdog dumps goroutines and ends the connection when the mounts of this process have been asked for
// nothing for so long: a mount that hangs must not take the test run with it, and a slow machine is no
// hang.
func watchdog(t testing.TB, dir string, quiet time.Duration) {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for last, n := time.Now(), fuse.Upcalls(); time.Since(last) < quiet; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if now := fuse.Upcalls(); now != n {
				last, n = time.Now(), now
			}
		}
		buf := make([]byte, 1<<20)
		os.Stderr.Write(buf[:runtime.Stack(buf, true)])
		unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) // at once: what is detached cannot be forced any more
		panic("watchdog: " + t.Name())
	}()
}

func mount(t testing.TB, opts ...string) *mounted {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse and root")
	}
	return mountRank(t, fakerank.New(), opts...)
}

func mountRank(t testing.TB, r *fakerank.Rank, opts ...string) *mounted {
	t.Helper()
	return mountAt(t, r, t.TempDir(), opts...)
}

func mountAt(t testing.TB, r *fakerank.Rank, dir string, opts ...string) *mounted {
	t.Helper()
	m := &mounted{dir: dir, rank: r}
	gone := guarded(t, dir)
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if m.c, err = client.New(ctx, client.Config{Cluster: m.rank, Host: t.Name(), Log: log}); err != nil {
		t.Fatal(err)
	}
	if m.s, err = fuse.Mount(ctx, fuse.Config{Client: m.c, Mountpoint: m.dir, Options: opts, Log: log}); err != nil {
		t.Fatal(err)
	}
	watchdog(t, m.dir, 3*time.Minute)
	t.Cleanup(func() {
		if unix.Unmount(m.dir, 0) != nil {
			m.s.Abort() // a file left open by a failed test must not keep this process from ending
		}
		gone()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		m.c.Close(ctx)
	})
	return m
}

func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

// go-fuse's own list, whole.
func TestPosix(t *testing.T) {
	m := mount(t)
	for name, fn := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				t.Skip("expects two descriptors of one process to conflict over a POSIX lock, which they never do; go-fuse skips it too")
			}
			sub := m.path(name)
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			fn(t, sub)
			if err := os.RemoveAll(sub); err != nil {
				t.Error(err)
			}
		})
	}
}
