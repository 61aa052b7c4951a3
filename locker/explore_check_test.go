package locker

import (
	"fmt"
	"strings"
)

// check is §3.2 over the present world: "" or the broken rule.
func (ex *explorer) check() string {
	if ex.broken != "" {
		return ex.broken
	}
	for i := range ex.at {
		if why := ex.checkClient(i); why != "" {
			return why
		}
	}
	for r := range ex.nr {
		if ex.w.rep[r].absent == 0 {
			if why := ex.checkReplica(r); why != "" {
				return why
			}
		}
	}
	return ex.checkAuth()
}

func (ex *explorer) deltas() bool {
	any := ex.w.delta != 0
	for r := range ex.nr {
		any = any || ex.w.rep[r].owes()
	}
	return any
}

// checkClient: B0, C1, C2, L1, X2, SO1 and G1s of one client against everybody.
func (ex *explorer) checkClient(i int) string {
	w := &ex.w
	t := types[ex.typ].table
	row := t.Row(State(w.state))
	c := &w.cl[i]
	wx := uint8(lw | lx)
	if c.H&^c.B != 0 || c.P&^c.B != 0 {
		return fmt.Sprintf("B0: c%d H=%v B=%v P=%v", i+1, Letters(c.H), Letters(c.B), Letters(c.P))
	}
	for j := range ex.at {
		d := &w.cl[j]
		if i != j && c.H&uint8(lx|lb) != 0 && d.H != 0 {
			return fmt.Sprintf("C1: c%d %v beside c%d %v", i+1, Letters(c.H), j+1, Letters(d.H))
		}
		if i != j && c.H&uint8(lw) != 0 && d.H&uint8(ls|lc) != 0 {
			return fmt.Sprintf("C2: c%d %v beside c%d %v", i+1, Letters(c.H), j+1, Letters(d.H))
		}
	}
	readers := w.rd &^ (2 << i)
	for r := range ex.nr {
		readers |= w.rep[r].rd
	}
	if readers != 0 && (c.H&wx != 0 || c.H&uint8(lb) != 0 && !strings.Contains(row.Name, "xsyn")) {
		return fmt.Sprintf("L1: rd in %s while c%d holds %v", row.Name, i+1, Letters(c.H))
	}
	if w.x&16 != 0 {
		ok := uint8(0)
		if ex.typ == IFile {
			ok = uint8(lc)
		}
		if State(w.state) == t.xlockDone && int(w.x&15)-1 == i+1 {
			ok |= uint8(ls)
		}
		if c.H&^ok != 0 {
			return fmt.Sprintf("X2: x held in %s while c%d holds %v", row.Name, i+1, Letters(c.H))
		}
	}
	if row.Get != Nobody && c.H&wx != 0 {
		return fmt.Sprintf("G1s: get in %s while c%d holds %v", row.Name, i+1, Letters(c.H))
	}
	for r := range ex.nr {
		if w.rep[r].absent == 0 && t.Row(State(w.rep[r].state)).Get == ByAny && c.H&wx != 0 {
			return fmt.Sprintf("G1s: get at mds.%d while c%d holds %v", r, i+1, Letters(c.H))
		}
	}
	home := &ex.home(i).locks[0]
	if home.replica() && w.rep[ex.at[i]-1].absent != 0 {
		if c.B != 0 {
			return fmt.Sprintf("B0: c%d is issued %v of a copy that is gone", i+1, Letters(c.B))
		}
	} else if hr := home.row(); hr.Steady && c.B&^six(home.letters(hr, uint64(i+1), uint64(w.loner), home.replica())) != 0 {
		return fmt.Sprintf("SO1: in %s c%d is issued %v", hr.Name, i+1, Letters(c.B))
	}
	return ""
}

// checkReplica: L2, X1, M1, M2, S1 and G1s of one copy.
func (ex *explorer) checkReplica(r int) string {
	w := &ex.w
	t := types[ex.typ].table
	row := t.Row(State(w.state))
	rep := &w.rep[r]
	rr := t.Row(State(rep.state))
	wr := ex.replicaWr()
	if rep.rd != 0 && (w.wr != 0 || wr || w.flush != 0) {
		return fmt.Sprintf("L2: rd at mds.%d beside wr", r)
	}
	if w.x&16 != 0 && (rep.rd != 0 || rep.wr != 0) {
		return fmt.Sprintf("X1: x beside a hold at mds.%d", r)
	}
	if rep.rd != 0 && ex.deltas() {
		return fmt.Sprintf("S1: a delta under rd at mds.%d", r)
	}
	if rr.Name == "sync" {
		if !strings.HasPrefix(row.Name, "sync") {
			return fmt.Sprintf("M1: mds.%d sync, auth %s", r, row.Name)
		}
		if ex.deltas() {
			return "S1: a delta while a replica is in sync"
		}
	}
	if rr.Name == "mix" && !strings.HasPrefix(row.Name, "mix") {
		return fmt.Sprintf("M2: mds.%d mix, auth %s", r, row.Name)
	}
	if rr.Get == ByAny && (w.wr != 0 || w.x&16 != 0 || wr) {
		return fmt.Sprintf("G1s: get at mds.%d beside a writer", r)
	}
	return ""
}

func (ex *explorer) replicaWr() bool {
	for r := range ex.nr {
		if ex.w.rep[r].wr != 0 {
			return true
		}
	}
	return false
}

// checkAuth: SO1, L2, S1, G1s, X1, Q1 and F1 of the authoritative lock.
func (ex *explorer) checkAuth() string {
	w := &ex.w
	row := types[ex.typ].table.Row(State(w.state))
	if w.loner == 0 && row.forLoner {
		return "SO1: " + row.Name + " without a loner"
	}
	wr := ex.replicaWr()
	for o := 0; o <= len(ex.at); o++ {
		if w.rd&(1<<o) == 0 {
			continue
		}
		if w.wr&^(1<<o) != 0 || wr {
			return "L2: rd beside wr in " + row.Name
		}
		if w.flush&^(1<<o) != 0 && !strings.Contains(row.Name, "xsyn") {
			return "L2: rd beside a forced write in " + row.Name
		}
	}
	if ex.deltas() && (w.rd&1 != 0 || row.Name == "sync" || row.Name == "tsyn") {
		return "S1: a delta in " + row.Name
	}
	if row.Get != Nobody && wr {
		return "G1s: get at auth, wr at a replica"
	}
	if w.x&16 != 0 {
		o := int(w.x&15) - 1
		if (w.rd|w.wr|w.flush)&^(1<<o) != 0 {
			return "X1: x beside other holds in " + row.Name
		}
	}
	if row.Steady && w.gather != 0 {
		return "Q1: gather open in " + row.Name
	}
	for r := range ex.nr {
		if w.gather>>r&1 != 0 && w.rep[r].known == 0 {
			return fmt.Sprintf("V5: mds.%d is awaited and gone", r)
		}
	}
	if pinned := !row.Steady; pinned != (ex.pins == 1) || ex.pins > 1 {
		return fmt.Sprintf("F1: %d pins in %s", ex.pins, row.Name)
	}
	if w.frozen == frozen && (!row.Steady || w.rd|w.wr|w.flush|w.x != 0) {
		return "F1: frozen in " + row.Name
	}
	return ""
}
