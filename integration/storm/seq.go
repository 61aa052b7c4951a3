package storm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where and how long to storm.
type Config struct {
	Dirs     []string // the same directory through each mount; emptied first
	Seed     uint64
	Duration time.Duration
	Steps    int                              // when > 0: stop after so many, whatever the time
	Logf     func(format string, args ...any) // progress; may be nil
	Patience time.Duration                    // when > 0: an operation that takes longer is an error …
	Stuck    func(what string)                // … and this is told while it still waits; may be nil
}

// impatient is an operation that took longer than Config.Patience.
type impatient struct {
	what string
	took time.Duration
}

func (e *impatient) Error() string { return fmt.Sprintf("%s took %v", e.what, e.took) }

// watch is called before an operation, and what it returns after it.
func (c *Config) watch(what string) func() error {
	if c.Patience == 0 {
		return func() error { return nil }
	}
	start := time.Now()
	stuck := time.AfterFunc(c.Patience, func() {
		if c.Stuck != nil {
			c.Stuck(what)
		}
	})
	return func() error {
		if stuck.Stop() {
			return nil
		}
		return &impatient{what, time.Since(start)}
	}
}

func (c Config) logf(format string, args ...any) {
	if c.Logf != nil {
		c.Logf(format, args...)
	}
}

// handle is a descriptor kept open on one mount while names change under it.
type handle struct {
	side int
	f    *os.File
	n    *node
}

type seq struct {
	cfg     Config
	rng     *rand.Rand
	m       *model
	handles []handle
	trail   []string // the last steps, for the report
	inos    map[int]uint64
}

// Sequential runs one operation at a time, each on a mount drawn at random, and compares
// every answer with the model's. It returns the first difference with the steps before it.
func Sequential(ctx context.Context, cfg Config) (steps int, err error) {
	s := &seq{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), m: newModel(), inos: map[int]uint64{}}
	defer s.closeAll()
	if err := empty(cfg.Dirs[0]); err != nil {
		return 0, err
	}
	end := time.Now().Add(cfg.Duration)
	for steps = 0; ctx.Err() == nil; steps++ {
		if cfg.Steps > 0 && steps >= cfg.Steps || cfg.Steps == 0 && time.Now().After(end) {
			break
		}
		if err := s.step(); err != nil {
			return steps, fmt.Errorf("seed %d, step %d: %w\nlast steps:\n  %s", cfg.Seed, steps, err, strings.Join(s.trail, "\n  "))
		}
	}
	return steps, nil
}

func empty(dir string) error {
	es, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range es {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *seq) closeAll() {
	for _, h := range s.handles {
		h.f.Close()
	}
}

func (s *seq) note(format string, args ...any) {
	s.trail = append(s.trail, fmt.Sprintf(format, args...))
	if len(s.trail) > 25 {
		s.trail = s.trail[1:]
	}
}

// path draws a path of one to three components over few names, so that collisions are the rule.
func (s *seq) path() string {
	names := []string{"a", "b", "c", "d", "e"}
	p := names[s.rng.IntN(len(names))]
	for s.rng.IntN(3) == 0 && strings.Count(p, "/") < 2 {
		p += "/" + names[s.rng.IntN(len(names))]
	}
	return p
}

type seqOp struct {
	name   string
	weight int
	run    func(s *seq, side int) error
}

var seqOps = []seqOp{
	{"create", 10, (*seq).create},
	{"mkdir", 5, (*seq).mkdir},
	{"symlink", 2, (*seq).symlink},
	{"link", 4, (*seq).link},
	{"unlink", 7, (*seq).unlink},
	{"rmdir", 3, (*seq).rmdir},
	{"rename", 9, (*seq).rename},
	{"stat", 14, (*seq).stat},
	{"write", 10, (*seq).write},
	{"append", 6, (*seq).append},
	{"truncate", 4, (*seq).truncate},
	{"read", 10, (*seq).read},
	{"chmod", 3, (*seq).chmod},
	{"list", 6, (*seq).list},
	{"xattr", 4, (*seq).xattr},
	{"utimes", 3, (*seq).utimes},
	{"open", 6, (*seq).open},
	{"hread", 8, (*seq).handleRead},
	{"hwrite", 6, (*seq).handleWrite},
	{"hstat", 4, (*seq).handleStat},
	{"close", 3, (*seq).close},
}

var seqWeight = func() (n int) {
	for _, o := range seqOps {
		n += o.weight
	}
	return n
}()

func (s *seq) step() error {
	side := s.rng.IntN(len(s.cfg.Dirs))
	k := s.rng.IntN(seqWeight)
	for _, o := range seqOps {
		if k -= o.weight; k < 0 {
			done := s.cfg.watch(o.name)
			err := o.run(s, side)
			if err == nil {
				err = done()
			}
			if err != nil {
				return fmt.Errorf("%s on mount %d: %w", o.name, side, err)
			}
			return nil
		}
	}
	return nil
}

func (s *seq) at(side int, p string) string { return filepath.Join(s.cfg.Dirs[side], p) }

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	if err == nil {
		return 0
	}
	if errors.As(err, &e) {
		return e
	}
	return syscall.EIO
}

// same compares errnos.
func same(what string, got error, want syscall.Errno) error {
	if g := errnoOf(got); g != want {
		return fmt.Errorf("%s: got %q, want %q", what, name(g), name(want))
	}
	return nil
}

func name(e syscall.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

func (s *seq) create(side int) error {
	p := s.path()
	_, want := s.m.add(p, func() *node { return s.m.node('f', 0o644) })
	f, err := os.OpenFile(s.at(side, p), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		err = f.Close()
	}
	s.note("%d create %s: %s", side, p, name(want))
	return same(p, err, want)
}

func (s *seq) mkdir(side int) error {
	p := s.path()
	_, want := s.m.add(p, func() *node { return s.m.node('d', 0o755) })
	s.note("%d mkdir %s: %s", side, p, name(want))
	return same(p, os.Mkdir(s.at(side, p), 0o755), want)
}

func (s *seq) symlink(side int) error {
	p, to := s.path(), fmt.Sprintf("nowhere-%d", s.rng.IntN(9))
	_, want := s.m.add(p, func() *node { n := s.m.node('l', 0o777); n.target = to; return n })
	s.note("%d symlink %s: %s", side, p, name(want))
	return same(p, os.Symlink(to, s.at(side, p)), want)
}

func (s *seq) link(side int) error {
	p, q := s.path(), s.path()
	want := s.m.link(p, q)
	s.note("%d link %s %s: %s", side, p, q, name(want))
	return same(p+" "+q, os.Link(s.at(side, p), s.at(side, q)), want)
}

func (s *seq) unlink(side int) error {
	p := s.path()
	want := s.m.unlink(p)
	s.note("%d unlink %s: %s", side, p, name(want))
	return same(p, unix.Unlink(s.at(side, p)), want)
}

func (s *seq) rmdir(side int) error {
	p := s.path()
	want := s.m.rmdir(p)
	s.note("%d rmdir %s: %s", side, p, name(want))
	return same(p, unix.Rmdir(s.at(side, p)), want)
}

func (s *seq) rename(side int) error {
	p, q := s.path(), s.path()
	var flags uint
	switch s.rng.IntN(8) {
	case 0:
		flags = unix.RENAME_NOREPLACE
	case 1:
		flags = unix.RENAME_EXCHANGE
	}
	want := s.m.rename(p, q, flags == unix.RENAME_NOREPLACE, flags == unix.RENAME_EXCHANGE)
	s.note("%d rename(%d) %s %s: %s", side, flags, p, q, name(want))
	err := unix.Renameat2(unix.AT_FDCWD, s.at(side, p), unix.AT_FDCWD, s.at(side, q), flags)
	return same(p+" "+q, err, want)
}

func (s *seq) stat(side int) error {
	p := s.path()
	n, want := s.m.lookup(p)
	s.note("%d stat %s: %s", side, p, name(want))
	var st unix.Stat_t
	if err := same(p, unix.Lstat(s.at(side, p), &st), want); err != nil || want != 0 {
		return err
	}
	return s.checkStat(p, n, &st)
}

func (s *seq) checkStat(p string, n *node, st *unix.Stat_t) error {
	kinds := map[byte]uint32{'f': unix.S_IFREG, 'd': unix.S_IFDIR, 'l': unix.S_IFLNK}
	if st.Mode&unix.S_IFMT != kinds[n.kind] {
		return fmt.Errorf("%s: mode %o, want a %c", p, st.Mode, n.kind)
	}
	if n.kind != 'l' && st.Mode&0o7777 != n.mode {
		return fmt.Errorf("%s: mode %o, want %o", p, st.Mode&0o7777, n.mode)
	}
	if n.kind == 'f' && st.Size != int64(len(n.data)) {
		return fmt.Errorf("%s: size %d, want %d", p, st.Size, len(n.data))
	}
	if n.kind != 'd' && int(st.Nlink) != n.nlink {
		return fmt.Errorf("%s: nlink %d, want %d", p, st.Nlink, n.nlink)
	}
	if n.mtime >= 0 && st.Mtim.Sec != n.mtime {
		return fmt.Errorf("%s: mtime %d, want %d", p, st.Mtim.Sec, n.mtime)
	}
	if ino, ok := s.inos[n.id]; ok && ino != st.Ino {
		return fmt.Errorf("%s: inode number %#x, was %#x", p, st.Ino, ino)
	}
	s.inos[n.id] = st.Ino
	return nil
}

func (s *seq) openAt(side int, p string, flags int) (*os.File, error) {
	return os.OpenFile(s.at(side, p), flags|unix.O_NOFOLLOW, 0)
}

func (s *seq) bytes() (off int, b []byte) {
	sizes := []int{1, 7, 100, 511, 4096, 5000, 20000}
	b = make([]byte, sizes[s.rng.IntN(len(sizes))])
	for i := range b {
		b[i] = byte('a' + s.rng.IntN(26))
	}
	return s.rng.IntN(12000), b
}

func (s *seq) write(side int) error {
	p := s.path()
	n, want := s.m.openFile(p, true)
	off, b := s.bytes()
	s.note("%d write %s %d+%d: %s", side, p, off, len(b), name(want))
	f, err := s.openAt(side, p, os.O_WRONLY)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	n.write(off, b)
	n.mtime = -1
	return f.Close()
}

func (s *seq) append(side int) error {
	p := s.path()
	n, want := s.m.openFile(p, true)
	_, b := s.bytes()
	s.note("%d append %s +%d: %s", side, p, len(b), name(want))
	f, err := s.openAt(side, p, os.O_WRONLY|os.O_APPEND)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	n.write(len(n.data), b)
	n.mtime = -1
	return f.Close()
}

func (s *seq) truncate(side int) error {
	p := s.path()
	n, want := s.m.openFile(p, true)
	size, trunc := s.rng.IntN(20000), s.rng.IntN(3) == 0
	s.note("%d truncate %s to %d (O_TRUNC %v): %s", side, p, size, trunc, name(want))
	flags := os.O_WRONLY
	if trunc {
		flags |= os.O_TRUNC
		size = 0
	}
	f, err := s.openAt(side, p, flags)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	defer f.Close()
	if !trunc {
		if err := f.Truncate(int64(size)); err != nil {
			return err
		}
	}
	n.truncate(size)
	n.mtime = -1
	return nil
}

func (s *seq) read(side int) error {
	p := s.path()
	n, want := s.m.openFile(p, false)
	s.note("%d read %s: %s", side, p, name(want))
	f, err := s.openAt(side, p, os.O_RDONLY)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	defer f.Close()
	if n.kind == 'd' {
		return nil
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	return diff(p, b, n.data)
}

func diff(p string, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s: read %d bytes, want %d", p, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("%s: byte %d of %d is %q, want %q", p, i, len(got), got[i], want[i])
		}
	}
	return nil
}

func (s *seq) chmod(side int) error {
	p := s.path()
	n, want := s.m.lookup(p)
	if want == 0 && n.kind == 'l' {
		return nil // would follow
	}
	mode := []uint32{0o600, 0o644, 0o755, 0o700, 0o4755}[s.rng.IntN(5)]
	if want == 0 {
		if n.kind == 'd' {
			mode |= 0o700
			mode &= 0o777
		}
		n.mode = mode
	}
	s.note("%d chmod %s %o: %s", side, p, mode, name(want))
	return same(p, unix.Chmod(s.at(side, p), mode), want)
}

func (s *seq) list(side int) error {
	p := s.path()
	if s.rng.IntN(3) == 0 {
		p = ""
	}
	n, want := s.m.root, syscall.Errno(0)
	if p != "" {
		if n, want = s.m.lookup(p); want == 0 && n.kind == 'l' {
			return nil
		}
	}
	if want == 0 && n.kind != 'd' {
		want = syscall.ENOTDIR
	}
	s.note("%d list %q: %s", side, p, name(want))
	f, err := os.OpenFile(s.at(side, p), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	defer f.Close()
	got, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	sort.Strings(got)
	if w := n.list(); strings.Join(got, " ") != strings.Join(w, " ") {
		return fmt.Errorf("%q: lists %v, want %v", p, got, w)
	}
	return nil
}

func (s *seq) xattr(side int) error {
	p := s.path()
	n, want := s.m.lookup(p)
	if want == 0 && n.kind == 'l' {
		return nil
	}
	key := fmt.Sprintf("user.k%d", s.rng.IntN(3))
	switch s.rng.IntN(3) {
	case 0:
		val := fmt.Sprintf("v%d", s.rng.IntN(1000))
		s.note("%d setxattr %s %s=%s: %s", side, p, key, val, name(want))
		if want == 0 {
			if n.xattr == nil {
				n.xattr = map[string]string{}
			}
			n.xattr[key] = val
		}
		return same(p, unix.Setxattr(s.at(side, p), key, []byte(val), 0), want)
	case 1:
		if want == 0 && n.xattr[key] == "" {
			want = syscall.ENODATA
		}
		if want == 0 {
			delete(n.xattr, key)
		}
		s.note("%d removexattr %s %s: %s", side, p, key, name(want))
		return same(p, unix.Removexattr(s.at(side, p), key), want)
	}
	if want == 0 && n.xattr[key] == "" {
		want = syscall.ENODATA
	}
	s.note("%d getxattr %s %s: %s", side, p, key, name(want))
	buf := make([]byte, 64)
	l, err := unix.Getxattr(s.at(side, p), key, buf)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	return diff(p+" "+key, buf[:l], []byte(n.xattr[key]))
}

func (s *seq) utimes(side int) error {
	p := s.path()
	n, want := s.m.lookup(p)
	if want == 0 && n.kind != 'f' {
		return nil
	}
	sec := int64(1_000_000_000 + s.rng.IntN(1000))
	s.note("%d utimes %s %d: %s", side, p, sec, name(want))
	ts := []unix.Timespec{{Sec: sec, Nsec: 5}, {Sec: sec, Nsec: 123456789}}
	if want == 0 {
		n.mtime = sec
	}
	return same(p, unix.UtimesNanoAt(unix.AT_FDCWD, s.at(side, p), ts, unix.AT_SYMLINK_NOFOLLOW), want)
}

// ---- handles kept open ------------------------------------------------------------------

func (s *seq) open(side int) error {
	if len(s.handles) >= 8 {
		return s.close(side)
	}
	p := s.path()
	n, want := s.m.openFile(p, true)
	s.note("%d open %s: %s", side, p, name(want))
	f, err := s.openAt(side, p, os.O_RDWR)
	if err := same(p, err, want); err != nil || want != 0 {
		return err
	}
	s.handles = append(s.handles, handle{side, f, n})
	return nil
}

func (s *seq) pick() (handle, int) {
	if len(s.handles) == 0 {
		return handle{}, -1
	}
	i := s.rng.IntN(len(s.handles))
	return s.handles[i], i
}

func (s *seq) handleRead(int) error {
	h, i := s.pick()
	if i < 0 {
		return nil
	}
	off := s.rng.IntN(len(h.n.data) + 100)
	b := make([]byte, s.rng.IntN(9000)+1)
	s.note("%d pread %s %d+%d", h.side, h.f.Name(), off, len(b))
	l, err := h.f.ReadAt(b, int64(off))
	if err != nil && err != io.EOF {
		return err
	}
	want := h.n.data[min(off, len(h.n.data)):min(off+len(b), len(h.n.data))]
	return diff(fmt.Sprintf("handle of %s at %d", h.f.Name(), off), b[:l], want)
}

func (s *seq) handleWrite(int) error {
	h, i := s.pick()
	if i < 0 {
		return nil
	}
	off, b := s.bytes()
	s.note("%d pwrite %s %d+%d", h.side, h.f.Name(), off, len(b))
	if _, err := h.f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	h.n.write(off, b)
	h.n.mtime = -1
	return nil
}

func (s *seq) handleStat(int) error {
	h, i := s.pick()
	if i < 0 {
		return nil
	}
	s.note("%d fstat %s", h.side, h.f.Name())
	var st unix.Stat_t
	if err := unix.Fstat(int(h.f.Fd()), &st); err != nil {
		return err
	}
	return s.checkStat("handle of "+h.f.Name(), h.n, &st)
}

func (s *seq) close(int) error {
	h, i := s.pick()
	if i < 0 {
		return nil
	}
	s.note("%d close %s", h.side, h.f.Name())
	s.handles = append(s.handles[:i], s.handles[i+1:]...)
	return h.f.Close()
}
