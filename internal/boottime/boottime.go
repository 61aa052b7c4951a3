// Package boottime reads CLOCK_BOOTTIME: unlike Go's clock it runs on while the machine sleeps,
// which leases and sessions count on (4.7).
package boottime

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Now is nanoseconds since the machine started. The call is raw: it cannot wait, it is made for
// every message, and one that Go's scheduler is told of wakes its monitor thread (msgr's quick).
func Now() int64 {
	var ts unix.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("boottime: " + errno.Error()) // every Linux since 2.6.39 has it
	}
	return ts.Nano()
}
