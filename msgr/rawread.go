package msgr

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// readerOf is what nc's bytes are read from: a socket by system calls of our own, for the reason
// that quick gives.
func readerOf(nc net.Conn) io.Reader {
	switch nc := nc.(type) {
	case *net.TCPConn:
		return newRawReader(nc, nc)
	case *net.UnixConn:
		return newRawReader(nc, nc)
	}
	return nc
}

// rawReader reads from a socket that Go keeps in non-blocking mode. Its fields carry arguments
// and results through RawConn.Read without an allocation; a stream has one reader.
type rawReader struct {
	rc    syscall.RawConn
	call  func(fd uintptr) bool
	into  []byte
	n     int
	errno syscall.Errno
}

func newRawReader(c syscall.Conn, nc io.Reader) io.Reader {
	rc, err := c.SyscallConn()
	if err != nil {
		return nc
	}
	r := &rawReader{rc: rc}
	r.call = r.read
	return r
}

// Read implements io.Reader.
func (r *rawReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	r.into, r.n, r.errno = b, 0, 0
	err := r.rc.Read(r.call)
	r.into = nil
	switch {
	case err != nil:
		return 0, err
	case r.errno != 0:
		return 0, os.NewSyscallError("read", r.errno)
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// read returns false when there is nothing yet: RawConn then waits until there is.
func (r *rawReader) read(fd uintptr) bool {
	for {
		call := syscall.RawSyscall
		if len(r.into) > readSize { // a large segment of data, which may well be there as a whole
			call = syscall.Syscall
		}
		n, _, errno := call(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&r.into[0])), uintptr(len(r.into)))
		switch errno {
		case 0:
			r.n = int(n)
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		}
		r.errno = errno
		return true
	}
}
