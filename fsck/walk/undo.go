package walk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// The undo log is text: a line of JSON about the repair, then one line for each change, written
// and synced before the change is made: what the parts of the object that it touches were. Undo
// puts them back, last change first. A line that a crash cut short belongs to a change that was
// never made.

// undoHead is the first line.
type undoHead struct {
	Format  int                 `json:"capstan_fsck_undo"` // 1
	Cluster string              `json:"cluster"`
	Rank    wire.Rank           `json:"rank"`
	Inc     journal.Incarnation `json:"journal_incarnation"` // while it stands no rank has run since
	Made    time.Time           `json:"made"`
}

const undoFormat = 1

// undoLine is what an object was.
type undoLine struct {
	Pool    uint32     `json:"pool"`
	Object  string     `json:"object"`
	Existed bool       `json:"existed"`
	Omap    []undoKV   `json:"omap,omitempty"`
	Xattrs  []undoKV   `json:"xattrs,omitempty"`
	Size    *uint64    `json:"size,omitempty"` // of the data, when that is changed
	Data    []undoData `json:"data,omitempty"`
}

type undoKV struct {
	Key string  `json:"key"`
	Val *[]byte `json:"val"` // null: there was none
}

type undoData struct {
	Off uint64 `json:"off"`
	B   []byte `json:"b"`
}

// undoLog writes one.
type undoLog struct{ f *os.File }

// makeUndo makes an undo log that did not exist, durably.
func makeUndo(path string, h undoHead) (*undoLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("undo log: %w", err)
	}
	u := &undoLog{f}
	if err = u.line(h); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return u, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (u *undoLog) line(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = u.f.Write(append(b, '\n'))
	}
	if err == nil {
		err = u.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("undo log %s: %w", u.f.Name(), err)
	}
	return nil
}

func (u *undoLog) close() error { return u.f.Close() }

// before reads what a change will overwrite.
func before(ctx context.Context, o Objects, c *fsck.Change) (*undoLine, error) {
	l := &undoLine{Pool: c.Object.Pool, Object: c.Object.Name}
	do := func(ops ...wire.ObjOp) ([]wire.ObjResult, error) {
		e, res, err := o.Do(ctx, c.Object, ops)
		if err == nil && e != 0 {
			err = syscall.Errno(e)
		}
		if err != nil {
			err = fmt.Errorf("read %v: %w", c.Object, err)
		}
		return res, err
	}
	stat, err := do(wire.ObjOp{Kind: wire.ObjStat}, wire.ObjOp{Kind: wire.ObjGetXattrs})
	if errors.Is(err, syscall.ENOENT) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	l.Existed = true
	xs := map[string][]byte{}
	for _, kv := range stat[1].Pairs {
		xs[kv.Key] = kv.Val
		if c.Remove {
			l.Xattrs = append(l.Xattrs, undoKV{kv.Key, &kv.Val})
		}
	}
	for _, kv := range c.Xattrs {
		old := undoKV{Key: kv.Key}
		if v, ok := xs[kv.Key]; ok {
			old.Val = &v
		}
		l.Xattrs = append(l.Xattrs, old)
	}
	if c.Remove {
		if l.Omap, err = allOmap(do); err != nil {
			return nil, err
		}
	} else if l.Omap, err = someOmap(do, c); err != nil {
		return nil, err
	}
	if c.Remove || c.Size != nil {
		from := uint64(0)
		if c.Size != nil {
			from = *c.Size
		}
		l.Size = &stat[0].Size
		if l.Data, err = dataFrom(do, from, stat[0].Size); err != nil {
			return nil, err
		}
	}
	return l, nil
}

type doer func(...wire.ObjOp) ([]wire.ObjResult, error)

func allOmap(do doer) (out []undoKV, err error) {
	for from, more := "", true; more; {
		res, err := do(wire.ObjOp{Kind: wire.ObjOmapRange, From: from, Max: pageKeys})
		if err != nil {
			return nil, err
		}
		for _, kv := range res[0].Pairs {
			out = append(out, undoKV{kv.Key, &kv.Val})
			from = kv.Key
		}
		more = res[0].More && len(res[0].Pairs) > 0
	}
	return out, nil
}

func someOmap(do doer, c *fsck.Change) (out []undoKV, err error) {
	var keys []string
	for _, kv := range c.Set {
		keys = append(keys, kv.Key)
	}
	keys = append(keys, c.Del...)
	if len(keys) == 0 {
		return nil, nil
	}
	res, err := do(wire.ObjOp{Kind: wire.ObjOmapGet, Keys: keys})
	if err != nil {
		return nil, err
	}
	have := map[string][]byte{}
	for _, kv := range res[0].Pairs {
		have[kv.Key] = kv.Val
	}
	for _, k := range keys {
		old := undoKV{Key: k}
		if v, ok := have[k]; ok {
			old.Val = &v
		}
		out = append(out, old)
	}
	return out, nil
}

const undoChunk = 1 << 20 // bytes of data in one read

func dataFrom(do doer, from, size uint64) (out []undoData, err error) {
	if from >= size {
		return nil, nil
	}
	res, err := do(wire.ObjOp{Kind: wire.ObjExtents, Off: from, Len: size - from})
	if err != nil {
		return nil, err
	}
	es, err := wire.Extents(res[0].Data)
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		for off := e.Off; off < e.Off+e.Len; off += undoChunk {
			n := min(undoChunk, e.Off+e.Len-off)
			res, err := do(wire.ObjOp{Kind: wire.ObjRead, Off: off, Len: n})
			if err != nil {
				return nil, err
			}
			out = append(out, undoData{off, res[0].Data})
		}
	}
	return out, nil
}

// apply makes a change.
func apply(ctx context.Context, o Objects, c *fsck.Change) error {
	var ops []wire.ObjOp
	if c.Remove {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjRemove})
	} else if c.Size != nil {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjTruncate, Off: *c.Size})
	} else {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjCreate})
		if len(c.Set) > 0 {
			ops = append(ops, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: c.Set})
		}
		if len(c.Del) > 0 {
			ops = append(ops, wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: c.Del})
		}
		for _, kv := range c.Xattrs {
			ops = append(ops, setXattr(kv.Key, kv.Val))
		}
	}
	e, _, err := o.Do(ctx, c.Object, ops)
	if err == nil && e != 0 && !(c.Remove && syscall.Errno(e) == syscall.ENOENT) {
		err = syscall.Errno(e)
	}
	if err != nil {
		return fmt.Errorf("repair %v: %w", c.Object, err)
	}
	return nil
}

func setXattr(key string, val []byte) wire.ObjOp {
	return wire.ObjOp{Kind: wire.ObjSetXattr, Key: key, Data: val, DataLen: uint32(len(val))}
}

// Undo puts back what an undo log holds; it returns how many changes it undid. Doing it twice
// does no harm. It refuses when a rank has written since.
func Undo(ctx context.Context, o Objects, p fsck.Params, cluster string, from io.Reader) (n int, err error) {
	h, lines, err := readUndo(from)
	if err != nil {
		return 0, err
	}
	if h.Cluster != cluster || h.Rank != p.Rank {
		return 0, fmt.Errorf("the undo log is of rank %d of cluster %s, this is rank %d of %s", h.Rank, h.Cluster, p.Rank, cluster)
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if err := still(ctx, o, p, h.Inc); err != nil {
			return n, err
		}
		if err := putBack(ctx, o, &lines[i]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// still makes sure that no rank has run since.
func still(ctx context.Context, o Objects, p fsck.Params, inc journal.Incarnation) error {
	h, err := readHead(ctx, o, p.MetaPool, p.Rank)
	if err == nil && h.Inc != inc {
		err = fmt.Errorf("a metadata daemon has run since (its journal is of incarnation %d, not %d): nothing is changed any more", h.Inc, inc)
	}
	return err
}

func readUndo(from io.Reader) (h undoHead, lines []undoLine, err error) {
	r := bufio.NewReader(from)
	for first := true; ; first = false {
		b, err := r.ReadBytes('\n')
		if err == io.EOF {
			return h, lines, headKnown(h)
		}
		if err != nil {
			return h, nil, fmt.Errorf("undo log: %w", err)
		}
		b = bytes.TrimSpace(b)
		if first {
			if err := json.Unmarshal(b, &h); err != nil || h.Format == 0 {
				return h, nil, errors.New("this is no undo log of capstan fsck")
			}
			if err := headKnown(h); err != nil {
				return h, nil, err
			}
			continue
		}
		var l undoLine
		if err := json.Unmarshal(b, &l); err != nil {
			return h, nil, fmt.Errorf("undo log, change %d: %w", len(lines)+1, err)
		}
		lines = append(lines, l)
	}
}

func headKnown(h undoHead) error {
	if h.Format != undoFormat {
		return fmt.Errorf("undo log of format %d, this program knows %d", h.Format, undoFormat)
	}
	return nil
}

// putBack restores one object's parts.
func putBack(ctx context.Context, o Objects, l *undoLine) error {
	obj := wire.ObjectID{Pool: l.Pool, Name: l.Object}
	do := func(ops []wire.ObjOp, but ...syscall.Errno) error {
		if len(ops) == 0 {
			return nil
		}
		e, _, err := o.Do(ctx, obj, ops)
		for _, x := range but {
			if syscall.Errno(e) == x {
				e = 0
			}
		}
		if err == nil && e != 0 {
			err = syscall.Errno(e)
		}
		if err != nil {
			err = fmt.Errorf("undo %v: %w", obj, err)
		}
		return err
	}
	if !l.Existed {
		return do([]wire.ObjOp{{Kind: wire.ObjRemove}}, syscall.ENOENT)
	}
	ops := []wire.ObjOp{{Kind: wire.ObjCreate}}
	var set []wire.KV
	var del []string
	size := 0
	for _, kv := range l.Omap {
		if kv.Val == nil {
			del = append(del, kv.Key)
			continue
		}
		set = append(set, wire.KV{Key: kv.Key, Val: *kv.Val})
		if size += len(kv.Key) + len(*kv.Val); size > undoChunk {
			if err := do([]wire.ObjOp{{Kind: wire.ObjCreate}, {Kind: wire.ObjOmapSet, Pairs: set}}); err != nil {
				return err
			}
			set, size = nil, 0
		}
	}
	if len(set) > 0 {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: set})
	}
	if len(del) > 0 {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: del})
	}
	var without []string
	for _, kv := range l.Xattrs {
		if kv.Val != nil {
			ops = append(ops, setXattr(kv.Key, *kv.Val))
		} else {
			without = append(without, kv.Key)
		}
	}
	if l.Size != nil {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjTruncate, Off: *l.Size})
	}
	if err := do(ops); err != nil {
		return err
	}
	for _, k := range without {
		if err := do([]wire.ObjOp{{Kind: wire.ObjRmXattr, Key: k}}, syscall.ENODATA); err != nil {
			return err
		}
	}
	for _, d := range l.Data {
		if err := do([]wire.ObjOp{{Kind: wire.ObjWrite, Off: d.Off, Data: d.B, DataLen: uint32(len(d.B))}}); err != nil {
			return err
		}
	}
	return nil
}
