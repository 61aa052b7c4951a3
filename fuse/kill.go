package fuse

import (
	"bytes"
	"os"
	"strconv"
)

// killed reports whether nobody waits for what thread pid has asked: it has a SIGKILL pending, or the
// kernel has ended the connection and with it the request.
func (fs *fileSystem) killed(pid uint32) bool { return fs.dev.ended() || killed(pid) }

// killed reports whether thread pid has a SIGKILL pending. The kernel tells of any signal,
// Go's preemption included, and only once (F16), so the state of the thread is looked at.
func killed(pid uint32) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/status")
	if err != nil {
		return pid != 0 && os.IsNotExist(err)
	}
	return hasKill(b, "SigPnd:") || hasKill(b, "ShdPnd:")
}

func hasKill(status []byte, field string) bool {
	_, rest, ok := bytes.Cut(status, []byte("\n"+field))
	if !ok {
		return false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	return err == nil && set&(1<<(9-1)) != 0
}
