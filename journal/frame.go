package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// Pos is a byte position in a log, counted from its birth.
type Pos uint64

// Incarnation is one life of one writer; a later one has a higher number.
type Incarnation uint64

// Mark is a point between two frames: Seq is the number of the frame that starts at Pos.
type Mark struct {
	Pos Pos
	Seq uint64
	Inc Incarnation // of the frame before; nothing older may follow
}

// Record is one frame as Replay found it.
type Record struct {
	Pos, End Pos // first byte of the frame, first byte after it
	Seq      uint64
	Inc      Incarnation
	Data     []byte // valid until the callback returns
}

// The frame header, little-endian. The version is the last byte of the magic: a reader that
// knows another version sees no frame here, so the owner's header must name the version too.
//
//	 0  4 magic "CJF\x01"
//	 4  4 crc32c of everything after this field, payload included, padding not
//	 8  4 payload bytes
//	12  4 zero
//	16  8 position of this frame
//	24  8 sequence number
//	32  8 incarnation
//	40  8 durable position of the writer when it made the frame
//	48  payload, then zeros up to a multiple of 8
const (
	frameMagic  = "CJF\x01"
	HeaderBytes = 48
	frameAlign  = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type frameHeader struct {
	crc     uint32
	length  uint32
	pos     Pos
	seq     uint64
	inc     Incarnation
	durable Pos
}

// FrameBytes is what a record of n bytes takes in the log.
func FrameBytes(n int) int { return (HeaderBytes + n + frameAlign - 1) &^ (frameAlign - 1) }

// seal fills in the header of the frame b, whose payload begins at HeaderBytes, and returns
// b padded.
func seal(b []byte, h frameHeader) []byte {
	n := len(b)
	copy(b, frameMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], uint32(n-HeaderBytes))
	le.PutUint32(b[12:], 0)
	le.PutUint64(b[16:], uint64(h.pos))
	le.PutUint64(b[24:], h.seq)
	le.PutUint64(b[32:], uint64(h.inc))
	le.PutUint64(b[40:], uint64(h.durable))
	le.PutUint32(b[4:], crc32.Checksum(b[8:n], castagnoli))
	for len(b)%frameAlign != 0 {
		b = append(b, 0)
	}
	return b
}

// parse reads a header; ok means that it looks like one, the checksum is not looked at.
func parse(b []byte) (h frameHeader, ok bool) {
	if len(b) < HeaderBytes || string(b[:4]) != frameMagic {
		return h, false
	}
	le := binary.LittleEndian
	h = frameHeader{
		crc:     le.Uint32(b[4:]),
		length:  le.Uint32(b[8:]),
		pos:     Pos(le.Uint64(b[16:])),
		seq:     le.Uint64(b[24:]),
		inc:     Incarnation(le.Uint64(b[32:])),
		durable: Pos(le.Uint64(b[40:])),
	}
	return h, le.Uint32(b[12:]) == 0
}

// intact checks the frame at the start of b, which must hold all of it.
func (h frameHeader) intact(b []byte) bool {
	return crc32.Checksum(b[8:HeaderBytes+int(h.length)], castagnoli) == h.crc
}

// Limits bound what one write and one record may hold; writer and reader of one log must
// agree on them (they fix how far a dead writer can have written past the durable end).
type Limits struct {
	Run    int // bytes of one write, unless a single frame is larger
	Record int // payload bytes of one record
}

// DefaultLimits suit a rank's journal and a store's WAL.
var DefaultLimits = Limits{Run: 1 << 20, Record: 4 << 20}

// Ahead is how many bytes the longest frame takes.
func (l Limits) Ahead() int { return FrameBytes(l.Record) }

// Window is how many bytes past the durable end a writer can have touched: two runs.
func (l Limits) Window() int { return 2 * max(l.Run, FrameBytes(l.Record)) }
