package ranksim

import (
	"fmt"
	"maps"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

// store is the objects that ranks keep, in memory; it knows what a rank asks for and no more.
type store map[wire.ObjectID]*object

type object struct {
	data []byte
	x    map[string][]byte
	omap map[string][]byte
}

func (o *object) write(off int, b []byte) {
	if n := off + len(b); n > len(o.data) {
		o.data = append(o.data, make([]byte, n-len(o.data))...)
	}
	copy(o.data[off:], b)
}

const eNOENT = 2

// apply does what a vector of operations says.
func (s store) apply(id wire.ObjectID, ops []wire.ObjOp) (errno uint32, res []wire.ObjResult, err error) {
	res = make([]wire.ObjResult, len(ops))
	for i := range ops {
		o := s[id]
		if o == nil && makes[ops[i].Kind] {
			o = &object{x: map[string][]byte{}, omap: map[string][]byte{}}
			s[id] = o
		}
		if o == nil {
			res[i].Errno = eNOENT
			return eNOENT, res, nil
		}
		if ops[i].Kind == wire.ObjRemove {
			delete(s, id)
			continue
		}
		do := kinds[ops[i].Kind]
		if do == nil {
			return 0, nil, fmt.Errorf("store: %v of %v: not known here", ops[i].Kind, id)
		}
		do(o, &ops[i], &res[i])
	}
	return 0, res, nil
}

var makes = map[wire.ObjOpKind]bool{wire.ObjCreate: true, wire.ObjSetXattr: true, wire.ObjOmapSet: true, wire.ObjWriteFull: true, wire.ObjWrite: true, wire.ObjTruncate: true}

var kinds = map[wire.ObjOpKind]func(o *object, op *wire.ObjOp, r *wire.ObjResult){
	wire.ObjCreate: func(*object, *wire.ObjOp, *wire.ObjResult) {},
	wire.ObjRead: func(o *object, op *wire.ObjOp, r *wire.ObjResult) {
		if n := uint64(len(o.data)); op.Off < n {
			r.Data = slices.Clone(o.data[op.Off:min(op.Off+op.Len, n)])
		}
	},
	wire.ObjStat:      func(o *object, _ *wire.ObjOp, r *wire.ObjResult) { r.Size = uint64(len(o.data)) },
	wire.ObjWriteFull: func(o *object, op *wire.ObjOp, _ *wire.ObjResult) { o.data = slices.Clone(op.Data) },
	wire.ObjWrite:     func(o *object, op *wire.ObjOp, _ *wire.ObjResult) { o.write(int(op.Off), op.Data) },
	wire.ObjTruncate: func(o *object, op *wire.ObjOp, _ *wire.ObjResult) {
		o.data = o.data[:min(op.Off, uint64(len(o.data)))]
	},
	wire.ObjSetXattr: func(o *object, op *wire.ObjOp, _ *wire.ObjResult) { o.x[op.Key] = slices.Clone(op.Data) },
	wire.ObjGetXattrs: func(o *object, _ *wire.ObjOp, r *wire.ObjResult) {
		for _, k := range slices.Sorted(maps.Keys(o.x)) {
			r.Pairs = append(r.Pairs, wire.KV{Key: k, Val: o.x[k]})
		}
	},
	wire.ObjOmapSet: func(o *object, op *wire.ObjOp, _ *wire.ObjResult) {
		for _, kv := range op.Pairs {
			o.omap[kv.Key] = slices.Clone(kv.Val)
		}
	},
	wire.ObjOmapRemove: func(o *object, op *wire.ObjOp, _ *wire.ObjResult) {
		for _, k := range op.Keys {
			delete(o.omap, k)
		}
	},
	wire.ObjOmapGet: func(o *object, op *wire.ObjOp, r *wire.ObjResult) {
		for _, k := range op.Keys {
			if v, ok := o.omap[k]; ok {
				r.Pairs = append(r.Pairs, wire.KV{Key: k, Val: v})
			}
		}
	},
	wire.ObjOmapRange: func(o *object, op *wire.ObjOp, r *wire.ObjResult) {
		for _, k := range slices.Sorted(maps.Keys(o.omap)) {
			if op.From != "" && k <= op.From {
				continue
			}
			if len(r.Pairs) == int(op.Max) {
				r.More = true
				break
			}
			r.Pairs = append(r.Pairs, wire.KV{Key: k, Val: o.omap[k]})
		}
	},
}
