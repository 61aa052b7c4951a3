package msgr

import (
	"hash/crc32"

	"github.com/capstan-fs/capstan/wire"
)

// inlineData is the largest data segment that is copied next to its front; a larger one is
// written from the caller's slices.
const inlineData = 2 << 10

// queue is what waits to be written: segments in order, most of them parts of chunks.
type queue struct {
	segs   [][]byte
	chunks []*chunk // given back once everything is written
	owned  [][]byte // recycled then
	open   bool     // the last segment ends where the last chunk ends, and can grow
	bytes  int
	first  int // segments before it are written
}

func (q *queue) empty() bool { return q.bytes == 0 }

// room returns an empty slice at the end of the current chunk with space for at least n bytes.
func (q *queue) room(n int) []byte {
	if k := len(q.chunks); k > 0 {
		if b := q.chunks[k-1].buf; cap(b)-len(b) >= n {
			return b[len(b):len(b):cap(b)]
		}
	}
	c := chunkPool.Get().(*chunk)
	q.chunks = append(q.chunks, c)
	q.open = false
	return c.buf[0:0:cap(c.buf)]
}

// wrote takes over what was appended to room's slice, wherever it ended up.
func (q *queue) wrote(room, b []byte) {
	q.bytes += len(b)
	if cap(b) != cap(room) { // did not fit: it is an allocation of its own
		q.segs = append(q.segs, b)
		q.open = false
		return
	}
	c := q.chunks[len(q.chunks)-1]
	c.buf = c.buf[:len(c.buf)+len(b)]
	if q.open {
		last := &q.segs[len(q.segs)-1]
		*last = (*last)[:len(*last)+len(b)]
		return
	}
	q.segs = append(q.segs, b)
	q.open = true
}

func (q *queue) appendSegment(b []byte) {
	q.bytes += len(b)
	q.segs = append(q.segs, b)
	q.open = false
}

// frame encodes one message with its data.
func (q *queue) frame(h *header, m wire.Message, data [][]byte) (int, error) {
	before := q.bytes
	small := int(h.dataLen) <= inlineData
	need := headerSize + 256
	if small {
		need += int(h.dataLen)
	}
	room := q.room(need)
	b, err := encode(room, h, m)
	if err != nil {
		return 0, err
	}
	if small {
		for _, d := range data {
			b = append(b, d...)
		}
		q.wrote(room, b)
		return q.bytes - before, nil
	}
	q.wrote(room, b)
	for _, d := range data {
		if len(d) > 0 {
			q.appendSegment(d)
		}
	}
	return q.bytes - before, nil
}

// encode appends header and front to the empty slice room.
func encode(room []byte, h *header, m wire.Message) ([]byte, error) {
	b, err := wire.Append(append(room, zeroHeader[:]...), m)
	if err != nil {
		return nil, err
	}
	h.frontLen = uint32(len(b) - headerSize)
	h.seal(b)
	return b, nil
}

var zeroHeader [headerSize]byte

// headerOf begins the header of a frame and sums its data up.
func headerOf(tid uint64, m wire.Message, data [][]byte) header {
	h := header{typ: m.WireType(), tid: tid}
	for _, d := range data {
		h.dataLen += uint32(len(d))
		h.dataCRC = crc32.Update(h.dataCRC, castagnoli, d)
	}
	return h
}

// advance drops n written bytes.
func (q *queue) advance(n int) {
	q.bytes -= n
	for n > 0 {
		s := q.segs[q.first]
		if n < len(s) {
			q.segs[q.first] = s[n:]
			return
		}
		n -= len(s)
		q.segs[q.first] = nil
		q.first++
	}
}

// rest is what is still to be written.
func (q *queue) rest() [][]byte { return q.segs[q.first:] }

// reset forgets everything and gives the chunks back; nobody may be writing from them.
func (q *queue) reset() {
	for i, c := range q.chunks {
		c.buf = c.buf[:0]
		chunkPool.Put(c)
		q.chunks[i] = nil
	}
	for _, b := range q.owned {
		Recycle(b)
	}
	clear(q.owned)
	q.owned = q.owned[:0]
	clear(q.segs)
	q.segs, q.chunks = q.segs[:0], q.chunks[:0]
	q.open, q.bytes, q.first = false, 0, 0
}
