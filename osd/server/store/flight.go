package store

import "fmt"

// Large writes fly: Submit gives them their blocks and goes on, a few goroutines write them,
// past the page cache where the system can, and a commit waits for those that its records lead
// to. Until a flight has landed its bytes are read from where Submit found them.
//
//	Submit ──▶ flights ──▶ fly (maxFlyers) ──▶ block
//	   └─────▶ log ──▶ commit: wait until they have landed, sync block, write log, sync

const (
	maxFlyers = 4        // goroutines that write
	maxAloft  = 32 << 20 // bytes that Submit lets into the air before it waits
)

// flight is one run of blocks on its way to the block file.
type flight struct {
	at     extent
	data   []byte // belongs to whoever submitted it, who keeps it as it is until it is durable
	taken  bool   // somebody writes it
	landed bool
}

// launch sends the direct writes of pl on their way. Caller holds mu.
func (s *Store) launch(pl *plan) {
	for i := range pl.ops {
		o := &pl.ops[i]
		for a := 0; a < len(o.refs); {
			b := a + 1
			for b < len(o.refs) && o.refs[b].phys == o.refs[a].phys+uint32(b-a) {
				b++
			}
			s.flights = append(s.flights, &flight{at: extent{o.refs[a].phys, uint32(b - a)}, data: o.data[a*BlockBytes : b*BlockBytes]})
			s.launched++
			s.aloft += (b - a) * BlockBytes
			s.fly.Signal()
			a = b
		}
	}
}

// flyLoop writes flights until the store closes.
func (s *Store) flyLoop() {
	defer s.wg.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		f := s.nextFlight()
		if f == nil {
			if s.closing {
				return
			}
			s.fly.Wait()
			continue
		}
		f.taken = true
		s.mu.Unlock()
		err := s.data.writeDirect(f.at, f.data)
		s.mu.Lock()
		if err != nil {
			s.fail(fmt.Errorf("%s: %w", blockName, err))
		}
		s.land(f)
	}
}

// nextFlight is one that nobody writes yet, nil: there is none. Caller holds mu.
func (s *Store) nextFlight() *flight {
	if s.failed != nil {
		return nil
	}
	for _, f := range s.flights {
		if !f.taken {
			return f
		}
	}
	return nil
}

// land counts f, and those that had to wait for it: commits go by the number of flights that
// have landed with all before them. Caller holds mu.
func (s *Store) land(f *flight) {
	f.landed = true
	s.aloft -= len(f.data)
	n := 0
	for n < len(s.flights) && s.flights[n].landed {
		n++
	}
	if n > 0 {
		s.landed += uint64(n)
		k := copy(s.flights, s.flights[n:])
		clear(s.flights[k:])
		s.flights = s.flights[:k]
	}
	s.down.Broadcast()
	s.room.Broadcast()
}

// awaitLanding waits until the first n flights have landed. Caller holds mu.
func (s *Store) awaitLanding(n uint64) error {
	for s.landed < n && s.failed == nil {
		s.down.Wait()
	}
	return s.failed
}

// inFlight is the newest content of a block that may not be in the block file yet; nil: it is.
// Caller holds mu.
func (s *Store) inFlight(phys uint32) []byte {
	for _, f := range s.flights {
		if i := phys - f.at.phys; phys >= f.at.phys && i < f.at.n {
			return f.data[i*BlockBytes : (i+1)*BlockBytes]
		}
	}
	return nil
}
