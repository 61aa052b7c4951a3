package mds

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/capstan-fs/capstan/wire"
)

// Several clients work on the same few names, the rank dies now and then, a client may die
// with it. Every answer that was given must fit one order of all operations (N1, X-1..X-3):
// porcupine looks for it.

type linOp struct {
	op        wire.Op
	dir, dir2 wire.Ino
	name, to  string
	noReplace bool
}

type linOut struct {
	errno   uint32
	ino     wire.Ino
	unknown bool // its client died without an answer: anything fits
	maybe   bool // its client died before the change was safe: it may not have happened
}

func linKey(d wire.Ino, n string) string { return fmt.Sprintf("%x/%s", uint64(d), n) }

func linParse(s string) map[string]string {
	m := map[string]string{}
	for _, kv := range strings.Split(s, " ") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			m[k] = v
		}
	}
	return m
}

func linJoin(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

var linModel = porcupine.NondeterministicModel{
	Init:  func() []interface{} { return []interface{}{""} },
	Equal: func(a, b interface{}) bool { return a == b },
	Step: func(state, in, out interface{}) []interface{} {
		m := linParse(state.(string))
		o, res := in.(linOp), out.(linOut)
		key := linKey(o.dir, o.name)
		cur, there := m[key]
		same := []interface{}{state}
		next := func() []interface{} {
			if res.maybe {
				return []interface{}{linJoin(m), state}
			}
			return []interface{}{linJoin(m)}
		}
		want := func(e errno) bool { return res.maybe || res.errno == uint32(e) }
		switch o.op {
		case wire.OpLookup:
			if !there {
				if res.unknown || res.errno == uint32(eNOENT) {
					return same
				}
				return nil
			}
			if res.unknown || res.errno == 0 && (fmt.Sprint(res.ino) == cur || cur == "?") {
				return same
			}
			return nil
		case wire.OpCreate:
			if there {
				if want(eEXIST) {
					return same
				}
				return nil
			}
			if !want(ok) {
				return nil
			}
			m[key] = fmt.Sprint(res.ino)
			if res.unknown {
				m[key] = "?"
			}
			return next()
		case wire.OpUnlink:
			if !there {
				if want(eNOENT) {
					return same
				}
				return nil
			}
			if !want(ok) {
				return nil
			}
			delete(m, key)
			return next()
		case wire.OpRename:
			if !there {
				if want(eNOENT) {
					return same
				}
				return nil
			}
			to := linKey(o.dir2, o.to)
			if _, over := m[to]; over && o.noReplace {
				if want(eEXIST) {
					return same
				}
				return nil
			}
			if !want(ok) {
				return nil
			}
			delete(m, key)
			m[to] = cur
			return next()
		}
		return nil
	},
}

func TestAnswersFitOneOrderOverCrashes(t *testing.T) {
	runs := int64(150)
	if testing.Short() {
		runs = 20
	}
	for seed := int64(1); seed <= runs; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { linRun(t, seed) })
	}
}

func linRun(t *testing.T, seed int64) {
	w := newWorld(t, seed)
	var cs []*client
	for i := 0; i < 3; i++ {
		cs = append(cs, w.client())
	}
	dirs := []wire.Ino{cs[0].mkdir(root, "a"), cs[0].mkdir(root, "b")}
	w.quiet()
	for _, c := range cs { // everybody keeps the directories it works in
		c.lookup(root, "a")
		c.lookup(root, "b")
		c.names[dirs[0]], c.names[dirs[1]] = hint{root, "a"}, hint{root, "b"}
	}
	w.quiet()
	type open struct {
		c    *client
		tid  wire.Tid
		in   linOp
		call int64
	}
	clock := int64(0)
	var hist []porcupine.Operation
	live := map[*client]*open{}
	var tids []wire.Tid // of hist
	collect := func() {
		for _, c := range cs {
			o := live[c]
			if o == nil || c.replies[o.tid] == nil {
				continue
			}
			rep := c.replies[o.tid]
			clock++
			out := linOut{errno: rep.Errno}
			if rep.Target != nil && rep.Errno == 0 {
				out.ino = rep.Target.Ino
			}
			hist = append(hist, porcupine.Operation{ClientId: int(c.key), Input: o.in, Call: o.call, Output: out, Return: clock})
			tids = append(tids, o.tid)
			delete(live, c)
		}
	}
	crashes := 2
	for n, turns := 0, 0; n < 36; turns++ {
		if turns > 20_000 {
			t.Fatalf("no end: %d operations begun\n%s", n, w.dump())
		}
		c := cs[w.rng.Intn(len(cs))]
		if n%40 == 39 {
			w.hold = false
		}
		if live[c] == nil {
			n++
			in := linOp{dir: dirs[w.rng.Intn(2)], dir2: dirs[w.rng.Intn(2)], name: fmt.Sprintf("n%d", w.rng.Intn(3)), to: fmt.Sprintf("n%d", w.rng.Intn(3))}
			in.op = []wire.Op{wire.OpLookup, wire.OpCreate, wire.OpCreate, wire.OpUnlink, wire.OpRename, wire.OpLookup}[w.rng.Intn(6)]
			m := &wire.Request{Op: in.op, Ino: in.dir, Name: in.name, Mode: 0o644, OpenFlags: oEXCL}
			if in.op == wire.OpRename {
				if in.dir == in.dir2 && in.name == in.to {
					in.dir2 = dirs[0]
					if in.dir == dirs[0] {
						in.dir2 = dirs[1]
					}
				}
				in.noReplace = w.rng.Intn(3) == 0
				m.NewDir, m.NewName = in.dir2, in.to
				if in.noReplace {
					m.RenameFlags = wire.RenameNoReplace
				}
			}
			clock++
			o := &open{c: c, in: in, call: clock}
			o.tid = c.ask(m)
			live[c] = o
		}
		for k := w.rng.Intn(8); k > 0; k-- {
			if !w.progress() && !w.hold {
				w.now += 100e6
				w.step(Event{Kind: Tick})
			}
			collect()
		}
		if w.rng.Intn(8) == 0 {
			w.hold = !w.hold // answers pile up on what is not durable
		}
		if crashes > 0 && w.rng.Intn(25) == 0 {
			crashes--
			if w.hold && w.rng.Intn(2) == 0 {
				w.writes = nil // nothing of it reached a disk
			}
			w.crash()
			w.hold = false
			if len(cs) > 2 && w.rng.Intn(2) == 0 { // one client dies along with the rank
				i := w.rng.Intn(len(cs))
				c := cs[i]
				c.gone = true
				cs = append(cs[:i:i], cs[i+1:]...)
				// What it saw after its first unsafe change may be its alone, and go with it (N1).
				first := int64(1 << 40)
				for j := range hist {
					if o := hist[j].Output.(linOut); hist[j].ClientId == int(c.key) && o.errno == 0 && c.isUnsafe(tids[j]) {
						first = min(first, hist[j].Call)
					}
				}
				keep := 0
				for j := range hist {
					o, in := hist[j].Output.(linOut), hist[j].Input.(linOp)
					if hist[j].ClientId == int(c.key) && hist[j].Call > first && (in.op == wire.OpLookup || o.errno != 0) {
						continue
					}
					hist[keep], tids[keep] = hist[j], tids[j]
					keep++
				}
				hist, tids = hist[:keep], tids[:keep]
				for j := range hist {
					o := hist[j].Output.(linOut)
					if tid := tids[j]; hist[j].ClientId == int(c.key) && o.errno == 0 && c.isUnsafe(tid) {
						o.maybe = true
						hist[j].Output, hist[j].Return = o, 1<<40
					}
				}
				if o := live[c]; o != nil && o.in.op == wire.OpLookup {
					delete(live, c)
				} else if o != nil {
					hist = append(hist, porcupine.Operation{ClientId: int(c.key), Input: o.in, Call: o.call, Output: linOut{unknown: true, maybe: true}, Return: 1 << 40})
					tids = append(tids, o.tid)
					delete(live, c)
				}
			}
			w.restart()
			// Lookups that were lost are asked again by their client.
			for _, c := range cs {
				if o := live[c]; o != nil && o.tid&wire.ReadTid != 0 && c.replies[o.tid] == nil {
					o.tid = c.ask(&wire.Request{Op: o.in.op, Ino: o.in.dir, Name: o.in.name})
				}
			}
			collect()
		}
	}
	w.hold = false
	w.until("all answered", func() bool { collect(); return len(live) == 0 })
	model := linModel.ToModel()
	if porcupine.CheckOperationsTimeout(model, hist, 300*time.Millisecond) == porcupine.Illegal {
		sort.Slice(hist, func(i, j int) bool { return hist[i].Call < hist[j].Call })
		var b strings.Builder
		for _, h := range hist {
			fmt.Fprintf(&b, "c%d [%d,%d] %v %+v -> %+v\n", h.ClientId, h.Call, h.Return, h.Input.(linOp).op, h.Input, h.Output)
		}
		t.Fatalf("no order explains the answers:\n%s", b.String())
	}
}

func (c *client) isUnsafe(tid wire.Tid) bool {
	for _, q := range c.unsafe {
		if q.Tid == tid {
			return true
		}
	}
	return false
}
