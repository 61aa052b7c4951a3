package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Whether a thread has taken in what it was answered (docs/kernel.md, N3). The answer woke it; it
// then needs a few microseconds of a processor inside the kernel.

const (
	ranEnough = 2 * time.Millisecond   // of a processor, many times what is left to do
	starves   = 200 * time.Millisecond // runnable for so long without running: it is helped

	membarrierGlobal = 1 // of membarrier(2)
)

// watchable says why threads cannot be watched from here, if so.
func watchable() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, rest, _ := bytes.Cut(status, []byte("\nNSpid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	if len(bytes.Fields(line)) != 1 {
		return errors.New("/proc shows another pid namespace than ours") // and other threads than the kernel's requests name
	}
	if _, err := os.ReadFile("/proc/1/stat"); err != nil {
		return fmt.Errorf("other users' threads are hidden: %w", err)
	}
	if runTime("/proc/self") < 0 {
		return errors.New("this kernel does not tell for how long a thread has run")
	}
	return nil
}

// watched is what TookIn knows of a thread that has not gone on yet.
type watched struct {
	ran   time.Duration // when it was first seen runnable
	since time.Time
	ease  func() // ends the help that it has; nil: it has none
}

// TookIn waits until threads whose requests were answered have gone on: one that sleeps, is gone, or
// has run for a while has taken its answer in. One that burns its processor for us to see has; one
// that gets none has not, and is helped; nor has one that waits for pages of the inode while it takes
// the answer in.
func (n *namer) TookIn(threads []uint32, limit time.Duration) []uint32 {
	of := map[uint32]*watched{}
	defer func() {
		for _, w := range of {
			w.end()
		}
	}()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		var late, ran []uint32
		for _, th := range threads {
			dir := "/proc/" + strconv.Itoa(int(th))
			state := stateOf(th, dir)
			if state != 'R' && (state != 'D' || !takesIn(dir)) {
				of[th].end()
				delete(of, th)
				continue
			}
			at, w := runTime(dir), of[th]
			switch {
			case w == nil:
				of[th] = &watched{ran: at, since: time.Now()}
			case at-w.ran > ranEnough:
				w.end()
				delete(of, th)
				ran = append(ran, th)
				continue
			case state == 'R' && at == w.ran && w.ease == nil && time.Since(w.since) > starves:
				w.ease = hurry(th)
			}
			late = append(late, th)
		}
		if len(ran) > 0 {
			// The time that a virtual machine's processor stands still may count as run. Behind this each
			// processor has served an interrupt.
			unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
		}
		if threads = late; len(threads) == 0 || time.Now().After(end) {
			return threads
		}
	}
}

func (w *watched) end() {
	if w != nil && w.ease != nil {
		w.ease()
	}
}

// hurry lets a thread that we wait for run before others, as whoever holds a lock inherits the
// priority of those who wait for it, until the function that it returns is called. Its own priority
// may be the lowest of a busy machine, and it may have no processor for minutes.
func hurry(th uint32) (ease func()) {
	was, err := unix.SchedGetAttr(int(th), 0)
	if err != nil || was.Policy != unix.SCHED_NORMAL && was.Policy != unix.SCHED_BATCH && was.Policy != unix.SCHED_IDLE {
		return func() {}
	}
	const noChild = unix.SCHED_FLAG_RESET_ON_FORK
	err = unix.SchedSetAttr(int(th), &unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1, Flags: noChild}, 0)
	if err != nil { // not root, or a control group without real-time
		err = unix.SchedSetAttr(int(th), &unix.SchedAttr{Policy: unix.SCHED_NORMAL, Nice: -20, Flags: noChild}, 0)
	}
	if err != nil {
		return func() {}
	}
	return func() { unix.SchedSetAttr(int(th), was, 0) }
}

// takesIn reports whether a thread in uninterruptible sleep may be taking the answer to a
// revalidation in. Others wait there as well, for the lock of a directory above all, perhaps for as
// long as we make them wait. Where stacks cannot be read it is believed that it does not:
// client.Inode.steady sees to it that there is no reason to.
func takesIn(dir string) bool {
	b, err := os.ReadFile(dir + "/stack")
	return err == nil && bytes.Contains(b, []byte("fuse_dentry_revalidate")) && !bytes.Contains(b, []byte("request_wait_answer"))
}

// stateOf is the letter of proc(5) for a thread, 0 when it is gone; R when that cannot be seen.
func stateOf(th uint32, dir string) byte {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		if unix.Kill(int(th), 0) == unix.ESRCH {
			return 0
		}
		return 'R'
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 >= len(b) {
		return 'R'
	}
	return b[i+2]
}

// runTime is how long a thread has run, or -1.
func runTime(dir string) time.Duration {
	b, err := os.ReadFile(dir + "/schedstat")
	if err != nil {
		return -1
	}
	f, _, _ := bytes.Cut(b, []byte(" "))
	n, err := strconv.ParseInt(string(f), 10, 64)
	if err != nil {
		return -1
	}
	return time.Duration(n)
}
