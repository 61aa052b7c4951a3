package lockcert

import (
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// worker is the driver's end of one worker process.
type worker struct {
	mount int
	cmd   *exec.Cmd
	in    io.WriteCloser
	enc   *gob.Encoder

	mu    sync.Mutex
	next  int
	calls map[int]*call
	gone  bool
}

// call is a request on its way.
type call struct {
	w      *worker
	id     int // of the worker in this check
	steps  []Step
	sent   int64
	began  chan struct{} // closed when the thread is known
	tid    int
	done   chan struct{} // closed at the end, also of the worker
	mu     sync.Mutex
	events []Event
}

// snapshot is what has returned so far.
func (c *call) snapshot() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Event(nil), c.events...)
}

// pool keeps idle workers of each mount for the next check.
type pool struct {
	argv []string
	su   setup
	idle map[int][]*worker
}

func (p *pool) get(mount int) (*worker, error) {
	if l := p.idle[mount]; len(l) > 0 {
		p.idle[mount] = l[:len(l)-1]
		return l[len(l)-1], nil
	}
	su := p.su
	su.Mount = mount
	arg, err := json.Marshal(su)
	if err != nil {
		return nil, err
	}
	w := &worker{mount: mount, calls: map[int]*call{}}
	w.cmd = exec.Command(p.argv[0], append(p.argv[1:], string(arg))...)
	// Go's own preemption signal would restart a waiting lock call, which on some file
	// systems then queues again at the tail.
	w.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	w.cmd.Stderr = os.Stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C ends the driver, and through it the workers
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	w.enc = gob.NewEncoder(w.in)
	go w.listen(out)
	return w, nil
}

// put takes a worker back; one that is gone or still inside a call is ended.
func (p *pool) put(w *worker) {
	w.mu.Lock()
	busy := w.gone || len(w.calls) > 0
	w.mu.Unlock()
	if !busy {
		c := w.send(request{}, 0)
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			busy = true
		}
	}
	if busy {
		w.kill()
		return
	}
	p.idle[w.mount] = append(p.idle[w.mount], w)
}

func (p *pool) close() {
	for _, l := range p.idle {
		for _, w := range l {
			w.exit()
		}
	}
}

func (w *worker) listen(out io.Reader) {
	dec := gob.NewDecoder(out)
	for {
		var r reply
		if dec.Decode(&r) != nil {
			break
		}
		w.mu.Lock()
		c := w.calls[r.ID]
		if r.Done {
			delete(w.calls, r.ID)
		}
		w.mu.Unlock()
		if c == nil {
			continue
		}
		if r.TID != 0 {
			c.tid = r.TID
			close(c.began)
		}
		if r.Event != nil {
			r.Event.Worker, r.Event.Mount = c.id, w.mount
			c.mu.Lock()
			c.events = append(c.events, *r.Event)
			c.mu.Unlock()
		}
		if r.Done {
			close(c.done)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	for id, c := range w.calls {
		delete(w.calls, id)
		close(c.done)
	}
}

// send hands a request to the worker; id is its number in the check.
func (w *worker) send(rq request, id int) *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	rq.ID = w.next
	c := &call{w: w, id: id, steps: rq.Steps, sent: now(), began: make(chan struct{}), done: make(chan struct{})}
	if w.gone || w.enc.Encode(rq) != nil {
		close(c.done)
		return c
	}
	w.calls[rq.ID] = c
	return c
}

// kill ends the process at once, as kill -9 does, and waits until the kernel has let go of
// its files. A process inside an uninterruptible call is given up after a while.
func (w *worker) kill() {
	w.cmd.Process.Signal(syscall.SIGKILL)
	w.reap()
}

// exit lets the process end by itself with whatever it has open.
func (w *worker) exit() {
	w.in.Close()
	w.reap()
}

func (w *worker) reap() {
	done := make(chan struct{})
	go func() { w.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
	}
}

// inLockCall reports whether the thread sits in a lock call, as far as /proc tells.
func (c *call) inLockCall() bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", c.w.cmd.Process.Pid, c.tid))
	if err != nil {
		return true // not told; the grace that follows has to do
	}
	nr, _, _ := strings.Cut(string(b), " ")
	return nr == fmt.Sprint(unix.SYS_FCNTL) || nr == fmt.Sprint(unix.SYS_FLOCK)
}
