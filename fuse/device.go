package fuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// device reads the kernel's requests and writes the answers; go-fuse's ProtocolServer is what lies
// between. go-fuse's own loop keeps a thread in read(2), and with it one of Go's processors until
// the runtime's monitor thread takes that away, 20 µs and more later: some ten switches of threads
// for a request that needs two, and answers from the network that wait for it. Here the descriptor
// does not block: the one thread that waits for the network waits for it too.
//
// Whoever has read a request works it off, while another goroutine reads on (run). How many are on
// their way is bounded by the kernel: one for each thread that waits, and maxBackground.
type device struct {
	ps   *fuse.ProtocolServer
	file *os.File
	conn syscall.RawConn
	fd   int // of file; good until serve returns
	log  zerolog.Logger
	max  int // bytes of a request

	reading atomic.Bool // one goroutine reads, or is about to
	failed  func()      // ends the connection, which is not served any more
	wg      sync.WaitGroup
	bufs    sync.Pool // *[]byte of max
	mids    sync.Pool // *[]byte of midRequest
	rooms   sync.Pool // *[]byte of midAnswer
	jobs    sync.Pool
	scratch []byte // where go-fuse believes to put what was read

	mu   sync.Mutex
	open map[uint64]*job // by the kernel's number
	over bool            // the connection has ended: who asks now is told at once
}

// job is one request on its way.
type job struct {
	unique uint64
	cancel chan struct{} // what INTERRUPT closes; nil until somebody may wait for it
	cut    bool          // INTERRUPT has come
	told   bool          // the answer is written
	vec    vector        // it, for writev
	small  [1024]byte    // the request, unless it is larger
	head   [1024]byte    // the answer, but for …
	data   []byte        // … the bytes that a READ found, which are not copied
}

const (
	inHeader   = 40 // bytes
	outHeader  = 16
	maxHead    = 256 // of a request that carries data, before them
	midRequest = 16<<10 + maxHead
	midAnswer  = 64 << 10
)

// Requests by number, as far as they are treated apart (fuse(4)).
const (
	opForget      = 2
	opReadlink    = 5
	opRead        = 15
	opWrite       = 16
	opRelease     = 18
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opReleasedir  = 29
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opReaddirplus = 44
)

// newDevice takes fd over and answers INIT. offered are the features that the kernel has; failed is
// called when requests cannot be read any more though the file system is mounted.
func newDevice(fd int, fs fuse.RawFileSystem, opt *fuse.MountOptions, log zerolog.Logger, failed func()) (d *device, offered uint64, err error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, 0, fmt.Errorf("fuse: %w", err)
	}
	d = &device{ps: fuse.NewProtocolServer(fs, opt), file: os.NewFile(uintptr(fd), "/dev/fuse"), fd: fd, log: log, max: opt.MaxWrite + maxHead + 4096,
		failed: failed, scratch: make([]byte, opt.MaxWrite), open: map[uint64]*job{}}
	d.bufs.New = func() any { b := make([]byte, d.max); return &b }
	d.mids.New = func() any { b := make([]byte, midRequest); return &b }
	d.rooms.New = func() any { b := make([]byte, midAnswer); return &b }
	d.jobs.New = func() any { return &job{} }
	if d.conn, err = d.file.SyscallConn(); err != nil {
		d.file.Close()
		return nil, 0, fmt.Errorf("fuse: %w", err)
	}
	r := newReading(d)
	req, err := r.next()
	if err == nil {
		if op := opcode(req); op != opInit || len(req) < inHeader+20 {
			err = fmt.Errorf("the kernel's first request is number %d, not INIT", op)
		}
	}
	if err != nil {
		d.file.Close()
		return nil, 0, fmt.Errorf("fuse: %w", err)
	}
	offered = uint64(binary.NativeEndian.Uint32(req[inHeader+12:])) | uint64(binary.NativeEndian.Uint32(req[inHeader+16:]))<<32
	d.work(d.begin(req), req)
	d.bufs.Put(r.buf)
	return d, offered, nil
}

func opcode(req []byte) uint32 { return binary.NativeEndian.Uint32(req[4:]) }

// reading is a goroutine's turn at the descriptor. Its fields carry arguments and results through
// RawConn.Read without an allocation.
type reading struct {
	d     *device
	buf   *[]byte
	call  func(fd uintptr) bool
	n     int
	errno syscall.Errno
}

func newReading(d *device) *reading {
	r := &reading{d: d, buf: d.bufs.Get().(*[]byte)}
	r.call = r.read
	return r
}

// read is called until it returns true: at once, and when the kernel has something. A raw call
// since it does not wait: see msgr's quick.
func (r *reading) read(fd uintptr) bool {
	b := *r.buf
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	r.n, r.errno = int(n), errno
	return errno != syscall.EAGAIN
}

// next waits for a request; it is in r.buf.
func (r *reading) next() ([]byte, error) {
	for {
		if err := r.d.conn.Read(r.call); err != nil {
			// The poller says "not pollable" of a connection that has ended, and no more. The kernel says why.
			if !r.read(uintptr(r.d.fd)) {
				return nil, err
			}
		}
		switch r.errno {
		case 0:
			if r.n < inHeader {
				return nil, fmt.Errorf("a request of %d bytes", r.n)
			}
			return (*r.buf)[:r.n], nil
		case syscall.EINTR, syscall.ENOENT: // it was taken back while it was handed over
			continue
		}
		return nil, r.errno
	}
}

// serve answers requests until the file system is unmounted and the last of them is answered.
func (d *device) serve() {
	d.wg.Add(1)
	d.run()
	d.wg.Wait()
	d.file.Close()
}

// run reads requests and works them off, as long as nobody else reads. While one is worked on
// another goroutine reads on.
func (d *device) run() {
	defer d.wg.Done()
	var r *reading
	for d.reading.CompareAndSwap(false, true) {
		if r == nil {
			r = newReading(d)
		}
		req, err := r.next()
		if err != nil {
			d.end(err) // d.reading stays set: nobody reads any more
			break
		}
		switch opcode(req) {
		case opForget, opBatchForget: // the kernel does not wait for it, and may have very many
			d.ps.HandleRequest([][]byte{req}, nil)
			d.reading.Store(false)
			continue
		case opInterrupt:
			if len(req) >= inHeader+8 {
				d.interrupt(binary.NativeEndian.Uint64(req[inHeader:]))
			}
			d.reading.Store(false)
			continue
		}
		j := d.begin(req) // before anybody reads on: the next may be its INTERRUPT
		var held *[]byte
		var back *sync.Pool
		switch { // it may wait for long: what is small does not keep a large buffer
		case len(req) <= len(j.small):
			req = j.small[:copy(j.small[:], req)]
		case len(req) <= midRequest:
			held, back = d.mids.Get().(*[]byte), &d.mids
			req = (*held)[:copy(*held, req)]
		default:
			held, back = r.buf, &d.bufs
			r.buf = d.bufs.Get().(*[]byte)
		}
		d.wg.Add(1)
		d.reading.Store(false)
		go d.run()
		d.work(j, req)
		if held != nil {
			back.Put(held)
		}
	}
	if r != nil {
		d.bufs.Put(r.buf)
	}
}

// end is when no more requests come: after an unmount, or an abort.
func (d *device) end(err error) {
	if !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ECONNABORTED) {
		d.log.Error().Err(err).Msg("cannot read the kernel's requests any more: the mount ends")
		go d.failed()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	for _, j := range d.open {
		j.interrupt()
	}
}

// begin enters a request among those on their way.
func (d *device) begin(req []byte) *job {
	j := d.jobs.Get().(*job)
	d.mu.Lock()
	defer d.mu.Unlock()
	j.unique, j.cancel, j.cut, j.told, j.data = binary.NativeEndian.Uint64(req[8:]), nil, false, false, nil
	d.open[j.unique] = j
	return j
}

// interrupt tells whoever works on a request that who asked has a signal. One that is not on its way
// any more is answered.
func (d *device) interrupt(unique uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if j := d.open[unique]; j != nil {
		j.interrupt()
	}
}

// interrupt is called with the device's mu held.
func (j *job) interrupt() {
	if !j.cut && j.cancel != nil {
		close(j.cancel)
	}
	j.cut = true
}

// cancel is closed when INTERRUPT comes for a request, or the connection ends. A channel of its own
// for each request: some wait on when it is answered.
func (d *device) cancel(unique uint64) <-chan struct{} {
	ch := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.open[unique]
	if j != nil && j.cancel != nil {
		return j.cancel
	}
	if j != nil {
		j.cancel = ch
	}
	if d.over || j != nil && j.cut {
		close(ch)
		if j != nil {
			j.cut = true
		}
	}
	return ch
}

// ended reports whether the connection has ended: nobody waits for an answer any more.
func (d *device) ended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// work answers one request.
func (d *device) work(j *job, req []byte) {
	op := opcode(req)
	var two [2][]byte
	out, room := d.answerRoom(j, op, req, two[:0])
	in := [1][]byte{req}
	n, st := d.ps.HandleRequest(in[:], out)
	d.mu.Lock()
	delete(d.open, j.unique)
	d.mu.Unlock()
	if st != fuse.OK {
		d.log.Error().Str("op", nameOf(op)).Stringer("status", st).Msg("a request of the kernel's that is not understood")
		d.refuse(j, op)
	} else if n > 0 && !j.told {
		d.answer(j, op, out, n)
	}
	j.data, j.vec = nil, vector{} // nothing is kept alive by a job that rests
	d.jobs.Put(j)
	if room != nil {
		d.rooms.Put(room)
	}
}

// answerRoom is where go-fuse may put the answer: its head, and behind that what was asked for.
// room, if any, is to be put back when it is written.
func (d *device) answerRoom(j *job, op uint32, req []byte, out [][]byte) (_ [][]byte, room *[]byte) {
	size := func(at int) int {
		if len(req) < inHeader+at+4 {
			return 0
		}
		return int(min(binary.NativeEndian.Uint32(req[inHeader+at:]), uint32(d.max)))
	}
	behind := func(head, n int) ([][]byte, *[]byte) {
		if n > midAnswer {
			return append(out, j.head[:head], make([]byte, n)), nil
		}
		r := d.rooms.Get().(*[]byte)
		return append(out, j.head[:head], (*r)[:n]), r
	}
	switch op {
	case opRead:
		// What is read comes as the client has it (readData): this is for go-fuse's arithmetic only.
		return append(out, j.head[:outHeader], d.scratch[:min(size(16), len(d.scratch))]), nil
	case opReaddir, opReaddirplus:
		return behind(outHeader, size(16))
	case opGetxattr, opListxattr:
		if n := size(0); n > 0 {
			return behind(outHeader, n)
		}
	case opIoctl:
		return append(out, j.head[:outHeader+16], make([]byte, size(28))), nil
	case opReadlink:
		return behind(outHeader, 4096)
	}
	return append(out, j.head[:]), nil
}

// background are requests at whose answer the kernel does more than wake who asked: it may let go of
// an inode, and wait for a page of it that is on its way to us.
var background = [numOps]bool{opRead: true, opWrite: true, opRelease: true, opReleasedir: true, opInit: true}

// answer writes n bytes of out, or the head of it and what a READ found.
func (d *device) answer(j *job, op uint32, out [][]byte, n int) {
	v := &j.vec
	v.reset()
	if j.data != nil {
		v.put(j.head[:outHeader])
		v.put(j.data)
	} else {
		for _, b := range out {
			b = b[:min(len(b), n)]
			v.put(b)
			n -= len(b)
		}
	}
	if errno := d.write(v, background[op%numOps]); !taken(errno) {
		d.log.Error().Str("op", nameOf(op)).Str("error", errno.Error()).Int("bytes", v.bytes).Msg("the kernel does not take an answer: who asked gets EIO")
		d.refuse(j, op) // or he would wait for ever
	}
}

// refuse answers EIO.
func (d *device) refuse(j *job, op uint32) {
	j.answered(0, syscall.EIO)
	j.vec.reset()
	j.vec.put(j.head[:outHeader])
	if errno := d.write(&j.vec, background[op%numOps]); !taken(errno) {
		d.log.Error().Str("op", nameOf(op)).Str("error", errno.Error()).Msg("nor does it take EIO")
	}
}

// taken reports whether nobody waits any more: the answer is there, or who asked is gone (ENOENT), or
// the file system is.
func taken(errno syscall.Errno) bool {
	return errno == 0 || errno == syscall.ENOENT || errno == syscall.ENODEV || errno == syscall.ECONNABORTED
}

// reply answers a request that is on its way, with body behind the header; what go-fuse makes of it
// when its handler returns is then not written.
func (d *device) reply(unique uint64, body []byte) error {
	d.mu.Lock()
	j := d.open[unique]
	d.mu.Unlock()
	if j == nil {
		return syscall.ENOENT
	}
	j.answered(len(body), 0)
	j.vec.reset()
	j.vec.put(j.head[:outHeader])
	j.vec.put(body)
	errno := d.write(&j.vec, false)
	if j.told = taken(errno); errno != 0 {
		return errno
	}
	return nil
}

// answered fills the header of an answer with n bytes behind it.
func (j *job) answered(n int, errno syscall.Errno) {
	binary.NativeEndian.PutUint32(j.head[0:], uint32(outHeader+n))
	binary.NativeEndian.PutUint32(j.head[4:], -uint32(errno))
	binary.NativeEndian.PutUint64(j.head[8:], j.unique)
}

// notify writes a notification, which may block (F1). It is refused when the connection has ended:
// the descriptor's number may then be another file's.
func (d *device) notify(b []byte) error {
	var err error
	if e := d.conn.Control(func(fd uintptr) { _, err = unix.Write(int(fd), b) }); e != nil {
		return e
	}
	return err
}

// vector is what one writev writes.
type vector struct {
	iov   [3]unix.Iovec
	n     int
	bytes int
}

func (v *vector) reset() { *v = vector{} }

func (v *vector) put(b []byte) {
	if len(b) > 0 {
		v.iov[v.n].Base = &b[0]
		v.iov[v.n].SetLen(len(b))
		v.n++
		v.bytes += len(b)
	}
}

// write is for answers only, which are written before serve returns. It never waits, but for what
// background says; the others are raw calls, of which Go's scheduler is not told, unless they are long.
func (d *device) write(v *vector, waits bool) (errno syscall.Errno) {
	for {
		if waits || v.bytes > 16<<10 {
			_, _, errno = syscall.Syscall(unix.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(v.n))
		} else {
			_, _, errno = syscall.RawSyscall(unix.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(v.n))
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}

func nameOf(op uint32) string {
	if op < numOps && opNames[op] != "" {
		return opNames[op]
	}
	return fmt.Sprintf("number %d", op)
}

// read hands a READ's bytes to its answer as they are.
func (d *device) read(unique uint64, b []byte) fuse.ReadResult {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &readData{b, d.open[unique]}
}

// readData is a fuse.ReadResult that go-fuse need not copy.
type readData struct {
	b  []byte
	to *job
}

func (r *readData) Bytes([]byte) ([]byte, fuse.Status) { return r.b, fuse.OK }
func (r *readData) Size() int                          { return len(r.b) }
func (r *readData) Done()                              {}

// Readv is where go-fuse would have it put.
func (r *readData) Readv([][]byte) (int, fuse.Status) {
	if len(r.b) > 0 {
		r.to.data = r.b
	}
	return len(r.b), fuse.OK
}
