// Command locks measures file locks on any mounts of one file system, seen on one host:
//
//	go run ./bench/locks [-n rounds] [-waiters N] DIR [DIR…]
//
// hand-over: two processes' worth of threads pass an fcntl (OFD) lock to and fro between the
// first and the last mount; p50 and p99 of the time from before the unlock to after the grant.
// queue: N threads spread over the mounts wait for one flock, asked for one after the other; it
// says how many were not served in that order, and the time per hand-over. When a request reaches
// its queue the tool cannot know, so that order proves nothing of a network file system. With
// -list CMD, Capstan's
//
//	-list 'capstan locks --conf CONF --json "$1"'
//
// it does: CMD shows the queue before the lock is let go, each holder reads the ticket of its grant
// (docs/filelocks.md), and the grants in the order of their tickets must be that queue, else the
// exit status is 1.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	n := flag.Int("n", 2000, "hand-overs")
	waiters := flag.Int("waiters", 200, "threads in the queue")
	hold := flag.Duration("hold", time.Millisecond, "how long a lock is kept once the other side asks; the machine is idle meanwhile, and 0 leaves out what it costs to wake it")
	gap := flag.Duration("gap", 3*time.Millisecond, "time between two waiters, which must suffice to queue one")
	list := flag.String("list", "", "a shell command that prints the locks of the file $1 as capstan locks --json does: the order is proven by it")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetMaxThreads(*waiters + 10_000)
	if err := run(flag.Args(), *n, *waiters, *hold, *gap, *list); err != nil {
		fmt.Fprintln(os.Stderr, "locks:", err)
		os.Exit(1)
	}
}

func run(dirs []string, n, waiters int, hold, gap time.Duration, list string) error {
	name := fmt.Sprintf("locks.%d", os.Getpid())
	if err := os.WriteFile(filepath.Join(dirs[0], name), nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(dirs[0], name))
	if err := handOver(filepath.Join(dirs[0], name), filepath.Join(dirs[len(dirs)-1], name), n, hold); err != nil {
		return err
	}
	return queue(dirs, name, waiters, gap, list)
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func ofd(f *os.File, ty int16) error {
	return retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: ty, Len: 1}) })
}

// handOver: whoever has the lock waits until the other is asking for it, then lets go.
func handOver(a, b string, n int, hold time.Duration) error {
	var took []time.Duration
	var mu sync.Mutex
	var let time.Time
	last := -1                    // whose turn it was
	var asks, left [2]atomic.Bool // by side
	errs := make(chan error, 2)
	turn := func(path string, me int) {
		defer left[me].Store(true)
		errs <- func() error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			for range n {
				asks[me].Store(true)
				if err := ofd(f, unix.F_WRLCK); err != nil {
					return err
				}
				now := time.Now()
				asks[me].Store(false)
				mu.Lock()
				if last == 1-me { // else the other was not in the queue yet: no hand-over
					took = append(took, now.Sub(let))
				}
				last = me
				mu.Unlock()
				for !asks[1-me].Load() && !left[1-me].Load() {
					runtime.Gosched()
				}
				time.Sleep(hold) // the other is in the queue by then, mostly
				mu.Lock()
				let = time.Now()
				mu.Unlock()
				if err := ofd(f, unix.F_UNLCK); err != nil {
					return err
				}
			}
			return nil
		}()
	}
	go turn(a, 0)
	go turn(b, 1)
	for range 2 {
		if err := <-errs; err != nil {
			return fmt.Errorf("hand-over: %w", err)
		}
	}
	slices.Sort(took)
	fmt.Printf("fcntl hand-over: %d, p50 %v, p99 %v\n", len(took), took[len(took)/2], took[len(took)*99/100])
	return nil
}

// waiter is one of the queue; tid is its thread, by which the queue shows it.
type waiter struct {
	n, tid int
	ticket uint64
}

func queue(dirs []string, name string, waiters int, gap time.Duration, list string) error {
	path := filepath.Join(dirs[0], name)
	holder, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	served := make(chan waiter, waiters)
	errs := make(chan error, waiters)
	for i := range waiters {
		f, err := os.Open(filepath.Join(dirs[i%len(dirs)], name))
		if err != nil {
			return err
		}
		go func() {
			runtime.LockOSThread()
			defer f.Close()
			w := waiter{n: i, tid: unix.Gettid()}
			err := retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) })
			if err == nil && list != "" {
				w.ticket, err = ticketOf(f)
			}
			if err != nil {
				errs <- err
			}
			served <- w
			unix.Flock(int(f.Fd()), unix.LOCK_UN)
		}()
		if list == "" {
			time.Sleep(gap)
		}
	}
	var queued []int
	for list != "" && len(queued) < waiters {
		if queued, err = queueOf(list, path); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond) // the waiters need the processors
	}
	start := time.Now()
	holder.Close()
	disorder := 0
	var order []waiter
	for i := range waiters {
		select {
		case err := <-errs:
			return err
		case w := <-served:
			order = append(order, w)
			if w.n != i {
				disorder++
			}
		}
	}
	each := time.Since(start) / time.Duration(waiters)
	if list == "" {
		fmt.Printf("queue: %d waiters, %d served in another order than they were asked for, %v each\n", waiters, disorder, each)
		return nil
	}
	slices.SortFunc(order, func(a, b waiter) int { return cmp.Compare(a.ticket, b.ticket) })
	for i, w := range order {
		if w.tid != queued[i] {
			return fmt.Errorf("queue: thread %d was granted as number %d, where thread %d was queued", w.tid, i, queued[i])
		}
		if i > 0 && w.ticket == order[i-1].ticket {
			return fmt.Errorf("queue: ticket %d was given twice", w.ticket)
		}
	}
	fmt.Printf("queue: %d waiters, granted in the order in which they were queued, by their tickets, %v each\n", waiters, each)
	return nil
}

// ticketOf is the ticket of the lock that f has.
func ticketOf(f *os.File) (ticket uint64, err error) {
	const ioctl = 0x8008ca01 // _IOR(0xca, 1, uint64_t)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctl, uintptr(unsafe.Pointer(&ticket))); e != 0 {
		return 0, fmt.Errorf("the ticket of %s: %w", f.Name(), e)
	}
	return ticket, nil
}

// queueOf is the threads that wait for path, in the order of the queue.
func queueOf(list, path string) (threads []int, err error) {
	out, err := exec.Command("sh", "-c", list, "sh", path).Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", list, err)
	}
	type lock struct {
		Thread  int
		Waiting bool
		Ticket  uint64
	}
	var v struct {
		FileLocks []lock `json:"file_locks"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", list, err)
	}
	slices.SortFunc(v.FileLocks, func(a, b lock) int { return cmp.Compare(a.Ticket, b.Ticket) })
	for _, l := range v.FileLocks {
		if l.Waiting {
			threads = append(threads, l.Thread)
		}
	}
	return threads, nil
}
