package osdsim

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

func (n *node) clientOp(conn int, inst wire.Instance, tid wire.Tid, front, data []byte) {
	m := new(wire.OSDOp)
	if err := wire.Unmarshal(front, m); err != nil {
		n.w.fail("op: %v", err)
		return
	}
	n.step(&osd.Event{Kind: osd.EvOp, Conn: osd.ConnID(conn), From: inst, Tid: tid, Msg: m, Data: data})
}

// logged notes, for I6, entries of instances that were blocklisted at or below a barrier that
// this PG had answered under. A deposed primary may still log such a thing: it has not heard.
func (w *World) logged(pg wire.PGID, h *wire.LogEntry) {
	if b, ok := w.mon.M.Blocklist[h.Client]; ok && b.Since <= w.barrier[pg] {
		w.fenced[versionKey{pg, h.Version}] = fmt.Sprintf("logged at %.3fs, fenced since epoch %d, barrier %d had been answered", float64(w.now)/1e9, b.Since, w.barrier[pg])
	}
}

// committed is I6: what was logged behind the fence must never take effect.
func (w *World) committed(pg wire.PGID, h *wire.LogEntry) {
	if why, ok := w.fenced[versionKey{pg, h.Version}]; ok {
		w.fail("I6: pg %v: %v, tid %d of %v, is committed: %s", pg, h.Version, h.Tid, h.Client, why)
	}
}

// replied checks I5: one tid, one version; and notes the barrier that was answered.
func (w *World) replied(n *node, c *client, tid wire.Tid, m *wire.OSDReply) {
	for _, q := range c.open {
		if q.tid != tid {
			continue
		}
		w.barrier[q.pg] = max(w.barrier[q.pg], q.first)
		if q.rec.kind == kRead {
			return
		}
		k := tidKey{c.inst, tid}
		if v, ok := w.versions[k]; ok && v != m.Version {
			w.fail("I5: %v of %v was answered as %v and as %v", tid, c.inst, v, m.Version)
		}
		w.versions[k] = m.Version
	}
}

// settled: every op of a living client is answered, every PG has its replicas and is idle.
func (w *World) settled() bool { return w.unsettled() == "" }

func (w *World) unsettled() string {
	for _, c := range w.clients {
		if !c.dead && len(c.open) > 0 {
			return fmt.Sprintf("c%d waits for tid %d: %v\n%s", c.num, c.open[0].tid, c.open[0].rec, w.states())
		}
	}
	for pg, cfg := range w.mon.M.PGs {
		if len(cfg.InSync) != min(3, len(w.nodes)) || cfg.Primary == wire.NoOSD {
			return fmt.Sprintf("pg %v: S is %v, primary %d\n%s", pg, members(cfg.InSync), cfg.Primary, w.states())
		}
	}
	for _, n := range w.nodes {
		if n.core == nil || n.store.Pending() > 0 {
			return fmt.Sprintf("osd.%d is not idle", n.id)
		}
		for _, s := range n.core.Query(n.clock()) {
			if s.Role == "primary" && (!s.Active || s.Uncommitted > 0 || s.Parked > 0) || n.m.Epoch != w.mon.M.Epoch {
				return fmt.Sprintf("%+v", s)
			}
		}
	}
	return ""
}

func (w *World) states() string {
	var b strings.Builder
	for _, n := range w.nodes {
		if n.core == nil {
			continue
		}
		for _, s := range n.core.Query(n.clock()) {
			fmt.Fprintf(&b, "  %+v\n", s)
		}
	}
	return b.String()
}

// final compares replicas byte for byte and judges the histories.
func (w *World) final() {
	done := false
	w.finalReads(func() { done = true })
	for i := 0; i < 20 && !done && w.err == nil; i++ {
		w.runFor(second)
	}
	if !done {
		w.fail("L1: the last reads are not answered\n%s", w.states())
	}
	if w.err != nil {
		return
	}
	for pg, cfg := range w.mon.M.PGs {
		first := w.nodes[cfg.InSync[0].ID].store
		for _, mb := range cfg.InSync[1:] {
			if err := sameObjects(pg, first, w.nodes[mb.ID].store); err != nil {
				w.fail("I1: pg %v: osd.%d and osd.%d: %v", pg, cfg.InSync[0].ID, mb.ID, err)
				return
			}
		}
	}
	w.linearizable()
}

func sameObjects(pg wire.PGID, a, b *osd.MemStore) error {
	la, lb := a.ListObjects(pg, "", 1000), b.ListObjects(pg, "", 1000)
	if len(la) != len(lb) {
		return fmt.Errorf("%v and %v", la, lb)
	}
	for i := range la {
		if la[i] != lb[i] {
			return fmt.Errorf("%v and %v", la[i], lb[i])
		}
		if x, y := content(a, pg, la[i].Name), content(b, pg, la[i].Name); !bytes.Equal(x, y) {
			return fmt.Errorf("%v: %q and %q", la[i], x, y)
		}
	}
	return nil
}

func content(s *osd.MemStore, pg wire.PGID, name string) []byte {
	st, _ := s.Stat(pg, name)
	b := make([]byte, st.Size)
	s.Read(pg, name, 0, b)
	return b
}

// state of an object in the model: "" absent, else "=" and its bytes.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := make([][]porcupine.Operation, objects)
		for _, op := range history {
			i := op.Input.(*record).obj[1] - '0'
			by[i] = append(by[i], op)
		}
		return by
	},
	Init: func() any { return "" },
	Step: func(state, in, _ any) (bool, any) {
		s, r := state.(string), in.(*record)
		exists := s != ""
		ok := func(errno uint32, next string) (bool, any) {
			if r.done && r.errno != errno {
				return false, s
			}
			return true, next
		}
		switch r.kind {
		case kRead:
			if !r.done {
				return true, s
			}
			if !exists {
				return r.errno == 2, s
			}
			return r.errno == 0 && s == "="+r.out, s
		case kAppend:
			if !exists {
				s = "="
			}
			return ok(0, s+r.token)
		case kWrite:
			return ok(0, "="+r.token)
		case kRemove:
			if !exists {
				return ok(2, s)
			}
			return ok(0, "")
		default:
			if exists {
				return ok(17, s)
			}
			return ok(0, "="+r.token)
		}
	},
	Equal: func(a, b any) bool { return a.(string) == b.(string) },
}

func (w *World) linearizable() {
	var h []porcupine.Operation
	for i, r := range w.history {
		ret := r.ret
		if !r.done {
			if r.kind == kRead {
				continue
			}
			ret = 1 << 62 // of a fenced client: it may have taken effect, or not
		}
		h = append(h, porcupine.Operation{ClientId: i, Input: r, Call: r.call, Return: ret})
	}
	for i, part := range model.Partition(h) {
		res := porcupine.CheckOperationsTimeout(model, part, 20*time.Second)
		if res != porcupine.Ok {
			var b strings.Builder
			if w.opt.Verbose != nil {
				for _, op := range part {
					fmt.Fprintf(&b, "\n%v", op.Input)
				}
			}
			w.fail("I4: the history of o%d is not linearizable (%v)%s", i, res, b.String())
			return
		}
	}
}
