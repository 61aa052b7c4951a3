package mds

import (
	"sort"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// StoreView is a world's object store for those who may import what imports this package
// (fsck_test.go).
type StoreView struct {
	Do   func(wire.ObjectID, []wire.ObjOp) (uint32, []wire.ObjResult)
	List func(pool string) []wire.PGObject
	Cfg  Config
	Live bool
	More []Config // further ranks
}

// CheckStore is set by fsck_test.go.
var CheckStore func(t testing.TB, s StoreView) []string

// fsck has the store judged as it lies, the rank dead or at rest: nothing may be found, at
// whatever moment it died.
func (w *world) fsck(when string) {
	w.t.Helper()
	list := func(pool string) (out []wire.PGObject) {
		for k, o := range w.store {
			if name, ok := strings.CutPrefix(k, pool+"/"); ok {
				out = append(out, wire.PGObject{Name: name, Size: uint64(len(o.data))})
			}
		}
		sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
		return out
	}
	do := w.apply
	if w.between != nil {
		do = func(obj wire.ObjectID, ops []wire.ObjOp) (uint32, []wire.ObjResult) {
			w.between()
			return w.apply(obj, ops)
		}
	}
	var more []Config
	if w.rk != nil {
		for _, x := range w.rk.w[1:] {
			more = append(more, x.cfg)
		}
	}
	for _, f := range CheckStore(w.t, StoreView{do, list, w.cfg, w.between != nil, more}) {
		w.t.Errorf("fsck %s: %s", when, f)
	}
}
