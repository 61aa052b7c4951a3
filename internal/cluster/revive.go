package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// PGCopies is who has a copy of a PG, for whoever must choose one when the members are lost.
type PGCopies struct {
	PG     string              `json:"pg"`
	Lost   bool                `json:"lost"` // the stores of all members are gone
	InSync []clustermap.Member `json:"in_sync"`
	Copies []PGCopy            `json:"copies"`           // the newest first
	Silent []string            `json:"silent,omitempty"` // OSDs that could not be asked, and why

	id wire.PGID
}

// PGCopy is what one OSD has of a PG.
type PGCopy struct {
	OSD       wire.OSDID `json:"osd"`
	Role      string     `json:"role"`
	Whole     bool       `json:"whole"` // no copying to it was begun and not ended
	Last      string     `json:"log_last"`
	Committed string     `json:"committed"`
	Objects   uint64     `json:"objects"`

	last wire.Version
}

// Text is a line of each for people.
func (c *PGCopies) Text() string {
	var b strings.Builder
	state := "is served by its members"
	if c.Lost {
		state = "is LOST: the stores of all its members are gone"
	}
	fmt.Fprintf(&b, "pg %s %s\n", c.PG, state)
	for _, x := range c.Copies {
		what := "whole"
		if !x.Whole {
			what = "PART of a copy"
		}
		fmt.Fprintf(&b, "  osd.%-4d %-8s %s, %d objects, log ends at %s (committed, as it knows: %s)\n", x.OSD, x.Role, what, x.Objects, x.Last, x.Committed)
	}
	if len(c.Copies) == 0 {
		b.WriteString("  no OSD that is up has anything of it\n")
	}
	for _, s := range c.Silent {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	return b.String()
}

// PGCopies asks every OSD that is up what it has of the PG.
func (e *Env) PGCopies(ctx context.Context, pg string) (*PGCopies, error) {
	self := instance(wire.KindTool, 0)
	m, err := e.dialMons(ctx, self)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return e.copies(ctx, m, self, pg)
}

func (e *Env) copies(ctx context.Context, m *monc.Client, self wire.Instance, pg string) (*PGCopies, error) {
	om := m.OSDMap()
	i := slices.IndexFunc(om.PGIDs(), func(id wire.PGID) bool { return id.String() == pg })
	if i < 0 {
		return nil, fmt.Errorf("no PG %q (`capstan pg ls` lists them)", pg)
	}
	id := om.PGIDs()[i]
	cfg := om.PGs[id]
	c := &PGCopies{PG: pg, id: id, Lost: om.Lost(cfg), InSync: cfg.InSync, Copies: []PGCopy{}}
	for _, o := range om.OSDIDs() {
		d := om.OSDs[o]
		if !d.Up {
			c.Silent = append(c.Silent, fmt.Sprintf("osd.%d is down: it may have a newer copy", o))
			continue
		}
		a, err := e.look(ctx, om, self, d, id)
		switch {
		case err != nil:
			c.Silent = append(c.Silent, fmt.Sprintf("osd.%d does not answer: %v", o, err))
		case a.Have:
			c.Copies = append(c.Copies, PGCopy{OSD: o, Role: a.Role, Whole: a.Whole, Last: a.Last.String(), Committed: a.Committed.String(), Objects: a.Objects, last: a.Last})
		}
	}
	slices.SortStableFunc(c.Copies, func(a, b PGCopy) int {
		switch {
		case a.Whole != b.Whole && a.Whole, a.Whole == b.Whole && b.last.Less(a.last):
			return -1
		case a.Whole != b.Whole, a.last.Less(b.last):
			return 1
		}
		return 0
	})
	return c, nil
}

func (e *Env) look(ctx context.Context, om *clustermap.OSDMap, self wire.Instance, d clustermap.OSD, id wire.PGID) (*wire.PGLooked, error) {
	c, err := msgr.DialCaller(ctx, e.Net, d.Addr, msgr.Peer{Instance: self, Cluster: om.Cluster}, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, _, err := c.Call(ctx, &wire.PGLook{PG: id})
	if err != nil {
		return nil, err
	}
	a, ok := r.(*wire.PGLooked)
	if !ok {
		return nil, fmt.Errorf("it answers %v", r.WireType())
	}
	return a, nil
}

// Revive makes the copy of an OSD the only member of a PG that is lost. It returns what that may
// lose; with do false it does no more than that.
func (e *Env) Revive(ctx context.Context, pg string, osd wire.OSDID, do bool) (loss string, err error) {
	self := instance(wire.KindTool, 0)
	m, err := e.dialMons(ctx, self)
	if err != nil {
		return "", err
	}
	defer m.Close()
	c, err := e.copies(ctx, m, self, pg)
	if err != nil {
		return "", err
	}
	if !c.Lost {
		for _, mb := range c.InSync {
			if !m.OSDMap().StoreGone(mb) {
				return "", fmt.Errorf("pg %s is not lost: osd.%d has store %v, as far as the monitors know; start that OSD with it, or, if that disk is dead, with an empty directory", pg, mb.ID, mb.UUID)
			}
		}
	}
	if loss, err = c.loss(osd); err != nil || !do {
		return loss, err
	}
	return loss, revive(ctx, m, pg, osd)
}

// loss is what may be lost when the PG goes on with the copy of an OSD; an error: it has none.
func (c *PGCopies) loss(osd wire.OSDID) (string, error) {
	i := slices.IndexFunc(c.Copies, func(x PGCopy) bool { return x.OSD == osd })
	if i < 0 {
		return "", fmt.Errorf("osd.%d has nothing of pg %s:\n%s", osd, c.PG, c.Text())
	}
	x := c.Copies[i]
	loss := fmt.Sprintf("pg %s will go on with what osd.%d has: %d objects, the last change of its log is %s. What was written after it had left the PG is lost, if anything was", c.PG, osd, x.Objects, x.Last)
	if !x.Whole {
		loss += "; it was being filled when its source was lost: OBJECTS THAT IT LACKS WILL BE GONE"
	}
	if i > 0 {
		loss += fmt.Sprintf("; osd.%d has a better copy (log ends at %s)", c.Copies[0].OSD, c.Copies[0].Last)
	}
	if len(c.Silent) > 0 {
		loss += "; " + strings.Join(c.Silent, "; ")
	}
	return loss, nil
}

// without says why a PG is not to go on with the copy of an OSD when all are meant that this one is
// best for; empty: it is.
func (c *PGCopies) without(osd wire.OSDID) string {
	i := slices.IndexFunc(c.Copies, func(x PGCopy) bool { return x.OSD == osd })
	switch {
	case len(c.Copies) == 0 && len(c.Silent) > 0:
		return "no OSD that is up has anything of it; " + strings.Join(c.Silent, "; ")
	case len(c.Copies) == 0:
		return "no OSD that is up has anything of it: `capstan pg give-up` goes on with nothing"
	case i < 0:
		return fmt.Sprintf("osd.%d has nothing of it, osd.%d has", osd, c.Copies[0].OSD)
	case !c.Copies[i].Whole:
		return fmt.Sprintf("osd.%d has a part of a copy: `capstan pg revive %s osd.%d` says what that means", osd, c.PG, osd)
	case c.Copies[0].last != c.Copies[i].last:
		return fmt.Sprintf("osd.%d has a better copy", c.Copies[0].OSD)
	}
	return ""
}

// Revived is a lost PG that goes on with an OSD's copy, or would, or why it does not.
type Revived struct {
	PG   string `json:"pg"`
	Loss string `json:"may_lose,omitempty"`
	Left string `json:"left_out,omitempty"`
}

// ReviveAll is Revive for every lost PG of which the OSD has a whole copy and nobody a newer one.
// With an error it says how far it came.
func (e *Env) ReviveAll(ctx context.Context, osd wire.OSDID, do bool) ([]Revived, error) {
	self := instance(wire.KindTool, 0)
	m, err := e.dialMons(ctx, self)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	om, out := m.OSDMap(), []Revived{}
	for _, id := range om.PGIDs() {
		if slices.ContainsFunc(om.PGs[id].InSync, func(mb clustermap.Member) bool { return !om.StoreGone(mb) }) {
			continue
		}
		c, err := e.copies(ctx, m, self, id.String())
		if err != nil {
			return out, err
		}
		r := Revived{PG: c.PG, Left: c.without(osd)}
		if r.Left == "" {
			if r.Loss, err = c.loss(osd); err == nil && do {
				err = revive(ctx, m, c.PG, osd)
			}
			if err != nil {
				return out, fmt.Errorf("pg %s: %w", c.PG, err)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func revive(ctx context.Context, m *monc.Client, pg string, osd wire.OSDID) error {
	_, err := monCommand(ctx, m, "pg", "revive", pg, fmt.Sprintf("osd.%d", osd))
	return err
}
