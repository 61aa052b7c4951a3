package mds

import (
	"fmt"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/wire"
)

// benchRank is an active rank whose journal writes and object operations end at once.
type benchRank struct {
	r     *Rank
	b     testing.TB
	now   int64
	store *world
	key   SessionKey
	tid   uint64
	last  *wire.Reply
	safe  wire.Tid

	onMsg  func(wire.Message) // sees every message to the client
	after  []func()           // what runs when the outermost step has ended
	depth  int
	warned bool // a warning was logged
}

func newBench(b testing.TB) *benchRank {
	w := &world{t: b, store: map[string]*object{}}
	br := &benchRank{b: b, store: w, key: 5}
	br.r = New(Config{MetaPool: 1, DataPool: 2, Create: true, Incarnation: 1, InoRanges: []uint64{1}, LogLevel: LogError, CacheBytes: 1 << 40, SegmentBytes: 1 << 30})
	br.step(Event{Kind: Start})
	br.step(Event{Kind: FromSession, Session: br.key, Msg: &wire.SessionOpen{Instance: wire.Instance{Kind: wire.KindClient, Nonce: uint64(br.key)}}})
	return br
}

func (br *benchRank) step(ev Event) {
	br.now += 1000
	ev.Now, ev.Wall = br.now, wire.Time{Sec: br.now}
	e := br.r.Step(ev)
	if e.Exit != nil {
		br.b.Fatal(e.Exit)
	}
	br.warned = br.warned || len(e.Logs) > 0
	br.depth++
	defer br.end()
	for i := range e.Sends {
		if br.onMsg != nil {
			br.onMsg(e.Sends[i].Msg)
		}
		switch m := e.Sends[i].Msg.(type) {
		case *wire.Reply:
			br.last = m
		case *wire.Safe:
			br.safe = m.Tid
		case *wire.CapGrant:
			if m.Op == wire.CapRevoke {
				defer br.step(Event{Kind: FromSession, Session: br.key, Msg: &wire.CapUpdate{Ino: m.Stat.Ino, CapID: m.Stat.Cap.ID, Seq: m.Stat.Cap.Seq, Retained: m.Stat.Cap.Pending}})
			}
		}
	}
	// The slices belong to the rank: take what continues before the next step.
	var offs [4]journal.Pos
	n := 0
	for _, j := range e.Journal {
		offs[n] = j.Off
		n++
	}
	ops := append([]ObjectOp(nil), e.Objects...)
	for _, off := range offs[:n] {
		br.step(Event{Kind: JournalDone, Off: off})
	}
	for _, op := range ops {
		errno, res := br.store.apply(op.Obj, op.Ops)
		br.step(Event{Kind: ObjectDone, Token: op.Token, Errno: errno, Res: res})
	}
}

// end runs what was put off while a step ran.
func (br *benchRank) end() {
	if br.depth--; br.depth > 0 {
		return
	}
	for len(br.after) > 0 {
		fn := br.after[0]
		br.after = br.after[1:]
		fn()
	}
}

func (br *benchRank) do(m *wire.Request) *wire.Reply {
	br.last = nil
	m.Oldest = br.safe + 1
	if m.Op.Mutates() {
		br.tid++
		br.step(Event{Kind: FromSession, Session: br.key, Tid: br.tid, Msg: m})
	} else {
		br.step(Event{Kind: FromSession, Session: br.key, Tid: uint64(wire.ReadTid) | br.tid, Msg: m})
	}
	if br.last == nil || br.last.Errno != 0 {
		br.b.Fatalf("%v %q: %+v", m.Op, m.Name, br.last)
	}
	return br.last
}

func BenchmarkCreate(b *testing.B) {
	br := newBench(b)
	names := make([]string, b.N)
	for i := range names {
		names[i] = fmt.Sprintf("file-%d", i)
	}
	var m wire.Request
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		m = wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: names[i], Mode: 0o644, OpenFlags: oEXCL, Want: caps.FileWr | caps.FileRd}
		br.do(&m)
	}
}

func BenchmarkLookup(b *testing.B) {
	br := newBench(b)
	for i := 0; i < 1000; i++ {
		br.do(&wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: fmt.Sprintf("f%d", i), Mode: 0o644, OpenFlags: oEXCL})
	}
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("f%d", i)
	}
	var m wire.Request
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		m = wire.Request{Op: wire.OpLookup, Ino: wire.RootIno, Name: names[i%1000]}
		br.do(&m)
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	br := newBench(b)
	var m wire.Request
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		m = wire.Request{Op: wire.OpCreate, Ino: wire.RootIno, Name: "f", Mode: 0o644, OpenFlags: oEXCL}
		c := br.do(&m).Target.Cap
		ino := br.last.Target.Ino
		m = wire.Request{Op: wire.OpUnlink, Ino: wire.RootIno, Name: "f"}
		br.do(&m)
		br.step(Event{Kind: FromSession, Session: br.key, Msg: &wire.CapRelease{Caps: []wire.ReleasedCap{{Ino: ino, CapID: c.ID, IssueSeq: 1 << 30}}}})
	}
}
