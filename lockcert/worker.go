package lockcert

import (
	"encoding/gob" // data may be any bytes, which JSON has no string for
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Verb is the argument by which a program that offers the kit starts itself as a worker; a
// second argument carries the worker's settings. See Worker.
const Verb = "lockcert-worker"

// setup is what a worker is started with.
type setup struct {
	Mount int    `json:"mount"`
	Wrong string `json:"wrong,omitempty"`
	State string `json:"state,omitempty"` // a directory the wrong implementations share
	Hold  bool   `json:"hold,omitempty"`  // only keep inherited descriptors until stdin ends
}

// request asks a worker for a run of steps; zero steps close everything.
type request struct {
	ID    int
	Dir   string
	At    int64 // do not start before
	Steps []Step
}

// reply: the thread that will make the calls, then each event as it happens, then Done.
type reply struct {
	ID    int
	TID   int
	Event *Event
	Done  bool
}

// Worker is the life of one worker process: requests on standard input, replies on standard
// output, until the input ends. arg is what followed Verb.
func Worker(arg string) error {
	var su setup
	if err := json.Unmarshal([]byte(arg), &su); err != nil {
		return err
	}
	if su.Hold {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	interruptible()
	var ops Ops = Kernel{}
	if su.Wrong != "" {
		f := faultNamed(su.Wrong)
		if f == nil {
			return errors.New("no wrong implementation is called " + su.Wrong)
		}
		ops = f.make(ops, &wrongEnv{mount: su.Mount, state: su.State})
	}
	hold, _ := json.Marshal(setup{Hold: true})
	p := &player{ops: ops, files: map[int]int{}, maps: map[int][]byte{}, kids: map[int]*holder{}, self: []string{"/proc/self/exe", Verb, string(hold)}}
	var mu sync.Mutex
	enc := gob.NewEncoder(os.Stdout)
	say := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		enc.Encode(r) // a driver that went away ends our input as well
	}
	dec := gob.NewDecoder(os.Stdin)
	for {
		var rq request
		if err := dec.Decode(&rq); err != nil {
			os.Exit(0) // also when a thread is still inside a call
		}
		if len(rq.Steps) == 0 {
			p.reset()
			say(reply{ID: rq.ID, Done: true})
			continue
		}
		p.dir = rq.Dir
		if len(rq.Steps) == 1 && rq.At == 0 && rq.Steps[0].Lock == nil {
			e := p.play(rq.Steps[0])
			say(reply{ID: rq.ID, Event: &e, Done: true})
			continue
		}
		go func() { // it may wait for a lock, and must be reachable by a signal meanwhile
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			say(reply{ID: rq.ID, TID: unix.Gettid()})
			sleepUntil(rq.At)
			done := make([]bool, len(rq.Steps))
			for i, s := range rq.Steps {
				e := Event{Step: s, Skip: true}
				if s.If == 0 || done[s.If-1] {
					e = p.play(s)
					done[i] = e.Errno == 0
				}
				say(reply{ID: rq.ID, Event: &e, Done: i == len(rq.Steps)-1})
			}
		}()
	}
}

// interruptible makes SIGUSR2 end a blocking call with EINTR. Go installs every handler with
// SA_RESTART, under which the kernel starts the call again; SIGUSR1 keeps that.
func interruptible() {
	signal.Notify(make(chan os.Signal, 64), syscall.SIGUSR1, syscall.SIGUSR2)
	const saRestart = 0x10000000
	var act struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGUSR2), 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0); e != 0 {
		return
	}
	act.flags &^= saRestart
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGUSR2), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
}

// holder is a child process that inherited one open file and does nothing with it.
type holder struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func newHolder(argv []string, fd int) (*holder, error) {
	n, err := unix.Dup(fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(n), "lent")
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = []*os.File{f}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &holder{cmd, in}, cmd.Start()
}

func (h *holder) end() error {
	h.in.Close()
	return h.cmd.Wait()
}
