package osdsim

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// I4: the history of each object must have an order in which every operation takes effect at
// one instant between its call and its return. The search is Wing and Gong's with Lowe's
// memory of where it has been. What changes nothing is not a branch: as soon as a read may
// come and shows the present state, taking it then loses nothing. So dozens of reads that
// wait at once, which is what a lease is tested with, cost no more than one.

type verdict uint8

const (
	legal verdict = iota
	illegal
	unknown // the search was given up
)

var verdictNames = [...]string{"legal", "illegal", "unknown: the search was too long"}

func (v verdict) String() string { return verdictNames[v] }

const maxVisits = 1 << 20

// apply gives the state after r, in state s: "" is absent, else "=" and the bytes. False: r
// was answered otherwise than it would have been in s.
func (r *record) apply(s string) (string, bool) {
	exists := s != ""
	answered := func(errno uint32, next string) (string, bool) { return next, !r.done || r.errno == errno }
	switch r.kind {
	case kRead:
		if !exists {
			return s, !r.done || r.errno == 2
		}
		return s, !r.done || r.errno == 0 && s[1:] == r.out
	case kAppend:
		switch {
		case r.hidden || s == hidden:
			return answered(0, hidden)
		case !exists:
			s = "="
		}
		return answered(0, s+r.token)
	case kWrite:
		return answered(0, r.alone())
	case kRemove:
		if !exists {
			return answered(2, s)
		}
		return answered(0, "")
	default:
		if exists {
			return answered(17, s)
		}
		return answered(0, r.alone())
	}
}

// changes: it is a change also where the state before and after it are both hidden.
func (r *record) changes() bool { return r.kind == kAppend || r.kind == kWrite }

// hidden is every state with bytes in it that no read shows: none may come before the object is
// written anew. Without it, appends that nobody reads before the next write double the search
// with each of them, for each order is a state of its own.
const hidden = "=\x00"

// alone is the state of an object that holds what r wrote and nothing else.
func (r *record) alone() string {
	if r.hidden {
		return hidden
	}
	return "=" + r.token
}

// until is when r must have taken effect: never, when it was not answered.
func (r *record) until() int64 {
	if !r.done {
		return math.MaxInt64
	}
	return r.ret
}

type search struct {
	ops    []*record // by call
	taken  []uint64  // a bit each
	left   int       // answered ones not taken
	unseen []bool    // not answered, and no read shows it
	visits int
	seen   map[string]struct{}
}

// linearize judges the history of one object.
func linearize(history []*record) verdict {
	s := &search{seen: map[string]struct{}{}}
	for _, r := range history {
		if r.done || r.kind != kRead {
			s.ops = append(s.ops, r)
		}
		if r.done {
			s.left++
		}
	}
	var shown strings.Builder
	for _, r := range history {
		if r.done && r.kind == kRead {
			shown.WriteString(r.out)
		}
	}
	for _, r := range s.ops {
		r.hidden = r.kind != kRead && r.kind != kRemove && !strings.Contains(shown.String(), r.token)
	}
	slices.SortStableFunc(s.ops, func(a, b *record) int { return int(a.call - b.call) })
	s.taken = make([]uint64, (len(s.ops)+63)/64)
	s.unseen = make([]bool, len(s.ops))
	for i, r := range s.ops {
		s.unseen[i] = !r.done && r.hidden
	}
	return s.from("")
}

func (s *search) has(i int) bool { return s.taken[i/64]&(1<<(i%64)) != 0 }

func (s *search) flip(i int) {
	s.taken[i/64] ^= 1 << (i % 64)
	if s.ops[i].done {
		if s.has(i) {
			s.left--
		} else {
			s.left++
		}
	}
}

// next lists what may take effect now: called before the first of all that are left returned.
func (s *search) next(dst []int) []int {
	first := int64(math.MaxInt64)
	for i, r := range s.ops {
		if r.call > first {
			break
		}
		if !s.has(i) {
			first = min(first, r.until())
			dst = append(dst, i)
		}
	}
	return slices.DeleteFunc(dst, func(i int) bool { return s.ops[i].call > first })
}

func (s *search) from(state string) (v verdict) {
	var free []int
	var may []int
	for again := true; again; { // what changes nothing
		again = false
		may = s.next(may[:0])
		for _, i := range may {
			if next, ok := s.ops[i].apply(state); ok && next == state && s.ops[i].done && !s.ops[i].changes() {
				s.flip(i)
				free = append(free, i)
				again = true
			}
		}
	}
	defer func() {
		if v != legal {
			for _, i := range free {
				s.flip(i)
			}
		}
	}()
	if s.left == 0 {
		return legal
	}
	if s.dead(state) {
		return illegal
	}
	if s.visits++; s.visits > maxVisits {
		return unknown
	}
	key := s.key(state)
	if _, been := s.seen[key]; been {
		return illegal
	}
	s.seen[key] = struct{}{}
	// Answered ones first: what was never answered is rarely needed.
	for _, done := range []bool{true, false} {
		for _, i := range may {
			next, ok := s.ops[i].apply(state)
			if s.ops[i].done != done || !ok || next == state && !s.ops[i].changes() || s.unseen[i] && !s.needed(may, state) {
				continue
			}
			s.flip(i)
			if v := s.from(next); v != illegal {
				return v
			}
			s.flip(i)
		}
	}
	return illegal
}

// dead: nothing is left that takes bytes away, so the object only grows, and some read shows
// what this state cannot grow into. Without this, n appends that wait at once are n! states.
func (s *search) dead(state string) bool {
	for i, r := range s.ops {
		if (r.kind == kWrite || r.kind == kRemove) && !s.has(i) {
			return false
		}
	}
	for i, r := range s.ops {
		if r.kind == kRead && !s.has(i) && state != "" && (r.errno != 0 || !strings.HasPrefix(r.out, state[1:])) {
			return true
		}
	}
	return false
}

// needed: a write that nobody was told of and no read shows can only have served to make the
// object exist for the very next operation. (Writes in between would have made it exist
// too, and reads would have shown it.) Without this, clients that are fenced with writes
// under way double the search with each of them.
func (s *search) needed(may []int, state string) bool {
	return state == "" && slices.ContainsFunc(may, func(i int) bool {
		r := s.ops[i]
		return r.done && (r.kind == kRemove && r.errno == 0 || r.kind == kCreate && r.errno == 17)
	})
}

func (s *search) key(state string) string {
	b := make([]byte, 0, 8*len(s.taken)+len(state))
	for _, w := range s.taken {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return string(append(b, state...))
}

// linearizable judges all objects.
func (w *World) linearizable() {
	by := map[string][]*record{}
	for _, r := range w.history {
		by[r.obj] = append(by[r.obj], r)
	}
	for i := range w.objects {
		o := fmt.Sprintf("o%d", i)
		switch v := linearize(by[o]); v {
		case unknown: // no verdict is no crime, but is told
			w.res.Unjudged++
		case illegal:
			var b strings.Builder
			if w.opt.Verbose != nil {
				for _, r := range by[o] {
					fmt.Fprintf(&b, "\n%v", r)
				}
			}
			w.fail("I4: the history of %s is not linearizable (%v)%s", o, v, b.String())
			return
		}
	}
}
