package msgr

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// readerOf reads from nc what is there, and waits when nothing is.
func readerOf(nc net.Conn) io.Reader {
	switch c := nc.(type) {
	case *net.TCPConn:
		return newRawReader(c, nc)
	case *net.UnixConn:
		return newRawReader(c, nc)
	}
	return nc
}

// rawReader reads from a socket that Go keeps in non-blocking mode. Such a call cannot wait, so
// Go's scheduler is not told of it, nor of rawWriter's: telling it wakes the runtime's monitor
// thread, which then polls until the process is idle again. That would be once for every
// message that comes to an idle daemon, and it costs more than the message. One goroutine
// reads at a time.
type rawReader struct {
	rc   syscall.RawConn
	call func(fd uintptr) bool
	p    []byte
	n    int
	err  error
}

func newRawReader(c syscall.Conn, nc net.Conn) io.Reader {
	rc, err := c.SyscallConn()
	if err != nil {
		return nc
	}
	r := &rawReader{rc: rc}
	r.call = r.read
	return r
}

func (r *rawReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.p, r.n, r.err = p, 0, nil
	err := r.rc.Read(r.call)
	r.p = nil
	if err == nil {
		err = r.err
	}
	if err == nil && r.n == 0 {
		err = io.EOF
	}
	return r.n, err
}

// read returns false when there is nothing yet: RawConn waits then and calls again.
func (r *rawReader) read(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&r.p[0])), uintptr(len(r.p)))
		switch errno {
		case 0:
			r.n = int(n)
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		}
		r.err = os.NewSyscallError("read", errno)
		return true
	}
}
