package cluster

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/wrong"
	"github.com/capstan-fs/capstan/wire"
)

// docs/health.md lists the codes that there are.
func TestHealthDocsAreFresh(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHealthDocs(&b); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/health.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, b.Bytes()) {
		t.Error("docs/health.md is stale: run make docs")
	}
}

// Every warning that the maps can give has a code of the table, a subject, a cause and a help, and
// the worst decides the exit status.
func TestEachTroubleHasACode(t *testing.T) {
	whole := func() (*clustermap.OSDMap, *clustermap.FSMap) {
		om := &clustermap.OSDMap{OSDs: map[wire.OSDID]clustermap.OSD{0: {ID: 0, Up: true, In: true}, 1: {ID: 1, Up: true, In: true}},
			Pools: map[uint32]clustermap.Pool{1: {Size: 2, MinSize: 1}}, PGs: map[wire.PGID]clustermap.PGConfig{{Pool: 1}: {Primary: 0, InSync: []clustermap.Member{{ID: 0}, {ID: 1}}}}}
		fm := &clustermap.FSMap{MaxRanks: 1, Ranks: map[wire.Rank]clustermap.RankInfo{0: {State: clustermap.RankActive}}}
		return om, fm
	}
	om, fm := whole()
	if s := statusOf(om, fm); len(s.Warnings) > 0 || s.Health != "ok" {
		t.Fatalf("a whole cluster: %+v", s.Warnings)
	}
	pool := om.Pools[1]
	pool.Name, pool.PGNum, pool.PGTarget = "data", 3, 8
	om.Pools[1] = pool
	if s := statusOf(om, fm); len(s.Growing) != 1 || !strings.Contains(s.Text(), "\ngrowing  pool data has 3 of 8 PGs\n") || s.Health != "ok" {
		t.Fatalf("a pool that grows: %s", s.Text())
	}
	for _, c := range []struct {
		code string
		exit int
		hurt func(*clustermap.OSDMap, *clustermap.FSMap)
	}{
		{"OSD_DOWN", 1, func(o *clustermap.OSDMap, _ *clustermap.FSMap) { o.OSDs[1] = clustermap.OSD{ID: 1, In: true} }},
		{"PG_DEGRADED", 1, func(o *clustermap.OSDMap, _ *clustermap.FSMap) {
			o.PGs[wire.PGID{Pool: 1}] = clustermap.PGConfig{Primary: 0, InSync: []clustermap.Member{{ID: 0}}}
		}},
		{"PG_STUCK", 2, func(o *clustermap.OSDMap, _ *clustermap.FSMap) {
			o.PGs[wire.PGID{Pool: 1}] = clustermap.PGConfig{Primary: wire.NoOSD, InSync: []clustermap.Member{{ID: 0}}}
		}},
		{"OSD_FULL", 2, func(o *clustermap.OSDMap, _ *clustermap.FSMap) { o.Full = true }},
		{"OSD_NEARFULL", 1, func(o *clustermap.OSDMap, _ *clustermap.FSMap) { o.NearFull = true }},
		{"RANK_NONE", 2, func(_ *clustermap.OSDMap, f *clustermap.FSMap) { delete(f.Ranks, 0) }},
		{"RANK_FAILED", 2, func(_ *clustermap.OSDMap, f *clustermap.FSMap) {
			f.Ranks[0] = clustermap.RankInfo{State: clustermap.RankFailed}
		}},
		{"RANK_DAMAGED", 2, func(_ *clustermap.OSDMap, f *clustermap.FSMap) {
			f.Ranks[0] = clustermap.RankInfo{State: clustermap.RankDamaged}
		}},
		{"RANK_FAILED", 2, func(_ *clustermap.OSDMap, f *clustermap.FSMap) {
			f.MaxRanks, f.Ranks[1] = 2, clustermap.RankInfo{State: clustermap.RankNone}
		}},
		{"RANK_SURPLUS", 1, func(_ *clustermap.OSDMap, f *clustermap.FSMap) {
			f.Ranks[1] = clustermap.RankInfo{State: clustermap.RankActive, Created: true}
		}},
		{"RANK_RECOVERING", 1, func(_ *clustermap.OSDMap, f *clustermap.FSMap) {
			f.Ranks[0] = clustermap.RankInfo{State: clustermap.RankReplay}
		}},
	} {
		om, fm := whole()
		c.hurt(om, fm)
		s := statusOf(om, fm)
		h := healthOf(s.Warnings)
		found := false
		for _, w := range h.Warnings {
			if w.Code == c.code {
				found = true
			}
			if w.Subject == "" || w.What == "" || w.Do == "" || w.Severity != sevWarn && w.Severity != sevError {
				t.Errorf("%s: incomplete: %+v", c.code, w)
			}
		}
		if !found || h.Exit() != c.exit || !strings.Contains(s.Text(), c.code) {
			t.Errorf("%s: found %v, exit %d, want %d: %+v", c.code, found, h.Exit(), c.exit, h.Warnings)
		}
	}
	om, fm = whole()
	s := statusOf(om, fm)
	if err := s.addDamaged([]byte(`[{"pg":"1.0","broken":0},{"pg":"1.2","broken":2,"broken_names":["10000000001.00000000.dir","x"]}]`)); err != nil {
		t.Fatal(err)
	}
	if h := healthOf(s.Warnings); h.Exit() != 2 || len(h.Warnings) != 1 || h.Warnings[0].Subject != "pg 1.2" || !strings.Contains(h.Text(), "10000000001.00000000.dir, x") || !strings.Contains(h.Text(), "pg query 1.2") || s.Health == "ok" {
		t.Errorf("damaged objects: %+v", h)
	}
	om, fm = whole()
	s = statusOf(om, fm)
	bugs, err := wrong.Parse([]string{wrong.Faults[0].Name})
	if err != nil {
		t.Fatal(err)
	}
	s.sayWrong(bugs)
	if h := healthOf(s.Warnings); h.Exit() != 2 || h.Warnings[0].Code != "WRONG" {
		t.Errorf("seeded bugs: %+v", h)
	}
}
