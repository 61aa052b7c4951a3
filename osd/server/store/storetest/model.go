package storetest

import (
	"bytes"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// Model holds one PG.
type Model struct {
	Objs      map[string]*Obj
	Meta      map[string][]byte
	Log       []osd.LogRec
	Tail      wire.Version
	Committed wire.Version
}

// Obj is one object of a Model.
type Obj struct {
	Data    []byte
	Version wire.Version
	Xattrs  map[string][]byte
	Omap    map[string][]byte
}

// NewModel is a PG that nobody has seen.
func NewModel() *Model { return &Model{Objs: map[string]*Obj{}, Meta: map[string][]byte{}} }

// Apply does what osd.Store's contract says.
func (m *Model) Apply(t *osd.Txn) {
	if t.RemovePG {
		*m = *NewModel()
		return
	}
	if t.ResetLog {
		m.Log, m.Tail = nil, t.Trim
	}
	if t.Cut != nil {
		m.keep(func(v wire.Version) bool { return !t.Cut.Less(v) })
	}
	m.Log = append(m.Log, t.Append...)
	if t.Trim != (wire.Version{}) {
		m.keep(func(v wire.Version) bool { return t.Trim.Less(v) })
		m.Tail = t.Trim
	}
	if t.Committed != (wire.Version{}) {
		m.Committed = t.Committed
	}
	for i := range t.Objs {
		m.applyObj(&t.Objs[i])
	}
	if t.ClearMeta != "" {
		for k := range m.Meta {
			if strings.HasPrefix(k, t.ClearMeta) {
				delete(m.Meta, k)
			}
		}
	}
	for _, kv := range t.Meta {
		if kv.Val == nil {
			delete(m.Meta, kv.Key)
		} else {
			m.Meta[kv.Key] = kv.Val
		}
	}
}

// Split divides the PG as osd.Store's contract says; ms has a Model for each PG of it.
func Split(ms map[wire.PGID]*Model, d *osd.Split) {
	p := ms[d.PG]
	for _, id := range d.Into {
		c := NewModel()
		c.Log, c.Tail, c.Committed = append([]osd.LogRec{}, p.Log...), p.Tail, p.Committed
		for k, v := range p.Meta {
			c.Meta[k] = v
		}
		ms[id] = c
	}
	for name, o := range p.Objs {
		if to := d.Of(name); to != d.PG {
			delete(p.Objs, name)
			ms[to].Objs[name] = o
		}
	}
	for _, id := range append([]wire.PGID{d.PG}, d.Into...) {
		for _, kv := range d.Meta {
			ms[id].Meta[kv.Key] = kv.Val
		}
	}
}

func (m *Model) keep(ok func(wire.Version) bool) {
	var log []osd.LogRec
	for _, r := range m.Log {
		if ok(r.Version) {
			log = append(log, r)
		}
	}
	m.Log = log
}

func (m *Model) applyObj(x *osd.ObjTxn) {
	if x.Remove {
		delete(m.Objs, x.Name)
		return
	}
	o := m.Objs[x.Name]
	if o == nil || x.Replace {
		o = &Obj{Xattrs: map[string][]byte{}, Omap: map[string][]byte{}}
		m.Objs[x.Name] = o
	}
	o.Version = x.Version
	for _, op := range x.Muts {
		switch op.Kind {
		case wire.ObjWrite:
			if end := int(op.Off) + len(op.Data); end > len(o.Data) && len(op.Data) > 0 {
				o.Data = append(o.Data, make([]byte, end-len(o.Data))...)
			}
			if len(op.Data) > 0 {
				copy(o.Data[op.Off:], op.Data)
			}
		case wire.ObjTruncate:
			if int(op.Off) < len(o.Data) {
				o.Data = append([]byte{}, o.Data[:op.Off]...)
			} else {
				o.Data = append(o.Data, make([]byte, int(op.Off)-len(o.Data))...)
			}
		case wire.ObjZero:
			if int(op.Off) < len(o.Data) {
				clear(o.Data[op.Off:min(int(op.Off+op.Len), len(o.Data))])
			}
		case wire.ObjSetXattr:
			o.Xattrs[op.Key] = op.Data
		case wire.ObjRmXattr:
			delete(o.Xattrs, op.Key)
		case wire.ObjOmapSet:
			for _, kv := range op.Pairs {
				o.Omap[kv.Key] = kv.Val
			}
		case wire.ObjOmapRemove:
			for _, k := range op.Keys {
				delete(o.Omap, k)
			}
		case wire.ObjOmapClear:
			o.Omap = map[string][]byte{}
		}
	}
}

func sorted(m map[string][]byte) []wire.KV {
	kvs := []wire.KV{}
	for k, v := range m {
		kvs = append(kvs, wire.KV{Key: k, Val: v})
	}
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs
}

func sameKVs(a, b []wire.KV) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Key != b[i].Key || !bytes.Equal(a[i].Val, b[i].Val) {
			return false
		}
	}
	return true
}

// Diff asks the store for everything about the PG and says what is not as in the model.
func (m *Model) Diff(s osd.Store, pg wire.PGID) error {
	st := s.Log(pg)
	if st.Tail != m.Tail || st.Committed != m.Committed {
		return fmt.Errorf("pg %v: tail %v committed %v, want %v %v", pg, st.Tail, st.Committed, m.Tail, m.Committed)
	}
	if len(st.Recs) != len(m.Log) {
		return fmt.Errorf("pg %v: log of %d entries, want %d", pg, len(st.Recs), len(m.Log))
	}
	for i, r := range st.Recs {
		if r.Version != m.Log[i].Version || !bytes.Equal(r.Rec, m.Log[i].Rec) {
			return fmt.Errorf("pg %v: log entry %d: %v %x, want %v %x", pg, i, r.Version, r.Rec, m.Log[i].Version, m.Log[i].Rec)
		}
	}
	if got := s.Meta(pg, ""); !sameKVs(got, sorted(m.Meta)) {
		return fmt.Errorf("pg %v: values %v, want %v", pg, got, sorted(m.Meta))
	}
	if got := s.Count(pg); got != len(m.Objs) {
		return fmt.Errorf("pg %v: counts %d objects, want %d", pg, got, len(m.Objs))
	}
	allocated := uint64(0)
	for name := range m.Objs {
		st, _ := s.Stat(pg, name)
		allocated += st.Allocated
	}
	if got := s.Bytes(pg); got != allocated {
		return fmt.Errorf("pg %v: counts %d bytes, its objects have %d", pg, got, allocated)
	}
	var want []wire.ObjVersion
	for name, o := range m.Objs {
		want = append(want, wire.ObjVersion{Name: name, Version: o.Version})
	}
	sort.Slice(want, func(i, j int) bool { return want[i].Name < want[j].Name })
	for _, page := range []int{3, 1000} {
		var got []wire.ObjVersion
		for after := ""; ; {
			part := s.ListObjects(pg, after, page)
			got = append(got, part...)
			if len(part) < page {
				break
			}
			after = part[len(part)-1].Name
		}
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("pg %v: objects by %d %v, want %v", pg, page, got, want)
		}
	}
	for name, o := range m.Objs {
		if err := o.diff(s, pg, name); err != nil {
			return fmt.Errorf("pg %v object %q: %w", pg, name, err)
		}
	}
	return nil
}

func (o *Obj) diff(s osd.Store, pg wire.PGID, name string) error {
	st, ok := s.Stat(pg, name)
	if !ok || st.Size != uint64(len(o.Data)) || st.Version != o.Version {
		return fmt.Errorf("stat %v %v, want size %d version %v", st, ok, len(o.Data), o.Version)
	}
	got := make([]byte, len(o.Data)+10)
	n, err := s.Read(pg, name, 0, got)
	if err != nil {
		return err
	}
	if !bytes.Equal(got[:n], o.Data) {
		i := 0
		for i < n && i < len(o.Data) && got[i] == o.Data[i] {
			i++
		}
		return fmt.Errorf("data differs from byte %d on (%d bytes, want %d)", i, n, len(o.Data))
	}
	if k := len(o.Data) / 3; k > 0 {
		part := make([]byte, k)
		if n, err := s.Read(pg, name, uint64(k), part); err != nil || n != k || !bytes.Equal(part, o.Data[k:2*k]) {
			return fmt.Errorf("read of %d bytes at %d: %d, %v or other bytes", k, k, n, err)
		}
	}
	at := uint64(0)
	for _, e := range s.Extents(pg, name) {
		if e.Off < at || e.Len == 0 || e.Off+e.Len > uint64(len(o.Data)) {
			return fmt.Errorf("extent %v after %d in %d bytes", e, at, len(o.Data))
		}
		if i := bytes.IndexFunc(o.Data[at:e.Off], func(r rune) bool { return r != 0 }); i >= 0 {
			return fmt.Errorf("hole %d..%d holds data", at, e.Off)
		}
		at = e.Off + e.Len
	}
	if got := s.Xattrs(pg, name); !sameKVs(got, sorted(o.Xattrs)) {
		return fmt.Errorf("xattrs %v, want %v", got, sorted(o.Xattrs))
	}
	want := sorted(o.Omap)
	for _, page := range []int{2, 1000} {
		var got []wire.KV
		for after := ""; ; {
			part, more, err := s.OmapRange(pg, name, after, page)
			if err != nil {
				return err
			}
			got = append(got, part...)
			if !more {
				break
			}
			if len(part) == 0 {
				return fmt.Errorf("omap after %q: more, but nothing", after)
			}
			after = part[len(part)-1].Key
		}
		if !sameKVs(got, want) {
			return fmt.Errorf("omap by %d %v, want %v", page, got, want)
		}
	}
	keys := []string{"no such key"}
	for _, kv := range want {
		keys = append(keys, kv.Key)
	}
	kvs, err := s.OmapGet(pg, name, keys)
	if err != nil || !sameKVs(kvs, want) {
		return fmt.Errorf("omap get %v %v, want %v", kvs, err, want)
	}
	return nil
}
