package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

type recovering struct {
	PGs      struct{ Total, Clean int }
	Recovery *struct {
		PGs, Objects, Missing uint64
		ETA                   int64 `json:"eta_seconds"`
	}
}

// An OSD loses its disk and is filled again under a running writer: `capstan status` says how
// many objects it still lacks, and in the end that it lacks none; nothing that was written, before
// or meanwhile, is lost.
func TestRecoveryIsSeenWhileItRuns(t *testing.T) {
	c := harness.Up(t, harness.Args("--osd-drop-grace=300ms", "--recovery-rate=512KiB"))
	mnt := c.Mount()
	old := bytes.Repeat([]byte("capstan "), 1<<20) // 8 MiB: two objects, and some of more files
	if err := os.WriteFile(filepath.Join(mnt, "old"), old, 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range 25 {
		if err := os.WriteFile(filepath.Join(mnt, fmt.Sprint("small", i)), old[:100<<10], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stop, wrote := make(chan struct{}), make(chan int)
	go func() { // keeps every OSD busy: recovery has to share
		for n := 0; ; n++ {
			select {
			case <-stop:
				wrote <- n
				return
			default:
			}
			if err := os.WriteFile(filepath.Join(mnt, fmt.Sprint("new", n%64)), []byte(fmt.Sprint(n)), 0o644); err != nil {
				t.Errorf("write %d: %v", n, err)
			}
		}
	}()
	defer func() {
		if stop != nil {
			close(stop)
			<-wrote
		}
	}()
	seen, text := false, ""
	for round := 0; round < 4 && !seen; round++ { // a machine that is too fast or too slow may miss it
		c.Kill("osd.2")
		if err := os.RemoveAll(filepath.Join(c.Dir, "osd.2", "store")); err != nil {
			t.Fatal(err)
		}
		c.Start()
		for end := time.Now().Add(3 * time.Minute); ; {
			var st recovering
			out := c.Must("status", "--json")
			if err := json.Unmarshal([]byte(out), &st); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if r := st.Recovery; r != nil && r.Missing > 0 && r.Objects > 0 {
				seen = true
				if s := c.Must("status"); strings.Contains(s, "are missing") {
					text = s[strings.Index(s, "recovery"):]
				}
			}
			if st.Recovery == nil && st.PGs.Total > 0 && st.PGs.Clean == st.PGs.Total {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("not recovered: %s", out)
			}
		}
	}
	if !seen {
		t.Error("an OSD was filled four times, and status never showed it")
	}
	t.Logf("%.120s", text)
	close(stop)
	n := <-wrote
	stop = nil
	c.Unmount(mnt)
	mnt = c.Mount()
	if got, err := os.ReadFile(filepath.Join(mnt, "old")); err != nil || !bytes.Equal(got, old) {
		t.Errorf("old: %d bytes, %v", len(got), err)
	}
	for k := max(0, n-64); k < n; k++ {
		if got, err := os.ReadFile(filepath.Join(mnt, fmt.Sprint("new", k%64))); err != nil || string(got) != fmt.Sprint(k) {
			t.Errorf("new%d: %q, %v, want %d", k%64, got, err, k)
		}
	}
}
