package osd

import (
	"errors"
	"slices"

	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

const reconPartBytes = 8 << 20

// stage collects the parts of a ReconFix: nothing of it touches the store before all are here.
type stage struct {
	common  wire.Version
	upto    wire.Version // of a fix
	parts   []bool
	missing int
	entries [][]byte
	tail    [][]wire.ReplEntry // of a fix, by part
	objs    []wire.ObjCopy
	done    bool
}

func newStage(m *wire.ReconFix) *stage {
	if m.Parts == 0 || m.Parts > 1<<16 {
		return nil
	}
	return &stage{common: m.Common, upto: m.Upto, parts: make([]bool, m.Parts), tail: make([][]wire.ReplEntry, m.Parts), missing: int(m.Parts)}
}

// take adds a part, and reports whether it was the last one.
func (s *stage) take(m *wire.ReconFix, data []byte) bool {
	if s.done || len(s.parts) != int(m.Parts) || m.Part >= m.Parts || s.parts[m.Part] {
		return false
	}
	for i := range m.Objects {
		c := &m.Objects[i]
		n := c.DataLen()
		if n > uint64(len(data)) {
			return false
		}
		c.Data, data = data[:n:n], data[n:]
	}
	for i := range m.Tail {
		n := uint64(0)
		for k := range m.Tail[i].Muts {
			n += uint64(m.Tail[i].Muts[k].DataLen)
		}
		if n > uint64(len(data)) || wire.CutOpData(m.Tail[i].Muts, data[:n:n]) != nil {
			return false
		}
		data = data[n:]
	}
	s.parts[m.Part], s.tail[m.Part] = true, m.Tail
	s.missing--
	s.objs = append(s.objs, m.Objects...)
	if m.Part == 0 {
		s.entries = m.Entries
	}
	return s.missing == 0
}

func (p *pg) askRecon(q *peer) {
	q.sentAt = p.o.now
	p.o.stats.Recons++
	p.o.send(q.m.ID, &wire.Recon{PG: p.id, Interval: p.interval, Epoch: p.o.m.Epoch, Last: p.last, Sent: p.o.now})
}

// onRecon: equal last means equal log (R3); else the primary gets to see what this log holds
// beyond what is known to be committed.
func (p *pg) onRecon(from wire.OSDID, inst wire.Instance, m *wire.Recon) {
	if p.role != roleMember {
		return
	}
	p.grant(inst)
	p.ackSent = max(p.ackSent, m.Sent)
	if p.reconciled && !p.confirm {
		if p.last == m.Last { // the confirmation was lost
			p.confirm = true
			p.touch()
		}
		return
	}
	if p.last == m.Last {
		p.stage = nil
		p.confirm, p.reconciled = true, true
		p.touch()
		return
	}
	if p.stage != nil && p.stage.done {
		return
	}
	s := &wire.ReconState{PG: p.id, Interval: p.interval, Committed: p.committed}
	for _, e := range p.log[p.after(p.committed):] {
		s.Versions = append(s.Versions, e.h.Version)
		s.Objects = append(s.Objects, e.h.Object)
	}
	p.o.send(from, s)
}

// onReconState finds the last common version and sends what makes the member equal.
func (p *pg) onReconState(from wire.OSDID, m *wire.ReconState) {
	o := p.o
	q := p.peer(from)
	if q == nil || q.confirmed != p.active || len(m.Objects) != len(m.Versions) {
		return
	}
	if p.active {
		p.onFixReq(q, m)
		return
	}
	if q.learner {
		return
	}
	common, k := m.Committed, 0
	for k = len(m.Versions); k > 0; k-- {
		if p.has(m.Versions[k-1]) {
			common = m.Versions[k-1]
			break
		}
	}
	if !p.has(common) {
		p.propose(without(p.cfg.InSync, q.m), p.cfg.Learners, "osd.%d's log (committed %v) does not join this one's (%v to %v]", from, m.Committed, p.tail, p.last)
		return
	}
	var names []string
	seen := map[string]bool{}
	add := func(n string) {
		if !seen[n] {
			seen[n] = true
			names = append(names, n)
		}
	}
	for _, n := range m.Objects[k:] {
		add(n)
	}
	var recs [][]byte
	for _, e := range p.log[p.after(common):] {
		recs = append(recs, e.rec)
		if e.h.After != e.h.Prior {
			add(e.h.Object)
		}
	}
	parts := []*wire.ReconFix{{PG: p.id, Interval: p.interval, Common: common, Entries: recs}}
	size := uint64(0)
	for _, n := range names {
		c, err := p.copyOf(n)
		if err != nil || c.Damaged() {
			p.stepAside(n)
			return
		}
		last := parts[len(parts)-1]
		if size > 0 && size+c.DataLen() > reconPartBytes {
			last = &wire.ReconFix{PG: p.id, Interval: p.interval, Common: common, Part: uint32(len(parts))}
			parts = append(parts, last)
			size = 0
		}
		size += c.DataLen() + 64
		last.Objects = append(last.Objects, c)
	}
	q.sentAt = o.now + 4*o.cfg.ResendNs
	if o.now-p.adoptedAt < 4*o.cfg.ReconNs { // much takes long, but what never arrives may not keep the PG for ever
		q.since = o.now
	}
	p.sendParts(from, parts)
}

func (p *pg) sendParts(to wire.OSDID, parts []*wire.ReconFix) {
	for _, f := range parts {
		f.Parts = uint32(len(parts))
		var data [][]byte
		for i := range f.Objects {
			if len(f.Objects[i].Data) > 0 {
				data = append(data, f.Objects[i].Data)
			}
		}
		for i := range f.Tail {
			for k := range f.Tail[i].Muts {
				if d := f.Tail[i].Muts[k].Data; len(d) > 0 {
					data = append(data, d)
				}
			}
		}
		p.o.send(to, f, data...)
	}
}

// stepAside: a member lacks entries of an object that cannot be read here. A damaged copy must not
// replace the member's: these entries were never committed, for the member is in S and lacks
// them, and what was is whole there. So this OSD steps aside for a primary whose log ends
// earlier, and is filled from it.
func (p *pg) stepAside(name string) {
	if p.o.now-p.proposedAt >= p.o.cfg.ResendNs {
		p.propose(slices.DeleteFunc(slices.Clone(p.cfg.InSync), p.o.isMember), p.cfg.Learners, "osd.%d's copy of %q is damaged, and a member needs it", p.o.cfg.ID, name)
	}
}

// onReconFix stages a part; with the last one it installs everything in one transaction (R8):
// until then the old, self-consistent state stays, for the next interval may make this member
// the primary.
func (p *pg) onReconFix(m *wire.ReconFix, data []byte) {
	if m.Mends {
		p.onFix(m, data)
		return
	}
	if p.reconciled || p.role != roleMember {
		return // late: nothing is cut twice
	}
	s := p.stage
	if s == nil || s.common != m.Common || len(s.parts) != int(m.Parts) {
		if s != nil && s.done {
			return
		}
		if s = newStage(m); s == nil {
			return
		}
		p.stage = s
	}
	if s.take(m, data) {
		p.install(s)
	}
}

func (p *pg) install(s *stage) {
	if !p.has(s.common) {
		p.stage = nil
		return
	}
	must.Holdf(!s.common.Less(p.committed), "%v: told to cut to %v, below the committed %v", p, s.common, p.committed)
	var add []*entry
	prev := s.common
	for _, b := range s.entries {
		h := new(wire.LogEntry)
		if wire.Unmarshal(b, h) != nil || h.Prev != prev {
			p.stage = nil
			return
		}
		prev = h.Version
		add = append(add, &entry{h: h, rec: b, noMuts: true})
	}
	s.done = true
	p.cutLog(s.common)
	common := s.common
	t := &Txn{Cut: &common}
	if p.o.fault(FaultCutNotAtomic) {
		p.submit(t)
		t = &Txn{}
	}
	for _, e := range add {
		p.appendEntry(e)
		t.Append = append(t.Append, LogRec{e.h.Version, e.rec})
	}
	for i := range s.objs {
		t.Objs = append(t.Objs, installTxn(&s.objs[i]))
	}
	p.submit(t)
	p.stage = nil
	p.confirm, p.reconciled = true, true
	p.touch()
}

// copyOf reads a whole object; what cannot be read of its data and its omap is named in Bad and
// BadKeys. An error: the omap cannot even be listed.
func (p *pg) copyOf(name string) (wire.ObjCopy, error) {
	st := p.o.store
	c := wire.ObjCopy{Name: name}
	s, ok := st.Stat(p.id, name)
	if !ok {
		c.Absent = true
		return c, nil
	}
	c.Version, c.Size = s.Version, s.Size
	c.Extents = st.Extents(p.id, name)
	c.Data = make([]byte, c.DataLen())
	at := c.Data
	for _, e := range c.Extents {
		if _, err := st.Read(p.id, name, e.Off, at[:e.Len]); err != nil {
			p.readRest(&c, e, at[:e.Len])
		}
		at = at[e.Len:]
	}
	c.Xattrs = st.Xattrs(p.id, name)
	for after, more := "", true; more; {
		kvs, m, err := st.OmapRange(p.id, name, after, 4096)
		c.Omap = append(c.Omap, kvs...)
		var bad *BadPair
		switch {
		case errors.As(err, &bad):
			if !p.o.fault(FaultOmapForgotten) {
				c.BadKeys = append(c.BadKeys, bad.Key)
			}
			after = bad.Key
			continue
		case err != nil:
			return c, err
		}
		more = m && len(kvs) > 0
		if len(kvs) > 0 {
			after = kvs[len(kvs)-1].Key
		}
	}
	return c, nil
}

// readRest reads an extent in small pieces, around those that are bad.
func (p *pg) readRest(c *wire.ObjCopy, e wire.Extent, dst []byte) {
	const piece = 4096 // as stores keep checksums
	for off := e.Off; off < e.Off+e.Len; {
		n := min(piece-off%piece, e.Off+e.Len-off)
		if _, err := p.o.store.Read(p.id, c.Name, off, dst[off-e.Off:][:n]); err != nil {
			clear(dst[off-e.Off:][:n])
			if k := len(c.Bad) - 1; k >= 0 && c.Bad[k].Off+c.Bad[k].Len == off {
				c.Bad[k].Len += n
			} else {
				c.Bad = append(c.Bad, wire.Extent{Off: off, Len: n})
			}
		}
		off += n
	}
}

// installTxn makes an object what the copy says.
func installTxn(c *wire.ObjCopy) ObjTxn {
	if c.Absent {
		return ObjTxn{Name: c.Name, Remove: true}
	}
	t := ObjTxn{Name: c.Name, Version: c.Version, Replace: true}
	t.Muts = append(t.Muts, wire.ObjOp{Kind: wire.ObjTruncate, Off: c.Size})
	at := c.Data
	for _, e := range c.Extents {
		t.Muts = append(t.Muts, wire.ObjOp{Kind: wire.ObjWrite, Off: e.Off, DataLen: uint32(e.Len), Data: at[:e.Len:e.Len]})
		at = at[e.Len:]
	}
	for _, e := range c.Bad {
		t.Muts = append(t.Muts, wire.ObjOp{Kind: wire.ObjDamage, Off: e.Off, Len: e.Len})
	}
	for _, kv := range c.Xattrs {
		t.Muts = append(t.Muts, wire.ObjOp{Kind: wire.ObjSetXattr, Key: kv.Key, DataLen: uint32(len(kv.Val)), Data: kv.Val})
	}
	if len(c.Omap) > 0 {
		t.Muts = append(t.Muts, wire.ObjOp{Kind: wire.ObjOmapSet, Pairs: c.Omap})
	}
	if len(c.BadKeys) > 0 {
		t.Muts = append(t.Muts, wire.ObjOp{Kind: wire.ObjOmapDamage, Keys: c.BadKeys})
	}
	return t
}
