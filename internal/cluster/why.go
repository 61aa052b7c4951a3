package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/mds"
	mdsserver "github.com/capstan-fs/capstan/mds/server"
	"github.com/capstan-fs/capstan/objecter"
	"github.com/capstan-fs/capstan/osd"
	"github.com/capstan-fs/capstan/wire"
)

// `capstan why` strings the waits of processes, mounts, ranks, OSDs and monitors together until
// it arrives at somebody who waits for nobody: the owner. It asks everybody on this machine once,
// at about one moment, and then only follows links.

// Link is one step of a chain: At waits, or is waited for; On is whom it waits for in turn. A link
// without On is the owner of the wait.
type Link struct {
	At         string  `json:"at"`
	What       string  `json:"what"`
	SinceMs    int64   `json:"since_ms,omitempty"`
	DeadlineMs int64   `json:"deadline_ms,omitempty"` // the wait ends by force then
	Do         string  `json:"do,omitempty"`          // what helps
	On         []*Link `json:"on,omitempty"`
}

// Chains answers one question.
type Chains struct {
	Question string   `json:"question"`
	Chains   []*Link  `json:"chains"`
	Notes    []string `json:"notes,omitempty"` // whom it could not ask
}

// oneAsk bounds each question: whoever is stopped must not stop us.
const oneAsk = time.Second

// scene is what everybody said.
type scene struct {
	dir     string
	host    string
	mounts  []*mountSeen
	ranks   []*mdsserver.Waits
	osds    map[string][]osd.OpState // by name; nil: it did not answer
	mons    map[string]*monSeen
	om      *clustermap.OSDMap // nil: no monitor answered
	fm      *clustermap.FSMap
	monErr  error
	notes   []string
	session []mds.SessionInfo
}

type mountSeen struct {
	MountInfo
	client.Report
	cluster string
	pid     int // of its process; 0: not known
	err     error
}

type monSeen struct {
	Leader string
	err    error
}

// look asks everybody on this machine.
func look(ctx context.Context, dir string) *scene {
	s := &scene{dir: dir, osds: map[string][]osd.OpState{}, mons: map[string]*monSeen{}}
	s.host, _ = os.Hostname()
	var wg sync.WaitGroup
	var mu sync.Mutex
	ask := func(path, cmd string, into any) error {
		ctx, cancel := context.WithTimeout(ctx, oneAsk)
		defer cancel()
		v, err := admin.Call(ctx, path, cmd, nil)
		if err != nil {
			return err
		}
		return json.Unmarshal(v, into)
	}
	all, err := Mounts()
	if err != nil {
		s.notes = append(s.notes, err.Error())
	}
	for _, m := range all {
		if !m.ours() {
			continue
		}
		seen := &mountSeen{MountInfo: m}
		s.mounts = append(s.mounts, seen)
		wg.Go(func() {
			var st struct {
				PID     int
				Cluster string
			}
			if seen.err = ask(controlPath(seen.Dev), "waits", &seen.Report); seen.err == nil {
				_ = ask(controlPath(seen.Dev), "status", &st)
				seen.pid, seen.cluster = st.PID, st.Cluster
			}
		})
	}
	for _, name := range daemonsIn(dir) {
		path := filepath.Join(dir, name, admin.SocketName)
		wg.Go(func() {
			switch {
			case strings.HasPrefix(name, "mds."):
				w := &mdsserver.Waits{}
				var list []mds.SessionInfo
				err := ask(path, "why", w)
				if err == nil {
					err = ask(path, "sessions", &list)
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					s.notes = append(s.notes, s.daemonState(name, err))
					return
				}
				s.ranks, s.session = append(s.ranks, w), append(s.session, list...)
			case strings.HasPrefix(name, "osd."):
				ops := []osd.OpState{}
				err := ask(path, "ops", &ops)
				mu.Lock()
				defer mu.Unlock()
				if s.osds[name] = ops; err != nil {
					s.osds[name] = nil
				}
			case strings.HasPrefix(name, "mon."):
				m := &monSeen{}
				m.err = ask(path, "quorum", m)
				mu.Lock()
				defer mu.Unlock()
				s.mons[name] = m
			}
		})
	}
	wg.Go(func() { s.askMons(ctx, dir) })
	wg.Wait()
	slices.Sort(s.notes)
	for _, m := range s.mounts { // one that does not answer is known to the rank
		for _, x := range s.session {
			if m.pid == 0 && x.Host == s.host+":"+m.Point && startTime(int(x.PID)) != 0 {
				m.pid = int(x.PID)
				m.Report.Client = x.Client
			}
		}
	}
	// Mounts of other clusters are none of ours; of one that does not answer the rank knows.
	if meta, err := ReadMeta(dir); err == nil {
		s.mounts = slices.DeleteFunc(s.mounts, func(m *mountSeen) bool {
			return m.err == nil && m.cluster != "" && m.cluster != meta.Cluster || m.err != nil && m.pid == 0 && len(s.ranks) > 0
		})
	}
	return s
}

func (s *scene) askMons(ctx context.Context, dir string) {
	c, err := conf.Load(filepath.Join(dir, "capstan.conf"))
	if err != nil {
		s.monErr = err
		return
	}
	e, err := ToolEnv(c)
	if err != nil {
		s.monErr = err
		return
	}
	ctx, cancel := context.WithTimeout(ctx, oneAsk)
	defer cancel()
	m, err := e.dialMons(ctx, instance(wire.KindTool, 0))
	if err != nil {
		s.monErr = err
		return
	}
	s.om, s.fm = m.OSDMap(), m.FSMap()
	m.Close()
}

// Why answers for everything (what ""), a path or inode, a process, or a request (CLIENT:TID).
func Why(ctx context.Context, dir, what string) (*Chains, error) {
	s := look(ctx, dir)
	out := &Chains{Question: what, Chains: []*Link{}}
	switch pid, perr := strconv.Atoi(what); {
	case what == "":
		s.whyAll(out)
	case perr == nil && startTime(pid) != 0:
		s.whyPID(out, pid)
	case requestName(what):
		s.whyRequest(out, what)
	default:
		ino, err := InodeOf(what)
		if err != nil {
			return nil, err
		}
		if err := s.whyInode(ctx, out, ino); err != nil {
			return nil, err
		}
	}
	out.Notes = s.notes
	return out, nil
}

// requestName: client.3/89ab:12
func requestName(w string) bool {
	c, tid, ok := strings.Cut(w, ":")
	_, err := strconv.ParseUint(tid, 10, 64)
	return ok && err == nil && strings.Contains(c, "/") && !strings.HasPrefix(c, "/")
}

func (s *scene) whyAll(out *Chains) {
	told := map[string]bool{}
	for _, m := range s.mounts {
		for i := range m.Waits {
			w := &m.Waits[i]
			told[fmt.Sprint(m.Report.Client, w.Tid)] = w.Tid != 0
			out.Chains = append(out.Chains, s.process(int(w.PID), s.mountWait(m, w)))
		}
	}
	for _, r := range s.ranks {
		for i := range r.Waits {
			if w := &r.Waits[i]; !told[fmt.Sprint(w.Client, w.Tid)] && !(w.Kind == "ask" && s.asked(r, w)) {
				out.Chains = append(out.Chains, s.rankWait(r, w, nil))
			}
		}
	}
}

// asked: a request waits for this ask, so that its chain tells of it.
func (s *scene) asked(r *mdsserver.Waits, a *mds.Wait) bool {
	for _, w := range r.Waits {
		for _, on := range w.On {
			if w.Kind != "ask" && on.Kind == "client" && on.Client == a.Client && on.Ino == a.Ino {
				return true
			}
		}
	}
	return false
}

func (s *scene) whyPID(out *Chains, pid int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	tids := map[uint32]bool{uint32(pid): true}
	for _, t := range tasks {
		if n, err := strconv.Atoi(t.Name()); err == nil {
			tids[uint32(n)] = true
		}
	}
	for _, m := range s.mounts {
		for i := range m.Waits {
			if tids[m.Waits[i].PID] {
				out.Chains = append(out.Chains, s.process(pid, s.mountWait(m, &m.Waits[i])))
			}
		}
	}
	if len(out.Chains) > 0 {
		return
	}
	// Not asleep in a mount that answers. Perhaps in one that does not.
	wchan := ""
	for t := range tids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/wchan", pid, t))
		if w := string(b); strings.Contains(w, "fuse") || strings.Contains(w, "request_wait") || wchan == "" {
			wchan = w
		}
	}
	for _, m := range s.mounts {
		if m.err != nil {
			out.Chains = append(out.Chains, s.process(pid, &Link{At: "mount " + m.Point, What: "does not answer: " + m.err.Error(), On: s.processState(m.pid)}))
		}
	}
	if len(out.Chains) == 0 {
		text := "waits for nothing in a Capstan mount of this machine"
		if wchan != "" && wchan != "0" {
			text += " (in the kernel it is in " + wchan + ")"
		}
		l := s.process(pid, nil)
		l.What, l.On = l.What+", "+text, nil
		out.Chains = append(out.Chains, l)
	}
}

func (s *scene) whyRequest(out *Chains, what string) {
	i := strings.LastIndex(what, ":")
	client := what[:i]
	n, _ := strconv.ParseUint(what[i+1:], 10, 64)
	same := func(tid uint64) bool { return uint64(wire.Tid(tid)&^wire.ReadTid) == uint64(wire.Tid(n)&^wire.ReadTid) }
	for _, m := range s.mounts {
		for j := range m.Waits {
			if w := &m.Waits[j]; m.Report.Client == client && w.Tid != 0 && same(w.Tid) {
				out.Chains = append(out.Chains, s.process(int(w.PID), s.mountWait(m, w)))
			}
		}
	}
	if len(out.Chains) > 0 {
		return
	}
	for _, r := range s.ranks {
		for j := range r.Waits {
			if w := &r.Waits[j]; w.Client == client && w.Tid != 0 && same(w.Tid) {
				out.Chains = append(out.Chains, s.rankWait(r, w, nil))
			}
		}
	}
	for name, ops := range s.osds {
		for j := range ops {
			if o := &ops[j]; o.Client == client && o.Tid == n {
				out.Chains = append(out.Chains, s.osdOp(name, o))
			}
		}
	}
}

func (s *scene) whyInode(ctx context.Context, out *Chains, ino string) error {
	number := ino
	for _, m := range s.mounts {
		for i := range m.Waits {
			if w := &m.Waits[i]; w.Ino == ino || w.On2 == ino {
				out.Chains = append(out.Chains, s.process(int(w.PID), s.mountWait(m, w)))
			}
		}
	}
	for _, r := range s.ranks {
		v, err := CallDaemon(ctx, s.dir, r.Daemon, "why", []string{number})
		if err != nil {
			if len(out.Chains) > 0 {
				break
			}
			return err
		}
		var of mdsserver.Waits
		if err := json.Unmarshal(v, &of); err != nil {
			return err
		}
		for i := range of.Waits {
			w := &of.Waits[i]
			if s.covered(out, w) || w.Kind == "ask" && s.asked(&of, w) {
				continue
			}
			out.Chains = append(out.Chains, s.rankWait(&of, w, nil))
		}
	}
	return nil
}

// covered: a chain of a mount of this machine tells of it already.
func (s *scene) covered(out *Chains, w *mds.Wait) bool {
	for _, m := range s.mounts {
		for i := range m.Waits {
			if m.Report.Client == w.Client && m.Waits[i].Tid == w.Tid && w.Tid != 0 && len(out.Chains) > 0 {
				return true
			}
		}
	}
	return false
}

// process is the first link of a chain that begins at one; on is what it does in a mount.
func (s *scene) process(pid int, on *Link) *Link {
	l := &Link{At: fmt.Sprintf("process %d", pid), What: comm(pid)}
	if pid == 0 {
		l.At, l.What = "a mount of this machine", "for its own sake"
	}
	if on != nil {
		l.On = []*Link{on}
		l.SinceMs = on.SinceMs
	}
	return l
}

// mountWait is what an operation of a mount waits for.
func (s *scene) mountWait(m *mountSeen, w *client.Waiting) *Link {
	l := &Link{At: "mount " + m.Point, What: fmt.Sprintf("%s of ino %s waits for %s", w.Op, w.Ino, w.On), SinceMs: w.SinceMs}
	switch w.For {
	case "request":
		l.On = s.request(m, w)
	case "caps", "range":
		l.On = s.capsOf(m, w)
	case "safe":
		for _, r := range s.ranks {
			l.On = append(l.On, s.journal(r, ""))
		}
	case "osd":
		l.On = s.objectsOf(m.Objects, w.On2)
	case "kernel":
		l.On = []*Link{{At: "the kernel of this host", What: "has not finished an invalidation: a page of the file is locked by a reader or writer that waits itself"}}
	default:
		for _, g := range m.Giving {
			if g.Ino == w.On2 || g.Ino == w.Ino {
				l.On = append(l.On, s.giving(m, &g))
			}
		}
		if len(l.On) == 0 {
			l.On = s.objectsOf(m.Objects, w.Ino)
		}
	}
	if len(l.On) == 0 && w.For != "turn" {
		l.On = s.noRank(m)
	}
	return l
}

// request follows a request to the rank.
func (s *scene) request(m *mountSeen, w *client.Waiting) []*Link {
	for _, r := range s.ranks {
		for i := range r.Waits {
			if x := &r.Waits[i]; x.Client == m.Report.Client && x.Tid == w.Tid && x.Kind != "ask" {
				return []*Link{s.rankWait(r, x, nil)}
			}
		}
	}
	return s.noRank(m)
}

// noRank says why a rank does not answer although nothing is parked there.
func (s *scene) noRank(m *mountSeen) (out []*Link) {
	if m.Session != "open" {
		l := &Link{At: "mount " + m.Point, What: "has no session with the rank (" + m.Session + ")"}
		l.On = s.rankState()
		return []*Link{l}
	}
	for _, r := range s.ranks {
		if r.LeaseMs <= 0 || r.Held > 0 {
			l := &Link{At: r.Daemon, What: fmt.Sprintf("may not answer: the monitors have not acknowledged its beacons, its lease ended %d ms ago; %d messages are held", -r.LeaseMs, r.Held)}
			l.On = s.monitors()
			return []*Link{l}
		}
		out = append(out, &Link{At: r.Daemon, What: "has it on its way: nothing is parked there for it"})
	}
	if len(out) == 0 {
		out = s.rankState()
	}
	return out
}

// rankState is what the monitors say of rank 0, or that they say nothing.
func (s *scene) rankState() []*Link {
	if s.fm == nil {
		return s.monitors()
	}
	in, ok := s.fm.Ranks[0]
	if !ok {
		return []*Link{{At: "mds rank 0", What: "does not exist: no metadata daemon has joined", Do: "start one: `capstan dev up --dir D` or `capstan mds`"}}
	}
	name := "mds." + strings.TrimPrefix(in.Daemon.Name, "mds.")
	l := &Link{At: "mds rank 0", What: fmt.Sprintf("is %v, held by %s at %s", in.State, name, in.Daemon.Addr)}
	if in.State != clustermap.RankActive {
		l.Do = "`capstan health` says what helps"
	}
	l.On = s.daemon(name)
	return []*Link{l}
}

// capsOf names who has the caps that a mount waits for.
func (s *scene) capsOf(m *mountSeen, w *client.Waiting) (out []*Link) {
	for i := range m.Giving {
		if g := &m.Giving[i]; g.Ino == w.On2 {
			out = append(out, s.giving(m, g)) // it gives them up itself first
		}
	}
	for _, r := range s.ranks {
		l := &Link{At: r.Daemon, What: fmt.Sprintf("has not granted %s of ino %s", w.Bits, w.On2)}
		for i := range r.Waits {
			if x := &r.Waits[i]; x.Kind == "ask" && x.Ino == w.On2 && x.Client != m.Report.Client {
				l.On = append(l.On, s.owners(r, x, nil)...)
			}
		}
		if len(l.On) > 0 {
			out = append(out, l)
		}
	}
	return out
}

// rankWait is a wait of the rank with its owners. seen guards against a ring.
func (s *scene) rankWait(r *mdsserver.Waits, w *mds.Wait, seen []*mds.Wait) *Link {
	what := w.What
	if w.Lock != "" {
		what += ", parked on the lock " + w.Lock
	} else if w.Stage != "answer" {
		what += ", parked (" + w.Stage + ")"
	}
	if w.Tid != 0 {
		what += fmt.Sprintf(" [request %s:%d]", w.Client, wire.Tid(w.Tid)&^wire.ReadTid)
	}
	l := &Link{At: r.Daemon, What: what, SinceMs: w.SinceMs}
	if slices.Contains(seen, w) {
		l.What += " (a ring of waits: this is a bug)"
		return l
	}
	l.On = s.owners(r, w, append(seen, w))
	return l
}

func (s *scene) owners(r *mdsserver.Waits, w *mds.Wait, seen []*mds.Wait) (out []*Link) {
	for i := range w.On {
		on := &w.On[i]
		switch on.Kind {
		case "client":
			out = append(out, s.clientOwner(on))
		case "request":
			out = append(out, s.requestOwner(r, on, seen))
		case "journal":
			out = append(out, s.journal(r, on.Text))
		case "object", "recovery":
			l := &Link{At: r.Daemon, What: "waits for " + on.Text, On: s.objectsOf(r.Objects, on.Ino)}
			if len(l.On) == 0 {
				l.On = s.objectsOf(r.Objects, "")
			}
			out = append(out, l)
		case "monitors":
			out = append(out, &Link{At: r.Daemon, What: "waits for " + on.Text, On: s.monitors()})
		case "file-lock":
			l := &Link{At: fmt.Sprintf("process %d on %s", on.PID, on.Host), What: "is waited for: " + on.Text}
			if s.here(on.Host) {
				l.What += " (" + comm(int(on.PID)) + ")"
				l.On = s.stopped(int(on.PID))
			}
			out = append(out, l)
		default:
			out = append(out, &Link{At: r.Daemon, What: "waits for " + on.Text, SinceMs: on.SinceMs, DeadlineMs: on.DeadlineMs})
		}
	}
	return out
}

func (s *scene) requestOwner(r *mdsserver.Waits, on *mds.On, seen []*mds.Wait) *Link {
	for i := range r.Waits {
		if x := &r.Waits[i]; x.Client == on.Client && x.Tid == on.Tid && on.Tid != 0 && x.Kind == "request" {
			return s.rankWait(r, x, seen)
		}
	}
	return &Link{At: r.Daemon, What: on.Text, SinceMs: on.SinceMs}
}

// clientOwner is a client that must give something back; what it waits for itself is followed
// when its mount is here.
func (s *scene) clientOwner(on *mds.On) *Link {
	l := &Link{At: fmt.Sprintf("client %s (pid %d)", on.Host, on.PID), What: mustGive(on.Text), SinceMs: on.SinceMs, DeadlineMs: on.DeadlineMs}
	if !s.here(on.Host) {
		return l
	}
	for _, m := range s.mounts {
		if m.Report.Client != on.Client {
			continue
		}
		if m.err != nil {
			l.On = s.processState(m.pid)
			return l
		}
		for i := range m.Giving {
			if m.Giving[i].Ino == on.Ino {
				l.On = append(l.On, s.giving(m, &m.Giving[i]))
			}
		}
		return l
	}
	if on.PID != 0 {
		l.On = s.stopped(int(on.PID))
	}
	return l
}

// mustGive turns the rank's "X to give back Y" into what X must do.
func mustGive(text string) string {
	if _, what, ok := strings.Cut(text, " to give back "); ok {
		return "must give back " + what
	}
	return "is waited for: " + text
}

// giving is a revoke that a mount of this machine works off.
func (s *scene) giving(m *mountSeen, g *client.Giving) *Link {
	l := &Link{At: "mount " + m.Point, What: fmt.Sprintf("gives up %s of ino %s and waits for %s", g.Caps, g.Ino, g.On), SinceMs: g.SinceMs}
	l.On = s.objectsOf(m.Objects, g.Ino)
	return l
}

// journal is the rank's journal and the object writes that carry it.
func (s *scene) journal(r *mdsserver.Waits, text string) *Link {
	if text == "" {
		text = fmt.Sprintf("durable up to %d of %d", r.Journal.Durable, r.Journal.End)
	}
	l := &Link{At: r.Daemon, What: "waits for its journal: " + text, SinceMs: r.Journal.SinceMs}
	for i := range r.Objects {
		if o := &r.Objects[i]; strings.HasPrefix(o.Object, "journal.") {
			l.On = append(l.On, s.object(o))
		}
	}
	return l
}

// objectsOf are the open operations on objects of an inode, of all when ino is "".
func (s *scene) objectsOf(list []objecter.OpenOp, ino string) (out []*Link) {
	n, err := strconv.ParseUint(ino, 0, 64)
	for i := range list {
		if o := &list[i]; ino == "" || err == nil && aboutInode(o.Object, n) {
			if out = append(out, s.object(o)); len(out) == 8 {
				break
			}
		}
	}
	return out
}

func aboutInode(object string, ino uint64) bool {
	p, _, _ := strings.Cut(wire.DataObject(0, wire.Ino(ino), 0).Name, ".")
	head, _, _ := strings.Cut(object, ".")
	return head == p || strings.Contains(object, fmt.Sprintf("%x", ino)) && ino > 0xffff
}

// object follows an object operation to the OSD.
func (s *scene) object(o *objecter.OpenOp) *Link {
	verb := "read"
	if o.Writes {
		verb = "write"
	}
	l := &Link{At: fmt.Sprintf("pg %s", o.PG), What: fmt.Sprintf("%s of object %q", verb, o.Object), SinceMs: o.SinceMs}
	if o.OSD < 0 {
		l.What += " has no primary that is up"
		l.On = s.members(o.PG)
		return l
	}
	name := fmt.Sprintf("osd.%d", o.OSD)
	l.What += " at its primary " + name
	ops, asked := s.osds[name]
	switch {
	case !asked || ops == nil:
		l.On = s.daemon(name)
		if len(l.On) == 0 {
			l.On = []*Link{{At: name, What: "is not on this machine: ask there, or `capstan pg query " + o.PG + "`"}}
		}
		return l
	}
	for i := range ops {
		if x := &ops[i]; x.Client == o.Me && x.Tid == o.Tid {
			l.On = []*Link{s.osdOp(name, x)}
			return l
		}
	}
	l.On = []*Link{{At: name, What: "does not have it: it is on its way"}}
	if !o.Sent {
		l.On[0].What = "is being connected to, or refused it and is asked again"
		if d := s.daemon(name); len(d) > 0 {
			l.On[0].On = d
		}
	}
	return l
}

// members names the members of a PG without a primary.
func (s *scene) members(pg string) (out []*Link) {
	if s.om == nil {
		return s.monitors()
	}
	for id, cfg := range s.om.PGs {
		if id.String() != pg {
			continue
		}
		for _, m := range cfg.InSync {
			name := fmt.Sprintf("osd.%d", m.ID)
			if d, ok := s.om.OSDs[m.ID]; ok && !d.Up {
				out = append(out, &Link{At: name, What: "a member of it, is down", Do: fmt.Sprintf("start it: `capstan dev up --dir D` or `capstan osd --id %d`", m.ID), On: s.daemon(name)})
			} else {
				out = append(out, &Link{At: "the monitors", What: "are to make " + name + " the primary"})
			}
		}
	}
	return out
}

var osdStages = map[string]string{"map": "waits for a newer map", "peering": "waits until the PG is active", "min_size": "waits for min_size",
	"queue": "is queued", "lease": "waits for a read lease", "log": "waits for the log", "replica": "waits for replicas"}

// osdOp is an operation at an OSD with its owners.
func (s *scene) osdOp(name string, x *osd.OpState) *Link {
	l := &Link{At: name, What: fmt.Sprintf("the operation on %q %s [%s tid %d]", x.Object, osdStages[x.Stage], x.Client, x.Tid), SinceMs: x.SinceMs}
	for _, on := range x.On {
		o := &Link{At: name, What: "waits for " + on.Text}
		switch on.Kind {
		case "osd":
			o.At, o.What = fmt.Sprintf("osd.%d", on.OSD), "is waited for: "+on.Text
			if o.At != name {
				o.On = s.daemon(o.At)
			}
			if s.om != nil {
				if d, ok := s.om.OSDs[on.OSD]; ok && !d.Up {
					o.Do = fmt.Sprintf("start it: `capstan dev up --dir D` or `capstan osd --id %d`", on.OSD)
				}
			}
		case "monitors":
			o.On = s.monitors()
		}
		l.On = append(l.On, o)
	}
	return l
}

// monitors says whether they have a leader, and if not, which of them are missing.
func (s *scene) monitors() []*Link {
	if s.om != nil && s.monErr == nil {
		return []*Link{{At: "the monitors", What: "answer: it is on its way there"}}
	}
	l := &Link{At: "the monitors", What: "do not answer: no majority of them has a leader", Do: "start those that are missing: `capstan dev up --dir D` or `capstan mon`"}
	if s.monErr != nil {
		l.What = s.monErr.Error()
	}
	names := make([]string, 0, len(s.mons))
	for n := range s.mons {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		switch m := s.mons[n]; {
		case m.err != nil:
			l.On = append(l.On, s.daemon(n)...)
		case m.Leader == "":
			l.On = append(l.On, &Link{At: n, What: "runs, but knows no leader"})
		default:
			l.On = append(l.On, &Link{At: n, What: "follows mon." + strings.TrimPrefix(m.Leader, "mon.")})
		}
	}
	return []*Link{l}
}

// daemon says what is wrong with the process of a daemon of this machine; nothing when it runs.
func (s *scene) daemon(name string) []*Link {
	p, err := loadProcess(filepath.Join(s.dir, "run", name+".json"))
	if err != nil {
		return nil
	}
	if !p.Alive() {
		return []*Link{{At: name, What: "does not run (its process " + strconv.Itoa(p.PID) + " has ended)", Do: "`capstan dev up --dir " + s.dir + "` starts it; its log says why it ended"}}
	}
	return s.stopped(p.PID)
}

func (s *scene) daemonState(name string, err error) string {
	for _, l := range s.daemon(name) {
		return l.At + " " + l.What
	}
	return name + ": " + err.Error()
}

// stopped tells of a process that cannot answer because somebody stopped it, or has ended.
func (s *scene) stopped(pid int) []*Link {
	switch st := procState(pid); st {
	case "T", "t":
		return []*Link{{At: fmt.Sprintf("process %d", pid), What: comm(pid) + " is stopped (SIGSTOP or a debugger)", Do: fmt.Sprintf("kill -CONT %d", pid)}}
	case "":
		return []*Link{{At: fmt.Sprintf("process %d", pid), What: "has ended"}}
	case "D":
		return []*Link{{At: fmt.Sprintf("process %d", pid), What: comm(pid) + " hangs in the kernel (state D)"}}
	}
	return nil
}

// processState is stopped, or that it runs and does not answer.
func (s *scene) processState(pid int) []*Link {
	if pid == 0 {
		return []*Link{{At: "its process", What: "is not known: no rank has a session of it"}}
	}
	if l := s.stopped(pid); l != nil {
		return l
	}
	return []*Link{{At: fmt.Sprintf("process %d", pid), What: comm(pid) + " runs, but does not answer on its control socket"}}
}

func (s *scene) here(host string) bool { return strings.HasPrefix(host, s.host+":") }

// procState is the letter of /proc/PID/stat: R, S, D, T, …; "": no such process.
func procState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	if i := strings.LastIndexByte(string(b), ')'); i >= 0 && i+2 < len(b) {
		return string(b[i+2 : i+3])
	}
	return ""
}

func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "(ended)"
	}
	return strings.TrimSpace(string(b))
}

// Text lays the chains out as trees, for people.
func (c *Chains) Text() string {
	var b strings.Builder
	if len(c.Chains) == 0 {
		if c.Question == "" {
			b.WriteString("nothing waits: not in the rank, nor in a mount of this machine\n")
		} else {
			fmt.Fprintf(&b, "nothing waits for or because of %s\n", c.Question)
		}
	}
	for _, l := range c.Chains {
		l.write(&b, "", "")
	}
	for _, n := range c.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

func (l *Link) write(b *strings.Builder, first, rest string) {
	fmt.Fprintf(b, "%s%s: %s", first, l.At, l.What)
	if l.SinceMs > 0 {
		fmt.Fprintf(b, ", for %s", shortTime(l.SinceMs))
	}
	if l.DeadlineMs > 0 {
		fmt.Fprintf(b, ", at most %s more", shortTime(l.DeadlineMs))
	}
	b.WriteByte('\n')
	if l.Do != "" {
		fmt.Fprintf(b, "%s   → %s\n", rest, l.Do)
	}
	for _, on := range l.On {
		on.write(b, rest+"└─ ", rest+"   ")
	}
}

func shortTime(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}
