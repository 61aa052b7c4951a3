package fsck

import (
	"slices"
	"testing"
)

// What is left of a trimmed journal, and what is nobody's, is named; the first goes.
func TestWhatIsNotOfTheTree(t *testing.T) {
	m := New(Params{MetaPool: 1, DataPool: 2})
	m.Expire(0, 9<<20) // in object 2
	for _, o := range []string{"journal.0.00000001", "journal.0.00000002", "journal.0.head", "journal.7.head", "something", "index.10000000"} {
		m.MetaObject(o)
	}
	m.Data("not a number.3", 5)
	var got []string
	for _, f := range m.Check() {
		if f.Code == JournalLeftover || f.Code == ObjectUnknown {
			got = append(got, f.Key())
		}
	}
	want := []string{"JOURNAL_LEFTOVER 1/journal.0.00000001", "OBJECT_UNKNOWN 2/not a number.3", "OBJECT_UNKNOWN journal.7.head", "OBJECT_UNKNOWN something"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q", got)
	}
	m.Repair(0)
	if c := m.Changes(); !slices.ContainsFunc(c, func(c Change) bool { return c.Remove && c.Object.Name == "journal.0.00000001" }) {
		t.Errorf("a repair changes %+v", c)
	}
}
