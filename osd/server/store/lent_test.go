package store

import (
	"bytes"
	"testing"

	"github.com/capstan-fs/capstan/internal/crashdisk"
	"github.com/capstan-fs/capstan/wire"
)

// Small data of a transaction may be scribbled over as soon as Submit returns, long before it is
// durable: a member's reader uses the buffer for the next message. Large data, as soon as it is.
func scribble(b []byte) {
	for i := range b {
		b[i] = '!'
	}
}

func TestDataIsReadBeforeSubmitReturns(t *testing.T) {
	o := tight()
	disk := crashdisk.New(9)
	o.FS = disk
	s := mustOpen(t, "sim", o)
	done := make(chan error, 8)
	want := map[string][]byte{"small": fill(100, 's'), "block": fill(4096, 'b'), "direct": fill(3*8<<10+77, 'd')}
	n := uint64(0)
	for name, data := range want {
		n++
		lent := bytes.Clone(data)
		tx := put(name, n, 5, lent)
		tx.Objs[0].Muts = append(tx.Objs[0].Muts, wire.ObjOp{Kind: wire.ObjSetXattr, Key: "x", Data: lent[:50]})
		s.Submit(tx, func(err error) {
			if name == "direct" { // the others were taken when Submit returned, and are scribbled on there
				scribble(lent)
			}
			done <- err
		})
		if name != "direct" {
			scribble(lent)
		}
	}
	for range want {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		for name, data := range want {
			got := make([]byte, len(data))
			if k, err := s.Read(pgA, name, 5, got); err != nil || k != len(data) || !bytes.Equal(got, data) {
				t.Fatalf("%s: %s: %d bytes (%v), not what was submitted", when, name, k, err)
			}
			if x, _ := s.Xattr(pgA, name, "x"); !bytes.Equal(x, data[:50]) {
				t.Fatalf("%s: xattr of %s is %q", when, name, x)
			}
		}
	}
	check("before")
	disk.Kill()
	s.Close()
	s = mustOpen(t, "sim", o)
	defer s.Close()
	check("after a crash")
}
