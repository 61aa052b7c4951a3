package osd

import (
	"bytes"

	"github.com/capstan-fs/capstan/wire"
)

// Linux error numbers as they travel; the core imports no operating system.
const (
	eNOENT    = 2
	eIO       = 5
	e2BIG     = 7
	eEXIST    = 17
	eINVAL    = 22
	eFBIG     = 27
	eNOSPC    = 28
	eRANGE    = 34
	eNODATA   = 61
	eCANCELED = 125
)

const maxWriteResult = 64 << 10 // data that a mutating vector may return: it is kept in the dedup table

// exec runs one vector of steps on the newest state of an object. Existence, size and xattrs
// are seen as earlier steps of the vector left them; data and omap as they were before it.
type exec struct {
	p       *pg
	name    string
	st      ObjStat
	existed bool
	exists  bool
	size    uint64
	xattrs  map[string][]byte // nil value: removed
	fresh   bool              // removed in this vector: nothing of the store shows through
	muts    []wire.ObjOp
	results []wire.ObjResult
	data    [][]byte
	errno   uint32
	aside   bool      // reads may be left for later
	later   []pending // those that were
	started Later     // by the step under way
}

// pending is a read whose bytes come later; at is where in exec.data.
type pending struct {
	at int
	l  Later
}

func (x *exec) begin(p *pg, name string) {
	x.p, x.name = p, name
	x.st, x.existed = p.o.store.Stat(p.id, name)
	x.exists, x.size = x.existed, x.st.Size
}

func (x *exec) run(ops []wire.ObjOp) {
	x.results = make([]wire.ObjResult, len(ops))
	mutates, out := false, 0
	for i := range ops {
		mutates = mutates || ops[i].Kind.Mutates()
	}
	limit := wire.MaxOpData
	if mutates {
		limit = maxWriteResult
	}
	for i := range ops {
		r := &x.results[i]
		e := x.step(&ops[i], r)
		n := len(r.Data)
		if x.started != nil {
			n = x.started.Len()
			x.later = append(x.later, pending{len(x.data), x.started})
			x.started = nil
		}
		if e == 0 && n > 0 {
			if out += n; out > limit {
				e = e2BIG
			} else {
				r.DataLen = uint32(n)
				x.data = append(x.data, r.Data)
			}
		}
		if e != 0 {
			r.Errno, x.errno = e, e
			x.muts = nil
			for _, y := range x.later {
				y.l.Drop()
			}
			x.later = nil
			return
		}
	}
}

func (x *exec) mut(m wire.ObjOp) {
	x.exists = true
	x.muts = append(x.muts, m)
}

func (x *exec) step(op *wire.ObjOp, r *wire.ObjResult) uint32 {
	st, id := x.p.o.store, x.p.id
	switch op.Kind {
	case wire.ObjRead:
		if !x.exists {
			return eNOENT
		}
		if x.fresh || op.Off >= x.st.Size {
			return 0
		}
		n := min(op.Len, x.st.Size-op.Off)
		if n > wire.MaxOpData {
			return e2BIG
		}
		if x.aside {
			b, l, err := st.Start(id, x.name, op.Off, n, x.p.o.cfg.Buffer)
			if err != nil {
				return eIO
			}
			r.Data, x.started = b, l
			return 0
		}
		b := x.p.o.cfg.Buffer(int(n))
		k, err := st.Read(id, x.name, op.Off, b)
		if err != nil {
			return eIO
		}
		r.Data = b[:k]
	case wire.ObjStat:
		if !x.exists {
			return eNOENT
		}
		r.Size, r.Allocated, r.Version = x.size, x.st.Allocated, x.st.Version
	case wire.ObjExtents:
		if !x.exists {
			return eNOENT
		}
		r.Size = x.size
		if !x.fresh {
			r.Data = wire.PutExtents(clip(st.Extents(id, x.name), op.Off, op.Len))
		}
	case wire.ObjWrite, wire.ObjAppend:
		off := op.Off
		if op.Kind == wire.ObjAppend {
			off = x.size
		}
		end := off + uint64(len(op.Data))
		if end < off || end > wire.MaxObjectBytes {
			return eFBIG
		}
		x.mut(wire.ObjOp{Kind: wire.ObjWrite, Off: off, DataLen: uint32(len(op.Data)), Data: op.Data})
		x.size = max(x.size, end)
	case wire.ObjWriteFull:
		if len(op.Data) > wire.MaxObjectBytes {
			return eFBIG
		}
		if x.size > 0 || len(op.Data) == 0 {
			x.mut(wire.ObjOp{Kind: wire.ObjTruncate})
		}
		if len(op.Data) > 0 {
			x.mut(wire.ObjOp{Kind: wire.ObjWrite, DataLen: uint32(len(op.Data)), Data: op.Data})
		}
		x.size = uint64(len(op.Data))
	case wire.ObjTruncate:
		if op.Off > wire.MaxObjectBytes {
			return eFBIG
		}
		x.mut(wire.ObjOp{Kind: wire.ObjTruncate, Off: op.Off})
		x.size = op.Off
	case wire.ObjZero:
		if !x.exists || op.Off >= x.size {
			return 0
		}
		if n := min(op.Len, x.size-op.Off); n > 0 {
			x.mut(wire.ObjOp{Kind: wire.ObjZero, Off: op.Off, Len: n})
		}
	case wire.ObjRemove:
		if !x.exists {
			return eNOENT
		}
		x.muts = append(x.muts, wire.ObjOp{Kind: wire.ObjRemove})
		x.exists, x.size, x.fresh, x.xattrs = false, 0, true, nil
	case wire.ObjCreate:
		if x.exists {
			if op.Excl {
				return eEXIST
			}
			return 0
		}
		x.mut(wire.ObjOp{Kind: wire.ObjCreate})
	case wire.ObjGetXattr:
		if !x.exists {
			return eNOENT
		}
		v, ok := x.xattr(op.Key)
		if !ok {
			return eNODATA
		}
		r.Data = v
	case wire.ObjSetXattr:
		if len(op.Key) == 0 || len(op.Key) > wire.MaxXattrName || len(op.Data) > wire.MaxXattrs {
			return eINVAL
		}
		x.mut(wire.ObjOp{Kind: wire.ObjSetXattr, Key: op.Key, DataLen: uint32(len(op.Data)), Data: op.Data})
		x.setXattr(op.Key, op.Data)
	case wire.ObjRmXattr:
		if !x.exists {
			return eNOENT
		}
		if _, ok := x.xattr(op.Key); !ok {
			return eNODATA
		}
		x.mut(wire.ObjOp{Kind: wire.ObjRmXattr, Key: op.Key})
		x.setXattr(op.Key, nil)
	case wire.ObjGetXattrs:
		if !x.exists {
			return eNOENT
		}
		if x.fresh || x.xattrs != nil {
			return eINVAL // after changes in the same vector: ask one by one
		}
		r.Pairs = st.Xattrs(id, x.name)
	case wire.ObjOmapGet:
		if !x.exists {
			return eNOENT
		}
		kvs, err := st.OmapGet(id, x.name, op.Keys)
		if err != nil {
			return eIO
		}
		r.Pairs = kvs
	case wire.ObjOmapRange:
		if !x.exists {
			return eNOENT
		}
		kvs, more, err := st.OmapRange(id, x.name, op.From, int(min(max(op.Max, 1), 16384)))
		if err != nil {
			return eIO
		}
		r.Pairs, r.More = kvs, more
	case wire.ObjOmapSet:
		x.mut(wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: op.Pairs})
	case wire.ObjOmapRemove:
		if !x.exists {
			return eNOENT
		}
		x.mut(wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: op.Keys})
	case wire.ObjOmapClear:
		if !x.exists {
			return eNOENT
		}
		x.mut(wire.ObjOp{Kind: wire.ObjOmapClear})
	case wire.ObjAssertVersion:
		if op.AssertN != x.st.Version {
			return eRANGE
		}
	case wire.ObjCmpXattr:
		if v, _ := x.xattr(op.Key); !bytes.Equal(v, op.Data) {
			return eCANCELED
		}
	default:
		return eINVAL
	}
	return 0
}

// clip leaves of es what lies in [off, off+n).
func clip(es []wire.Extent, off, n uint64) (out []wire.Extent) {
	stop := off + min(n, wire.MaxObjectBytes)
	for _, e := range es {
		from, to := max(e.Off, off), min(e.Off+e.Len, stop)
		if from < to {
			out = append(out, wire.Extent{Off: from, Len: to - from})
		}
	}
	return out
}

func (x *exec) xattr(key string) ([]byte, bool) {
	if v, ok := x.xattrs[key]; ok {
		return v, v != nil
	}
	if !x.exists || x.fresh {
		return nil, false
	}
	return x.p.o.store.Xattr(x.p.id, x.name, key)
}

func (x *exec) setXattr(key string, v []byte) {
	if x.xattrs == nil {
		x.xattrs = map[string][]byte{}
	}
	if v == nil {
		x.xattrs[key] = nil
		return
	}
	x.xattrs[key] = append(make([]byte, 0, len(v)+1), v...)
}
