package osd

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/capstan-fs/capstan/wire"
)

const (
	scrubNames = 128     // names per light step
	scrubBytes = 4 << 20 // read per deep step and replica: the core's lock is held meanwhile
)

// scrub compares the replicas of a PG, a range of names at a time, under the running I/O: an
// object that changes while it is looked at is left for the next time.
type scrub struct {
	deep, repair bool
	seq          uint64
	after, upto  string // the range being looked at
	end          bool
	own          map[string]wire.ScrubObj
	skip         map[string]bool // had uncommitted entries when it was read
	maps         map[wire.OSDID]map[string]wire.ScrubObj
	askedAt      int64
	sum          ScrubSum
}

// ScrubSum is what a scrub found.
type ScrubSum struct {
	Deep    bool   `json:"deep"`
	Running bool   `json:"running"`
	At      int64  `json:"at_ns"` // on the OSD's clock: begun, or ended
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
	Skipped uint64 `json:"skipped"` // changed meanwhile
	Bad     uint64 `json:"bad"`     // copies whose checksum did not fit
	Differ  uint64 `json:"differ"`  // copies that differ from the majority
	Mended  uint64 `json:"mended"`  // copies replaced
	Unsure  uint64 `json:"unsure"`  // objects of which nobody knows which copy is good
}

// Scrub starts one on a PG of which this OSD is the active primary.
func (o *OSD) Scrub(id wire.PGID, deep, repair bool) error {
	p := o.pgs[id]
	switch {
	case p == nil || !p.primary() || !p.active:
		return fmt.Errorf("osd.%d is not primary of an active pg %v", o.cfg.ID, id)
	case p.scrub != nil:
		return fmt.Errorf("pg %v is being scrubbed", id)
	}
	p.beginScrub(deep, repair)
	return nil
}

// beginScrub starts a scrub of an active PG of which this is the primary and none runs.
func (p *pg) beginScrub(deep, repair bool) {
	p.scrub = &scrub{deep: deep, repair: repair, sum: ScrubSum{Deep: deep, Running: true, At: p.o.now}}
	p.scrubbed, p.unsure = p.scrub.sum, nil
	p.scrubNext()
}

// Scrubbed is what the present scrub of a PG has found so far, or the last one.
func (o *OSD) Scrubbed(id wire.PGID) ScrubSum {
	if p := o.pgs[id]; p != nil {
		return p.scrubbed
	}
	return ScrubSum{}
}

// scrubNext reads the next range here and asks every member for theirs.
func (p *pg) scrubNext() {
	s := p.scrub
	s.seq++
	s.askedAt = p.o.now
	s.own, s.skip, s.maps = map[string]wire.ScrubObj{}, map[string]bool{}, map[wire.OSDID]map[string]wire.ScrubObj{}
	names := p.o.store.ListObjects(p.id, s.after, scrubNames)
	s.end, s.upto = len(names) < scrubNames, ""
	bytes := uint64(0)
	for i, n := range names {
		ob := scrubObject(p.o.store, p.id, n.Name, s.deep)
		s.own[n.Name] = ob
		s.skip[n.Name] = p.busy(n.Name)
		s.upto = n.Name
		if s.deep {
			bytes += ob.Size
		}
		if bytes >= scrubBytes && i < len(names)-1 {
			s.end = false
			break
		}
	}
	s.sum.Bytes += bytes
	for _, q := range p.peers {
		if !q.learner {
			p.o.send(q.m.ID, &wire.ScrubReq{PG: p.id, Interval: p.interval, Seq: s.seq, After: s.after, Upto: s.upto, End: s.end, Deep: s.deep})
		}
	}
	p.scrubJudge()
}

// busy: its newest state is not on every member yet.
func (p *pg) busy(name string) bool {
	ob := p.objs[name]
	return ob != nil && ob.uncommitted > 0
}

func (p *pg) scrubTick() {
	s := p.scrub
	if s == nil {
		p.scrubByItself()
		return
	}
	if len(s.maps) < p.members() && p.o.now-s.askedAt >= 4*p.o.cfg.ResendNs {
		p.scrubNext() // a message was lost: the same range again
	} else if s.own == nil {
		p.scrubNext()
	}
}

// scrubByItself starts the deep scrub that is due, one PG of this OSD at a time. The first
// ones are spread over the period, so that OSDs started together do not all read together.
func (p *pg) scrubByItself() {
	o := p.o
	if o.cfg.ScrubNs == 0 {
		return
	}
	if p.scrubDue == 0 {
		p.scrubDue = o.now + o.cfg.ScrubNs/64*int64(1+(p.id.Num*37+uint32(o.cfg.ID)*11)%64)
	}
	if o.now < p.scrubDue || slices.ContainsFunc(o.order, func(q *pg) bool { return q.scrub != nil }) {
		return
	}
	p.scrubDue = o.now + o.cfg.ScrubNs
	p.beginScrub(true, false)
}

// members counts the others in S.
func (p *pg) members() (n int) {
	for _, q := range p.peers {
		if !q.learner {
			n++
		}
	}
	return n
}

// onScrubReq (member) answers what it has.
func (p *pg) onScrubReq(from wire.OSDID, m *wire.ScrubReq) {
	if p.role != roleMember {
		return
	}
	r := &wire.ScrubMap{PG: p.id, Interval: p.interval, Seq: m.Seq}
	for after := m.After; ; {
		names := p.o.store.ListObjects(p.id, after, scrubNames)
		for _, n := range names {
			if !m.End && n.Name > m.Upto {
				names = nil
				break
			}
			r.Objects = append(r.Objects, scrubObject(p.o.store, p.id, n.Name, m.Deep))
			after = n.Name
		}
		if len(names) < scrubNames {
			break
		}
	}
	p.o.send(from, r)
}

func (p *pg) onScrubMap(from wire.OSDID, m *wire.ScrubMap) {
	s, q := p.scrub, p.peer(from)
	if s == nil || q == nil || q.learner || m.Seq != s.seq || s.own == nil {
		return
	}
	theirs := make(map[string]wire.ScrubObj, len(m.Objects))
	for _, ob := range m.Objects {
		theirs[ob.Name] = ob
	}
	s.maps[from] = theirs
	p.scrubJudge()
}

// scrubJudge compares when all have answered; the next range follows with the next tick.
func (p *pg) scrubJudge() {
	s := p.scrub
	if len(s.maps) < p.members() {
		return
	}
	names := make([]string, 0, len(s.own))
	for n := range s.own {
		names = append(names, n)
	}
	for _, theirs := range s.maps {
		for n := range theirs {
			if _, ok := s.own[n]; !ok && !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	for _, n := range names {
		p.scrubObjectOf(n)
	}
	s.own, s.after = nil, s.upto
	p.scrubbed = s.sum
	if s.end {
		s.sum.Running, s.sum.At = false, p.o.now
		p.scrubbed, p.scrub = s.sum, nil
	}
}

// vote is one replica's word on an object.
type vote struct {
	id wire.OSDID
	ob wire.ScrubObj
	ok bool // it has the object
}

// same: both would answer a client alike.
func (v vote) same(w vote) bool {
	return v.ok == w.ok && v.ob.Version == w.ob.Version && v.ob.Size == w.ob.Size && v.ob.Digest == w.ob.Digest
}

func (p *pg) scrubObjectOf(name string) {
	s := p.scrub
	own, have := s.own[name]
	st, now := p.o.store.Stat(p.id, name)
	if s.skip[name] || p.busy(name) || have != now || have && st.Version != own.Version {
		s.sum.Skipped++
		return
	}
	s.sum.Objects++
	votes := []vote{{p.o.cfg.ID, own, have}}
	for _, q := range p.peers {
		if !q.learner {
			ob, ok := s.maps[q.m.ID][name]
			votes = append(votes, vote{q.m.ID, ob, ok})
		}
	}
	good, sure := majority(votes)
	if !sure {
		p.undecided(name, votes)
		return
	}
	for _, v := range votes {
		switch {
		case v.ok && v.ob.Bad:
			s.sum.Bad++
			p.mend(v.id, good, name) // its own checksum says so: no doubt, no order needed
		case !v.same(good):
			s.sum.Differ++
			if s.repair {
				p.mend(v.id, good, name)
			}
		}
	}
}

// undecided: nobody knows which copy is good. Where none can even be read, OSDs that are no members are
// asked for theirs, as a reader would have them asked.
func (p *pg) undecided(name string, votes []vote) {
	p.scrub.sum.Unsure++
	if p.unsure == nil {
		p.unsure = map[string]bool{}
	}
	if len(p.unsure) < unsureMax {
		p.unsure[name] = true
	}
	if !slices.ContainsFunc(votes, func(v vote) bool { return !v.ok || !v.ob.Bad }) {
		p.heal(name)
	}
}

// majority finds the word that more than half of those that are not damaged agree on. One
// sound replica beside damaged ones is enough.
func majority(votes []vote) (vote, bool) {
	sound := slices.DeleteFunc(slices.Clone(votes), func(v vote) bool { return v.ok && v.ob.Bad })
	for _, v := range sound {
		n := 0
		for _, w := range sound {
			if v.same(w) {
				n++
			}
		}
		if 2*n > len(sound) {
			return v, true
		}
	}
	return vote{}, false
}

// mend brings the good copy to the replica that lacks it.
func (p *pg) mend(to wire.OSDID, good vote, name string) {
	s := p.scrub
	switch {
	case to == p.o.cfg.ID && !good.ok:
		// We have what the majority has not. Nothing is removed here by a vote.
		s.sum.Unsure++
	case to == p.o.cfg.ID:
		p.heal(name)
		s.sum.Mended++
	case good.ok && !s.ownIs(good, name):
		// Our copy is not the good one either: first it is healed, the next scrub mends the rest.
		p.heal(name)
	default:
		c, err := p.copyOf(name)
		if err != nil || c.Damaged() {
			return // the own copy has gone bad since: the next scrub heals it first
		}
		s.sum.Mended++
		p.o.stats.Mended++
		p.o.send(to, &wire.ObjMend{PG: p.id, Interval: p.interval, At: p.last, Object: c}, c.Data)
	}
}

func (s *scrub) ownIs(good vote, name string) bool {
	own, ok := s.own[name]
	return vote{ob: own, ok: ok}.same(good) && !own.Bad
}

// onObjMend (member) takes the primary's copy, unless an entry of its log has changed the
// object since.
func (p *pg) onObjMend(m *wire.ObjMend, data []byte) {
	c := &m.Object
	if p.role != roleMember || uint64(len(data)) != c.DataLen() || m.At.Less(p.tail) && !p.o.fault(FaultMendStale) {
		return // a copy from before the log's beginning: nobody knows what was written since
	}
	for _, e := range p.log[p.after(m.At):] {
		if e.h.Object == c.Name && !p.o.fault(FaultMendStale) {
			return
		}
	}
	c.Data = data
	p.o.stats.Healed++
	p.submit(&Txn{Objs: []ObjTxn{installTxn(c)}})
}

// scrubObject looks at one object of a store.
func scrubObject(st Store, id wire.PGID, name string, deep bool) wire.ScrubObj {
	s, ok := st.Stat(id, name)
	ob := wire.ScrubObj{Name: name, Version: s.Version, Size: s.Size}
	if ok && deep {
		d, err := digest(st, id, name, s.Size)
		ob.Digest, ob.Bad = d, err != nil
	}
	return ob
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digest is of an object's content; what reads as zeros counts nothing, whether it is a hole
// or was written, so replicas agree however they came by the object.
func digest(st Store, id wire.PGID, name string, size uint64) (uint64, error) {
	const block = 4096
	var sum uint32
	var at [8]byte
	buf := make([]byte, 64<<10)
	for _, e := range st.Extents(id, name) {
		for off := e.Off; off < e.Off+e.Len; {
			n, err := st.Read(id, name, off, buf[:min(uint64(len(buf)), e.Off+e.Len-off)])
			if err != nil {
				return 0, err
			}
			if n == 0 {
				break
			}
			for b := 0; b < n; {
				end := min(n, b+int(block-(off+uint64(b))%block))
				if !zero(buf[b:end]) {
					binary.LittleEndian.PutUint64(at[:], (off+uint64(b))/block)
					sum = crc32.Update(sum, castagnoli, at[:])
					sum = crc32.Update(sum, castagnoli, buf[b:end])
				}
				b = end
			}
			off += uint64(n)
		}
	}
	meta := crc32.Update(0, castagnoli, binary.LittleEndian.AppendUint64(nil, size))
	pair := func(kv wire.KV) {
		meta = crc32.Update(meta, castagnoli, binary.LittleEndian.AppendUint32([]byte(kv.Key), uint32(len(kv.Val))))
		meta = crc32.Update(meta, castagnoli, kv.Val)
	}
	for _, kv := range st.Xattrs(id, name) {
		pair(kv)
	}
	for after, more := "", true; more; {
		kvs, m, err := st.OmapRange(id, name, after, 4096)
		if err != nil {
			return 0, err
		}
		for _, kv := range kvs {
			pair(kv)
			after = kv.Key
		}
		more = m && len(kvs) > 0
	}
	return uint64(sum)<<32 | uint64(meta), nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
