// Command locks measures file locks on any mounts of one file system, seen on one host:
//
//	go run ./bench/locks [-n rounds] [-waiters N] DIR [DIR…]
//
// hand-over: two processes' worth of threads pass an fcntl (OFD) lock to and fro between the
// first and the last mount; p50 and p99 of the time from before the unlock to after the grant.
// queue: N threads spread over the mounts wait for one flock, queued one after the other; it
// says whether they were served in that order, and the time per hand-over.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	n := flag.Int("n", 2000, "hand-overs")
	waiters := flag.Int("waiters", 200, "threads in the queue")
	hold := flag.Duration("hold", time.Millisecond, "how long a lock is kept once the other side asks; the machine is idle meanwhile, and 0 leaves out what it costs to wake it")
	gap := flag.Duration("gap", 3*time.Millisecond, "time between two waiters, which must suffice to queue one")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetMaxThreads(*waiters + 10_000)
	if err := run(flag.Args(), *n, *waiters, *hold, *gap); err != nil {
		fmt.Fprintln(os.Stderr, "locks:", err)
		os.Exit(1)
	}
}

func run(dirs []string, n, waiters int, hold, gap time.Duration) error {
	name := fmt.Sprintf("locks.%d", os.Getpid())
	if err := os.WriteFile(filepath.Join(dirs[0], name), nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(dirs[0], name))
	if err := handOver(filepath.Join(dirs[0], name), filepath.Join(dirs[len(dirs)-1], name), n, hold); err != nil {
		return err
	}
	return queue(dirs, name, waiters, gap)
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

func queue(dirs []string, name string, waiters int, gap time.Duration) error {
	holder, err := os.Open(filepath.Join(dirs[0], name))
	if err != nil {
		return err
	}
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	served := make(chan int, waiters)
	errs := make(chan error, waiters)
	for i := range waiters {
		f, err := os.Open(filepath.Join(dirs[i%len(dirs)], name))
		if err != nil {
			return err
		}
		go func() {
			defer f.Close()
			if err := retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }); err != nil {
				errs <- err
			}
			served <- i
			unix.Flock(int(f.Fd()), unix.LOCK_UN)
		}()
		time.Sleep(gap)
	}
	start := time.Now()
	holder.Close()
	disorder := 0
	for i := range waiters {
		select {
		case err := <-errs:
			return err
		case got := <-served:
			if got != i {
				disorder++
			}
		}
	}
	d := time.Since(start)
	fmt.Printf("queue: %d waiters, %d out of order, %v each\n", waiters, disorder, d/time.Duration(waiters))
	return nil
}
