package lockcert

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Fault is a wrong implementation that stands between a worker and its system calls: the kit
// is tested by whether it notices.
type Fault struct {
	Name    string
	Does    string
	Catches []string // the checks that must fail under it
	Across  bool     // wrong between mounts only
	make    func(Ops, *wrongEnv) Ops
}

// wrongEnv is what a wrong implementation knows: its mount, and a directory that those of all
// workers share (and that lies on another file system than the one under test).
type wrongEnv struct {
	mount int
	state string
}

// Faults are all wrong implementations.
var Faults = []Fault{
	{Name: "two-writers", Does: "a conflicting lock is granted all the same", Catches: []string{"flock/exclusion", "posix/exclusion", "ofd/exclusion", "*/counter", "flock/history", "posix/history", "ofd/history", "flock/unlinked", "posix/unlinked", "ofd/unlinked", "posix/own", "flock/fork"}, make: func(o Ops, _ *wrongEnv) Ops { return &twoWriters{o} }},
	{Name: "local-lock", Does: "locks hold on their own mount only", Catches: []string{"flock/exclusion", "posix/ranges", "ofd/exclusion"}, Across: true, make: func(o Ops, e *wrongEnv) Ops { return &localLock{Ops: o, env: e, shadow: map[int]int{}} }},
	{Name: "lost-wakeup", Does: "who has to wait for a lock is never woken", Catches: []string{"*/blocking", "*/wake-all", "ofd/fifo", "flock/convert"}, make: func(o Ops, _ *wrongEnv) Ops {
		return &polling{Ops: o, turn: func(int) bool { return false }}
	}},
	{Name: "unfair-queue", Does: "the latest waiter is granted first", Catches: []string{"flock/fifo", "posix/fifo"}, make: newUnfair},
	{Name: "no-deadlock", Does: "cycles of waits are not noticed", Catches: []string{"posix/deadlock"}, make: func(o Ops, _ *wrongEnv) Ops {
		return &polling{Ops: o, turn: func(int) bool { return true }, posixOnly: true}
	}},
	{Name: "deaf-wait", Does: "signals do not end a wait", Catches: []string{"*/interrupt"}, make: func(o Ops, _ *wrongEnv) Ops { return &deaf{o} }},
	{Name: "ghost-holder", Does: "locks of a killed process stay", Catches: []string{"*/kill-holder"}, make: func(o Ops, e *wrongEnv) Ops { return &ghost{Ops: o, env: e} }},
	{Name: "ghost-waiter", Does: "a killed waiter keeps its place in the queue", Catches: []string{"*/kill-waiter"}, make: func(o Ops, e *wrongEnv) Ops { return &ghostWaiter{Ops: o, env: e} }},
	{Name: "any-handle", Does: "an exclusive lock is granted through a read-only handle", Catches: []string{"posix/mode"}, make: func(o Ops, _ *wrongEnv) Ops { return &anyHandle{o} }},
	{Name: "upgrade-drops", Does: "an upgrade that is refused has lost the shared lock", Catches: []string{"*/upgrade-kept"}, make: func(o Ops, _ *wrongEnv) Ops { return &upgradeDrops{o} }},
	{Name: "whence-ignored", Does: "a range relative to the end is taken from the start", Catches: []string{"posix/whence"}, make: func(o Ops, _ *wrongEnv) Ops { return &noWhence{o} }},
	{Name: "close-keeps", Does: "a close does not drop locks", Catches: []string{"flock/close", "posix/close", "ofd/close"}, make: func(o Ops, _ *wrongEnv) Ops { return &leaky{o} }},
	{Name: "blind-getlk", Does: "F_GETLK never finds a lock", Catches: []string{"posix/getlk", "ofd/getlk"}, make: func(o Ops, _ *wrongEnv) Ops { return &blind{o} }},
	{Name: "whole-file", Does: "a range lock takes the whole file", Catches: []string{"posix/ranges", "ofd/ranges"}, make: func(o Ops, _ *wrongEnv) Ops { return &wholeFile{o} }},
	{Name: "ofd-as-posix", Does: "OFD locks belong to the process", Catches: []string{"ofd/own"}, make: func(o Ops, _ *wrongEnv) Ops { return &ofdAsPosix{o} }},
	{Name: "flock-as-posix", Does: "flock is a POSIX lock of the whole file", Catches: []string{"locks/independent", "flock/close"}, make: func(o Ops, _ *wrongEnv) Ops { return &flockAsPosix{o} }},
	{Name: "downgrade-drops", Does: "a downgrade gives the lock up", Catches: []string{"posix/convert", "ofd/convert"}, make: func(o Ops, _ *wrongEnv) Ops { return &downgrade{o} }},
	{Name: "spurious-again", Does: "a lock nobody holds is refused now and then", Catches: []string{"flock/history", "posix/history"}, make: func(o Ops, _ *wrongEnv) Ops { return &spurious{Ops: o} }},
	{Name: "stale-read", Does: "a mount serves pages from before another process's write", Catches: []string{"data/read-after-write", "data/reader", "data/history", "data/truncate"}, make: func(o Ops, _ *wrongEnv) Ops { return &staleRead{Ops: o, kept: map[string]kept[string]{}} }},
	{Name: "lost-write", Does: "a write now and then changes nothing", Catches: []string{"data/history", "posix/counter"}, make: func(o Ops, _ *wrongEnv) Ops { return &lostWrite{Ops: o} }},
	{Name: "torn-append", Does: "O_APPEND writes in two parts", Catches: []string{"data/append"}, make: func(o Ops, _ *wrongEnv) Ops { return &tornAppend{o} }},
	{Name: "append-at-old-end", Does: "O_APPEND writes at the end the mount remembers", Catches: []string{"data/append"}, make: func(o Ops, _ *wrongEnv) Ops { return &oldEnd{Ops: o, path: map[int]string{}} }},
	{Name: "unlink-truncates", Does: "an unlinked file is emptied for those that have it open", Catches: []string{"data/unlinked"}, make: func(o Ops, _ *wrongEnv) Ops { return &truncating{o} }},
	{Name: "kept-enoent", Does: "a name found absent stays absent for a while", Catches: []string{"names/negative"}, make: func(o Ops, _ *wrongEnv) Ops { return &negativeKept{Ops: o, until: map[string]time.Time{}} }},
	{Name: "kept-name", Does: "a name once found stays for a while", Catches: []string{"names/gone", "names/rename", "attr/size", "attr/mode-times", "names/nlink"}, make: func(o Ops, _ *wrongEnv) Ops { return &staleStat{Ops: o, kept: map[string]kept[unix.Stat_t]{}} }},
	{Name: "lost-rename", Does: "a rename now and then changes nothing", Catches: []string{"names/history", "names/rename", "names/replace"}, make: func(o Ops, _ *wrongEnv) Ops { return &lostRename{Ops: o} }},
	{Name: "rename-gap", Does: "a rename over a file removes that first", Catches: []string{"names/replace"}, make: func(o Ops, _ *wrongEnv) Ops { return &renameGap{o} }},
	{Name: "rename-by-copy", Does: "a rename leaves the old name for a moment", Catches: []string{"names/rename-source", "names/history"}, make: func(o Ops, _ *wrongEnv) Ops { return &renameLink{o} }},
	{Name: "excl-twice", Does: "O_EXCL opens what is there", Catches: []string{"names/excl", "names/negative"}, make: func(o Ops, _ *wrongEnv) Ops { return &exclTwice{o} }},
	{Name: "link-replaces", Does: "link replaces an existing name", Catches: []string{"names/link"}, make: func(o Ops, _ *wrongEnv) Ops { return &linkReplaces{o} }},
	{Name: "mkdir-twice", Does: "mkdir of an existing directory succeeds", Catches: []string{"names/mkdir"}, make: func(o Ops, _ *wrongEnv) Ops { return &mkdirTwice{o} }},
	{Name: "unlink-twice", Does: "unlink of a name that is gone succeeds", Catches: []string{"names/unlink", "names/gone"}, make: func(o Ops, _ *wrongEnv) Ops { return &unlinkTwice{o} }},
	{Name: "rmdir-all", Does: "rmdir removes what is in the directory", Catches: []string{"names/rmdir"}, make: func(o Ops, _ *wrongEnv) Ops { return &rmdirAll{o} }},
	{Name: "private-map", Does: "a shared mapping is a copy", Catches: []string{"mmap/same-file"}, make: func(o Ops, _ *wrongEnv) Ops { return &privateMap{o} }},
	{Name: "empty-map", Does: "a mapping has no pages", Catches: []string{"mmap/grown"}, make: func(o Ops, e *wrongEnv) Ops { return &emptyMap{o, e} }},
	{Name: "stale-listing", Does: "a directory's listing is kept for a while", Catches: []string{"dir/coherent", "dir/list"}, make: func(o Ops, _ *wrongEnv) Ops { return &staleList{Ops: o, kept: map[string]kept[[]string]{}} }},
	{Name: "stale-end", Does: "lseek goes by the size at open", Catches: []string{"attr/seek-end"}, make: func(o Ops, _ *wrongEnv) Ops { return &staleEnd{Ops: o, size: map[int]int64{}} }},
	{Name: "stale-xattr", Does: "an xattr's value is kept for a while", Catches: []string{"attr/xattr"}, make: func(o Ops, _ *wrongEnv) Ops { return &staleXattr{Ops: o, kept: map[string]kept[string]{}} }},
}

func faultNamed(name string) *Fault {
	for i := range Faults {
		if Faults[i].Name == name {
			return &Faults[i]
		}
	}
	return nil
}

func isAgain(err error) bool { return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) }

// ---- locks -------------------------------------------------------------------------------

// nonBlocking is the command that does not wait, and whether cmd does.
func nonBlocking(cmd int) (int, bool) {
	switch cmd {
	case unix.F_SETLKW:
		return unix.F_SETLK, true
	case unix.F_OFD_SETLKW:
		return unix.F_OFD_SETLK, true
	}
	return cmd, false
}

func isGetlk(cmd int) bool { return cmd == unix.F_GETLK || cmd == unix.F_OFD_GETLK }

type twoWriters struct{ Ops }

func (o *twoWriters) Flock(fd, how int) error {
	if err := o.Ops.Flock(fd, how|unix.LOCK_NB); !isAgain(err) {
		return err
	}
	return nil
}

func (o *twoWriters) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	cmd, _ = nonBlocking(cmd)
	if err := o.Ops.Fcntl(fd, cmd, lk); !isAgain(err) {
		return err
	}
	return nil
}

// localLock puts locks on a file of its own mount's, named by inode.
type localLock struct {
	Ops
	env    *wrongEnv
	mu     sync.Mutex
	shadow map[int]int
}

func (o *localLock) file(fd int) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s, ok := o.shadow[fd]; ok {
		return s, nil
	}
	var st unix.Stat_t
	if err := o.Ops.Fstat(fd, &st); err != nil {
		return -1, err
	}
	s, err := unix.Open(filepath.Join(o.env.state, fmt.Sprintf("%d-%d", o.env.mount, st.Ino)), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		o.shadow[fd] = s
	}
	return s, err
}

func (o *localLock) Flock(fd, how int) error {
	s, err := o.file(fd)
	if err != nil {
		return err
	}
	return o.Ops.Flock(s, how)
}

func (o *localLock) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	s, err := o.file(fd)
	if err != nil {
		return err
	}
	return o.Ops.Fcntl(s, cmd, lk)
}

func (o *localLock) Close(fd int) error {
	o.mu.Lock()
	if s, ok := o.shadow[fd]; ok {
		unix.Close(s)
		delete(o.shadow, fd)
	}
	o.mu.Unlock()
	return o.Ops.Close(fd)
}

// polling waits by trying again when turn says so. It cannot be interrupted, which no check
// that it is used for minds.
type polling struct {
	Ops
	turn      func(fd int) bool
	leave     func(fd int)
	posixOnly bool
}

func (o *polling) poll(fd int, try func() error) error {
	for {
		err := try()
		if !isAgain(err) {
			return err
		}
		for !o.turn(fd) {
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(time.Millisecond)
	}
}

func (o *polling) Flock(fd, how int) error {
	if how&unix.LOCK_NB != 0 || how == unix.LOCK_UN || o.posixOnly {
		return o.Ops.Flock(fd, how)
	}
	defer o.left(fd)
	return o.poll(fd, func() error { return o.Ops.Flock(fd, how|unix.LOCK_NB) })
}

func (o *polling) left(fd int) {
	if o.leave != nil {
		o.leave(fd)
	}
}

func (o *polling) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	nb, waits := nonBlocking(cmd)
	if !waits || o.posixOnly && cmd != unix.F_SETLKW {
		return o.Ops.Fcntl(fd, cmd, lk)
	}
	defer o.left(fd)
	return o.poll(fd, func() error { l := *lk; return o.Ops.Fcntl(fd, nb, &l) })
}

// newUnfair: a waiter tries only while its note is the newest in the shared directory.
func newUnfair(o Ops, e *wrongEnv) Ops {
	mine := ""
	return &polling{Ops: o, turn: func(int) bool {
		if mine == "" {
			mine = fmt.Sprintf("wait-%020d", now())
			os.WriteFile(filepath.Join(e.state, mine), nil, 0o600)
		}
		all, _ := filepath.Glob(filepath.Join(e.state, "wait-*"))
		sort.Strings(all)
		return len(all) > 0 && filepath.Base(all[len(all)-1]) == mine
	}, leave: func(int) {
		if mine != "" {
			os.Remove(filepath.Join(e.state, mine))
		}
		mine = ""
	}}
}

type deaf struct{ Ops }

func (o *deaf) Flock(fd, how int) error {
	for {
		if err := o.Ops.Flock(fd, how); err != syscall.EINTR {
			return err
		}
	}
}

func (o *deaf) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	for {
		if err := o.Ops.Fcntl(fd, cmd, lk); err != syscall.EINTR {
			return err
		}
	}
}

// ghost writes down who holds a file, takes it back only at an unlock, and believes the notes.
type ghost struct {
	Ops
	env *wrongEnv
}

func (o *ghost) note(fd int) string {
	var st unix.Stat_t
	o.Ops.Fstat(fd, &st)
	return filepath.Join(o.env.state, fmt.Sprintf("held-%d-", st.Ino))
}

func (o *ghost) held(fd int) bool {
	all, _ := filepath.Glob(o.note(fd) + "*")
	mine := fmt.Sprint(unix.Getpid())
	for _, n := range all {
		if !strings.HasSuffix(n, "-"+mine) {
			return true
		}
	}
	return false
}

func (o *ghost) take(fd int, unlock, waits bool, do func() error) error {
	mine := o.note(fd) + fmt.Sprint(unix.Getpid())
	if unlock {
		os.Remove(mine)
		return do()
	}
	for o.held(fd) {
		if !waits {
			return syscall.EAGAIN
		}
		time.Sleep(2 * time.Millisecond)
	}
	err := do()
	if err == nil {
		os.WriteFile(mine, nil, 0o600)
	}
	return err
}

func (o *ghost) Flock(fd, how int) error {
	return o.take(fd, how&unix.LOCK_UN != 0, how&unix.LOCK_NB == 0, func() error { return o.Ops.Flock(fd, how) })
}

func (o *ghost) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	_, waits := nonBlocking(cmd)
	return o.take(fd, lk.Type == unix.F_UNLCK, waits, func() error { return o.Ops.Fcntl(fd, cmd, lk) })
}

// ghostWaiter lets a wait begin only when nobody's note is older, and the note of one that
// was killed stays.
type ghostWaiter struct {
	Ops
	env *wrongEnv
}

func (o *ghostWaiter) wait(fd int, try func() error) error {
	var st unix.Stat_t
	o.Ops.Fstat(fd, &st)
	mine := filepath.Join(o.env.state, fmt.Sprintf("queue-%d-%020d", st.Ino, now()))
	os.WriteFile(mine, nil, 0o600)
	defer os.Remove(mine)
	for {
		all, _ := filepath.Glob(filepath.Join(o.env.state, fmt.Sprintf("queue-%d-*", st.Ino)))
		sort.Strings(all)
		if all[0] == mine {
			return try()
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (o *ghostWaiter) Flock(fd, how int) error {
	if how&(unix.LOCK_NB|unix.LOCK_UN) != 0 {
		return o.Ops.Flock(fd, how)
	}
	return o.wait(fd, func() error { return o.Ops.Flock(fd, how) })
}

func (o *ghostWaiter) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	if _, waits := nonBlocking(cmd); !waits {
		return o.Ops.Fcntl(fd, cmd, lk)
	}
	return o.wait(fd, func() error { return o.Ops.Fcntl(fd, cmd, lk) })
}

type anyHandle struct{ Ops }

func (o *anyHandle) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	if err := o.Ops.Fcntl(fd, cmd, lk); err != syscall.EBADF {
		return err
	}
	return nil
}

type upgradeDrops struct{ Ops }

func (o *upgradeDrops) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	err := o.Ops.Fcntl(fd, cmd, lk)
	if isAgain(err) {
		u := *lk
		u.Type = unix.F_UNLCK
		o.Ops.Fcntl(fd, cmd, &u)
	}
	return err
}

type noWhence struct{ Ops }

func (o *noWhence) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	if lk.Whence == unix.SEEK_END {
		lk.Whence, lk.Start = unix.SEEK_SET, max(lk.Start, -lk.Start)
	}
	return o.Ops.Fcntl(fd, cmd, lk)
}

type leaky struct{ Ops }

func (o *leaky) Close(int) error { return nil }

type blind struct{ Ops }

func (o *blind) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	if isGetlk(cmd) {
		lk.Type = unix.F_UNLCK
		return nil
	}
	return o.Ops.Fcntl(fd, cmd, lk)
}

type wholeFile struct{ Ops }

func (o *wholeFile) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	lk.Start, lk.Len = 0, 0
	return o.Ops.Fcntl(fd, cmd, lk)
}

type ofdAsPosix struct{ Ops }

func (o *ofdAsPosix) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	switch cmd {
	case unix.F_OFD_SETLK:
		cmd = unix.F_SETLK
	case unix.F_OFD_SETLKW:
		cmd = unix.F_SETLKW
	case unix.F_OFD_GETLK:
		cmd = unix.F_GETLK
	}
	return o.Ops.Fcntl(fd, cmd, lk)
}

type flockAsPosix struct{ Ops }

func (o *flockAsPosix) Flock(fd, how int) error {
	lk := unix.Flock_t{Type: map[int]int16{unix.LOCK_SH: unix.F_RDLCK, unix.LOCK_EX: unix.F_WRLCK, unix.LOCK_UN: unix.F_UNLCK}[how&^unix.LOCK_NB]}
	cmd := unix.F_SETLKW
	if how&unix.LOCK_NB != 0 {
		cmd = unix.F_SETLK
	}
	return o.Ops.Fcntl(fd, cmd, &lk)
}

// downgrade gives up what it held before it asks for less.
type downgrade struct{ Ops }

func (o *downgrade) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	err := o.Ops.Fcntl(fd, cmd, lk)
	if err == nil && lk.Type == unix.F_RDLCK && !isGetlk(cmd) {
		u := *lk
		u.Type = unix.F_UNLCK
		return o.Ops.Fcntl(fd, cmd, &u)
	}
	return err
}

type spurious struct {
	Ops
	n int
}

func (o *spurious) again(nb, unlock bool) bool {
	o.n++
	return nb && !unlock && o.n%5 == 0
}

func (o *spurious) Flock(fd, how int) error {
	if o.again(how&unix.LOCK_NB != 0, how&unix.LOCK_UN != 0) {
		return syscall.EAGAIN
	}
	return o.Ops.Flock(fd, how)
}

func (o *spurious) Fcntl(fd, cmd int, lk *unix.Flock_t) error {
	_, waits := nonBlocking(cmd)
	if o.again(!waits && !isGetlk(cmd), lk.Type == unix.F_UNLCK) {
		return syscall.EAGAIN
	}
	return o.Ops.Fcntl(fd, cmd, lk)
}

// ---- data --------------------------------------------------------------------------------

// kept is something remembered for keepTime.
type kept[T any] struct {
	val  T
	till time.Time
}

const keepTime = 300 * time.Millisecond

func (k kept[T]) fresh() bool { return time.Now().Before(k.till) }

func keep[T any](v T) kept[T] { return kept[T]{v, time.Now().Add(keepTime)} }

// staleRead forgets when this process itself writes, as a mount's own page cache would.
type staleRead struct {
	Ops
	kept map[string]kept[string]
}

func (o *staleRead) Pread(fd int, b []byte, off int64) (int, error) {
	var st unix.Stat_t
	o.Ops.Fstat(fd, &st)
	key := fmt.Sprint(st.Ino, off, len(b))
	if k := o.kept[key]; k.fresh() {
		return copy(b, k.val), nil
	}
	n, err := o.Ops.Pread(fd, b, off)
	if err == nil {
		o.kept[key] = keep(string(b[:n]))
	}
	return n, err
}

func (o *staleRead) Pwrite(fd int, b []byte, off int64) (int, error) {
	clear(o.kept)
	return o.Ops.Pwrite(fd, b, off)
}

func (o *staleRead) Ftruncate(fd int, size int64) error {
	clear(o.kept)
	return o.Ops.Ftruncate(fd, size)
}

// staleEnd keeps the end it found first through a handle.
type staleEnd struct {
	Ops
	size map[int]int64
}

func (o *staleEnd) Seek(fd int, off int64, whence int) (int64, error) {
	if n, ok := o.size[fd]; ok {
		return n, nil
	}
	n, err := o.Ops.Seek(fd, off, whence)
	o.size[fd] = n
	return n, err
}

func (o *staleEnd) Close(fd int) error {
	delete(o.size, fd)
	return o.Ops.Close(fd)
}

type lostWrite struct {
	Ops
	n int
}

func (o *lostWrite) Pwrite(fd int, b []byte, off int64) (int, error) {
	if o.n++; o.n%7 == 0 {
		return len(b), nil
	}
	return o.Ops.Pwrite(fd, b, off)
}

type tornAppend struct{ Ops }

func (o *tornAppend) Write(fd int, b []byte) (int, error) {
	n, err := o.Ops.Write(fd, b[:len(b)/2])
	if err != nil {
		return n, err
	}
	time.Sleep(100 * time.Microsecond)
	m, err := o.Ops.Write(fd, b[n:])
	return n + m, err
}

// oldEnd looks for the end first, then writes there.
type oldEnd struct {
	Ops
	path map[int]string
}

func (o *oldEnd) Open(path string, flags int, mode uint32) (int, error) {
	fd, err := o.Ops.Open(path, flags, mode)
	if err == nil {
		o.path[fd] = path
	}
	return fd, err
}

func (o *oldEnd) Write(fd int, b []byte) (int, error) {
	var st unix.Stat_t
	if err := o.Ops.Fstat(fd, &st); err != nil {
		return 0, err
	}
	time.Sleep(100 * time.Microsecond)
	w, err := o.Ops.Open(o.path[fd], unix.O_WRONLY, 0) // pwrite through an O_APPEND handle appends
	if err != nil {
		return 0, err
	}
	defer o.Ops.Close(w)
	return o.Ops.Pwrite(w, b, st.Size)
}

type truncating struct{ Ops }

func (o *truncating) Unlink(path string) error {
	if fd, err := o.Ops.Open(path, unix.O_WRONLY|unix.O_NOFOLLOW, 0); err == nil {
		o.Ops.Ftruncate(fd, 0)
		o.Ops.Close(fd)
	}
	return o.Ops.Unlink(path)
}

// ---- names -------------------------------------------------------------------------------

type negativeKept struct {
	Ops
	until map[string]time.Time
}

func (o *negativeKept) look(path string, find func() error) error {
	if time.Now().Before(o.until[path]) {
		return syscall.ENOENT
	}
	err := find()
	if err == syscall.ENOENT {
		o.until[path] = time.Now().Add(keepTime)
	}
	return err
}

func (o *negativeKept) Lstat(path string, st *unix.Stat_t) error {
	return o.look(path, func() error { return o.Ops.Lstat(path, st) })
}

func (o *negativeKept) Open(path string, flags int, mode uint32) (fd int, err error) {
	if flags&unix.O_CREAT != 0 {
		delete(o.until, path)
		return o.Ops.Open(path, flags, mode)
	}
	err = o.look(path, func() (err error) { fd, err = o.Ops.Open(path, flags, mode); return err })
	return fd, err
}

// staleStat remembers what stat said, by name.
type staleStat struct {
	Ops
	kept map[string]kept[unix.Stat_t]
}

func (o *staleStat) Lstat(path string, st *unix.Stat_t) error {
	if k := o.kept[path]; k.fresh() {
		*st = k.val
		return nil
	}
	err := o.Ops.Lstat(path, st)
	if err == nil {
		o.kept[path] = keep(*st)
	}
	return err
}

type lostRename struct {
	Ops
	n int
}

func (o *lostRename) Rename(old, new string, flags uint) error {
	if o.n++; o.n%3 == 0 {
		return nil
	}
	return o.Ops.Rename(old, new, flags)
}

type renameGap struct{ Ops }

func (o *renameGap) Rename(old, new string, flags uint) error {
	if flags == 0 {
		o.Ops.Unlink(new)
		time.Sleep(200 * time.Microsecond)
	}
	return o.Ops.Rename(old, new, flags)
}

// renameLink renames by link and unlink, as file systems without a rename once did.
type renameLink struct{ Ops }

func (o *renameLink) Rename(old, new string, flags uint) error {
	if flags != 0 {
		return o.Ops.Rename(old, new, flags)
	}
	var st unix.Stat_t
	if err := o.Ops.Lstat(old, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return o.Ops.Rename(old, new, flags)
	}
	o.Ops.Unlink(new)
	if err := o.Ops.Link(old, new); err != nil {
		return err
	}
	time.Sleep(500 * time.Microsecond)
	o.Ops.Unlink(old)
	return nil
}

type exclTwice struct{ Ops }

func (o *exclTwice) Open(path string, flags int, mode uint32) (int, error) {
	return o.Ops.Open(path, flags&^unix.O_EXCL, mode)
}

type linkReplaces struct{ Ops }

func (o *linkReplaces) Link(old, new string) error {
	err := o.Ops.Link(old, new)
	if err == syscall.EEXIST {
		o.Ops.Unlink(new)
		return o.Ops.Link(old, new)
	}
	return err
}

type mkdirTwice struct{ Ops }

func (o *mkdirTwice) Mkdir(path string, mode uint32) error {
	if err := o.Ops.Mkdir(path, mode); err != syscall.EEXIST {
		return err
	}
	return nil
}

type unlinkTwice struct{ Ops }

func (o *unlinkTwice) Unlink(path string) error {
	if err := o.Ops.Unlink(path); err != syscall.ENOENT {
		return err
	}
	return nil
}

type rmdirAll struct{ Ops }

func (o *rmdirAll) Rmdir(path string) error { return os.RemoveAll(path) }

type privateMap struct{ Ops }

func (o *privateMap) Mmap(fd, size, _ int) ([]byte, error) {
	return o.Ops.Mmap(fd, size, unix.MAP_PRIVATE)
}

type emptyMap struct {
	Ops
	env *wrongEnv
}

func (o *emptyMap) Mmap(_, size, flags int) ([]byte, error) {
	f, err := os.Create(filepath.Join(o.env.state, "empty"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return o.Ops.Mmap(int(f.Fd()), size, flags)
}

type staleList struct {
	Ops
	kept map[string]kept[[]string]
}

func (o *staleList) ReadDir(path string) ([]string, error) {
	if k := o.kept[path]; k.fresh() {
		return k.val, nil
	}
	l, err := o.Ops.ReadDir(path)
	if err == nil {
		o.kept[path] = keep(l)
	}
	return l, err
}

type staleXattr struct {
	Ops
	kept map[string]kept[string]
}

func (o *staleXattr) Getxattr(path, name string) (string, error) {
	if k := o.kept[path+name]; k.fresh() {
		return k.val, nil
	}
	v, err := o.Ops.Getxattr(path, name)
	if err == nil {
		o.kept[path+name] = keep(v)
	}
	return v, err
}
