package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// osdLife is what this leader knows of an OSD beyond the map.
type osdLife struct {
	instance wire.Instance
	conn     ConnID
	heardAt  int64 // 0: never under this leader
	brokenAt int64 // its connection ended then; 0: it stands
	downAt   int64 // first seen down in the map; 0: up
	reports  map[wire.OSDID]int64
	refused  bool
	total    uint64
	used     uint64
	boots    []int64 // of one life after it was marked down, within FlapWindow
	heldAt   int64   // kept down since; 0: not
}

func (l *Leader) life(id wire.OSDID) *osdLife {
	o := l.osds[id]
	if o == nil {
		o = &osdLife{reports: map[wire.OSDID]int64{}}
		l.osds[id] = o
	}
	return o
}

// heard notes a sign of life.
func (l *Leader) heard(id wire.OSDID, i wire.Instance, from ConnID) {
	o := l.life(id)
	if o.instance != i {
		o.instance = i
		clear(o.reports)
		o.refused = false
		o.boots, o.heldAt = nil, 0
	}
	o.conn, o.heardAt, o.brokenAt = from, max(l.now, 1), 0
}

func (l *Leader) stats(m *wire.OSDStats, from ConnID) {
	if o, ok := l.state.OSD.OSDs[m.ID]; !ok || o.Instance != m.Instance {
		return // not booted yet, or a life that is over
	}
	l.heard(m.ID, m.Instance, from)
	o := l.life(m.ID)
	o.total, o.used = m.Total, m.Used
	for _, s := range m.PGs {
		if _, ok := l.state.OSD.PGs[s.PG]; ok {
			l.pgStats[s.PG] = s
		}
	}
	l.decideFlags()
}

// report takes a peer's word that an OSD does not answer. It counts only from an OSD that is
// up itself, about the life that is up.
func (l *Leader) report(m *wire.OSDFailure, peer wire.Instance) {
	r, ok := l.state.OSD.OSDs[m.Reporter]
	t, known := l.state.OSD.OSDs[m.Target]
	if !ok || !known || !r.Up || r.Instance != peer || !t.Up || t.Instance != m.Instance || m.Reporter == m.Target {
		return
	}
	o := l.life(m.Target)
	if m.Alive {
		delete(o.reports, m.Reporter)
		return
	}
	o.reports[m.Reporter] = l.now
	o.refused = o.refused || m.Refused
	l.decideDown()
}

// decideDown marks down who is silent, or reported by two peers (by one, when no second one
// is up), or whose host refuses connections to it.
func (l *Leader) decideDown() {
	m := l.state.OSD
	up := 0
	for _, o := range m.OSDs {
		if o.Up {
			up++
		}
	}
	for _, id := range m.OSDIDs() {
		o, life := m.OSDs[id], l.life(id)
		if !o.Up {
			if life.downAt == 0 {
				life.downAt = max(l.now, 1)
			}
			clear(life.reports)
			life.refused = false
			continue
		}
		life.downAt = 0
		if life.instance != o.Instance && !life.instance.IsZero() {
			continue // its next life is booting
		}
		reports := 0
		for r, at := range life.reports {
			if l.now-at <= l.set.ReportAge && m.OSDs[r].Up {
				reports++
			}
		}
		reason := ""
		switch {
		case life.refused && reports > 0:
			reason = "connection refused"
		case reports >= min(2, max(up-1, 1)):
			reason = fmt.Sprintf("reported by %d", reports)
		case life.brokenAt != 0 && l.now-life.brokenAt >= l.set.OSDBroken:
			reason = "connection to the monitor ended"
		case l.now-max(life.heardAt, l.since) >= l.set.OSDSilence:
			reason = "silent"
		}
		if reason != "" {
			l.decideOnce(fmt.Sprintf("down osd.%d", id), &OSDDown{ID: id, Instance: o.Instance, Reason: reason})
		}
	}
}

// decideDrops takes OSDs that are down out of in-sync sets, all PGs of one in one change.
func (l *Leader) decideDrops() {
	m := l.state.OSD
	if l.isCold() || ManyDown(m) {
		return
	}
	drops := map[clustermap.Member][]PGAt{}
	var order []clustermap.Member
	for _, pg := range m.PGIDs() {
		cfg := m.PGs[pg]
		for _, mb := range cfg.InSync {
			if m.IsUp(mb) || len(cfg.InSync) == 1 || mayDrop(m, pg, cfg, mb) != nil {
				continue
			}
			life := l.osds[mb.ID]
			if o, ok := m.OSDs[mb.ID]; ok && o.UUID == mb.UUID && (life == nil || life.downAt == 0 || l.now-life.downAt < l.set.DropGrace) {
				continue // it may be back soon, and copying takes longer
			}
			if drops[mb] == nil {
				order = append(order, mb)
			}
			drops[mb] = append(drops[mb], PGAt{PG: pg, Interval: cfg.Interval})
		}
	}
	for _, mb := range order {
		l.decideOnce(fmt.Sprintf("drop osd.%d %v", mb.ID, mb.UUID), &PGDrop{Member: mb, PGs: drops[mb]})
	}
}

// decideSurplus lets members go that the up set does not want, one a time of each PG.
func (l *Leader) decideSurplus() {
	m := l.state.OSD
	if l.isCold() || ManyDown(m) {
		return
	}
	for _, pg := range m.PGIDs() {
		cfg := m.PGs[pg]
		if len(cfg.InSync) <= 1 {
			continue
		}
		for _, mb := range cfg.InSync {
			if m.IsUp(mb) && surplus(m, pg, cfg, mb) {
				l.decideOnce(fmt.Sprintf("surplus %v", pg), &PGDrop{Member: mb, Surplus: true, PGs: []PGAt{{PG: pg, Interval: cfg.Interval}}})
				break
			}
		}
	}
}

// decideOut gives the share of an OSD that is down for long to others, and takes it back when
// it returns (a boot sets In).
func (l *Leader) decideOut() {
	m := l.state.OSD
	if ManyDown(m) {
		return
	}
	for _, id := range m.OSDIDs() {
		o, life := m.OSDs[id], l.osds[id]
		if life != nil && life.heardAt > life.downAt && l.now-life.heardAt < l.set.OSDSilence {
			continue // its boot is under way: this would come after it, and nothing would take it back
		}
		if !o.Up && o.In && life != nil && life.downAt != 0 && l.now-life.downAt >= l.set.OutAfter {
			l.decideOnce(fmt.Sprintf("out osd.%d", id), &OSDPlace{ID: id, In: false, Reweight: o.Reweight})
		}
	}
}

// flags: the fullest OSD decides, for any PG may be on it. Full ends half a percent lower
// than it begins.
func (l *Leader) flags() (full, near bool) {
	m := l.state.OSD
	for id, o := range m.OSDs {
		total, used := o.Total, o.Used
		if life := l.osds[id]; life != nil && life.total != 0 {
			total, used = life.total, life.used
		}
		if !o.Up || total == 0 {
			continue
		}
		permille := used / max(total/1000, 1)
		limit := l.set.FullPct * 10
		if m.Full {
			limit -= 5
		}
		full = full || permille >= limit
		near = near || permille >= l.set.NearFullPct*10
	}
	return full, near
}

// decideFlags acts at once when a flag must change; usage alone waits for decideUsage.
func (l *Leader) decideFlags() {
	full, near := l.flags()
	if full != l.state.OSD.Full || near != l.state.OSD.NearFull {
		l.usage(full, near)
	}
}

func (l *Leader) usage(full, near bool) {
	c := &Usage{Full: full, NearFull: near}
	for _, id := range l.state.OSD.OSDIDs() {
		if life := l.osds[id]; life != nil && life.total != 0 {
			c.OSDs = append(c.OSDs, OSDUsage{ID: id, Total: life.total, Used: life.used})
		}
	}
	if l.decideOnce("usage", c) {
		l.usageAt = l.now
	}
}

// decideUsage records usage that moved by more than half a percent, now and then.
func (l *Leader) decideUsage() {
	l.decideFlags()
	if l.now-l.usageAt < l.set.UsageEvery {
		return
	}
	moved := slices.ContainsFunc(l.state.OSD.OSDIDs(), func(id wire.OSDID) bool {
		o, life := l.state.OSD.OSDs[id], l.osds[id]
		if life == nil || life.total == 0 {
			return false
		}
		// The size changes too: with the room that others leave on the host's disk.
		by := func(a, b uint64) bool { return max(a, b)-min(a, b) > life.total/200 }
		return by(life.used, o.Used) || by(life.total, o.Total)
	})
	if moved {
		full, near := l.flags()
		l.usage(full, near)
	}
}

// flapping says for how long a living OSD that was marked down and came back too often is
// still kept down: its network or disk is ill, and each of its boots is a new interval, a
// pause, of all its PGs. A process that was started again is a new life and no flap. Nobody is
// kept down while another OSD is down too: then it is needed, or the illness is not its own.
func (l *Leader) flapping(m *wire.OSDBoot) int64 {
	o, known := l.state.OSD.OSDs[m.ID]
	if l.set.FlapBoots == 0 || !known || o.Up || o.Instance != m.Instance {
		return 0
	}
	for id, other := range l.state.OSD.OSDs {
		if id != m.ID && other.In && !other.Up {
			return 0
		}
	}
	life := l.life(m.ID)
	if life.heldAt != 0 {
		if left := life.heldAt + l.set.FlapWindow/2 - l.now; left > 0 {
			return left
		}
		life.heldAt, life.boots = 0, nil
	}
	life.boots = slices.DeleteFunc(life.boots, func(at int64) bool { return l.now-at > l.set.FlapWindow })
	if len(life.boots) < l.set.FlapBoots {
		life.boots = append(life.boots, l.now)
		return 0
	}
	life.heldAt = max(l.now, 1)
	return l.set.FlapWindow / 2
}

// balanceMoves is how many PGs the balancer moves at a time.
const balanceMoves = 4

// balanceTolerance is how far from the mean an OSD may be: well within the ±10 % promised.
const balanceTolerance = 0.05

// balanceFloor is what a PG counts at least: a pool that holds next to nothing is spread by the
// number of its PGs, and not moved about for some kilobytes.
const balanceFloor = 1 << 20

// weightOf is a PG's size in the balancer's eyes.
func (l *Leader) weightOf(pg wire.PGID) uint64 { return max(l.pgStats[pg].Bytes, balanceFloor) }

// decideBalance evens the OSDs out when the cluster is at rest: nobody down, nothing to copy.
func (l *Leader) decideBalance() {
	m := l.state.OSD
	if l.set.BalanceWait == 0 || l.isCold() || l.now-l.balanceAt < l.set.BalanceWait {
		return
	}
	l.balanceAt = l.now
	for _, o := range m.OSDs {
		if !o.Up && o.In {
			return
		}
	}
	for _, p := range m.Pools {
		if p.Grows() {
			return // its PGs are about to divide, and to move for that
		}
	}
	for pg, cfg := range m.PGs {
		if len(cfg.Learners) > 0 || len(cfg.InSync) != len(m.Wanted(pg)) {
			return
		}
	}
	for pg := range m.PGs {
		if _, ok := l.pgStats[pg]; !ok {
			return // its primary has not said how much it holds: under this leader, or since a split
		}
	}
	off, on := Balance(m, l.weightOf, balanceTolerance, balanceMoves)
	if len(off)+len(on) > 0 {
		l.decideOnce("balance", &Except{Off: off, On: on})
	}
}
