package msgr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/capstan-fs/capstan/wire"
)

// The header, little endian:
//
//	 0  magic "Cp"         2
//	 2  version            1
//	 3  zero               1
//	 4  type               2
//	 6  flags              2
//	 8  front length       4
//	12  data length        4
//	16  tid                8
//	24  seq                8   sessions: number of this frame, from 1; 0: not numbered
//	32  ack                8   sessions: last number received by the sender of this frame
//	40  crc32c of data     4
//	44  crc32c of front    4   and of the 44 bytes before it, so that a flipped length is no length
const headerSize = 48

const frameVersion = 1

// Limits bound what a peer can make us allocate for one frame.
type Limits struct {
	Front int // bytes of msgpack
	Data  int // bytes of raw data
}

// DefaultLimits hold once the peer has said who it is; helloLimits before that.
var (
	DefaultLimits = Limits{Front: 16 << 20, Data: 16 << 20}
	helloLimits   = Limits{Front: 4 << 10, Data: 0}
)

// Errors of a stream that cannot be trusted any more.
var (
	ErrBadFrame = errors.New("bad frame")
	ErrTooLarge = errors.New("frame too large")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	typ      wire.Type
	flags    uint16
	frontLen uint32
	dataLen  uint32
	tid      uint64
	seq      uint64
	ack      uint64
	dataCRC  uint32
}

func (h *header) size() int { return headerSize + int(h.frontLen) + int(h.dataLen) }

// seal writes h into b[:headerSize]; the front must already follow it.
func (h *header) seal(b []byte) {
	b[0], b[1], b[2], b[3] = 'C', 'p', frameVersion, 0
	le := binary.LittleEndian
	le.PutUint16(b[4:], uint16(h.typ))
	le.PutUint16(b[6:], h.flags)
	le.PutUint32(b[8:], h.frontLen)
	le.PutUint32(b[12:], h.dataLen)
	le.PutUint64(b[16:], h.tid)
	le.PutUint64(b[24:], h.seq)
	le.PutUint64(b[32:], h.ack)
	le.PutUint32(b[40:], h.dataCRC)
	crc := crc32.Update(0, castagnoli, b[:44])
	crc = crc32.Update(crc, castagnoli, b[headerSize:headerSize+int(h.frontLen)])
	le.PutUint32(b[44:], crc)
}

// parseHeader reads the header at the beginning of b, which holds at least headerSize bytes.
// Lengths are checked here, before anybody allocates for them.
func parseHeader(b []byte, lim Limits) (h header, err error) {
	if b[0] != 'C' || b[1] != 'p' {
		return h, fmt.Errorf("%w: starts with %#02x%02x: the peer does not speak Capstan's protocol", ErrBadFrame, b[0], b[1])
	}
	if b[2] != frameVersion {
		return h, fmt.Errorf("%w: frame version %d, this program knows %d", ErrBadFrame, b[2], frameVersion)
	}
	if b[3] != 0 {
		return h, fmt.Errorf("%w: reserved byte is %d", ErrBadFrame, b[3])
	}
	le := binary.LittleEndian
	h.typ = wire.Type(le.Uint16(b[4:]))
	h.flags = le.Uint16(b[6:])
	h.frontLen = le.Uint32(b[8:])
	h.dataLen = le.Uint32(b[12:])
	h.tid = le.Uint64(b[16:])
	h.seq = le.Uint64(b[24:])
	h.ack = le.Uint64(b[32:])
	h.dataCRC = le.Uint32(b[40:])
	if h.typ == 0 {
		return h, fmt.Errorf("%w: no type", ErrBadFrame)
	}
	if uint64(h.frontLen) > uint64(lim.Front) {
		return h, fmt.Errorf("%w: %v announces a front of %d bytes, the limit is %d", ErrTooLarge, h.typ, h.frontLen, lim.Front)
	}
	if uint64(h.dataLen) > uint64(lim.Data) {
		return h, fmt.Errorf("%w: %v announces %d bytes of data, the limit is %d", ErrTooLarge, h.typ, h.dataLen, lim.Data)
	}
	return h, nil
}

// checkFront verifies header and front against the checksum; b holds both.
func checkFront(b []byte, h *header) error {
	crc := crc32.Update(0, castagnoli, b[:44])
	crc = crc32.Update(crc, castagnoli, b[headerSize:headerSize+int(h.frontLen)])
	if want := binary.LittleEndian.Uint32(b[44:]); crc != want {
		return fmt.Errorf("%w: %v tid %d: checksum of header and front is %08x, should be %08x", ErrBadFrame, h.typ, h.tid, crc, want)
	}
	return nil
}

func checkData(data []byte, h *header) error {
	if crc := crc32.Checksum(data, castagnoli); crc != h.dataCRC {
		return fmt.Errorf("%w: %v tid %d: checksum of %d data bytes is %08x, should be %08x", ErrBadFrame, h.typ, h.tid, h.dataLen, crc, h.dataCRC)
	}
	return nil
}

// Frame is one received frame. Data is valid until the Handler returns; Retain keeps it.
type Frame struct {
	Type  wire.Type
	Flags uint16
	Tid   uint64
	Msg   wire.Message
	Data  []byte

	pooled bool // Data is a buffer of its own and not part of the reader's
}

// Retain returns Data as a slice that belongs to the caller from now on. The caller may give
// it back with Recycle, or leave it to the garbage collector.
func (f *Frame) Retain() []byte {
	if len(f.Data) == 0 {
		return nil
	}
	if !f.pooled {
		b := Buffer(len(f.Data))
		copy(b, f.Data)
		f.Data = b
	}
	f.pooled = false // and so the reader does not take it back; a second Retain would copy
	return f.Data
}
