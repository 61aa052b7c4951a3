package integration

import (
	"errors"
	"syscall"
	"testing"
	"time"
)

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	errors.As(err, &e)
	return e
}

// within polls cond for at most so many seconds.
func within(t *testing.T, seconds int, what string, cond func() bool) {
	t.Helper()
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for !cond() {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %d s", what, seconds)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func free(t *testing.T, p string) uint64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(p, &st); err != nil {
		t.Fatal(err)
	}
	return st.Bavail * uint64(st.Bsize)
}
