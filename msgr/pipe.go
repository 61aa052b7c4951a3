package msgr

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeSize is the buffer of one direction of a memory stream.
const pipeSize = 128 << 10

// half is one direction: a ring of bytes with one reader and one writer waiting at most.
type half struct {
	mu       sync.Mutex
	changed  sync.Cond // bytes came or went, the end was closed, a deadline passed
	ring     []byte    // allocated by the first write
	r, n     int       // ring[r:r+n], wrapping, is unread
	readErr  error     // once the ring is empty (EOF) or at once (closed here)
	writeErr error
	rdead    deadline
	wdead    deadline
}

func newHalf() *half {
	h := &half{}
	h.changed.L = &h.mu
	return h
}

func (h *half) close(readErr, writeErr error) {
	h.mu.Lock()
	if h.readErr == nil || readErr != io.EOF {
		h.readErr = readErr
	}
	if h.writeErr == nil {
		h.writeErr = writeErr
	}
	h.rdead.stop()
	h.wdead.stop()
	h.changed.Broadcast()
	h.mu.Unlock()
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readErr != nil && h.readErr != io.EOF:
			return 0, net.ErrClosed
		case h.rdead.passed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case h.n > 0:
			n := h.takeLocked(b)
			h.changed.Broadcast()
			return n, nil
		case h.readErr != nil:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *half) takeLocked(b []byte) int {
	total := 0
	for len(b) > 0 && h.n > 0 {
		n := copy(b, h.ring[h.r:min(h.r+h.n, len(h.ring))])
		b = b[n:]
		h.n -= n
		h.r += n
		if h.r == len(h.ring) || h.n == 0 {
			h.r = 0
		}
		total += n
	}
	return total
}

func (h *half) putLocked(b []byte) int {
	if h.ring == nil {
		h.ring = make([]byte, pipeSize)
	}
	total := 0
	for len(b) > 0 && h.n < len(h.ring) {
		w := (h.r + h.n) % len(h.ring)
		end := len(h.ring)
		if w < h.r {
			end = h.r
		}
		n := copy(h.ring[w:end], b)
		b = b[n:]
		h.n += n
		total += n
	}
	return total
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	total := 0
	for {
		switch {
		case h.writeErr != nil:
			return total, h.writeErr
		case h.wdead.passed:
			return total, os.ErrDeadlineExceeded
		}
		n := h.putLocked(b)
		b = b[n:]
		total += n
		if n > 0 {
			h.changed.Broadcast()
		}
		if len(b) == 0 {
			return total, nil
		}
		h.changed.Wait()
	}
}

func (h *half) tryWrite(segs [][]byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.writeErr != nil {
		return 0, h.writeErr
	}
	total := 0
	for _, s := range segs {
		n := h.putLocked(s)
		total += n
		if n < len(s) {
			break
		}
	}
	if total > 0 {
		h.changed.Broadcast()
	}
	return total, nil
}

// deadline is guarded by the half's mutex.
type deadline struct {
	timer  *time.Timer
	passed bool
	gen    int // a timer of an older setting that fires late is ignored
}

func (d *deadline) stop() {
	d.gen++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		h.changed.Broadcast()
		return
	}
	gen := d.gen
	d.timer = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.gen == gen {
			d.passed = true
			h.changed.Broadcast()
		}
	})
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.rdead, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.wdead, t)
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}
