package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// What FUSE does not carry is not kept in silence: flock on a directory, and a lease, show as
// locks of this host alone; locks that the rank serves do not.
func TestLocalLocksAreSeen(t *testing.T) {
	c := harness.Up(t)
	mnt := c.Mount()
	kinds := func() map[string]int {
		t.Helper()
		var s struct {
			LocalLocks []struct{ Kind string } `json:"local_locks"`
		}
		out := c.Must("daemon", mnt, "status", "--json")
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatal(err, out)
		}
		m := map[string]int{}
		for _, l := range s.LocalLocks {
			m[l.Kind]++
		}
		return m
	}
	mkdir(t, filepath.Join(mnt, "d"))
	d, err := os.Open(filepath.Join(mnt, "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := os.Create(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if k := kinds(); len(k) != 0 {
		t.Fatalf("locks that the rank serves are taken for local: %v", k)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		t.Skipf("this kernel refuses flock on a directory of a FUSE mount: %v", err)
	}
	if k := kinds(); k["FLOCK"] != 1 {
		t.Fatalf("flock on a directory is not seen: %v", k)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Logf("this kernel refuses leases on a FUSE mount: %v", err)
	} else if k := kinds(); k["LEASE"] != 1 {
		t.Fatalf("a lease is not seen: %v", k)
	}
}
