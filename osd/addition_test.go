package osd

import (
	"slices"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// R9: only a primary that has waited its lease out (R7) adds anybody. The newcomer has given no lease to the old
// primary; as the next primary it would serve while the old one, cut off, still answers reads.
func TestNobodyIsAddedBeforeThePrimaryIsActive(t *testing.T) {
	for _, f := range []Fault{0, FaultAddBeforeActive} {
		w := newTrio(t)
		w.osds[1].cfg.Faults = f
		w.put("o", "hello")
		w.lose = func(to wire.OSDID, _ wire.Message) bool { return to == 0 } // cut off, its leases are not handed back
		m := testMap(2, 2, 1, 0, 1, 2)
		c := m.PGs[testPG]
		c.InSync, c.Learners = c.InSync[1:2], c.InSync[2:]
		m.PGs[testPG] = c
		w.osds[1].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		w.osds[2].Step(&Event{Kind: EvMap, Now: w.now, Map: m})
		p, early := w.osds[1].pgs[testPG], false
		w.asked = nil
		added := func() bool {
			return slices.ContainsFunc(w.asked, func(p Proposal) bool {
				return slices.ContainsFunc(p.InSync, func(m clustermap.Member) bool { return m.ID == 2 })
			})
		}
		for i := 0; i < 60 && !p.active; i++ {
			w.run(1)
			early = early || added() && !p.active
		}
		if early != (f != 0) {
			t.Errorf("fault %v: proposed before the interval was active: %v", f, early)
		}
		if w.run(30); !added() {
			t.Errorf("fault %v: osd.2 is never proposed: %+v", f, w.osds[1].Query(w.now))
		}
	}
}
