package mds

import (
	"encoding/binary"

	"github.com/capstan-fs/capstan/wire"
)

// Records and entries are msgpack, decoded by the library. They are encoded by hand, because
// every update encodes several: reflection would cost more than the rest of a create. A test
// compares both ways for every record.

const (
	recordVersion = 1
	dentryVersion = 3
	entryVersion  = 3
)

func putArray(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, 0x90|byte(n))
	case n < 1<<16:
		return append(b, 0xdc, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(n))
}

func putUint(b []byte, v uint64) []byte {
	switch {
	case v < 128:
		return append(b, byte(v))
	case v < 1<<8:
		return append(b, 0xcc, byte(v))
	case v < 1<<16:
		return append(b, 0xcd, byte(v>>8), byte(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
}

func putInt(b []byte, v int64) []byte {
	if v >= 0 {
		return putUint(b, uint64(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
}

func putBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0xc3)
	}
	return append(b, 0xc2)
}

func putString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n < 1<<8:
		b = append(b, 0xd9, byte(n))
	case n < 1<<16:
		b = append(b, 0xda, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}

func putBytes(b, v []byte) []byte {
	if v == nil {
		return append(b, 0xc0)
	}
	switch n := len(v); {
	case n < 1<<8:
		b = append(b, 0xc4, byte(n))
	case n < 1<<16:
		b = append(b, 0xc5, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
	}
	return append(b, v...)
}

func putTime(b []byte, t wire.Time) []byte {
	return putUint(putInt(putArray(b, 2), t.Sec), uint64(t.Nsec))
}

func putKVs(b []byte, kvs []wire.KV) []byte {
	b = putArray(b, len(kvs))
	for i := range kvs {
		b = putBytes(putString(putArray(b, 2), kvs[i].Key), kvs[i].Val)
	}
	return b
}

func (v *inodeRec) put(b []byte) []byte {
	b = putArray(b, 27)
	b = putUint(b, uint64(v.Ino))
	b = putUint(b, uint64(v.Mode))
	b = putUint(b, uint64(v.UID))
	b = putUint(b, uint64(v.GID))
	b = putUint(b, uint64(v.Nlink))
	b = putUint(b, uint64(v.Rdev))
	b = putUint(b, v.Size)
	b = putBool(b, v.Sparse)
	b = putUint(b, uint64(v.TruncSeq))
	b = putUint(b, v.CutFrom)
	b = putTime(b, v.Atime)
	b = putTime(b, v.Mtime)
	b = putTime(b, v.Ctime)
	b = putTime(b, v.Btime)
	b = putUint(b, v.Change)
	b = putString(b, v.Target)
	b = putUint(b, uint64(v.Pool))
	b = putUint(b, uint64(v.ObjectSize))
	b = putKVs(b, v.Xattrs)
	b = putArray(b, len(v.Ranges))
	for _, g := range v.Ranges {
		b = putUint(putUint(putArray(b, 2), uint64(g.Session)), g.Max)
	}
	b = putArray(b, len(v.Backs))
	for _, k := range v.Backs {
		b = putString(putUint(putArray(b, 2), uint64(k.Dir)), k.Name)
	}
	b = putUint(b, v.Reach)
	room := v.Room
	if room == nil {
		return append(b, 0xc0, 0x90, 0, 0xc0, 0xc0)
	}
	b = putBytes(b, room.Inline)
	b = putArray(b, len(room.Quota))
	for _, q := range room.Quota {
		b = putUint(b, q)
	}
	b = putInt(b, int64(room.Pin))
	b = putBytes(b, room.Snaps)
	if room.Nest == nil {
		return append(b, 0xc0)
	}
	return room.Nest.put(putArray(b, 4))
}

// put appends the record with its version byte. in is nil unless the kind is home.
func putDentry(b []byte, d *dentry) []byte {
	b = append(b, dentryVersion)
	b = putArray(b, 8)
	b = putUint(b, d.version)
	b = putUint(b, d.hash)
	b = putUint(b, uint64(d.kind))
	b = putUint(b, uint64(d.ino))
	b = putUint(b, uint64(d.typ))
	if d.kind != dnHome {
		b = append(b, 0xc0)
		if c := d.charge(); c != nil {
			b = putUint(putArray(b, 1), c.Bytes)
		} else {
			b = append(b, 0xc0)
		}
		if d.far() {
			n := d.farNest()
			return n.put(putArray(b, 4))
		}
		return append(b, 0xc0)
	}
	return append(d.in.rec.put(b), 0xc0, 0xc0)
}

func (v *headerRec) put(b []byte) []byte {
	b = append(b, recordVersion)
	b = putArray(b, 11)
	b = putUint(b, v.Version)
	b = putUint(b, v.Entries)
	b = putUint(b, v.Subdirs)
	b = putTime(b, v.Mtime)
	b = putTime(b, v.Ctime)
	b = putUint(b, v.Change)
	b = v.nestRec.put(b)
	b = putArray(b, len(v.Frags))
	for _, f := range v.Frags {
		b = putUint(b, uint64(f))
	}
	return b
}

// put appends the fields alone: in a header they are its own.
func (v *nestRec) put(b []byte) []byte {
	b = putUint(b, v.RBytes)
	b = putUint(b, v.RFiles)
	b = putUint(b, v.RSubdirs)
	return putTime(b, v.RCtime)
}
