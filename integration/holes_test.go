package integration

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/integration/harness"
)

// Holes and copies across hosts: what another mount wrote, and did not sync, is data here and
// is copied; what it punched is a hole.
func TestHolesAndCopiesBetweenMounts(t *testing.T) {
	c := harness.Up(t)
	a, b := c.Mount(), c.Mount()
	open := func(p string) *os.File {
		t.Helper()
		f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o644)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	writesBehindACut(t, a, b)
	block := bytes.Repeat([]byte("w"), 64<<10)
	wa := open(a + "/f")
	must(t, wa.Truncate(40<<20))
	_, err := wa.WriteAt(block, 17<<20)
	must(t, err)
	rb := open(b + "/f")
	at := func(f *os.File, whence int, off, want int64) {
		t.Helper()
		if got, err := unix.Seek(int(f.Fd()), off, whence); err != nil || got != want {
			t.Fatalf("lseek(%d, %d) is %d, %v; want %d", off, whence, got, err, want)
		}
	}
	at(rb, unix.SEEK_DATA, 0, 17<<20)
	at(rb, unix.SEEK_HOLE, 17<<20, 17<<20+64<<10)
	_, err = wa.WriteAt(block, 3<<20) // both have it open now
	must(t, err)
	at(rb, unix.SEEK_DATA, 0, 3<<20)
	must(t, unix.Fallocate(int(rb.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 3<<20, 64<<10))
	at(wa, unix.SEEK_DATA, 0, 17<<20)

	out := open(b + "/copy")
	var in, to int64
	for to < 40<<20 {
		i, o := in, to
		n, err := unix.CopyFileRange(int(rb.Fd()), &i, int(out.Fd()), &o, int(40<<20-to), 0)
		must(t, err)
		if n == 0 {
			t.Fatalf("the copy ends at %d", to)
		}
		in, to = in+int64(n), to+int64(n)
	}
	want := make([]byte, 40<<20)
	copy(want[17<<20:], block)
	got, err := os.ReadFile(a + "/copy")
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("the other mount reads another copy")
	}
	at(open(a+"/copy"), unix.SEEK_DATA, 0, 17<<20)
	// A copy into a file that the other mount has cached shows there.
	if x, err := os.ReadFile(a + "/f"); err != nil || !bytes.Equal(x, want) {
		t.Fatalf("read: %v", err)
	}
	i, o := int64(17<<20), int64(100)
	if n, err := unix.CopyFileRange(int(out.Fd()), &i, int(rb.Fd()), &o, 5000, 0); err != nil || n != 5000 {
		t.Fatalf("%d, %v", n, err)
	}
	copy(want[100:], block[:5000])
	if x, err := os.ReadFile(a + "/f"); err != nil || !bytes.Equal(x, want) {
		t.Fatalf("a copy into a cached file does not show: %v", err)
	}
}

// writesBehindACut: whoever only writes a file is not told when another host truncates it; what it writes
// afterwards counts all the same (a log that another host rotates by copying and truncating).
func writesBehindACut(t *testing.T, a, b string) {
	t.Helper()
	w, err := os.OpenFile(a+"/log", os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	defer w.Close()
	r, err := os.OpenFile(b+"/log", os.O_RDWR, 0)
	must(t, err)
	defer r.Close()
	for range 3 {
		_, err = w.WriteAt(make([]byte, 100), 0)
		must(t, err)
		_, err = r.WriteAt([]byte("x"), 0)
		must(t, err)
		_, err = w.WriteAt([]byte("y"), 1) // both write
		must(t, err)
		must(t, r.Truncate(5))
		_, err = w.WriteAt([]byte("longer"), 5)
		must(t, err)
		must(t, w.Sync())
		for _, m := range []string{b, a} {
			st, err := os.Stat(m + "/log")
			must(t, err)
			if st.Size() != 11 {
				t.Fatalf("size %d through %s, want 11", st.Size(), m)
			}
		}
	}
}
