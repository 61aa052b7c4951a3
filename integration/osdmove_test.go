package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/integration/harness"
)

// An OSD is added, another drained, stopped and removed while files are written: every byte
// is there afterwards, on the OSDs that are left, with all replicas.
func TestOSDIsAddedDrainedAndRemoved(t *testing.T) {
	c := harness.Up(t)
	mnt := c.Mount()
	want := map[string][]byte{}
	put := func(n int) {
		t.Helper()
		name, data := fmt.Sprintf("f%d", n), bytes.Repeat([]byte{byte(n)}, 1000+n*7919)
		if err := os.WriteFile(filepath.Join(mnt, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		want[name] = data
	}
	for n := range 40 {
		put(n)
	}
	if out, err := c.Run("osd", "drain", "0"); err == nil || !strings.Contains(out, "too few") {
		t.Fatalf("draining one of three with three replicas: %v\n%s", err, out)
	}
	c.Must("osd", "add", "--dir", c.Dir)
	for n := 40; n < 60; n++ {
		put(n)
	}
	if out := c.Must("osd", "drain", "0"); !strings.Contains(out, "safe") {
		t.Fatal(out)
	}
	if out, err := c.Run("osd", "rm", "0"); err == nil {
		t.Fatalf("an OSD that is up was removed: %s", out)
	}
	c.Kill("osd.0")
	c.Must("osd", "down", "0")
	c.Must("osd", "rm", "0")
	for n := 60; n < 70; n++ {
		put(n)
	}
	var rows []struct{ ID int }
	if out := c.Must("osd", "df", "--json"); json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 3 || rows[0].ID != 1 {
		t.Fatalf("osd df: %s", out)
	}
	c.Unmount(mnt)
	mnt = c.Mount()
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(mnt, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
	}
	c.Must("osd", "crush", "class", "1", "ssd")
	c.Must("osd", "crush", "move", "1", "rack=r1")
	c.Must("pool", "create", "fast", "size=1", "min_size=1", "pg_num=4", "class=ssd")
	if out := c.Must("pool", "ls", "--json"); !strings.Contains(out, "replicated-ssd") {
		t.Fatal(out)
	}
	if out, err := c.Run("pool", "set", "data", "pg_num", "4"); err == nil || !strings.Contains(out, "only grow") {
		t.Fatalf("pg_num: %v %s", err, out)
	}
}
