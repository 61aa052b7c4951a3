package server_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon/server"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// cable is a memory network whose hosts can be cut from each other.
type cable struct {
	msgr.Network
	mu    sync.Mutex
	cut   map[string]bool // hosts that only hear themselves
	conns map[net.Conn][2]string
}

func newCable() *cable {
	return &cable{Network: msgr.NewMemory(), cut: map[string]bool{}, conns: map[net.Conn][2]string{}}
}

// from is the network as host sees it.
func (c *cable) from(host string) msgr.Network { return plug{c, host} }

type plug struct {
	*cable
	host string
}

// hostOf is the last part of an address: mem:raft.a is at a.
func hostOf(addr string) string { return addr[strings.LastIndexByte(addr, '.')+1:] }

func (p plug) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to := hostOf(addr)
	for p.apart(p.host, to) { // packets are lost, nobody refuses
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	nc, err := p.Network.Dial(ctx, addr)
	if err == nil {
		p.mu.Lock()
		p.conns[nc] = [2]string{p.host, to}
		p.mu.Unlock()
	}
	return nc, err
}

func (c *cable) apart(a, b string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return a != b && (c.cut[a] || c.cut[b])
}

// pull cuts a host off; its streams break.
func (c *cable) pull(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[host] = true
	for nc, ends := range c.conns {
		if ends[0] != ends[1] && (ends[0] == host || ends[1] == host) {
			nc.Close()
			delete(c.conns, nc)
		}
	}
}

func (c *cable) plugIn(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cut, host)
}

// trio is a quorum of three in this process.
type trio struct {
	t    *testing.T
	net  *cable
	dir  string
	mons []clustermap.MonInfo
	up   map[string]*server.Daemon
}

func newTrio(t *testing.T) *trio {
	q := &trio{t: t, net: newCable(), dir: t.TempDir(), up: map[string]*server.Daemon{}}
	for _, n := range []string{"a", "b", "c"} {
		q.mons = append(q.mons, clustermap.MonInfo{Name: n, Addr: "mem:mon." + n, RaftAddr: "mem:raft." + n})
	}
	t.Cleanup(func() {
		for _, d := range q.up {
			d.Close()
		}
	})
	return q
}

func (q *trio) start(names ...string) {
	q.t.Helper()
	for _, n := range names {
		d, err := server.Start(q.t.Context(), server.Config{Net: q.net.from(n), Dir: filepath.Join(q.dir, n), Name: n, Addr: "mem:mon." + n, RaftAddr: "mem:raft." + n, Cluster: cluster, Mons: q.mons, RaftTimeout: 150 * time.Millisecond, Log: testLog(n)})
		if err != nil {
			q.t.Fatal(err)
		}
		q.up[n] = d
	}
}

func (q *trio) stop(n string) {
	q.t.Helper()
	if d := q.up[n]; d != nil {
		if err := d.Close(); err != nil {
			q.t.Fatal(err)
		}
		delete(q.up, n)
	}
}

func (q *trio) wipe(n string) {
	q.t.Helper()
	if err := os.RemoveAll(filepath.Join(q.dir, n)); err != nil {
		q.t.Fatal(err)
	}
}

func (q *trio) leader() string {
	q.t.Helper()
	ctx := within(q.t)
	for ctx.Err() == nil {
		for n, d := range q.up {
			if d.Leading() && !q.net.apart(n, "client") {
				return n
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	q.t.Fatal("nobody leads")
	return ""
}

func (q *trio) client() *monc.Client {
	return client(q.t, q.net.from("client"), "mem:mon.a", "mem:mon.b", "mem:mon.c")
}

func (q *trio) voter(n string) bool {
	for _, d := range q.up {
		if d.Leading() {
			for _, v := range d.Quorum() {
				if v.Voter && q.up[n] != nil && v.Member == q.up[n].Member() {
					return true
				}
			}
		}
	}
	return false
}

func (q *trio) waitVoter(n string) {
	q.t.Helper()
	for ctx := within(q.t); !q.voter(n); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			q.t.Fatalf("mon.%s does not vote", n)
		}
	}
}

// fence commits one entry, and returns the epoch that holds it.
func fence(ctx context.Context, c *monc.Client, nonce uint64) (wire.Epoch, error) {
	r, err := c.Call(ctx, &wire.BlocklistAdd{Instance: wire.Instance{Kind: wire.KindClient, Nonce: nonce}, Reason: "test"})
	if err != nil {
		return 0, err
	}
	if m := r.(*wire.MonReply); m.Errno != 0 {
		return 0, errors.New(m.Text)
	} else {
		return m.Epoch, nil
	}
}

func mustFence(t *testing.T, c *monc.Client, nonce uint64) wire.Epoch {
	t.Helper()
	e, err := fence(within(t), c, nonce)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func fenced(m *clustermap.OSDMap, nonce uint64) bool {
	return m.IsBlocklisted(wire.Instance{Kind: wire.KindClient, Nonce: nonce})
}

// A monitor whose directory was deleted comes back by itself: filled from the others, a
// voter under a new identity, and as good as any other afterwards.
func TestWipedMonitorJoinsAgain(t *testing.T) {
	q := newTrio(t)
	q.start("a", "b", "c")
	c := q.client()
	mustFence(t, c, 1)
	lost := q.leader() // the worst one to lose
	q.stop(lost)
	q.wipe(lost)
	mustFence(t, c, 2)
	q.start(lost)
	q.waitVoter(lost)
	mustFence(t, c, 3)
	for n := range q.up { // it now has to carry the quorum
		if n != lost {
			q.stop(n)
			break
		}
	}
	e := mustFence(t, c, 4)
	m, err := c.WaitOSDEpoch(within(t), e)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 4; n++ {
		if !fenced(m, n) {
			t.Errorf("epoch %d forgot what was answered as number %d", e, n)
		}
	}
}

// The trap of a wiped voter: a and b hold an entry, c does not; a is away and b forgets. b and
// c are a majority by number and must not lead before a is back.
func TestForgetfulVoterElectsNobody(t *testing.T) {
	q := newTrio(t)
	q.start("a", "b", "c")
	c := q.client()
	mustFence(t, c, 1)
	for q.leader() == "c" { // it is to lag
		q.stop("c")
		q.leader()
		q.start("c")
		q.waitVoter("c")
	}
	q.net.pull("c")
	mustFence(t, c, 2)
	q.stop("a")
	q.stop("b")
	q.wipe("b")
	q.net.plugIn("c")
	q.start("b")
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for n, d := range q.up {
			if d.Leading() {
				t.Fatalf("mon.%s leads with a forgetful voter: %v", n, d.Quorum())
			}
		}
	}
	q.start("a")
	q.waitVoter("b")
	m, err := c.WaitOSDEpoch(within(t), mustFence(t, c, 3))
	if err != nil || !fenced(m, 2) {
		t.Fatalf("what was answered is gone: %v", err)
	}
}

// A leader that is cut off commits nothing and answers nothing, and what it was asked
// meanwhile is not there when it comes back unless it is asked again.
func TestMinorityAnswersNothing(t *testing.T) {
	q := newTrio(t)
	q.start("a", "b", "c")
	c := q.client()
	before := mustFence(t, c, 1)
	old := q.leader()
	inside := client(t, q.net.from(old), "mem:mon."+old) // on the host that is cut off
	q.net.pull(old)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if e, err := fence(ctx, inside, 66); err == nil {
		t.Fatalf("a minority of one committed epoch %d", e)
	}
	after := mustFence(t, c, 2)
	if after <= before {
		t.Fatalf("epoch %d after %d", after, before)
	}
	inside.Close()
	q.net.plugIn(old)
	m, err := c.WaitOSDEpoch(within(t), mustFence(t, c, 3))
	if err != nil || fenced(m, 66) || !fenced(m, 2) {
		t.Fatalf("after healing: %v, minority's entry there: %v, majority's: %v", err, fenced(m, 66), fenced(m, 2))
	}
}

// The store of a monitor whose name was given to another one is refused, with what to do.
func TestReplacedStoreStops(t *testing.T) {
	q := newTrio(t)
	q.start("a", "b", "c")
	c := q.client()
	mustFence(t, c, 1)
	q.stop("c")
	kept, was := filepath.Join(q.dir, "kept"), filepath.Join(q.dir, "c")
	if err := os.Rename(was, kept); err != nil {
		t.Fatal(err)
	}
	q.start("c")
	q.waitVoter("c")
	q.stop("c")
	if err := os.RemoveAll(was); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept, was); err != nil {
		t.Fatal(err)
	}
	q.start("c")
	select {
	case err := <-q.up["c"].Failed():
		if !errors.Is(err, server.ErrReplaced) {
			t.Fatal(err)
		}
	case <-within(t).Done():
		t.Fatal("a replaced store goes on")
	}
	mustFence(t, c, 2)
}

// watcher holds a client to what it may see: epochs rise, and an epoch is the same map
// for everybody.
type watcher struct {
	mu   sync.Mutex
	seen map[wire.Epoch]uint64
	errs []string
}

func (w *watcher) watch(name string, c *monc.Client) {
	var last wire.Epoch
	c.OnMaps(func(m *clustermap.OSDMap, _ *clustermap.FSMap) {
		h := fnv.New64a()
		h.Write(m.Encode())
		w.mu.Lock()
		defer w.mu.Unlock()
		if m.Epoch < last {
			w.errs = append(w.errs, fmt.Sprintf("%s saw epoch %d after %d", name, m.Epoch, last))
		}
		last = m.Epoch
		if sum, ok := w.seen[m.Epoch]; ok && sum != h.Sum64() {
			w.errs = append(w.errs, fmt.Sprintf("%s sees another epoch %d than somebody before", name, m.Epoch))
		}
		w.seen[m.Epoch] = h.Sum64()
	})
}

// Stops, cuts and wipes at random, one wiped store at a time: nothing answered is lost, no
// epoch goes back, nobody sees another map under the same epoch.
func TestQuorumStorm(t *testing.T) {
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("CAPSTAN_MON_ROUNDS")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("CAPSTAN_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("repeat the schedule: CAPSTAN_SEED=%d go test -run TestQuorumStorm ./mon/server", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	q := newTrio(t)
	q.start("a", "b", "c")
	w := &watcher{seen: map[wire.Epoch]uint64{}}
	writer, reader := q.client(), q.client()
	w.watch("writer", writer)
	w.watch("reader", reader)
	ctx, cancel := context.WithCancel(t.Context())
	answered := map[uint64]wire.Epoch{}
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := uint64(100); ctx.Err() == nil; n++ {
			if e, err := fence(ctx, writer, n); err != nil && ctx.Err() == nil {
				t.Log(err)
			} else if err == nil {
				answered[n] = e
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	for range rounds {
		victim := q.mons[rng.IntN(3)].Name
		if rng.IntN(3) == 0 {
			victim = q.leader()
		}
		switch rng.IntN(3) {
		case 0:
			q.stop(victim)
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			q.start(victim)
		case 1:
			q.net.pull(victim)
			time.Sleep(time.Duration(rng.IntN(600)) * time.Millisecond)
			q.net.plugIn(victim)
		case 2:
			q.leader()
			q.waitVoter(victim)
			q.stop(victim)
			q.wipe(victim)
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			q.start(victim)
			q.waitVoter(victim)
		}
		time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
	}
	q.leader()
	cancel()
	writing.Wait()
	m, err := reader.WaitOSDEpoch(within(t), mustFence(t, writer, 1))
	if err != nil {
		t.Fatal(err)
	}
	for n, e := range answered {
		if !fenced(m, n) {
			t.Errorf("number %d was answered with epoch %d and is gone", n, e)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.errs {
		t.Error(s)
	}
	if len(answered) < rounds {
		t.Errorf("only %d calls were answered in %d rounds", len(answered), rounds)
	}
	t.Logf("%d calls answered, %d epochs seen", len(answered), len(w.seen))
}

// testLog is silent unless CAPSTAN_LOG is set.
func testLog(name string) zerolog.Logger {
	if os.Getenv("CAPSTAN_LOG") == "" {
		return zerolog.Nop()
	}
	return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, TimeFormat: "05.000"}).With().Timestamp().Str("mon", name).Logger()
}
