package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// rot flips a bit in every place where the OSD's block file holds pattern, and says how many.
func rot(t *testing.T, c *harness.Cluster, osd string, pattern []byte) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, osd, "store", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if filepath.Base(name) != "block" {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; ; n++ {
			i := bytes.Index(b[at:], pattern)
			if i < 0 {
				break
			}
			if _, err := f.WriteAt([]byte{b[at+i] ^ 1}, int64(at+i)); err != nil {
				t.Fatal(err)
			}
			at += i + len(pattern)
		}
	}
	return n
}

type scrubbed struct {
	PG                                   string
	Objects, Bad, Differ, Mended, Unsure uint64
}

func deepScrub(t *testing.T, c *harness.Cluster) (sum scrubbed) {
	t.Helper()
	out := c.Must("pg", "deep-scrub", "all", "--json")
	var rows []scrubbed
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err, out)
	}
	for _, r := range rows {
		sum.Objects += r.Objects
		sum.Bad += r.Bad
		sum.Differ += r.Differ
		sum.Mended += r.Mended
		sum.Unsure += r.Unsure
	}
	return sum
}

// Bits rot on one OSD's disk. Readers see nothing of it; a deep scrub finds what nobody reads;
// afterwards every copy is good again.
func TestBitRotIsHealed(t *testing.T) {
	c := harness.Up(t, harness.Args("--osd-size", "64MiB"))
	mnt := c.Mount()
	pattern := []byte("these bytes stand once in each block of this file, and nowhere else...")
	block := append(bytes.Repeat([]byte{0}, 4096-len(pattern)), pattern...)
	var data []byte
	for i := range 64 {
		block[0] = byte(i)
		data = append(data, block...)
	}
	for _, name := range []string{"read", "scrubbed"} {
		if err := os.WriteFile(filepath.Join(mnt, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.Must("sync", mnt)
	c.Unmount(mnt)
	c.Stop() // so that blocks lie in the block file, not only in logs
	if n := rot(t, c, "osd.0", pattern); n < 64 {
		t.Fatalf("found %d of 128 blocks in osd.0's file", n)
	}
	c.Start()
	mnt = c.Mount()
	got, err := os.ReadFile(filepath.Join(mnt, "read"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	c.WaitClean(30 * time.Second)
	first := deepScrub(t, c)
	if first.Unsure != 0 || first.Differ != 0 {
		t.Fatalf("%+v", first)
	}
	if second := deepScrub(t, c); second.Bad != 0 || second.Objects < first.Objects {
		t.Fatalf("after %+v a second look finds %+v", first, second)
	}
	got, err = os.ReadFile(filepath.Join(mnt, "scrubbed"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// What is on osd.0's disk now is good: it alone must be able to answer.
	c.Unmount(mnt)
	if n := rot(t, c, "osd.1", pattern) + rot(t, c, "osd.2", pattern); n < 128 {
		t.Fatalf("found %d blocks on the others", n)
	}
	mnt = c.Mount()
	for _, name := range []string{"read", "scrubbed"} {
		if got, err := os.ReadFile(filepath.Join(mnt, name)); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s from osd.0's copies: %d bytes, %v", name, len(got), err)
		}
	}
}
