package fuse_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Facts about names in the kernel that any trust of the kernel in names must be built on, each
// found by a scripted file system without Capstan (reference/fuse.md, F5-F7; docs/kernel.md,
// N1-N6). On a kernel that differs the test fails by the fact's name; one from before
// NOTIFY_INC_EPOCH (6.16) is not asked.

// script is a file system of directories and empty files whose LOOKUPs and CREATEs can be
// parked, and whose entry timeout can be set.
type script struct {
	raw.RawFileSystem
	dir string
	fd  int

	mu    sync.Mutex
	ids   map[string]uint64 // "parent/name"
	dirs  map[uint64]bool
	ttl   time.Duration
	asked map[string]int           // LOOKUPs by name
	park  map[string]chan struct{} // a LOOKUP or CREATE of this name waits for it
	in    map[string]chan struct{} // … and closes this when it has come
}

func runScript(t *testing.T, plus bool) *script {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse and root")
	}
	var u unix.Utsname
	must(t, unix.Uname(&u))
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil || major < 6 || major == 6 && minor < 16 {
		t.Skipf("kernel %s has no NOTIFY_INC_EPOCH", unix.ByteSliceToString(u.Release[:]))
	}
	s := &script{RawFileSystem: raw.NewDefaultRawFileSystem(), dir: t.TempDir(), ids: map[string]uint64{}, dirs: map[uint64]bool{1: true},
		ttl: time.Hour, asked: map[string]int{}, park: map[string]chan struct{}{}, in: map[string]chan struct{}{}}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Mount("script", s.dir, "fuse.script", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	srv, err := raw.NewServer(s, fmt.Sprintf("/dev/fd/%d", fd), &raw.MountOptions{DisableReadDirPlus: !plus})
	must(t, err)
	s.fd, err = unix.Dup(fd)
	must(t, err)
	go srv.Serve()
	watchdog(t, s.dir, 5*time.Minute)
	gone := guarded(t, s.dir)
	t.Cleanup(func() {
		unix.Unmount(s.dir, unix.MNT_FORCE|unix.MNT_DETACH)
		gone()
		unix.Close(s.fd)
	})
	return s
}

func (s *script) add(parent uint64, name string, dir bool) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := uint64(len(s.ids) + 2)
	s.ids[fmt.Sprint(parent, "/", name)] = id
	s.dirs[id] = dir
	return id
}

func (s *script) remove(parent uint64, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ids, fmt.Sprint(parent, "/", name))
}

// hold parks the next LOOKUPs and CREATEs of name until the function is called.
func (s *script) hold(name string) (arrived <-chan struct{}, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, in := make(chan struct{}), make(chan struct{})
	s.park[name], s.in[name] = p, in
	return in, sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.park, name)
		s.mu.Unlock()
		close(p)
	})
}

func (s *script) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *script) attr(id uint64, a *raw.Attr) {
	a.Ino, a.Nlink, a.Mode = id, 1, unix.S_IFREG|0o644
	if s.dirs[id] {
		a.Mode, a.Nlink = unix.S_IFDIR|0o755, 2
	}
}

func (s *script) Lookup(_ <-chan struct{}, h *raw.InHeader, name string, out *raw.EntryOut) raw.Status {
	s.mu.Lock()
	s.asked[name]++
	id, ttl, park, in := s.ids[fmt.Sprint(h.NodeId, "/", name)], s.ttl, s.park[name], s.in[name]
	if id != 0 {
		s.attr(id, &out.Attr)
		out.NodeId, out.Generation = id, 1
	}
	s.mu.Unlock()
	out.SetEntryTimeout(ttl)
	out.SetAttrTimeout(time.Hour)
	if park != nil {
		select {
		case <-in:
		default:
			close(in)
		}
		<-park
	}
	return raw.OK
}

func (s *script) Create(_ <-chan struct{}, in *raw.CreateIn, name string, out *raw.CreateOut) raw.Status {
	s.mu.Lock()
	park, came := s.park[name], s.in[name]
	s.mu.Unlock()
	if park != nil {
		close(came)
		<-park
	}
	id := s.add(in.NodeId, name, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attr(id, &out.Attr)
	out.NodeId, out.Generation = id, 1
	out.SetEntryTimeout(s.ttl)
	return raw.OK
}

func (s *script) Rename(<-chan struct{}, *raw.RenameIn, string, string) raw.Status { return raw.OK }

func (s *script) GetAttr(_ <-chan struct{}, in *raw.GetAttrIn, out *raw.AttrOut) raw.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attr(in.NodeId, &out.Attr)
	out.SetTimeout(time.Hour)
	return raw.OK
}

func (s *script) OpenDir(<-chan struct{}, *raw.OpenIn, *raw.OpenOut) raw.Status { return raw.OK }

func (s *script) ReadDirPlus(_ <-chan struct{}, in *raw.ReadIn, out *raw.DirEntryList) raw.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Offset == 0 {
		o := out.AddDirLookupEntry(raw.DirEntry{Name: "row", Ino: 99, Mode: unix.S_IFREG, Off: 1})
		o.NodeId, o.Generation = 99, 1
		s.attr(99, &o.Attr)
		o.SetEntryTimeout(s.ttl)
		o.SetAttrTimeout(time.Hour)
		s.ids[fmt.Sprint(in.NodeId, "/row")] = 99
	}
	return raw.OK
}

// notify writes one notification and returns its errno.
func (s *script) notify(code uint32, body []byte) error {
	b := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(b[0:], uint32(16+len(body)))
	binary.NativeEndian.PutUint32(b[4:], code)
	_, err := unix.Write(s.fd, append(b, body...))
	return err
}

func (s *script) expire(parent uint64, name string) error {
	b := make([]byte, 16, 16+len(name)+1)
	binary.NativeEndian.PutUint64(b[0:], parent)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(name)))
	binary.NativeEndian.PutUint32(b[12:], 1) // FUSE_EXPIRE_ONLY
	return s.notify(3, append(append(b, name...), 0))
}

func (s *script) path(p string) string { return filepath.Join(s.dir, p) }

// lookups tells how many LOOKUPs of name one stat of path costs.
func (s *script) lookups(path, name string) int {
	before := s.count(name)
	var st unix.Stat_t
	unix.Lstat(s.path(path), &st)
	return s.count(name) - before
}

func expect(t *testing.T, fact string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", fact, got, want)
	}
}

// N1: EXPIRE_ONLY of a cached name makes the next walk ask, positive and negative; what is
// mounted below stays.
func TestFactN1Expire(t *testing.T) {
	s := runScript(t, false)
	d := s.add(1, "d", true)
	s.add(d, "f", false)
	s.add(d, "place", true)
	s.lookups("d/f", "f")
	s.lookups("d/no", "no")
	expect(t, "a warm name is asked for", s.lookups("d/f", "f"), 0)
	expect(t, "a warm absence is asked for", s.lookups("d/no", "no"), 0)
	must(t, unix.Mount("/proc", s.path("d/place"), "", unix.MS_BIND, ""))
	defer unix.Unmount(s.path("d/place"), unix.MNT_DETACH)
	must(t, s.expire(d, "f"))
	must(t, s.expire(d, "no"))
	must(t, s.expire(d, "place"))
	must(t, s.expire(1, "d"))
	expect(t, "an expired name is asked for", s.lookups("d/f", "f"), 1)
	expect(t, "an expired absence is asked for", s.lookups("d/no", "no"), 1)
	if _, err := os.Stat(s.path("d/place/self")); err != nil {
		t.Error("what was mounted below is gone:", err)
	}
	expect(t, "a name that is not cached", s.expire(d, "never"), error(unix.ENOENT))
}

// N2: INC_EPOCH voids every name, but what the next walk meets is thrown out, with what is
// mounted on it: it is not for a mount that pods mount into.
func TestFactN2EpochDetachesMounts(t *testing.T) {
	s := runScript(t, false)
	d := s.add(1, "d", true)
	s.add(d, "f", false)
	s.add(d, "place", true)
	s.lookups("d/f", "f")
	must(t, unix.Mount("/proc", s.path("d/place"), "", unix.MS_BIND, ""))
	defer unix.Unmount(s.path("d/place"), unix.MNT_DETACH)
	must(t, s.notify(8, nil))
	expect(t, "after INC_EPOCH a name is asked for", s.lookups("d/f", "f"), 1)
	_, err := os.Stat(s.path("d/place/self"))
	expect(t, "INC_EPOCH detaches what is mounted below", err != nil, true)
}

// N3: a LOOKUP that revalidates a name holds no lock: EXPIRE_ONLY passes it by, and its answer
// sets the timeout behind it.
func TestFactN3RevalidationOvertaken(t *testing.T) {
	s := runScript(t, false)
	d := s.add(1, "d", true)
	s.add(d, "f", false)
	s.lookups("d/f", "f")
	must(t, s.expire(d, "f"))
	in, release := s.hold("f")
	done := make(chan struct{})
	go func() { s.lookups("d/f", "f"); close(done) }()
	<-in
	ch := make(chan error, 1)
	go func() { ch <- s.expire(d, "f") }()
	select {
	case err := <-ch:
		must(t, err)
	case <-time.After(30 * time.Second):
		t.Error("EXPIRE_ONLY waits for a revalidation")
	}
	release()
	<-done
	expect(t, "the overtaken answer's timeout counts", s.lookups("d/f", "f"), 0)
}

// N4 (F5): EXPIRE_ONLY waits for a parked CREATE and for a parked first LOOKUP of the
// directory; in other directories it does not.
func TestFactN4ExpireWaits(t *testing.T) {
	for _, what := range []string{"create", "lookup"} {
		t.Run(what, func(t *testing.T) {
			s := runScript(t, false)
			d := s.add(1, "d", true)
			s.add(d, "f", false)
			s.lookups("d/f", "f")
			in, release := s.hold("new")
			done := make(chan struct{})
			go func() {
				defer close(done)
				if what == "lookup" {
					s.lookups("d/new", "new")
				} else if fd, err := unix.Open(s.path("d/new"), unix.O_CREAT|unix.O_WRONLY, 0o644); err == nil {
					unix.Close(fd)
				}
			}()
			if what == "create" {
				// The kernel looks it up first, and CREATE follows.
			}
			<-in
			ch := make(chan error, 1)
			go func() { ch <- s.expire(d, "f") }()
			select {
			case <-ch:
				t.Error("EXPIRE_ONLY went by")
			case <-time.After(100 * time.Millisecond):
			}
			must(t, s.expire(1, "d"))
			release()
			must(t, <-ch)
			<-done
		})
	}
}

// N5: a rename carries the timeout along to the new name; an unlink leaves none.
func TestFactN5RenameCarries(t *testing.T) {
	s := runScript(t, false)
	d := s.add(1, "d", true)
	s.add(d, "a", false)
	s.lookups("d/a", "a")
	must(t, os.Rename(s.path("d/a"), s.path("d/b")))
	expect(t, "LOOKUPs of the new name", s.lookups("d/b", "b"), 0)
	expect(t, "LOOKUPs of the old name", s.lookups("d/a", "a"), 1)
}

// N6: a row of READDIRPLUS is a name with a timeout like any other.
func TestFactN6Rows(t *testing.T) {
	s := runScript(t, true)
	d := s.add(1, "d", true)
	_, err := os.ReadDir(s.path("d"))
	must(t, err)
	expect(t, "LOOKUPs of a row", s.lookups("d/row", "row"), 0)
	must(t, s.expire(d, "row"))
	expect(t, "LOOKUPs of an expired row", s.lookups("d/row", "row"), 1)
}
