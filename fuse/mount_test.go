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

// watchdog dumps goroutines and unmounts lazily when a test takes too long: a mount that
// hangs must not take the test run with it.
func watchdog(t testing.TB, dir string, d time.Duration) {
	timer := time.AfterFunc(d, func() {
		buf := make([]byte, 1<<20)
		os.Stderr.Write(buf[:runtime.Stack(buf, true)])
		unix.Unmount(dir, unix.MNT_DETACH)
		unix.Unmount(dir, unix.MNT_FORCE)
		panic("watchdog: " + t.Name())
	})
	t.Cleanup(func() { timer.Stop() })
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
	m := &mounted{dir: t.TempDir(), rank: r}
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
	watchdog(t, m.dir, 90*time.Second)
	t.Cleanup(func() {
		if unix.Unmount(m.dir, 0) != nil {
			m.s.Abort() // a file left open by a failed test must not keep this process from ending
		}
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
