package mds

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/scene"
	"github.com/capstan-fs/capstan/journal"
	"github.com/capstan-fs/capstan/locker"
	"github.com/capstan-fs/capstan/wire"
)

// The worked traces of the reference (T1–T9, as far as one rank has them) on the real core:
// testdata/traces/*.txt show every lock transition, every message between the rank and its
// clients, every journal write, and what waits for which.
//
//	c1 → open f …       a client's message reaches the rank
//	f ifile sync>excl   a lock moves
//	journal ← J2        the rank submits its second journal write of the scene
//	journal has J2      it is durable
//	c1 ← grant f …      a message reaches a client
//	c1 held: reply … behind J2   an effect whose stamp is not durable yet (ES)
//	c1 → create /f replay given inode 7   sent again to the next rank, with the number it was given
//
// Journal writes end by themselves until `disk slow`; then by `journal`.

// traceWorld is a capWorld that says everything.
type traceWorld struct {
	*capWorld
	out   []string
	names map[wire.Ino]string
	ends  []journal.Pos       // where the n-th journal write of the scene ends
	moved map[wire.Tid]string // renames under way, by tid of their client: the new name
	gone  int                 // journal writes submitted by ranks that are gone
	asked map[*capClient][]wire.Request
}

func newTraceWorld(t *testing.T) scene.World {
	w := &traceWorld{capWorld: newCapWorld(t), names: map[wire.Ino]string{wire.RootIno: "/"}, moved: map[wire.Tid]string{}, asked: map[*capClient][]wire.Request{}}
	w.r.engine.Trace = func(l *locker.Lock, _, to string) { w.say("%s %v %s", w.object(l), l.Type(), to) }
	w.spy = spy{toClient: w.toClient, fromClient: w.fromClient, lost: w.lost, journal: w.wrote, fenced: w.fence}
	return w
}

func (w *traceWorld) say(f string, a ...any) { w.out = append(w.out, fmt.Sprintf(f, a...)) }

func (w *traceWorld) object(l *locker.Lock) string {
	k := l.Object().Key()
	if k.Dentry {
		return w.path(k.Ino, k.Name)
	}
	return w.name(k.Ino)
}

func (w *traceWorld) name(i wire.Ino) string {
	if n, ok := w.names[i]; ok {
		return n
	}
	return fmt.Sprintf("inode %d", i)
}

func (w *traceWorld) path(dir wire.Ino, name string) string {
	if n := w.name(dir); n != "/" {
		return n + "/" + name
	}
	return "/" + name
}

// at names the journal write whose end makes a stamp durable.
func (w *traceWorld) at(p journal.Pos) string {
	i := sort.Search(len(w.ends), func(i int) bool { return w.ends[i] >= p })
	return fmt.Sprintf("J%d", w.gone+i+1)
}

func (w *traceWorld) wrote(off journal.Pos, n int, done bool) {
	end := off + journal.Pos(n)
	if done {
		w.say("journal has %s", w.at(end))
		return
	}
	w.ends = append(w.ends, end)
	w.say("journal ← J%d", w.gone+len(w.ends))
}

func (w *traceWorld) fence(inst wire.Instance, e wire.Epoch) {
	w.say("mon: %s fenced in epoch %d", w.nameOf(inst), e)
}

func (w *traceWorld) fromClient(c *capClient, _ wire.Tid, m wire.Message) {
	switch m := m.(type) {
	case *wire.Request:
		s := m.Op.String()
		switch {
		case m.Op == wire.OpRename:
			s += " " + w.path(m.Ino, m.Name) + " to " + w.path(m.NewDir, m.NewName)
		case m.Name != "":
			s += " " + w.path(m.Ino, m.Name)
		default:
			s += " " + w.name(m.Ino)
		}
		if m.Want != 0 {
			s += fmt.Sprintf(" wanted %v", m.Want)
		}
		if m.Flags&wire.ReqReplay != 0 {
			s += fmt.Sprintf(" tid %d replay", m.Tid)
		}
		if m.Flags&wire.ReqRetry != 0 {
			s += " retry"
		}
		if m.GivenIno != 0 {
			s += " given " + w.name(m.GivenIno)
		}
		w.say("%s → %s", c.name, s)
	case *wire.CapUpdate:
		s := fmt.Sprintf("update %s retained %v", w.name(m.Ino), m.Retained)
		if m.Dirty != 0 {
			s += fmt.Sprintf(" dirty %v size %d flush tid %d", m.Dirty, m.Attr.Size, m.FlushTid)
		}
		w.say("%s → %s", c.name, s)
	case *wire.LeaseAck:
		w.say("%s → lease of %s given up", c.name, w.path(m.Dir, m.Name))
	case *wire.Reconnect:
		s := "reconnect"
		for _, k := range m.Caps {
			s += fmt.Sprintf(", has %s caps %v", w.name(k.Ino), k.Issued)
		}
		w.say("%s → %s", c.name, s)
	case *wire.SessionOpen, *wire.Renew:
	default:
		w.say("%s → %v", c.name, m.WireType())
	}
}

func (w *traceWorld) toClient(c *capClient, _ wire.Tid, m wire.Message) {
	if r, ok := m.(*wire.Reply); ok && c.renames && r.Target != nil && w.moved[r.Tid] != "" {
		w.names[r.Target.Ino] = w.moved[r.Tid]
	}
	if s := w.message(m); s != "" {
		w.say("%s ← %s", c.name, s)
	}
}

func (w *traceWorld) lost(c *capClient, m wire.Message) {
	if s := w.message(m); s != "" {
		w.say("%s hears nothing of: %s", c.name, s)
	}
}

// message is m in a line; "" for what is not part of any story.
func (w *traceWorld) message(m wire.Message) string {
	switch m := m.(type) {
	case *wire.Reply:
		return w.replyLine(m)
	case *wire.CapGrant:
		s := m.Op.String()
		if m.Again {
			s += " again"
		}
		return s + " " + w.stat(&m.Stat)
	case *wire.LeaseRevoke:
		return "revoke the lease of " + w.path(m.Dir, m.Name)
	case *wire.Safe:
		return fmt.Sprintf("safe up to tid %d", m.Tid)
	case *wire.Evicted:
		return "evicted: " + m.Reason
	case *wire.Reconnected:
		return map[bool]string{true: "reconnected", false: "reconnected: not known"}[m.Known]
	case *wire.SessionOpened, *wire.RenewAck:
		return ""
	}
	return fmt.Sprint(m.WireType())
}

func (w *traceWorld) replyLine(m *wire.Reply) string {
	s := "reply"
	if m.Tid&wire.ReadTid == 0 {
		s += fmt.Sprintf(" tid %d", m.Tid)
	}
	if m.Early {
		s += " early"
	}
	if m.Errno != 0 {
		return s + " " + map[uint32]string{2: "ENOENT", 17: "EEXIST"}[m.Errno]
	}
	if m.Target != nil {
		s += " " + w.stat(m.Target)
	}
	if m.Lease != nil {
		s += " lease of " + w.path(m.Lease.Dir, m.Lease.Name)
	}
	var names []string
	for i := range m.Entries {
		names = append(names, m.Entries[i].Name)
	}
	if names != nil || m.End {
		s += " entries (" + strings.Join(names, " ") + ")"
	}
	if m.End {
		s += " end"
	}
	if m.Complete {
		s += " complete"
	}
	return s
}

// stat shows what a message says of an inode: caps, and of the attributes what is valid.
func (w *traceWorld) stat(st *wire.InodeStat) string {
	s := w.name(st.Ino)
	if st.Cap != nil {
		s += fmt.Sprintf(" caps %v seq %d", st.Cap.Pending, st.Cap.Seq)
		if st.Cap.MaxSize != 0 {
			s += fmt.Sprintf(" max %d", st.Cap.MaxSize)
		}
		if st.Cap.Barrier > 10 {
			s += fmt.Sprintf(" barrier %d", st.Cap.Barrier)
		}
	}
	if st.Valid&wire.MaskFile != 0 {
		s += fmt.Sprintf(" size %d", st.Attr.Size)
	} else {
		s += " size unknown"
	}
	for _, x := range st.Xattrs {
		s += fmt.Sprintf(" %s=%s", x.Key, x.Val)
	}
	return s
}

// Do runs one command, then shows what the journal still holds back.
func (w *traceWorld) Do(c scene.Command) ([]string, error) {
	w.out = nil
	if err := w.command(c); err != nil {
		return nil, err
	}
	for _, cl := range w.order {
		if s := w.r.sessions[cl.key]; s != nil {
			for _, q := range s.out.items[s.out.head:] {
				if m := w.message(q.msg); m != "" {
					w.say("%s held: %s behind %s", cl.name, m, w.at(q.stamp))
				}
			}
		}
	}
	return w.out, nil
}

// words are the caps that a way of opening wants.
var words = map[string]caps.Bits{"r": wR, "w": wW, "a": wA, "-": 0}

func (w *traceWorld) command(c scene.Command) error {
	switch c.Name {
	case "clients":
		for _, n := range c.Args {
			w.client(n)
		}
		w.out, w.ends = nil, nil // what comes before the story
		return nil
	case "disk": // disk slow: journal writes end by `journal`; disk fast
		w.slowDisk = c.Args[0] == "slow"
		w.run()
		return nil
	case "journal": // the oldest write under way ends
		for i := range w.pending {
			if w.pending[i].lane == "journal" {
				w.one(func(int) int { return i })
				w.run()
				return nil
			}
		}
		return fmt.Errorf("no journal write is under way")
	case "rank": // rank dies: with all that is not durable, and all that is under way; the next one begins
		w.gone += len(w.ends)
		w.ends, w.slowDisk = nil, false
		w.crash(w.r.cfg.Epoch + 1)
		w.r.engine.Trace = func(l *locker.Lock, _, to string) { w.say("%s %v %s", w.object(l), l.Type(), to) }
		w.say("the rank is %v", w.state)
		return nil
	case "pass": // pass ms=10
		ms, err := strconv.Atoi(c.Opt("ms"))
		if err != nil {
			return err
		}
		w.pass(int64(ms) * 1e6)
		return nil
	}
	var cl *capClient
	for _, k := range w.order {
		if k.name == c.Name {
			cl = k
		}
	}
	if cl == nil || len(c.Args) == 0 {
		return fmt.Errorf("no such command")
	}
	return w.clientDoes(cl, c)
}

func (w *traceWorld) ino(name string) (wire.Ino, error) {
	for i, n := range w.names {
		if n == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("nobody has seen %s", name)
}

// split finds a path's directory, which must be known.
func (w *traceWorld) split(path string) (wire.Ino, string, error) {
	i := strings.LastIndex(path, "/")
	if i <= 0 {
		return wire.RootIno, path[i+1:], nil
	}
	dir, err := w.ino(path[:i])
	return dir, path[i+1:], err
}

// clientDoes: c1 create /f want=w | open f want=r | lookup /f | stat f | readdir / | …
func (w *traceWorld) clientDoes(cl *capClient, c scene.Command) error {
	ask := func(q wire.Request) {
		i := len(w.asked[cl])
		w.asked[cl] = append(w.asked[cl], q)
		w.asked[cl][i].Tid = cl.request(q)
	}
	switch verb, arg := c.Args[0], c.Args[1:]; verb {
	case "create", "mkdir", "lookup", "unlink":
		dir, name, err := w.split(arg[0])
		if err != nil {
			return err
		}
		q := wire.Request{Ino: dir, Name: name, Mode: 0o644, Want: words[c.Opt("want")]}
		q.Op = map[string]wire.Op{"create": wire.OpCreate, "mkdir": wire.OpMkdir, "lookup": wire.OpLookup, "unlink": wire.OpUnlink}[verb]
		if q.Op == wire.OpCreate || q.Op == wire.OpMkdir { // its number is the next one of the session
			next := w.r.inos.next
			w.names[next], cl.want[next] = arg[0], q.Want
		}
		ask(q)
	case "rename":
		dir, name, err := w.split(arg[0])
		if err != nil {
			return err
		}
		dir2, name2, err := w.split(arg[1])
		if err != nil {
			return err
		}
		cl.renames = true
		w.moved[cl.tid+1] = arg[1]
		ask(wire.Request{Op: wire.OpRename, Ino: dir, Name: name, NewDir: dir2, NewName: name2})
	case "gives-up": // of a mute client: the lease it was asked for
		dir, name, err := w.split(arg[0])
		if err != nil {
			return err
		}
		cl.mute = false
		cl.send(0, &wire.LeaseAck{Dir: dir, Name: name, Seq: cl.lastRevoked})
	case "reconnects": // its unsafe requests in tid order, then all that it holds
		names := map[wire.Ino]string{}
		for i, n := range w.names {
			names[i] = strings.TrimPrefix(n, "/")
		}
		for _, q := range w.asked[cl] {
			if !q.Op.Mutates() || q.Tid <= cl.safe || cl.reply[q.Tid] == nil {
				continue
			}
			if t := cl.reply[q.Tid].Target; t != nil {
				q.GivenIno = t.Ino
			}
			q.Flags |= wire.ReqReplay
			cl.send(q.Tid, &q)
		}
		cl.send(0, cl.claims(names))
		w.say("the rank is %v", w.state)
	case "retries": // what nobody answered
		for _, q := range w.asked[cl] {
			if cl.reply[q.Tid] == nil {
				q.Flags |= wire.ReqRetry
				cl.send(q.Tid, &q)
			}
		}
	case "hears":
		cl.mute, cl.deaf = false, false
	case "mute", "deaf":
		cl.mute, cl.deaf = true, verb == "deaf"
	default:
		ino, err := w.ino(arg[0])
		if err != nil {
			return err
		}
		return w.withInode(cl, c, ino, ask)
	}
	return nil
}

func (w *traceWorld) withInode(cl *capClient, c scene.Command, ino wire.Ino, ask func(wire.Request)) error {
	size, _ := strconv.ParseUint(c.Opt("size"), 10, 64)
	switch c.Args[0] {
	case "open":
		cl.want[ino] = words[c.Opt("want")]
		ask(wire.Request{Op: wire.OpOpen, Ino: ino, Want: cl.want[ino] &^ caps.FileExcl}) // a turn is asked for later
	case "stat":
		ask(wire.Request{Op: wire.OpGetattr, Ino: ino, Mask: wire.MaskAll})
	case "xattrs":
		ask(wire.Request{Op: wire.OpGetxattrs, Ino: ino})
	case "setxattr": // c2 setxattr f user.k v
		ask(wire.Request{Op: wire.OpSetxattr, Ino: ino, Xname: c.Args[2], Xval: []byte(c.Args[3])})
	case "readdir":
		n, _ := strconv.Atoi(c.Opt("max"))
		q := wire.Request{Op: wire.OpReaddir, Ino: ino, Max: uint32(n)}
		if after := c.Opt("after"); after != "" {
			q.Cookie = w.r.inodes[ino].dir.names[after].hash
		}
		ask(q)
	case "wants":
		cl.wants(ino, words[c.Opt("want")])
	case "write":
		cl.write(ino, size)
		w.say("%s writes up to %d under %v", cl.name, size, cl.caps[ino].bits)
	case "answers": // of a mute client: the open revoke
		cl.mute = false
		cl.answer(ino, cl.caps[ino], cl.caps[ino].bits&w.r.inodes[ino].ledger.Get(uint64(cl.key)).Pending)
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

func TestTraces(t *testing.T) { scene.Run(t, "testdata/traces/*.txt", newTraceWorld) }
