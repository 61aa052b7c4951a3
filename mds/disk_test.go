package mds

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// onDisk is one of each record that a rank keeps in objects or in its journal.
func onDisk(t testing.TB) map[string][]byte {
	put := func(v any) []byte {
		b, err := wire.Append(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	in := &inodeRec{Ino: 1 << 40, Mode: 0o100644, Nlink: 1, Xattrs: []wire.KV{{Key: "user.a", Val: []byte("1")}},
		Ranges: []rangeRec{{Session: 7, Max: 4096}}, Backs: []backRec{{Dir: 1, Name: "b"}}}
	dn := put(&dentryRec{Version: 9, Kind: dnHome, Ino: in.Ino, Type: modeReg, Inode: &inodeDisk{inodeRec: *in}})
	hdr := put(&headerRec{Version: 5, Entries: 2, Frags: []uint32{1}})
	sess := sessionRec{Instance: wire.Instance{Kind: wire.KindClient, Nonce: 3}, Host: "h", Oldest: 2}
	return map[string][]byte{
		"dentryRec": dn,
		"headerRec": hdr,
		"indexRec":  put(&indexRec{}),
		"entryRec": put(&entryRec{Session: 7, Tid: 3, Dentries: []entryDentry{{Dir: 1, Name: "a", Rec: dn}}, Headers: []entryHeader{{Dir: 1, Rec: hdr}},
			Opened: []sessionRec{sess}, Closed: []SessionKey{4}, Tables: &tablesRec{Sessions: []sessionRec{sess}, InoEnd: 5, InoMax: 6}}),
	}
}

func readRecord(name string, b []byte) error {
	switch name {
	case "dentryRec":
		return wire.Unmarshal(b, &dentryRec{})
	case "headerRec":
		_, err := decodeHeader([]wire.KV{{Key: headerXattr, Val: b}})
		return err
	case "indexRec":
		return wire.Unmarshal(b, &indexRec{})
	}
	_, err := decodeEntry(b)
	return err
}

// A record of a newer program, or one that lost its end, is an error that says what it was;
// no flipped byte is worse than an error. (Whether flips are noticed at all is the matter of
// the checksums below: the journal's frames and the store's blocks have them.)
func TestEveryRecordRefusesAnotherVersionByName(t *testing.T) {
	for name, b := range onDisk(t) {
		if err := readRecord(name, b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, v := range []byte{0, b[0] + 1, 255} {
			err := readRecord(name, append([]byte{v}, b[1:]...))
			if !errors.Is(err, wire.ErrVersion) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), fmt.Sprint("version ", v)) {
				t.Errorf("%s of version %d: %v", name, v, err)
			}
		}
		for i := range b {
			if readRecord(name, b[:i]) == nil {
				t.Errorf("%s cut to %d of %d bytes is taken", name, i, len(b))
			}
			for _, bit := range []byte{1, 0x10, 0x80, 0xff} {
				bad := append([]byte(nil), b...)
				bad[i] ^= bit
				readRecord(name, bad)
			}
		}
	}
}

func FuzzRecords(f *testing.F) {
	for _, b := range onDisk(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{"dentryRec", "headerRec", "indexRec", "entryRec"} {
			readRecord(name, b)
		}
		// Records are encoded by hand: what is read must be written as it was.
		var h headerRec
		if wire.Unmarshal(b, &h) == nil {
			var again headerRec
			if err := wire.Unmarshal(h.put(nil), &again); err != nil {
				t.Fatal(err)
			}
		}
	})
}
