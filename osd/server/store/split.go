package store

import (
	"bytes"
	"fmt"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// A split moves keys, never data: a record of meta.db leads to blocks and to an omap by their
// numbers, so it means the same under another PG's prefix. It goes by the database alone. A
// checkpoint first brings that up to the end of the log, and mu is held from there on; one
// database transaction then moves the records and copies log and values, which is what makes the
// split atomic and durable. The log needs no record of it: it begins behind.
//
// Nothing is served meanwhile. Of what is moved the database writes what an object's record
// takes, 4 bytes for each of its blocks and some 60 beside.

// Split implements osd.Store.
func (s *Store) Split(d *osd.Split) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.allStored(); err != nil {
		return err
	}
	err := s.split(d)
	if err != nil {
		err = fmt.Errorf("pg %v is to be divided: %w", d.PG, err)
		s.fail(err)
	}
	return err
}

// allStored waits until meta.db has everything. Caller holds mu.
func (s *Store) allStored() error {
	for {
		switch {
		case s.failed != nil:
			return s.failed
		case s.closing:
			return ErrClosed
		case !s.ckptBusy && s.w.End() == s.header.Expire.Pos && !s.moved:
			return nil
		}
		if !s.ckptBusy {
			s.askCheckpoint()
		}
		s.room.Wait()
	}
}

func (s *Store) split(d *osd.Split) error {
	into := map[wire.PGID]*pgState{}
	for _, id := range d.Into {
		if p := s.pgs[id]; p != nil && !p.empty() {
			return fmt.Errorf("%w: pg %v is there already", ErrCorrupt, id)
		}
		delete(s.pgs, id) // whoever was there has left nothing but what the cache remembers as absent
		into[id] = s.pg(id)
	}
	p := s.pgs[d.PG]
	if p == nil {
		return nil
	}
	b := newBatch()
	moved, err := s.moveRecords(b, p, d.Of, into)
	if err != nil {
		return err
	}
	for _, c := range into {
		c.copyLog(b, p)
		for k, v := range p.meta {
			c.meta[k] = v
			b.set(bktMeta, append(pgKey(c.id), k...), v)
		}
	}
	for _, kv := range d.Meta {
		for _, c := range into {
			c.meta[kv.Key] = kv.Val
			b.set(bktMeta, append(pgKey(c.id), kv.Key...), kv.Val)
		}
		b.set(bktMeta, append(pgKey(p.id), kv.Key...), kv.Val)
	}
	if err := s.updateMeta(b); err != nil {
		return fmt.Errorf("%s: %w", metaName, err)
	}
	for _, kv := range d.Meta {
		p.meta[kv.Key] = kv.Val
	}
	for _, c := range into {
		p.count -= c.count
		p.used -= c.used
	}
	for _, name := range moved { // the next to ask reads it under its new PG
		if o := p.objs[name]; o != nil {
			s.lru.remove(o)
			delete(p.objs, name)
		}
	}
	return nil
}

// moveRecords puts into b what takes p's objects to where they belong, and counts them there.
func (s *Store) moveRecords(b *batch, p *pgState, of func(string) wire.PGID, into map[wire.PGID]*pgState) (moved []string, err error) {
	prefix := pgKey(p.id)
	var bad error
	err = s.meta.scan(bktObj, prefix, func(k, v []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		name := string(k[8:])
		to := of(name)
		if to == p.id {
			return true
		}
		c := into[to]
		if c == nil {
			bad = fmt.Errorf("object %q is to go to pg %v", name, to)
			return false
		}
		o := object{pg: c, name: name}
		if bad = o.decode(v); bad != nil {
			return false
		}
		c.count++
		c.used += int64(o.used)
		b.set(bktObj, append(pgKey(to), name...), append([]byte{}, v...))
		b.set(bktObj, append(pgKey(p.id), name...), nil)
		moved = append(moved, name)
		return true
	})
	if bad != nil {
		err = bad
	}
	return moved, err
}

// copyLog gives c the log of p.
func (c *pgState) copyLog(b *batch, p *pgState) {
	c.tail, c.committed = p.tail, p.committed
	c.log = append([]logRec{}, p.log...)
	for _, r := range c.log {
		b.set(bktLog, logKey(c.id, r.Version), append([]byte{}, r.Rec...))
	}
	b.set(bktPG, pgKey(c.id), c.encodeHead())
}
