package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Header says where a log begins. Whoever owns the log stores it whenever it trims, and once
// before a new writer's first append.
type Header struct {
	Expire  Mark        // replay begins here; everything before may be gone
	Inc     Incarnation // the newest writer
	Start   Pos         // its first frame lies here or behind
	Durable Pos         // hint: everything before it was durable when the header was stored
}

// Encoded size of a header: version byte, five numbers, checksum.
const (
	headerVersion = 1
	EncodedHeader = 1 + 6*8 + 4
)

// Errors of DecodeHeader, for errors.Is.
var (
	ErrHeaderVersion = errors.New("unknown version of a journal header")
	ErrHeaderCorrupt = errors.New("journal header is corrupt")
)

// Encode returns the record to be stored.
func (h Header) Encode() []byte {
	b := make([]byte, 0, EncodedHeader)
	b = append(b, headerVersion)
	for _, v := range [...]uint64{uint64(h.Expire.Pos), h.Expire.Seq, uint64(h.Expire.Inc), uint64(h.Inc), uint64(h.Start), uint64(h.Durable)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// DecodeHeader reads what Encode made.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) > 0 && b[0] != headerVersion {
		return Header{}, fmt.Errorf("journal: %w: %d (this program knows %d)", ErrHeaderVersion, b[0], headerVersion)
	}
	if len(b) != EncodedHeader {
		return Header{}, fmt.Errorf("journal: %w: %d bytes, want %d", ErrHeaderCorrupt, len(b), EncodedHeader)
	}
	if crc32.Checksum(b[:EncodedHeader-4], castagnoli) != binary.LittleEndian.Uint32(b[EncodedHeader-4:]) {
		return Header{}, fmt.Errorf("journal: %w: checksum", ErrHeaderCorrupt)
	}
	var v [6]uint64
	for i := range v {
		v[i] = binary.LittleEndian.Uint64(b[1+8*i:])
	}
	h := Header{Expire: Mark{Pos(v[0]), v[1], Incarnation(v[2])}, Inc: Incarnation(v[3]), Start: Pos(v[4]), Durable: Pos(v[5])}
	if h.Durable < h.Start {
		return Header{}, fmt.Errorf("journal: %w: durable to %d, started at %d", ErrHeaderCorrupt, h.Durable, h.Start)
	}
	return h, nil
}
