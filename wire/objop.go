package wire

import (
	"encoding/binary"
	"fmt"
)

// ObjOpKind is one kind of step in a vector of operations on one object.
type ObjOpKind uint8

// Steps. A vector is applied atomically: all of it or, when one step fails, none.
const (
	ObjRead          ObjOpKind = iota + 1 // Off, Len → data; a hole or the end reads short or zero
	ObjStat                               // → Size, Version, Allocated in the step's result
	ObjWrite                              // Off, Data
	ObjWriteFull                          // Data replaces everything
	ObjAppend                             // Data at the end
	ObjTruncate                           // Off = new size; creates an absent object
	ObjZero                               // Off, Len: reads as zeros, space given back
	ObjRemove                             // ENOENT when absent
	ObjCreate                             // with Excl: EEXIST when present
	ObjGetXattr                           // Key → Data
	ObjSetXattr                           // Key, Data
	ObjRmXattr                            // Key
	ObjGetXattrs                          // → Pairs
	ObjOmapGet                            // Keys → Pairs (absent keys left out)
	ObjOmapRange                          // From, Max (entries) → Pairs, More
	ObjOmapSet                            // Pairs
	ObjOmapRemove                         // Keys
	ObjOmapClear                          //
	ObjAssertVersion                      // AssertN: ERANGE when the object's version differs
	ObjCmpXattr                           // Key, Data: ECANCELED when different; absent equals empty
	ObjExtents                            // Off, Len → the parts that hold data, in Data (PutExtents), and Size
	ObjDamage                             // Off, Len: in transactions of a store only: nobody may see these bytes any more
	ObjOmapDamage                         // Keys: likewise: what these keys of the omap had cannot be read
)

var objOpNames = [...]string{"?", "read", "stat", "write", "writefull", "append", "truncate", "zero", "remove", "create",
	"getxattr", "setxattr", "rmxattr", "getxattrs", "omapget", "omaprange", "omapset", "omaprm", "omapclear", "assertver", "cmpxattr", "extents", "damage", "omapdamage"}

func (k ObjOpKind) String() string {
	if int(k) < len(objOpNames) {
		return objOpNames[k]
	}
	return "objop?"
}

// Mutates reports whether the step changes the object.
func (k ObjOpKind) Mutates() bool {
	switch k {
	case ObjWrite, ObjWriteFull, ObjAppend, ObjTruncate, ObjZero, ObjRemove, ObjCreate, ObjSetXattr, ObjRmXattr,
		ObjOmapSet, ObjOmapRemove, ObjOmapClear:
		return true
	}
	return false
}

// KV is one key with its value.
type KV struct {
	_msgpack struct{} `msgpack:",as_array"`
	Key      string
	Val      []byte
}

// ObjOp is one step. Only the fields that its kind names are used. Data travels in the
// frame's data segment, in the order of the steps, and never through msgpack: DataLen says
// how much of it is this step's.
type ObjOp struct {
	_msgpack struct{} `msgpack:",as_array"`
	Kind     ObjOpKind
	Off      uint64
	Len      uint64
	DataLen  uint32
	Excl     bool
	Key      string
	From     string
	Max      uint32
	AssertN  Version
	Keys     []string
	Pairs    []KV
	Data     []byte `msgpack:"-"`
}

// ObjResult is the answer to one step.
type ObjResult struct {
	_msgpack  struct{} `msgpack:",as_array"`
	Errno     uint32   // of this step; the vector's errno is the first one that is not 0
	DataLen   uint32
	Size      uint64 // stat
	Allocated uint64 // stat: bytes of storage, for st_blocks
	Version   Version
	More      bool
	Pairs     []KV
	Data      []byte `msgpack:"-"`
}

// PutExtents encodes what ObjExtents answers: for each part its offset and length, 32 bits
// each, little-endian. An object is smaller than that.
func PutExtents(es []Extent) []byte {
	b := make([]byte, 0, 8*len(es))
	for _, e := range es {
		b = binary.LittleEndian.AppendUint32(b, uint32(e.Off))
		b = binary.LittleEndian.AppendUint32(b, uint32(e.Len))
	}
	return b
}

// Extents decodes PutExtents. Parts that are empty, overlap or are out of order are an error.
func Extents(b []byte) ([]Extent, error) {
	if len(b)%8 != 0 {
		return nil, fmt.Errorf("wire: extents of %d bytes", len(b))
	}
	es := make([]Extent, 0, len(b)/8)
	end := uint64(0)
	for ; len(b) > 0; b = b[8:] {
		e := Extent{Off: uint64(binary.LittleEndian.Uint32(b)), Len: uint64(binary.LittleEndian.Uint32(b[4:]))}
		if e.Len == 0 || e.Off < end || e.Off+e.Len > MaxObjectBytes {
			return nil, fmt.Errorf("wire: extent %d+%d behind %d", e.Off, e.Len, end)
		}
		end = e.Off + e.Len
		es = append(es, e)
	}
	return es, nil
}
