package wire

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// shaker gives a value random contents, with a liking for the edges: nil and empty, and the
// numbers and lengths at which an encoding gets longer.
type shaker struct{ *rand.Rand }

var edges = []uint64{0, 1, 31, 32, 127, 128, 255, 256, math.MaxInt16, 1 << 15, math.MaxUint16, 1 << 16, math.MaxInt32, 1 << 31, math.MaxUint32, 1 << 32, math.MaxInt64, 1 << 63, math.MaxUint64}

func (r shaker) number() uint64 {
	n := edges[r.IntN(len(edges))]
	if r.IntN(3) == 0 {
		n = r.Uint64() >> r.IntN(64)
	}
	if r.IntN(2) == 0 {
		return -n
	}
	return n
}

func (r shaker) length(depth int) int {
	if depth == 0 && r.IntN(40) == 0 {
		return []int{31, 32, 255, 256, 65535, 65536}[r.IntN(6)]
	}
	return r.IntN(4)
}

func (r shaker) shake(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.number()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.number())
	case reflect.Float32, reflect.Float64:
		v.SetFloat(r.NormFloat64())
	case reflect.String:
		v.SetString(string(make([]byte, r.length(depth))))
	case reflect.Slice:
		if r.IntN(4) == 0 {
			v.SetZero()
			return
		}
		n := r.length(depth)
		if v.Type().Elem().Kind() != reflect.Uint8 && n > 255 {
			n = 17
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			r.shake(v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			r.shake(v.Index(i), depth)
		}
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			r.shake(v.Elem(), depth)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("msgpack") != "-" {
				r.shake(v.Field(i), depth)
			}
		}
	}
}

// Our encoding is msgpack's, byte for byte, and each reads what the other wrote.
func TestTheBytesAreThoseOfTheLibrary(t *testing.T) {
	for typ, make := range Types() {
		for seed := range uint64(25) {
			m := make()
			shaker{rand.New(rand.NewPCG(uint64(typ), seed))}.shake(reflect.ValueOf(m).Elem(), 0)
			ours, err := Append(nil, m)
			if err != nil {
				t.Fatal(err)
			}
			var lib bytes.Buffer
			enc := msgpack.NewEncoder(&lib)
			enc.UseCompactInts(true)
			if err := enc.Encode(m); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ours[1:], lib.Bytes()) {
				t.Fatalf("%v %+v:\nours    %x\nlibrary %x", typ, m, ours[1:], lib.Bytes())
			}
			back, theirs := make(), make()
			if err := Unmarshal(ours, back); err != nil {
				t.Fatalf("%v: %v", typ, err)
			}
			if !reflect.DeepEqual(back, m) {
				t.Fatalf("%v: %+v came back as %+v", typ, m, back)
			}
			if err := msgpack.Unmarshal(ours[1:], theirs); err != nil {
				t.Fatalf("%v: the library: %v", typ, err)
			}
			again, _ := Append(nil, theirs)
			if !bytes.Equal(again, ours) {
				t.Fatalf("%v: %+v came back from the library as %+v", typ, m, theirs)
			}
		}
	}
}

// What was decoded does not change with the buffer that it came from.
func TestDecodedMessagesOwnTheirBytes(t *testing.T) {
	for _, x := range examples() {
		b, _ := Append(nil, x.msg)
		m, err := Decode(x.msg.WireType(), b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] = 0xee
		}
		again, _ := Append(nil, m)
		want, _ := Append(nil, x.msg)
		if !bytes.Equal(again, want) {
			t.Fatalf("%v %s changed with the buffer", x.msg.WireType(), x.name)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	m := &Repl{PG: PGID{Pool: 2, Num: 3}, Interval: 9, Entries: []ReplEntry{{Rec: make([]byte, 100), Muts: []ObjOp{{Kind: ObjWrite, Off: 4096, DataLen: 4096}}}}}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Append(buf[:0], m)
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	m := &Repl{PG: PGID{Pool: 2, Num: 3}, Interval: 9, Entries: []ReplEntry{{Rec: make([]byte, 100), Muts: []ObjOp{{Kind: ObjWrite, Off: 4096, DataLen: 4096}}}}}
	buf, _ := Append(nil, m)
	b.ReportAllocs()
	for b.Loop() {
		var x Repl
		if err := Unmarshal(buf, &x); err != nil {
			b.Fatal(err)
		}
	}
}
