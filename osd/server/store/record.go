package store

import (
	"encoding/binary"
	"fmt"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// A transaction in the log, integers as uvarints, versions as 2×8 bytes big-endian, strings
// and bytes behind their length:
//
//	1 version byte · 1 flags (remove pg, reset log, cut follows) · pool, number of the pg
//	[cut] · trim · committed
//	number of log entries; each: version, bytes
//	clear-meta prefix; number of values; each: key, 1 present, bytes
//	number of objects; each: name, version, 1 flags (remove, replace), number of steps; each:
//	  1 kind, then what the kind needs (see appendOp)
//
// It is one record of the journal, or, when it is longer than a record may be, several in a
// row. The first byte of each says whether it is the first and whether it is the last of
// them. A first one makes what came before it, without a last one, void.
const txnVersion = 1

const (
	partFirst = 1 << iota
	partLast
)

const (
	flagRemovePG = 1 << iota
	flagResetLog
	flagCut
)

const (
	flagRemove = 1 << iota
	flagReplace
)

func appendVersion(b []byte, v wire.Version) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, v.Interval), v.N)
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

func (pl *plan) encode(b []byte) []byte {
	t := pl.t
	b = append(b, txnVersion, flag(t.RemovePG, flagRemovePG)|flag(t.ResetLog, flagResetLog)|flag(t.Cut != nil, flagCut))
	b = binary.AppendUvarint(b, uint64(t.PG.Pool))
	b = binary.AppendUvarint(b, uint64(t.PG.Num))
	if t.Cut != nil {
		b = appendVersion(b, *t.Cut)
	}
	b = appendVersion(appendVersion(b, t.Trim), t.Committed)
	b = binary.AppendUvarint(b, uint64(len(t.Append)))
	for i := range t.Append {
		b = appendString(appendVersion(b, t.Append[i].Version), t.Append[i].Rec)
	}
	b = appendString(b, t.ClearMeta)
	b = binary.AppendUvarint(b, uint64(len(t.Meta)))
	for i := range t.Meta {
		b = appendString(b, t.Meta[i].Key)
		b = append(b, flag(t.Meta[i].Val != nil, 1))
		b = appendString(b, t.Meta[i].Val)
	}
	b = binary.AppendUvarint(b, uint64(len(t.Objs)))
	for k := range t.Objs {
		x := &t.Objs[k]
		b = appendVersion(appendString(b, x.Name), x.Version)
		b = append(b, flag(x.Remove, flagRemove)|flag(x.Replace, flagReplace))
		ops := pl.objOps(k)
		b = binary.AppendUvarint(b, uint64(len(ops)))
		for i := range ops {
			b = appendOp(b, &ops[i])
		}
	}
	return b
}

func appendOp(b []byte, o *op) []byte {
	b = append(b, byte(o.kind))
	switch o.kind {
	case wire.ObjWrite:
		b = appendString(binary.AppendUvarint(b, o.off), o.data)
	case opBlocks: // first block, blocks, then runs: place, length, checksums
		b = binary.AppendUvarint(b, o.off)
		b = binary.AppendUvarint(b, uint64(len(o.refs)))
		for i := 0; i < len(o.refs); {
			n := 1
			for i+n < len(o.refs) && o.refs[i+n].phys == o.refs[i].phys+uint32(n) {
				n++
			}
			b = binary.AppendUvarint(b, uint64(o.refs[i].phys))
			b = binary.AppendUvarint(b, uint64(n))
			for _, r := range o.refs[i : i+n] {
				b = binary.LittleEndian.AppendUint32(b, r.crc)
			}
			i += n
		}
	case wire.ObjTruncate:
		b = binary.AppendUvarint(b, o.off)
	case wire.ObjZero, wire.ObjDamage:
		b = binary.AppendUvarint(binary.AppendUvarint(b, o.off), o.len)
	case wire.ObjSetXattr:
		b = appendString(appendString(b, o.key), o.data)
	case wire.ObjRmXattr:
		b = appendString(b, o.key)
	case wire.ObjOmapSet:
		b = binary.AppendUvarint(b, uint64(len(o.pairs)))
		for i := range o.pairs {
			b = appendString(appendString(b, o.pairs[i].Key), o.pairs[i].Val)
		}
	case wire.ObjOmapRemove, wire.ObjOmapDamage:
		b = binary.AppendUvarint(b, uint64(len(o.keys)))
		for _, k := range o.keys {
			b = appendString(b, k)
		}
	}
	return b
}

// decodePlan reads what encode wrote; the plan keeps slices of b.
func decodePlan(b []byte) (*plan, error) {
	d := decoder{b: b}
	if v := d.byte(); v != txnVersion {
		return nil, fmt.Errorf("%w: a transaction in %s has version %d, this program knows %d", ErrFormat, walName, v, txnVersion)
	}
	t := &osd.Txn{}
	pl := &plan{t: t}
	fl := d.byte()
	t.RemovePG, t.ResetLog = fl&flagRemovePG != 0, fl&flagResetLog != 0
	t.PG = wire.PGID{Pool: uint32(d.uvarint()), Num: uint32(d.uvarint())}
	if fl&flagCut != 0 {
		v := d.version()
		t.Cut = &v
	}
	t.Trim, t.Committed = d.version(), d.version()
	for range d.count(17) {
		t.Append = append(t.Append, osd.LogRec{Version: d.version(), Rec: d.bytes()})
	}
	t.ClearMeta = string(d.bytes())
	for range d.count(3) {
		kv := wire.KV{Key: string(d.bytes())}
		if has, val := d.byte(), d.bytes(); has != 0 {
			kv.Val = append([]byte{}, val...)
		}
		t.Meta = append(t.Meta, kv)
	}
	for range d.count(19) {
		x := osd.ObjTxn{Name: string(d.bytes()), Version: d.version()}
		fl := d.byte()
		x.Remove, x.Replace = fl&flagRemove != 0, fl&flagReplace != 0
		for range d.count(1) {
			pl.ops = append(pl.ops, d.op())
		}
		t.Objs = append(t.Objs, x)
		pl.ends = append(pl.ends, len(pl.ops))
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: a transaction in %s cannot be read although its checksum is right", ErrCorrupt, walName)
	}
	return pl, nil
}

func (d *decoder) op() op {
	o := op{kind: wire.ObjOpKind(d.byte())}
	switch o.kind {
	case wire.ObjWrite:
		o.off, o.data = d.uvarint(), d.bytes()
		if o.off > MaxObjectBytes || o.off+uint64(len(o.data)) > MaxObjectBytes {
			d.bad = true
		}
	case opBlocks:
		o.off = d.uvarint()
		n := d.count(4)
		for len(o.refs) < n && !d.bad {
			phys, k := d.uvarint(), d.uvarint()
			if k == 0 || k > uint64(n-len(o.refs)) || phys == 0 || phys+k > maxBlocks {
				d.bad = true
				break
			}
			crcs := d.take(4 * k)
			for i := range uint64(len(crcs) / 4) {
				o.refs = append(o.refs, ref{uint32(phys + i), binary.LittleEndian.Uint32(crcs[4*i:])})
			}
		}
		if o.off > MaxObjectBytes/BlockBytes || o.off+uint64(n) > MaxObjectBytes/BlockBytes {
			d.bad = true
		}
	case wire.ObjTruncate:
		o.off = d.uvarint()
	case wire.ObjZero, wire.ObjDamage:
		o.off, o.len = d.uvarint(), d.uvarint()
		if o.kind == wire.ObjDamage && (o.off > MaxObjectBytes || o.len > MaxObjectBytes-o.off) {
			d.bad = true
		}
	case wire.ObjSetXattr:
		o.key, o.data = string(d.bytes()), d.bytes()
	case wire.ObjRmXattr:
		o.key = string(d.bytes())
	case wire.ObjOmapSet:
		for range d.count(2) {
			o.pairs = append(o.pairs, wire.KV{Key: string(d.bytes()), Val: d.bytes()})
		}
	case wire.ObjOmapRemove, wire.ObjOmapDamage:
		for range d.count(1) {
			o.keys = append(o.keys, string(d.bytes()))
		}
	case wire.ObjOmapClear, wire.ObjCreate:
	default:
		d.bad = true
	}
	return o
}
