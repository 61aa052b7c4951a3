package store

import (
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// opBlocks is the store's own kind of step: whole blocks whose bytes are in the block file
// already. off is the first block's number in the object.
const opBlocks wire.ObjOpKind = 255

// op is one step on an object as it is applied and logged.
type op struct {
	kind  wire.ObjOpKind
	off   uint64
	len   uint64
	data  []byte
	key   string
	keys  []string
	pairs []wire.KV
	refs  []ref
}

// plan is a transaction with its large writes cut out: head and tail ride in the log, whole
// blocks between them go to the block file.
type plan struct {
	t       *osd.Txn
	ops     []op
	ends    []int // ops of object k end here
	refs    []ref // of all direct writes, one after the other
	direct  int   // blocks
	small   int   // upper bound of buffers that the rest may need
	grows   bool  // takes space, as opposed to giving it back
	bytes   int   // upper bound of the log record
	extents []extent
}

var plans = sync.Pool{New: func() any { return new(plan) }}

func (pl *plan) release() {
	clear(pl.ops)
	*pl = plan{ops: pl.ops[:0], ends: pl.ends[:0], refs: pl.refs[:0], extents: pl.extents[:0]}
	plans.Put(pl)
}

// Upper bounds of what the parts of a record take beside their bytes.
const (
	txnOverhead = 128
	opOverhead  = 32
	strOverhead = 5
)

func (pl *plan) build(t *osd.Txn, directMin int) error {
	pl.t = t
	pl.bytes = txnOverhead + strOverhead + len(t.ClearMeta)
	for i := range t.Append {
		pl.bytes += 16 + strOverhead + len(t.Append[i].Rec)
	}
	for i := range t.Meta {
		pl.bytes += 1 + 2*strOverhead + len(t.Meta[i].Key) + len(t.Meta[i].Val)
	}
	for k := range t.Objs {
		x := &t.Objs[k]
		if x.Name == "" || len(x.Name) > maxName {
			return fmt.Errorf("%w: pg %v object name of %d bytes", ErrTooLarge, t.PG, len(x.Name))
		}
		pl.bytes += opOverhead + len(x.Name)
		for i := range x.Muts {
			if err := pl.add(t, x, &x.Muts[i], directMin); err != nil {
				return err
			}
		}
		pl.ends = append(pl.ends, len(pl.ops))
	}
	// The slices into refs are made now that it does not move any more.
	refs := pl.refs
	for i := range pl.ops {
		if o := &pl.ops[i]; o.kind == opBlocks {
			n := len(o.data) / BlockBytes
			o.refs, refs = refs[:n:n], refs[n:]
		}
	}
	return nil
}

// maxName keeps keys below what bbolt takes.
const maxName = 4096

func (pl *plan) add(t *osd.Txn, x *osd.ObjTxn, m *wire.ObjOp, directMin int) error {
	o := op{kind: m.Kind, off: m.Off, len: m.Len, data: m.Data, key: m.Key, keys: m.Keys, pairs: m.Pairs}
	pl.bytes += opOverhead
	switch m.Kind {
	case wire.ObjWrite:
		end := m.Off + uint64(len(m.Data))
		if end < m.Off || end > MaxObjectBytes {
			return fmt.Errorf("%w: pg %v object %q: write of %d bytes at %d, objects end at %d", ErrTooLarge, t.PG, x.Name, len(m.Data), m.Off, MaxObjectBytes)
		}
		pl.grows = pl.grows || len(m.Data) > 0
		first, last := blocksOf(m.Off), end/BlockBytes
		if last > first && (last-first)*BlockBytes >= uint64(directMin) {
			head := first*BlockBytes - m.Off
			mid := head + (last-first)*BlockBytes
			pl.addSmall(m.Off, m.Data[:head])
			data := m.Data[head:mid]
			pl.ops = append(pl.ops, op{kind: opBlocks, off: first, data: data})
			for i := 0; i < len(data); i += BlockBytes {
				pl.refs = append(pl.refs, ref{crc: crc32.Checksum(data[i:i+BlockBytes], castagnoli)})
			}
			n := len(data) / BlockBytes
			pl.direct += n
			pl.bytes += opOverhead + 14*n // at worst every block is a run of its own
			pl.addSmall(m.Off+mid, m.Data[mid:])
			return nil
		}
		if len(m.Data) > 0 {
			pl.addSmall(m.Off, m.Data)
		}
		return nil
	case wire.ObjTruncate:
		pl.small++
	case wire.ObjZero:
		pl.small += 2
	case wire.ObjDamage:
		if m.Off > MaxObjectBytes || m.Len > MaxObjectBytes-m.Off {
			return fmt.Errorf("%w: pg %v object %q: damage of %d bytes at %d", ErrTooLarge, t.PG, x.Name, m.Len, m.Off)
		}
		pl.grows = true
		pl.small += int(blocksOf(m.Off+m.Len) - m.Off/BlockBytes)
	case wire.ObjSetXattr:
		pl.bytes += len(m.Key) + len(m.Data)
	case wire.ObjRmXattr:
		pl.bytes += len(m.Key)
	case wire.ObjOmapSet:
		for i := range m.Pairs {
			if len(m.Pairs[i].Key) == 0 || len(m.Pairs[i].Key) > maxName {
				return fmt.Errorf("%w: pg %v object %q: omap key of %d bytes", ErrTooLarge, t.PG, x.Name, len(m.Pairs[i].Key))
			}
			pl.bytes += 2*strOverhead + len(m.Pairs[i].Key) + len(m.Pairs[i].Val)
		}
	case wire.ObjOmapRemove, wire.ObjOmapDamage:
		for _, k := range m.Keys {
			if m.Kind == wire.ObjOmapDamage && (len(k) == 0 || len(k) > maxName) {
				return fmt.Errorf("%w: pg %v object %q: omap key of %d bytes", ErrTooLarge, t.PG, x.Name, len(k))
			}
			pl.bytes += strOverhead + len(k)
		}
	case wire.ObjOmapClear, wire.ObjCreate:
	default:
		return fmt.Errorf("store: pg %v object %q: a transaction cannot hold %v", t.PG, x.Name, m.Kind)
	}
	pl.ops = append(pl.ops, o)
	return nil
}

func (pl *plan) addSmall(off uint64, data []byte) {
	if len(data) == 0 {
		return
	}
	pl.ops = append(pl.ops, op{kind: wire.ObjWrite, off: off, data: data})
	pl.small += int(blocksOf(off+uint64(len(data))) - off/BlockBytes)
	pl.bytes += opOverhead + len(data)
}

// place gives the direct writes their blocks.
func (pl *plan) place() {
	k := 0
	for _, e := range pl.extents {
		for i := range e.n {
			pl.refs[k].phys = e.phys + i
			k++
		}
	}
}

// objOps are the steps on object k.
func (pl *plan) objOps(k int) []op {
	from := 0
	if k > 0 {
		from = pl.ends[k-1]
	}
	return pl.ops[from:pl.ends[k]]
}
