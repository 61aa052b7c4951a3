package wrong

import (
	"fmt"
	"strings"
)

// Fault is one bug.
type Fault uint8

// Set is the bugs that are on.
type Set uint64

// Has reports whether f is on.
func (s Set) Has(f Fault) bool { return s>>f&1 != 0 }

// With is s and f.
func (s Set) With(f Fault) Set { return s | 1<<f }

// Of is the set of these.
func Of(faults ...Fault) (s Set) {
	for _, f := range faults {
		s = s.With(f)
	}
	return s
}

// Parse finds faults by name.
func Parse(names []string) (s Set, err error) {
	for _, n := range names {
		f, ok := byName(n)
		if !ok {
			return 0, fmt.Errorf("no seeded bug is called %q: `capstan dev up --wrong list` names them", n)
		}
		s = s.With(f)
	}
	return s, nil
}

func byName(name string) (Fault, bool) {
	for i := range Faults {
		if Faults[i].Name == name {
			return Fault(i), true
		}
	}
	return 0, false
}

// Names of the faults that are on, in the order of the table.
func (s Set) Names() (names []string) {
	for i := range Faults {
		if s.Has(Fault(i)) {
			names = append(names, Faults[i].Name)
		}
	}
	return names
}

func (s Set) String() string { return strings.Join(s.Names(), ",") }
