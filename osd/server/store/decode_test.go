package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

func someObject() *object {
	o := &object{pg: &pgState{id: pgA}, name: "o", version: wire.Version{Interval: 2, N: 3}, size: 5 * BlockBytes, omap: 7,
		xattrs: map[string][]byte{"a": []byte("1"), "b": {}}}
	o.refs = []ref{{1, 11}, {2, 12}, {}, {9, 13}, {10, 14}}
	return o
}

func somePlan() []byte {
	v := wire.Version{Interval: 1, N: 1}
	pl := &plan{t: &osd.Txn{PG: pgA, Cut: &v, Trim: v, Committed: v, Append: []osd.LogRec{{Version: wire.Version{Interval: 1, N: 2}, Rec: []byte("rec")}},
		ClearMeta: "d/", Meta: []wire.KV{{Key: "k", Val: []byte("v")}, {Key: "gone"}}}}
	pl.t.Objs = []osd.ObjTxn{{Name: "o", Version: v}, {Name: "p", Remove: true}}
	pl.ops = []op{{kind: wire.ObjWrite, off: 5, data: []byte("data")}}
	pl.ends = []int{1, 1}
	return pl.encode(nil)
}

// Every byte of an object's record is under its checksum, but for the version, which is
// asked first: a newer program's record is not a broken one.
func TestObjectRecordsAreRefusedByName(t *testing.T) {
	good := someObject().encode()
	read := func(b []byte) error { return (&object{pg: &pgState{id: pgA}, name: "o"}).decode(b) }
	if err := read(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 4
		want := ErrCorrupt
		if i == 0 {
			want = ErrFormat
		}
		if err := read(bad); !errors.Is(err, want) || !strings.Contains(err.Error(), `"o"`) || !strings.Contains(err.Error(), pgA.String()) {
			t.Errorf("flip at %d: %v", i, err)
		}
		if err := read(good[:i]); err == nil {
			t.Errorf("cut to %d of %d bytes is taken", i, len(good))
		}
	}
}

func TestTransactionsAreRefusedByName(t *testing.T) {
	good := somePlan()
	if _, err := decodePlan(good); err != nil {
		t.Fatal(err)
	}
	newer := append([]byte{txnVersion + 1}, good[1:]...)
	if _, err := decodePlan(newer); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), walName) {
		t.Errorf("a newer version: %v", err)
	}
	for i := range good {
		if _, err := decodePlan(good[:i]); err == nil {
			t.Errorf("cut to %d of %d bytes is taken", i, len(good))
		}
	}
}

func TestPGHeadsAreRefusedByName(t *testing.T) {
	p := &pgState{id: pgA}
	good := p.encodeHead()
	if err := (&pgState{id: pgA}).decodeHead(good); err != nil {
		t.Fatal(err)
	}
	newer := append([]byte{good[0] + 1}, good[1:]...)
	if err := (&pgState{id: pgA}).decodeHead(newer); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), pgA.String()) {
		t.Errorf("a newer version: %v", err)
	}
	for i := range good {
		if (&pgState{id: pgA}).decodeHead(good[:i]) == nil {
			t.Errorf("cut to %d of %d bytes is taken", i, len(good))
		}
	}
}

func FuzzObjectRecord(f *testing.F) {
	b := someObject().encode()
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		// With a right checksum, or the fuzzer would only ever see that one.
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
		o := &object{pg: &pgState{id: pgA}, name: "o"}
		if o.decode(b) == nil && len(o.refs) > MaxObjectBytes/BlockBytes {
			t.Fatalf("%d blocks", len(o.refs))
		}
	})
}

func FuzzTransaction(f *testing.F) {
	f.Add(somePlan())
	f.Fuzz(func(t *testing.T, b []byte) {
		if pl, err := decodePlan(b); err == nil {
			again, err := decodePlan(pl.encode(nil))
			if err != nil || len(again.ops) != len(pl.ops) || again.t.PG != pl.t.PG {
				t.Fatalf("read once, then %v", err)
			}
		}
	})
}
