package cluster

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Some locks on a FUSE mount never reach it: leases, and flock on a directory. The kernel
// keeps them itself, on this host only, and asks nobody whether they may be had. They cannot
// be refused, but they need not be silent: what of our mounts stands in /proc/locks is such a
// lock, for those that we serve are not there.

// localLook is how often /proc/locks is read.
const localLook = 10 * time.Second

// LocalLock is a lock that holds on this host alone.
type LocalLock struct {
	Kind string `json:"kind"` // FLOCK, LEASE, POSIX, OFDLCK
	PID  int    `json:"pid"`
	Ino  uint64 `json:"ino"`
}

// localLocks reads the lines of /proc/locks that are of device dev (major:minor).
func localLocks(text, dev string) []LocalLock {
	out := []LocalLock{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 1 && f[1] == "->" { // waits for the one above
			continue
		}
		if len(f) < 6 {
			continue
		}
		parts := strings.Split(f[5], ":")
		if len(parts) != 3 {
			continue
		}
		major, err1 := strconv.ParseUint(parts[0], 16, 32)
		minor, err2 := strconv.ParseUint(parts[1], 16, 32)
		ino, err3 := strconv.ParseUint(parts[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil || fmt.Sprintf("%d:%d", major, minor) != dev {
			continue
		}
		pid, _ := strconv.Atoi(f[4]) // -1 of an OFD lock is no process
		out = append(out, LocalLock{Kind: f[1], PID: pid, Ino: ino})
	}
	return out
}

// LocalLocks lists the locks of this mount that the kernel keeps by itself.
func (m *Mounted) LocalLocks() []LocalLock {
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return []LocalLock{}
	}
	return localLocks(string(b), m.dev)
}

// watchLocalLocks warns of each once, until the mount ends.
func (m *Mounted) watchLocalLocks(log zerolog.Logger) {
	said := map[LocalLock]bool{}
	t := time.NewTicker(localLook)
	defer t.Stop()
	for {
		select {
		case <-m.Done:
			return
		case <-t.C:
			said = sayLocal(log, m.LocalLocks(), said)
		}
	}
}

func sayLocal(log zerolog.Logger, now []LocalLock, said map[LocalLock]bool) map[LocalLock]bool {
	next := make(map[LocalLock]bool, len(now))
	for _, l := range now {
		next[l] = true
		if !said[l] {
			log.Warn().Str("kind", l.Kind).Int("pid", l.PID).Uint64("ino", l.Ino).Msg("this lock holds on this host only: the kernel does not ask a FUSE file system for leases, nor for flock on a directory (docs/filelocks.md)")
		}
	}
	return next
}
