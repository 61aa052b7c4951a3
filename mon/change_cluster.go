package mon

import (
	"fmt"
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/crush"
	"github.com/capstan-fs/capstan/wire"
)

// Pools and rule that every cluster begins with.
const (
	MetaPool = 1
	DataPool = 2
	RootName = "default"
	RuleName = "replicated"
)

// Bootstrap makes the cluster: the first change of all.
type Bootstrap struct {
	_msgpack struct{} `msgpack:",as_array"`
	Cluster  wire.UUID
	Size     int
	MinSize  int
	MetaPGs  uint32
	DataPGs  uint32
	Mons     []clustermap.MonInfo
}

func (c *Bootstrap) String() string { return fmt.Sprintf("bootstrap cluster %v", c.Cluster) }

func (c *Bootstrap) apply(e *edit) error {
	if e.old.OSD.Epoch != 0 {
		return refuse(EEXIST, "the cluster is there already: %v", e.old.OSD.Cluster)
	}
	m := e.osdMap()
	m.Cluster = c.Cluster
	m.Crush = m.Crush.WithRoot(RootName)
	m.Crush = m.Crush.WithRule(crush.Replicated(RuleName, RootName, "", crush.Host))
	m.Pools[MetaPool] = clustermap.Pool{ID: MetaPool, Name: "meta", Size: c.Size, MinSize: c.MinSize, PGNum: c.MetaPGs, Rule: RuleName}
	m.Pools[DataPool] = clustermap.Pool{ID: DataPool, Name: "data", Size: c.Size, MinSize: c.MinSize, PGNum: c.DataPGs, Rule: RuleName}
	if err := m.Check(); err != nil {
		return refuse(EINVAL, "%v", err)
	}
	fs := e.fsMap()
	fs.MetaPool, fs.DataPool, fs.NextInoRange, fs.MaxRanks = MetaPool, DataPool, 1, 1
	fs.Ranks[0] = clustermap.RankInfo{State: clustermap.RankNone}
	e.mon = &clustermap.MonMap{Epoch: 1, Cluster: c.Cluster, Mons: slices.Clone(c.Mons)}
	return nil
}

// MonSet adds a monitor to the MonMap or changes its addresses.
type MonSet struct {
	_msgpack struct{} `msgpack:",as_array"`
	Info     clustermap.MonInfo
}

func (c *MonSet) String() string { return "set address of monitor " + c.Info.Name }

func (c *MonSet) apply(e *edit) error {
	old := e.old.Mon
	n := &clustermap.MonMap{Epoch: old.Epoch + 1, Cluster: old.Cluster, Mons: slices.Clone(old.Mons)}
	i := slices.IndexFunc(n.Mons, func(in clustermap.MonInfo) bool { return in.Name == c.Info.Name })
	switch {
	case i < 0:
		n.Mons = append(n.Mons, c.Info)
	case n.Mons[i] == c.Info:
		return nil
	default:
		n.Mons[i] = c.Info
	}
	e.mon = n
	return nil
}

// PoolCreate makes a pool under the next free number.
type PoolCreate struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Size     int
	MinSize  int
	PGNum    uint32
	Rule     string
	Class    string // not empty: Rule is made for this class of devices if it is not there
}

func (c *PoolCreate) String() string { return fmt.Sprintf("create pool %q", c.Name) }

func (c *PoolCreate) apply(e *edit) error {
	id := uint32(1)
	for _, have := range slices.Sorted(maps.Keys(e.old.OSD.Pools)) {
		if e.old.OSD.Pools[have].Name == c.Name {
			return refuse(EEXIST, "pool %q exists", c.Name)
		}
		id = have + 1
	}
	_, ok := e.old.OSD.Crush.Rule(c.Rule)
	if !ok && c.Class == "" {
		return refuse(EINVAL, "no crush rule %q", c.Rule)
	}
	m := e.osdMap()
	if !ok {
		m.Crush = m.Crush.WithRule(crush.Replicated(c.Rule, RootName, c.Class, crush.Host))
	}
	m.Pools[id] = clustermap.Pool{ID: id, Name: c.Name, Size: c.Size, MinSize: c.MinSize, PGNum: c.PGNum, Rule: c.Rule}
	if err := m.Check(); err != nil {
		return refuse(EINVAL, "%v", err)
	}
	return nil
}

// Block fences an instance (rule M6). The holder of a rank loses the rank in the same change.
type Block struct {
	_msgpack struct{} `msgpack:",as_array"`
	Instance wire.Instance
	Reason   string
	Clean    bool
}

func (c *Block) String() string { return fmt.Sprintf("blocklist %v (%s)", c.Instance, c.Reason) }

func (c *Block) apply(e *edit) error {
	if c.Instance.IsZero() {
		return refuse(EINVAL, "the instance of nobody cannot be blocklisted")
	}
	if r, _, ok := e.old.FS.Holder(c.Instance); ok {
		return (&MDSFail{Rank: r, Instance: c.Instance, Reason: c.Reason}).apply(e)
	}
	e.block(c.Instance, c.Reason, c.Clean)
	return nil
}

// block fences i from this epoch on. One that is fenced stays so since its first epoch; an
// unclean end outlives a clean one.
func (e *edit) block(i wire.Instance, reason string, clean bool) {
	if len(reason) > 200 {
		reason = reason[:200]
	}
	if in, ok := e.old.OSD.Blocklist[i]; ok {
		if in.Clean && !clean {
			in.Clean, in.Reason = false, reason
			e.osdMap().Blocklist[i] = in
		}
		return
	}
	m := e.osdMap()
	m.Blocklist[i] = clustermap.BlockEntry{Since: m.Epoch, Reason: reason, Clean: clean}
}

// Unblock lets entries of clean ends go (rule M6); others never do.
type Unblock struct {
	_msgpack  struct{} `msgpack:",as_array"`
	Instances []wire.Instance
}

func (c *Unblock) String() string {
	return fmt.Sprintf("expire %d blocklist entries", len(c.Instances))
}

func (c *Unblock) apply(e *edit) error {
	for _, i := range c.Instances {
		in, ok := e.old.OSD.Blocklist[i]
		if ok && !in.Clean {
			return refuse(EPERM, "%v did not end cleanly: its entry does not expire", i)
		}
		if ok {
			delete(e.osdMap().Blocklist, i)
		}
	}
	return nil
}
