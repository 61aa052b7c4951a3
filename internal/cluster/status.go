package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Status is what `capstan status` shows: the monitors' view.
type Status struct {
	Cluster  string       `json:"cluster"`
	Health   string       `json:"health"` // ok, or what is wrong
	Warnings []Warning    `json:"warnings"`
	OSDEpoch wire.Epoch   `json:"osd_epoch"`
	FSEpoch  wire.Epoch   `json:"fs_epoch"`
	OSDs     []OSDStatus  `json:"osds"`
	Ranks    []RankStatus `json:"ranks"`
	Standbys []string     `json:"standbys"` // metadata daemons that wait for a rank
	PGs      PGStatus     `json:"pgs"`
	Fenced   int          `json:"fenced"` // instances in the blocklist

	Recovery *Recovery `json:"recovery,omitempty"` // nil: nothing is being filled
	Growing  []Growing `json:"growing,omitempty"`
}

// Growing is a pool whose PGs are split in steps.
type Growing struct {
	Pool   string `json:"pool"`
	PGNum  uint32 `json:"pg_num"`
	Target uint32 `json:"pg_num_target"`
}

// Recovery is how far the filling of new members is, as their primaries report it.
type Recovery struct {
	PGs     int    `json:"pgs"`     // with members being filled
	Objects uint64 `json:"objects"` // in them
	Missing uint64 `json:"missing"` // not yet copied, as far as they are listed
	PerSec  uint64 `json:"objects_per_second"`
	ETA     int64  `json:"eta_seconds"` // -1: not known
}

// recovery sums up what primaries report; nil when no PG is being filled.
func (e *Env) recovery(ctx context.Context) (*Recovery, error) {
	v, err := e.MonCommand(ctx, "pg", "dump")
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Learners         []int32
		Objects, Missing uint64
	}
	if err := json.Unmarshal(v, &rows); err != nil {
		return nil, err
	}
	r := &Recovery{ETA: -1}
	for _, p := range rows {
		if len(p.Learners) > 0 {
			r.PGs++
			r.Objects += p.Objects
			r.Missing += p.Missing
		}
	}
	if r.PGs == 0 {
		return nil, nil
	}
	return r, nil
}

// addRecovery looks twice, OSDs reporting every second, so that it can say how fast it goes.
func (e *Env) addRecovery(ctx context.Context, s *Status) error {
	r, err := e.recovery(ctx)
	if err != nil || r == nil || r.Missing == 0 {
		s.Recovery = r
		return err
	}
	const between = 2 * time.Second
	t := time.NewTimer(between)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	again, err := e.recovery(ctx)
	if s.Recovery = again; err != nil || again == nil {
		return err
	}
	if again.Missing < r.Missing {
		again.PerSec = max(1, (r.Missing-again.Missing)/uint64(between/time.Second))
		again.ETA = int64(again.Missing / again.PerSec)
	}
	return nil
}

// OSDStatus is one OSD.
type OSDStatus struct {
	Name  string `json:"name"`
	Up    bool   `json:"up"`
	In    bool   `json:"in"`
	Addr  string `json:"addr"`
	Total uint64 `json:"total"`
	Used  uint64 `json:"used"`
}

// RankStatus is one rank.
type RankStatus struct {
	Rank  int    `json:"rank"`
	Name  string `json:"name"`
	State string `json:"state"`
	Addr  string `json:"addr"`
}

// PGStatus counts placement groups. Clean: as many in-sync members as replicas are wanted.
// Stuck: no primary, or fewer members than writes need.
type PGStatus struct {
	Total int `json:"total"`
	Clean int `json:"clean"`
	Stuck int `json:"stuck"`
}

// dialMons connects a tool to the monitors.
func (e *Env) dialMons(ctx context.Context, self wire.Instance) (*monc.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := monc.Dial(ctx, monc.Config{Net: e.Net, Addrs: e.Conf.MonAddrs,
		Self: msgr.Peer{Instance: self, Cluster: e.Conf.Cluster}, Log: e.Log})
	if errors.Is(err, monc.ErrNoLeader) {
		return nil, fmt.Errorf("no monitor leads: of %s less than half answer each other; start the missing ones (%w)", strings.Join(e.Conf.MonAddrs, ", "), err)
	}
	if err != nil {
		return nil, fmt.Errorf("no monitor answers at %s within 10 s: is the cluster running? (%w)", strings.Join(e.Conf.MonAddrs, ", "), err)
	}
	return m, nil
}

// Status asks the monitors.
func (e *Env) Status(ctx context.Context) (*Status, error) {
	m, err := e.dialMons(ctx, instance(wire.KindTool, 0))
	if err != nil {
		return nil, err
	}
	defer m.Close()
	s := statusOf(m.OSDMap(), m.FSMap())
	s.sayWrong(e.wrong())
	dump, err := monCommand(ctx, m, "pg", "dump")
	if err != nil {
		return nil, err
	}
	if err := s.addDamaged(dump); err != nil {
		return nil, err
	}
	if s.PGs.Clean < s.PGs.Total {
		if err := e.addRecovery(ctx, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// addDamaged warns of objects of which primaries say that no copy is good.
func (s *Status) addDamaged(dump json.RawMessage) error {
	var rows []struct {
		PG     string
		Broken uint64
		Names  []string `json:"broken_names"`
	}
	if err := json.Unmarshal(dump, &rows); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Broken == 0 {
			continue
		}
		w := warn("OBJECT_DAMAGED", "pg "+r.PG, fmt.Sprintf("`capstan pg query %s` names the objects; start an OSD that may have a good copy; else write the damaged part anew or remove the file, then `capstan pg deep-scrub %s`", r.PG, r.PG),
			"pg %s: no good copy of %d objects: %s", r.PG, r.Broken, strings.Join(r.Names, ", "))
		s.Warnings = append([]Warning{w}, s.Warnings...)
		if s.Health == "ok" {
			s.Health = w.What
		} else {
			s.Health = w.What + ", " + s.Health
		}
	}
	return nil
}

func statusOf(om *clustermap.OSDMap, fm *clustermap.FSMap) *Status {
	s := &Status{Cluster: om.Cluster.String(), OSDEpoch: om.Epoch, FSEpoch: fm.Epoch, Fenced: len(om.Blocklist),
		OSDs: []OSDStatus{}, Ranks: []RankStatus{}, Standbys: []string{}}
	for _, o := range om.OSDs {
		s.OSDs = append(s.OSDs, OSDStatus{Name: fmt.Sprintf("osd.%d", o.ID), Up: o.Up, In: o.In, Addr: o.Addr, Total: o.Total, Used: o.Used})
	}
	sort.Slice(s.OSDs, func(i, j int) bool { return s.OSDs[i].Name < s.OSDs[j].Name })
	for r, info := range fm.Ranks {
		if !fm.Wanted(r) {
			continue
		}
		s.Ranks = append(s.Ranks, RankStatus{Rank: int(r), Name: "mds." + strings.TrimPrefix(info.Daemon.Name, "mds."), State: info.State.String(), Addr: info.Daemon.Addr})
	}
	sort.Slice(s.Ranks, func(i, j int) bool { return s.Ranks[i].Rank < s.Ranks[j].Rank })
	for _, d := range fm.Standbys {
		s.Standbys = append(s.Standbys, "mds."+strings.TrimPrefix(d.Name, "mds."))
	}
	sort.Strings(s.Standbys)
	for _, p := range om.Pools {
		if p.Grows() {
			s.Growing = append(s.Growing, Growing{p.Name, p.PGNum, p.PGTarget})
		}
	}
	sort.Slice(s.Growing, func(i, j int) bool { return s.Growing[i].Pool < s.Growing[j].Pool })
	s.PGs = countPGs(om)
	s.Warnings = warnings(om, fm, s.PGs)
	s.Health = "ok"
	if len(s.Warnings) > 0 {
		var wrong []string
		for _, w := range s.Warnings {
			wrong = append(wrong, w.What)
		}
		s.Health = strings.Join(wrong, ", ")
	}
	return s
}

func countPGs(om *clustermap.OSDMap) (n PGStatus) {
	for id, pg := range om.PGs {
		pool := om.Pools[id.Pool]
		n.Total++
		up := 0
		for _, m := range pg.InSync {
			if om.OSDs[m.ID].Up {
				up++
			}
		}
		if pg.Primary == wire.NoOSD || up < pool.MinSize {
			n.Stuck++
		} else if len(pg.InSync) >= pool.Size && !slices.ContainsFunc(pg.InSync, func(m clustermap.Member) bool { return !om.OSDs[m.ID].Up }) {
			n.Clean++
		}
	}
	return n
}

// Text is the status for people.
func (s *Status) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster  %s\n", s.Cluster)
	if len(s.Warnings) == 0 {
		b.WriteString("health   ok\n")
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(&b, "%-8s %s (%s)\n         → %s\n", map[string]string{sevWarn: "warning", sevError: "ERROR"}[w.Severity], w.What, w.Code, w.Do)
	}
	for _, r := range s.Ranks {
		fmt.Fprintf(&b, "rank %d   %s %s at %s\n", r.Rank, r.State, r.Name, r.Addr)
	}
	if len(s.Standbys) > 0 {
		fmt.Fprintf(&b, "standby  %s\n", strings.Join(s.Standbys, ", "))
	}
	for _, o := range s.OSDs {
		state := "up"
		if !o.Up {
			state = "DOWN"
		}
		if !o.In {
			state += ", out"
		}
		fmt.Fprintf(&b, "%-8s %s at %s, %s of %s used\n", o.Name, state, o.Addr, SizeText(o.Used), SizeText(o.Total))
	}
	fmt.Fprintf(&b, "pgs      %d, %d clean", s.PGs.Total, s.PGs.Clean)
	if s.PGs.Stuck > 0 {
		fmt.Fprintf(&b, ", %d STUCK", s.PGs.Stuck)
	}
	if r := s.Recovery; r != nil {
		fmt.Fprintf(&b, "\nrecovery %d PGs are being filled: %d of their %d objects are missing", r.PGs, r.Missing, r.Objects)
		if r.PerSec > 0 {
			fmt.Fprintf(&b, ", %d a second, about %v to go", r.PerSec, time.Duration(r.ETA)*time.Second)
		}
	}
	for _, g := range s.Growing {
		fmt.Fprintf(&b, "\ngrowing  pool %s has %d of %d PGs", g.Pool, g.PGNum, g.Target)
	}
	fmt.Fprintf(&b, "\nmaps     osd %d, fs %d; %d instances fenced\n", s.OSDEpoch, s.FSEpoch, s.Fenced)
	return b.String()
}

// SizeText writes a number of bytes for people.
func SizeText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	x, i := float64(n), 0
	for x >= 1024 && i < len(units)-1 {
		x /= 1024
		i++
	}
	return fmt.Sprintf("%.4g %s", x, units[i])
}
