package mon

import (
	"errors"
	"fmt"
	"slices"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/wire"
)

// State is all that the monitors agree on. It is a value: Apply gives the next one.
type State struct {
	OSD *clustermap.OSDMap
	FS  *clustermap.FSMap
	Mon *clustermap.MonMap
}

// Empty is the state before the cluster is made.
func Empty() State {
	return State{OSD: (&clustermap.OSDMap{}).Clone(), FS: (&clustermap.FSMap{}).Clone(), Mon: &clustermap.MonMap{}}
}

// Refused is the answer to a change that the maps forbid.
type Refused struct {
	Errno uint32
	Text  string
}

func (r *Refused) Error() string { return r.Text }

func refuse(errno uint32, format string, args ...any) error {
	return &Refused{Errno: errno, Text: fmt.Sprintf(format, args...)}
}

// Errnos of refusals, as Linux numbers them.
const (
	EPERM  = 1
	ENOENT = 2
	EAGAIN = 11
	EEXIST = 17
	EINVAL = 22
	ESTALE = 116
)

// Apply gives the state after c: each map it touches is one epoch newer. A refused change,
// or one that changes nothing, gives s itself.
func (s State) Apply(c Change) (State, error) {
	e := &edit{old: s}
	if err := c.apply(e); err != nil {
		return s, fmt.Errorf("%s: %w", c, err)
	}
	next := e.done()
	if !byOperator(c) {
		must.NoErr(Follows(s, next), "%s", c)
	}
	return next, nil
}

// byOperator: such a change gives up what rules M2 and M3 keep.
func byOperator(c Change) bool {
	switch c.(type) {
	case *PGGiveUp, *PGRevive:
		return true
	}
	return false
}

// edit is a state in the making: a map is copied when it is first changed.
type edit struct {
	old State
	osd *clustermap.OSDMap
	fs  *clustermap.FSMap
	mon *clustermap.MonMap
}

// osdMap is the OSDMap to change, one epoch on.
func (e *edit) osdMap() *clustermap.OSDMap {
	if e.osd == nil {
		e.osd = e.old.OSD.Clone()
		e.osd.Epoch++
	}
	return e.osd
}

// fsMap is the FSMap to change, one epoch on.
func (e *edit) fsMap() *clustermap.FSMap {
	if e.fs == nil {
		e.fs = e.old.FS.Clone()
		e.fs.Epoch++
	}
	return e.fs
}

func (e *edit) done() State {
	n := e.old
	if e.osd != nil {
		n.OSD = withoutUnsafe(e.old.OSD, e.osd.Seal())
	}
	if e.fs != nil {
		n.FS = e.fs
	}
	if e.mon != nil {
		n.Mon = e.mon
	}
	return n
}

// Follows checks that next can be what one change made of s: invariant I7 for every PG, the
// shape of every changed configuration, epochs that only rise. It is run on every change,
// and tests run it on states that wrong code made.
func Follows(s, next State) error {
	if next.OSD == s.OSD && next.FS == s.FS {
		return nil
	}
	if next.OSD.Epoch < s.OSD.Epoch || next.FS.Epoch < s.FS.Epoch {
		return errors.New("an epoch went back")
	}
	for _, pg := range s.OSD.PGIDs() {
		a, b := s.OSD.PGs[pg], next.OSD.PGs[pg]
		if a.Equal(b) {
			continue
		}
		if b.Interval != a.Interval+1 {
			return fmt.Errorf("pg %v: interval %d follows %d", pg, b.Interval, a.Interval)
		}
		if err := b.Check(); err != nil {
			return fmt.Errorf("pg %v: %w", pg, err)
		}
		if p, ok := b.PrimaryMember(); ok && !a.Has(p) {
			return fmt.Errorf("pg %v: primary osd.%d of interval %d was not in sync in %d", pg, p.ID, b.Interval, a.Interval)
		}
		if !slices.ContainsFunc(b.InSync, a.Has) {
			return fmt.Errorf("pg %v: nobody of interval %d is left in %d", pg, a.Interval, b.Interval)
		}
		for _, mb := range b.InSync {
			if !a.Has(mb) && !a.HasLearner(mb) {
				return fmt.Errorf("pg %v: osd.%d joined interval %d and was no learner", pg, mb.ID, b.Interval)
			}
		}
	}
	for _, pg := range next.OSD.PGIDs() {
		if _, old := s.OSD.PGs[pg]; old {
			continue
		}
		if err := afterSplit(s, next, pg); err != nil {
			return err
		}
	}
	for i, in := range s.OSD.Blocklist {
		if _, ok := next.OSD.Blocklist[i]; !ok && !in.Clean {
			return fmt.Errorf("blocklist entry of %v, which did not end cleanly, is gone", i)
		}
	}
	return nil
}

// stateRecord is a snapshot.
type stateRecord struct {
	_msgpack struct{} `msgpack:",as_array"`
	OSD      []byte
	FS       []byte
	Mon      []byte
}

// Encode gives the bytes of a snapshot.
func (s State) Encode() []byte {
	b, err := wire.Append(nil, &stateRecord{OSD: s.OSD.Encode(), FS: s.FS.Encode(), Mon: s.Mon.Encode()})
	must.NoErr(err, "encode monitor state")
	return b
}

// DecodeState reads what Encode wrote.
func DecodeState(b []byte) (s State, err error) {
	var rec stateRecord
	if err := wire.Unmarshal(b, &rec); err != nil {
		return State{}, fmt.Errorf("monitor snapshot: %w", err)
	}
	if s.OSD, err = clustermap.DecodeOSDMap(rec.OSD); err != nil {
		return State{}, fmt.Errorf("monitor snapshot: %w", err)
	}
	if s.FS, err = clustermap.DecodeFSMap(rec.FS); err != nil {
		return State{}, fmt.Errorf("monitor snapshot: %w", err)
	}
	if s.Mon, err = clustermap.DecodeMonMap(rec.Mon); err != nil {
		return State{}, fmt.Errorf("monitor snapshot: %w", err)
	}
	return s, nil
}
