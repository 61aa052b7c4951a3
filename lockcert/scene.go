package lockcert

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// T is one check being made in one placement. A scene fails by its first wrong answer.
type T struct {
	pool      *pool
	mounts    []int    // worker i runs on mounts[i % len]
	dirs      []string // this check's directory, on every mount
	rng       *rand.Rand
	slice     time.Duration // how long a race may take
	patience  time.Duration // after which a call counts as lost
	usual     time.Duration // patience, while the server is being restarted
	grace     time.Duration // after which a call counts as waiting
	disturbBy string        // the command of Config.Disturb
	workers   map[int]*W
	began     []*call

	mu     sync.Mutex
	trace  []Event
	rounds int
	ops    int
	unsure int // histories too large to decide
}

// W is a worker as a scene sees it.
type W struct {
	t  *T
	id int
	w  *worker
}

// verdict ends a check by panic: failed, or skipped when why says so.
type verdict struct {
	skip  bool
	text  string
	trace []Event
}

// broken ends a check that could not be made.
type broken struct{ err error }

func (t *T) failf(format string, args ...any) {
	t.settleTrace()
	panic(verdict{text: fmt.Sprintf(format, args...), trace: slices.Clone(t.trace)})
}

func (t *T) skipf(format string, args ...any) {
	panic(verdict{skip: true, text: fmt.Sprintf(format, args...)})
}

// settleTrace adds calls that have not returned.
func (t *T) settleTrace() {
	for _, c := range t.began {
		evs := c.snapshot()
		if len(evs) == 0 && len(c.steps) == 1 {
			t.trace = append(t.trace, Event{Step: c.steps[0], Worker: c.id, Mount: c.w.mount, Call: c.sent})
		} else if len(c.steps) == 1 && !slices.ContainsFunc(t.trace, func(e Event) bool { return e.Call == evs[0].Call && e.Worker == c.id }) {
			t.trace = append(t.trace, evs[0])
		}
	}
	t.began = nil
	slices.SortStableFunc(t.trace, func(a, b Event) int { return cmp.Compare(a.Call, b.Call) })
}

// W returns the i-th worker of the check, on its mount by the placement.
func (t *T) W(i int) *W {
	if w := t.workers[i]; w != nil {
		return w
	}
	p, err := t.pool.get(t.mounts[i%len(t.mounts)])
	if err != nil {
		panic(broken{err})
	}
	w := &W{t, i, p}
	t.workers[i] = w
	return w
}

func (w *W) pid() int { return w.w.cmd.Process.Pid }

// do makes one step and returns what came back, whatever it is.
func (w *W) do(s Step) *Event {
	c := w.w.send(request{Dir: w.t.dirs[w.w.mount], Steps: []Step{s}}, w.id)
	select {
	case <-c.done:
	case <-time.After(w.t.patience):
	}
	return w.take(c)
}

func (w *W) take(c *call) *Event {
	evs := c.snapshot()
	t := w.t
	if len(evs) == 0 {
		t.trace = append(t.trace, Event{Step: c.steps[0], Worker: c.id, Mount: w.w.mount, Call: c.sent})
		select {
		case <-c.done:
			t.trace[len(t.trace)-1].mark = "its process ended"
			t.failf("%s died of %q", w, c.steps[0])
		default:
		}
		t.failf("%s: %q has not returned after %v", w, c.steps[0], t.patience)
	}
	t.ops++
	t.trace = append(t.trace, evs[0])
	return &t.trace[len(t.trace)-1]
}

func (w *W) String() string { return fmt.Sprintf("worker %c", 'A'+w.id) }

// ok makes a step that has to succeed.
func (w *W) ok(s Step) *Event {
	e := w.do(s)
	if e.Errno != 0 {
		e.mark = "must succeed"
		w.t.failf("%s: %s: %s, must succeed", w, s, errnoName(e.Errno))
	}
	return e
}

// fails makes a step that has to fail with this error.
func (w *W) fails(want syscall.Errno, s Step) *Event {
	e := w.do(s)
	if e.Errno != want {
		e.mark = "must be " + errnoName(want)
		w.t.failf("%s: %s: %s, must be %s", w, s, errnoName(e.Errno), errnoName(want))
	}
	return e
}

// says makes a step that has to succeed with this output.
func (w *W) says(want string, s Step) *Event {
	e := w.ok(s)
	if e.Out != want {
		e.mark = "must be " + brief(want)
		w.t.failf("%s: %s: %s, must be %s%s", w, s, brief(e.Out), brief(want), firstDifference(e.Out, want))
	}
	return e
}

func firstDifference(got, want string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf(" (first difference at byte %d)", i)
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf(" (%d bytes, not %d)", len(got), len(want))
	}
	return ""
}

// must is an expectation about the last event.
func (w *W) must(e *Event, cond bool, format string, args ...any) {
	if !cond {
		e.mark = "must be " + fmt.Sprintf(format, args...)
		w.t.failf("%s: %s: %s, must be %s", w, e.Step, e.result(), fmt.Sprintf(format, args...))
	}
}

// pending is a call that waits.
type pending struct {
	w *W
	c *call
}

// waits starts a call that must not return by itself: a blocking lock somebody is in the way of.
func (w *W) waits(s Step) *pending {
	t := w.t
	c := w.w.send(request{Dir: t.dirs[w.w.mount], Steps: []Step{s}}, w.id)
	t.began = append(t.began, c)
	p := &pending{w, c}
	select {
	case <-c.began:
	case <-c.done:
	case <-time.After(t.patience):
		w.take(c)
	}
	for end := time.Now().Add(t.grace); !c.inLockCall() && time.Now().Before(end); {
		time.Sleep(500 * time.Microsecond)
	}
	p.stillWaits()
	return p
}

// stillWaits gives the call some time, after which it must not have returned.
func (p *pending) stillWaits() {
	select {
	case <-p.c.done:
		e := p.forget()
		e.mark = "must wait"
		p.w.t.failf("%s: %s: %s, must wait", p.w, e.Step, e.result())
	case <-time.After(p.w.t.grace):
	}
}

func (p *pending) forget() *Event {
	t := p.w.t
	t.began = slices.DeleteFunc(t.began, func(c *call) bool { return c == p.c })
	return p.w.take(p.c)
}

// granted expects the call to succeed now, and not before cause was made.
func (p *pending) granted(cause *Event) *Event {
	var since int64
	if cause != nil {
		since = cause.Call
	}
	e := p.returns(0)
	if e.Ret < since {
		e.mark = "too early"
		p.w.t.failf("%s: %s was granted %s before what had to come first", p.w, e.Step, time.Duration(since-e.Ret))
	}
	return e
}

func (p *pending) returns(want syscall.Errno) *Event {
	select {
	case <-p.c.done:
	case <-time.After(p.w.t.patience):
		p.w.t.failf("%s: %s has not returned after %v, must be %s by now", p.w, p.c.steps[0], p.w.t.patience, errnoName(want))
	}
	e := p.forget()
	if e.Errno != want {
		e.mark = "must be " + errnoName(want)
		p.w.t.failf("%s: %s: %s, must be %s", p.w, e.Step, errnoName(e.Errno), errnoName(want))
	}
	return e
}

// signal interrupts the waiting thread.
func (p *pending) signal(s syscall.Signal) {
	p.w.t.note(p.w, "signal "+unix.SignalName(s))
	unix.Tgkill(p.w.pid(), p.c.tid, s)
}

// interrupted signals until the call has returned EINTR. Once may be too little: if an earlier
// signal with SA_RESTART has not been taken yet, one return of the call answers both, and the
// kernel restarts it by the first.
func (p *pending) interrupted() *Event {
	for end := time.Now().Add(p.w.t.patience); ; {
		p.signal(unix.SIGUSR2)
		select {
		case <-p.c.done:
		case <-time.After(p.w.t.patience / 10):
			if time.Now().Before(end) {
				continue
			}
		}
		return p.returns(syscall.EINTR)
	}
}

// note puts something the driver did into the trace.
func (t *T) note(w *W, what string) *Event {
	at := now()
	t.trace = append(t.trace, Event{Step: Step{Op: what}, Worker: w.id, Mount: w.w.mount, Call: at, Ret: at})
	return &t.trace[len(t.trace)-1]
}

// kill ends the worker as kill -9 does. What it waited for is forgotten.
func (w *W) kill() *Event {
	e := *w.t.note(w, "killed")
	w.w.kill()
	return w.ended(e)
}

// exit lets it end with its files open.
func (w *W) exit() *Event {
	e := *w.t.note(w, "exits")
	w.w.exit()
	return w.ended(e)
}

func (w *W) ended(e Event) *Event {
	w.t.began = slices.DeleteFunc(w.t.began, func(c *call) bool { return c.w == w.w })
	delete(w.t.workers, w.id)
	return &e
}

// recovery is the least patience while the file system recovers.
const recovery = time.Minute

// disturb restarts the server, as Config.Disturb says. Until recovered calls may take longer.
func (t *T) disturb() {
	t.usual, t.patience = t.patience, max(t.patience, recovery)
	began := now()
	out, err := exec.Command("sh", "-c", t.disturbBy).CombinedOutput()
	if err != nil {
		panic(broken{fmt.Errorf("%s: %w: %s", t.disturbBy, err, strings.TrimSpace(string(out)))})
	}
	t.trace = append(t.trace, Event{Step: Step{Op: "the server is restarted"}, Worker: disturber, Call: began, Ret: now()})
}

// recovered ends the patience of disturb: workers on all mounts have been answered.
func (t *T) recovered() { t.patience = t.usual }

// open opens an existing file for reading and writing as h0.
func (w *W) open(p string) *Event { return w.ok(Step{Op: "open", P: p, Flags: unix.O_RDWR}) }

// file makes an empty file through the first worker and opens it as h0 in workers 0..n-1.
func (t *T) file(name string, n int) []*W {
	t.W(0).ok(Step{Op: "create", P: name})
	ws := make([]*W, n)
	for i := range ws {
		ws[i] = t.W(i)
		ws[i].open(name)
	}
	return ws
}

func (t *T) done() {
	for _, w := range t.workers {
		t.pool.put(w.w)
	}
	t.workers = map[int]*W{}
}

func inDirs(dirs []string, sub string) []string {
	out := make([]string, len(dirs))
	for i, d := range dirs {
		out[i] = filepath.Join(d, sub)
	}
	return out
}

// oneOf waits until one of the calls has returned and says which.
func (t *T) oneOf(ps []*pending) int {
	for end := time.Now().Add(t.patience); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		for i, p := range ps {
			select {
			case <-p.c.done:
				return i
			default:
			}
		}
	}
	return 0
}
