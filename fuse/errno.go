package fuse

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/capstan-fs/capstan/client"
)

// status is the errno the kernel gets for an error of client/.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if e, ok := err.(syscall.Errno); ok {
		return fuse.Status(e)
	}
	var e syscall.Errno
	switch {
	case errors.Is(err, client.ErrInterrupted):
		return fuse.EINTR
	case errors.Is(err, client.ErrLost), errors.Is(err, client.ErrObject):
		return fuse.EIO
	case errors.Is(err, client.ErrClosed):
		return fuse.Status(syscall.ENOTCONN)
	case errors.As(err, &e):
		return fuse.Status(e)
	}
	return fuse.EIO
}
