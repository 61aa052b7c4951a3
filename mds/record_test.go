package mds

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/capstan-fs/capstan/wire"
)

// The hand-written encoders write what the msgpack decoder reads: every field, in order.
func TestRecordsSurviveTheirEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := inodeRec{
			Ino: wire.Ino(rapid.Uint64().Draw(t, "ino")), Mode: rapid.Uint32().Draw(t, "mode"), UID: rapid.Uint32().Draw(t, "uid"),
			GID: rapid.Uint32().Draw(t, "gid"), Nlink: rapid.Uint32().Draw(t, "nlink"), Rdev: rapid.Uint32().Draw(t, "rdev"),
			Size: rapid.Uint64().Draw(t, "size"), Sparse: rapid.Bool().Draw(t, "sparse"), TruncSeq: rapid.Uint32().Draw(t, "seq"),
			CutFrom: rapid.Uint64().Draw(t, "cut"), Atime: drawTime(t), Mtime: drawTime(t), Ctime: drawTime(t), Btime: drawTime(t),
			Change: rapid.Uint64().Draw(t, "change"), Target: rapid.StringN(0, 300, 4000).Draw(t, "target"),
			Pool: rapid.Uint32().Draw(t, "pool"), ObjectSize: rapid.Uint32().Draw(t, "osize"), Reach: rapid.Uint64().Draw(t, "reach"),
			Xattrs: []wire.KV{}, Ranges: []rangeRec{}, Backs: []backRec{},
			Room: &inodeRoom{Quota: []uint64{}, Pin: rapid.Int32().Draw(t, "pin"), Inline: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "inline")},
		}
		nest := nestRec{RBytes: rapid.Uint64().Draw(t, "rbytes"), RFiles: in.Size, RSubdirs: in.Reach, RCtime: drawTime(t)}
		if rapid.Bool().Draw(t, "nest") {
			in.Room.Nest = &nest
		}
		for i := rapid.IntRange(0, 20).Draw(t, "xattrs"); i > 0; i-- {
			in.Xattrs = append(in.Xattrs, wire.KV{Key: rapid.String().Draw(t, "key"), Val: rapid.SliceOfN(rapid.Byte(), 0, 70000).Draw(t, "val")})
		}
		for i := rapid.IntRange(0, 17).Draw(t, "ranges"); i > 0; i-- {
			in.Ranges = append(in.Ranges, rangeRec{Session: SessionKey(rapid.Uint64().Draw(t, "s")), Max: rapid.Uint64().Draw(t, "m")})
		}
		for i := rapid.IntRange(0, 3).Draw(t, "backs"); i > 0; i-- {
			in.Backs = append(in.Backs, backRec{Dir: wire.Ino(rapid.Uint64().Draw(t, "d")), Name: "x\xff\x00y"})
		}
		want := dentryRec{Version: rapid.Uint64().Draw(t, "version"), Hash: rapid.Uint64().Draw(t, "hash"), Kind: dnHome, Ino: in.Ino, Type: in.Mode & modeType, Inode: &inodeDisk{inodeRec: in, inodeRoom: *in.Room}}
		dn := &dentry{version: want.Version, hash: want.Hash, kind: dnHome, ino: in.Ino, typ: want.Type, in: &inode{rec: in}}
		var got dentryRec
		if err := wire.Unmarshal(putDentry(nil, dn), &got); err != nil {
			t.Fatal(err)
		}
		want.Inode.Room = nil
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", *got.Inode, *want.Inode)
		}
		h := headerRec{Version: want.Version, Entries: in.Size, Subdirs: in.Reach, Mtime: in.Mtime, Ctime: in.Ctime, Change: in.Change, nestRec: nest, Frags: []uint32{}}
		var gh headerRec
		if err := wire.Unmarshal(h.put(nil), &gh); err != nil || !reflect.DeepEqual(gh, h) {
			t.Fatalf("header %+v, %v", gh, err)
		}
	})
}

// A line of the table of directories that change hands, as it is written and read.
func TestAMoveSurvivesItsEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := moveRec{Ino: wire.Ino(rapid.Uint64().Draw(t, "ino")), State: movePending, Rank: wire.Rank(rapid.Int32().Draw(t, "rank")),
			Attempt: rapid.Uint64().Draw(t, "attempt"), Named: rapid.Bool().Draw(t, "named"), Parent: wire.Ino(rapid.Uint64().Draw(t, "parent")),
			Name: "x\xff", Path: rapid.String().Draw(t, "path"), Pin: rapid.Int32().Draw(t, "pin"), Dentry: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "dentry"), Header: []byte{1}}
		var got struct {
			_msgpack struct{} `msgpack:",as_array"`
			Moves    []moveRec
		}
		if err := wire.Unmarshal(putMoves([]byte{1, 0x91}, []*move{{moveRec: want}}), &got); err != nil || len(got.Moves) != 1 || !reflect.DeepEqual(got.Moves[0], want) {
			t.Fatalf("got  %+v, %v\nwant %+v", got.Moves, err, want)
		}
	})
}

func drawTime(t *rapid.T) wire.Time {
	return wire.Time{Sec: rapid.Int64().Draw(t, "sec"), Nsec: rapid.Uint32().Draw(t, "nsec")}
}

// The encoding of a record does not change by accident: what is on disk must stay readable.
func TestGoldenRecords(t *testing.T) {
	dn := &dentry{version: 9, hash: 1 << 40, kind: dnHome, ino: 1 << 40, typ: modeReg, in: &inode{rec: inodeRec{
		Ino: 1 << 40, Mode: 0o100644, UID: 1000, Nlink: 1, Size: 70000, Mtime: wire.Time{Sec: -1, Nsec: 5}, Change: 3,
		Xattrs: []wire.KV{{Key: "user.a", Val: []byte("1")}}, Ranges: []rangeRec{{Session: 7, Max: 4096}}}}}
	const want = "039809cf0000010000000000" + "01cf0000010000000000cd8000" +
		"dc001bcf0000010000000000cd81a4cd03e8000100ce00011170c2000092000092d3ffffffffffffffff05920000920000" +
		"03a000009192a6757365722e61c40131919207cd10009000c09000c0c0c0c0"
	if got := hexString(putDentry(nil, dn)); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	h := headerRec{Version: 5, Entries: 2, Subdirs: 1, Mtime: wire.Time{Sec: 10}}
	if got, want := hexString(h.put(nil)), "019b05020192"+"0a00920000000000"+"0092000090"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	null := &dentry{version: 3}
	if got := putDentry(nil, null); !bytes.Equal(got, []byte{3, 0x98, 3, 0, 0, 0, 0, 0xc0, 0xc0, 0xc0}) {
		t.Fatalf("%x", got)
	}
	remote := &dentry{version: 4, kind: dnRemote, ino: 7, more: &dentryMore{charge: chargeRec{Bytes: 200}}}
	if got, want := hexString(putDentry(nil, remote)), "03980400020700c091ccc8c0"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	far := &dentry{version: 4, kind: dnRemote, ino: 7, typ: modeDir, more: &dentryMore{nest: nestRec{RBytes: 200, RFiles: 1}}}
	if got, want := hexString(putDentry(nil, far)), "039804000207cd4000c0c094ccc801009200"+"00"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func hexString(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// Bytes of a newer program are refused by name, not misread.
func TestUnknownRecordVersionIsRefused(t *testing.T) {
	var rec dentryRec
	if err := wire.Unmarshal([]byte{4, 0x98}, &rec); err == nil {
		t.Fatal("version 4 was read")
	}
	if _, err := decodeEntry([]byte{9}); err == nil {
		t.Fatal("entry of version 9 was read")
	}
}
