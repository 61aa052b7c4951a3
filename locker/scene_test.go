package locker

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/scene"
	"github.com/capstan-fs/capstan/wire"
)

// stage is a rank with objects a, b … and clients c1 … c9 whose messages wait for `ack`.
type stage struct {
	e       *Engine
	objects map[string]*sceneObject
	names   []string
	reqs    map[string]*LockSet
	wakes   []*LockSet
	out     []string

	disorder bool // fault: every other request sorts its objects the other way (O1)
	backward bool // it is the turn of such a one
}

type sceneObject struct {
	testObject
	name    string
	pending map[uint64]caps.Bits
	stage   *stage
}

// Key is what O1 sorts by.
func (o *sceneObject) Key() Key {
	k := o.key
	if o.stage.backward {
		k.Ino = 100 - k.Ino
	}
	return k
}

// IdealLoner is 4.6 without its clock: the only client that wants to read or write; of a
// directory the only one with caps.
func (o *sceneObject) IdealLoner() uint64 {
	var ideal uint64
	for _, c := range o.clients {
		if o.traits&IsDir != 0 || c.Wanted&(caps.AnyWrite|caps.FileRd) != 0 {
			if ideal != 0 {
				return 0
			}
			ideal = c.Client
		}
	}
	return ideal
}

func (s *stage) say(format string, args ...any) { s.out = append(s.out, fmt.Sprintf(format, args...)) }

func (s *stage) Pin(Object, int)   {}
func (s *stage) Absorb(*Lock) bool { return true }
func (s *stage) Base(*Lock)        {}
func (s *stage) Wake(set *LockSet) { s.wakes = append(s.wakes, set) }
func (s *stage) Tell(to wire.Rank, l *Lock, m Msg) {
	s.say("tell mds.%d %v %v", to, l.typ, m)
}

// Reissue sends what the rows demand: revokes always, grants when nothing is outstanding.
func (s *stage) Reissue(obj Object) {
	o := obj.(*sceneObject)
	for i := range o.clients {
		c := &o.clients[i]
		may := Allowed(o, c.Client)
		if o.key.Dentry {
			may &= Lease
		}
		p := o.pending[c.Client]
		switch {
		case p&^may != 0:
			s.say("send c%d revoke %v", c.Client, show(o, p&^may))
			o.pending[c.Client] = p & may
		case p == c.Issued && c.Wanted&may&^p != 0:
			s.say("send c%d grant %v", c.Client, show(o, c.Wanted&may&^p))
			o.pending[c.Client] = p | c.Wanted&may
			c.Issued |= o.pending[c.Client]
		}
	}
}

func show(o *sceneObject, b caps.Bits) string {
	if o.key.Dentry {
		return "lease"
	}
	return b.String()
}

func newStage(*testing.T) scene.World {
	s := &stage{objects: map[string]*sceneObject{}, reqs: map[string]*LockSet{}}
	s.e = New(s)
	s.e.Trace = func(l *Lock, _, to string) { s.say("%s %v %s", l.obj.(*sceneObject).name, l.typ, to) }
	return s
}

func clientOf(name string) (id uint64, err error) {
	_, err = fmt.Sscanf(name, "c%d", &id)
	return id, err
}

// Do runs one command: given, rdlock, wrlock, xlock, walk, drop, ack, want, close, flush,
// flushed, rest, show.
func (s *stage) Do(c scene.Command) ([]string, error) {
	s.out = nil
	if err := s.do(c); err != nil {
		return nil, err
	}
	s.settle()
	return s.out, nil
}

func (s *stage) settle() {
	for {
		s.e.Settle()
		if len(s.wakes) == 0 {
			return
		}
		for _, w := range s.wakes {
			s.say("%v goes on", w.User)
		}
		woken := s.wakes
		s.wakes = nil
		for _, w := range woken {
			s.acquire(w)
		}
	}
}

func (s *stage) acquire(w *LockSet) {
	s.backward = s.disorder && w.Owner.Req%2 == 0
	done, on := w.Acquire(s.e)
	s.backward = false
	if done {
		s.say("%v holds everything", w.User)
	} else {
		by := on.Awaits()
		sort.Strings(by)
		s.say("%v waits for %s %v behind (%s)", w.User, on.obj.(*sceneObject).name, on.typ, strings.Join(by, ", "))
	}
}

func (s *stage) do(c scene.Command) error {
	if c.Name == "given" {
		return s.given(c)
	}
	mode := map[string]Mode{"rdlock": Rd, "wrlock": Wr, "xlock": X}[c.Name]
	switch {
	case mode != None: // xlock a.iauth b.iauth by=c3: one request takes them all
		set, err := s.request(c.Opt("by"))
		if err != nil {
			return err
		}
		set.Begin()
		for _, a := range c.Args {
			l, err := s.lock(a)
			if err != nil {
				return err
			}
			set.add(l, mode)
		}
		s.acquire(set)
	case c.Name == "drop":
		set, err := s.request(c.Opt("by"))
		if err != nil {
			return err
		}
		set.Release(s.e)
	case c.Name == "rest":
		l, err := s.lock(c.Args[0])
		if err != nil {
			return err
		}
		set, _ := s.request(c.Opt("by"))
		set.Rest(s.e, l)
	case c.Name == "ack": // every client named answers what it was sent
		for _, a := range c.Args {
			id, err := clientOf(a)
			if err != nil {
				return err
			}
			for _, n := range s.names {
				o := s.objects[n]
				for i := range o.clients {
					if o.clients[i].Client == id {
						o.clients[i].Issued &= o.pending[id]
						s.e.Changed(o)
					}
				}
			}
		}
	case c.Name == "want": // want a c1:Fr c2:-
		o := s.objects[c.Args[0]]
		for _, a := range c.Args[1:] {
			if err := s.client(o, a, false); err != nil {
				return err
			}
		}
		s.e.Changed(o)
		s.e.Reissue(o)
	case c.Name == "flush", c.Name == "flushed":
		l, err := s.lock(c.Args[0])
		if err != nil {
			return err
		}
		id, err := clientOf(c.Opt("by"))
		if err != nil {
			return err
		}
		if c.Name == "flushed" {
			s.e.Unforce(l, id)
		} else if !s.e.Force(l, id) {
			s.say("refused: c%d holds nothing it could have changed", id)
		}
	case c.Name == "show":
		l, err := s.lock(c.Args[0])
		if err != nil {
			return err
		}
		s.say("%v", l.Describe())
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

// given makes an inode, directory or dentry: given a dir issued=(c1:pAsFs) wanted=(c1:Fr).
func (s *stage) given(c scene.Command) error {
	name := c.Args[0]
	ts := FileTypes
	o := &sceneObject{name: name, stage: s, pending: map[uint64]caps.Bits{}}
	o.key = Key{Ino: wire.Ino(len(s.names) + 1)}
	if c.Has("dir") {
		ts = DirTypes
		o.traits |= IsDir
	}
	if c.Has("dn") {
		ts = DentryTypes
		o.key = Key{Dentry: true, Ino: 1, Name: name}
	}
	if c.Has("recovering") {
		o.traits |= Recovering
	}
	for _, r := range c.List("replicas") {
		var n int
		if _, err := fmt.Sscanf(r, "mds.%d", &n); err != nil {
			return err
		}
		o.replicas = append(o.replicas, wire.Rank(n))
	}
	o.locks = make([]Lock, len(ts))
	InitAll(o.locks, ts, o)
	for _, a := range c.List("issued") {
		if err := s.client(o, a, true); err != nil {
			return err
		}
	}
	for _, a := range c.List("wanted") {
		if err := s.client(o, a, false); err != nil {
			return err
		}
	}
	s.objects[name] = o
	s.names = append(s.names, name)
	if !s.e.Rebuild(o) {
		s.say("%s: the claims contradict each other", name)
	}
	return nil
}

func (s *stage) client(o *sceneObject, word string, issued bool) error {
	who, bits, _ := strings.Cut(word, ":")
	id, err := clientOf(who)
	if err != nil {
		return err
	}
	b, err := caps.Parse(bits)
	if bits == "lease" {
		b, err = Lease, nil
	}
	if err != nil {
		return err
	}
	i := sort.Search(len(o.clients), func(i int) bool { return o.clients[i].Client >= id })
	if i == len(o.clients) || o.clients[i].Client != id {
		o.clients = append(o.clients[:i], append([]ClientCaps{{Client: id}}, o.clients[i:]...)...)
	}
	if issued {
		o.clients[i].Issued, o.pending[id] = b, b
	} else {
		o.clients[i].Wanted = b
	}
	return nil
}

func (s *stage) lock(name string) (*Lock, error) {
	obj, typ, _ := strings.Cut(name, ".")
	if o := s.objects[obj]; o != nil {
		for i := range o.locks {
			if o.locks[i].typ.String() == typ {
				return &o.locks[i], nil
			}
		}
	}
	return nil, fmt.Errorf("no lock %s", name)
}

// request finds or makes the request named by who: c3, or c3b for the client's second one.
func (s *stage) request(who string) (*LockSet, error) {
	id, err := clientOf(who)
	if err != nil {
		return nil, err
	}
	if s.reqs[who] == nil {
		s.reqs[who] = &LockSet{Owner: Owner{Client: id, Req: uint64(len(s.reqs) + 1)}, User: who}
	}
	return s.reqs[who], nil
}

func TestScenes(t *testing.T) { scene.Run(t, "testdata/*/*.txt", newStage) }
