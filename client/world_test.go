package client

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/caps"
	"github.com/capstan-fs/capstan/internal/must"
	"github.com/capstan-fs/capstan/internal/scene"
	"github.com/capstan-fs/capstan/wire"
)

// The scenes of testdata/client play one mount. The rank has no mind of its own: what it says
// is in the scene (worldrank_test.go). Upcalls are goroutines with a tag; their results are
// printed when they return. The store and the kernel answer at once unless told to hold. A
// command ends when everybody waits, and time passes only by `wait`.

func TestScenes(t *testing.T) {
	scene.RunInBubbles(t, "testdata/client/*.txt", func(t *testing.T) scene.World { return newWorld(t) })
}

type world struct {
	t *testing.T
	c *Client

	mu      sync.Mutex
	events  []string
	results []string // of upcalls, and what else happens beside the session
	names   map[wire.Ino]string
	inos    map[string]wire.Ino
	files   map[string]*File
	calls   map[string]*upcall
	kernel  *kernel
	store   *store
	rank    *rank
	lives   int // instances of the client so far
}

// upcall is a request of the kernel that may be interrupted.
type upcall struct {
	cancel chan struct{}
	killed bool
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, names: map[wire.Ino]string{wire.RootIno: "root"}, inos: map[string]wire.Ino{"root": wire.RootIno},
		files: map[string]*File{}, calls: map[string]*upcall{},
	}
	w.kernel = &kernel{w: w, gates: map[wire.Ino]chan struct{}{}}
	w.store = &store{w: w, objs: map[wire.ObjectID][]byte{}}
	w.rank = newRank(w)
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	w.c, err = New(ctx, Config{Cluster: w.rank, Host: "scene", Log: zerolog.Nop(), Now: func() int64 { return time.Now().UnixNano() }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		w.kernel.letAll()
		w.store.finish("", nil)
		w.c.abandon()
		w.kernel.letAll()
		w.store.finish("", nil)
	})
	w.c.SetNotifier(w.kernel)
	synctest.Wait()
	w.events = nil
	return w
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	w.events = append(w.events, fmt.Sprintf(format, args...))
	w.mu.Unlock()
}

// later says what happens beside all else: it is printed behind what has an order.
func (w *world) later(format string, args ...any) {
	w.mu.Lock()
	w.results = append(w.results, fmt.Sprintf(format, args...))
	w.mu.Unlock()
}

func (w *world) name(i wire.Ino) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := w.names[i]; ok {
		return n
	}
	return i.String()
}

// Do implements scene.World.
func (w *world) Do(cmd scene.Command) (out []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	w.command(cmd)
	synctest.Wait()
	w.c.checkCaps()
	w.mu.Lock()
	defer w.mu.Unlock()
	// When an upcall's goroutine gets to run is nobody's promise: results come last.
	slices.Sort(w.results)
	sortUpdates(w.events)
	out = append(w.events, w.results...)
	w.events, w.results = nil, nil
	return out, nil
}

// checkCaps panics if what is counted as held is not what is held.
func (c *Client) checkCaps() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, in := range c.inodes {
		if in.cap.id != 0 {
			n++
		}
	}
	must.Holdf(n == c.ncaps, "%d caps are held, %d counted", n, c.ncaps)
}

// sortUpdates puts runs of updates, or of flights, of several inodes, which a tick sends in the
// order of a map, into one order; those of one inode stay as they were.
func sortUpdates(ev []string) {
	for _, kind := range []struct{ prefix, end string }{{"update ", "@"}, {"store write ", "."}} {
		for i := 0; i < len(ev); {
			j := i
			for j < len(ev) && strings.HasPrefix(ev[j], kind.prefix) {
				j++
			}
			slices.SortStableFunc(ev[i:j], func(a, b string) int {
				a, _, _ = strings.Cut(a, kind.end)
				b, _, _ = strings.Cut(b, kind.end)
				return strings.Compare(a, b)
			})
			i = max(j, i+1)
		}
	}
}

func (w *world) command(cmd scene.Command) {
	arg := func(i int) string {
		if i >= len(cmd.Args) {
			panic(fmt.Sprintf("%s: word %d is missing", cmd.Name, i+1))
		}
		return cmd.Args[i]
	}
	num := func(key string, other uint64) uint64 {
		v := cmd.Opt(key)
		if v == "" {
			return other
		}
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	ino := func(i int) wire.Ino {
		n, ok := w.inos[arg(i)]
		if !ok {
			panic("no inode is called " + arg(i))
		}
		return n
	}
	file := func(i int) *File {
		f := w.files[arg(i)]
		if f == nil {
			panic("nothing is open as " + arg(i))
		}
		return f
	}
	c := w.c
	switch cmd.Name {
	// ---- time, kernel, store
	case "wait":
		d, err := time.ParseDuration(arg(0))
		if err != nil {
			panic(err)
		}
		time.Sleep(d)
	case "kernel":
		switch arg(0) {
		case "holds":
			w.kernel.hold(ino(1))
		case "lets":
			w.kernel.let(ino(1))
		case "trusts": // it has named the inode, and was told attributes with a timeout
			w.call("", cmd, func(k *Caller) string { c.Getattr(k, ino(1)); return "" })
		}
	case "store": // holds, finishes [kind], goes, fills, empties
		switch arg(0) {
		case "holds":
			w.store.held = true
		case "finishes":
			kind := ""
			if len(cmd.Args) > 1 {
				kind = arg(1)
			}
			w.store.finish(kind, nil)
		case "fills": // writes fail from now on
			w.store.full = true
		case "empties":
			w.store.full = false
		case "goes":
			w.store.held = false
			w.store.finish("", nil)
		}
	case "dirty-max":
		c.mu.Lock()
		c.cfg.DirtyMax = int64(num("bytes", 0))
		c.mu.Unlock()
	case "buffered": // bytes held back, by all files
		c.mu.Lock()
		w.say("%d bytes are buffered", c.wb.held)
		c.mu.Unlock()
	// ---- rank
	case "file", "dir":
		w.given(cmd, num)
	case "rank":
		w.rank.command(cmd, arg, num, ino)
	case "reply":
		w.rank.reply(cmd, arg(0), num)
	// ---- upcalls: the first word is the tag
	case "open":
		flags := map[string]uint32{"r": syscall.O_RDONLY, "w": syscall.O_WRONLY, "rw": syscall.O_RDWR,
			"wa": syscall.O_WRONLY | syscall.O_APPEND, "rwa": syscall.O_RDWR | syscall.O_APPEND}[arg(2)]
		w.call(arg(0), cmd, func(k *Caller) string { return w.opened(arg(0))(c.Open(k, ino(1), flags, false)) })
	case "handle": // an open that asked nobody
		wr, rd := strings.Contains(arg(2), "w"), strings.Contains(arg(2), "r")
		c.mu.Lock()
		w.files[arg(0)] = c.openFile(c.inodes[ino(1)], rd, wr, strings.Contains(arg(2), "a"))
		c.unlockFlush()
	case "mapped": // a mapping of it made the kernel read pages
		c.mu.Lock()
		in := c.inodes[ino(0)]
		in.pages, in.paged = true, in.paged+1
		c.unlockFlush()
	case "create":
		w.call(arg(0), cmd, func(k *Caller) string {
			_, f, err := c.Create(k, ino(1), arg(2), 0o644, 0, syscall.O_RDWR)
			return w.opened(arg(0))(f, err)
		})
	case "read":
		w.call(arg(0), cmd, func(k *Caller) string {
			b, err := c.Read(k, file(1), num("off", 0), int(num("n", 16)))
			return result(err, "%q", string(b))
		})
	case "write":
		data := []byte(arg(2))
		fl := WriteFlags{Append: cmd.Has("append"), FromMmap: cmd.Has("mmap"), Sync: cmd.Has("sync"), Kill: cmd.Has("kill")}
		w.call(arg(0), cmd, func(k *Caller) string {
			n, err := c.Write(k, file(1), data, num("off", 0), fl)
			return result(err, "wrote %d", n)
		})
	case "fsync":
		w.call(arg(0), cmd, func(k *Caller) string { return result(c.Fsync(k, file(1)), "done") })
	case "close":
		f := file(1)
		delete(w.files, arg(1))
		w.call(arg(0), cmd, func(*Caller) string {
			err := c.CloseError(f)
			c.Release(f)
			return result(err, "closed")
		})
	case "stat":
		w.call(arg(0), cmd, func(k *Caller) string {
			a, err := c.Getattr(k, ino(1))
			return result(err, "mode=%o nlink=%d size=%d for %v", a.Mode&0o7777, a.Nlink, a.Size, a.TTL)
		})
	case "lookup":
		w.call(arg(0), cmd, func(k *Caller) string {
			e, err := c.Lookup(k, ino(1), arg(2))
			return result(err, "%s", w.name(e.Ino))
		})
	case "mkdir":
		w.call(arg(0), cmd, func(k *Caller) string {
			e, err := c.Mknod(k, ino(1), arg(2), Make{Mode: 0o40755})
			return result(err, "%s", w.name(e.Ino))
		})
	case "unlink":
		w.call(arg(0), cmd, func(k *Caller) string { return result(c.Unlink(k, ino(1), arg(2)), "done") })
	case "list":
		w.call(arg(0), cmd, func(k *Caller) string {
			f, err := c.Open(k, ino(1), 0, false)
			if err != nil {
				return result(err, "")
			}
			defer c.Release(f)
			var names []string
			for at, before := uint64(cookieDotDot), uint64(0); err == nil && at != before; {
				before = at
				err = c.Readdir(k, f, at, func(e *DirEntry) bool { names, at = append(names, e.Name), e.Cookie; return true })
			}
			return result(err, "(%s)", strings.Join(names, " "))
		})
	case "truncate":
		w.call(arg(0), cmd, func(k *Caller) string {
			a, err := c.Setattr(k, ino(1), SetAttr{Set: wire.SetSize, Attr: wire.SetAttr{Size: num("size", 0)}})
			return result(err, "size=%d", a.Size)
		})
	case "utimes":
		w.call(arg(0), cmd, func(k *Caller) string {
			a, err := c.Setattr(k, ino(1), SetAttr{Set: wire.SetMtime, Attr: wire.SetAttr{Mtime: wire.Time{Sec: int64(num("mtime", 0))}}})
			return result(err, "mtime=%d", a.Mtime.Sec)
		})
	case "punch":
		w.call(arg(0), cmd, func(k *Caller) string {
			return result(c.Fallocate(k, file(1), num("off", 0), num("n", 1), FallocPunch|FallocKeepSize), "done")
		})
	case "chmod":
		w.call(arg(0), cmd, func(k *Caller) string {
			a, err := c.Setattr(k, ino(1), SetAttr{Set: wire.SetMode, Attr: wire.SetAttr{Mode: uint32(num("mode", 0))}})
			return result(err, "mode=%o", a.Mode&0o7777)
		})
	case "getxattr":
		w.call(arg(0), cmd, func(k *Caller) string {
			v, err := c.Getxattr(k, ino(1), arg(2))
			return result(err, "%q", string(v))
		})
	case "lock", "unlock":
		l := wire.FileLock{Type: wire.LockWrite, Owner: num("owner", 1), Start: num("from", 0), End: num("to", EndOfFile), Wait: cmd.Has("wait")}
		if cmd.Has("shared") {
			l.Type = wire.LockRead
		}
		if cmd.Name == "unlock" {
			l.Type = wire.LockUnlock
		}
		w.call(arg(0), cmd, func(k *Caller) string { return result(c.Setlk(k, file(1), l), "%sed", cmd.Name) })
	case "drop": // what a close does to an owner's ranges
		c.UnlockOwner(file(0), num("owner", 1), false)
	case "holds":
		w.say("%s holds %v", arg(0), c.Holds(file(0), num("owner", 1)))
	case "signal", "kill":
		u := w.calls[arg(0)]
		w.mu.Lock()
		u.killed = cmd.Name == "kill"
		w.mu.Unlock()
		close(u.cancel)
	case "forget":
		c.Forget(ino(0), 1<<30)
	case "sync":
		w.call(arg(0), cmd, func(*Caller) string { return result(c.Sync(context.Background()), "done") })
	default:
		panic("no such command")
	}
}

// call runs an upcall; with a tag its result is printed.
func (w *world) call(tag string, _ scene.Command, f func(k *Caller) string) {
	u := &upcall{cancel: make(chan struct{})}
	w.calls[tag] = u
	k := &Caller{UID: 1000, Cancel: u.cancel, Killed: func(uint32) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return u.killed
	}}
	go func() {
		defer func() {
			if p := recover(); p != nil {
				w.say("%s: panic: %v", tag, p)
			}
		}()
		if r := f(k); tag != "" {
			w.later("%s: %s", tag, r)
		}
	}()
}

func (w *world) opened(tag string) func(*File, error) string {
	return func(f *File, err error) string {
		if err == nil {
			w.mu.Lock()
			w.files[tag] = f
			w.mu.Unlock()
			how := ""
			if f.Direct {
				how += ", direct"
			}
			if f.Keep {
				how += ", keeps pages"
			}
			return "open" + how
		}
		return result(err, "")
	}
}

func result(err error, format string, args ...any) string {
	if e, ok := err.(syscall.Errno); ok {
		for name, n := range map[string]syscall.Errno{"ENOENT": syscall.ENOENT, "EIO": syscall.EIO, "EAGAIN": syscall.EAGAIN,
			"EINTR": syscall.EINTR, "ESTALE": syscall.ESTALE, "ENODATA": syscall.ENODATA, "EEXIST": syscall.EEXIST, "ENOSPC": syscall.ENOSPC} {
			if n == e {
				return name
			}
		}
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf(format, args...)
}

// given makes an inode that the client knows: looked up in the root, with caps.
func (w *world) given(cmd scene.Command, num func(string, uint64) uint64) {
	name := cmd.Args[0]
	ino := w.rank.make(name, cmd.Name == "dir", num("size", 0))
	w.call("", cmd, func(k *Caller) string { w.c.Lookup(k, wire.RootIno, name); return "" })
	synctest.Wait()
	b, err := caps.Parse(cmd.Opt("caps"))
	if err != nil {
		panic(err)
	}
	q := w.rank.take(wire.OpLookup)
	n := w.rank.nodes[ino]
	n.max = num("max", 1<<22)
	if cmd.Opt("nlink") != "" {
		n.attr.Nlink = uint32(num("nlink", 1))
	}
	w.rank.tell(&wire.Reply{Tid: q.Tid, Target: w.rank.show(n, b, wire.MaskAll)})
	synctest.Wait()
	w.mu.Lock()
	w.events = nil
	w.mu.Unlock()
	if !cmd.Has("unnamed") { // else the kernel has not yet named it in a request
		w.c.mu.Lock()
		w.c.inodes[ino].known = true
		w.c.mu.Unlock()
	}
}

// kernel is the Notifier: it records, and Pages can block as it does on a folio (F1).
type kernel struct {
	w     *world
	mu    sync.Mutex
	gates map[wire.Ino]chan struct{}
}

func (k *kernel) hold(i wire.Ino) {
	k.mu.Lock()
	k.gates[i] = make(chan struct{})
	k.mu.Unlock()
}

func (k *kernel) let(i wire.Ino) {
	k.mu.Lock()
	if g := k.gates[i]; g != nil {
		close(g)
		delete(k.gates, i)
	}
	k.mu.Unlock()
}

func (k *kernel) letAll() {
	for _, i := range k.w.inos {
		k.let(i)
	}
}

func (k *kernel) Attrs(i wire.Ino) { k.w.say("kernel forgets attributes of %s", k.w.name(i)) }
func (k *kernel) Prune(i wire.Ino) { k.w.later("kernel is asked to let %s go", k.w.name(i)) }
func (k *kernel) Pages(i wire.Ino) {
	k.mu.Lock()
	g := k.gates[i]
	k.mu.Unlock()
	if g == nil {
		k.w.say("kernel drops pages of %s", k.w.name(i))
		return
	}
	k.w.later("kernel begins to drop pages of %s", k.w.name(i))
	<-g
	k.w.say("kernel dropped pages of %s", k.w.name(i))
}

// store keeps objects; while it holds, operations wait for `store finishes`.
type store struct {
	w    *world
	mu   sync.Mutex
	objs map[wire.ObjectID][]byte
	held bool
	full bool
	ops  []*storeOp
}

// storeOp is an operation on its way. What a read sees is what was there when it came.
type storeOp struct {
	obj  wire.ObjectID
	ops  []wire.ObjOp
	op   wire.ObjOp // the first
	done ObjDone
	seen []byte
	was  bool
}

// handle of one instance of the client.
type handle struct {
	*store
	life int
}

func (h handle) Close() {
	if h.life > 0 {
		h.finish("", ErrClosed)
	}
}

// Waiting names PG 7 while something waits.
func (h handle) Waiting(about func(wire.ObjectID) bool) (wire.PGID, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.ops {
		if about(o.obj) {
			return wire.PGID{Pool: 2, Num: 7}, true
		}
	}
	return wire.PGID{}, false
}

var objKinds = map[wire.ObjOpKind]string{wire.ObjRead: "read", wire.ObjWrite: "write", wire.ObjStat: "stat", wire.ObjZero: "zero"}

func (s *store) Submit(obj wire.ObjectID, ops []wire.ObjOp, barrier wire.Epoch, done ObjDone) {
	op := ops[0]
	i, idx, _ := strings.Cut(obj.Name, ".")
	n, _ := strconv.ParseUint(i, 16, 64)
	x, _ := strconv.ParseUint(idx, 16, 64)
	at := ""
	if barrier != 0 {
		at = fmt.Sprintf(" barrier %d", barrier)
	}
	line := fmt.Sprintf("store %s %s.%d", objKinds[op.Kind], s.w.name(wire.Ino(n)), x)
	for _, p := range ops {
		line += fmt.Sprintf(" %d+%d", p.Off, p.Len)
	}
	s.w.say("%s%s", line, at)
	s.mu.Lock()
	held := s.held
	o := &storeOp{obj: obj, ops: ops, op: op, done: done}
	b, was := s.objs[obj]
	o.seen, o.was = append([]byte(nil), b...), was
	if held {
		s.ops = append(s.ops, o)
	}
	s.mu.Unlock()
	if !held {
		go s.run(o, nil)
	}
}

// finish ends what waits: all, or one kind.
func (s *store) finish(kind string, err error) {
	s.mu.Lock()
	var now []*storeOp
	rest := s.ops[:0]
	for _, o := range s.ops {
		if kind == "" || objKinds[o.op.Kind] == kind {
			now = append(now, o)
		} else {
			rest = append(rest, o)
		}
	}
	s.ops = rest
	s.mu.Unlock()
	for _, o := range now {
		s.run(o, err)
		if err == nil {
			synctest.Wait() // one after the other
		}
	}
}

func (s *store) run(o *storeOp, err error) {
	res := make([]wire.ObjResult, 1)
	errno := uint32(0)
	s.mu.Lock()
	b := s.objs[o.obj]
	switch {
	case err != nil:
	case o.op.Kind == wire.ObjWrite && s.full:
		errno = uint32(syscall.ENOSPC)
	case o.op.Kind == wire.ObjWrite:
		for _, p := range o.ops {
			if end := p.Off + p.Len; uint64(len(b)) < end {
				b = append(b, make([]byte, end-uint64(len(b)))...)
			}
			copy(b[p.Off:], p.Data)
		}
		s.objs[o.obj] = b
	case o.op.Kind == wire.ObjZero:
		if o.op.Off < uint64(len(b)) {
			clear(b[o.op.Off:min(uint64(len(b)), o.op.Off+o.op.Len)])
		}
	case !o.was:
		errno = uint32(syscall.ENOENT)
	case o.op.Kind == wire.ObjRead && o.op.Off < uint64(len(o.seen)):
		res[0].Data = o.seen[o.op.Off:min(uint64(len(o.seen)), o.op.Off+o.op.Len)]
	}
	s.mu.Unlock()
	o.done(errno, res, err)
}
