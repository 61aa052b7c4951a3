package mds

import (
	"fmt"
	"sort"
	"strings"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Reading and writing dirfrag objects. Both sides go by record versions: what is cached and
// newer than what was read stays; what was read and newer fills the cache. A fetch and a
// flush of one directory never overlap, so a name that a flush removed is not read again.

const fetchKeys = 2048 // entries per read of a dirfrag

// fetch reads a whole directory. Its waiters run when it is complete.
func (r *Rank) fetch(d *dir) {
	if d.fetching || d.complete {
		return
	}
	if d.flushing {
		d.wantFetch = true // the flush's end starts it
		return
	}
	d.fetching = true
	d.in.pins++
	r.counts.Fetches++
	r.fetchFrom(d, "", 0)
}

func (r *Rank) fetchFrom(d *dir, from string, round int) {
	ops := []wire.ObjOp{{Kind: wire.ObjOmapRange, From: from, Max: fetchKeys}}
	if round == 0 {
		ops = append(ops, wire.ObjOp{Kind: wire.ObjGetXattrs})
	}
	r.object(0, r.dirObject(d.in.ino()), ops, func(e uint32, res []wire.ObjResult) {
		if errno(e) == eNOENT {
			r.fetched(d, headerRec{}) // never flushed: all there is was journaled
			return
		}
		if e != 0 || len(res) != len(ops) {
			r.damaged(fmt.Errorf("mds: read directory %v: errno %d", d.in.ino(), e))
			return
		}
		var h headerRec
		if round == 0 {
			var err error
			if h, err = decodeHeader(res[1].Pairs); err != nil {
				r.damaged(fmt.Errorf("mds: directory %v: %w", d.in.ino(), err))
				return
			}
			d.fetchHdr = h
		}
		last := from
		for _, kv := range res[0].Pairs {
			last = kv.Key
			name, ok := strings.CutSuffix(kv.Key, headSuffix)
			if !ok {
				continue // a snapshot's: not of this version
			}
			if err := r.loadDentry(d, name, kv.Val); err != nil {
				r.damaged(fmt.Errorf("mds: directory %v, name %q: %w", d.in.ino(), name, err))
				return
			}
		}
		if res[0].More && last != from {
			r.fetchFrom(d, last, round+1)
			return
		}
		r.fetched(d, d.fetchHdr)
	})
}

// fetched ends a fetch; h is the object's header.
func (r *Rank) fetched(d *dir, h headerRec) {
	r.loadHeader(d, h)
	d.fetching, d.complete = false, true
	d.in.pins--
	if n := uint64(d.order.Len()); n != d.hdr.Entries {
		r.logf(LogError, "directory %v has %d entries, its header says %d", d.in.ino(), n, d.hdr.Entries)
		d.hdr.Entries = n
	}
	r.runWaiters(d)
	if d.in.stub {
		return
	}
	r.used(d.in)
}

func (r *Rank) runWaiters(d *dir) {
	w := d.waiters
	d.waiters = nil
	for _, fn := range w {
		fn()
	}
}

// fetchHeader reads a directory's counts and times only.
func (r *Rank) fetchHeader(d *dir) {
	if d.loaded || d.fetching || d.fetchingHeader || d.wantFetch {
		return
	}
	d.fetchingHeader = true
	d.in.pins++
	ops := []wire.ObjOp{{Kind: wire.ObjGetXattrs}}
	r.object(0, r.dirObject(d.in.ino()), ops, func(e uint32, res []wire.ObjResult) {
		d.fetchingHeader = false
		d.in.pins--
		var h headerRec
		if errno(e) != eNOENT {
			var err error
			if e != 0 || len(res) != 1 {
				err = fmt.Errorf("errno %d", e)
			} else {
				h, err = decodeHeader(res[0].Pairs)
			}
			if err != nil {
				r.damaged(fmt.Errorf("mds: header of directory %v: %w", d.in.ino(), err))
				return
			}
		}
		r.loadHeader(d, h)
		r.runWaiters(d)
		r.used(d.in)
	})
}

func decodeHeader(xattrs []wire.KV) (h headerRec, err error) {
	for _, kv := range xattrs {
		if kv.Key == headerXattr {
			err = wire.Unmarshal(kv.Val, &h)
			return h, err
		}
	}
	return h, fmt.Errorf("no header")
}

func (r *Rank) loadHeader(d *dir, h headerRec) {
	if !d.loaded || h.Version > d.hdr.Version {
		d.hdr = h
	}
	if d.hdr.Version == 0 && d.hdr.Mtime == (wire.Time{}) {
		d.hdr.Mtime, d.hdr.Ctime = d.in.rec.Mtime, d.in.rec.Ctime
	}
	d.loaded = true
	if r.state == stateActive {
		r.owesIfDifferent(d.in)
	}
}

// loadDentry fills the cache with a record of a dirfrag object, unless what is cached is newer.
func (r *Rank) loadDentry(d *dir, name string, b []byte) error {
	if dn := d.names[name]; dn != nil && (dn.dirty || dn.version > 0 || dn.kind != dnNull) {
		return nil // journaled or loaded before; never older than the object
	}
	var rec dentryRec
	if err := wire.Unmarshal(b, &rec); err != nil {
		return err
	}
	if rec.Kind != dnHome && rec.Kind != dnRemote || rec.Kind == dnHome && (rec.Inode == nil || rec.Inode.Ino != rec.Ino) {
		return fmt.Errorf("record of kind %d without its inode", rec.Kind)
	}
	dn := r.dentry(d, name)
	dn.version, dn.hash = rec.Version, rec.Hash
	if d.order.Has(dn) {
		return fmt.Errorf("two names have cookie %#x", rec.Hash)
	}
	if rec.Kind == dnRemote {
		r.attachRemote(dn, &rec)
		return nil
	}
	in := r.inodes[rec.Ino]
	switch {
	case in == nil && r.mem.used > r.cfg.CacheBytes && !d.in.isSystem():
		// The cache is full, so only the name comes in: a directory larger than the cache must
		// not push out all else. Who asks for the inode gets it (loadInode).
		dn.kind, dn.ino, dn.typ = dnHome, rec.Ino, rec.Type
		d.order.ReplaceOrInsert(dn)
		return nil
	case in == nil:
		in = r.newInode(rec.Inode.memory())
		r.used(in)
	case in.stub:
		in.rec, in.stub = rec.Inode.memory(), false
		r.account(in)
		r.used(in)
	default:
		// The journal moved it: its record there is newer, and so is its absence here, or
		// the journal would not have been trimmed.
		return fmt.Errorf("ino %v is at home in %v as well", rec.Ino, in.home)
	}
	dn.indexed = true
	r.attach(dn, dnHome, in)
	r.loaded(in)
	return nil
}

// attachRemote makes a null dentry a remote one whose inode may not be cached.
func (r *Rank) attachRemote(dn *dentry, rec *dentryRec) {
	dn.kind, dn.ino, dn.typ = dnRemote, rec.Ino, rec.Type
	if rec.Charge != nil {
		dn.more = &dentryMore{charge: *rec.Charge}
	}
	if rec.Nest != nil {
		dn.more = &dentryMore{nest: *rec.Nest}
	}
	_, taken := dn.dir.order.ReplaceOrInsert(dn)
	must.Holdf(!taken, "%v: cookie %#x taken", dn, dn.hash)
	if in := r.inodes[rec.Ino]; in != nil && !in.stub && !dn.far() {
		dn.in = in
		in.addRemote(dn)
	}
}

// markDirty notes that dn's object lacks its record.
func (r *Rank) markDirty(dn *dentry) {
	if !dn.dirty {
		dn.dirty = true
		dn.dir.dirty = append(dn.dir.dirty, dn)
	}
}

// markDirDirty notes that an entry from start to end touched d.
func (r *Rank) markDirDirty(d *dir, start, end journal.Pos) {
	d.last = end
	if d.flushing && d.again == 0 {
		d.again = start + 1
	}
	if !d.isDirty {
		d.isDirty, d.since = true, start
		r.dirtyDirs = append(r.dirtyDirs, d)
	}
}

const flushBytes = 512 << 10 // of records in one object operation

// flush writes what d's object lacks. The last operation brings the header; the segment
// stays until that one is done, so a flush cut short is only done again (5.8).
func (r *Rank) flush(d *dir) {
	if d.flushing || d.fetching || !d.isDirty {
		return
	}
	d.flushing, d.again, d.unborn = true, 0, false
	d.in.pins++
	r.counts.Flushes++
	sort.Slice(d.dirty, func(i, j int) bool { return d.dirty[i].name < d.dirty[j].name })
	type mark struct {
		dn      *dentry
		version uint64
	}
	marks := make([]mark, 0, len(d.dirty))
	obj := r.dirObject(d.in.ino())
	var set []wire.KV
	var del []string
	size, left := 0, 1
	failed := uint32(0)
	done := func(e uint32, _ []wire.ObjResult) {
		failed = max(failed, e)
		if left--; left > 0 {
			return
		}
		d.flushing = false
		d.in.pins--
		if failed != 0 {
			r.damaged(fmt.Errorf("mds: write directory %v: errno %d", d.in.ino(), failed))
			return
		}
		keep := d.dirty[:0]
		for _, m := range marks {
			if m.dn.version == m.version {
				m.dn.dirty = false
				if m.dn.kind == dnNull {
					r.noteIdle(m.dn)
				}
			}
		}
		for _, dn := range d.dirty {
			if dn.dirty {
				keep = append(keep, dn)
			}
		}
		clear(d.dirty[len(keep):])
		d.dirty = keep
		r.flushed(d)
	}
	emit := func(last bool) {
		var ops []wire.ObjOp
		if len(set) > 0 {
			ops = append(ops, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: set})
		}
		if len(del) > 0 {
			// A name that came and went before the first flush: there is no object yet, and
			// an OSD refuses to remove from nothing.
			ops = append(ops, wire.ObjOp{Kind: wire.ObjCreate}, wire.ObjOp{Kind: wire.ObjOmapRemove, Keys: del})
		}
		if last {
			h := d.hdr.put(nil)
			ops = append(ops, setXattrOp(headerXattr, h))
		} else {
			left++
		}
		set, del, size = nil, nil, 0
		r.object(d.last, obj, ops, done) // WA: it shows d as of d.last
	}
	objs, lines := r.indexOps(d)
	for i := range objs {
		left++
		r.object(d.last, objs[i], lines[i], done)
	}
	for _, dn := range d.dirty {
		marks = append(marks, mark{dn, dn.version})
		key := dn.name + headSuffix
		if dn.kind == dnNull {
			del = append(del, key)
			size += len(key)
		} else {
			v := putDentry(nil, dn)
			set = append(set, wire.KV{Key: key, Val: v})
			size += len(key) + len(v)
		}
		if size > flushBytes {
			emit(false)
		}
	}
	emit(true)
}

// setXattrOp is a step that sets one xattr of an object.
func setXattrOp(key string, val []byte) wire.ObjOp {
	return wire.ObjOp{Kind: wire.ObjSetXattr, Key: key, Data: val, DataLen: uint32(len(val))}
}

// flushed updates the list of dirty directories after a flush of d.
func (r *Rank) flushed(d *dir) {
	for i, x := range r.dirtyDirs {
		if x == d {
			r.dirtyDirs = append(r.dirtyDirs[:i], r.dirtyDirs[i+1:]...)
			break
		}
	}
	d.isDirty = false
	if d.again != 0 {
		d.isDirty, d.since = true, d.again-1
		at := sort.Search(len(r.dirtyDirs), func(i int) bool { return r.dirtyDirs[i].since > d.since })
		r.dirtyDirs = append(r.dirtyDirs, nil)
		copy(r.dirtyDirs[at+1:], r.dirtyDirs[at:])
		r.dirtyDirs[at] = d
	}
	d.again = 0
	if d.wantFetch {
		d.wantFetch = false
		r.fetch(d)
	}
	r.used(d.in)
	r.advanceExpire()
}

// sortedNames is every cached dentry of d in an order that no map decides.
func (d *dir) sortedNames() []*dentry {
	out := make([]*dentry, 0, len(d.names))
	for _, dn := range d.names {
		out = append(out, dn)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// damaged stops the rank: what it cannot read it must not guess.
func (r *Rank) damaged(err error) {
	r.logf(LogError, "%v", err)
	r.eff.Exit = err
}
