package store

import "fmt"

// verify walks everything and checks what must always hold: every block that is taken is
// known to exactly one owner, and the promises add up. For tests; nothing may be submitted
// meanwhile.
func (s *Store) verify() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := make(map[uint32]string, s.alloc.total)
	own := func(b uint32, who string) error {
		if !s.alloc.taken(b) {
			return fmt.Errorf("block %d of %s is not taken", b, who)
		}
		if other, dup := owner[b]; dup {
			return fmt.Errorf("block %d belongs to %s and to %s", b, other, who)
		}
		owner[b] = who
		return nil
	}
	if err := own(0, "the header"); err != nil {
		return err
	}
	dirty := 0
	for _, p := range s.pgs {
		after, count, used := "", 0, int64(0)
		for {
			objs, err := s.listLocked(p, after, 100)
			if err != nil {
				return err
			}
			for _, v := range objs {
				o, err := s.object(p, v.Name)
				if err != nil {
					return err
				}
				if !o.exists {
					return fmt.Errorf("%v/%s is listed but absent", p.id, v.Name)
				}
				used += int64(o.used)
				n := uint32(0)
				o.blocks(func(uint32) { n++ })
				if n != o.used {
					return fmt.Errorf("%v/%s has %d blocks, counts %d", p.id, v.Name, n, o.used)
				}
				for i, r := range o.refs {
					if r.phys == 0 {
						continue
					}
					if err := own(r.phys, fmt.Sprintf("%v/%s block %d", p.id, v.Name, i)); err != nil {
						return err
					}
				}
				for _, b := range o.bufs {
					if !b.frozen {
						dirty++
					}
				}
				after = v.Name
				count++
			}
			if len(objs) < 100 {
				break
			}
		}
		if used != p.used {
			return fmt.Errorf("pg %v counts %d blocks, its objects have %d", p.id, p.used, used)
		}
		if count != p.count {
			return fmt.Errorf("pg %v counts %d objects, lists %d", p.id, p.count, count)
		}
	}
	for _, e := range s.freed {
		for b := e.phys; b < e.phys+e.n; b++ {
			if err := own(b, "the freed ones"); err != nil {
				return err
			}
		}
	}
	if dirty != s.dirtyBufs || int(s.reserved) != dirty {
		return fmt.Errorf("%d dirty buffers, counted %d, %d blocks promised", dirty, s.dirtyBufs, s.reserved)
	}
	if n := s.alloc.total - s.alloc.free; !s.ckptBusy && int(n) != len(owner) {
		return fmt.Errorf("%d blocks are taken, %d have an owner", n, len(owner))
	}
	return nil
}
