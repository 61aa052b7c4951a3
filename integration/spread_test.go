package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-fs/capstan/integration/harness"
)

// A large file that is read from one end to the other is served by every OSD, as a member and
// not only as the primary of what happens to be its own; small reads and `read_spread=0` are the
// primary's. Read past the kernel's pages, each time anew.
func TestALargeReadTouchesAllMembers(t *testing.T) {
	c := harness.Up(t)
	mnt, plain := c.Mount(), c.Mount("--read-spread=0")
	want := make([]byte, 40<<20) // ten objects: hardly all of one primary
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(want)
	if err := os.WriteFile(filepath.Join(mnt, "large"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	read := func(mnt string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(mnt, "large"), os.O_RDONLY|syscall.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, len(want))
		if n, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes: %v", n, err)
		}
	}
	served := func() (n [3]uint64) {
		for i := range n {
			var s struct{ MemberReads uint64 }
			out := c.Must("daemon", fmt.Sprintf("osd.%d", i), "stats", "--json")
			if err := json.Unmarshal([]byte(out), &s); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			n[i] = s.MemberReads
		}
		return n
	}
	read(plain)
	if n := served(); n != [3]uint64{} {
		t.Errorf("with read_spread=0 members have served %v", n)
	}
	begin := time.Now()
	// The first reads find members without a lease, which they ask for.
	for end := time.Now().Add(5 * time.Minute); ; {
		read(mnt)
		n := served()
		t.Logf("%v: served as members: %v", time.Since(begin).Round(time.Millisecond), n)
		if n[0] > 0 && n[1] > 0 && n[2] > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after five minutes members have served %v", n)
		}
	}
}
