package msgr

import (
	"net"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tryWriter writes what the stream takes now and does not wait.
type tryWriter interface {
	tryWrite(segs [][]byte) (int, error)
}

// tryWriterOf finds the way to write to nc without waiting; nil when there is none (TLS).
func tryWriterOf(nc net.Conn) tryWriter {
	if w, ok := nc.(tryWriter); ok {
		return w
	}
	switch nc := nc.(type) {
	case *net.TCPConn:
		return newRawWriter(nc)
	case *net.UnixConn:
		return newRawWriter(nc)
	}
	return nil
}

// quick is how many bytes a socket copies in less time than it takes to tell Go's scheduler of a
// system call. To be told wakes its monitor thread, which looks 20 µs later whether the call
// still runs, and again: in a process that sleeps between two messages those are more switches
// than the message makes. Sockets never wait here, so for little the scheduler need not know.
const quick = 16 << 10

// maxIovecs is how many segments one writev takes; the kernel's limit is 1024.
const maxIovecs = 64

// rawWriter calls writev on a socket that Go keeps in non-blocking mode. Its fields carry
// arguments and results through RawConn.Write without an allocation; the link's writing
// flag admits one user at a time.
type rawWriter struct {
	rc   syscall.RawConn
	call func(fd uintptr) bool
	segs [][]byte
	iov  [maxIovecs]unix.Iovec
	n    int
	err  error
}

func newRawWriter(c syscall.Conn) tryWriter {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	w := &rawWriter{rc: rc}
	w.call = w.writev
	return w
}

func (w *rawWriter) tryWrite(segs [][]byte) (int, error) {
	w.segs, w.n, w.err = segs, 0, nil
	err := w.rc.Write(w.call)
	w.segs = nil
	clear(w.iov[:])
	if err == nil {
		err = w.err
	}
	return w.n, err
}

// writev always returns true: RawConn would otherwise wait until the socket is writable.
func (w *rawWriter) writev(fd uintptr) bool {
	segs, skip := w.segs, 0
	for len(segs) > 0 {
		k, total := 0, 0
		for i := 0; i < len(segs) && k < maxIovecs; i++ {
			s := segs[i]
			if i == 0 {
				s = s[skip:]
			}
			if len(s) == 0 {
				continue
			}
			w.iov[k].Base = &s[0]
			w.iov[k].SetLen(len(s))
			total += len(s)
			k++
		}
		if k == 0 {
			return true
		}
		call := syscall.Syscall
		if total <= quick {
			call = syscall.RawSyscall
		}
		r, _, errno := call(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(k))
		runtime.KeepAlive(segs)
		switch errno {
		case 0:
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return true
		default:
			w.err = errno
			return true
		}
		n := int(r)
		w.n += n
		if n < total {
			return true // the socket's buffer is full
		}
		skip += n
		for len(segs) > 0 && skip >= len(segs[0]) {
			skip -= len(segs[0])
			segs = segs[1:]
		}
	}
	return true
}
