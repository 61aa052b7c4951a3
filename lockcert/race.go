package lockcert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// decideTime bounds porcupine on one history. Rounds are small, so that it is rarely used up.
const decideTime = 5 * time.Second

// race gives each worker a program and returns everything that happened, by time of call.
func (t *T) race(programs [][]Step) []Event {
	at := now() + int64(2*time.Millisecond)
	calls := make([]*call, len(programs))
	for i, prog := range programs {
		w := t.W(i)
		calls[i] = w.w.send(request{Dir: t.dirs[w.w.mount], At: at, Steps: prog}, i)
	}
	limit := time.NewTimer(t.patience + 2*time.Second)
	defer limit.Stop()
	stuck := -1
	for i, c := range calls {
		select {
		case <-c.done:
		case <-limit.C:
			stuck = i
		}
		if stuck >= 0 {
			break
		}
	}
	var all []Event
	hung := ""
	for i, c := range calls {
		evs := c.snapshot()
		for _, e := range evs {
			if !e.Skip {
				all = append(all, e)
			}
		}
		if len(evs) < len(c.steps) {
			call := c.sent
			if len(evs) > 0 {
				call = evs[len(evs)-1].Ret
			}
			hung += fmt.Sprintf("worker %c in %q; ", 'A'+i, c.steps[len(evs)])
			all = append(all, Event{Step: c.steps[len(evs)], Worker: i, Mount: c.w.mount, Call: call, mark: "hangs"})
		}
	}
	slices.SortStableFunc(all, func(a, b Event) int { return cmp.Compare(a.Call, b.Call) })
	t.ops += len(all)
	if hung != "" {
		t.trace = tail(all, 16)
		t.failf("no end after %v: %s", t.patience+2*time.Second, strings.TrimSuffix(hung, "; "))
	}
	return all
}

func tail(evs []Event, n int) []Event { return evs[max(0, len(evs)-n):] }

// again repeats a round until the check's time is over; a check has at least one.
func (t *T) again(round func(n int)) {
	for end := time.Now().Add(t.slice); ; {
		round(t.rounds)
		t.rounds++
		if time.Now().After(end) {
			return
		}
	}
}

// blame fails with the events around the guilty ones.
func (t *T) blame(all []Event, why string, guilty ...int) {
	if len(guilty) == 0 {
		t.trace = tail(all, 16)
		t.failf("%s", why)
	}
	from, to := int64(1<<62), int64(0)
	for _, g := range guilty {
		all[g].mark = cmp.Or(all[g].mark, "this")
		from, to = min(from, all[g].Call), max(to, all[g].Ret, all[g].Call)
	}
	var show []Event
	for i, e := range all {
		if slices.Contains(guilty, i) || e.Call <= to && (e.Ret == 0 || e.Ret >= from) {
			show = append(show, e)
		}
	}
	if len(show) > 24 { // the guilty and what is nearest to the last of them
		var few []Event
		for i, e := range all {
			if slices.Contains(guilty, i) || e.Call <= to && e.Ret >= to-(to-from)/8 {
				few = append(few, e)
			}
		}
		show = few[max(0, len(few)-24):]
	}
	t.trace = show
	t.failf("%s", why)
}

// judge checks a history against a model; in and out take an event apart for it.
func (t *T) judge(m porcupine.Model, all []Event, use func(*Event) bool) {
	var hist []porcupine.Operation
	var index []int
	for i := range all {
		if use == nil || use(&all[i]) {
			hist = append(hist, porcupine.Operation{ClientId: all[i].Worker, Input: i, Output: &all[i], Call: all[i].Call, Return: all[i].Ret})
			index = append(index, i)
		}
	}
	res, info := porcupine.CheckOperationsVerbose(m, hist, decideTime)
	switch res {
	case porcupine.Unknown:
		t.unsure++
	case porcupine.Illegal:
		// The longest explanation anybody can give, and the first call it leaves out.
		explained := map[int]bool{}
		for _, part := range info.PartialLinearizationsOperations() {
			for _, p := range part {
				if len(p) > len(explained) {
					clear(explained)
					for _, o := range p {
						explained[o.Input.(int)] = true
					}
				}
			}
		}
		culprit := -1
		for _, i := range index {
			if !explained[i] && (culprit < 0 || all[i].Ret < all[culprit].Ret) {
				culprit = i
			}
		}
		if culprit < 0 {
			culprit = index[len(index)-1]
		}
		all[culprit].mark = "no order of these calls explains this answer"
		var show []Event
		for _, i := range index {
			if i == culprit || all[i].Call < all[culprit].Ret {
				show = append(show, all[i])
			}
		}
		t.trace = tail(show, 14)
		if !slices.ContainsFunc(t.trace, func(e Event) bool { return e.mark != "" }) {
			t.trace = append(t.trace, all[culprit])
		}
		t.failf("not linearizable: %s by worker %c answered %s", all[culprit].Step, 'A'+all[culprit].Worker, all[culprit].result())
	}
}

// model is a porcupine model over events, given what an event may do to a state of type S.
func model[S comparable](init S, step func(S, *Event) []S) porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{init} },
		Step: func(st, _, out any) []any {
			var next []any
			for _, s := range step(st.(S), out.(*Event)) {
				next = append(next, s)
			}
			return next
		},
		Equal: func(a, b any) bool { return a.(S) == b.(S) },
	}).ToModel()
}
