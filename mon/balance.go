package mon

import (
	"cmp"
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// CRUSH spreads PGs like balls thrown at random: with some hundred of them the fullest OSD
// has a third more than the mean. Balance evens that out by exceptions, as Ceph's upmap
// balancer does: a PG's place on a full OSD goes to an emptier one.

// load is one OSD in the balancer's eyes.
type load struct {
	id     wire.OSDID
	weight float64 // weight × reweight
	bytes  float64
}

// ratio is how full the OSD is for its weight.
func (l *load) ratio() float64 { return l.bytes / l.weight }

// Balance proposes at most max exceptions, and those to take back, that bring every OSD
// nearer to the mean of each pool's bytes for its weight; tolerance (0.05: ±5 %) is where it
// stops. size says how many bytes a PG holds, and a PG counts at least one. PGs differ: half of
// those of a pool whose pg_num is no power of two are twice as large as the others. The domains
// of the replicas stay apart.
func Balance(m *clustermap.OSDMap, size func(wire.PGID) uint64, tolerance float64, max int) (off, on []crush.Exception) {
	off = stale(m)
	if len(off) > 0 {
		return off, nil // the next look sees the map without them
	}
	for _, id := range sortedKeys(m.Pools) {
		b := newBalancer(m, m.Pools[id], size)
		for len(on) < max {
			ex, ok := b.step(tolerance)
			if !ok {
				break
			}
			on = append(on, ex)
		}
	}
	return off, on
}

// stale lists the exceptions that have no effect any more, or put two replicas into one domain.
func stale(m *clustermap.OSDMap) (off []crush.Exception) {
	for _, ex := range m.Crush.Exceptions {
		at := m.Wanted(excepted(ex))
		if !slices.Contains(at, wire.OSDID(ex.To)) || !apart(m, at) {
			off = append(off, ex)
		}
	}
	return off
}

// withoutUnsafe is the map m, made of old, without the exceptions that put two replicas into one
// domain since: an OSD has moved to another host, a new one has come between. They go with the
// change that makes them so; the balancer, which takes the useless ones back, looks only at a
// cluster at rest, and PGs would have begun to move there.
func withoutUnsafe(old, m *clustermap.OSDMap) *clustermap.OSDMap {
	if len(m.Crush.Exceptions) == 0 || placesAlike(old, m) {
		return m
	}
	var off []crush.Exception
	for _, ex := range m.Crush.Exceptions {
		if !apart(m, m.Wanted(excepted(ex))) {
			off = append(off, ex)
		}
	}
	for _, ex := range off {
		m.Crush = m.Crush.WithException(crush.Exception{X: ex.X, From: ex.From, To: ex.From})
	}
	return m.Seal()
}

// placesAlike reports whether CRUSH wants every PG where it wanted it.
func placesAlike(a, b *clustermap.OSDMap) bool {
	return slices.Equal(a.Crush.Exceptions, b.Crush.Exceptions) && slices.Equal(a.Crush.Devices, b.Crush.Devices) && maps.Equal(a.Pools, b.Pools) &&
		slices.EqualFunc(a.Crush.Buckets, b.Crush.Buckets, func(x, y crush.Bucket) bool {
			return x.ID == y.ID && x.Type == y.Type && slices.Equal(x.Items, y.Items)
		}) &&
		maps.EqualFunc(a.OSDs, b.OSDs, func(x, y clustermap.OSD) bool { return x.In == y.In && x.Reweight == y.Reweight })
}

// excepted is the PG that an exception is about.
func excepted(ex crush.Exception) wire.PGID {
	return wire.PGID{Pool: uint32(ex.X >> 32), Num: uint32(ex.X)}
}

// apart reports whether no two of the OSDs stand on one host.
func apart(m *clustermap.OSDMap, ids []wire.OSDID) bool {
	var hosts []int32
	for _, id := range ids {
		b, ok := m.Crush.Parent(int32(id))
		if ok && slices.Contains(hosts, b.ID) {
			return false
		}
		hosts = append(hosts, b.ID)
	}
	return true
}

// balancer is one pool's load, and how it will be when what was proposed has moved.
type balancer struct {
	m     *clustermap.OSDMap
	loads []load
	at    map[wire.PGID][]wire.OSDID
	pgs   []wire.PGID
	size  func(wire.PGID) uint64
	moved map[wire.PGID]bool
	mean  float64
}

func newBalancer(m *clustermap.OSDMap, pool clustermap.Pool, size func(wire.PGID) uint64) *balancer {
	b := &balancer{m: m, at: map[wire.PGID][]wire.OSDID{}, moved: map[wire.PGID]bool{}}
	b.size = func(pg wire.PGID) uint64 { return max(size(pg), 1) }
	class := ""
	if rule, ok := m.Crush.Rule(pool.Rule); ok && len(rule.Steps) > 0 {
		class = rule.Steps[0].Class
	}
	var bytes, weight float64
	for _, d := range m.Crush.Devices {
		o, ok := m.OSDs[wire.OSDID(d.ID)]
		if ok && o.In && o.Reweight > 0 && d.Weight > 0 && (class == "" || d.Class == class) {
			w := float64(d.Weight) * float64(o.Reweight) / crush.One
			b.loads = append(b.loads, load{id: o.ID, weight: w})
			weight += w
		}
	}
	for _, pg := range m.PGIDs() {
		if pg.Pool != pool.ID {
			continue
		}
		b.pgs = append(b.pgs, pg)
		b.at[pg] = m.Wanted(pg)
		for _, id := range b.at[pg] {
			if l := b.load(id); l != nil {
				l.bytes += float64(b.size(pg))
				bytes += float64(b.size(pg))
			}
		}
	}
	if weight > 0 {
		b.mean = bytes / weight
	}
	return b
}

func (b *balancer) load(id wire.OSDID) *load {
	i := slices.IndexFunc(b.loads, func(l load) bool { return l.id == id })
	if i < 0 {
		return nil
	}
	return &b.loads[i]
}

// step finds the move that helps most from the fullest OSD that can give something away, or
// to the emptiest one that can take.
func (b *balancer) step(tolerance float64) (crush.Exception, bool) {
	order := make([]*load, len(b.loads))
	for i := range b.loads {
		order[i] = &b.loads[i]
	}
	slices.SortFunc(order, func(x, y *load) int {
		return cmp.Or(cmp.Compare(y.ratio(), x.ratio()), cmp.Compare(x.id, y.id))
	})
	for i, from := range order {
		for j := len(order) - 1; j > i; j-- {
			to := order[j]
			over, under := from.ratio()/b.mean-1, 1-to.ratio()/b.mean
			if max(over, under) <= tolerance {
				break // everybody between is nearer to the mean
			}
			if ex, ok := b.move(from, to); ok {
				return ex, true
			}
		}
	}
	return crush.Exception{}, false
}

// move picks the PG whose step from one to the other leaves the two most alike. An OSD whose
// share was cut by hand takes nothing: CRUSH may refuse the exception there.
func (b *balancer) move(from, to *load) (ex crush.Exception, ok bool) {
	if b.m.OSDs[to.id].Reweight < crush.One {
		return ex, false
	}
	// The step that makes both ratios equal.
	ideal := (from.ratio() - to.ratio()) / (1/from.weight + 1/to.weight)
	var best wire.PGID
	off := ideal // a step of 0 is off by this much
	for _, pg := range b.pgs {
		at := b.at[pg]
		k := slices.Index(at, from.id)
		if k < 0 || b.moved[pg] || slices.Contains(at, to.id) || b.excepted(pg) {
			continue
		}
		d := float64(b.size(pg)) - ideal
		if d = max(d, -d); d >= off {
			continue
		}
		next := slices.Clone(at)
		next[k] = to.id
		if !apart(b.m, next) {
			continue
		}
		best, off, ok = pg, d, true
	}
	if !ok {
		return ex, false
	}
	s := float64(b.size(best))
	from.bytes -= s
	to.bytes += s
	b.moved[best] = true
	b.at[best][slices.Index(b.at[best], from.id)] = to.id
	return crush.Exception{X: clustermap.PlaceX(best), From: int32(from.id), To: int32(to.id)}, true
}

// excepted reports whether a PG has an exception already: one each keeps it simple to see
// where a PG is, and why.
func (b *balancer) excepted(pg wire.PGID) bool {
	x := clustermap.PlaceX(pg)
	return slices.ContainsFunc(b.m.Crush.Exceptions, func(e crush.Exception) bool { return e.X == x })
}
