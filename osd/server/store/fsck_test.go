package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/osd/server/store/storetest"
	"github.com/capstan-fs/capstan/wire"
)

// onRealDisk makes a store with large and small objects, an omap, a log and values, all of it
// in the database, and, left by a process that died, more of it in the log only.
func onRealDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s := mustOpen(t, dir, tight())
	write := func(from, to uint64) {
		for n := from; n < to; n++ {
			tx := put(fmt.Sprint("large", n), n, 0, fill(20_000, byte('a'+n)))
			tx.Append = []osd.LogRec{{Version: wire.Version{Interval: 1, N: n}, Rec: fill(50, 'r')}}
			tx.Meta = []wire.KV{{Key: fmt.Sprint("value", n), Val: fill(40, 'v')}}
			if err := storetest.Do(s, tx); err != nil {
				t.Fatal(err)
			}
			tx = put(fmt.Sprint("small", n), n, 0, fill(300, byte('A'+n)))
			tx.Objs[0].Muts = append(tx.Objs[0].Muts, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: []wire.KV{{Key: fmt.Sprint("name", n), Val: fill(60, 'p')}}})
			if err := storetest.Do(s, tx); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(1, 8)
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	write(8, 12)
	// The files as they are now, not as a close leaves them.
	left := t.TempDir()
	for _, n := range []string{superName, blockName, walName, metaName} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(left, n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	return left
}

// limits are those of tight: the log cannot be read with others.
func fsck(t *testing.T, dir string) *Check {
	t.Helper()
	before := map[string][]byte{}
	for _, n := range []string{superName, blockName, walName, metaName} {
		before[n], _ = os.ReadFile(filepath.Join(dir, n))
	}
	c, err := FsckIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	for n, b := range before {
		if now, _ := os.ReadFile(filepath.Join(dir, n)); !bytes.Equal(now, b) {
			t.Errorf("fsck changed %s", n)
		}
	}
	return c
}

func TestFsckOfAGoodStore(t *testing.T) {
	dir := onRealDisk(t)
	c := fsck(t, dir)
	if c.Found != 0 || c.Objects != 14 || c.Pairs != 7 || c.Entries != 7 || c.Records != 8 || c.PGs != 1 {
		t.Errorf("%+v", c)
	}
	s := mustOpen(t, dir, tight())
	if _, err := FsckIn(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("of an open store: %v", err)
	}
	s.Close()
	if c := fsck(t, dir); c.Found != 0 || c.Objects != 22 || c.Pairs != 11 || c.Entries != 11 || c.Records != 0 {
		t.Errorf("after a close: %+v", c)
	}
	if _, err := FsckIn(t.TempDir()); !errors.Is(err, ErrNoStore) {
		t.Errorf("of an empty directory: %v", err)
	}
}

// A flipped bit in each of the three files, in each kind of thing that they hold, is found and
// named; and what is found by fsck is refused or read as an error by the store.
func TestFsckNamesWhatIsWrong(t *testing.T) {
	good := onRealDisk(t)
	in := func(file string, what []byte, which int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := -1
			for range which {
				k := bytes.Index(b[at+1:], what)
				if k < 0 {
					t.Fatalf("%q is not in %s", what[:min(20, len(what))], file)
				}
				at += 1 + k
			}
			b[at+len(what)/2] ^= 4
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cut := func(file string, n int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, file), n); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		what   string
		damage func(*testing.T, string)
		file   string
		kind   string
		object string
		says   string
	}{
		{"data of a large object", in(blockName, fill(4096, 'c'), 1), blockName, BadData, "large2", "bad checksum"},
		{"data of a small object", in(blockName, fill(300, 'D'), 1), blockName, BadData, "small3", "bad checksum"},
		{"data that only the log leads to", in(blockName, fill(4096, 'j'), 1), blockName, BadData, "large9", "bad checksum"},
		{"head of the block file", in(blockName, []byte("CAPBLK"), 1), blockName, BadFile, "", "not one of ours"},
		{"block file cut", cut(blockName, 1<<20), blockName, BadFile, "", "truncated"},
		{"omap value", in(metaName, append([]byte("name3"), fill(60, 'p')...), 1), metaName, BadValue, "small3", `key "name3" of omap`},
		{"named value", in(metaName, append([]byte("value3"), fill(40, 'v')...), 1), metaName, BadValue, "", `value "value3" of pg 1.3`},
		{"log entry", in(metaName, fill(50, 'r'), 3), metaName, BadValue, "", "log entry"},
		{"object record", in(metaName, []byte("large4\x01"), 1), metaName, BadValue, "", "has a bad checksum"},
		{"database cut", cut(metaName, 8192), metaName, BadPage, "", ""},
		{"record of the log", in(walName, []byte("small9"), 1), walName, BadLog, "", "lost"},
		{"head of the log", in(walName, []byte("CAPWAL"), 1), walName, BadFile, "", "not one of ours"},
		{"description", in(superName, []byte("object store"), 1), superName, BadFile, "", "no description"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			got := fsck(t, dir)
			if !slices.ContainsFunc(got.Findings, func(f Finding) bool {
				return f.File == c.file && (f.Kind == c.kind || c.kind == BadPage && f.Kind == BadFile) && f.Object == c.object && strings.Contains(f.Text, c.says) ||
					c.what == "object record" && f.Kind == c.kind && f.PG != ""
			}) {
				t.Errorf("found: %+v", got.Findings)
			}
			s, err := Open(dir, tight())
			if c.kind != BadData && c.what != "omap value" && c.what != "database cut" {
				if err == nil {
					t.Error("the store opens")
					s.Close()
				}
				return
			}
			if err != nil {
				return
			}
			defer s.Close()
			switch {
			case c.kind == BadData:
				if _, err := s.Read(pgA, c.object, 0, make([]byte, 1<<16)); !errors.Is(err, ErrBadBlock) {
					t.Errorf("read: %v", err)
				}
			case c.what == "omap value":
				if kvs, err := s.OmapGet(pgA, "small3", []string{"name3"}); !errors.Is(err, ErrCorrupt) {
					t.Errorf("omap: %v %v", kvs, err)
				}
				if kvs, _, err := s.OmapRange(pgA, "small3", "", 10); !errors.Is(err, ErrCorrupt) {
					t.Errorf("omap: %v %v", kvs, err)
				}
			}
		})
	}
}
