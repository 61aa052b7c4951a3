package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/osd"
)

// load reads what the last checkpoint stored: PGs with logs and values, and from every object
// record the blocks that are taken.
func (s *Store) load() error {
	rec, err := s.meta.get(bktState, []byte("header"))
	if err != nil {
		return err
	}
	if rec != nil {
		if s.header, err = journal.DecodeHeader(rec); err != nil {
			return fmt.Errorf("%s: %w; %s", metaName, err, giveUp)
		}
	}
	if rec, err = s.meta.get(bktState, []byte("omap")); err != nil {
		return err
	} else if len(rec) == 8 {
		s.nextOmap = binary.BigEndian.Uint64(rec)
	}
	each := func(bucket byte, min int, fn func(p *pgState, k, v []byte) error) error {
		var bad error
		err := s.meta.scan(bucket, nil, func(k, v []byte) bool {
			if len(k) < min {
				bad = fmt.Errorf("%w: %s: key %x in bucket %c; %s", ErrCorrupt, metaName, k, bucket, giveUp)
			} else {
				bad = fn(s.pg(pgOfKey(k)), k[8:], v)
			}
			return bad == nil
		})
		if bad != nil {
			return bad
		}
		return err
	}
	if err := each(bktPG, 8, func(p *pgState, _, v []byte) error { return p.decodeHead(v) }); err != nil {
		return err
	}
	if err := each(bktMeta, 8, func(p *pgState, k, v []byte) error {
		p.meta[string(k)] = append([]byte{}, v...)
		return nil
	}); err != nil {
		return err
	}
	if err := each(bktLog, 24, func(p *pgState, k, v []byte) error {
		p.log = append(p.log, logRec{osd.LogRec{Version: versionAt(k), Rec: append([]byte{}, v...)}, true})
		return nil
	}); err != nil {
		return err
	}
	return each(bktObj, 8, func(p *pgState, k, v []byte) error {
		o := object{pg: p, name: string(k)}
		if err := o.decode(v); err != nil {
			return err
		}
		p.count++
		p.used += int64(o.used)
		for _, r := range o.refs {
			if r.phys != 0 {
				if err := s.claim(&o, extent{r.phys, 1}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// claim takes blocks that a record leads to.
func (s *Store) claim(o *object, e extent) error {
	if !s.alloc.valid(e) || s.alloc.anyTaken(e) {
		return fmt.Errorf("%w: pg %v object %q: blocks %d+%d lie outside of %s or belong to another object too; %s",
			ErrCorrupt, o.pg.id, o.name, e.phys, e.n, blockName, giveUp)
	}
	s.alloc.take(e)
	return nil
}

// recover applies the log, makes what it applied durable, and prepares the log for a new
// writer (journal's package comment gives the order and why).
func (s *Store) recover() error {
	var parts bytes.Buffer
	end, err := journal.Replay(s.wal.read(s.header.Expire.Pos), s.header, s.o.Limits, func(r journal.Record) error {
		if len(r.Data) == 0 {
			return fmt.Errorf("%w: empty record at %d of %s; %s", ErrCorrupt, r.Pos, walName, giveUp)
		}
		if r.Data[0]&partFirst != 0 {
			parts.Reset()
		}
		parts.Write(r.Data[1:])
		if r.Data[0]&partLast == 0 {
			return nil
		}
		rec := append([]byte{}, parts.Bytes()...)
		parts.Reset()
		if err := s.replay(rec); err != nil {
			return fmt.Errorf("record at %d of %s: %w", r.Pos, walName, err)
		}
		s.count.Replayed++
		return nil
	})
	if errors.Is(err, journal.ErrHole) {
		return fmt.Errorf("%w: %s: %w; %s", ErrCorrupt, walName, err, giveUp)
	} else if err != nil {
		return err
	}
	// A process that died may have left all this in the page cache only.
	if err := s.data.f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", blockName, err)
	}
	off, n := journal.Wipe(end.Pos, s.o.Limits)
	zero := make([]byte, min(n, 1<<20))
	for n > 0 {
		k := min(n, len(zero))
		if err := s.wal.write(off, zero[:k]); err != nil {
			return fmt.Errorf("%s: %w", walName, err)
		}
		off += journal.Pos(k)
		n -= k
	}
	if err := s.wal.f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", walName, err)
	}
	inc := max(end.Inc, s.header.Inc) + 1
	s.w = journal.NewWriter(end.Mark, inc, s.o.Limits)
	c := s.freeze()
	c.mark = end.Mark
	h := journal.Header{Expire: end.Mark, Inc: inc, Start: end.Pos, Durable: end.Pos}
	if err := s.writeFrozen(); err != nil {
		return fmt.Errorf("%s: %w", blockName, err)
	}
	c.batch.set(bktState, []byte("header"), h.Encode())
	if err := s.meta.update(c.batch); err != nil {
		return fmt.Errorf("%s: %w", metaName, err)
	}
	s.finish(c, h)
	s.count.Checkpoints = 0
	return nil
}

// replay applies one transaction of the log.
func (s *Store) replay(rec []byte) error {
	pl, err := decodePlan(rec)
	if err != nil {
		return err
	}
	p := s.pg(pl.t.PG)
	for k := range pl.t.Objs {
		for _, x := range pl.objOps(k) {
			for _, r := range x.refs {
				if err := s.claim(&object{pg: p, name: pl.t.Objs[k].Name}, extent{r.phys, 1}); err != nil {
					return err
				}
			}
		}
	}
	if err := p.checkLog(pl.t); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if err := s.apply(pl); err != nil {
		return err
	}
	must.Holdf(s.reserved <= s.alloc.free, "replay needs %d blocks, %d free", s.reserved, s.alloc.free)
	return nil
}
