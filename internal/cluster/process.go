package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one process of a dev cluster, as its file in D/run says.
type Process struct {
	Name  string `json:"name"`
	Role  string `json:"role"`
	PID   int    `json:"pid"`
	Addr  string `json:"addr"`
	Start uint64 `json:"start"` // clock ticks after boot, from /proc: pid and start name one life
}

// startTime is field 22 of /proc/PID/stat; 0: no such process, or only its zombie.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The command in parentheses may hold anything; fields are counted from behind it.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}

// Alive reports whether this very process still runs.
func (p Process) Alive() bool { return p.PID > 0 && p.Start != 0 && startTime(p.PID) == p.Start }

func (p Process) signal(sig syscall.Signal) error {
	if !p.Alive() {
		return nil
	}
	err := syscall.Kill(p.PID, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// stop asks the processes to end, and ends those that have not after grace.
func stop(ps []Process, grace time.Duration) error {
	var errs []error
	for _, p := range ps {
		if err := p.signal(syscall.SIGTERM); err != nil {
			errs = append(errs, fmt.Errorf("stop %s (pid %d): %w", p.Name, p.PID, err))
		}
	}
	if waitGone(ps, grace) {
		return errors.Join(errs...)
	}
	for _, p := range ps {
		if p.Alive() {
			_ = p.signal(syscall.SIGKILL)
		}
	}
	if !waitGone(ps, 5*time.Second) {
		errs = append(errs, errors.New("a process survived SIGKILL: it hangs in the kernel"))
	}
	return errors.Join(errs...)
}

func waitGone(ps []Process, d time.Duration) bool {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		alive := false
		for _, p := range ps {
			alive = alive || p.Alive()
		}
		if !alive {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func (p Process) save(path string) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func loadProcess(path string) (p Process, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}
