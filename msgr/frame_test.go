package msgr

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

func frameBytes(t testing.TB, tid, seq, ack uint64, m wire.Message, data ...[]byte) []byte {
	t.Helper()
	h := headerOf(tid, m, data)
	h.seq, h.ack = seq, ack
	b, err := encode(nil, &h, m)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, bytes.Join(data, nil)...)
}

// The bytes of a frame are a promise to every other version of this program.
func TestGoldenFrame(t *testing.T) {
	got := frameBytes(t, 0x1122334455667788, 3, 2, &wire.Renew{Seq: 9}, []byte("ca"), []byte("ps"))
	want := strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(`
		43700100 0403 0000 03000000 04000000
		8877665544332211 0300000000000000 0200000000000000
		5f133708 a4bc6d60
		01 91 09
		63617073`)
	if hex.EncodeToString(got) != want {
		t.Errorf("frame is\n%x\nshould be\n%s", got, want)
	}
}

// Every byte of a frame is covered: flip any and the frame is refused.
func TestEveryFlippedByteIsNoticed(t *testing.T) {
	good := frameBytes(t, 7, 1, 1, &wire.Renew{Seq: 9}, []byte("some data"))
	var f Frame
	var h header
	if n, err := cut(good, DefaultLimits, &f, &h); n != len(good) || err != nil {
		t.Fatal(n, err)
	}
	for i := range good {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= bit
			// A longer length makes the frame incomplete: give it what it asks for.
			n, err := cut(append(bad, make([]byte, 200)...), DefaultLimits, &f, &h)
			if err == nil && n != 0 {
				t.Errorf("byte %d flipped by %#x was not noticed", i, bit)
			}
		}
	}
}

func TestWildLengthIsRefusedBeforeAllocation(t *testing.T) {
	for _, at := range []int{8, 12} {
		b := frameBytes(t, 7, 0, 0, &wire.Renew{Seq: 9})
		copy(b[at:], []byte{0xff, 0xff, 0xff, 0xff})
		allocs := testing.AllocsPerRun(10, func() {
			var f Frame
			var h header
			if _, err := cut(b, DefaultLimits, &f, &h); !errors.Is(err, ErrTooLarge) {
				t.Errorf("got %v", err)
			}
		})
		if allocs > 20 {
			t.Errorf("%v allocations", allocs)
		}
	}
}

// A stranger's bytes on our port end the connection with a message that says what they are.
func TestStrangerIsRefused(t *testing.T) {
	a, b := memPipe("mem:a", "mem:b")
	_, _ = b.Write([]byte("GET / HTTP/1.1\r\nHost: localhost:6800\r\nAccept: */*\r\n\r\n"))
	b.Close()
	_, err := hear(newLink(a))
	if !errors.Is(err, ErrBadFrame) || !strings.Contains(err.Error(), "does not speak") {
		t.Errorf("got %v", err)
	}
}

// However the stream is cut into reads, the frames are the same.
func TestReaderAtEveryChunkSize(t *testing.T) {
	var stream []byte
	var sizes []int
	for i := range 40 {
		size := []int{0, 10, 3000, 20000, 70000}[i%5]
		sizes = append(sizes, size)
		stream = append(stream, frameBytes(t, uint64(i), 0, 0, &wire.Renew{Seq: uint64(i)}, bytes.Repeat([]byte{byte(i)}, size))...)
	}
	for _, step := range []int{1 + len(stream), 65536, 40000, 4097, 48, 17} {
		var d reader
		d.init(&slowStream{b: stream, step: step}, DefaultLimits)
		d.known(DefaultLimits)
		for i := 0; i < len(sizes); {
			if err := d.next(batchSize); err != nil {
				t.Fatalf("step %d, frame %d: %v", step, i, err)
			}
			for _, f := range d.batch[:d.n] {
				if f.Tid != uint64(i) || len(f.Data) != sizes[i] || len(f.Data) > 0 && f.Data[len(f.Data)-1] != byte(i) {
					t.Fatalf("step %d: frame %d is %v with %d bytes", step, i, f.Msg, len(f.Data))
				}
				i++
			}
			d.release()
		}
		if err := d.next(batchSize); err != io.EOF {
			t.Errorf("step %d: end is %v", step, err)
		}
	}
}

type slowStream struct {
	net.Conn
	b    []byte
	step int
}

func (s *slowStream) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}

// Retain must survive the reader's reuse of its buffer, twice over.
func TestRetainOutlivesTheBatch(t *testing.T) {
	buf := []byte("abc")
	f := Frame{Data: buf}
	one := f.Retain()
	buf[0] = 'x'
	if string(one) != "abc" {
		t.Errorf("retained data changed to %q", one)
	}
	Recycle(one)
	Recycle(buf) // not a buffer of ours: ignored
	if got := Buffer(5000); len(got) != 5000 || cap(got) != 8192 {
		t.Errorf("buffer of 5000 has %d/%d", len(got), cap(got))
	}
}

func FuzzReader(f *testing.F) {
	good := frameBytes(f, 1, 1, 0, &wire.Renew{Seq: 3}, []byte("data"))
	f.Add(good, uint16(7))
	f.Add(append(bytes.Clone(good), good...), uint16(100))
	f.Add(frameBytes(f, 1, 0, 0, &wire.Hello{Addr: "x", Session: wire.SessionHello{ID: wire.UUID{1}}}), uint16(48))
	f.Add(good[:50], uint16(1))
	long := bytes.Clone(good)
	long[10] = 0xff
	f.Add(long, uint16(9))
	f.Fuzz(func(t *testing.T, b []byte, step uint16) {
		var d reader
		lim := Limits{Front: 1 << 16, Data: 1 << 16}
		d.init(&slowStream{b: b, step: int(step) + 1}, lim)
		total := 0
		for {
			err := d.next(batchSize)
			total += d.n
			d.release()
			if err != nil {
				break
			}
		}
		if total > len(b)/headerSize {
			t.Errorf("%d frames from %d bytes", total, len(b))
		}
		if len(d.buf) > 4*(lim.Front+lim.Data) {
			t.Errorf("buffer grew to %d", len(d.buf))
		}
	})
}

// FuzzFront goes over every registered message: bytes of a peer are an error or a message
// that encodes again, never a panic.
func FuzzFront(f *testing.F) {
	for typ, mk := range wire.Types() {
		b, err := wire.Append(nil, mk())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(typ), b)
	}
	f.Fuzz(func(t *testing.T, typ uint16, front []byte) {
		m, err := wire.Decode(wire.Type(typ), front)
		if err != nil {
			return
		}
		if _, err := wire.Append(nil, m); err != nil {
			t.Errorf("decoded %T does not encode: %v", m, err)
		}
	})
}
