package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/capstan-fs/capstan/integration/harness"
	"github.com/capstan-fs/capstan/integration/posix"
	"github.com/capstan-fs/capstan/integration/storm"
)

// long reports whether the long set was asked for.
func long() bool { return os.Getenv("CAPSTAN_REAL") != "" }

// span is a storm's duration: short in `make test`, a minute in `make real`.
func span(short time.Duration) time.Duration {
	if long() {
		return time.Minute
	}
	return short
}

func mkdir(t testing.TB, p string) string {
	t.Helper()
	if err := os.MkdirAll(p, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, 0o777); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPosix(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount("-o", "allow_other")
	posix.Run(t, mkdir(t, filepath.Join(m, "posix")), append(posix.Checks, posix.Beyond...))
}

// skips names each case of go-fuse's list that does not apply, with its reason.
var skips = map[string]string{
	"FcntlFlockLocksFile": "expects two descriptors of one process to conflict over a POSIX lock, which no POSIX file system does; go-fuse's own test list leaves it out too",
}

func TestGoFusePosixtest(t *testing.T) {
	c := harness.Up(t)
	m := c.Mount("-o", "allow_other")
	for name, run := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if why := skips[name]; why != "" {
				t.Skip(why)
			}
			run(t, mkdir(t, filepath.Join(m, name)))
		})
	}
}

func TestStormOfTwoMounts(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	ctx := context.Background()
	seed := uint64(time.Now().UnixNano())
	cfg := func(sub string, d time.Duration) storm.Config {
		mkdir(t, filepath.Join(a, sub))
		return storm.Config{Dirs: []string{filepath.Join(a, sub), filepath.Join(b, sub)}, Seed: seed, Duration: span(d)}
	}
	t.Run("sequential", func(t *testing.T) {
		n, err := storm.Sequential(ctx, cfg("seq", 15*time.Second))
		t.Logf("seed %d: %d steps", seed, n)
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("names", func(t *testing.T) {
		n, err := storm.Names(ctx, cfg("names", 8*time.Second), 2)
		t.Logf("seed %d: %d rounds", seed, n)
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("blocks", func(t *testing.T) {
		n, err := storm.Blocks(ctx, cfg("blocks", 8*time.Second), 2)
		t.Logf("seed %d: %d rounds", seed, n)
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("appends", func(t *testing.T) {
		n, err := storm.Appends(ctx, cfg("appends", 5*time.Second), 2)
		t.Logf("seed %d: %d records", seed, n)
		if err != nil {
			t.Fatal(err)
		}
	})
}
