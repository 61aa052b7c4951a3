package wire

import (
	"testing"

	"github.com/capstan-fs/capstan/caps"
)

// The messages of one create, as they go over the wire.
func hot() map[string]Message {
	now := Time{Sec: 1790000000, Nsec: 123456789}
	return map[string]Message{
		"request": &Request{Tid: 123456, Oldest: 123450, Op: OpCreate, Ino: 0x10000001234, Name: "f000123", UID: 1000, GID: 1000, PID: 4711,
			Mode: 0o100644, Umask: 0o22, OpenFlags: 0x80c1, Want: caps.FileWr | caps.FileShared},
		"reply": &Reply{Tid: 123456, Early: true, Safe: 123450,
			Dir: &InodeStat{Ino: 0x10000001234, Valid: MaskFile | MaskLink, Attr: Attr{Mode: 0o40755, Nlink: 2, Size: 123, Mtime: now, Ctime: now, Atime: now, Btime: now, Change: 130}},
			Target: &InodeStat{Ino: 0x10000005678, Valid: MaskAll, Attr: Attr{Mode: 0o100644, UID: 1000, GID: 1000, Nlink: 1, Mtime: now, Ctime: now, Atime: now, Btime: now, Change: 1},
				Pool: 2, ObjectSize: 4 << 20, Cap: &Cap{ID: 99999, Seq: 1, Pending: caps.AllShared | caps.FileMask, MaxSize: 4 << 20, Barrier: 12}}},
		"update": &CapUpdate{Ino: 0x10000005678, CapID: 99999, Seq: 1, Retained: caps.AllShared, Oldest: 123450},
	}
}

func BenchmarkEncodeHot(b *testing.B) {
	for name, m := range hot() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for range b.N {
				buf, _ = Append(buf[:0], m)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkDecodeHot(b *testing.B) {
	for name, m := range hot() {
		front, err := Append(nil, m)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(front)))
			for range b.N {
				if _, err := Decode(m.WireType(), front); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
