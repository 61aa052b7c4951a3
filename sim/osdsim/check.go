package osdsim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

func (n *node) clientOp(conn int, inst wire.Instance, tid wire.Tid, front, data []byte) {
	m := new(wire.OSDOp)
	if err := wire.Unmarshal(front, m); err != nil {
		n.w.fail("op: %v", err)
		return
	}
	n.step(&osd.Event{Kind: osd.EvOp, Conn: osd.ConnID(conn), From: inst, Tid: tid, Msg: m, Data: data})
}

// logged notes, for I6, entries of instances that were blocklisted at or below a barrier that
// this PG had answered under. A deposed primary may still log such a thing: it has not heard.
func (w *World) logged(pg wire.PGID, h *wire.LogEntry) {
	if b, ok := w.mon.M.Blocklist[h.Client]; ok && b.Since <= w.barrier[pg] {
		w.fenced[versionKey{w.home(pg, h.Version), h.Version}] = fmt.Sprintf("logged at %.3fs, fenced since epoch %d, barrier %d had been answered", float64(w.now)/1e9, b.Since, w.barrier[pg])
	}
}

// committed is I6: what was logged behind the fence must never take effect.
func (w *World) committed(pg wire.PGID, h *wire.LogEntry) {
	if why, ok := w.fenced[versionKey{w.home(pg, h.Version), h.Version}]; ok {
		w.fail("I6: pg %v: %v, tid %d of %v, is committed: %s", pg, h.Version, h.Tid, h.Client, why)
	}
	if w.watch[pg].Less(h.Version) {
		w.watch[pg] = h.Version
	}
	// What commits is readable on every member that has it as its newest, unless it has rotted since. A
	// write builds on no pair of the omap: one that rotted before stays what it was.
	for _, mb := range w.mon.M.PGs[pg].InSync {
		st := w.nodes[mb.ID].store
		if s, ok := st.Stat(pg, h.Object); ok && s.Version == h.After && h.After != h.Prior && !st.Sound(pg, h.Object, h.After) && st.BadKeys(pg, h.Object) == 0 && w.rotted[rotKey{pg, h.Object}].Less(h.After) {
			w.fail("rot: pg %v: %v of %s is committed, and nobody can read it on osd.%d", pg, h.Version, h.Object, mb.ID)
		}
	}
}

// mustHave is I1, looked at whenever a map changes and, through a map's many changes, often:
// every member of S whose store is intact has the newest committed version in its log, or
// had it and trimmed it.
func (w *World) mustHave(m *clustermap.OSDMap) {
	for _, pg := range m.PGIDs() {
		v, intact := w.watch[pg], false
		for _, mb := range m.PGs[pg].InSync {
			n := w.nodes[mb.ID]
			if n.store.UUID() != mb.UUID {
				continue
			}
			intact = true
			l := w.logOf(n.store, pg)
			if l.Tail.Less(v) && !slices.ContainsFunc(l.Recs, func(r osd.LogRec) bool { return r.Version == v }) {
				w.fail("I1: pg %v: osd.%d is in S of interval %d and lacks %v, which was committed (log %v +%d)", pg, mb.ID, m.PGs[pg].Interval, v, l.Tail, len(l.Recs))
			}
		}
		if !intact && w.heir(pg) == nil {
			// The monitors had not heard of a lost disk when they dropped the rest: rule M3 reports
			// this PG as lost, and it is, for nobody else has what was committed.
			w.log("pg %v is lost: %v", pg, members(m.PGs[pg].InSync))
			w.lost = true
		}
	}
}

// heir is an OSD outside S that has a whole copy with everything that was ever committed. With
// the disks of all members gone, and of none else, an operator who looks finds it.
func (w *World) heir(pg wire.PGID) *node {
	var best *node
	for _, n := range w.nodes {
		l, last, v := w.logOf(n.store, pg), n.lastOf(pg), w.watch[pg]
		if v != last && !slices.ContainsFunc(l.Recs, func(r osd.LogRec) bool { return r.Version == v }) || !osd.Whole(n.store, w.keptAs(n.store, pg)) {
			continue
		}
		if best == nil || best.lastOf(pg).Less(last) {
			best = n
		}
	}
	return best
}

func (n *node) lastOf(pg wire.PGID) wire.Version {
	l := n.w.logOf(n.store, pg)
	if k := len(l.Recs); k > 0 {
		return l.Recs[k-1].Version
	}
	return l.Tail
}

// operate is what an operator does who finds a PG lost when all else is well again.
func (w *World) operate() {
	for _, pg := range w.mon.M.PGIDs() {
		cfg := w.mon.M.PGs[pg]
		if !w.mon.M.Lost(cfg) {
			continue
		}
		n := w.heir(pg)
		if n == nil { // the only copy went after its disk had been counted on
			w.lost = true
			return
		}
		if heir := (clustermap.Member{ID: n.id, UUID: n.store.UUID()}); w.mon.M.IsUp(heir) {
			w.res.Revived++
			w.mon.now(&mon.PGRevive{PG: pg, Interval: cfg.Interval, Heir: heir})
		}
	}
}

// replied checks I5: one tid, one version; and notes the barrier that was answered.
func (w *World) replied(n *node, c *client, tid wire.Tid, m *wire.OSDReply) {
	for _, q := range c.open {
		if q.tid != tid {
			continue
		}
		w.barrier[q.pg] = max(w.barrier[q.pg], q.first)
		if q.rec.kind == kRead {
			if n.m.PGs[q.pg].Primary != n.id {
				w.res.MemberReads++
			}
			return
		}
		k := tidKey{c.inst, tid}
		if v, ok := w.versions[k]; ok && v != m.Version {
			w.fail("I5: %v of %v was answered as %v and as %v", tid, c.inst, v, m.Version)
		}
		w.versions[k] = m.Version
	}
}

// settled: every op of a living client is answered, every PG has its replicas and is idle.
func (w *World) settled() bool { return w.unsettled() == "" }

func (w *World) unsettled() string {
	for _, c := range w.clients {
		if !c.dead && len(c.open) > 0 {
			return fmt.Sprintf("c%d waits for tid %d: %v\n%s", c.num, c.open[0].tid, c.open[0].rec, w.states())
		}
	}
	for pg, cfg := range w.mon.M.PGs {
		if len(cfg.InSync) != min(3, len(w.nodes)) || cfg.Primary == wire.NoOSD {
			return fmt.Sprintf("pg %v: S is %v, primary %d\n%s", pg, members(cfg.InSync), cfg.Primary, w.states())
		}
		for _, mb := range cfg.InSync { // a disk was lost a moment ago, and no map says so yet
			if w.nodes[mb.ID].store.UUID() != mb.UUID {
				return fmt.Sprintf("pg %v: osd.%d has another store than the one in S\n%s", pg, mb.ID, w.states())
			}
		}
	}
	for _, n := range w.nodes {
		if n.core == nil || n.store.Pending() > 0 {
			return fmt.Sprintf("osd.%d is not idle", n.id)
		}
		if n.m == nil {
			return fmt.Sprintf("osd.%d has no map", n.id)
		}
		for _, s := range n.core.Query(n.clock()) {
			if s.Role == "primary" && (!s.Active || s.Uncommitted > 0 || s.Parked > 0) || n.m.Epoch != w.mon.M.Epoch {
				return fmt.Sprintf("%+v", s)
			}
		}
	}
	return ""
}

func (w *World) states() string {
	var b strings.Builder
	for _, n := range w.nodes {
		if n.core == nil {
			continue
		}
		for _, s := range n.core.Query(n.clock()) {
			fmt.Fprintf(&b, "  %+v\n", s)
		}
	}
	return b.String()
}

// scrubAll reads every replica, as happens each week: afterwards nothing is damaged that
// anybody has undamaged.
func (w *World) scrubAll() {
	if w.res.Rot == 0 {
		return
	}
	w.sameVersions() // a scrub would hide that they differ
	for range 3 {    // the first may find the primary's own copy bad, and others to be mended from it
		for _, id := range w.mon.M.PGIDs() {
			n := w.nodes[w.mon.M.PGs[id].Primary]
			_ = n.core.Scrub(id, true, true) // one that runs already will do
		}
		w.runFor(5 * second)
	}
	for _, id := range w.mon.M.PGIDs() {
		for _, m := range w.mon.M.PGs[id].InSync {
			st := w.nodes[m.ID].store
			for _, ob := range st.ListObjects(id, "", 1000) {
				if st.Sound(id, ob.Name, ob.Version) || w.err != nil {
					continue
				}
				// Two faults, rot and the loss of the member with the good copy, may leave nobody with
				// it. Then it must be reported, and whoever has it must be found.
				if !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.store.Sound(id, ob.Name, ob.Version) }) {
					w.res.Gone++
					if q := w.nodes[w.mon.M.PGs[id].Primary].core.Scrubbed(id); q.Unsure == 0 {
						w.fail("rot: pg %v: no good copy of %s is left and the scrub does not say so: %+v", id, ob.Name, q)
					}
				} else {
					w.fail("rot: pg %v: %s is still damaged on osd.%d after three scrubs: %+v", id, ob.Name, m.ID, w.nodes[w.mon.M.PGs[id].Primary].core.Scrubbed(id))
				}
			}
		}
	}
	for _, n := range w.nodes {
		w.res.Healed += int(n.core.Stats().Healed)
	}
}

// sameVersions compares what members list.
func (w *World) sameVersions() {
	for pg, cfg := range w.mon.M.PGs {
		first := w.nodes[cfg.InSync[0].ID].store.ListObjects(pg, "", 1000)
		for _, mb := range cfg.InSync[1:] {
			if l := w.nodes[mb.ID].store.ListObjects(pg, "", 1000); !slices.Equal(first, l) {
				w.fail("I1: pg %v: osd.%d and osd.%d: %v and %v", pg, cfg.InSync[0].ID, mb.ID, first, l)
			}
		}
	}
}

// final compares replicas byte for byte and judges the histories.
func (w *World) final() {
	w.scrubAll()
	done := false
	w.finalReads(func() { done = true })
	for i := 0; i < 20 && !done && w.err == nil; i++ {
		w.runFor(second)
	}
	if !done {
		w.fail("L1: the last reads are not answered\n%s", w.states())
	}
	if w.err != nil {
		return
	}
	if err := w.placed(); err != nil {
		w.fail("%v", err)
		return
	}
	for pg, cfg := range w.mon.M.PGs {
		first := w.nodes[cfg.InSync[0].ID].store
		for _, mb := range cfg.InSync[1:] {
			if err := sameObjects(pg, first, w.nodes[mb.ID].store); err != nil {
				w.fail("I1: pg %v: osd.%d and osd.%d: %v", pg, cfg.InSync[0].ID, mb.ID, err)
				return
			}
		}
	}
	for _, n := range w.nodes {
		w.res.ByLog += int(n.core.Stats().ByLog)
	}
	w.linearizable()
}

func sameObjects(pg wire.PGID, a, b *osd.MemStore) error {
	la, lb := a.ListObjects(pg, "", 1000), b.ListObjects(pg, "", 1000)
	if len(la) != len(lb) {
		return fmt.Errorf("%v and %v", la, lb)
	}
	for i := range la {
		if la[i] != lb[i] {
			return fmt.Errorf("%v and %v", la[i], lb[i])
		}
		x, errX := content(a, pg, la[i].Name)
		y, errY := content(b, pg, la[i].Name)
		if errX == nil && errY == nil && !bytes.Equal(x, y) { // scrubAll has judged what cannot be read
			return fmt.Errorf("%v: %q and %q", la[i], x, y)
		}
		if n, v := la[i].Name, la[i].Version; a.Sound(pg, n, v) && b.Sound(pg, n, v) {
			x, _, _ := a.OmapRange(pg, n, "", 1<<14)
			if y, _, _ := b.OmapRange(pg, n, "", 1<<14); !slices.EqualFunc(x, y, func(p, q wire.KV) bool { return p.Key == q.Key && bytes.Equal(p.Val, q.Val) }) {
				return fmt.Errorf("%v: omaps %v and %v", la[i], x, y)
			}
		}
	}
	return nil
}

func content(s *osd.MemStore, pg wire.PGID, name string) ([]byte, error) {
	st, _ := s.Stat(pg, name)
	b := make([]byte, st.Size)
	_, err := s.Read(pg, name, 0, b)
	return b, err
}
