package mon

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/wire"
)

// stage drives a leader as the shell would, with raft as a list and the clock in hand.
type stage struct {
	t    *testing.T
	l    *Leader
	s    State
	now  int64
	held bool // raft does not commit
	wait []Proposal
	sent []Send
	ver  []uint64
	log  []string // changes that were committed
}

func newStage(t *testing.T, s State, fresh bool) *stage {
	return &stage{t: t, l: NewLeader(Defaults(), 0, s, fresh), s: s}
}

func (g *stage) step(ev Event) {
	g.t.Helper()
	e := g.l.Step(g.now, ev)
	g.wait = append(g.wait, e.Propose...)
	g.sent = append(g.sent, e.Send...)
	if e.Verify != 0 {
		g.ver = append(g.ver, e.Verify)
	}
	g.commit()
}

func (g *stage) commit() {
	g.t.Helper()
	for !g.held && len(g.wait) > 0 {
		p := g.wait[0]
		g.wait = g.wait[1:]
		next, err := g.s.Apply(p.Change)
		if err == nil {
			if err := Follows(g.s, next); err != nil {
				g.t.Fatalf("%v: %v", p.Change, err)
			}
			g.s = next
			g.log = append(g.log, p.Change.String())
		}
		g.step(Committed{ID: p.ID, State: next, Err: err})
	}
}

// pass lets time go by in ticks, with signs of life from those named.
func (g *stage) pass(d int64, alive ...int) {
	g.t.Helper()
	for end := g.now + d; g.now < end; {
		g.now += second / 2
		for _, id := range alive {
			g.alive(id)
		}
		g.step(Tick{})
	}
}

func (g *stage) alive(id int) {
	o := g.s.OSD.OSDs[wire.OSDID(id)]
	g.step(Message{From: ConnID(100 + id), Peer: o.Instance, Msg: &wire.OSDStats{ID: o.ID, Instance: o.Instance, Total: 1000, Used: 10}})
}

func (g *stage) boot(id, storeN, life int) {
	g.t.Helper()
	b := bootOf(id, storeN, life).OSDBoot
	g.step(Message{From: ConnID(100 + id), Peer: b.Instance, Tid: 1, Msg: &b})
}

func (g *stage) did(what string) bool {
	return slices.ContainsFunc(g.log, func(s string) bool { return strings.Contains(s, what) })
}

func (g *stage) inSync(id int) (n int) {
	for _, c := range g.s.OSD.PGs {
		if c.Has(member(g.s.OSD, wire.OSDID(id))) {
			n++
		}
	}
	return n
}

func (g *stage) beacon(name string, life int, seq uint64, st clustermap.RankState) *wire.MDSBeaconAck {
	g.t.Helper()
	g.sent = nil
	i := inst(wire.KindMDS, int(name[0]), life)
	r, _, ok := g.s.FS.Holder(i)
	if !ok {
		r = wire.NoRank
	}
	g.step(Message{From: ConnID(1000 + life), Peer: i, Tid: seq, Msg: &wire.MDSBeacon{Seq: seq, Name: name, Instance: i, Addr: "x", Rank: r, State: uint8(st)}})
	for len(g.ver) > 0 {
		n := g.ver[0]
		g.ver = g.ver[1:]
		g.step(Verified{Verify: n})
	}
	for _, s := range g.sent {
		if a, ok := s.Msg.(*wire.MDSBeaconAck); ok && s.Tid == seq && s.To == ConnID(1000+life) {
			return a
		}
	}
	return nil
}

func bootstrapped(t *testing.T) State {
	s, err := Empty().Apply(&Bootstrap{Cluster: wire.UUID{1}, Size: 3, MinSize: 2, MetaPGs: 4, DataPGs: 4})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func running(t *testing.T) *stage {
	g := newStage(t, bootstrapped(t), true)
	for id := range 3 {
		g.boot(id, 1, 1)
	}
	if len(g.s.OSD.PGs) != 8 {
		t.Fatalf("%d pgs", len(g.s.OSD.PGs))
	}
	return g
}

func TestPGsAreMadeWhenEnoughOSDsAreUp(t *testing.T) {
	g := newStage(t, bootstrapped(t), true)
	g.boot(0, 1, 1)
	g.boot(1, 1, 1)
	g.pass(5*second, 0, 1)
	if len(g.s.OSD.PGs) != 0 {
		t.Fatal("made below size at once")
	}
	g.pass(6*second, 0, 1)
	if len(g.s.OSD.PGs) != 8 {
		t.Fatal("two of three OSDs cover min_size and nobody else came")
	}
}

func TestSilentOSDIsMarkedDownThenDroppedInOneChange(t *testing.T) {
	g := running(t)
	g.pass(5*second, 0, 1)
	if !g.s.OSD.OSDs[2].Up {
		t.Fatal("too soon")
	}
	g.pass(2*second, 0, 1)
	if g.s.OSD.OSDs[2].Up || g.inSync(2) != 8 {
		t.Fatalf("up %v, in sync %d", g.s.OSD.OSDs[2].Up, g.inSync(2))
	}
	g.pass(3*second, 0, 1)
	if g.inSync(2) != 0 {
		t.Fatalf("in sync in %d", g.inSync(2))
	}
	drops := 0
	for _, c := range g.log {
		if strings.HasPrefix(c, "drop") {
			drops++
		}
	}
	if drops != 1 {
		t.Fatalf("%d drops", drops)
	}
}

func TestOSDThatIsBackInTimeIsNotDropped(t *testing.T) {
	g := running(t)
	g.step(Message{From: 102, Tid: 2, Msg: &wire.OSDStopping{ID: 2, Instance: inst(wire.KindOSD, 2, 1)}})
	if g.s.OSD.OSDs[2].Up {
		t.Fatal("still up")
	}
	g.pass(second, 0, 1)
	g.boot(2, 1, 2)
	g.pass(10*second, 0, 1, 2)
	if g.did("drop") || g.inSync(2) != 8 {
		t.Fatal(g.log)
	}
}

func TestReportsOfTwoPeersCountAndThoseOfTheDeadDoNot(t *testing.T) {
	g := running(t)
	say := func(from int, refused bool, life int) {
		g.step(Message{From: ConnID(100 + from), Peer: inst(wire.KindOSD, from, life), Msg: &wire.OSDFailure{Reporter: wire.OSDID(from), Target: 2, Instance: inst(wire.KindOSD, 2, 1), Refused: refused}})
	}
	say(0, false, 1)
	say(1, false, 9) // another life of osd.1
	if !g.s.OSD.OSDs[2].Up {
		t.Fatal("one report is enough?")
	}
	say(1, false, 1)
	if g.s.OSD.OSDs[2].Up {
		t.Fatal("two reports are not")
	}
	g = running(t)
	say(0, true, 1)
	if g.s.OSD.OSDs[2].Up {
		t.Fatal("its port is closed: it is gone")
	}
}

// Power returns and OSDs boot over 20 s (TR4). The sets must not shrink meanwhile.
func TestM5ColdStartDropsNobody(t *testing.T) {
	s := running(t).s
	g := newStage(t, s, false)
	g.boot(0, 1, 2)
	g.pass(9*second, 0) // the two others are marked down: they were up in the map
	if g.s.OSD.OSDs[1].Up || g.did("drop") {
		t.Fatal(g.log)
	}
	g.boot(1, 1, 2)
	g.pass(10*second, 0, 1)
	if g.did("drop") {
		t.Fatal(g.log)
	}
	// An OSD's own proposal waits too.
	c := g.s.OSD.PGs[pg0]
	g.sent = nil
	g.step(Message{From: 100, Tid: 5, Msg: &wire.PGCAS{PG: pg0, Interval: c.Interval, From: c.Primary, Instance: g.s.OSD.OSDs[c.Primary].Instance, DropMembers: []wire.Member{mb(2, 1)}}})
	if r := g.sent[0].Msg.(*wire.PGCASReply); r.Errno != EAGAIN {
		t.Fatalf("%+v", r)
	}
	g.pass(12*second, 0, 1)
	if g.inSync(2) != 0 {
		t.Fatal("osd.2 is still missing after 30 s and is still waited for")
	}
}

func TestM5ManyDownDropsNobodyHoweverLong(t *testing.T) {
	g := running(t)
	g.pass(120*second, 0)
	if g.did("drop") || g.s.OSD.OSDs[1].Up || g.s.OSD.OSDs[2].Up {
		t.Fatal(g.log)
	}
	g.boot(1, 1, 2)
	g.pass(second, 0, 1)
	if g.inSync(2) != 0 || g.inSync(1) != 8 {
		t.Fatal(g.log)
	}
}

func TestNewLeaderGivesFullGrace(t *testing.T) {
	s := running(t).s
	g := newStage(t, s, false)
	g.pass(5*second, 0)
	if !g.s.OSD.OSDs[1].Up {
		t.Fatal("judged by silence from before it led")
	}
}

func TestBrokenConnectionIsAHint(t *testing.T) {
	g := running(t)
	g.step(Gone{From: 102})
	g.pass(3*second, 0, 1)
	if g.s.OSD.OSDs[2].Up {
		t.Fatal("still up")
	}
	g = running(t)
	g.step(Gone{From: 102})
	g.pass(10*second, 0, 1, 2) // it reconnected
	if !g.s.OSD.OSDs[2].Up {
		t.Fatal("down, and it is alive")
	}
}

func TestFullFlagComesAndGoes(t *testing.T) {
	g := running(t)
	use := func(used uint64) {
		g.step(Message{From: 101, Msg: &wire.OSDStats{ID: 1, Instance: inst(wire.KindOSD, 1, 1), Total: 100000, Used: used}})
	}
	use(96000)
	if !g.s.OSD.Full || !g.s.OSD.NearFull {
		t.Fatal("not full")
	}
	use(94800)
	if !g.s.OSD.Full {
		t.Fatal("it flaps")
	}
	use(10000)
	if g.s.OSD.Full || g.s.OSD.NearFull {
		t.Fatal("still full")
	}
}

func TestRankGoesToTheFirstAndToItsNextLifeAtOnce(t *testing.T) {
	g := running(t)
	if a := g.beacon("a", 1, 1, clustermap.RankBoot); a == nil || a.Rank != 0 || clustermap.RankState(a.State) != clustermap.RankCreating {
		t.Fatalf("%+v", a)
	}
	g.beacon("a", 1, 2, clustermap.RankActive)
	if in := g.s.FS.Ranks[0]; in.State != clustermap.RankActive || !in.Created {
		t.Fatalf("%+v", in)
	}
	// It was killed and started again: the next life need not wait for missed beacons, but
	// it does wait for the lease.
	a := g.beacon("a", 2, 1, clustermap.RankBoot)
	in := g.s.FS.Ranks[0]
	if a == nil || a.Rank != 0 || in.State != clustermap.RankReplay || !in.LeaseWait || !g.s.OSD.IsBlocklisted(inst(wire.KindMDS, 'a', 1)) {
		t.Fatalf("%+v %+v", a, in)
	}
	if a := g.beacon("a", 1, 3, clustermap.RankActive); a == nil || !a.Replaced || a.Seq != 0 {
		t.Fatalf("the life before was acked: %+v", a)
	}
	g.beacon("a", 2, 2, clustermap.RankReconnect)
	g.beacon("a", 2, 3, clustermap.RankActive)
	if a := g.beacon("a", 2, 4, clustermap.RankStopped); a == nil || a.Seq != 4 || clustermap.RankState(a.State) != clustermap.RankStopped {
		t.Fatalf("%+v", a)
	}
	a = g.beacon("a", 3, 1, clustermap.RankBoot)
	if in := g.s.FS.Ranks[0]; a.Rank != 0 || in.LeaseWait || in.State != clustermap.RankReplay {
		t.Fatalf("%+v %+v", a, in)
	}
}

func TestStandbyTakesOverFromASilentRank(t *testing.T) {
	g := running(t)
	g.beacon("a", 1, 1, clustermap.RankBoot)
	g.beacon("a", 1, 2, clustermap.RankActive)
	for seq := range uint64(8) {
		g.now += second / 2
		a := g.beacon("b", 2, seq+1, clustermap.RankStandby)
		if g.s.FS.Ranks[0].Daemon.Name == "b" {
			if g.now < 3*second {
				t.Fatalf("after %d ns", g.now)
			}
			if a == nil || a.Rank != 0 || !g.s.FS.Ranks[0].LeaseWait {
				t.Fatalf("%+v", a)
			}
			return
		}
		if len(g.s.FS.Standbys) != 1 || a.Rank != wire.NoRank {
			t.Fatalf("%+v %+v", a, g.s.FS.Standbys)
		}
	}
	t.Fatal("nobody took over")
}

func TestSilentRankWithoutSuccessorFails(t *testing.T) {
	g := running(t)
	g.beacon("a", 1, 1, clustermap.RankBoot)
	g.pass(4*second, 0, 1, 2)
	if in := g.s.FS.Ranks[0]; in.State != clustermap.RankFailed || !in.LeaseWait || !g.s.OSD.IsBlocklisted(inst(wire.KindMDS, 'a', 1)) {
		t.Fatalf("%+v", in)
	}
	if g.beacon("b", 2, 1, clustermap.RankBoot).Rank != 0 {
		t.Fatal("the rank stays empty")
	}
}

// LS: no ack without a confirmed leadership, and none for the old life once its successor
// was decided, even when the decision has not come back from raft and even when the beacon
// came before it.
func TestLSAcksOnlyWithConfirmedLeadership(t *testing.T) {
	g := running(t)
	g.beacon("a", 1, 1, clustermap.RankBoot)
	g.beacon("a", 1, 2, clustermap.RankActive)
	g.sent = nil
	old := inst(wire.KindMDS, 'a', 1)
	beat := func(seq uint64) {
		g.step(Message{From: 1001, Peer: old, Tid: seq, Msg: &wire.MDSBeacon{Seq: seq, Name: "a", Instance: old, Rank: 0, State: uint8(clustermap.RankActive)}})
	}
	acked := func() bool {
		return slices.ContainsFunc(g.sent, func(s Send) bool { a, ok := s.Msg.(*wire.MDSBeaconAck); return ok && a.Seq >= 3 })
	}
	beat(3)
	if acked() {
		t.Fatal("acked before the leadership was confirmed")
	}
	// The successor is proposed while the confirmation is on its way.
	g.held = true
	next := inst(wire.KindMDS, 'a', 2)
	g.step(Message{From: 1002, Peer: next, Tid: 1, Msg: &wire.MDSBeacon{Seq: 1, Name: "a", Instance: next, Rank: wire.NoRank, State: uint8(clustermap.RankBoot)}})
	for len(g.ver) > 0 {
		n := g.ver[0]
		g.ver = g.ver[1:]
		g.step(Verified{Verify: n})
	}
	beat(4)
	for len(g.ver) > 0 {
		n := g.ver[0]
		g.ver = g.ver[1:]
		g.step(Verified{Verify: n})
	}
	if acked() {
		t.Fatal("the old life was acked after its successor was decided")
	}
	g.held = false
	g.commit()
	if _, in, ok := g.s.FS.Holder(next); !ok || !in.LeaseWait {
		t.Fatalf("%+v", g.s.FS.Ranks[0])
	}
}

func TestOneConfirmationServesManyBeacons(t *testing.T) {
	g := running(t)
	for k := range 10 {
		i := inst(wire.KindMDS, 1, 50+k)
		g.step(Message{From: ConnID(k + 1), Peer: i, Tid: 1, Msg: &wire.MDSBeacon{Seq: 1, Name: fmt.Sprint("m", k), Instance: i, State: uint8(clustermap.RankBoot)}})
	}
	if len(g.ver) != 1 {
		t.Fatalf("%d confirmations at once", len(g.ver))
	}
	rounds := 0
	for len(g.ver) > 0 {
		n := g.ver[0]
		g.ver = g.ver[1:]
		g.step(Verified{Verify: n})
		rounds++
	}
	if rounds != 2 {
		t.Fatalf("%d rounds for ten beacons", rounds)
	}
}

func TestLostLeadershipAnswersNobodyWithAResult(t *testing.T) {
	g := running(t)
	g.held, g.sent = true, nil
	g.step(Message{From: 7, Tid: 3, Msg: &wire.BlocklistAdd{Instance: inst(wire.KindClient, 1, 1)}})
	g.held = false
	p := g.wait[0]
	g.wait = nil
	g.step(Committed{ID: p.ID, Err: errors.New("leadership lost")})
	if len(g.sent) != 1 {
		t.Fatal(g.sent)
	}
	if _, ok := g.sent[0].Msg.(*wire.MonNotLeader); !ok {
		t.Fatalf("%+v", g.sent[0].Msg)
	}
}

func TestCleanEntriesExpireAfterAnHour(t *testing.T) {
	g := running(t)
	clean, evicted := inst(wire.KindClient, 1, 1), inst(wire.KindClient, 2, 1)
	g.step(Message{From: 7, Tid: 1, Msg: &wire.BlocklistAdd{Instance: clean, Clean: true}})
	g.step(Message{From: 7, Tid: 2, Msg: &wire.BlocklistAdd{Instance: evicted}})
	g.pass(second, 0, 1, 2)
	g.now += 3601 * second
	for id := range 3 {
		g.alive(id)
	}
	g.step(Tick{})
	if g.s.OSD.IsBlocklisted(clean) || !g.s.OSD.IsBlocklisted(evicted) {
		t.Fatalf("%+v", g.s.OSD.Blocklist)
	}
}

// A leader through a long random life: nothing panics, every change follows, every request
// gets exactly one answer.
func TestRandomLifeOfALeader(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		g := running(t)
		g.sent = nil
		asked, lives := 0, []int{1, 1, 1}
		for range 400 {
			g.now += int64(r.IntN(int(second)))
			g.held = r.IntN(3) == 0
			id := r.IntN(3)
			switch r.IntN(7) {
			case 0:
				lives[id]++
				asked++
				g.boot(id, 1+r.IntN(8)/7, lives[id])
			case 1, 2:
				g.alive(id)
			case 3:
				asked++
				c := g.s.OSD.PGs[pg0]
				g.step(Message{From: 9, Tid: 1, Msg: &wire.PGCAS{PG: pg0, Interval: c.Interval, From: c.Primary, Instance: g.s.OSD.OSDs[c.Primary].Instance, DropMembers: []wire.Member{member(g.s.OSD, wire.OSDID(id))}}})
			case 4:
				g.step(Gone{From: ConnID(100 + id)})
			case 5:
				g.step(Tick{})
			case 6:
				asked++
				g.step(Message{From: 9, Tid: 2, Msg: &wire.MonCommand{Args: []byte(`["status"]`)}})
			}
		}
		g.held = false
		g.commit()
		if len(g.sent) != asked {
			t.Fatalf("seed %d: %d answers to %d requests", seed, len(g.sent), asked)
		}
	}
}

// Found by sim/osdsim, seed 9: an OSD that was down for long booted, and "out" was proposed
// while its boot was on its way through raft. The boot put it in, the decision that came
// behind it took it out, and nothing would ever have put it in again.
func TestAnOSDWhoseBootIsUnderWayIsNotTakenOut(t *testing.T) {
	g := running(t)
	g.pass(30*second, 0, 1)
	if g.s.OSD.OSDs[2].Up {
		t.Fatal("osd.2 is up")
	}
	g.pass(g.l.osds[2].downAt+g.l.set.OutAfter-second-g.now, 0, 1)
	g.held = true
	g.boot(2, 3, 9)
	g.pass(2*second, 0, 1)
	g.held = false
	g.commit()
	if o := g.s.OSD.OSDs[2]; !o.Up || !o.In {
		t.Errorf("after its boot: up=%v in=%v\n%s", o.Up, o.In, strings.Join(g.log, "\n"))
	}
}

// command asks as `capstan` would; it returns what was refused, or nothing.
func (g *stage) command(words ...string) string {
	args, err := json.Marshal(words)
	if err != nil {
		g.t.Fatal(err)
	}
	g.sent = nil
	g.step(Message{From: 9, Tid: 2, Msg: &wire.MonCommand{Args: args}})
	for _, s := range g.sent {
		if r, ok := s.Msg.(*wire.MonCommandReply); ok {
			return r.Text
		}
	}
	g.t.Fatalf("%v: no answer", words)
	return ""
}

// A daemon that waits takes a new rank; the ranks above the number stop when they say that they
// have, and nobody gets them before the number is raised again. Then they replay what they have.
func TestRanksComeAndGo(t *testing.T) {
	g := running(t)
	g.beacon("a", 1, 1, clustermap.RankBoot)
	g.beacon("a", 1, 2, clustermap.RankActive)
	if a := g.beacon("b", 2, 1, clustermap.RankBoot); a.Rank != wire.NoRank {
		t.Fatalf("rank %d, and one is wanted", a.Rank)
	}
	g.command("fs", "set", "ranks", "2")
	if a := g.beacon("b", 2, 2, clustermap.RankStandby); a.Rank != 1 || clustermap.RankState(a.State) != clustermap.RankCreating {
		t.Fatalf("%+v", a)
	}
	g.beacon("b", 2, 3, clustermap.RankActive)

	owns := func(n uint32) {
		i := inst(wire.KindMDS, 'b', 2)
		g.step(Message{From: 1002, Peer: i, Tid: 4, Msg: &wire.MDSBeacon{Seq: 4, Name: "b", Instance: i, Addr: "x", Rank: 1, State: uint8(clustermap.RankActive), Subtrees: n}})
	}
	owns(3)
	if out := g.command("fs", "set", "ranks", "1"); !strings.Contains(out, "rank 1 owns 3 directories") || g.s.FS.MaxRanks != 2 {
		t.Fatalf("%q, %d ranks", out, g.s.FS.MaxRanks)
	}
	owns(0)
	g.command("fs", "set", "ranks", "1")
	if in := g.s.FS.Ranks[1]; g.s.FS.MaxRanks != 1 || in.Daemon.Name != "b" || !g.s.FS.Wanted(1) {
		t.Fatalf("%d ranks, %+v", g.s.FS.MaxRanks, in)
	}
	// It dies before it has stopped: only a successor can tell that nothing is left in its journal.
	if a := g.beacon("b", 3, 1, clustermap.RankBoot); a.Rank != 1 || clustermap.RankState(a.State) != clustermap.RankReplay {
		t.Fatalf("%+v", a)
	}
	g.beacon("b", 3, 2, clustermap.RankActive)
	g.beacon("b", 3, 3, clustermap.RankStopping)
	g.beacon("b", 3, 4, clustermap.RankStopped)
	if a := g.beacon("z", 30, 1, clustermap.RankBoot); a.Rank != wire.NoRank || g.s.FS.Wanted(1) {
		t.Fatalf("%+v", a)
	}
	g.command("fs", "set", "ranks", "2")
	if a := g.beacon("z", 30, 2, clustermap.RankStandby); a.Rank != 1 || clustermap.RankState(a.State) != clustermap.RankReplay {
		t.Fatalf("%+v", a)
	}
	for _, bad := range []string{"0", "-1", "257", "x"} {
		if out := g.command("fs", "set", "ranks", bad); out == "" || g.s.FS.MaxRanks != 2 {
			t.Fatalf("%s ranks: %q", bad, out)
		}
	}
}
