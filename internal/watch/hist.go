package watch

import "math/bits"

// Buckets of a Hist: the first holds what took less than 2 µs, each next one twice as much, the
// last one all above 8 s.
const Buckets = 23

// Hist counts durations by powers of two. The zero value is empty.
type Hist struct {
	N   [Buckets]uint64
	Sum int64 // ns
}

// Add notes one duration of ns nanoseconds; a negative one counts as none.
func (h *Hist) Add(ns int64) {
	if ns < 0 {
		ns = 0
	}
	i := bits.Len64(uint64(ns)/1000) - 1
	if i < 0 {
		i = 0
	}
	if i >= Buckets {
		i = Buckets - 1
	}
	h.N[i]++
	h.Sum += ns
}

// Bound is the upper bound of bucket i in seconds; the last bucket has none.
func Bound(i int) float64 { return float64(uint64(2)<<i) / 1e6 }

// Count is how many were noted.
func (h *Hist) Count() (n uint64) {
	for _, b := range h.N {
		n += b
	}
	return n
}

// Quantile is an upper bound, in nanoseconds, of the share q (0 to 1) of what was noted: that of
// its bucket. 0 when nothing was noted.
func (h *Hist) Quantile(q float64) int64 {
	n := h.Count()
	if n == 0 {
		return 0
	}
	want := uint64(q*float64(n-1)) + 1
	for i, b := range h.N {
		if want <= b {
			return int64(Bound(i) * 1e9)
		}
		want -= b
	}
	return int64(Bound(Buckets-1) * 1e9)
}
