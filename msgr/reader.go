package msgr

import (
	"io"
	"net"

	"github.com/capstan-fs/capstan/wire"
)

const (
	batchSize  = 64
	readSize   = 64 << 10
	directData = 16 << 10 // an incomplete data segment of this size is read into its own buffer
)

// reader cuts a stream into frames.
type reader struct {
	stream io.Reader
	lim    Limits
	buf    []byte
	r, w   int // buf[r:w] is unread
	batch  [batchSize]Frame
	heads  [batchSize]header
	n      int
}

func (d *reader) init(nc net.Conn, lim Limits) {
	d.stream, d.lim = readerOf(nc), lim
	d.buf = make([]byte, 4<<10) // enough for the hello; grows when the peer is known
}

// known raises the limits once the hello is done.
func (d *reader) known(lim Limits) {
	d.lim = lim
	d.grow(readSize)
}

func (d *reader) grow(n int) {
	if len(d.buf) < n {
		b := make([]byte, n)
		d.w = copy(b, d.buf[d.r:d.w])
		d.r, d.buf = 0, b
	}
}

// cut decodes the frame at the beginning of b. n is its length in b; 0: it is not complete,
// and h is its header if that much is there.
func cut(b []byte, lim Limits, f *Frame, h *header) (n int, err error) {
	h.typ = 0
	if len(b) < headerSize {
		return 0, nil
	}
	if *h, err = parseHeader(b, lim); err != nil {
		return 0, err
	}
	if len(b) < h.size() {
		return 0, nil
	}
	front := headerSize + int(h.frontLen)
	return h.size(), decode(b[:front], b[front:h.size()], f, h)
}

// decode makes a frame of its checked parts; head is header and front.
func decode(head, data []byte, f *Frame, h *header) error {
	if err := checkFront(head, h); err != nil {
		return err
	}
	if err := checkData(data, h); err != nil {
		return err
	}
	m, err := wire.Decode(h.typ, head[headerSize:])
	if err != nil {
		return err
	}
	*f = Frame{Type: h.typ, Flags: h.flags, Tid: h.tid, Msg: m}
	if len(data) > 0 {
		f.Data = data
	}
	return nil
}

// next fills d.batch[:d.n] with at least one frame: up to most that are already in the buffer,
// or else the first that arrives. An error may come with frames that arrived before it.
func (d *reader) next(most int) error {
	d.n = 0
	for {
		var h *header
		for d.n < most {
			h = &d.heads[d.n]
			n, err := cut(d.buf[d.r:d.w], d.lim, &d.batch[d.n], h)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			d.r += n
			d.n++
		}
		if d.n > 0 {
			return nil
		}
		if h.typ != 0 && int(h.dataLen) >= directData {
			return d.direct(h)
		}
		if h.typ != 0 {
			d.grow(h.size()) // bounded by the limits
		}
		if err := d.fill(headerSize); err != nil {
			return err
		}
	}
}

// fill reads once, making room first.
func (d *reader) fill(want int) error {
	if d.r == d.w {
		d.r, d.w = 0, 0
	} else if len(d.buf)-d.w < want || d.r > len(d.buf)/2 {
		d.w = copy(d.buf, d.buf[d.r:d.w])
		d.r = 0
	}
	n, err := d.stream.Read(d.buf[d.w:])
	d.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	if err == io.EOF && d.r < d.w {
		return io.ErrUnexpectedEOF
	}
	return err
}

// direct reads a frame with much data: front into the buffer, data into its own.
func (d *reader) direct(h *header) error {
	front := headerSize + int(h.frontLen)
	d.grow(front + headerSize)
	for d.w-d.r < front {
		if err := d.fill(front - (d.w - d.r)); err != nil {
			return err
		}
	}
	head := d.buf[d.r : d.r+front]
	d.r += front
	data := Buffer(int(h.dataLen))
	n := copy(data, d.buf[d.r:d.w])
	d.r += n
	if _, err := io.ReadFull(d.stream, data[n:]); err != nil {
		Recycle(data)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	f := &d.batch[0]
	if err := decode(head, data, f, h); err != nil {
		Recycle(data)
		return err
	}
	f.pooled = true
	d.n = 1
	return nil
}

// release takes back what the handler did not retain.
func (d *reader) release() {
	for i := range d.batch[:d.n] {
		f := &d.batch[i]
		if f.pooled {
			Recycle(f.Data)
		}
		*f = Frame{}
	}
	d.n = 0
}

// run is the reader goroutine of a connection.
func (c *Conn) run(l *link) {
	for {
		err := c.readAll(l)
		l.nc.Close()
		c.mu.Lock()
		if l.cause != nil {
			err = l.cause
		}
		c.mu.Unlock()
		if c.sess == nil {
			close(l.done)
			c.finish(err)
			return
		}
		if l = c.sess.lost(c, l, err); l == nil {
			return
		}
	}
}

// readAll delivers batches until the stream ends.
func (c *Conn) readAll(l *link) error {
	d := &l.rd
	for {
		err := d.next(batchSize)
		if d.n > 0 && c.sess != nil {
			if serr := c.sess.received(c, d); serr != nil {
				err = serr
			}
		}
		if d.n > 0 {
			c.handler.Frames(c, d.batch[:d.n])
		}
		d.release()
		if err != nil {
			return err
		}
		if c.sess != nil {
			c.sess.ackIfDue(c)
		}
		c.Flush()
	}
}
