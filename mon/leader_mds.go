package mon

import (
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// mdsWatch is what this leader knows of metadata daemons. An instance is decided when a
// change that ends its tenure was proposed: from then on its beacons are not acked (LS),
// whether or not the change has come back yet.
type mdsWatch struct {
	daemons []*mdsLife // in the order in which they were first heard
	decided map[wire.Instance]string
	acks    []ack // wait for a confirmation of the leadership that is asked for next
	asked   []ack // wait for one that is under way
	next    uint64
	running uint64
}

type mdsLife struct {
	info    clustermap.DaemonInfo
	conn    ConnID
	heardAt int64
	owns    uint32 // directories, said its last beacon
}

type ack struct {
	to   ConnID
	tid  uint64
	seq  uint64
	inst wire.Instance
}

func newMDSWatch() mdsWatch { return mdsWatch{decided: map[wire.Instance]string{}} }

func (w *mdsWatch) find(i wire.Instance) *mdsLife {
	for _, d := range w.daemons {
		if d.info.Instance == i {
			return d
		}
	}
	return nil
}

func (w *mdsWatch) forget(i wire.Instance) {
	w.daemons = slices.DeleteFunc(w.daemons, func(d *mdsLife) bool { return d.info.Instance == i })
}

// gone forgets acks for a connection that ended, and daemons without a rank that were heard
// on it. A holder may reconnect: only its silence counts.
func (w *mdsWatch) gone(c ConnID, fs *clustermap.FSMap) {
	w.daemons = slices.DeleteFunc(w.daemons, func(d *mdsLife) bool {
		_, _, holds := fs.Holder(d.info.Instance)
		return d.conn == c && !holds
	})
	of := func(a ack) bool { return a.to == c }
	w.acks, w.asked = slices.DeleteFunc(w.acks, of), slices.DeleteFunc(w.asked, of)
}

// beacon takes a sign of life and a wish.
func (l *Leader) beacon(ev Message, m *wire.MDSBeacon) {
	w := &l.mdss
	if m.Name == "" || m.Instance.IsZero() || len(m.Name) > 255 || len(m.Addr) > 255 {
		return
	}
	if l.state.OSD.IsBlocklisted(m.Instance) || w.decided[m.Instance] != "" {
		if l.state.OSD.IsBlocklisted(m.Instance) {
			l.send(ev.From, ev.Tid, &wire.MDSBeaconAck{Rank: wire.NoRank, Replaced: true, FSEpoch: l.state.FS.Epoch, OSDEpoch: l.state.OSD.Epoch})
		}
		return
	}
	d := w.find(m.Instance)
	if d == nil {
		d = &mdsLife{}
		w.daemons = append(w.daemons, d)
	}
	d.info = clustermap.DaemonInfo{Name: m.Name, Instance: m.Instance, Addr: m.Addr}
	d.conn, d.heardAt, d.owns = ev.From, l.now, m.Subtrees
	rank, in, holds := l.state.FS.Holder(m.Instance)
	want := clustermap.RankState(m.State)
	switch {
	case want == clustermap.RankStopped && holds:
		// The ack says that it is over: it goes out when the change is committed.
		w.decided[m.Instance] = "stopped"
		seq, inst := m.Seq, m.Instance
		l.propose(&MDSState{Rank: rank, Instance: inst, State: want}, request{to: ev.From, tid: ev.Tid, reply: func(s State, err error) wire.Message {
			delete(w.decided, inst)
			w.forget(inst)
			return &wire.MDSBeaconAck{Seq: seq, Rank: rank, State: uint8(s.FS.Ranks[rank].State), FSEpoch: s.FS.Epoch, OSDEpoch: s.OSD.Epoch}
		}})
		return
	case want == clustermap.RankStopped: // a standby leaves
		w.forget(m.Instance)
		if info, ok := l.state.FS.Standbys[m.Instance]; ok {
			l.decideOnce("gone "+info.Name, &MDSStandby{Daemon: info, Gone: true})
		}
		l.send(ev.From, ev.Tid, &wire.MDSBeaconAck{Seq: m.Seq, Rank: wire.NoRank, State: m.State, FSEpoch: l.state.FS.Epoch, OSDEpoch: l.state.OSD.Epoch})
		return
	case holds && want != in.State && m.Rank == rank && rankMay(in.State, want):
		l.decideOnce(fmt.Sprintf("state %d", rank), &MDSState{Rank: rank, Instance: m.Instance, State: want})
	}
	w.acks = append(w.acks, ack{to: ev.From, tid: ev.Tid, seq: m.Seq, inst: m.Instance})
	l.decideRanks()
}

// verify asks for a confirmation of the leadership when beacons wait and none is under way;
// one confirmation serves all that came before it.
func (w *mdsWatch) verify(l *Leader) {
	if w.running == 0 && len(w.acks) > 0 {
		w.next++
		w.running = w.next
		w.asked, w.acks = w.acks, nil
		l.eff.Verify = w.running
	}
}

// verified sends the acks that were waiting, but not to those whose end was decided since.
func (l *Leader) verified(n uint64) {
	w := &l.mdss
	if n != w.running {
		return
	}
	w.running = 0
	for _, a := range w.asked {
		if w.decided[a.inst] != "" || l.state.OSD.IsBlocklisted(a.inst) {
			continue
		}
		m := &wire.MDSBeaconAck{Seq: a.seq, Rank: wire.NoRank, State: uint8(clustermap.RankBoot), FSEpoch: l.state.FS.Epoch, OSDEpoch: l.state.OSD.Epoch}
		if _, ok := l.state.FS.Standbys[a.inst]; ok {
			m.State = uint8(clustermap.RankStandby)
		}
		if r, in, ok := l.state.FS.Holder(a.inst); ok {
			m.Rank, m.State = r, uint8(in.State)
		}
		l.send(a.to, a.tid, m)
	}
	w.asked = nil
}

// decideRanks fills ranks, replaces holders and fails silent ones.
func (l *Leader) decideRanks() {
	w := &l.mdss
	for i, why := range w.decided { // a proposal that failed or was refused decides nothing
		if _, busy := l.inFlight[why]; !busy && why != "stopped" {
			delete(w.decided, i)
		}
	}
	for _, d := range slices.Clone(w.daemons) {
		if l.state.OSD.IsBlocklisted(d.info.Instance) {
			w.forget(d.info.Instance)
		} else if _, _, holds := l.state.FS.Holder(d.info.Instance); !holds && l.now-d.heardAt >= l.set.MDSLease {
			w.forget(d.info.Instance)
		}
	}
	for i, info := range sortedStandbys(l.state.FS) {
		if d := w.find(info.Instance); d == nil && l.now-l.since >= l.set.MDSLease {
			l.decideOnce(fmt.Sprintf("gone %d %s", i, info.Name), &MDSStandby{Daemon: info, Gone: true})
		}
	}
	for _, r := range sortedKeys(l.state.FS.Ranks) {
		l.decideRank(r, l.state.FS.Ranks[r])
	}
	for _, d := range w.daemons {
		_, _, holds := l.state.FS.Holder(d.info.Instance)
		if have := l.state.FS.Standbys[d.info.Instance]; !holds && have != d.info && !l.assigning(d.info.Instance) {
			l.decideOnce("standby "+d.info.Name, &MDSStandby{Daemon: d.info})
		}
	}
}

func sortedStandbys(fs *clustermap.FSMap) []clustermap.DaemonInfo {
	var ds []clustermap.DaemonInfo
	for _, d := range fs.Standbys {
		ds = append(ds, d)
	}
	slices.SortFunc(ds, func(a, b clustermap.DaemonInfo) int {
		if a.Name != b.Name {
			if a.Name < b.Name {
				return -1
			}
			return 1
		}
		if a.Instance.Nonce < b.Instance.Nonce {
			return -1
		}
		return 1
	})
	return ds
}

func rankKey(r wire.Rank) string { return fmt.Sprintf("rank %d", r) }

func (l *Leader) assigning(i wire.Instance) bool {
	for _, r := range sortedKeys(l.state.FS.Ranks) {
		if id, ok := l.inFlight[rankKey(r)]; ok && l.waiting[id].heir == i {
			return true
		}
	}
	return false
}

func (l *Leader) decideRank(r wire.Rank, in clustermap.RankInfo) {
	w := &l.mdss
	key := rankKey(r)
	if _, busy := l.inFlight[key]; busy || in.State == clustermap.RankDamaged || in.Daemon.Instance.IsZero() && !l.state.FS.Wanted(r) {
		return
	}
	holder := in.Daemon.Instance
	if w.decided[holder] != "" {
		return // it is stopping: its rank is free when that is committed
	}
	heir := w.heir(l, in.Daemon)
	switch {
	case holder.IsZero() && heir == nil:
	case holder.IsZero():
		l.assign(key, r, heir.info, holder)
	case heir != nil && heir.info.Name == in.Daemon.Name:
		l.assign(key, r, heir.info, holder) // its next life: the one before is over
	default:
		heardAt := l.since
		if d := w.find(holder); d != nil {
			heardAt = max(heardAt, d.heardAt)
		}
		if l.now-heardAt < l.set.MDSLease {
			return
		}
		if heir != nil {
			l.assign(key, r, heir.info, holder)
		} else if l.decideOnce(key, &MDSFail{Rank: r, Instance: holder, Reason: "missed its beacons"}) {
			w.decided[holder] = key
			w.forget(holder)
		}
	}
}

func (l *Leader) assign(key string, r wire.Rank, d clustermap.DaemonInfo, old wire.Instance) {
	l.propose(&MDSAssign{Rank: r, Daemon: d, Old: old}, request{key: key, heir: d.Instance})
	if !old.IsZero() {
		l.mdss.decided[old] = key
		l.mdss.forget(old)
	}
}

// heir is who should have the rank next: the newest life of the holder's own name, else the
// daemon that waits longest.
func (w *mdsWatch) heir(l *Leader, holder clustermap.DaemonInfo) *mdsLife {
	var first *mdsLife
	for _, d := range slices.Backward(w.daemons) {
		i := d.info.Instance
		if _, _, holds := l.state.FS.Holder(i); holds || w.decided[i] != "" || l.assigning(i) {
			continue
		}
		if d.info.Name == holder.Name {
			return d
		}
		first = d
	}
	return first
}
