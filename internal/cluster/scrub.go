package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// PGScrubbed is what a scrub found in one PG.
type PGScrubbed struct {
	PG  string     `json:"pg"`
	OSD wire.OSDID `json:"osd"` // that led it
	osd.ScrubSum
}

// Text is the sum for people.
func (s *PGScrubbed) Text() string {
	if s.Running {
		return fmt.Sprintf("pg %s: begun on osd.%d", s.PG, s.OSD)
	}
	t := fmt.Sprintf("pg %s: %d objects", s.PG, s.Objects)
	if s.Deep {
		t += fmt.Sprintf(", %s read on each replica", SizeText(s.Bytes))
	}
	for _, n := range []struct {
		n    uint64
		what string
	}{{s.Bad, "copies with a wrong checksum"}, {s.Differ, "copies that differ from the majority"}, {s.Mended, "copies replaced"},
		{s.Unsure, "OBJECTS OF WHICH NO COPY IS SURELY GOOD"}, {s.Skipped, "left out, being written"}} {
		if n.n > 0 {
			t += fmt.Sprintf(", %d %s", n.n, n.what)
		}
	}
	return t
}

// Scrub has the primaries examine one PG, or "all" of them one after the other; wait: until
// each is done. An error says that something could not be examined, or is not whole.
func (e *Env) Scrub(ctx context.Context, pg string, deep, repair, wait bool) (sums []PGScrubbed, err error) {
	self := instance(wire.KindTool, 0)
	m, err := e.dialMons(ctx, self)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	found := false
	var errs []error
	for _, id := range m.OSDMap().PGIDs() {
		if pg != "all" && pg != id.String() {
			continue
		}
		found = true
		s, err := e.scrubOne(ctx, m, self, id, &wire.PGScrub{PG: id, Deep: deep, Repair: repair}, wait)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sums = append(sums, *s)
		if s.Unsure > 0 {
			errs = append(errs, fmt.Errorf("pg %v: %d objects of which no copy is surely good", id, s.Unsure))
		}
	}
	if !found {
		return nil, fmt.Errorf("no PG %q (`capstan pg ls` lists them; `all` examines every one)", pg)
	}
	return sums, errors.Join(errs...)
}

func (e *Env) scrubOne(ctx context.Context, m *monc.Client, self wire.Instance, id wire.PGID, ask *wire.PGScrub, wait bool) (*PGScrubbed, error) {
	cfg, _ := m.OSDMap().Config(id)
	o, ok := m.OSDMap().OSD(cfg.Primary)
	if !ok || !o.Up {
		return nil, fmt.Errorf("pg %v has no primary now", id)
	}
	c, err := msgr.DialCaller(ctx, e.Net, o.Addr, msgr.Peer{Instance: self, Cluster: m.OSDMap().Cluster}, nil)
	if err != nil {
		return nil, fmt.Errorf("pg %v: osd.%d: %w", id, o.ID, err)
	}
	defer c.Close()
	s := &PGScrubbed{PG: id.String(), OSD: o.ID}
	for again := false; ; again = true {
		r, _, err := c.Call(ctx, ask)
		if err != nil {
			return nil, fmt.Errorf("pg %v: osd.%d: %w", id, o.ID, err)
		}
		a, ok := r.(*wire.PGScrubReply)
		if !ok {
			return nil, fmt.Errorf("pg %v: osd.%d answers %v", id, o.ID, r.WireType())
		}
		if a.Errno != 0 && !again {
			return nil, errors.New(a.Text)
		}
		s.ScrubSum = osd.ScrubSum{Deep: a.Deep, Running: a.Running, Objects: a.Objects, Bytes: a.Bytes, Skipped: a.Skipped, Bad: a.Bad, Differ: a.Differ, Mended: a.Mended, Unsure: a.Unsure}
		if !a.Running || !wait {
			return s, nil
		}
		ask = &wire.PGScrub{PG: id, Look: true}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
