package crashdisk

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
)

func create(t *testing.T, d FS, name string, size int) File {
	t.Helper()
	f, err := d.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), d.SyncDir()); err != nil {
		t.Fatal(err)
	}
	return f
}

// Over many seeds an unsynced write of four sectors must be seen kept, lost, torn, and torn
// with a later sector kept and an earlier one lost; a synced one always whole.
func TestUnsyncedWritesAreLostTornAndReordered(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		d := New(seed)
		f := create(t, d, "f", 8*SectorBytes)
		f.WriteAt(bytes.Repeat([]byte{1}, 4*SectorBytes), 0)
		f.Sync()
		f.WriteAt(bytes.Repeat([]byte{2}, 4*SectorBytes), 4*SectorBytes)
		d.Crash()
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrCrashed) {
			t.Fatalf("a read after the crash: %v", err)
		}
		d.Recover()
		if _, err := f.WriteAt([]byte{1}, 0); !errors.Is(err, ErrCrashed) {
			t.Fatalf("a handle of an earlier life writes: %v", err)
		}
		g, err := d.Open("f")
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8*SectorBytes)
		g.ReadAt(b, 0)
		if !bytes.Equal(b[:4*SectorBytes], bytes.Repeat([]byte{1}, 4*SectorBytes)) {
			t.Fatalf("seed %d: synced bytes are gone", seed)
		}
		pat := ""
		for i := 4; i < 8; i++ {
			s := b[i*SectorBytes : (i+1)*SectorBytes]
			if !bytes.Equal(s, bytes.Repeat(s[:1], SectorBytes)) {
				t.Fatalf("seed %d: a sector is torn", seed)
			}
			pat += string('0' + s[0])
		}
		seen[pat] = true
	}
	for _, pat := range []string{"0000", "2222", "2000", "0002", "0220"} {
		if !seen[pat] {
			t.Errorf("%s never happened", pat)
		}
	}
}

func TestDirectoryChangesAreLostFromTheEnd(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(100) {
		d := New(seed)
		create(t, d, "old", 10)
		d.Create("tmp")
		d.Rename("tmp", "new")
		d.Remove("old")
		d.Crash()
		d.Recover()
		names, _ := d.List()
		pat := ""
		for _, n := range names {
			pat += n + " "
		}
		seen[pat] = true
	}
	for _, pat := range []string{"old ", "old tmp ", "new old ", "new "} {
		if !seen[pat] {
			t.Errorf("%q never happened: %v", pat, seen)
		}
	}
	if len(seen) != 4 {
		t.Errorf("also %v", seen)
	}
}

func TestCellsAreAtomicAndKillKeepsThePageCache(t *testing.T) {
	old, kept := 0, 0
	for seed := range uint64(50) {
		d := New(seed)
		f := create(t, d, "f", 10)
		if err := d.Commit("c", d.Life(), 1); err != nil {
			t.Fatal(err)
		}
		f.WriteAt([]byte{7}, 0)
		d.Kill()
		if err := d.Commit("c", 0, 9); !errors.Is(err, ErrCrashed) {
			t.Fatalf("a dead process commits: %v", err)
		}
		g, _ := d.Open("f")
		b := []byte{0}
		if g.ReadAt(b, 0); b[0] != 7 {
			t.Fatal("kill lost a write")
		}
		d.CrashAt(1)
		if err := d.Commit("c", d.Life(), 2); !errors.Is(err, ErrCrashed) {
			t.Fatal(err)
		}
		d.Recover()
		switch d.Cell("c") {
		case 1:
			old++
		case 2:
			kept++
		}
	}
	if old == 0 || kept == 0 || old+kept != 50 {
		t.Errorf("interrupted commits: %d lost, %d kept", old, kept)
	}
}

// Both directories answer alike.
func TestRealAndSimulatedAgree(t *testing.T) {
	for name, d := range map[string]FS{"os": OS(t.TempDir()), "disk": New(1)} {
		f := create(t, d, "a", 100)
		if _, err := d.Create("a"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: create over a file: %v", name, err)
		}
		if _, err := d.Open("b"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: open of nothing: %v", name, err)
		}
		if err := d.Remove("b"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: remove of nothing: %v", name, err)
		}
		if n, err := f.ReadAt(make([]byte, 200), 0); n != 100 || err == nil {
			t.Errorf("%s: read over the end: %d %v", name, n, err)
		}
		if err := f.Truncate(50); err != nil {
			t.Error(err)
		}
		if n, err := f.Size(); n != 50 || err != nil {
			t.Errorf("%s: size %d %v", name, n, err)
		}
		if err := d.Rename("a", "z"); err != nil {
			t.Error(err)
		}
		if l, err := d.List(); err != nil || len(l) != 1 || l[0] != "z" {
			t.Errorf("%s: list %v %v", name, l, err)
		}
		f.Close()
	}
}
