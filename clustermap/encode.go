package clustermap

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// Limits of decoded maps.
const (
	maxPools   = 4096
	maxPGs     = 1 << 20
	maxPGNum   = 1 << 16
	maxOSDs    = 1 << 16
	maxBlocked = 1 << 20
	maxMembers = 64
	maxRanks   = 4096
	maxMons    = 64
	maxString  = 1024
)

// Encoded maps are lists in a fixed order, so equal maps have equal bytes.
type osdMapRecord struct {
	_msgpack  struct{} `msgpack:",as_array"`
	Epoch     wire.Epoch
	Cluster   wire.UUID
	Crush     crush.Map
	Pools     []Pool
	OSDs      []OSD
	PGs       []pgRecord
	Blocklist []blockRecord
	Full      bool
	NearFull  bool
}

// WireVersion: 2 since pools say how many PGs they are to have.
func (*osdMapRecord) WireVersion() byte { return 2 }

type pgRecord struct {
	_msgpack struct{} `msgpack:",as_array"`
	PG       wire.PGID
	Config   PGConfig
}

type blockRecord struct {
	_msgpack struct{} `msgpack:",as_array"`
	Instance wire.Instance
	Entry    BlockEntry
}

type fsMapRecord struct {
	_msgpack     struct{} `msgpack:",as_array"`
	Epoch        wire.Epoch
	MetaPool     uint32
	DataPool     uint32
	Ranks        []rankRecord
	Standbys     []DaemonInfo
	NextInoRange uint64
	MaxRanks     uint32
}

type rankRecord struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     wire.Rank
	Info     RankInfo
}

func compareInstance(a, b wire.Instance) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Num, b.Num), cmp.Compare(a.Nonce, b.Nonce))
}

func encode(rec any) []byte {
	b, err := wire.Append(nil, rec)
	must.NoErr(err, "encode map")
	return b
}

// Encode gives the bytes of m; equal maps have equal bytes.
func (m *OSDMap) Encode() []byte {
	rec := osdMapRecord{Epoch: m.Epoch, Cluster: m.Cluster, Crush: m.Crush, Full: m.Full, NearFull: m.NearFull}
	for _, id := range slices.Sorted(maps.Keys(m.Pools)) {
		rec.Pools = append(rec.Pools, m.Pools[id])
	}
	for _, id := range m.OSDIDs() {
		rec.OSDs = append(rec.OSDs, m.OSDs[id])
	}
	for _, pg := range m.PGIDs() {
		rec.PGs = append(rec.PGs, pgRecord{PG: pg, Config: m.PGs[pg]})
	}
	for _, i := range m.BlockedInstances() {
		rec.Blocklist = append(rec.Blocklist, blockRecord{Instance: i, Entry: m.Blocklist[i]})
	}
	return encode(&rec)
}

// BlockedInstances lists the fenced instances in a fixed order.
func (m *OSDMap) BlockedInstances() []wire.Instance {
	return slices.SortedFunc(maps.Keys(m.Blocklist), compareInstance)
}

// DecodeOSDMap reads what Encode wrote and checks it.
func DecodeOSDMap(b []byte) (*OSDMap, error) {
	var rec osdMapRecord
	if err := wire.Unmarshal(b, &rec); err != nil {
		return nil, fmt.Errorf("osdmap: %w", err)
	}
	m := (&OSDMap{Epoch: rec.Epoch, Cluster: rec.Cluster, Crush: rec.Crush, Full: rec.Full, NearFull: rec.NearFull}).Clone()
	for _, p := range rec.Pools {
		m.Pools[p.ID] = p
	}
	for _, o := range rec.OSDs {
		m.OSDs[o.ID] = o
	}
	for _, r := range rec.PGs {
		m.PGs[r.PG] = r.Config
	}
	for _, r := range rec.Blocklist {
		m.Blocklist[r.Instance] = r.Entry
	}
	if len(m.Pools) != len(rec.Pools) || len(m.OSDs) != len(rec.OSDs) || len(m.PGs) != len(rec.PGs) || len(m.Blocklist) != len(rec.Blocklist) {
		return nil, fmt.Errorf("osdmap %d: something is listed twice", m.Epoch)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	return m, nil
}

// Equal compares everything.
func (m *OSDMap) Equal(n *OSDMap) bool {
	return m == n || m != nil && n != nil && m.Epoch == n.Epoch && bytes.Equal(m.Encode(), n.Encode())
}

// Check verifies what every holder of a map relies on.
func (m *OSDMap) Check() error {
	if len(m.Pools) > maxPools || len(m.OSDs) > maxOSDs || len(m.PGs) > maxPGs || len(m.Blocklist) > maxBlocked {
		return fmt.Errorf("osdmap %d: too large", m.Epoch)
	}
	if err := m.Crush.Check(); err != nil {
		return fmt.Errorf("osdmap %d: %w", m.Epoch, err)
	}
	pgs := uint64(0) // that there are, and that there will be
	for id, p := range m.Pools {
		if pgs += uint64(max(p.PGNum, p.PGTarget)); pgs > maxPGs {
			return fmt.Errorf("osdmap %d: more than %d PGs", m.Epoch, maxPGs)
		}
		if p.PGTarget > maxPGNum || p.PGTarget != 0 && !p.Grows() {
			return fmt.Errorf("osdmap %d: pool %q of %d PGs, to become %d, makes no sense", m.Epoch, p.Name, p.PGNum, p.PGTarget)
		}
		if p.ID != id || p.Size < 1 || p.Size > maxMembers || p.MinSize < 1 || p.MinSize > p.Size || p.PGNum < 1 || p.PGNum > maxPGNum || len(p.Name) > maxString {
			return fmt.Errorf("osdmap %d: pool %d %q: size %d, min_size %d, pg_num %d make no sense", m.Epoch, id, p.Name, p.Size, p.MinSize, p.PGNum)
		}
	}
	for id, o := range m.OSDs {
		if o.ID != id || id < 0 || id >= maxOSDs || o.BootEpoch > m.Epoch || len(o.Addr) > maxString || o.Reweight > crush.One {
			return fmt.Errorf("osdmap %d: entry of osd.%d makes no sense", m.Epoch, id)
		}
	}
	for pg, c := range m.PGs {
		if pg.Num >= m.Pools[pg.Pool].PGNum {
			return fmt.Errorf("osdmap %d: pg %v is of no pool", m.Epoch, pg)
		}
		if err := c.Check(); err != nil {
			return fmt.Errorf("osdmap %d: pg %v: %w", m.Epoch, pg, err)
		}
	}
	for i, e := range m.Blocklist {
		if e.Since > m.Epoch || len(e.Reason) > maxString {
			return fmt.Errorf("osdmap %d: blocklist entry of %v makes no sense", m.Epoch, i)
		}
	}
	return nil
}

// Check verifies one configuration: S is not empty, nobody is in it twice, the primary is of it.
func (c *PGConfig) Check() error {
	if c.Interval == 0 || len(c.InSync) == 0 || len(c.InSync) > maxMembers || len(c.Learners) > maxMembers {
		return fmt.Errorf("interval %d with %d members and %d learners makes no sense", c.Interval, len(c.InSync), len(c.Learners))
	}
	all := slices.Concat(c.InSync, c.Learners)
	for i, mb := range all {
		if mb.ID < 0 || slices.Contains(all[:i], mb) {
			return fmt.Errorf("interval %d: osd.%d is there twice", c.Interval, mb.ID)
		}
	}
	if _, ok := c.PrimaryMember(); !ok && c.Primary != wire.NoOSD {
		return fmt.Errorf("interval %d: primary osd.%d is not in sync", c.Interval, c.Primary)
	}
	return nil
}

// Encode gives the bytes of m.
func (m *FSMap) Encode() []byte {
	rec := fsMapRecord{Epoch: m.Epoch, MetaPool: m.MetaPool, DataPool: m.DataPool, NextInoRange: m.NextInoRange, MaxRanks: m.MaxRanks}
	for _, r := range slices.Sorted(maps.Keys(m.Ranks)) {
		rec.Ranks = append(rec.Ranks, rankRecord{Rank: r, Info: m.Ranks[r]})
	}
	for _, i := range slices.SortedFunc(maps.Keys(m.Standbys), compareInstance) {
		rec.Standbys = append(rec.Standbys, m.Standbys[i])
	}
	return encode(&rec)
}

// DecodeFSMap reads what Encode wrote and checks it.
func DecodeFSMap(b []byte) (*FSMap, error) {
	var rec fsMapRecord
	if err := wire.Unmarshal(b, &rec); err != nil {
		return nil, fmt.Errorf("fsmap: %w", err)
	}
	m := (&FSMap{Epoch: rec.Epoch, MetaPool: rec.MetaPool, DataPool: rec.DataPool, NextInoRange: rec.NextInoRange, MaxRanks: rec.MaxRanks}).Clone()
	if len(rec.Ranks) > maxRanks || len(rec.Standbys) > maxRanks || rec.MaxRanks > wire.MaxRanks {
		return nil, fmt.Errorf("fsmap %d: too large", m.Epoch)
	}
	for _, r := range rec.Ranks {
		if _, dup := m.Ranks[r.Rank]; dup || r.Rank < 0 || r.Rank >= wire.MaxRanks || r.Info.State > RankDamaged || r.Info.Assigned > m.Epoch {
			return nil, fmt.Errorf("fsmap %d: entry of rank %d makes no sense", m.Epoch, r.Rank)
		}
		m.Ranks[r.Rank] = r.Info
	}
	for _, d := range rec.Standbys {
		m.Standbys[d.Instance] = d
	}
	if len(m.Standbys) != len(rec.Standbys) {
		return nil, fmt.Errorf("fsmap %d: a standby is listed twice", m.Epoch)
	}
	return m, nil
}

// Clone is a copy whose maps may be changed.
func (m *FSMap) Clone() *FSMap {
	n := *m
	n.Ranks, n.Standbys = maps.Clone(m.Ranks), maps.Clone(m.Standbys)
	if n.Ranks == nil {
		n.Ranks = map[wire.Rank]RankInfo{}
	}
	if n.Standbys == nil {
		n.Standbys = map[wire.Instance]DaemonInfo{}
	}
	return &n
}

// Equal compares everything.
func (m *FSMap) Equal(n *FSMap) bool {
	return m == n || m != nil && n != nil && bytes.Equal(m.Encode(), n.Encode())
}

// Holder is the rank that instance i holds; false: none.
func (m *FSMap) Holder(i wire.Instance) (wire.Rank, RankInfo, bool) {
	for _, r := range slices.Sorted(maps.Keys(m.Ranks)) {
		if in := m.Ranks[r]; in.Daemon.Instance == i && !i.IsZero() {
			return r, in, true
		}
	}
	return wire.NoRank, RankInfo{}, false
}

// Encode gives the bytes of m.
func (m *MonMap) Encode() []byte { return encode(m) }

// DecodeMonMap reads what Encode wrote.
func DecodeMonMap(b []byte) (*MonMap, error) {
	m := &MonMap{}
	if err := wire.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("monmap: %w", err)
	}
	if len(m.Mons) > maxMons {
		return nil, fmt.Errorf("monmap %d: %d monitors are too many", m.Epoch, len(m.Mons))
	}
	return m, nil
}

// ByName finds a monitor.
func (m *MonMap) ByName(name string) (MonInfo, bool) {
	i := slices.IndexFunc(m.Mons, func(in MonInfo) bool { return in.Name == name })
	if i < 0 {
		return MonInfo{}, false
	}
	return m.Mons[i], true
}

var rankStateNames = [...]string{"none", "boot", "standby", "creating", "replay", "resolve", "reconnect", "rejoin", "clientreplay", "active", "stopping", "stopped", "failed", "damaged"}

func (s RankState) String() string {
	if int(s) < len(rankStateNames) {
		return rankStateNames[s]
	}
	return fmt.Sprintf("rankstate%d", uint8(s))
}
