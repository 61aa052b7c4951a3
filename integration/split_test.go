package integration

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// Both pools are split under load, an OSD is killed in the middle of it and comes back with PGs
// that it has not divided: what fsync returned for is there, in PGs four times as many, all of
// them with their replicas; fsck, at the end of every test, finds nothing.
func TestPoolsAreSplitUnderLoad(t *testing.T) {
	c := harness.Up(t, harness.Args("--osds", "4", "--pg-num-data", "8", "--pg-num-meta", "4"))
	m := c.Mount()
	d := mkdir(t, filepath.Join(m, "d"))
	if err := syncDir(m); err != nil {
		t.Fatal(err)
	}
	l, halt := load(d, 4)
	files := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.want)
	}
	more := func(n int) {
		t.Helper()
		for end, want := time.Now().Add(2*time.Minute), files()+n; files() < want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the load stands still at %d files\n%s", files(), c.Why())
			}
		}
	}
	split := func(pool, n string) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
			out, err := c.Run("pool", "set", pool, "pg_num", n)
			if err == nil {
				return
			}
			if time.Now().After(end) || !strings.Contains(out, "try again") {
				t.Fatalf("pool set %s pg_num %s: %v\n%s", pool, n, err, out)
			}
		}
	}
	more(20)
	split("data", "32")
	c.Kill("osd.1")
	more(20)  // the others go on, its parts too
	c.Start() // it has slept through the split
	more(20)
	c.WaitClean(2 * time.Minute)
	split("meta", "16") // directories and the rank's journal
	more(20)
	halt()
	c.WaitClean(2 * time.Minute)
	l.check(t, d)
	c.Unmount(m)
	m = c.Mount()
	l.check(t, filepath.Join(m, "d"))

	var pgs []struct {
		PG    string `json:"pg"`
		Bytes uint64 `json:"bytes"`
	}
	if out := c.Must("pg", "ls", "--json"); json.Unmarshal([]byte(out), &pgs) != nil || len(pgs) != 48 {
		t.Fatalf("%d PGs, not 48: %s", len(pgs), out)
	}
}
