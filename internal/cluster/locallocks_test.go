package cluster

import (
	"slices"
	"testing"
)

func TestLocalLocksAreThoseOfOurDevice(t *testing.T) {
	const text = `1: FLOCK  ADVISORY  WRITE 412 00:2f:1 0 EOF
1: -> FLOCK  ADVISORY  WRITE 413 00:2f:1 0 EOF
2: LEASE  ACTIVE    READ 414 00:2f:1099511628033 0 EOF
3: POSIX  ADVISORY  WRITE 415 fe:00:77 128 128
4: OFDLCK ADVISORY  READ -1 00:2e:9 0 0
nonsense
5: FLOCK
`
	got := localLocks(text, "0:47")
	want := []LocalLock{{"FLOCK", 412, 1}, {"LEASE", 414, 1099511628033}}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v", got)
	}
}
