package journal

import "github.com/capstan-fs/capstan/internal/must"

// maxFlight is the number of writes under way: one on its way to the disk while the next
// one is prepared. More would only make the groups smaller.
const maxFlight = 2

// run is what one write carries: whole frames.
type run struct {
	off  Pos
	buf  []byte
	done bool
}

func (r *run) end() Pos { return r.off + Pos(len(r.buf)) }

// Writer turns records into runs of bytes and keeps the durable position. It does no I/O
// and takes no lock: its owner asks Next for work, writes it, makes it durable, and says
// Done. Not safe for concurrent use.
type Writer struct {
	lim     Limits
	inc     Incarnation
	seq     uint64 // of the next frame
	end     Pos
	durable Pos
	queue   []run // not yet taken, oldest first
	flight  []run // taken, oldest first
	spare   [][]byte
	begun   []byte
}

// NewWriter continues a log at a mark (Replay's End, or the zero Mark) as incarnation inc,
// which must be higher than every earlier writer's. See the package comment for what must
// have become durable before.
func NewWriter(at Mark, inc Incarnation, lim Limits) *Writer {
	must.Holdf(inc > at.Inc, "journal: writer %d continues a log of incarnation %d", inc, at.Inc)
	must.Holdf(lim.Run > 0 && lim.Record > 0, "journal: limits %+v", lim)
	return &Writer{lim: lim, inc: inc, seq: at.Seq, end: at.Pos, durable: at.Pos}
}

// Append queues one record and returns the end of its frame: the record is durable when
// Durable() has reached it. The bytes are copied.
func (w *Writer) Append(rec []byte) Pos {
	return w.Commit(append(w.Begin(), rec...))
}

// Begin returns a buffer to which the caller appends one record's bytes in place; Commit
// then makes a frame of it. A Begin without Commit leaves no trace.
func (w *Writer) Begin() []byte {
	if n := len(w.queue); n > 0 && len(w.queue[n-1].buf)+HeaderBytes < w.lim.Run {
		w.begun = w.queue[n-1].buf
	} else {
		w.begun = w.buffer()
	}
	var zero [HeaderBytes]byte
	return append(w.begun, zero[:]...)
}

// Len is the size of the record so far in a buffer that came from Begin.
func (w *Writer) Len(b []byte) int { return len(b) - len(w.begun) - HeaderBytes }

// Commit queues the record that was appended to b, which came from Begin.
func (w *Writer) Commit(b []byte) Pos {
	from := len(w.begun)
	if n := len(b) - from - HeaderBytes; n > w.lim.Record { // tested here: the arguments would be garbage for every record
		must.Holdf(false, "journal: record of %d bytes, limit %d", n, w.lim.Record)
	}
	if from > 0 && from+FrameBytes(len(b)-from-HeaderBytes) > w.lim.Run {
		// Does not fit behind the others: a run of its own. The queued run keeps its bytes.
		b = append(w.buffer(), b[from:]...)
		from = 0
	}
	h := frameHeader{pos: w.end, seq: w.seq, inc: w.inc, durable: w.durable}
	frame := seal(b[from:], h)
	b = append(b[:from], frame...) // no copy unless the padding had to grow the buffer
	if from > 0 {
		w.queue[len(w.queue)-1].buf = b
	} else {
		w.queue = append(w.queue, run{off: w.end, buf: b})
	}
	w.begun = nil
	w.end += Pos(len(frame))
	w.seq++
	return w.end
}

// Next returns the next run to write, at position off; it takes all that is queued, up to
// Limits.Run. Not ok: nothing is queued or two writes are under way. The bytes stay valid
// until Done(off).
func (w *Writer) Next() (off Pos, b []byte, ok bool) {
	if len(w.queue) == 0 || len(w.flight) == maxFlight {
		return 0, nil, false
	}
	r := w.queue[0]
	w.queue = append(w.queue[:0], w.queue[1:]...)
	w.flight = append(w.flight, r)
	return r.off, r.buf, true
}

// Done says that the run at off is on stable storage and returns the durable position:
// the end of the contiguous prefix. The second of two runs alone moves nothing.
func (w *Writer) Done(off Pos) (durable Pos) {
	found := false
	for i := range w.flight {
		if w.flight[i].off == off && !w.flight[i].done {
			w.flight[i].done, found = true, true
		}
	}
	if !found {
		must.Holdf(false, "journal: write at %d ended, which was not under way", off)
	}
	for len(w.flight) > 0 && w.flight[0].done {
		r := w.flight[0]
		if r.off != w.durable {
			must.Holdf(false, "journal: durable to %d, but the oldest write starts at %d", w.durable, r.off)
		}
		w.durable = r.end()
		w.flight = append(w.flight[:0], w.flight[1:]...)
		if len(w.spare) < maxFlight+1 && cap(r.buf) <= 4*w.lim.Run {
			w.spare = append(w.spare, r.buf[:0])
		}
	}
	return w.durable
}

// Durable is the position up to which everything is on stable storage.
func (w *Writer) Durable() Pos { return w.durable }

// End is the position after the last record, durable or not.
func (w *Writer) End() Pos { return w.end }

// Mark is the end of the log as a point to begin from later.
func (w *Writer) Mark() Mark { return Mark{Pos: w.end, Seq: w.seq, Inc: w.inc} }

// Incarnation is the writer's own.
func (w *Writer) Incarnation() Incarnation { return w.inc }

// InFlight is the number of writes under way.
func (w *Writer) InFlight() int { return len(w.flight) }

// Queued reports whether there is something that Next has not handed out yet.
func (w *Writer) Queued() bool { return len(w.queue) > 0 }

// Limits are those that the writer was made with.
func (w *Writer) Limits() Limits { return w.lim }

func (w *Writer) buffer() []byte {
	if n := len(w.spare); n > 0 {
		b := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return b
	}
	return make([]byte, 0, 4096)
}
