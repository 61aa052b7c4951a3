package mon

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// command answers an operator. Words that show are answered from the maps; words that change
// go through raft like every other change.
func (l *Leader) command(ev Message, m *wire.MonCommand) {
	var args []string
	fail := func(errno uint32, format string, a ...any) {
		l.send(ev.From, ev.Tid, &wire.MonCommandReply{Errno: errno, Text: fmt.Sprintf(format, a...)})
	}
	if err := json.Unmarshal(m.Args, &args); err != nil || len(args) == 0 || len(args) > 16 {
		fail(EINVAL, "a command is a JSON array of words")
		return
	}
	if show := shows[strings.Join(args, " ")]; show != nil {
		b, err := json.Marshal(show(l))
		if err != nil {
			fail(EINVAL, "%v", err)
			return
		}
		l.send(ev.From, ev.Tid, &wire.MonCommandReply{JSON: b})
		return
	}
	c, err := l.parse(args)
	var ref *Refused
	switch {
	case errors.As(err, &ref):
		fail(ref.Errno, "%v", err)
		return
	case err != nil:
		fail(EINVAL, "%v", err)
		return
	}
	l.propose(c, request{to: ev.From, tid: ev.Tid, reply: func(s State, err error) wire.Message {
		if errno, text := errnoOf(err); errno != 0 {
			return &wire.MonCommandReply{Errno: errno, Text: text}
		}
		b, _ := json.Marshal(map[string]any{"done": c.String(), "osd_epoch": s.OSD.Epoch, "fs_epoch": s.FS.Epoch})
		return &wire.MonCommandReply{JSON: b}
	}})
}

// verb is a command that changes something: fixed words, then its arguments.
type verb struct {
	words string // "osd out"
	usage string // "ID"
	min   int    // arguments
	max   int
	make  func(l *Leader, args []string) (Change, error)
}

// verbs is the table; a longer match of words wins over none.
var verbs = []verb{
	{"blocklist add", "KIND.NUM/NONCE [REASON]", 1, 12, func(_ *Leader, a []string) (Change, error) {
		i, err := ParseInstance(a[0])
		return &Block{Instance: i, Reason: strings.Join(append([]string{"operator"}, a[1:]...), " ")}, err
	}},
	{"osd down", "ID", 1, 1, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		return &OSDDown{ID: o.ID, Instance: o.Instance, Reason: "operator"}, err
	}},
	{"osd out", "ID", 1, 1, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		return &OSDPlace{ID: o.ID, In: false, Reweight: o.Reweight}, err
	}},
	{"osd in", "ID", 1, 1, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		return &OSDPlace{ID: o.ID, In: true, Reweight: crush.One}, err
	}},
	{"osd reweight", "ID SHARE", 2, 2, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		f, ferr := strconv.ParseFloat(a[1], 64)
		if err == nil && (ferr != nil || f < 0 || f > 1) {
			err = fmt.Errorf("a share is a number from 0 to 1, not %q", a[1])
		}
		return &OSDPlace{ID: o.ID, In: o.In, Reweight: uint32(f * crush.One)}, err
	}},
	{"osd drain", "ID", 1, 1, (*Leader).drain},
	{"osd rm", "ID", 1, 1, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		return &OSDRemove{ID: o.ID}, err
	}},
	{"osd crush move", "ID zone=Z|rack=R|host=H …", 2, 4, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		c := &OSDCrush{ID: o.ID, Weight: -1}
		for _, w := range a[1:] {
			k, v, _ := strings.Cut(w, "=")
			to := map[string]*string{"zone": &c.Zone, "rack": &c.Rack, "host": &c.Host}[k]
			if err == nil && (to == nil || v == "") {
				err = fmt.Errorf("%q says no place: zone=NAME, rack=NAME or host=NAME", w)
			}
			if to != nil {
				*to = v
			}
		}
		return c, err
	}},
	{"osd crush weight", "ID WEIGHT", 2, 2, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		f, ferr := strconv.ParseFloat(a[1], 64)
		if err == nil && (ferr != nil || f < 0 || f > crush.MaxWeight/crush.One) {
			err = fmt.Errorf("a weight is a number from 0 to %d (1 is a TiB by custom), not %q", crush.MaxWeight/crush.One, a[1])
		}
		return &OSDCrush{ID: o.ID, Weight: int64(f * crush.One)}, err
	}},
	{"osd crush class", "ID CLASS|none", 2, 2, func(l *Leader, a []string) (Change, error) {
		o, err := l.osd(a[0])
		if a[1] == "none" {
			return &OSDCrush{ID: o.ID, Weight: -1, NoClass: true}, err
		}
		return &OSDCrush{ID: o.ID, Weight: -1, Class: a[1]}, err
	}},
	{"pool create", "NAME [size=N] [min_size=N] [pg_num=N] [class=CLASS]", 1, 5, (*Leader).poolCreate},
	{"pool set", "NAME size|min_size|pg_num N", 3, 3, func(l *Leader, a []string) (Change, error) {
		n, err := strconv.Atoi(a[2])
		c := &PoolSet{Name: a[0]}
		switch {
		case err != nil || n < 1:
			return nil, fmt.Errorf("%s is a number from 1 on, not %q", a[1], a[2])
		case a[1] == "size":
			c.Size = n
		case a[1] == "min_size":
			c.MinSize = n
		case a[1] == "pg_num":
			if n > math.MaxUint16+1 {
				return nil, fmt.Errorf("a pool has at most %d PGs", math.MaxUint16+1)
			}
			return l.setPGNum(a[0], uint32(n))
		default:
			return nil, fmt.Errorf("a pool has size, min_size and pg_num, no %q", a[1])
		}
		return c, nil
	}},
	{"fs repaired", "RANK", 1, 1, func(_ *Leader, a []string) (Change, error) {
		r, err := strconv.ParseInt(a[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("no rank %q", a[0])
		}
		return &MDSRepaired{Rank: wire.Rank(r)}, nil
	}},
	{"fs set ranks", "N", 1, 1, (*Leader).setRanks},
	{"pg give-up", "PG OSD UUID", 3, 3, func(l *Leader, a []string) (Change, error) {
		m := l.state.OSD
		for _, pg := range m.PGIDs() {
			for _, mb := range m.PGs[pg].InSync {
				if pg.String() == a[0] && strconv.Itoa(int(mb.ID)) == strings.TrimPrefix(a[1], "osd.") && mb.UUID.String() == a[2] {
					return &PGGiveUp{PG: pg, Member: mb}, nil
				}
			}
		}
		return nil, fmt.Errorf("pg %s has no member %s with store %s", a[0], a[1], a[2])
	}},
	{"pg revive", "PG OSD", 2, 2, func(l *Leader, a []string) (Change, error) {
		m := l.state.OSD
		o, err := l.osd(strings.TrimPrefix(a[1], "osd."))
		for _, pg := range m.PGIDs() {
			if pg.String() == a[0] {
				return &PGRevive{PG: pg, Interval: m.PGs[pg].Interval, Heir: clustermap.Member{ID: o.ID, UUID: o.UUID}}, err
			}
		}
		return nil, fmt.Errorf("there is no pg %s", a[0])
	}},
}

// parse reads a command that changes something.
func (l *Leader) parse(args []string) (Change, error) {
	var known []string
	for _, v := range verbs {
		words := strings.Fields(v.words)
		n := len(args) - len(words)
		if n >= 0 && slices.Equal(args[:len(words)], words) {
			if n < v.min || n > v.max {
				return nil, fmt.Errorf("usage: %s %s", v.words, v.usage)
			}
			return v.make(l, args[len(words):])
		}
		known = append(known, v.words+" "+v.usage)
	}
	return nil, fmt.Errorf("unknown command %q; known: %s, %s", strings.Join(args, " "), strings.Join(sortedKeys(shows), ", "), strings.Join(known, ", "))
}

// osd finds an OSD by its number, or by osd.N.
func (l *Leader) osd(s string) (clustermap.OSD, error) {
	id, err := strconv.ParseInt(strings.TrimPrefix(s, "osd."), 10, 32)
	o, ok := l.state.OSD.OSDs[wire.OSDID(id)]
	if err != nil || !ok {
		return o, fmt.Errorf("no OSD %q", s)
	}
	return o, nil
}

// setRanks reads how many ranks there should be. A rank that owns directories cannot stop: its
// own word decides, and what its last beacon said is told to the operator at once.
func (l *Leader) setRanks(a []string) (Change, error) {
	n, err := strconv.ParseUint(a[0], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%q is no number of ranks", a[0])
	}
	for _, d := range l.mdss.daemons {
		if r, _, holds := l.state.FS.Holder(d.info.Instance); holds && uint64(r) >= n && d.owns > 0 {
			return nil, fmt.Errorf("rank %d owns %d directories and cannot stop: `capstan fs subtrees` lists them; hand them back with `setfattr -n ceph.dir.pin -v -1 DIR`", r, d.owns)
		}
	}
	return &FSRanks{N: uint32(min(n, 1<<31))}, nil
}

// drain takes an OSD's whole share away, if enough others are left to hold the replicas.
// Unlike `osd out` it outlives a restart of the OSD.
func (l *Leader) drain(a []string) (Change, error) {
	o, err := l.osd(a[0])
	if err != nil {
		return nil, err
	}
	c := &OSDPlace{ID: o.ID, In: o.In, Reweight: 0}
	next, err := l.state.Apply(c)
	if err != nil {
		return nil, err
	}
	for _, pg := range next.OSD.PGIDs() {
		if pool := next.OSD.Pools[pg.Pool]; len(next.OSD.Wanted(pg)) < min(pool.Size, len(l.state.OSD.Wanted(pg))) {
			return nil, fmt.Errorf("pool %q wants %d replicas on as many hosts: without osd.%d there are too few; add an OSD, or lower the pool's size", pool.Name, pool.Size, o.ID)
		}
	}
	return c, nil
}

// poolCreate reads the settings of a new pool; a class gets a rule of its own.
func (l *Leader) poolCreate(a []string) (Change, error) {
	c := &PoolCreate{Name: a[0], Size: 3, PGNum: 16, Rule: RuleName}
	for _, w := range a[1:] {
		k, v, _ := strings.Cut(w, "=")
		n, err := strconv.ParseUint(v, 10, 16)
		switch k {
		case "size":
			c.Size = int(n)
		case "min_size":
			c.MinSize = int(n)
		case "pg_num":
			c.PGNum = uint32(n)
		case "class":
			c.Class, c.Rule, err = v, RuleName+"-"+v, nil
		default:
			return nil, fmt.Errorf("a pool has size, min_size, pg_num and class, no %q", k)
		}
		if err != nil || v == "" {
			return nil, fmt.Errorf("%q makes no sense", w)
		}
	}
	if c.MinSize == 0 {
		c.MinSize = c.Size/2 + 1
	}
	return c, nil
}

// ParseInstance reads what Instance.String prints.
func ParseInstance(s string) (wire.Instance, error) {
	kind, rest, _ := strings.Cut(s, ".")
	num, nonce, ok := strings.Cut(rest, "/")
	n, err1 := strconv.ParseUint(num, 10, 32)
	x, err2 := strconv.ParseUint(nonce, 16, 64)
	for k := wire.KindClient; k <= wire.KindTool; k++ {
		if ok && err1 == nil && err2 == nil && k.String() == kind {
			return wire.Instance{Kind: k, Num: uint32(n), Nonce: x}, nil
		}
	}
	return wire.Instance{}, fmt.Errorf("%q is no instance; one looks like client.7/1a2b3c", s)
}

var shows map[string]func(*Leader) any

func init() {
	shows = map[string]func(*Leader) any{
		"status":       (*Leader).showStatus,
		"osd tree":     (*Leader).showTree,
		"osd df":       (*Leader).showDF,
		"osd dump":     (*Leader).showOSDs,
		"pg dump":      (*Leader).showPGs,
		"fs dump":      (*Leader).showFS,
		"blocklist ls": (*Leader).showBlocklist,
		"pool ls":      (*Leader).showPools,
		"mon dump":     func(l *Leader) any { return l.state.Mon },
	}
}

// Status is the answer to "status".
type Status struct {
	Cluster  string   `json:"cluster"`
	Health   string   `json:"health"` // ok, warn
	Problems []string `json:"problems"`
	OSDEpoch uint64   `json:"osd_epoch"`
	FSEpoch  uint64   `json:"fs_epoch"`
	OSDs     int      `json:"osds"`
	OSDsUp   int      `json:"osds_up"`
	PGs      int      `json:"pgs"`
	PGsFull  int      `json:"pgs_full_size"` // with all replicas in sync
	Ranks    []string `json:"ranks"`
	Full     bool     `json:"full"`
	NearFull bool     `json:"nearfull"`
}

func (l *Leader) showStatus() any {
	m := l.state.OSD
	s := Status{Cluster: m.Cluster.String(), Health: "ok", OSDEpoch: uint64(m.Epoch), FSEpoch: uint64(l.state.FS.Epoch), OSDs: len(m.OSDs), PGs: len(m.PGs), Full: m.Full, NearFull: m.NearFull, Problems: []string{}}
	for _, id := range m.OSDIDs() {
		if m.OSDs[id].Up {
			s.OSDsUp++
		} else {
			s.Problems = append(s.Problems, fmt.Sprintf("osd.%d is down", id))
		}
	}
	for _, pg := range m.PGIDs() {
		cfg := m.PGs[pg]
		if len(cfg.InSync) >= m.Pools[pg.Pool].Size {
			s.PGsFull++
		}
		if n := l.pgStats[pg].Broken; n > 0 {
			s.Problems = append(s.Problems, fmt.Sprintf("pg %v: %d objects without a copy that is surely good, %q first: see `pg query`, `pg deep-scrub`, `pg repair`", pg, n, l.pgStats[pg].BrokenNames))
		}
		if w := l.waits(pg, cfg); w != "" {
			s.Problems = append(s.Problems, fmt.Sprintf("pg %v: %s", pg, w))
		}
	}
	for _, id := range sortedKeys(m.Pools) {
		if _, made := m.PGs[wire.PGID{Pool: id}]; !made {
			s.Problems = append(s.Problems, fmt.Sprintf("pool %q waits for OSDs: %d are up, %d are wanted", m.Pools[id].Name, s.OSDsUp, m.Pools[id].Size))
		}
	}
	for _, r := range sortedKeys(l.state.FS.Ranks) {
		in := l.state.FS.Ranks[r]
		if !l.state.FS.Wanted(r) {
			continue
		}
		s.Ranks = append(s.Ranks, fmt.Sprintf("%d: %v mds.%s", r, in.State, in.Daemon.Name))
		if in.State != clustermap.RankActive {
			s.Problems = append(s.Problems, fmt.Sprintf("rank %d is %v", r, in.State))
		}
	}
	if m.Full {
		s.Problems = append(s.Problems, "an OSD is full: only deletes are accepted")
	}
	if len(s.Problems) > 0 {
		s.Health = "warn"
	}
	return s
}

// waits names whom a PG waits for (L1), or is empty.
func (l *Leader) waits(pg wire.PGID, cfg clustermap.PGConfig) string {
	m := l.state.OSD
	if cfg.Primary == wire.NoOSD {
		if m.Lost(cfg) {
			mb := cfg.InSync[0]
			return fmt.Sprintf("lost: its last member was osd.%d with store %v, which is gone; bring that disk back, or see `capstan pg copies %v` and `capstan pg revive`", mb.ID, mb.UUID, pg)
		}
		var names []string
		for _, mb := range cfg.InSync {
			names = append(names, fmt.Sprintf("osd.%d", mb.ID))
		}
		return "waits for one of " + strings.Join(names, ", ")
	}
	if len(cfg.InSync) < m.Pools[pg.Pool].MinSize {
		return fmt.Sprintf("writes wait: %d in sync, min_size is %d", len(cfg.InSync), m.Pools[pg.Pool].MinSize)
	}
	if i := slices.IndexFunc(cfg.InSync, func(mb clustermap.Member) bool { return !m.IsUp(mb) }); i >= 0 {
		return fmt.Sprintf("writes wait for osd.%d, which is down and still in sync", cfg.InSync[i].ID)
	}
	return ""
}

func (l *Leader) showTree() any {
	type node struct {
		ID       int32   `json:"id"`
		Name     string  `json:"name"`
		Type     string  `json:"type"`
		Weight   float64 `json:"weight"`
		Class    string  `json:"class,omitempty"`
		Up       bool    `json:"up,omitempty"`
		Reweight float64 `json:"reweight,omitempty"`
		Children []int32 `json:"children,omitempty"`
	}
	m := l.state.OSD
	out := []node{}
	for _, b := range m.Crush.Buckets {
		out = append(out, node{ID: b.ID, Name: b.Name, Type: b.Type.String(), Children: b.Items})
	}
	for _, d := range m.Crush.Devices {
		o := m.OSDs[wire.OSDID(d.ID)]
		out = append(out, node{ID: d.ID, Name: fmt.Sprintf("osd.%d", d.ID), Type: "osd", Weight: float64(d.Weight) / crush.One, Class: d.Class, Up: o.Up, Reweight: float64(o.Reweight) / crush.One})
	}
	return out
}

func (l *Leader) showDF() any {
	type df struct {
		ID    int32  `json:"id"`
		Total uint64 `json:"total"`
		Used  uint64 `json:"used"`
		PGs   int    `json:"pgs"`
		Up    bool   `json:"up"`
	}
	out := []df{}
	for _, id := range l.state.OSD.OSDIDs() {
		o := l.state.OSD.OSDs[id]
		d := df{ID: int32(id), Total: o.Total, Used: o.Used, Up: o.Up}
		if life := l.osds[id]; life != nil && life.total != 0 {
			d.Total, d.Used = life.total, life.used
		}
		for _, cfg := range l.state.OSD.PGs {
			if cfg.Has(member(l.state.OSD, id)) {
				d.PGs++
			}
		}
		out = append(out, d)
	}
	return out
}

func (l *Leader) showOSDs() any {
	type osd struct {
		ID       int32  `json:"id"`
		UUID     string `json:"uuid"`
		Instance string `json:"instance"`
		Addr     string `json:"addr"`
		Up       bool   `json:"up"`
		In       bool   `json:"in"`
		Boot     uint64 `json:"boot_epoch"`
	}
	m := l.state.OSD
	out := struct {
		Epoch uint64            `json:"epoch"`
		Pools []clustermap.Pool `json:"pools"`
		OSDs  []osd             `json:"osds"`
		Full  bool              `json:"full"`
	}{Epoch: uint64(m.Epoch), Full: m.Full, OSDs: []osd{}}
	for _, id := range sortedKeys(m.Pools) {
		out.Pools = append(out.Pools, m.Pools[id])
	}
	for _, id := range m.OSDIDs() {
		o := m.OSDs[id]
		out.OSDs = append(out.OSDs, osd{int32(id), o.UUID.String(), o.Instance.String(), o.Addr, o.Up, o.In, uint64(o.BootEpoch)})
	}
	return out
}

func (l *Leader) showPGs() any {
	type pgRow struct {
		PG       string   `json:"pg"`
		Interval uint64   `json:"interval"`
		InSync   []int32  `json:"in_sync"`
		Learners []int32  `json:"learners"`
		Up       []int32  `json:"up_set"`
		Primary  int32    `json:"primary"`
		State    string   `json:"state"` // the primary's word, when it is of this interval
		Objects  uint64   `json:"objects"`
		Bytes    uint64   `json:"bytes"`
		Missing  uint64   `json:"missing"`
		Healed   uint64   `json:"healed"`
		Broken   uint64   `json:"broken"`
		Names    []string `json:"broken_names,omitempty"`
		Waits    string   `json:"waits,omitempty"`
	}
	ids := func(ms []clustermap.Member) []int32 {
		out := []int32{}
		for _, mb := range ms {
			out = append(out, int32(mb.ID))
		}
		return out
	}
	out := []pgRow{}
	for _, pg := range l.state.OSD.PGIDs() {
		cfg := l.state.OSD.PGs[pg]
		r := pgRow{PG: pg.String(), Interval: cfg.Interval, InSync: ids(cfg.InSync), Learners: ids(cfg.Learners), Up: []int32{}, Primary: int32(cfg.Primary), State: "unknown", Waits: l.waits(pg, cfg)}
		for _, id := range l.state.OSD.UpSet(pg) {
			r.Up = append(r.Up, int32(id))
		}
		if s, ok := l.pgStats[pg]; ok {
			r.Objects, r.Bytes, r.Missing, r.Healed, r.Broken, r.Names = s.Objects, s.Bytes, s.Missing, s.Healed, s.Broken, s.BrokenNames
			if s.Interval == cfg.Interval {
				r.State = s.State
				if r.Waits == "" {
					r.Waits = s.Waits
				}
			}
		}
		out = append(out, r)
	}
	return out
}

func (l *Leader) showFS() any {
	type rank struct {
		Rank      int32    `json:"rank"`
		State     string   `json:"state"`
		Name      string   `json:"name"`
		Instance  string   `json:"instance"`
		Addr      string   `json:"addr"`
		Wanted    bool     `json:"wanted"` // false: it has stopped, because there should be fewer
		LeaseWait bool     `json:"lease_wait"`
		FencedAt  uint64   `json:"fenced_at"`
		InoRanges []uint64 `json:"ino_ranges"`
	}
	out := struct {
		Epoch    uint64   `json:"epoch"`
		MetaPool uint32   `json:"meta_pool"`
		DataPool uint32   `json:"data_pool"`
		MaxRanks uint32   `json:"max_ranks"`
		Ranks    []rank   `json:"ranks"`
		Standbys []string `json:"standbys"`
	}{Epoch: uint64(l.state.FS.Epoch), MetaPool: l.state.FS.MetaPool, DataPool: l.state.FS.DataPool, MaxRanks: l.state.FS.MaxRanks, Ranks: []rank{}, Standbys: []string{}}
	for _, r := range sortedKeys(l.state.FS.Ranks) {
		in := l.state.FS.Ranks[r]
		out.Ranks = append(out.Ranks, rank{int32(r), in.State.String(), in.Daemon.Name, in.Daemon.Instance.String(), in.Daemon.Addr, l.state.FS.Wanted(r), in.LeaseWait, uint64(in.FencedAt), in.InoRanges})
	}
	for _, d := range sortedStandbys(l.state.FS) {
		out.Standbys = append(out.Standbys, d.Name)
	}
	return out
}

func (l *Leader) showBlocklist() any {
	type row struct {
		Instance string `json:"instance"`
		Since    uint64 `json:"since"`
		Reason   string `json:"reason"`
		Clean    bool   `json:"clean"`
	}
	out := []row{}
	for _, i := range l.state.OSD.BlockedInstances() {
		e := l.state.OSD.Blocklist[i]
		out = append(out, row{i.String(), uint64(e.Since), e.Reason, e.Clean})
	}
	return out
}

func (l *Leader) showPools() any {
	type row struct {
		Name    string `json:"name"`
		ID      uint32 `json:"id"`
		Size    int    `json:"size"`
		MinSize int    `json:"min_size"`
		PGNum   uint32 `json:"pg_num"`
		Rule    string `json:"rule"`

		PGTarget uint32 `json:"pg_num_target,omitempty"` // it is growing
		Waits    string `json:"waits,omitempty"`         // what its next step waits for
	}
	out := []row{}
	for _, id := range sortedKeys(l.state.OSD.Pools) {
		p := l.state.OSD.Pools[id]
		waits := ""
		if p.Grows() {
			if _, err := l.nextSplit(p, p.PGTarget); err != nil {
				waits = err.Error()
			}
		}
		out = append(out, row{p.Name, p.ID, p.Size, p.MinSize, p.PGNum, p.Rule, p.PGTarget, waits})
	}
	return out
}
