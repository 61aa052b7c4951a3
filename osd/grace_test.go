package osd

import (
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/wire"
)

// §4.6: a member that lives but does not acknowledge is proposed for removal repl_grace after it
// began to owe, however often it was sent everything again; one that owes nothing never is.
func TestAMemberThatNeverAcknowledgesIsDropped(t *testing.T) {
	w := newTrio(t)
	w.put("o", "hello")
	silent := func() bool {
		return slices.ContainsFunc(w.asked, func(p Proposal) bool { return strings.HasPrefix(p.Reason, "osd.2 has not acknowledged") })
	}
	w.run(100) // 10 s at rest
	if silent() {
		t.Fatal("dropped while it owed nothing")
	}
	w.lose = func(to wire.OSDID, m wire.Message) bool {
		r, ok := m.(*wire.Repl)
		return ok && to == 2 && len(r.Entries) > 0
	}
	w.tid++
	w.osds[0].Step(&Event{Kind: EvOp, Now: w.now, Conn: 1, Tid: w.tid, From: wire.Instance{Kind: wire.KindClient, Nonce: 1},
		Msg: &wire.OSDOp{Epoch: 1, Oldest: w.tid, PG: testPG, Object: "o", Ops: []wire.ObjOp{{Kind: wire.ObjAppend, DataLen: 1, Data: []byte("!")}}}, Data: []byte("!")})
	grace := int(w.osds[0].cfg.GraceNs / 1e8)
	w.run(grace - 5)
	if silent() {
		t.Fatal("dropped before repl_grace was over")
	}
	w.run(15)
	if !silent() {
		t.Fatalf("not proposed for removal: %+v", w.asked)
	}
}
