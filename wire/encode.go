package wire

import (
	"encoding/binary"
	"math"
	"reflect"
	"unsafe"
)

// encode appends the value at p, which has the shape's type. The bytes are those of msgpack
// with compact integers and structs as arrays; codec_test.go compares them with the library's.
func (s *shape) encode(b []byte, p unsafe.Pointer) []byte {
	switch s.kind {
	case shapeInt:
		return s.encodeInt(b, p)
	case shapeBool:
		if *(*bool)(p) {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case shapeFloat:
		if s.gokind == reflect.Float32 {
			return binary.BigEndian.AppendUint32(append(b, 0xca), math.Float32bits(*(*float32)(p)))
		}
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(*(*float64)(p)))
	case shapeString:
		v := *(*string)(p)
		switch n := len(v); {
		case n < 32:
			b = append(b, 0xa0|byte(n))
		case n <= math.MaxUint8:
			b = append(b, 0xd9, byte(n))
		case n <= math.MaxUint16:
			b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
		default:
			b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
		}
		return append(b, v...)
	case shapeBytes:
		v := *(*[]byte)(p)
		if v == nil {
			return append(b, 0xc0)
		}
		switch n := len(v); {
		case n <= math.MaxUint8:
			b = append(b, 0xc4, byte(n))
		case n <= math.MaxUint16:
			b = binary.BigEndian.AppendUint16(append(b, 0xc5), uint16(n))
		default:
			b = binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
		}
		return append(b, v...)
	case shapeArray:
		n := s.min - 2
		return append(append(b, 0xc4, byte(n)), unsafe.Slice((*byte)(p), n)...)
	case shapePointer:
		if *(*unsafe.Pointer)(p) == nil {
			return append(b, 0xc0)
		}
		return s.elem.encode(b, *(*unsafe.Pointer)(p))
	case shapeSlice:
		v := (*sliceHeader)(p)
		if v.data == nil {
			return append(b, 0xc0)
		}
		b = appendCount(b, v.len)
		size := s.elem.size
		for i := range v.len {
			b = s.elem.encode(b, unsafe.Add(v.data, uintptr(i)*size))
		}
		return b
	}
	b = appendCount(b, len(s.fields))
	for i, f := range s.fields {
		b = f.encode(b, unsafe.Add(p, s.offsets[i]))
	}
	return b
}

// sliceHeader is what Go keeps of a slice of any type; a nil slice has no data, an empty one has.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

func appendCount(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, 0x90|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xdc), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(n))
}

func (s *shape) encodeInt(b []byte, p unsafe.Pointer) []byte {
	var u uint64
	switch s.gokind {
	case reflect.Uint8:
		u = uint64(*(*uint8)(p))
	case reflect.Uint16:
		u = uint64(*(*uint16)(p))
	case reflect.Uint32:
		u = uint64(*(*uint32)(p))
	case reflect.Uint64, reflect.Uint:
		u = *(*uint64)(p)
	default:
		n := s.loadInt(p)
		if n < 0 {
			return appendNegative(b, n)
		}
		u = uint64(n)
	}
	switch {
	case u < 0x80:
		return append(b, byte(u))
	case u <= math.MaxUint8:
		return append(b, 0xcc, byte(u))
	case u <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(u))
	case u <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(u))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), u)
}

func (s *shape) loadInt(p unsafe.Pointer) int64 {
	switch s.gokind {
	case reflect.Int8:
		return int64(*(*int8)(p))
	case reflect.Int16:
		return int64(*(*int16)(p))
	case reflect.Int32:
		return int64(*(*int32)(p))
	}
	return *(*int64)(p)
}

func appendNegative(b []byte, n int64) []byte {
	switch {
	case n >= -32:
		return append(b, byte(n))
	case n >= math.MinInt8:
		return append(b, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
}
