package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// readyEnv names the descriptor on which a child tells its parent how its start went: one
// line, "ready ADDR" or "error TEXT".
const readyEnv = "CAPSTAN_READY_FD"

// TellParent reports the outcome of a start to the process that spawned us, if one waits.
func TellParent(addr string, err error) {
	fd, aerr := strconv.Atoi(os.Getenv(readyEnv))
	if aerr != nil {
		return
	}
	os.Unsetenv(readyEnv)
	f := os.NewFile(uintptr(fd), "ready")
	defer f.Close()
	if err != nil {
		fmt.Fprintf(f, "error %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	fmt.Fprintf(f, "ready %s\n", addr)
}

// ErrChild is what a child said when it failed; it is meant to be shown as it is.
type ErrChild string

func (e ErrChild) Error() string { return string(e) }

// Spawn starts this program with args in a session of its own, its output going to logPath,
// and waits until it is ready.
func Spawn(logPath string, wait time.Duration, args ...string) (pid int, addr string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, "", err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w} // descriptor 3
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, "", err
	}
	pid = cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // so that it leaves no zombie while we live
	_ = r.SetReadDeadline(time.Now().Add(wait))
	line, err := bufio.NewReader(r).ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	if text, ok := strings.CutPrefix(line, "error "); ok {
		return pid, "", ErrChild(text)
	}
	if addr, ok := strings.CutPrefix(line, "ready "); ok {
		return pid, addr, nil
	}
	if errors.Is(err, io.EOF) {
		return pid, "", fmt.Errorf("`capstan %s` died at its start; the end of %s:\n%s", strings.Join(args, " "), logPath, tail(logPath, 1000))
	}
	return pid, "", fmt.Errorf("`capstan %s` is not ready after %v; see %s", strings.Join(args, " "), wait, logPath)
}

func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > n {
		_, _ = f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return strings.TrimSpace(string(b))
}
