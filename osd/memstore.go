package osd

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

const memBlock = 4096

// MemStore is a Store in memory for tests and sim. Durability is under the test's control:
// Commit makes the oldest submitted transactions durable and calls their done, Crash loses the
// rest but for a prefix per PG that the caller's dice choose.
type MemStore struct {
	mu      sync.Mutex
	uuid    wire.UUID
	fresh   bool
	total   uint64
	cur     map[wire.PGID]*memPG
	dur     map[wire.PGID]*memPG
	pending []memTxn
	auto    chan struct{}
	closed  bool
	slow    func() bool
	torn    bool
}

type memTxn struct {
	t    *Txn
	done func(error)
	kept bool // a split has made it durable
}

type memPG struct {
	log  LogState
	meta map[string][]byte
	objs map[string]*memObj
}

type memObj struct {
	version wire.Version
	data    []byte
	blocks  []bool // which blocks hold data
	xattrs  map[string][]byte
	omap    map[string][]byte
	bad     bool            // see Damage (memstore_break.go)
	badKeys map[string]bool // of the omap, see DamageOmap
}

// NewMemStore makes an empty store whose transactions become durable by Commit only.
func NewMemStore(uuid wire.UUID) *MemStore {
	return &MemStore{uuid: uuid, fresh: true, total: 1 << 40, cur: map[wire.PGID]*memPG{}, dur: map[wire.PGID]*memPG{}}
}

// AutoCommit starts a goroutine that commits whatever is pending; it ends with Close.
func (s *MemStore) AutoCommit() *MemStore {
	s.auto = make(chan struct{}, 1)
	go func() {
		for range s.auto {
			s.Commit(-1)
		}
	}()
	return s
}

// UUID implements Store.
func (s *MemStore) UUID() wire.UUID { return s.uuid }

// Fresh implements Store.
func (s *MemStore) Fresh() bool { return s.fresh }

// Submit implements Store.
func (s *MemStore) Submit(t *Txn, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	applyMem(s.cur, t)
	s.pending = append(s.pending, memTxn{t: t, done: done})
	if s.auto != nil && !s.closed {
		select {
		case s.auto <- struct{}{}:
		default:
		}
	}
}

// Pending is how many transactions are not durable yet.
func (s *MemStore) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// Commit makes the n oldest pending transactions durable (n < 0: all) and reports each.
func (s *MemStore) Commit(n int) {
	s.mu.Lock()
	if n < 0 || n > len(s.pending) {
		n = len(s.pending)
	}
	batch := slices.Clone(s.pending[:n])
	s.pending = slices.Delete(s.pending, 0, n)
	if s.auto == nil { // a store that cannot crash needs no second copy
		for _, p := range batch {
			if !p.kept {
				applyMem(s.dur, p.t)
			}
		}
	}
	s.mu.Unlock()
	for _, p := range batch {
		p.done(nil)
	}
}

// Crash loses what was not durable. keep says, for each PG that has transactions in flight, how
// many of its n oldest survive. It returns the store as the next life opens it.
func (s *MemStore) Crash(keep func(pg wire.PGID, n int) int) *MemStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[wire.PGID]int{}
	var order []wire.PGID
	s.pending = slices.DeleteFunc(s.pending, func(p memTxn) bool { return p.kept })
	for _, p := range s.pending {
		if count[p.t.PG] == 0 {
			order = append(order, p.t.PG)
		}
		count[p.t.PG]++
	}
	left := map[wire.PGID]int{}
	for _, pg := range order {
		left[pg] = keep(pg, count[pg])
	}
	for _, p := range s.pending {
		if left[p.t.PG] > 0 {
			left[p.t.PG]--
			applyMem(s.dur, p.t)
		}
	}
	s.pending = nil
	next := NewMemStore(s.uuid)
	next.fresh, next.total, next.slow, next.torn = false, s.total, s.slow, s.torn
	next.dur = s.dur
	for id, pg := range s.dur {
		next.cur[id] = pg.clone()
	}
	s.dur = nil
	return next
}

// Split implements Store.
func (s *MemStore) Split(d *Split) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range d.Into {
		if p := s.cur[id]; p != nil && !p.empty() {
			return fmt.Errorf("pg %v is to be divided, and pg %v is there already", d.PG, id)
		}
	}
	if s.auto == nil {
		for i := range s.pending {
			if p := &s.pending[i]; p.t.PG == d.PG && !p.kept {
				applyMem(s.dur, p.t)
				p.kept = true
			}
		}
		splitMem(s.dur, d)
	}
	splitMem(s.cur, d)
	return nil
}

func splitMem(m map[wire.PGID]*memPG, d *Split) {
	p := m[d.PG]
	if p == nil {
		return
	}
	for _, id := range d.Into {
		c := &memPG{log: p.log, meta: maps.Clone(p.meta), objs: map[string]*memObj{}}
		c.log.Recs = slices.Clone(p.log.Recs)
		m[id] = c
	}
	for n, o := range p.objs {
		if to := d.Of(n); to != d.PG {
			delete(p.objs, n)
			m[to].objs[n] = o
		}
	}
	for _, id := range append([]wire.PGID{d.PG}, d.Into...) {
		for _, kv := range d.Meta {
			m[id].meta[kv.Key] = kv.Val
		}
	}
}

// SetTotal changes the size that Space reports.
func (s *MemStore) SetTotal(n uint64) { s.total = n }

// Close implements Store.
func (s *MemStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auto != nil && !s.closed {
		close(s.auto)
	}
	s.closed = true
	return nil
}

func (p *memPG) clone() *memPG {
	c := &memPG{log: p.log, meta: maps.Clone(p.meta), objs: make(map[string]*memObj, len(p.objs))}
	c.log.Recs = slices.Clone(p.log.Recs)
	for n, o := range p.objs {
		d := *o
		d.data, d.blocks = bytes.Clone(o.data), slices.Clone(o.blocks)
		d.xattrs, d.omap, d.badKeys = maps.Clone(o.xattrs), maps.Clone(o.omap), maps.Clone(o.badKeys)
		c.objs[n] = &d
	}
	return c
}

func applyMem(m map[wire.PGID]*memPG, t *Txn) {
	if t.RemovePG {
		delete(m, t.PG)
		return
	}
	p := m[t.PG]
	if p == nil {
		p = &memPG{meta: map[string][]byte{}, objs: map[string]*memObj{}}
		m[t.PG] = p
	}
	l := &p.log
	if t.ResetLog {
		l.Recs, l.Tail = nil, t.Trim
	}
	if t.Cut != nil {
		n := len(l.Recs)
		for n > 0 && t.Cut.Less(l.Recs[n-1].Version) {
			n--
		}
		l.Recs = l.Recs[:n:n]
	}
	for _, r := range t.Append {
		last := l.Tail
		if n := len(l.Recs); n > 0 {
			last = l.Recs[n-1].Version
		}
		must.Holdf(last.Less(r.Version), "pg %v: log %v then %v", t.PG, last, r.Version)
		l.Recs = append(l.Recs, r)
	}
	if t.Trim != (wire.Version{}) && !t.ResetLog {
		n := 0
		for n < len(l.Recs) && !t.Trim.Less(l.Recs[n].Version) {
			n++
		}
		l.Recs = slices.Clone(l.Recs[n:])
		l.Tail = t.Trim
	}
	if t.Committed != (wire.Version{}) {
		l.Committed = t.Committed
	}
	for i := range t.Objs {
		applyMemObj(p, &t.Objs[i])
	}
	if t.ClearMeta != "" {
		maps.DeleteFunc(p.meta, func(k string, _ []byte) bool {
			return len(k) >= len(t.ClearMeta) && k[:len(t.ClearMeta)] == t.ClearMeta
		})
	}
	for _, kv := range t.Meta {
		if kv.Val == nil {
			delete(p.meta, kv.Key)
		} else {
			p.meta[kv.Key] = kv.Val
		}
	}
}

func applyMemObj(p *memPG, ot *ObjTxn) {
	if ot.Remove {
		delete(p.objs, ot.Name)
		return
	}
	o := p.objs[ot.Name]
	if o == nil || ot.Replace {
		o = &memObj{xattrs: map[string][]byte{}, omap: map[string][]byte{}}
		p.objs[ot.Name] = o
	}
	o.version = ot.Version
	for i := range ot.Muts {
		switch m := &ot.Muts[i]; m.Kind {
		case wire.ObjWrite:
			o.resize(max(uint64(len(o.data)), m.Off+uint64(len(m.Data))))
			copy(o.data[m.Off:], m.Data)
			if len(m.Data) > 0 {
				for b := m.Off / memBlock; b <= (m.Off+uint64(len(m.Data))-1)/memBlock; b++ {
					o.blocks[b] = true
				}
			}
		case wire.ObjTruncate:
			o.resize(m.Off)
		case wire.ObjDamage:
			o.bad = o.bad || m.Len > 0
		case wire.ObjZero:
			end := min(m.Off+m.Len, uint64(len(o.data)))
			for at := m.Off; at < end; {
				b := at / memBlock
				stop := min((b+1)*memBlock, end)
				clear(o.data[at:stop])
				if at == b*memBlock && (stop == (b+1)*memBlock || stop == uint64(len(o.data))) {
					o.blocks[b] = false
				}
				at = stop
			}
		case wire.ObjSetXattr:
			o.xattrs[m.Key] = m.Data
		case wire.ObjRmXattr:
			delete(o.xattrs, m.Key)
		case wire.ObjOmapSet:
			for _, kv := range m.Pairs {
				o.omap[kv.Key] = kv.Val
				delete(o.badKeys, kv.Key)
			}
		case wire.ObjOmapRemove:
			for _, k := range m.Keys {
				delete(o.omap, k)
				delete(o.badKeys, k)
			}
		case wire.ObjOmapClear:
			clear(o.omap)
			clear(o.badKeys)
		case wire.ObjOmapDamage:
			for _, k := range m.Keys {
				o.damageKey(k)
			}
		case wire.ObjCreate:
		default:
			must.Holdf(false, "object %q: mutation of kind %v", ot.Name, m.Kind)
		}
	}
}

func (o *memObj) resize(n uint64) {
	if n == 0 {
		o.bad = false
	}
	if n < uint64(len(o.data)) {
		clear(o.data[n:])
		o.data = o.data[:n]
	} else if n > uint64(len(o.data)) {
		o.data = append(o.data, make([]byte, n-uint64(len(o.data)))...)
	}
	nb := int((n + memBlock - 1) / memBlock)
	for len(o.blocks) < nb {
		o.blocks = append(o.blocks, false)
	}
	o.blocks = o.blocks[:nb]
}

func (s *MemStore) obj(pg wire.PGID, name string) *memObj {
	if p := s.cur[pg]; p != nil {
		return p.objs[name]
	}
	return nil
}

// PGs implements Store.
func (s *MemStore) PGs() []wire.PGID {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(s.cur), comparePG)
	return slices.DeleteFunc(ids, func(id wire.PGID) bool { return s.cur[id].empty() })
}

func (p *memPG) empty() bool {
	return len(p.objs) == 0 && len(p.meta) == 0 && len(p.log.Recs) == 0 && p.log.Tail == (wire.Version{}) && p.log.Committed == (wire.Version{})
}

func comparePG(a, b wire.PGID) int {
	if a.Pool != b.Pool {
		return int(a.Pool) - int(b.Pool)
	}
	return int(a.Num) - int(b.Num)
}

// Log implements Store.
func (s *MemStore) Log(pg wire.PGID) LogState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.cur[pg]; p != nil {
		l := p.log
		l.Recs = slices.Clone(l.Recs)
		return l
	}
	return LogState{}
}

// Meta implements Store.
func (s *MemStore) Meta(pg wire.PGID, prefix string) []wire.KV {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.cur[pg]; p != nil {
		return sortedKVs(p.meta, func(k string) bool { return len(k) >= len(prefix) && k[:len(prefix)] == prefix })
	}
	return nil
}

func sortedKVs(m map[string][]byte, keep func(string) bool) []wire.KV {
	var out []wire.KV
	for k, v := range m {
		if keep == nil || keep(k) {
			out = append(out, wire.KV{Key: k, Val: v})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

// Stat implements Store.
func (s *MemStore) Stat(pg wire.PGID, name string) (ObjStat, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.obj(pg, name)
	if o == nil {
		return ObjStat{}, false
	}
	return ObjStat{Size: uint64(len(o.data)), Version: o.version, Allocated: o.allocated()}, true
}

func (o *memObj) allocated() (n uint64) {
	for _, b := range o.blocks {
		if b {
			n += memBlock
		}
	}
	return n
}

// Read implements Store.
func (s *MemStore) Read(pg wire.PGID, name string, off uint64, dst []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.obj(pg, name)
	if o == nil || off >= uint64(len(o.data)) {
		return 0, nil
	}
	if o.bad && len(dst) > 0 {
		return 0, fmt.Errorf("pg %v object %q: damaged for a test", pg, name)
	}
	return copy(dst, o.data[off:]), nil
}

// Damaged implements Store: of a damaged object every byte is bad.
func (s *MemStore) Damaged(pg wire.PGID, t *ObjTxn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.obj(pg, t.Name)
	if o == nil || !o.bad || t.Remove || t.Replace {
		return false
	}
	for i := range t.Muts {
		switch t.Muts[i].Kind {
		case wire.ObjTruncate:
			return t.Muts[i].Off > 0 // else nothing is left of it
		case wire.ObjWrite, wire.ObjZero:
			return true
		}
	}
	return false
}

// Extents implements Store.
func (s *MemStore) Extents(pg wire.PGID, name string) []wire.Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.obj(pg, name)
	if o == nil {
		return nil
	}
	var out []wire.Extent
	for i, b := range o.blocks {
		if !b {
			continue
		}
		off := uint64(i) * memBlock
		n := min(memBlock, uint64(len(o.data))-off)
		if k := len(out); k > 0 && out[k-1].Off+out[k-1].Len == off {
			out[k-1].Len += n
		} else {
			out = append(out, wire.Extent{Off: off, Len: n})
		}
	}
	return out
}

// Xattr implements Store.
func (s *MemStore) Xattr(pg wire.PGID, name, key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.obj(pg, name); o != nil {
		v, ok := o.xattrs[key]
		return v, ok
	}
	return nil, false
}

// Xattrs implements Store.
func (s *MemStore) Xattrs(pg wire.PGID, name string) []wire.KV {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.obj(pg, name); o != nil {
		return sortedKVs(o.xattrs, nil)
	}
	return nil
}

// OmapGet implements Store.
func (s *MemStore) OmapGet(pg wire.PGID, name string, keys []string) ([]wire.KV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []wire.KV
	if o := s.obj(pg, name); o != nil {
		for _, k := range keys {
			if o.badKeys[k] {
				return nil, &BadPair{Key: k, Err: errDamaged}
			}
			if v, ok := o.omap[k]; ok {
				out = append(out, wire.KV{Key: k, Val: v})
			}
		}
	}
	return out, nil
}

// OmapRange implements Store.
func (s *MemStore) OmapRange(pg wire.PGID, name, after string, limit int) ([]wire.KV, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.obj(pg, name)
	if o == nil {
		return nil, false, nil
	}
	out := sortedKVs(o.omap, func(k string) bool { return k > after })
	for i, kv := range out[:min(len(out), limit)] {
		if o.badKeys[kv.Key] {
			return out[:i], false, &BadPair{Key: kv.Key, Err: errDamaged}
		}
	}
	if len(out) > limit {
		return out[:limit], true, nil
	}
	return out, false, nil
}

// ListObjects implements Store.
func (s *MemStore) ListObjects(pg wire.PGID, after string, limit int) []wire.ObjVersion {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.cur[pg]
	if p == nil {
		return nil
	}
	var out []wire.ObjVersion
	for n, o := range p.objs {
		if n > after {
			out = append(out, wire.ObjVersion{Name: n, Version: o.version})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	if len(out) > limit {
		out = out[:limit]
	}
	return out
}

// Count implements Store.
func (s *MemStore) Count(pg wire.PGID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.cur[pg]; p != nil {
		return len(p.objs)
	}
	return 0
}

// Bytes implements Store.
func (s *MemStore) Bytes(pg wire.PGID) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.cur[pg]; p != nil {
		for _, o := range p.objs {
			n += o.allocated()
		}
	}
	return n
}

// Space implements Store.
func (s *MemStore) Space() (total, used uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.cur {
		for _, o := range p.objs {
			used += uint64(len(o.data))
		}
	}
	return s.total, used
}
