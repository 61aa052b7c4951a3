package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/mon"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// A monitor's identity in the quorum is its name, and after a loss of its store its name, a
// slash and a number drawn at random. A voter that forgot its votes and its log must never
// vote under the same identity again: two of three could then elect a leader that lacks what
// the third and the forgetful one had committed.

// memberFile holds the identity, when it is not the bare name.
const memberFile = "member"

// Times of the conversation between monitors.
const (
	askTimeout   = time.Second
	askAgain     = 150 * time.Millisecond
	orphanAfter  = 3 * time.Second // without a leader for so long: ask whether the quorum left us out
	caughtUpLogs = 64              // a copy so near to the leader's log may vote
)

// ErrReplaced ends a monitor whose identity the quorum has given up.
var ErrReplaced = errors.New("this store was replaced")

// nameOf is the name within an identity.
func nameOf(member string) string {
	name, _, _ := strings.Cut(member, "/")
	return name
}

// begin settles who this monitor is, starts raft and the loops. On an empty directory of a
// larger quorum that can take until the others are reached, so it then runs beside Start.
func (d *Daemon) begin() error {
	how := bootstrap
	if !d.has && len(d.cfg.Mons) > 1 {
		var err error
		if how, err = d.settle(); err != nil {
			return err
		}
	}
	if how == join {
		if err := d.newMember(); err != nil {
			return err
		}
	}
	if err := d.openRaft(how); err != nil {
		return err
	}
	for _, loop := range []func(){d.watchLeadership, d.proposer, d.verifier, d.pusher, d.ticker} {
		d.loop(loop)
	}
	if len(d.cfg.Mons) > 1 {
		defer d.loop(d.watchQuorum)
	}
	if how == join || d.listens() { // also one that was stopped before it voted
		d.joining.Store(true)
		d.loop(d.join)
	}
	return nil
}

// listens reports whether this monitor is in the quorum without a vote.
func (d *Daemon) listens() bool {
	return slices.ContainsFunc(d.Quorum(), func(m QuorumMember) bool { return m.Member == d.member && !m.Voter })
}

func (d *Daemon) loop(f func()) {
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		f()
	}()
}

// beginning is how raft starts on an empty store.
type beginning int

const (
	bootstrap beginning = iota // as one of the first members
	join                       // as a stranger, who asks to be let in
)

// settle finds out whether this empty directory is that of a new cluster or a lost one. Only
// when every other monitor says that it knows of no cluster is it new.
func (d *Daemon) settle() (beginning, error) {
	for said := ""; ; {
		var silent []string
		for _, in := range d.others() {
			s, err := d.hello(in.Addr)
			switch {
			case err != nil:
				silent = append(silent, in.Name)
			case s.Made:
				d.made.Store(true)
				d.log.Info().Str("from", s.Name).Msg("the cluster exists and this store is empty: asking to be let in as a new member")
				return join, nil
			}
		}
		if len(silent) == 0 {
			return bootstrap, nil
		}
		if w := strings.Join(silent, ", mon."); w != said {
			said = w
			d.log.Info().Msg("this store is empty; whether the cluster is new is known when all monitors were asked: waiting for mon." + w)
		}
		if !d.sleep(askAgain) {
			return 0, d.ctx.Err()
		}
	}
}

func (d *Daemon) others() []clustermap.MonInfo {
	return slices.DeleteFunc(slices.Clone(d.cfg.Mons), func(in clustermap.MonInfo) bool { return in.Name == d.cfg.Name })
}

// sleep is false when the monitor is being closed.
func (d *Daemon) sleep(t time.Duration) bool {
	select {
	case <-d.ctx.Done():
		return false
	case <-time.After(t):
		return true
	}
}

// newMember draws the identity under which this monitor joins, and writes it down before
// raft can speak for it.
func (d *Daemon) newMember() error {
	d.member = fmt.Sprintf("%s/%x", d.cfg.Name, d.cfg.Instance.Nonce)
	path := filepath.Join(d.cfg.Dir, memberFile)
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write down who this monitor is: %w", err)
	}
	_, err = f.WriteString(d.member)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(d.cfg.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// readMember is the identity that an earlier life wrote down, or the name.
func (d *Daemon) readMember() error {
	b, err := os.ReadFile(filepath.Join(d.cfg.Dir, memberFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.member = d.cfg.Name
		return nil
	case err != nil:
		return err
	case nameOf(string(b)) != d.cfg.Name:
		return fmt.Errorf("%s belongs to mon.%s", d.cfg.Dir, nameOf(string(b)))
	}
	d.member = string(b)
	return nil
}

// standing answers MonHello.
func (d *Daemon) standing() *wire.MonStanding {
	s := &wire.MonStanding{Name: d.cfg.Name, Made: d.made.Load() || d.fsm.now().OSD.Epoch != 0}
	r := d.raft.Load()
	if r == nil {
		return s
	}
	s.Member = d.member
	// The entry after the first, which is the first configuration, is a leader's: somebody may
	// have been told something.
	s.Made = s.Made || r.LastIndex() > 1
	s.Index = r.LastIndex()
	for _, m := range d.Quorum() {
		s.Members = append(s.Members, m.Member)
	}
	return s
}

// join asks the leader until this monitor votes.
func (d *Daemon) join() {
	me := d.cfg.self()
	m := &wire.MonJoin{Name: d.cfg.Name, Member: d.member, Addr: d.addr, RaftAddr: me.RaftAddr}
	said := ""
	for {
		m.Applied = d.raft.Load().AppliedIndex()
		r, err := d.askLeader(m)
		switch {
		case err == nil && r.Errno == 0 && r.Voter:
			d.joining.Store(false)
			d.log.Info().Str("member", d.member).Msg("in the quorum again")
			return
		case err == nil && r.Errno != 0 && r.Text != said:
			said = r.Text
			d.log.Warn().Msg("not let in yet: " + said)
		}
		if !d.sleep(askAgain) {
			return
		}
	}
}

// askLeader finds the leader by trying everybody.
func (d *Daemon) askLeader(m *wire.MonJoin) (*wire.MonJoined, error) {
	err := errors.New("no monitor leads")
	for _, in := range d.others() {
		r, e := d.ask(in.Addr, m)
		if e != nil {
			err = e
		} else if j, ok := r.(*wire.MonJoined); ok {
			return j, nil
		}
	}
	return nil, err
}

// admit is the leader's answer to a MonJoin: the old identity of that name leaves the quorum
// first, the new one listens until it has nearly caught up, then it votes.
func (d *Daemon) admit(m *wire.MonJoin) *wire.MonJoined {
	d.admitting.Lock()
	defer d.admitting.Unlock()
	no := func(errno uint32, err error) *wire.MonJoined { return &wire.MonJoined{Errno: errno, Text: err.Error()} }
	in, known := d.fsm.now().Mon.ByName(m.Name)
	if !known || nameOf(m.Member) != m.Name || m.RaftAddr == "" {
		return no(mon.EPERM, fmt.Errorf("mon.%s is none of this cluster's monitors", m.Name))
	}
	r := d.raft.Load()
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return no(mon.EAGAIN, err)
	}
	id, addr := raft.ServerID(m.Member), raftAddress(m.Member, m.RaftAddr)
	var old raft.ServerID
	for _, srv := range f.Configuration().Servers {
		switch {
		case srv.ID == id && srv.Suffrage == raft.Voter:
			return &wire.MonJoined{Voter: true}
		case srv.ID == id:
			if m.Applied+caughtUpLogs < r.AppliedIndex() {
				return &wire.MonJoined{}
			}
			if err := r.AddVoter(id, addr, 0, 0).Error(); err != nil {
				return no(mon.EAGAIN, err)
			}
			d.log.Info().Str("member", m.Member).Msg("votes")
			return &wire.MonJoined{Voter: true}
		case nameOf(string(srv.ID)) == m.Name:
			old = srv.ID
		}
	}
	if old != "" {
		if s, err := d.hello(in.Addr); err == nil && s.Member == string(old) {
			return no(mon.EEXIST, fmt.Errorf("mon.%s lives at %s: two monitors have that name", m.Name, in.Addr))
		}
		if err := r.RemoveServer(old, 0, 0).Error(); err != nil {
			return no(mon.EAGAIN, err)
		}
		d.log.Info().Str("member", string(old)).Msg("left the quorum: its store is lost")
	}
	if err := r.AddNonvoter(id, addr, 0, 0).Error(); err != nil {
		return no(mon.EAGAIN, err)
	}
	if err := d.commit(&mon.MonSet{Info: clustermap.MonInfo{Name: m.Name, Addr: m.Addr, RaftAddr: m.RaftAddr}}); err != nil {
		return no(mon.EAGAIN, err)
	}
	d.log.Info().Str("member", m.Member).Msg("listens")
	return &wire.MonJoined{}
}

// hello asks the monitor at addr who it is.
func (d *Daemon) hello(addr string) (*wire.MonStanding, error) {
	r, err := d.ask(addr, &wire.MonHello{Name: d.cfg.Name})
	if err != nil {
		return nil, err
	}
	s, ok := r.(*wire.MonStanding)
	if !ok {
		return nil, fmt.Errorf("monitor at %s answers %v", addr, r.WireType())
	}
	return s, nil
}

// watchQuorum looks after a monitor that hears of no leader: it may have been left out, its
// name given to another store. And it tells the leader's core who is silent.
func (d *Daemon) watchQuorum() {
	lost := time.Now()
	for d.sleep(askAgain) {
		if d.Leader() != "" {
			lost = time.Now()
			continue
		}
		if time.Since(lost) < orphanAfter {
			continue
		}
		lost = time.Now()
		for _, in := range d.others() {
			s, err := d.hello(in.Addr)
			if err == nil && d.leftOut(s) {
				d.fatal(fmt.Errorf("%w by %v: remove %s and start again, it will be filled from the others", ErrReplaced, s.Members, d.cfg.Dir))
				return
			}
		}
	}
}

// leftOut reports whether a newer quorum than ours has our name under another identity. Who
// is still being let in is not left out.
func (d *Daemon) leftOut(s *wire.MonStanding) bool {
	if d.joining.Load() || s.Index <= d.raft.Load().LastIndex() || slices.Contains(s.Members, d.member) {
		return false
	}
	return slices.ContainsFunc(s.Members, func(m string) bool { return nameOf(m) == d.cfg.Name })
}

// WaitQuorum waits until this monitor leads, or follows a leader and has its maps.
func (d *Daemon) WaitQuorum(ctx context.Context) error {
	for {
		if d.Leading() {
			return nil
		}
		if n := d.Leader(); n != "" && n != d.cfg.Name && d.fsm.now().OSD.Epoch != 0 {
			return nil
		}
		select {
		case err := <-d.failed:
			d.failed <- err // whoever watches for it wants it too
			return err
		case <-ctx.Done():
			return fmt.Errorf("mon.%s: there is no quorum yet: %w", d.cfg.Name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Leader is the name of the leading monitor, as far as this one knows; or empty.
func (d *Daemon) Leader() string {
	r := d.raft.Load()
	if r == nil {
		return ""
	}
	_, id := r.LeaderWithID()
	return nameOf(string(id))
}

// ask sends one question to the monitor at addr.
func (d *Daemon) ask(addr string, m wire.Message) (wire.Message, error) {
	ctx, cancel := context.WithTimeout(d.ctx, askTimeout)
	defer cancel()
	c, err := msgr.DialCaller(ctx, d.cfg.Net, addr, d.self, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, _, err := c.Call(ctx, m)
	return r, err
}

// QuorumMember is one monitor of the quorum, as the leader knows it.
type QuorumMember struct {
	Member string `json:"member"`
	Addr   string `json:"raft_addr"`
	Voter  bool   `json:"voter"`
}

// Quorum lists the members of the newest quorum that this monitor knows of.
func (d *Daemon) Quorum() []QuorumMember {
	r := d.raft.Load()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var out []QuorumMember
	for _, s := range f.Configuration().Servers {
		out = append(out, QuorumMember{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	return out
}

// Member is this monitor's identity in the quorum; empty while that is not settled.
func (d *Daemon) Member() string {
	if d.raft.Load() == nil {
		return ""
	}
	return d.member
}
