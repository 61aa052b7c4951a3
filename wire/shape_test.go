package wire

import (
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// maxBlowup bounds the bytes of memory that Decode takes for one byte of a front. The worst
// honest record is a list of empty strings or byte strings: a slice header of 24 bytes each.
const maxBlowup = 40

func TestEveryMessageSurvivesTheWire(t *testing.T) {
	for _, e := range examples() {
		m, err := Decode(e.msg.WireType(), encoded(t, e.msg))
		if err != nil {
			t.Errorf("%v %s: %v", e.msg.WireType(), e.name, err)
		} else if !reflect.DeepEqual(m, e.msg) {
			t.Errorf("%v %s:\n sent %+v\n read %+v", e.msg.WireType(), e.name, e.msg, m)
		}
	}
}

func TestEveryMessageRefusesAnotherVersion(t *testing.T) {
	for _, e := range examples() {
		b := encoded(t, e.msg)
		for _, v := range []byte{0, b[0] + 1, 255} {
			bad := append([]byte{v}, b[1:]...)
			_, err := Decode(e.msg.WireType(), bad)
			if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), e.msg.WireType().String()) {
				t.Errorf("%v, version %d: %v", e.msg.WireType(), v, err)
			}
		}
	}
	if _, err := Decode(0xfff, []byte{1, 0x90}); !errors.Is(err, ErrUnknownType) {
		t.Errorf("a message of no known type: %v", err)
	}
}

func TestEveryMessageRefusesBytesLeftOver(t *testing.T) {
	for _, e := range examples() {
		b := encoded(t, e.msg)
		for _, more := range []string{"\x00", "\xc0", "\x01\x90", string(b)} {
			if _, err := Decode(e.msg.WireType(), append(b[:len(b):len(b)], more...)); err == nil {
				t.Errorf("%v %s with %d bytes more is taken", e.msg.WireType(), e.name, len(more))
			}
		}
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	for _, e := range examples() {
		b := encoded(t, e.msg)
		for n := range b {
			if _, err := Decode(e.msg.WireType(), b[:n]); err == nil {
				t.Errorf("%v %s cut to %d of %d bytes is taken", e.msg.WireType(), e.name, n, len(b))
			}
		}
	}
}

// A struct of fewer fields, or none at all, is not a struct with zeros: it is what a newer or
// older program sent under the same version byte, or what a hostile one sent to buy memory.
func TestNilAndShortRecordsAreRefused(t *testing.T) {
	for typ := range Types() {
		fields := reflect.TypeOf(Types()[typ]()).Elem().NumField() - 1
		for _, b := range [][]byte{{1, 0xc0}, {1, 0x91, 0}, {1, 0x80}} {
			if _, err := Decode(typ, b); err == nil && !(fields == 1 && b[1] == 0x91) {
				t.Errorf("%v: %x is taken", typ, b)
			}
		}
	}
}

// hostile makes fronts out of b that promise much: at every offset a header of each kind that
// has a length, with lengths beyond the record and lengths that just fit.
func hostile(b []byte, f func([]byte)) {
	for at := 1; at < len(b); at++ {
		for _, c := range []byte{0xdd, 0xdf, 0xc6, 0xdb} {
			for _, n := range []uint32{0xffffffff, 0x7fffffff, 1 << 20, uint32(len(b))} {
				bad := append(b[:at:at], c)
				bad = binary.BigEndian.AppendUint32(bad, n)
				f(append(bad, b[at:]...))
			}
		}
		f(append(append(b[:at:at], 0xdc, 0xff, 0xff), b[at:]...))
	}
}

// spent is how many bytes f allocates. TotalAlloc only rises, whatever the collector does.
func spent(f func()) uint64 {
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	f()
	runtime.ReadMemStats(&b)
	return b.TotalAlloc - a.TotalAlloc
}

func TestHostileFrontsAllocateNoMoreThanTheyAreWorth(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // or sync.Pools are emptied in between
	begin := time.Now()
	fronts := 0
	for _, g := range goldens(t) {
		var bad [][]byte
		total := 0
		hostile(g.front, func(b []byte) {
			bad = append(bad, b)
			total += len(b)
		})
		for n := range g.front {
			bad = append(bad, g.front[:n])
			total += n
		}
		fronts += len(bad)
		// All fronts of a message in one measurement: one that was believed would show by far.
		limit := uint64(total)*maxBlowup + uint64(len(bad))*4096
		if got := spent(func() {
			for _, b := range bad {
				Decode(g.typ, b)
			}
		}); got > limit {
			t.Errorf("%v: %d hostile fronts of %d bytes together took %d bytes of memory, the limit is %d", g.typ, len(bad), total, got, limit)
		}
	}
	t.Logf("%d hostile fronts in %v", fronts, time.Since(begin))
}

// The other side: fronts that keep their promise, of as many as possible of the cheapest
// elements that each list of each message may have.
func TestLongListsCostWhatTheyWeigh(t *testing.T) {
	const length = 256 << 10
	lists := 0
	for typ, mk := range Types() {
		top := shapeOf(reflect.TypeOf(mk()).Elem())
		for i, f := range top.fields {
			for _, path := range listsIn(f) {
				lists++
				b := []byte{versionOf(mk())}
				b = appendCount(b, len(top.fields))
				for k, g := range top.fields {
					if k == i {
						b = cheapest(b, f, path, length)
					} else {
						b = cheapest(b, g, nil, 0)
					}
				}
				if _, err := Decode(typ, b); err != nil {
					t.Fatalf("%v: field %d: %v", typ, i, err)
				}
				if got := spent(func() { Decode(typ, b) }); got > uint64(len(b))*maxBlowup {
					t.Errorf("%v: field %d (%v): a front of %d bytes takes %d", typ, i, path.typ, len(b), got)
				}
			}
		}
	}
	if lists < 30 {
		t.Errorf("only %d lists were tried", lists)
	}
}

// listsIn finds all lists in a shape, at any depth.
func listsIn(s *shape) (all []*shape) {
	if s.kind == shapeSlice {
		all = append(all, s)
	}
	if s.elem != nil {
		all = append(all, listsIn(s.elem)...)
	}
	for _, f := range s.fields {
		all = append(all, listsIn(f)...)
	}
	return all
}

// cheapest appends the shortest encoding of s in which the list `long` has as many elements as
// fill n bytes; the way there is made of lists of one element.
func cheapest(b []byte, s, long *shape, n int) []byte {
	leads := false
	for _, l := range listsIn(s) {
		leads = leads || l == long
	}
	switch s.kind {
	case shapeBool:
		return append(b, 0xc2)
	case shapeFloat:
		return append(b, 0xca, 0, 0, 0, 0)
	case shapeString:
		return append(b, 0xa0)
	case shapeBytes:
		return append(b, 0xc4, 0)
	case shapeArray:
		return append(append(b, 0xc4, byte(s.min-2)), make([]byte, s.min-2)...)
	case shapePointer:
		if !leads {
			return append(b, 0xc0)
		}
		return cheapest(b, s.elem, long, n)
	case shapeSlice:
		switch {
		case s == long:
			k := n / (s.elem.min + 1)
			b = appendCount(b, k)
			for range k {
				b = fullest(b, s.elem)
			}
			return b
		case leads:
			return cheapest(append(b, 0x91), s.elem, long, n)
		}
		return append(b, 0xc0)
	case shapeStruct:
		b = appendCount(b, len(s.fields))
		for _, f := range s.fields {
			b = cheapest(b, f, long, n)
		}
		return b
	}
	return append(b, 0)
}

// fullest is cheapest with every pointer set: a byte that buys a struct.
func fullest(b []byte, s *shape) []byte {
	switch s.kind {
	case shapePointer:
		return fullest(b, s.elem)
	case shapeStruct:
		b = appendCount(b, len(s.fields))
		for _, f := range s.fields {
			b = fullest(b, f)
		}
		return b
	}
	return cheapest(b, s, nil, 0)
}

// Whatever a peer sends: an error, or a message that means the same when it is sent on.
func FuzzDecode(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(uint16(g.typ), g.front)
		f.Add(uint16(g.typ), g.front[:len(g.front)/2])
	}
	f.Fuzz(func(t *testing.T, typ uint16, front []byte) {
		m, err := Decode(Type(typ), front)
		if err != nil {
			return
		}
		again, err := Decode(Type(typ), encoded(t, m))
		if err != nil {
			t.Fatalf("%v: what was read cannot be read again: %v", Type(typ), err)
		}
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("%v: read %+v, then %+v", Type(typ), m, again)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, e := range handMade() {
		front := encoded(b, e.msg)
		b.Run(e.msg.WireType().String()+" "+e.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				Decode(e.msg.WireType(), front)
			}
		})
	}
}
