package osdsim

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/anishathalye/porcupine"
)

// The judge is judged: random histories, most of them a little wrong, must get the verdict
// that another checker gives.
func TestLinearizeAgreesWithPorcupine(t *testing.T) {
	model := porcupine.Model{
		Init:  func() any { return "" },
		Step:  func(s, in, _ any) (bool, any) { next, ok := in.(*record).apply(s.(string)); return ok, next },
		Equal: func(a, b any) bool { return a == b },
	}
	rng := rand.New(rand.NewPCG(1, 1))
	count := map[verdict]int{}
	for n := range 3600 {
		// A run of a real register with operations that overlap, then one lie in half of them.
		var h []*record
		state := ""
		for i := range 4 + rng.IntN(10) {
			at := int64(i * 10)
			r := &record{client: i, kind: kind(rng.IntN(5)), obj: "o0", token: fmt.Sprintf("<%d>", i), call: at - rng.Int64N(40), ret: at + 1 + rng.Int64N(40)}
			switch r.kind {
			case kRead:
				if state == "" {
					r.errno = 2
				} else {
					r.out = state[1:]
				}
			case kRemove:
				if state == "" {
					r.errno = 2
				}
			case kCreate:
				if state != "" {
					r.errno = 17
				}
			}
			took := rng.IntN(8) > 0
			r.done = true
			if took {
				state, _ = r.apply(state)
			}
			r.done = took && rng.IntN(10) > 0
			h = append(h, r)
		}
		if n%2 == 0 {
			r := h[rng.IntN(len(h))]
			switch o := h[rng.IntN(len(h))]; {
			case r.kind == kRead && o.kind == kRead:
				r.out, r.errno = o.out, o.errno
			case r.errno == 0 && (r.kind == kRemove || r.kind == kCreate):
				r.errno = map[kind]uint32{kRemove: 2, kCreate: 17}[r.kind]
			default:
				r.call, r.ret = r.call-60, r.ret-60
			}
		}
		var ops []porcupine.Operation
		for i, r := range h {
			if r.done || r.kind != kRead {
				ret := r.until()
				ops = append(ops, porcupine.Operation{ClientId: i, Input: r, Call: r.call, Return: ret})
			}
		}
		got, want := linearize(h), illegal
		if porcupine.CheckOperations(model, ops) {
			want = legal
		}
		if got != want {
			for _, r := range h {
				t.Log(r)
			}
			t.Fatalf("history %d: %v, porcupine says %v", n, got, want)
		}
		count[got]++
	}
	if count[legal] < 300 || count[illegal] < 300 {
		t.Errorf("one-sided: %v", count)
	}
}
