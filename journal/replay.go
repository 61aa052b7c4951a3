package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
)

// ReadFunc returns up to max bytes at off. Fewer, or none, means that nothing is stored
// there; an error means that what is stored could not be had, and ends the replay.
type ReadFunc func(off Pos, max int) ([]byte, error)

// ErrHole is what a HoleError is, for errors.Is.
var ErrHole = errors.New("log has lost acknowledged records")

// HoleError reports a log that ends before a position that is known to have been durable.
type HoleError struct {
	At      Pos    // where the intact log ends
	Durable Pos    // what was durable once
	Witness string // who says so
}

func (e *HoleError) Error() string {
	return fmt.Sprintf("journal: %v: intact up to position %d, but %s says that everything up to %d was durable", ErrHole, e.At, e.Witness, e.Durable)
}

// Is makes errors.Is(err, ErrHole) true.
func (e *HoleError) Is(target error) bool { return target == ErrHole }

// End is where a replay stopped: the mark at which a new writer continues.
type End struct {
	Mark
	Records int
	Durable Pos // highest position that some frame called durable
}

const readChunk = 256 << 10

// Replay calls fn for every record from h.Expire on, in order, and returns where the log
// ends. An error of fn ends it and is returned as it is. See the package comment for what
// ends a log and what is corruption.
func Replay(read ReadFunc, h Header, lim Limits, fn func(Record) error) (End, error) {
	return NewReplayer(read, h, lim).Finish(fn)
}

// Replayer is Replay in pieces, for a reader that gets the log in pieces and has other things
// to do between them.
type Replayer struct {
	r    reader
	h    Header
	lim  Limits
	end  End
	over bool // at end no frame follows
}

// NewReplayer begins at h.Expire.
func NewReplayer(read ReadFunc, h Header, lim Limits) *Replayer {
	return &Replayer{r: reader{read: read, pos: h.Expire.Pos}, h: h, lim: lim, end: End{Mark: h.Expire}}
}

// Pos is where the next record would begin: nothing before it is read again.
func (p *Replayer) Pos() Pos { return p.end.Pos }

// Until calls fn for the records that begin before limit. The log must be there up to
// Limits.Ahead bytes behind limit, or its end will be seen too early.
func (p *Replayer) Until(limit Pos, fn func(Record) error) error {
	for !p.over && p.end.Pos < limit {
		b, err := p.r.frame(p.lim)
		if err != nil {
			return fmt.Errorf("journal: read at %d: %w", p.r.pos, err)
		}
		f, ok := parse(b)
		if !ok || !p.h.admits(f, p.end.Mark, p.lim) || !f.intact(b) {
			p.over = true
			return nil
		}
		next := p.end.Pos + Pos(FrameBytes(int(f.length)))
		rec := Record{Pos: p.end.Pos, End: next, Seq: f.seq, Inc: f.inc, Data: b[HeaderBytes : HeaderBytes+int(f.length)]}
		if err := fn(rec); err != nil {
			return err
		}
		p.end.Mark = Mark{Pos: next, Seq: f.seq + 1, Inc: f.inc}
		p.end.Durable = max(p.end.Durable, f.durable)
		p.end.Records++
		p.r.skip(FrameBytes(int(f.length)))
	}
	return nil
}

// Finish calls fn for the rest, all of which is there now, and returns where the log ends.
func (p *Replayer) Finish(fn func(Record) error) (End, error) {
	if err := p.Until(math.MaxInt64, fn); err != nil {
		return p.end, err
	}
	end := p.end
	if p.h.Durable > end.Pos {
		return end, &HoleError{At: end.Pos, Durable: p.h.Durable, Witness: "the header"}
	}
	w, err := beyond(p.r.read, end.Pos, p.lim)
	if err != nil {
		return end, fmt.Errorf("journal: read behind the end at %d: %w", end.Pos, err)
	}
	if w.durable > end.Pos {
		return end, &HoleError{At: end.Pos, Durable: w.durable, Witness: fmt.Sprintf("the frame at %d", w.pos)}
	}
	return end, nil
}

// admits reports whether f may follow the mark.
func (h Header) admits(f frameHeader, at Mark, lim Limits) bool {
	if f.pos != at.Pos || f.seq != at.Seq || f.inc < at.Inc || int64(f.length) > int64(lim.Record) {
		return false
	}
	// From Start on only this header's writer, or one whose header was lost with it before
	// it could have acknowledged anything, may have written.
	return f.pos < h.Start || f.inc >= h.Inc
}

// beyond looks for an intact frame behind the end of the log and returns the one that knows
// of the highest durable position. Frames of an earlier round over the same place claim
// other positions and do not count.
func beyond(read ReadFunc, end Pos, lim Limits) (best frameHeader, err error) {
	r := reader{read: read, pos: end}
	buf, err := r.have(lim.Window() + FrameBytes(lim.Record))
	if err != nil {
		return best, err
	}
	for i := 0; ; {
		k := bytes.Index(buf[i:], []byte(frameMagic))
		if k < 0 {
			return best, nil
		}
		i += k
		f, ok := parse(buf[i:])
		if ok && f.pos == end+Pos(i) && int64(f.length) <= int64(lim.Record) &&
			len(buf)-i >= HeaderBytes+int(f.length) && f.durable > best.durable && f.intact(buf[i:]) {
			best = f
		}
		i++
	}
}

// Wipe tells a new writer what to overwrite with zeros (or to remove) durably before its
// first append at end: n bytes from there.
func Wipe(end Pos, lim Limits) (off Pos, n int) { return end, lim.Window() }

// reader keeps a sliding buffer over a log: buf[at:] is what is stored at pos.
type reader struct {
	read ReadFunc
	pos  Pos
	buf  []byte
	at   int
}

// have returns at least n buffered bytes at pos, fewer only when no more are stored.
func (r *reader) have(n int) ([]byte, error) {
	if len(r.buf)-r.at < n && r.at > 0 {
		r.buf = r.buf[:copy(r.buf, r.buf[r.at:])]
		r.at = 0
	}
	for len(r.buf)-r.at < n {
		b, err := r.read(r.pos+Pos(len(r.buf)-r.at), max(n-len(r.buf)+r.at, readChunk))
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			break
		}
		r.buf = append(r.buf, b...)
	}
	return r.buf[r.at:], nil
}

// frame returns bytes that hold the frame at pos whole, or nil when there is none.
func (r *reader) frame(lim Limits) ([]byte, error) {
	b, err := r.have(HeaderBytes)
	if err != nil {
		return nil, err
	}
	f, ok := parse(b)
	if !ok || f.pos != r.pos || int64(f.length) > int64(lim.Record) {
		return nil, nil
	}
	n := HeaderBytes + int(f.length)
	if b, err = r.have(n); err != nil || len(b) < n {
		return nil, err
	}
	return b, nil
}

// skip moves past n bytes; the padding of the last frame may lie behind what is stored.
func (r *reader) skip(n int) {
	r.pos += Pos(n)
	if r.at += n; r.at > len(r.buf) {
		r.buf, r.at = r.buf[:0], 0
	}
}
