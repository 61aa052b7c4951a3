package clustermap

import (
	"fmt"
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// osdDelta is what changed between two OSDMaps, in whole entries: its size follows the
// change and not the map. It may span any number of epochs.
type osdDelta struct {
	_msgpack  struct{} `msgpack:",as_array"`
	From, To  wire.Epoch
	Cluster   wire.UUID
	Crush     *crush.Map // nil: as before
	Pools     []Pool
	PoolsGone []uint32
	OSDs      []OSD
	OSDsGone  []wire.OSDID
	PGs       []pgRecord
	PGsGone   []wire.PGID
	Block     []blockRecord
	Unblock   []wire.Instance
	Full      bool
	NearFull  bool
}

// WireVersion: as osdMapRecord's.
func (*osdDelta) WireVersion() byte { return 2 }

// EncodeDelta gives the bytes that turn old into m.
func (m *OSDMap) EncodeDelta(old *OSDMap) []byte {
	d := osdDelta{From: old.Epoch, To: m.Epoch, Cluster: m.Cluster, Full: m.Full, NearFull: m.NearFull}
	if !sameCrush(&old.Crush, &m.Crush) {
		d.Crush = &m.Crush
	}
	for _, id := range slices.Sorted(maps.Keys(m.Pools)) {
		if p, ok := old.Pools[id]; !ok || p != m.Pools[id] {
			d.Pools = append(d.Pools, m.Pools[id])
		}
	}
	d.PoolsGone = gone(old.Pools, m.Pools)
	for _, id := range m.OSDIDs() {
		if o, ok := old.OSDs[id]; !ok || o != m.OSDs[id] {
			d.OSDs = append(d.OSDs, m.OSDs[id])
		}
	}
	d.OSDsGone = gone(old.OSDs, m.OSDs)
	for _, pg := range m.PGIDs() {
		c := m.PGs[pg]
		if o, ok := old.PGs[pg]; !ok || !c.Equal(o) {
			d.PGs = append(d.PGs, pgRecord{PG: pg, Config: c})
		}
	}
	d.PGsGone = gone(old.PGs, m.PGs)
	for _, i := range m.BlockedInstances() {
		if o, ok := old.Blocklist[i]; !ok || o != m.Blocklist[i] {
			d.Block = append(d.Block, blockRecord{Instance: i, Entry: m.Blocklist[i]})
		}
	}
	d.Unblock = gone(old.Blocklist, m.Blocklist)
	return encode(&d)
}

// sameCrush is cheap for maps that share their lists, as copies by Clone do.
func sameCrush(a, b *crush.Map) bool {
	return slices.Equal(a.Devices, b.Devices) && slices.Equal(a.Exceptions, b.Exceptions) &&
		slices.EqualFunc(a.Buckets, b.Buckets, func(x, y crush.Bucket) bool {
			return x.ID == y.ID && x.Type == y.Type && x.Name == y.Name && slices.Equal(x.Items, y.Items)
		}) &&
		slices.EqualFunc(a.Rules, b.Rules, func(x, y crush.Rule) bool { return x.Name == y.Name && slices.Equal(x.Steps, y.Steps) })
}

func gone[K comparable, V any](old, now map[K]V) []K {
	var ks []K
	for k := range old {
		if _, ok := now[k]; !ok {
			ks = append(ks, k)
		}
	}
	slices.SortFunc(ks, func(a, b K) int { return compareText(fmt.Sprint(a), fmt.Sprint(b)) })
	return ks
}

func compareText(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// ApplyDelta gives the map that the delta was made for; old must be the one it starts from.
func (m *OSDMap) ApplyDelta(b []byte) (*OSDMap, error) {
	var d osdDelta
	if err := wire.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("osdmap delta: %w", err)
	}
	if d.From != m.Epoch || d.To < d.From {
		return nil, fmt.Errorf("osdmap delta %d..%d: the map here is %d", d.From, d.To, m.Epoch)
	}
	n := m.Clone()
	n.Epoch, n.Cluster, n.Full, n.NearFull = d.To, d.Cluster, d.Full, d.NearFull
	if d.Crush != nil {
		n.Crush = *d.Crush
	}
	put(n.Pools, d.Pools, func(p Pool) (uint32, Pool) { return p.ID, p })
	put(n.OSDs, d.OSDs, func(o OSD) (wire.OSDID, OSD) { return o.ID, o })
	put(n.PGs, d.PGs, func(r pgRecord) (wire.PGID, PGConfig) { return r.PG, r.Config })
	put(n.Blocklist, d.Block, func(r blockRecord) (wire.Instance, BlockEntry) { return r.Instance, r.Entry })
	remove(n.Pools, d.PoolsGone)
	remove(n.OSDs, d.OSDsGone)
	remove(n.PGs, d.PGsGone)
	remove(n.Blocklist, d.Unblock)
	if err := n.Check(); err != nil {
		return nil, err
	}
	return n, nil
}

func put[K comparable, V, R any](m map[K]V, rs []R, kv func(R) (K, V)) {
	for _, r := range rs {
		k, v := kv(r)
		m[k] = v
	}
}

func remove[K comparable, V any](m map[K]V, ks []K) {
	for _, k := range ks {
		delete(m, k)
	}
}
