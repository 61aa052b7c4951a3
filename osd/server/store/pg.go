package store

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strings"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
	"github.com/google/btree"
)

// pgState is one PG: its log and named values whole, of its objects those in use.
type pgState struct {
	id        wire.PGID
	tail      wire.Version
	committed wire.Version
	log       []logRec
	meta      map[string][]byte
	objs      map[string]*object     // cached, dirty ones among them
	dirty     *btree.BTreeG[*object] // by name: those that differ from the last checkpoint
	count     int                    // objects that exist
	used      int64                  // blocks that these have
	headDirty bool                   // tail, committed
	metaDirty map[string]struct{}    // names changed since the last checkpoint
	logGone   []wire.Version         // dropped entries that a checkpoint had stored
}

// logRec is a log entry; stored: a checkpoint has it.
type logRec struct {
	osd.LogRec
	stored bool
}

func (s *Store) pg(id wire.PGID) *pgState {
	p := s.pgs[id]
	if p == nil {
		p = &pgState{id: id, meta: map[string][]byte{}, objs: map[string]*object{}, metaDirty: map[string]struct{}{}}
		p.dirty = btree.NewG(16, func(a, b *object) bool { return a.name < b.name })
		s.pgs[id] = p
	}
	return p
}

func (p *pgState) empty() bool {
	return p.count == 0 && len(p.log) == 0 && len(p.meta) == 0 && p.tail == (wire.Version{}) && p.committed == (wire.Version{})
}

// drop removes log entries [i, j).
func (p *pgState) drop(i, j int) {
	for _, r := range p.log[i:j] {
		if r.stored {
			p.logGone = append(p.logGone, r.Version)
		}
	}
	switch {
	case j == len(p.log):
		clear(p.log[i:])
		p.log = p.log[:i]
	case i == 0:
		clear(p.log[:j])
		p.log = p.log[j:] // append moves the rest to a new array in time
	default:
		p.log = append(p.log[:i], p.log[j:]...)
	}
}

// after is the index of the first entry newer than v.
func (p *pgState) after(v wire.Version) int {
	return sort.Search(len(p.log), func(i int) bool { return v.Less(p.log[i].Version) })
}

func (p *pgState) setMeta(key string, val []byte) {
	if val == nil {
		if _, ok := p.meta[key]; !ok {
			return
		}
		delete(p.meta, key)
	} else {
		p.meta[key] = val
	}
	p.metaDirty[key] = struct{}{}
}

// applyLog applies everything of t but its objects. checkLog has looked at it before.
func (p *pgState) applyLog(t *osd.Txn) {
	if t.ResetLog {
		p.drop(0, len(p.log))
		p.tail, p.headDirty = t.Trim, true
	}
	if t.Cut != nil {
		p.drop(p.after(*t.Cut), len(p.log))
	}
	for _, r := range t.Append {
		p.log = append(p.log, logRec{LogRec: r})
	}
	if t.Trim != (wire.Version{}) {
		p.drop(0, p.after(t.Trim))
		p.tail, p.headDirty = t.Trim, true
	}
	if t.Committed != (wire.Version{}) {
		p.committed, p.headDirty = t.Committed, true
	}
}

// checkLog refuses entries that are out of order.
func (p *pgState) checkLog(t *osd.Txn) error {
	var last wire.Version
	if n := len(p.log); n > 0 && !t.ResetLog {
		if t.Cut != nil {
			n = p.after(*t.Cut)
		}
		if n > 0 {
			last = p.log[n-1].Version
		}
	}
	for _, r := range t.Append {
		if !last.Less(r.Version) {
			return fmt.Errorf("pg %v: log entry %v after %v", p.id, r.Version, last)
		}
		last = r.Version
	}
	return nil
}

func (p *pgState) applyMeta(t *osd.Txn) {
	if t.ClearMeta != "" {
		for k := range p.meta {
			if strings.HasPrefix(k, t.ClearMeta) {
				p.setMeta(k, nil)
			}
		}
	}
	for _, kv := range t.Meta {
		p.setMeta(kv.Key, kv.Val)
	}
}

// Log returns the PG's log.
func (s *Store) Log(id wire.PGID) osd.LogState {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pgs[id]
	if p == nil {
		return osd.LogState{}
	}
	st := osd.LogState{Tail: p.tail, Committed: p.committed}
	for _, r := range p.log {
		st.Recs = append(st.Recs, r.LogRec)
	}
	return st
}

// Count is how many objects the PG has.
func (s *Store) Count(id wire.PGID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pgs[id]; p != nil {
		return p.count
	}
	return 0
}

// Bytes is what the data of the PG's objects takes.
func (s *Store) Bytes(id wire.PGID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pgs[id]; p != nil {
		return uint64(p.used) * BlockBytes
	}
	return 0
}

// Meta returns the named values with the prefix, sorted.
func (s *Store) Meta(id wire.PGID, prefix string) []wire.KV {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pgs[id]
	if p == nil {
		return nil
	}
	var kvs []wire.KV
	for k, v := range p.meta {
		if strings.HasPrefix(k, prefix) {
			kvs = append(kvs, wire.KV{Key: k, Val: v})
		}
	}
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs
}

// The record of bucket p: version byte, tail, committed.
const pgRecVersion = 1

func (p *pgState) encodeHead() []byte {
	b := []byte{pgRecVersion}
	for _, v := range [...]wire.Version{p.tail, p.committed} {
		b = binary.BigEndian.AppendUint64(b, v.Interval)
		b = binary.BigEndian.AppendUint64(b, v.N)
	}
	return b
}

func (p *pgState) decodeHead(b []byte) error {
	if len(b) > 0 && b[0] != pgRecVersion {
		return fmt.Errorf("%w: %s: record of pg %v has version %d, this program knows %d", ErrFormat, metaName, p.id, b[0], pgRecVersion)
	}
	if len(b) != 33 {
		return fmt.Errorf("%w: %s: record of pg %v", ErrCorrupt, metaName, p.id)
	}
	p.tail, p.committed = versionAt(b[1:]), versionAt(b[17:])
	return nil
}

func versionAt(b []byte) wire.Version {
	return wire.Version{Interval: binary.BigEndian.Uint64(b), N: binary.BigEndian.Uint64(b[8:])}
}
