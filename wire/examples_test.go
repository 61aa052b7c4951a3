package wire

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
)

// filler gives every field of a value another value than its neighbours, the same ones in
// every run: a field that the encoding forgets, or swaps with another, is seen.
type filler struct{ n uint64 }

func (f *filler) next() uint64 {
	f.n++
	return f.n
}

func (f *filler) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.next()%100) + 1)
	case reflect.Uint8:
		v.SetUint(f.next()%200 + 1)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n := f.next()
		if n%3 == 0 && v.Kind() == reflect.Uint64 {
			n |= 1 << 40 // every width occurs
		}
		v.SetUint(n)
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", f.next()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			f.fill(v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.IsExported() && t.Tag.Get("msgpack") != "-" {
				f.fill(v.Field(i))
			}
		}
	default:
		panic(v.Type().String())
	}
}

type example struct {
	name string
	msg  Message
}

// examples lists every registered message filled and empty, and then frames as they really
// pass, by type and name.
func examples() []example {
	var all []example
	for _, t := range slices.Sorted(maps.Keys(Types())) {
		f := filler{uint64(t)}
		m := Types()[t]()
		f.fill(reflect.ValueOf(m).Elem())
		all = append(all, example{"filled", m}, example{"empty", Types()[t]()})
	}
	all = append(all, handMade()...)
	slices.SortStableFunc(all, func(a, b example) int { return int(a.msg.WireType()) - int(b.msg.WireType()) })
	return all
}

func handMade() []example {
	client := Instance{Kind: KindClient, Num: 7, Nonce: 0xc0ffee}
	osd := Instance{Kind: KindOSD, Num: 2, Nonce: 1 << 40}
	pg := PGID{Pool: 2, Num: 11}
	member := Member{ID: 2, UUID: UUID{0xab, 15: 0xcd}}
	v := func(n uint64) Version { return Version{Interval: 4, N: n} }
	entry := &LogEntry{Version: v(9), Prev: v(8), Object: "10000000000.00000000", Prior: v(5), After: v(9), Client: client, Tid: 31, Oldest: 30, NOps: 1}
	rec, err := Append(nil, entry)
	if err != nil {
		panic(err)
	}
	now := Time{Sec: 1_790_000_000, Nsec: 999_999_999}
	file := InodeStat{Ino: FirstFreeIno + 5, Valid: MaskAll, Pool: 2, ObjectSize: 4 << 20, TruncSeq: 1,
		Attr: Attr{Mode: 0o100644, UID: 1000, GID: 1000, Nlink: 1, Size: 12, Atime: now, Mtime: now, Ctime: now, Btime: Time{Sec: -1, Nsec: 1}, Change: 3},
		Cap:  &Cap{ID: 77, Seq: 1, Pending: caps.Pin | caps.FileShared, MaxSize: 4 << 20, Barrier: 12}}
	return []example{
		{"a client greets", &Hello{Cluster: UUID{1, 15: 2}, Instance: client, Features: 1, Session: SessionHello{ID: UUID{9}, Resume: true, Received: 1 << 33}}},
		{"of another cluster", &HelloRefused{Code: RefusedCluster, Reason: "cluster 01000000-…"}},
		{"an OSD boots", &OSDBoot{ID: 2, UUID: member.UUID, Instance: osd, Addr: "127.0.0.1:6802", Host: "a", Class: "ssd", Total: 1 << 40}},
		{"R9: a learner joins", &PGCAS{PG: pg, Interval: 4, From: 0, Instance: osd, AddMembers: []Member{member}, Reason: "osd.2 is caught up"}},
		{"M1: too late", &PGCASReply{Errno: 116, Text: "pg 2.b is in interval 5", Epoch: 40, Interval: 5}},
		{"a write of 4 KiB", &OSDOp{Epoch: 40, Oldest: 30, PG: pg, Object: entry.Object, Ops: []ObjOp{{Kind: ObjWrite, Off: 8192, DataLen: 4096}}}},
		{"create if absent", &OSDOp{Epoch: 40, Oldest: 30, PG: pg, Object: "1.head", Flags: OSDFullTry, Ops: []ObjOp{{Kind: ObjCreate, Excl: true}, {Kind: ObjOmapSet, Pairs: []KV{{Key: "k", Val: []byte{0, 255}}}}}}},
		{"stat", &OSDReply{Epoch: 41, Version: v(9), Ops: []ObjResult{{Size: 1 << 22, Allocated: 1 << 21, Version: v(9)}}}},
		{"fenced", &OSDReply{Status: OSDBlocklisted, Epoch: 41}},
		{"one entry", &Repl{PG: pg, Interval: 4, Epoch: 40, Prev: v(8), Committed: v(7), Sent: 123_456_789_012,
			Entries: []ReplEntry{{Rec: rec, Muts: []ObjOp{{Kind: ObjWrite, Off: 8192, DataLen: 4096}}}}}},
		{"R8: a cut", &ReconFix{PG: pg, Interval: 5, Common: v(8), Parts: 1, Entries: [][]byte{rec}, Objects: []ObjCopy{
			{Name: "gone", Absent: true}, {Name: entry.Object, Version: v(5), Size: 8192, Extents: []Extent{{Off: 4096, Len: 4096}}}}}},
		{"R4: a member's copy has rotted", &ReconState{PG: pg, Interval: 5, Committed: v(8), Damaged: []string{entry.Object}}},
		{"a fix", &ReconFix{PG: pg, Interval: 5, Common: v(8), Parts: 1, Mends: true, Upto: v(9), Tail: []ReplEntry{{Rec: rec, Muts: []ObjOp{{Kind: ObjWrite, Off: 8192, DataLen: 4096}}}}}},
		{"create", &Request{Tid: 31, Oldest: 30, Op: OpCreate, Ino: RootIno, Name: "naïve", UID: 1000, GID: 1000, Mode: 0o100644, Umask: 0o22, Want: caps.FileWr}},
		{"readdir", &Request{Tid: ReadTid | 4, Op: OpReaddir, Ino: RootIno, Cookie: 1<<63 - 1, Max: 1000}},
		{"created", &Reply{Tid: 31, Early: true, Safe: 29, Target: &file, Lease: &Lease{Dir: RootIno, Name: "naïve", Ino: file.Ino, Seq: 1}}},
		{"a listing", &Reply{Tid: ReadTid | 4, End: true, Complete: true, Entries: []DirEntry{{Name: "a", Ino: 5, Mode: 0o040000, Cookie: 3},
			{Name: strings.Repeat("x", MaxName), Ino: file.Ino, Mode: 0o100000, Cookie: 1<<63 - 1, Stat: &file}}}},
		{"a virtual xattr", &Reply{Tid: ReadTid | 6, Value: []byte("4096")}},
		{"a name of another rank's directory", &Reply{Tid: ReadTid | 7, Lease: &Lease{Dir: RootIno, Name: "home", Ino: file.Ino, Seq: 2}, Far: &Far{Ino: file.Ino, Rank: 3}}},
		{"to rank 3", &Export{Ino: file.Ino, Attempt: 7<<32 | 1, Parent: RootIno, Name: "naïve", Path: "/naïve", Pin: 4, Dentry: []byte{3, 0x90}, Header: []byte{1, 0x90}}},
		{"refused", &Imported{Ino: file.Ino, Attempt: 7<<32 | 1, Errno: 16}},
		{"it is yours", &ExportEnd{Ino: file.Ino, Attempt: 7<<32 | 1, Won: true}},
		{"after all", &Sums{Ino: file.Ino, Bytes: 1 << 40, Files: 3, Subdirs: 1, Ctime: now}},
		{"ENOENT", &Reply{Tid: 5, Errno: 2, Lease: &Lease{Dir: RootIno, Name: "nobody", Seq: 1}}},
		{"revoke", &CapGrant{Op: CapRevoke, Stat: file}},
		{"Fs goes, names stay", &CapUpdate{Ino: RootIno, CapID: 78, Seq: 3, Retained: caps.Pin | caps.AuthShared, Oldest: 32, Names: []string{"a", "absent"}}},
		{"its answer", &CapUpdate{Ino: file.Ino, CapID: 77, Seq: 2, Retained: caps.Pin, FlushTid: 32, Oldest: 32, Dirty: caps.FileWr, Attr: SetAttr{Size: 13, Mtime: now}}},
	}
}

func encoded(t testing.TB, m Message) []byte {
	b, err := Append(nil, m)
	if err != nil {
		t.Fatalf("%T: %v", m, err)
	}
	return b
}
