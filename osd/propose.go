package osd

import (
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// CAS says in the monitors' words what p changes of cfg, the configuration it was made in.
func (p *Proposal) CAS(cfg clustermap.PGConfig, from wire.OSDID, inst wire.Instance) *wire.PGCAS {
	m := &wire.PGCAS{PG: p.PG, Interval: p.Expected, From: from, Instance: inst, Reason: p.Reason,
		AddMembers: minus(p.InSync, cfg.InSync), DropMembers: minus(cfg.InSync, p.InSync),
		AddLearners: minus(p.Learners, cfg.Learners)}
	for _, l := range minus(cfg.Learners, p.Learners) {
		if !slices.Contains(m.AddMembers, l) { // it leaves by becoming a member
			m.DropLearners = append(m.DropLearners, l)
		}
	}
	return m
}

func minus(a, b []clustermap.Member) (out []wire.Member) {
	for _, m := range a {
		if !slices.Contains(b, m) {
			out = append(out, m)
		}
	}
	return out
}
