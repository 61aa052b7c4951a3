package crush

import "fmt"

// Check verifies that m is a forest of known types within the limits; a map from a peer or a
// disk is used only after it.
func (m *Map) Check() error {
	if len(m.Devices) > maxDevices || len(m.Buckets) > maxBuckets || len(m.Rules) > maxRules || len(m.Exceptions) > maxExceptions {
		return fmt.Errorf("crush: map with %d devices, %d buckets, %d rules, %d exceptions is too large", len(m.Devices), len(m.Buckets), len(m.Rules), len(m.Exceptions))
	}
	types := make(map[int32]Type, len(m.Devices)+len(m.Buckets))
	for i, d := range m.Devices {
		if d.ID < 0 || d.ID >= maxDevices || i > 0 && m.Devices[i-1].ID >= d.ID {
			return fmt.Errorf("crush: device ids out of order or range at osd.%d", d.ID)
		}
		if d.Weight > MaxWeight {
			return fmt.Errorf("crush: osd.%d: weight %d is too large", d.ID, d.Weight)
		}
		types[d.ID] = OSD
	}
	names := make(map[string]bool, len(m.Buckets))
	for _, b := range m.Buckets {
		if b.ID >= Hole || b.Type == OSD || b.Type > Root || b.Name == "" {
			return fmt.Errorf("crush: bucket %d %q of type %v makes no sense", b.ID, b.Name, b.Type)
		}
		if _, dup := types[b.ID]; dup || names[b.Name] {
			return fmt.Errorf("crush: bucket %d %q is there twice", b.ID, b.Name)
		}
		types[b.ID], names[b.Name] = b.Type, true
	}
	parent := make(map[int32]string, len(types))
	for _, b := range m.Buckets {
		for _, it := range b.Items {
			t, ok := types[it]
			if !ok {
				return fmt.Errorf("crush: %v %q holds unknown item %d", b.Type, b.Name, it)
			}
			if t >= b.Type { // with one parent each this excludes cycles
				return fmt.Errorf("crush: %v %q holds a %v", b.Type, b.Name, t)
			}
			if p, dup := parent[it]; dup {
				return fmt.Errorf("crush: item %d is in %q and in %q", it, p, b.Name)
			}
			parent[it] = b.Name
		}
	}
	for _, r := range m.Rules {
		if err := r.check(names); err != nil {
			return err
		}
	}
	for i, e := range m.Exceptions {
		if i > 0 && m.Exceptions[i-1].X > e.X {
			return fmt.Errorf("crush: exceptions out of order at %#x", e.X)
		}
	}
	return nil
}

func (r *Rule) check(buckets map[string]bool) error {
	if r.Name == "" || len(r.Steps) > maxSteps {
		return fmt.Errorf("crush: rule %q with %d steps makes no sense", r.Name, len(r.Steps))
	}
	for i, s := range r.Steps {
		switch {
		case s.Kind < Take || s.Kind > Emit, s.Type > Root, s.N < -maxReplicas, s.N > maxReplicas,
			s.Kind == Choose && s.Type == OSD:
			return fmt.Errorf("crush: rule %q: step %d makes no sense", r.Name, i)
		case s.Kind == Take && !buckets[s.Bucket]:
			return fmt.Errorf("crush: rule %q takes unknown bucket %q", r.Name, s.Bucket)
		}
	}
	return nil
}
