package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// errShape is what a record gets that is no encoding of its type: counts or lengths that
// promise more than there is, too few or too many fields, a number where a name should be.
var errShape = errors.New("the bytes do not have the shape of the record")

// A shape is what the encoding of a Go type looks like, and how to encode and decode it. A
// record is compared with its shape before it is decoded: a slice has as many elements as its
// count says before the first one is read, so thirty bytes from a peer could otherwise ask
// for all memory. Against the shape every element costs what its type costs at least; what is
// left to a hostile peer is maxBlowup (shape_test.go).
type shape struct {
	kind   shapeKind
	typ    reflect.Type
	min    int      // bytes of the shortest encoding
	elem   *shape   // of a slice or pointer
	fields []*shape // of a struct

	size    uintptr // of the type in memory
	gokind  reflect.Kind
	offsets []uintptr     // of the fields
	none    reflect.Value // slice: empty, but not nil
}

type shapeKind uint8

const (
	shapeInt shapeKind = iota
	shapeBool
	shapeFloat
	shapeString
	shapeBytes
	shapeArray // of bytes, fixed: an id
	shapeSlice
	shapePointer
	shapeStruct
)

var shapes sync.Map // reflect.Type of a struct → *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := makeShape(t)
	shapes.Store(t, s)
	return s
}

func makeShape(t reflect.Type) *shape {
	s := &shape{typ: t, min: 1, size: t.Size(), gokind: t.Kind()}
	switch t.Kind() {
	case reflect.Bool:
		s.kind = shapeBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.kind = shapeInt
	case reflect.Float32, reflect.Float64:
		s.kind, s.min = shapeFloat, 5
	case reflect.String:
		s.kind = shapeString
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			s.kind = shapeBytes
			break
		}
		s.kind, s.elem = shapeSlice, makeShape(t.Elem())
		s.none = reflect.MakeSlice(t, 0, 0)
	case reflect.Pointer:
		s.kind, s.elem = shapePointer, makeShape(t.Elem())
	case reflect.Array:
		if t.Elem().Kind() != reflect.Uint8 || t.Len() > 255 {
			panic(fmt.Sprintf("wire: no shape for %v", t))
		}
		s.kind, s.min = shapeArray, 2+t.Len()
	case reflect.Struct:
		s.kind = shapeStruct
		s.addFields(t, 0)
		if len(s.fields) > 15 {
			s.min += 2
		}
		for _, f := range s.fields {
			s.min += f.min
		}
	default:
		panic(fmt.Sprintf("wire: no shape for %v", t))
	}
	return s
}

// addFields follows the encoder: embedded structs bring their fields with them.
func (s *shape) addFields(t reflect.Type, at uintptr) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Name == "_msgpack" || f.Tag.Get("msgpack") == "-":
		case f.Anonymous && f.Type.Kind() == reflect.Struct:
			s.addFields(f.Type, at+f.Offset)
		case f.IsExported():
			s.fields = append(s.fields, makeShape(f.Type))
			s.offsets = append(s.offsets, at+f.Offset)
		}
	}
}

// check reports whether b is one encoding of the shape and what follows it.
func (s *shape) check(b []byte) (rest []byte, err error) {
	if len(b) < s.min {
		return nil, errShape
	}
	c := b[0]
	switch s.kind {
	case shapeInt:
		switch {
		case c < 0x80 || c >= 0xe0:
			return b[1:], nil
		case c >= 0xcc && c <= 0xd3:
			return skip(b, 1+1<<((c-0xcc)&3))
		}
	case shapeBool:
		if c == 0xc2 || c == 0xc3 {
			return b[1:], nil
		}
	case shapeFloat:
		if c == 0xca || c == 0xcb {
			return skip(b, 1+4<<(c-0xca))
		}
	case shapeString:
		if c >= 0xa0 && c < 0xc0 {
			return skip(b, 1+int(c&0x1f))
		}
		if c >= 0xd9 && c <= 0xdb {
			return skipLong(b, 1<<(c-0xd9))
		}
	case shapeBytes:
		if c == 0xc0 {
			return b[1:], nil
		}
		if c >= 0xc4 && c <= 0xc6 {
			return skipLong(b, 1<<(c-0xc4))
		}
	case shapeArray:
		if c == 0xc4 && int(b[1]) == s.min-2 {
			return b[s.min:], nil
		}
	case shapePointer:
		if c == 0xc0 {
			return b[1:], nil
		}
		return s.elem.check(b)
	case shapeSlice:
		if c == 0xc0 {
			return b[1:], nil
		}
		n, b, err := count(b)
		if err != nil || n > len(b)/s.elem.min {
			return nil, errShape
		}
		for range n {
			if b, err = s.elem.check(b); err != nil {
				return nil, err
			}
		}
		return b, nil
	case shapeStruct:
		n, b, err := count(b)
		if err != nil || n != len(s.fields) {
			return nil, errShape
		}
		for _, f := range s.fields {
			if b, err = f.check(b); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, errShape
}

// count reads the header of an array.
func count(b []byte) (int, []byte, error) {
	switch c := b[0]; {
	case c >= 0x90 && c < 0xa0:
		return int(c & 0xf), b[1:], nil
	case c == 0xdc && len(b) >= 3:
		return int(binary.BigEndian.Uint16(b[1:])), b[3:], nil
	case c == 0xdd && len(b) >= 5:
		return int(binary.BigEndian.Uint32(b[1:])), b[5:], nil
	}
	return 0, nil, errShape
}

func skip(b []byte, n int) ([]byte, error) {
	if n > len(b) {
		return nil, errShape
	}
	return b[n:], nil
}

// skipLong skips a string or byte string whose length has width bytes.
func skipLong(b []byte, width int) ([]byte, error) {
	if len(b) < 1+width {
		return nil, errShape
	}
	n := 0
	for _, x := range b[1 : 1+width] {
		n = n<<8 | int(x)
	}
	return skip(b, 1+width+n)
}
