package cluster

import (
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// `pg revive all osd.N` takes the copies of that OSD that nobody has better, and no part of one.
func TestWhichLostPGsAnOSDCanRevive(t *testing.T) {
	v := func(n uint64) wire.Version { return wire.Version{Interval: 3, N: n} }
	for _, c := range []struct {
		what   string
		copies []PGCopy // the best first, as copies sorts them
		left   string   // a part of the reason; empty: it is revived
	}{
		{"the only copy", []PGCopy{{OSD: 2, Whole: true, last: v(7)}}, ""},
		{"another has the same", []PGCopy{{OSD: 1, Whole: true, last: v(7)}, {OSD: 2, Whole: true, last: v(7)}}, ""},
		{"another has an older one", []PGCopy{{OSD: 2, Whole: true, last: v(7)}, {OSD: 1, Whole: true, last: v(6)}}, ""},
		{"another has a newer one", []PGCopy{{OSD: 1, Whole: true, last: v(8)}, {OSD: 2, Whole: true, last: v(7)}}, "osd.1 has a better copy"},
		{"a part of a copy", []PGCopy{{OSD: 2, last: v(7)}}, "part of a copy"},
		{"a part that is newer than a whole one", []PGCopy{{OSD: 2, Whole: true, last: v(6)}, {OSD: 1, last: v(7)}}, ""},
		{"nothing", []PGCopy{{OSD: 1, Whole: true, last: v(8)}}, "osd.1 has"},
		{"nobody has anything", nil, "give-up"},
	} {
		p := &PGCopies{PG: "1.2", Lost: true, Copies: c.copies}
		if got := p.without(2); (got == "") != (c.left == "") || !strings.Contains(got, c.left) {
			t.Errorf("%s: %q", c.what, got)
		}
		if c.left == "" {
			if loss, err := p.loss(2); err != nil || !strings.Contains(loss, "pg 1.2 will go on with what osd.2 has") {
				t.Errorf("%s: %q, %v", c.what, loss, err)
			}
		}
	}
}
