package lockcert

import (
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"

	"github.com/anishathalye/porcupine"
)

const (
	raceWorkers = 4
	cells       = 8 // a race over ranges has so many bytes
)

// holders says what each worker holds of each byte: 0 nothing, 1 shared, 2 exclusive. A
// whole-file lock is one byte wide.
type holders [raceWorkers][cells]byte

func (h *holders) free(me, from, to int, mode byte) bool {
	for w := range h {
		for c := from; c < to && w != me && mode > 0; c++ {
			if h[w][c] == 2 || h[w][c] == 1 && mode == 2 {
				return false
			}
		}
	}
	return true
}

func (h holders) set(me, from, to int, mode byte) holders {
	for c := from; c < to; c++ {
		h[me][c] = mode
	}
	return h
}

func (l *Lock) span() (from, to int) {
	if l.Kind == "flock" || l.Len == 0 {
		return int(l.Off), cells
	}
	return int(l.Off), int(l.Off + l.Len)
}

func (l *Lock) mode() byte { return map[string]byte{"U": 0, "R": 1, "W": 2}[l.Type] }

// lockModel: a lock is a register of its holders. A refusal needs a reason: a conflicting
// holder, or (contended, computed beforehand) somebody whose waiting request comes first.
func lockModel(pids map[int]int, contended map[*Event]bool) porcupine.Model {
	return model(holders{}, func(h holders, e *Event) []holders {
		me := e.Worker
		from, to := e.Lock.span()
		if e.Op == "getlk" {
			if getlkPossible(h, e, pids) {
				return []holders{h}
			}
			return nil
		}
		switch e.Errno {
		case 0:
			if h.free(me, from, to, e.Lock.mode()) {
				return []holders{h.set(me, from, to, e.Lock.mode())}
			}
		case busy:
			if !h.free(me, from, to, e.Lock.mode()) || contended[e] {
				return []holders{h}
			}
		case syscall.EDEADLK: // only a cycle of waits gives a reason, and the model knows no waits
			if e.Lock.Kind == "posix" && e.Lock.Wait && contended[e] {
				return []holders{h}
			}
		}
		return nil
	})
}

func getlkPossible(h holders, e *Event, pids map[int]int) bool {
	from, to := e.Lock.span()
	if e.Errno != 0 {
		return false
	}
	if e.Got.Type == "U" {
		return h.free(e.Worker, from, to, e.Lock.mode())
	}
	mode := e.Got.mode()
	gf, gt := int(e.Got.Off), int(e.Got.Off+e.Got.Len)
	if e.Got.Len == 0 {
		gt = cells
	}
	if gf < 0 || gt > cells || gf >= to || gt <= from || mode == 1 && e.Lock.mode() == 1 {
		return false
	}
	by, known := pids[e.Got.PID] // a file system may not know the pid of another host's process
	for w := range h {
		if w == e.Worker || known && w != by {
			continue
		}
		if !slices.ContainsFunc(h[w][gf:gt], func(m byte) bool { return m != mode }) {
			return true
		}
	}
	return false
}

// history has workers lock and unlock at random and judges the whole.
func (k kind) history(t *T) {
	w := t.file("f", raceWorkers)
	pids := map[int]int{}
	for _, x := range w {
		pids[x.pid()] = x.id
	}
	t.again(func(int) {
		programs := make([][]Step, raceWorkers)
		for i := range programs {
			programs[i] = k.program(t, 12)
		}
		all := t.race(programs)
		t.judge(lockModel(pids, contention(all)), all, nil)
	})
}

// program: some calls with a pause between taking and leaving, everything unlocked at the end.
func (k kind) program(t *T, n int) (prog []Step) {
	types := []string{"R", "W"}
	for range n {
		off, size := int64(0), int64(0)
		if k.name != "flock" {
			off = t.rng.Int64N(cells)
			size = 1 + t.rng.Int64N(cells-off)
		}
		s := k.on(0, types[t.rng.IntN(2)], off, size)
		switch r := t.rng.IntN(10); {
		case r < 3 && k.name == "posix":
			s.Op = "getlk"
			prog = append(prog, s)
			continue
		case r < 6:
			// Who waits holds nothing: then no cycle can arise, and every wait has an end.
			prog = append(prog, k.unlock(), wait(s))
		case k.name == "flock":
			// A conversion of flock(2) may lose the old lock first; scenes look at that.
			prog = append(prog, k.unlock(), s)
		default:
			prog = append(prog, s)
		}
		if t.rng.IntN(3) > 0 {
			prog = append(prog, k.on(0, "U", off, size))
		}
	}
	return append(prog, k.unlock())
}

// contention marks refusals during which somebody else had a conflicting blocking request
// on its way: it may have been ahead in the queue.
func contention(all []Event) map[*Event]bool {
	m := map[*Event]bool{}
	for i := range all {
		e := &all[i]
		if e.Op != "lock" || e.Errno == 0 {
			continue
		}
		for j := range all {
			o := &all[j]
			if o.Worker == e.Worker || o.Op != "lock" || !o.Lock.Wait || o.Call > e.Ret || o.Ret < e.Call {
				continue
			}
			ef, et := e.Lock.span()
			of, ot := o.Lock.span()
			if ef < ot && of < et && (e.Lock.Type == "W" || o.Lock.Type == "W") {
				m[e] = true
			}
		}
	}
	return m
}

// counter: each worker adds one under the lock, many times.
func (k kind) counter(t *T) {
	w := t.file("f", raceWorkers)
	w[0].ok(pwrite(0, 0, string(make([]byte, 8))))
	total := 0
	t.again(func(int) {
		programs := make([][]Step, raceWorkers)
		for i := range programs {
			for range 10 {
				n := len(programs[i])
				b := Step{Op: "bump", If: n + 1}
				programs[i] = append(programs[i], wait(k.exclusive()), b, k.unlock())
			}
		}
		all := t.race(programs)
		var bumps []int
		for i := range all {
			if all[i].Errno != 0 {
				t.blame(all, fmt.Sprintf("%s: %s", all[i].Step, errnoName(all[i].Errno)), i)
			}
			if all[i].Op == "bump" {
				bumps = append(bumps, i)
			}
		}
		slices.SortFunc(bumps, func(a, b int) int { return int(all[a].Call - all[b].Call) })
		for j, i := range bumps {
			total++
			if all[i].N != int64(total) {
				all[i].mark = fmt.Sprintf("must be %d", total)
				if j > 0 {
					t.blame(all, fmt.Sprintf("worker %c made the counter %d where %d steps were made under the lock", 'A'+all[i].Worker, all[i].N, total), bumps[j-1], i)
				}
				t.blame(all, "the counter is not what the last round left", i)
			}
		}
	})
	want := binary.LittleEndian.AppendUint64(nil, uint64(total))
	for _, x := range w {
		x.says(string(want), pread(0, 0, 8))
	}
}
