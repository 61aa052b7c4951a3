package watch

import (
	"fmt"
	"testing"
	"time"
)

func TestADurationLandsBelowItsBound(t *testing.T) {
	for _, ns := range []int64{-1, 0, 999, 1999, 2000, 3999, 4000, 1e6, 1e9, 7e9, 1e12} {
		var h Hist
		h.Add(ns)
		if h.Count() != 1 {
			t.Fatalf("%d: counted %d times", ns, h.Count())
		}
		for i, n := range h.N {
			if n == 0 {
				continue
			}
			if i < Buckets-1 && float64(ns) >= Bound(i)*1e9 {
				t.Errorf("%d ns in bucket %d below %v s", ns, i, Bound(i))
			}
			if i > 0 && float64(ns) < Bound(i-1)*1e9 {
				t.Errorf("%d ns in bucket %d, one below would do", ns, i)
			}
		}
	}
}

func TestAQuantileIsNoLessThanItsShare(t *testing.T) {
	var h Hist
	for i := range 100 {
		h.Add(int64(i) * 1e6)
	}
	for _, q := range []float64{0, 0.5, 0.99, 1} {
		want := int64(q*99) * 1e6
		if got := h.Quantile(q); got < want || want > 0 && got > 4*want {
			t.Errorf("quantile %v is %d, want about %d", q, got, want)
		}
	}
}

func TestARingKeepsTheNewestAndCountsTheRest(t *testing.T) {
	var r Ring
	for i := range 300 {
		r.Add(Slow{What: fmt.Sprint(i), At: time.Unix(int64(i), 0)})
	}
	rep := r.Report(time.Second)
	if rep.Total != 300 || rep.Dropped != 44 || len(rep.Ops) != 256 || rep.Ops[0].What != "299" || rep.Ops[255].What != "44" {
		t.Errorf("total %d, dropped %d, kept %d from %q to %q", rep.Total, rep.Dropped, len(rep.Ops), rep.Ops[0].What, rep.Ops[len(rep.Ops)-1].What)
	}
	if n := r.Since(time.Unix(289, 0)); n != 10 {
		t.Errorf("%d ended after the 290th, want 10", n)
	}
}
