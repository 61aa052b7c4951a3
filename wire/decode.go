package wire

import (
	"encoding/binary"
	"math"
	"reflect"
	"unsafe"
)

// decode reads into the value at p what check has found to be of this shape, and returns the
// rest. Nothing that it makes refers to b. Slices are new: what p's value held before stays
// as it was for those who share it.
func (s *shape) decode(b []byte, p unsafe.Pointer) []byte {
	switch s.kind {
	case shapeInt:
		n, b := readInt(b)
		switch s.size { // signed or not, the low bytes are the same
		case 1:
			*(*uint8)(p) = uint8(n)
		case 2:
			*(*uint16)(p) = uint16(n)
		case 4:
			*(*uint32)(p) = uint32(n)
		default:
			*(*uint64)(p) = n
		}
		return b
	case shapeBool:
		*(*bool)(p) = b[0] == 0xc3
		return b[1:]
	case shapeFloat:
		v := 0.0
		if b[0] == 0xca {
			v, b = float64(math.Float32frombits(binary.BigEndian.Uint32(b[1:]))), b[5:]
		} else {
			v, b = math.Float64frombits(binary.BigEndian.Uint64(b[1:])), b[9:]
		}
		if s.gokind == reflect.Float32 {
			*(*float32)(p) = float32(v)
		} else {
			*(*float64)(p) = v
		}
		return b
	case shapeString:
		n := 0
		if c := b[0]; c < 0xc0 {
			n, b = int(c&0x1f), b[1:]
		} else {
			n, b = readLen(b, c-0xd9)
		}
		*(*string)(p) = string(b[:n])
		return b[n:]
	case shapeBytes:
		if b[0] == 0xc0 {
			*(*[]byte)(p) = nil
			return b[1:]
		}
		n, b := readLen(b, b[0]-0xc4)
		v := make([]byte, n)
		copy(v, b)
		*(*[]byte)(p) = v
		return b[n:]
	case shapeArray:
		copy(unsafe.Slice((*byte)(p), s.min-2), b[2:s.min])
		return b[s.min:]
	case shapePointer:
		if b[0] == 0xc0 {
			*(*unsafe.Pointer)(p) = nil
			return b[1:]
		}
		v := reflect.New(s.elem.typ).UnsafePointer()
		*(*unsafe.Pointer)(p) = v
		return s.elem.decode(b, v)
	case shapeSlice:
		v := reflect.NewAt(s.typ, p).Elem()
		v.SetZero()
		if b[0] == 0xc0 {
			return b[1:]
		}
		n, b, _ := count(b)
		if n == 0 {
			v.Set(s.none)
			return b
		}
		v.Grow(n)
		v.SetLen(n)
		at, size := (*sliceHeader)(p).data, s.elem.size
		for i := range n {
			b = s.elem.decode(b, unsafe.Add(at, uintptr(i)*size))
		}
		return b
	}
	_, b, _ = count(b)
	for i, f := range s.fields {
		b = f.decode(b, unsafe.Add(p, s.offsets[i]))
	}
	return b
}

// readInt returns the number as 64 bits, negative ones in two's complement.
func readInt(b []byte) (uint64, []byte) {
	switch c := b[0]; c {
	case 0xcc:
		return uint64(b[1]), b[2:]
	case 0xcd:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:]
	case 0xce:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:]
	case 0xcf, 0xd3:
		return binary.BigEndian.Uint64(b[1:]), b[9:]
	case 0xd0:
		return uint64(int8(b[1])), b[2:]
	case 0xd1:
		return uint64(int16(binary.BigEndian.Uint16(b[1:]))), b[3:]
	case 0xd2:
		return uint64(int32(binary.BigEndian.Uint32(b[1:]))), b[5:]
	default:
		return uint64(int8(c)), b[1:]
	}
}

// readLen reads a length of 1, 2 or 4 bytes behind the code.
func readLen(b []byte, width byte) (int, []byte) {
	switch width {
	case 0:
		return int(b[1]), b[2:]
	case 1:
		return int(binary.BigEndian.Uint16(b[1:])), b[3:]
	}
	return int(binary.BigEndian.Uint32(b[1:])), b[5:]
}
