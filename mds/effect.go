package mds

import (
	"fmt"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// Effects is what the shell must do after a step, in this order within each kind. The
// slices belong to the rank and are reused by the next Step.
type Effects struct {
	Sends     []Send
	Journal   []JournalWrite
	Objects   []ObjectOp
	Blocklist []BlocklistAsk
	Peers     []PeerSend
	Hangup    []SessionKey // close the transport after what was sent
	Logs      []LogLine
	NextTick  int64 // monotonic nanoseconds; 0: no timer needed
	State     clustermap.RankState
	Exit      error // not nil: the rank must stop; it was replaced or cannot go on
}

// Send is one message to a session.
type Send struct {
	To  SessionKey
	Tid uint64
	Msg wire.Message
}

// PeerSend is one message to another rank. It is lost when there is no session toward it; the shell
// opens one then, and says PeerUp.
type PeerSend struct {
	To  wire.Rank
	Msg wire.Message
}

// JournalWrite asks to write Bytes at Off of the rank's journal (journal.Pieces maps it to
// objects) and to answer JournalDone{Off}.
type JournalWrite struct {
	Off   journal.Pos
	Bytes []byte
}

// ObjectOp asks for one vector of operations; the answer is ObjectDone{Token}. FullTry and
// Barrier are the objecter's options.
type ObjectOp struct {
	Token   uint64
	Obj     wire.ObjectID
	Ops     []wire.ObjOp
	FullTry bool
	Barrier wire.Epoch
}

// BlocklistAsk asks the monitors to fence Instance; the answer is Blocklisted.
type BlocklistAsk struct {
	Instance wire.Instance
	Reason   string
}

// LogLevel is for the shell's logger.
type LogLevel uint8

// Levels.
const (
	LogDebug LogLevel = iota
	LogInfo
	LogWarn
	LogError
)

// LogLine is one line for people.
type LogLine struct {
	Level LogLevel
	Text  string
}

// reset empties e for the next step; the arrays stay.
func (e *Effects) reset() {
	clear(e.Sends)
	clear(e.Journal)
	clear(e.Objects)
	clear(e.Peers)
	*e = Effects{Sends: e.Sends[:0], Journal: e.Journal[:0], Objects: e.Objects[:0], Blocklist: e.Blocklist[:0],
		Peers: e.Peers[:0], Hangup: e.Hangup[:0], Logs: e.Logs[:0]}
}

func (r *Rank) logf(l LogLevel, format string, args ...any) {
	if l < r.cfg.LogLevel {
		return
	}
	r.eff.Logs = append(r.eff.Logs, LogLine{l, fmt.Sprintf(format, args...)})
}
