package crush

import "slices"

// maxTries bounds the attempts at one position of an indep rule.
const maxTries = 50

// Placer is a map made ready for many placements. It keeps no state between them and may be
// used by any number of goroutines.
type Placer struct {
	m       *Map
	buckets map[int32]*Bucket
	byName  map[string]int32
	classes map[string]*tree
}

// tree is the hierarchy as seen by one device class: weights of that class only.
type tree struct {
	weight map[int32]uint64           // items without weight are not in it
	below  map[int32]map[Type][]int32 // candidates of a type below a bucket, with weight
	leaves map[int32][]leaf           // devices below a bucket, and each device below itself
}

// leaf is a device ready to draw.
type leaf struct {
	id     int32
	weight uint64
}

// Placer makes m ready. It costs about as much as a thousand placements on a small map.
func (m *Map) Placer() *Placer {
	p := &Placer{m: m, buckets: make(map[int32]*Bucket, len(m.Buckets)), byName: make(map[string]int32, len(m.Buckets)), classes: map[string]*tree{}}
	for i := range m.Buckets {
		b := &m.Buckets[i]
		p.buckets[b.ID], p.byName[b.Name] = b, b.ID
	}
	for _, r := range m.Rules {
		for _, s := range r.Steps {
			if s.Kind == Take && p.classes[s.Class] == nil {
				p.classes[s.Class] = p.treeOf(s.Class)
			}
		}
	}
	return p
}

func (p *Placer) treeOf(class string) *tree {
	t := &tree{weight: map[int32]uint64{}, below: map[int32]map[Type][]int32{}, leaves: map[int32][]leaf{}}
	for _, d := range p.m.Devices {
		if (class == "" || d.Class == class) && d.Weight > 0 {
			t.weight[d.ID] = uint64(d.Weight)
			t.leaves[d.ID] = []leaf{{d.ID, uint64(d.Weight)}}
		}
	}
	for typ := Host; typ <= Root; typ++ { // children have lower types
		for i := range p.m.Buckets {
			b := &p.m.Buckets[i]
			if b.Type != typ {
				continue
			}
			below := map[Type][]int32{}
			for _, it := range b.Items {
				w := t.weight[it]
				if w == 0 {
					continue
				}
				t.weight[b.ID] += w
				t.leaves[b.ID] = append(t.leaves[b.ID], t.leaves[it]...)
				ct := OSD
				if c, ok := p.buckets[it]; ok {
					ct = c.Type
					for lt := range ct {
						below[lt] = append(below[lt], t.below[it][lt]...)
					}
				}
				below[ct] = append(below[ct], it)
			}
			t.below[b.ID] = below
		}
	}
	return t
}

// Place runs the rule for x and n replicas. Reweight is by device id: the share of its PGs
// that a device accepts, One being all; ids beyond the slice accept all. The list is shorter
// than n when there are too few domains; an indep rule leaves Holes instead.
func (m *Map) Place(rule string, x uint64, n int, reweight []uint32) []int32 {
	return m.Placer().Place(rule, x, n, reweight)
}

// Place is Map.Place, prepared.
func (p *Placer) Place(rule string, x uint64, n int, reweight []uint32) []int32 {
	r, ok := p.m.Rule(rule)
	if !ok || n <= 0 {
		return nil
	}
	q := query{p: p, x: x, n: min(n, maxReplicas), reweight: reweight}
	for _, s := range r.Steps {
		q.step(s)
	}
	out := q.out
	if len(out) > q.n {
		out = out[:q.n]
	}
	p.substitute(x, out, reweight)
	return out
}

func compareX(e Exception, x uint64) int {
	if e.X < x {
		return -1
	}
	if e.X > x {
		return 1
	}
	return 0
}

func (p *Placer) substitute(x uint64, out []int32, reweight []uint32) {
	ex := p.m.Exceptions
	i, _ := slices.BinarySearchFunc(ex, x, compareX)
	for ; i < len(ex) && ex[i].X == x; i++ {
		at := slices.Index(out, ex[i].From)
		d, ok := p.m.Device(ex[i].To)
		if at >= 0 && ok && d.Weight > 0 && !slices.Contains(out, d.ID) && accepts(x, d.ID, reweight) {
			out[at] = d.ID
		}
	}
}

// accepts draws, once for each x and device, whether the device takes the x of its reweight.
func accepts(x uint64, dev int32, reweight []uint32) bool {
	if int(dev) >= len(reweight) || reweight[dev] >= One {
		return true
	}
	return uint32(hash(x, dev, 1<<31)>>48) < reweight[dev]
}

// query is one run of a rule.
type query struct {
	p        *Placer
	x        uint64
	n        int
	reweight []uint32
	t        *tree
	work     []int32
	out      []int32
}

func (q *query) step(s Step) {
	switch s.Kind {
	case Take:
		q.t = q.p.classes[s.Class]
		q.work = []int32{q.p.byName[s.Bucket]}
	case Choose, ChooseLeaf:
		if q.t == nil {
			return
		}
		n := int(s.N)
		if n <= 0 {
			n += q.n
		}
		var next []int32
		for _, b := range q.work {
			if b == Hole && s.Indep {
				next = append(next, slices.Repeat([]int32{Hole}, max(n, 0))...)
			} else if _, ok := q.p.buckets[b]; ok && s.Indep {
				next = append(next, q.indep(b, s, n, next)...)
			} else if ok {
				next = append(next, q.firstN(b, s, n, next)...)
			}
		}
		q.work = next
	case Emit:
		for _, it := range q.work {
			if it == Hole || it >= 0 {
				q.out = append(q.out, it)
			}
		}
		q.work = nil
	}
}

// best lets every device below it draw for attempt r, and returns the longest straw as the
// candidate's: that of the device which the candidate would give x to. Straws are exponential
// variables with the devices' weights as rates, so this is as likely to be the longest of all as
// one drawn with the sum of the weights. But when a device comes, goes or changes its weight only
// its own straw changes: nothing moves but to it or from it, however many are on its host. fit:
// only devices that accept x draw. False: there is none.
func (q *query) best(it int32, r uint32, fit bool) (top straw, ok bool) {
	for _, d := range q.t.leaves[it] {
		if s := draw(q.x, d.id, r, d.weight); (!ok || s.longer(top)) && (!fit || accepts(q.x, d.id, q.reweight)) {
			top, ok = s, true
		}
	}
	top.of = it
	return top, ok
}

// gives reports whether a step puts out devices, which may refuse x.
func (s *Step) gives() bool { return s.Kind == ChooseLeaf || s.Type == OSD }

// out is what the step makes of a chosen candidate: itself, or the device that won.
func (s *Step) out(st straw) int32 {
	if s.Kind == ChooseLeaf {
		return st.item
	}
	return st.of
}

// firstN takes the n candidates with the longest straws.
func (q *query) firstN(bucket int32, s Step, n int, taken []int32) []int32 {
	k := n + len(taken) // as many are enough
	straws := make([]straw, 0, k+1)
	for _, it := range q.t.below[bucket][s.Type] {
		st, ok := q.best(it, 0, s.gives())
		if !ok || k <= 0 || len(straws) == k && !st.longer(straws[k-1]) {
			continue
		}
		i := len(straws)
		for i > 0 && st.longer(straws[i-1]) {
			i--
		}
		if straws = slices.Insert(straws, i, st); len(straws) > k {
			straws = straws[:k]
		}
	}
	var got []int32
	for _, st := range straws {
		if len(got) >= n {
			break
		}
		if it := s.out(st); !slices.Contains(taken, it) {
			got = append(got, it)
		}
	}
	return got
}

// indep gives each position straws of its own, so that a failure at one position moves
// nothing at the others.
func (q *query) indep(bucket int32, s Step, n int, taken []int32) []int32 {
	candidates := q.t.below[bucket][s.Type]
	got := slices.Repeat([]int32{Hole}, max(n, 0))
	domains := make([]int32, 0, n)
	for try := range uint32(maxTries) {
		if len(domains) >= len(candidates) {
			break
		}
		for pos := range got {
			if got[pos] != Hole {
				continue
			}
			r := 1 + uint32(pos) + try*uint32(n)
			var best straw // weight 0: none yet
			for _, it := range candidates {
				if try >= maxTries/2 && slices.Contains(domains, it) {
					continue // few are left: look among those only
				}
				if st, ok := q.best(it, r, false); ok && (best.weight == 0 || st.longer(best)) {
					best = st
				}
			}
			if best.weight == 0 || slices.Contains(domains, best.of) {
				continue
			}
			if s.gives() && !accepts(q.x, best.item, q.reweight) {
				continue // another try, when the other positions have what they had
			}
			if it := s.out(best); !slices.Contains(taken, it) {
				got[pos] = it
				domains = append(domains, best.of)
			}
		}
	}
	return got
}
