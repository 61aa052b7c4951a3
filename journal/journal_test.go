package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// small limits make windows that a test can fill.
var small = Limits{Run: 256, Record: 400}

// mem is a log's place: bytes from position 0 on.
type mem struct{ b []byte }

func (m *mem) write(off Pos, p []byte) {
	if n := int(off) + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	copy(m.b[off:], p)
}

func (m *mem) read(off Pos, n int) ([]byte, error) {
	if int(off) >= len(m.b) {
		return nil, nil
	}
	return m.b[off:min(len(m.b), int(off)+min(n, 100))], nil // in small helpings
}

// flush writes everything that is queued.
func flush(w *Writer, m *mem) {
	for {
		off, b, ok := w.Next()
		if !ok {
			return
		}
		m.write(off, b)
		w.Done(off)
	}
}

func replay(m *mem, h Header) (recs []string, end End, err error) {
	end, err = Replay(m.read, h, small, func(r Record) error {
		recs = append(recs, string(r.Data))
		return nil
	})
	return recs, end, err
}

func rec(i int) string { return fmt.Sprintf("record %d %s", i, bytes.Repeat([]byte{'x'}, i*7%50)) }

// filled is a log of n records, each written and acknowledged by itself.
func filled(n int) (*mem, *Writer, []Pos) {
	w, m := NewWriter(Mark{}, 1, small), &mem{}
	var ends []Pos
	for i := range n {
		ends = append(ends, w.Append([]byte(rec(i))))
		flush(w, m)
	}
	return m, w, ends
}

func TestReplayReturnsWhatWasWritten(t *testing.T) {
	m, w, ends := filled(20)
	recs, end, err := replay(m, Header{})
	if err != nil || len(recs) != 20 || end.Mark != w.Mark() {
		t.Fatalf("%d records, end %+v, %v; want 20, %+v", len(recs), end, err, w.Mark())
	}
	for i, r := range recs {
		if r != rec(i) {
			t.Errorf("record %d is %q", i, r)
		}
	}
	// From the middle, as after a trim.
	recs, _, err = replay(m, Header{Expire: Mark{Pos: ends[9], Seq: 10, Inc: 1}})
	if err != nil || len(recs) != 10 || recs[0] != rec(10) {
		t.Errorf("from record 10: %d records, %v", len(recs), err)
	}
}

func TestRunsHoldWholeFramesAndTwoAreUnderWay(t *testing.T) {
	w := NewWriter(Mark{}, 1, small)
	for i := range 30 {
		w.Append([]byte(rec(i)))
	}
	w.Append(bytes.Repeat([]byte{'y'}, small.Record)) // larger than a run
	a, ab, ok := w.Next()
	b, bb, ok2 := w.Next()
	if _, _, third := w.Next(); !ok || !ok2 || third {
		t.Fatalf("runs: %v %v %v, want two", ok, ok2, third)
	}
	if len(ab) > small.Run || b != a+Pos(len(ab)) {
		t.Errorf("first run %d+%d, second %d", a, len(ab), b)
	}
	if d := w.Done(b); d != 0 {
		t.Errorf("durable %d after the second write alone", d)
	}
	if _, _, third := w.Next(); third {
		t.Error("a third write while the first is under way")
	}
	if d := w.Done(a); d != b+Pos(len(bb)) {
		t.Errorf("durable %d, want %d", d, b+Pos(len(bb)))
	}
	m := &mem{}
	flush(w, m)
	if w.Durable() != w.End() {
		t.Errorf("durable %d of %d", w.Durable(), w.End())
	}
}

// A flipped bit at every offset: replay gives the records before it and either says that
// acknowledged records are lost, or the flip hit the tail that nothing vouches for.
func TestEveryFlippedByteEndsTheLogOrIsLoud(t *testing.T) {
	m, _, ends := filled(8)
	for at := range m.b {
		c := &mem{append([]byte{}, m.b...)}
		c.b[at] ^= 0x40
		hit := 0
		for Pos(at) >= ends[hit] {
			hit++
		}
		recs, _, err := replay(c, Header{})
		for i, r := range recs {
			if r != rec(i) {
				t.Fatalf("flip at %d: record %d is %q", at, i, r)
			}
		}
		if len(recs) == 8 && err == nil {
			// Padding is not covered by the checksum and means nothing.
			if pad := ends[hit] - Pos(at); pad > 7 {
				t.Fatalf("flip at %d not noticed", at)
			}
			continue
		}
		if len(recs) != hit {
			t.Fatalf("flip at %d in record %d: %d records", at, hit, len(recs))
		}
		// Record hit was acknowledged before record hit+1 was framed.
		if hit < 7 && !errors.Is(err, ErrHole) {
			t.Fatalf("flip at %d in record %d of 8: %v, want a hole", at, hit, err)
		}
		if hit == 7 && err != nil {
			t.Fatalf("flip at %d in the last record: %v", at, err)
		}
	}
}

func TestEveryTruncationGivesAPrefix(t *testing.T) {
	m, _, ends := filled(8)
	for n := range len(m.b) {
		want := 0
		for want < 8 && ends[want] <= Pos(n) {
			want++
		}
		recs, _, err := replay(&mem{m.b[:n]}, Header{})
		if err != nil || len(recs) < want || len(recs) > want+1 { // its padding may be missing
			t.Fatalf("cut to %d bytes: %d records, %v, want %d", n, len(recs), err, want)
		}
		// A header that knows better is loud.
		if _, _, err := replay(&mem{m.b[:n]}, Header{Durable: ends[7]}); n < int(ends[7])-8 && !errors.Is(err, ErrHole) {
			t.Fatalf("cut to %d bytes: %v, want a hole", n, err)
		}
	}
}

// A crash may keep the second of two writes and lose the first: nothing was acknowledged, the
// log ends before both, and a new writer's wipe keeps the second from ever joining.
func TestSecondWriteAloneIsNotTheLog(t *testing.T) {
	m, w, ends := filled(3)
	w.Append([]byte("lost"))
	off1, b1, _ := w.Next()
	w.Append([]byte("kept"))
	off2, b2, _ := w.Next()
	m.write(off2, b2)
	_ = off1
	recs, end, err := replay(m, Header{})
	if err != nil || len(recs) != 3 || end.Pos != ends[2] {
		t.Fatalf("%d records, end %+v, %v", len(recs), end, err)
	}
	// The next writer happens to fill the gap exactly.
	wipe, n := Wipe(end.Pos, small)
	m.write(wipe, make([]byte, n))
	w2 := NewWriter(end.Mark, 2, small)
	w2.Append([]byte("LOST"))
	flush(w2, m)
	recs, end, err = replay(m, Header{Inc: 2, Start: end.Pos, Durable: end.Pos})
	if err != nil || len(recs) != 4 || recs[3] != "LOST" {
		t.Fatalf("%q, %v", recs, err)
	}
	// Without the wipe, the incarnation rule keeps it out as well.
	m.write(off2, b2)
	recs, _, err = replay(m, Header{Inc: 2, Start: ends[2], Durable: ends[2]})
	if err != nil || len(recs) != 4 {
		t.Fatalf("an older incarnation joined: %q, %v", recs, err)
	}
	if len(b1) == 0 {
		t.Fatal("no first run")
	}
}

// Two writes in any order, each whole, torn or lost, and a crash: what replay returns is a
// prefix that holds everything acknowledged.
func TestCrashBetweenTwoWrites(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 5))
		w, m := NewWriter(Mark{}, 1, small), &mem{}
		total := 0
		for range 1 + rng.IntN(6) {
			for range 1 + rng.IntN(4) {
				w.Append([]byte(rec(total)))
				total++
			}
			if rng.IntN(2) == 0 {
				flush(w, m)
			}
		}
		type io struct {
			off Pos
			b   []byte
		}
		var ios []io
		for {
			off, b, ok := w.Next()
			if !ok {
				break
			}
			ios = append(ios, io{off, b})
		}
		if len(ios) == 2 && rng.IntN(2) == 0 {
			ios[0], ios[1] = ios[1], ios[0]
		}
		for _, x := range ios {
			switch rng.IntN(4) {
			case 0:
				m.write(x.off, x.b)
				w.Done(x.off)
			case 1:
				m.write(x.off, x.b[:rng.IntN(len(x.b))])
			case 2: // its second half only
				k := rng.IntN(len(x.b))
				m.write(x.off+Pos(k), x.b[k:])
			}
		}
		recs, end, err := replay(m, Header{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if end.Pos < w.Durable() {
			t.Fatalf("seed %d: log ends at %d, %d was acknowledged", seed, end.Pos, w.Durable())
		}
		for i, r := range recs {
			if r != rec(i) {
				t.Fatalf("seed %d: record %d is %q", seed, i, r)
			}
		}
	}
}

// The fence failed and a write of the old incarnation lands on the new one's records. The
// new ones are lost, and that must be loud.
func TestLateWriteOfAnOldIncarnationIsLoud(t *testing.T) {
	m, old, ends := filled(3)
	old.Append([]byte("late, unacknowledged"))
	off, late, _ := old.Next()
	_, end, _ := replay(m, Header{})
	w := NewWriter(end.Mark, 2, small)
	h := Header{Inc: 2, Start: end.Pos, Durable: end.Pos}
	for i := range 4 {
		w.Append([]byte(rec(10 + i)))
		flush(w, m)
	}
	m.write(off, late)
	recs, _, err := replay(m, h)
	if !errors.Is(err, ErrHole) || len(recs) != 3 {
		t.Fatalf("%d records, %v; want 3 and a hole", len(recs), err)
	}
	// Had it landed behind the new end it would change nothing.
	m2, old2, _ := filled(3)
	old2.Append(bytes.Repeat([]byte{'z'}, 300))
	old2.Append([]byte("tail"))
	off1, _, _ := old2.Next()
	off2, b2, ok := old2.Next()
	if !ok || off1 != ends[2] {
		t.Fatal("want two runs")
	}
	w2 := NewWriter(end.Mark, 2, small)
	w2.Append([]byte("new"))
	flush(w2, m2)
	m2.write(off2, b2)
	if recs, _, err := replay(m2, h); err != nil || len(recs) != 4 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
}

func TestWriterReusesBuffers(t *testing.T) {
	w, m := NewWriter(Mark{}, 1, DefaultLimits), &mem{b: make([]byte, 64<<20)}
	rec := make([]byte, 300)
	for range 50 {
		w.Append(rec)
		flush(w, m)
	}
	if n := testing.AllocsPerRun(100, func() {
		w.Append(rec)
		w.Append(rec)
		flush(w, m)
	}); n > 0 {
		t.Errorf("%v allocations per group of two", n)
	}
}

func TestHeader(t *testing.T) {
	h := Header{Expire: Mark{77, 5, 2}, Inc: 3, Start: 99, Durable: 120}
	got, err := DecodeHeader(h.Encode())
	if err != nil || got != h {
		t.Errorf("%+v %v", got, err)
	}
	for i := range h.Encode() {
		b := h.Encode()
		b[i] ^= 1
		_, err := DecodeHeader(b)
		if i == 0 && !errors.Is(err, ErrHeaderVersion) || i > 0 && !errors.Is(err, ErrHeaderCorrupt) {
			t.Errorf("flip at %d: %v", i, err)
		}
	}
	if _, err := DecodeHeader(nil); !errors.Is(err, ErrHeaderCorrupt) {
		t.Errorf("empty: %v", err)
	}
}

func TestPieces(t *testing.T) {
	ps := Pieces(ObjectBytes-10, ObjectBytes+30)
	want := []Piece{{0, ObjectBytes - 10, 0, 10}, {1, 0, 10, ObjectBytes}, {2, 0, 10 + ObjectBytes, 20}}
	if fmt.Sprint(ps) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", ps, want)
	}
	if a, b := Trimmable(ObjectBytes+5, 3*ObjectBytes+1); a != 1 || b != 3 {
		t.Errorf("trimmable %d..%d", a, b)
	}
	if n := ObjectName("200.log", 0x1f); n != "200.log.0000001f" {
		t.Error(n)
	}
	r := Ring{Base: 4096, Size: 1000}
	if at, first := r.At(2990, 20); at != 4096+990 || first != 10 {
		t.Errorf("ring: %d %d", at, first)
	}
}

func FuzzReplay(f *testing.F) {
	m, _, _ := filled(5)
	f.Add(m.b, uint64(0))
	f.Add(m.b[:100], uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, from uint64) {
		from %= uint64(len(b) + 1)
		m := &mem{b}
		end, err := Replay(m.read, Header{Expire: Mark{Pos: Pos(from)}}, small, func(r Record) error {
			if int(r.End) > len(b)+frameAlign || r.Pos < Pos(from) {
				t.Fatalf("record %d..%d of %d bytes", r.Pos, r.End, len(b))
			}
			return nil
		})
		if err == nil && end.Pos < Pos(from) {
			t.Fatal("the log ends before it begins")
		}
	})
}
