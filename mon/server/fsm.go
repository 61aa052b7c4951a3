package server

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/wire"
)

// historyLen is from how many epochs back a subscriber gets a delta; from further back, or
// from before this process, the whole map.
const historyLen = 256

// fsm holds the state on which raft's log has been applied.
type fsm struct {
	changed func()      // tells the pusher
	fatal   func(error) // a record this program cannot read

	mu      sync.Mutex
	state   mon.State
	history []*clustermap.OSDMap // ascending epochs, the newest last
	broken  error
}

// applied is what Apply answers the proposer: the state right after the change.
type applied struct {
	state mon.State
	err   error
}

func newFSM() *fsm { return &fsm{state: mon.Empty()} }

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return applied{f.state, f.broken}
	}
	c, err := mon.DecodeChange(l.Data)
	if err != nil {
		// To skip it would be to disagree with the other monitors for ever.
		f.broken = fmt.Errorf("raft log entry %d: %w; run a newer capstan on this directory", l.Index, err)
		f.fatal(f.broken)
		return applied{f.state, f.broken}
	}
	next, err := f.state.Apply(c)
	if next == f.state {
		return applied{f.state, err}
	}
	f.take(next)
	return applied{next, err}
}

func (f *fsm) take(s mon.State) {
	if s.OSD != f.state.OSD {
		f.history = append(f.history, s.OSD)
		if len(f.history) > historyLen {
			f.history = append(f.history[:0:0], f.history[len(f.history)-historyLen/2:]...)
		}
	}
	f.state = s
	f.changed()
}

// now is the newest state.
func (f *fsm) now() mon.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// mapAt finds the OSDMap of an epoch, if it is recent.
func (f *fsm) mapAt(e wire.Epoch) *clustermap.OSDMap {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.history) - 1; i >= 0; i-- {
		if f.history[i].Epoch == e {
			return f.history[i]
		}
	}
	return nil
}

// Snapshot implements raft.FSM: the state is a value, so taking one is free.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	return snapshot{f.state}, nil
}

type snapshot struct{ state mon.State }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s.state.Encode()); err != nil {
		sink.Cancel()
		return fmt.Errorf("write monitor snapshot: %w", err)
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s snapshot) Release() {}

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read monitor snapshot: %w", err)
	}
	s, err := mon.DecodeState(b)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take(s)
	return nil
}
