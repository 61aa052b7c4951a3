package crush

import (
	"fmt"
	"slices"
)

// Type is the level of a bucket in the hierarchy; a bucket holds lower types only.
type Type uint8

// Types, leaves first.
const (
	OSD Type = iota
	Host
	Rack
	Zone
	Root
)

var typeNames = [...]string{"osd", "host", "rack", "zone", "root"}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type%d", uint8(t))
}

// One is the weight 1.0 in 16.16 fixed point: by custom one TiB, or a device that takes all
// of its share when it is a reweight.
const One = 1 << 16

// Limits that decoding keeps, so that a damaged map cannot make a monitor or client compute
// for ever.
const (
	MaxWeight     = 1 << 30
	maxDevices    = 1 << 16
	maxBuckets    = 1 << 16
	maxRules      = 256
	maxSteps      = 16
	maxExceptions = 1 << 20
	maxReplicas   = 32
)

// Map is the hierarchy and the rules. It is a value: With… methods return a changed copy and
// whoever holds the old one keeps it.
type Map struct {
	_msgpack   struct{} `msgpack:",as_array"`
	Devices    []Device // by id, ascending
	Buckets    []Bucket // in order of creation
	Rules      []Rule
	Exceptions []Exception // by X
}

// Device is one OSD.
type Device struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       int32
	Weight   uint32 // 16.16
	Class    string // "ssd", "hdd", or empty
}

// Bucket is a group of devices or of buckets of lower types.
type Bucket struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID       int32    // negative
	Type     Type
	Name     string
	Items    []int32 // device ids and bucket ids
}

// StepKind is what a step of a rule does.
type StepKind uint8

// Steps of a rule.
const (
	Take       StepKind = iota + 1 // Bucket by name, of one Class or all
	Choose                         // N buckets of Type below each taken one
	ChooseLeaf                     // N buckets of Type and one device below each
	Emit                           // what was chosen goes out
)

// Step is one step of a rule. N 0 means as many as replicas are asked for; below 0, so many less.
type Step struct {
	_msgpack struct{} `msgpack:",as_array"`
	Kind     StepKind
	Bucket   string
	Class    string
	N        int32
	Type     Type
	Indep    bool // places keep their position when another fails, leaving a hole (-1)
}

// Rule is a list of steps.
type Rule struct {
	_msgpack struct{} `msgpack:",as_array"`
	Name     string
	Steps    []Step
}

// Exception puts device To in the place of From for one X, when the rule chose From, and
// neither chose To nor is To refused by its reweight.
type Exception struct {
	_msgpack struct{} `msgpack:",as_array"`
	X        uint64
	From, To int32
}

// Hole is what Place leaves at a position of an indep rule that nobody can fill.
const Hole = -1

// Replicated is the usual rule: n devices below root on distinct buckets of type domain.
func Replicated(name, root, class string, domain Type) Rule {
	return Rule{Name: name, Steps: []Step{
		{Kind: Take, Bucket: root, Class: class}, {Kind: ChooseLeaf, Type: domain}, {Kind: Emit}}}
}

// Location says where a device stands; empty levels are left out. Root and Host must be named.
type Location struct {
	Root, Zone, Rack, Host string
}

func (m *Map) clone() Map {
	n := Map{Devices: slices.Clone(m.Devices), Buckets: slices.Clone(m.Buckets), Rules: slices.Clone(m.Rules), Exceptions: slices.Clone(m.Exceptions)}
	for i := range n.Buckets {
		n.Buckets[i].Items = slices.Clone(n.Buckets[i].Items)
	}
	return n
}

// Device returns the device with this id.
func (m *Map) Device(id int32) (Device, bool) {
	i, ok := m.device(id)
	if !ok {
		return Device{}, false
	}
	return m.Devices[i], true
}

func (m *Map) device(id int32) (int, bool) {
	return slices.BinarySearchFunc(m.Devices, id, func(d Device, id int32) int { return int(d.ID) - int(id) })
}

func (m *Map) bucketNamed(name string) int {
	return slices.IndexFunc(m.Buckets, func(b Bucket) bool { return b.Name == name })
}

// Rule returns the rule with this name.
func (m *Map) Rule(name string) (Rule, bool) {
	i := slices.IndexFunc(m.Rules, func(r Rule) bool { return r.Name == name })
	if i < 0 {
		return Rule{}, false
	}
	return m.Rules[i], true
}

// Parent is the bucket that holds item, a device or a bucket.
func (m *Map) Parent(item int32) (Bucket, bool) {
	i := slices.IndexFunc(m.Buckets, func(b Bucket) bool { return slices.Contains(b.Items, item) })
	if i < 0 {
		return Bucket{}, false
	}
	return m.Buckets[i], true
}

// WithDevice adds d at loc, or moves and changes it when it is known; buckets that loc names
// are made where they are missing.
func (m *Map) WithDevice(d Device, loc Location) (Map, error) {
	n := m.clone()
	if i, ok := n.device(d.ID); ok {
		n.Devices[i] = d
		n.unlink(d.ID)
	} else {
		n.Devices = slices.Insert(n.Devices, i, d)
	}
	child := d.ID
	for _, l := range []struct {
		t    Type
		name string
	}{{Host, loc.Host}, {Rack, loc.Rack}, {Zone, loc.Zone}, {Root, loc.Root}} {
		if l.name == "" {
			continue
		}
		i := n.bucketNamed(l.name)
		if i < 0 {
			n.Buckets = append(n.Buckets, Bucket{ID: n.freshID(), Type: l.t, Name: l.name})
			i = len(n.Buckets) - 1
		}
		b := &n.Buckets[i]
		if b.Type != l.t {
			return Map{}, fmt.Errorf("crush: place osd.%d: %q is a %v, not a %v", d.ID, l.name, b.Type, l.t)
		}
		if !slices.Contains(b.Items, child) {
			n.unlink(child)
			b.Items = append(b.Items, child)
		}
		child = b.ID
	}
	return n, n.Check()
}

// WithoutDevice removes a device and every bucket that is empty without it, roots excepted.
func (m *Map) WithoutDevice(id int32) Map {
	n := m.clone()
	if i, ok := n.device(id); ok {
		n.Devices = slices.Delete(n.Devices, i, i+1)
	}
	n.unlink(id)
	for {
		i := slices.IndexFunc(n.Buckets, func(b Bucket) bool { return len(b.Items) == 0 && b.Type != Root })
		if i < 0 {
			return n
		}
		n.unlink(n.Buckets[i].ID)
		n.Buckets = slices.Delete(n.Buckets, i, i+1)
	}
}

// WithRule adds a rule or replaces the one of that name.
func (m *Map) WithRule(r Rule) Map {
	n := m.clone()
	if i := slices.IndexFunc(n.Rules, func(o Rule) bool { return o.Name == r.Name }); i >= 0 {
		n.Rules[i] = r
	} else {
		n.Rules = append(n.Rules, r)
	}
	return n
}

// WithRoot makes an empty root, for rules that are written before the first device comes.
func (m *Map) WithRoot(name string) Map {
	n := m.clone()
	if n.bucketNamed(name) < 0 {
		n.Buckets = append(n.Buckets, Bucket{ID: n.freshID(), Type: Root, Name: name})
	}
	return n
}

// WithException adds a substitution; From == To takes those of From at x away.
func (m *Map) WithException(e Exception) Map {
	n := m.clone()
	n.Exceptions = slices.DeleteFunc(n.Exceptions, func(o Exception) bool { return o.X == e.X && o.From == e.From })
	if e.From != e.To {
		i, _ := slices.BinarySearchFunc(n.Exceptions, e.X, compareX)
		n.Exceptions = slices.Insert(n.Exceptions, i, e)
	}
	return n
}

func (m *Map) unlink(item int32) {
	for i := range m.Buckets {
		b := &m.Buckets[i]
		b.Items = slices.DeleteFunc(b.Items, func(it int32) bool { return it == item })
	}
}

// freshID never reuses the number of a bucket that is there; straws depend on it.
func (m *Map) freshID() int32 {
	id := int32(Hole)
	for _, b := range m.Buckets {
		id = min(id, b.ID)
	}
	return id - 1
}
