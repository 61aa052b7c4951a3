package lockcert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Step is one call that a worker is asked to make. Paths are relative to the check's
// directory; H names one of the worker's open files.
type Step struct {
	Op    string `json:"op"`
	H     int    `json:"h,omitempty"`
	To    int    `json:"to,omitempty"` // of dup: the new name
	P     string `json:"p,omitempty"`
	Q     string `json:"q,omitempty"`
	Flags int    `json:"flags,omitempty"`
	Off   int64  `json:"off,omitempty"`
	Len   int64  `json:"len,omitempty"`
	Data  string `json:"data,omitempty"`
	Lock  *Lock  `json:"lock,omitempty"`
	// If is 1 + the index of an earlier step of the same program: skipped unless that
	// one succeeded.
	If int `json:"if,omitempty"`
}

// Lock is what a lock call asks for, or what F_GETLK found.
type Lock struct {
	Kind   string `json:"kind"` // flock, posix, ofd
	Type   string `json:"type"` // R, W, U
	Off    int64  `json:"off,omitempty"`
	Len    int64  `json:"len,omitempty"` // 0: to the end of the file
	Whence int    `json:"whence,omitempty"`
	Wait   bool   `json:"wait,omitempty"`
	PID    int    `json:"pid,omitempty"`
}

// Stat is what stat found.
type Stat struct {
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	Mode  uint32 `json:"mode"`
	Nlink uint64 `json:"nlink"`
	Mtime int64  `json:"mtime"`
}

// Event is a step that was made: by whom, when, and what came back.
type Event struct {
	Step
	Worker int           `json:"worker"`
	Mount  int           `json:"mount"`
	PID    int           `json:"pid"`
	Call   int64         `json:"call"`
	Ret    int64         `json:"ret"` // 0: has not returned
	Errno  syscall.Errno `json:"errno"`
	N      int64         `json:"n,omitempty"`
	Out    string        `json:"out,omitempty"`
	Names  []string      `json:"names,omitempty"`
	Stat   *Stat         `json:"stat,omitempty"`
	Got    *Lock         `json:"got,omitempty"`
	Skip   bool          `json:"skip,omitempty"`
	mark   string        // a remark in the timeline
}

func (e *Event) ok() bool { return e.Errno == 0 && !e.Skip }

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e
	}
	return syscall.EIO
}

func errnoName(e syscall.Errno) string {
	if e == 0 {
		return "ok"
	}
	if s := unix.ErrnoName(e); s != "" {
		return s
	}
	return fmt.Sprintf("errno %d", int(e))
}

var lockTypes = map[string]int16{"R": unix.F_RDLCK, "W": unix.F_WRLCK, "U": unix.F_UNLCK}

func typeName(t int16) string {
	for n, v := range lockTypes {
		if v == t {
			return n
		}
	}
	return "?"
}

// player makes steps: the part of a worker that touches the file system.
type player struct {
	ops   Ops
	dir   string     // of this check, on this worker's mount
	mu    sync.Mutex // of files: a call that waits leaves the others free to go on
	files map[int]int
	maps  map[int][]byte
	self  []string // argv of a child that only holds what it inherited
	kids  map[int]*holder
}

func (p *player) file(h int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd, ok := p.files[h]; ok {
		return fd
	}
	return -1
}

func (p *player) setFile(h, fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd < 0 {
		delete(p.files, h)
		return
	}
	p.files[h] = fd
}

// play makes one step and fills in what came back. The times enclose the call alone.
func (p *player) play(s Step) Event {
	e := Event{Step: s, PID: unix.Getpid()}
	fd := p.file(s.H)
	path := func(rel string) string { return p.dir + "/" + rel }
	var err error
	e.Call = now()
	switch s.Op {
	case "open":
		var n int
		if n, err = p.ops.Open(path(s.P), s.Flags, 0o644); err == nil {
			e.Ret = now()
			p.setFile(s.H, n)
		}
	case "close":
		err = p.ops.Close(fd)
		p.setFile(s.H, -1)
	case "dup":
		var n int
		if n, err = p.ops.Dup(fd); err == nil {
			p.setFile(s.To, n)
		}
	case "pread":
		b := make([]byte, s.Len)
		var n int
		n, err = p.ops.Pread(fd, b, s.Off)
		e.N, e.Out = int64(n), string(b[:max(n, 0)])
	case "pwrite":
		var n int
		n, err = p.ops.Pwrite(fd, []byte(s.Data), s.Off)
		e.N = int64(n)
	case "append":
		var n int
		n, err = p.ops.Write(fd, []byte(s.Data))
		e.N = int64(n)
	case "read": // the whole of a small file, by its name
		e.Out, err = p.readFile(path(s.P))
		e.N = int64(len(e.Out))
	case "create": // O_EXCL, with its contents
		err = p.writeFile(path(s.P), s.Data, unix.O_EXCL)
	case "put": // as a shell's redirection does
		err = p.writeFile(path(s.P), s.Data, unix.O_TRUNC)
	case "bump": // read a counter, add one, write it back: exact only under a lock
		e.N, err = p.bump(fd, s.Off)
	case "ftruncate":
		err = p.ops.Ftruncate(fd, s.Len)
	case "seek-end":
		e.N, err = p.ops.Seek(fd, 0, unix.SEEK_END)
	case "stat", "fstat":
		var st unix.Stat_t
		if s.Op == "stat" {
			err = p.ops.Lstat(path(s.P), &st)
		} else {
			err = p.ops.Fstat(fd, &st)
		}
		if err == nil {
			e.Stat = &Stat{Ino: st.Ino, Size: st.Size, Mode: st.Mode & 0o7777, Nlink: uint64(st.Nlink), Mtime: st.Mtim.Sec}
		}
	case "chmod":
		err = p.ops.Chmod(path(s.P), uint32(s.Flags))
	case "utimes":
		err = p.ops.Utimes(path(s.P), s.Len)
	case "setxattr":
		err = p.ops.Setxattr(path(s.P), s.Q, s.Data)
	case "getxattr":
		e.Out, err = p.ops.Getxattr(path(s.P), s.Q)
	case "symlink":
		err = p.ops.Symlink(s.Data, path(s.P))
	case "readlink":
		e.Out, err = p.ops.Readlink(path(s.P))
	case "link":
		err = p.ops.Link(path(s.P), path(s.Q))
	case "unlink":
		err = p.ops.Unlink(path(s.P))
	case "rename":
		err = p.ops.Rename(path(s.P), path(s.Q), uint(s.Flags))
	case "mkdir":
		err = p.ops.Mkdir(path(s.P), 0o755)
	case "rmdir":
		err = p.ops.Rmdir(path(s.P))
	case "list":
		e.Names, err = p.ops.ReadDir(path(s.P))
	case "lock":
		err = p.lock(fd, s.Lock)
	case "getlk":
		e.Got, err = p.getlk(fd, s.Lock)
	case "mmap":
		p.maps[s.H], err = p.ops.Mmap(fd, int(s.Len), unix.MAP_SHARED)
	case "store":
		err = touch(func() { copy(p.maps[s.H][s.Off:], s.Data) })
	case "load":
		err = touch(func() { e.Out = string(p.maps[s.H][s.Off : s.Off+s.Len]) })
	case "lend": // to a child, by inheritance over fork
		p.kids[s.To], err = newHolder(p.self, fd)
	case "reap":
		err = p.kids[s.To].end()
		delete(p.kids, s.To)
	default:
		err = syscall.ENOSYS
	}
	if e.Ret == 0 {
		e.Ret = now()
	}
	e.Errno = errnoOf(err)
	return e
}

func (p *player) readFile(path string) (string, error) {
	fd, err := p.ops.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer p.ops.Close(fd)
	b := make([]byte, 64<<10)
	n, err := p.ops.Pread(fd, b, 0)
	return string(b[:max(n, 0)]), err
}

func (p *player) writeFile(path, data string, flag int) error {
	fd, err := p.ops.Open(path, unix.O_WRONLY|unix.O_CREAT|flag, 0o644)
	if err != nil {
		return err
	}
	if data != "" {
		_, err = p.ops.Pwrite(fd, []byte(data), 0)
	}
	return errors.Join(err, p.ops.Close(fd))
}

func (p *player) bump(fd int, off int64) (int64, error) {
	b := make([]byte, 8)
	if n, err := p.ops.Pread(fd, b, off); err != nil {
		return 0, err
	} else if n < 8 {
		clear(b[n:])
	}
	n := binary.LittleEndian.Uint64(b) + 1
	binary.LittleEndian.PutUint64(b, n)
	runtime.Gosched() // give others their chance to come between
	_, err := p.ops.Pwrite(fd, b, off)
	return int64(n), err
}

// touch uses a mapping; a page the file system can not deliver is EFAULT, not the end.
func touch(use func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = syscall.EFAULT
		}
	}()
	use()
	return nil
}

func (p *player) lock(fd int, l *Lock) error {
	if l.Kind == "flock" {
		how := map[string]int{"R": unix.LOCK_SH, "W": unix.LOCK_EX, "U": unix.LOCK_UN}[l.Type]
		if !l.Wait {
			how |= unix.LOCK_NB
		}
		return p.ops.Flock(fd, how)
	}
	cmd := unix.F_SETLK
	switch {
	case l.Kind == "posix" && l.Wait:
		cmd = unix.F_SETLKW
	case l.Kind == "ofd" && l.Wait:
		cmd = unix.F_OFD_SETLKW
	case l.Kind == "ofd":
		cmd = unix.F_OFD_SETLK
	}
	err := p.ops.Fcntl(fd, cmd, &unix.Flock_t{Type: lockTypes[l.Type], Whence: int16(l.Whence), Start: l.Off, Len: l.Len})
	if err == syscall.EACCES { // the other answer POSIX allows to a conflict
		err = syscall.EAGAIN
	}
	return err
}

func (p *player) getlk(fd int, l *Lock) (*Lock, error) {
	lk := unix.Flock_t{Type: lockTypes[l.Type], Start: l.Off, Len: l.Len}
	cmd := unix.F_GETLK
	if l.Kind == "ofd" {
		cmd = unix.F_OFD_GETLK
	}
	if err := p.ops.Fcntl(fd, cmd, &lk); err != nil {
		return nil, err
	}
	return &Lock{Kind: l.Kind, Type: typeName(lk.Type), Off: lk.Start, Len: lk.Len, PID: int(lk.Pid)}, nil
}

// reset closes everything, so that the next check starts from nothing.
func (p *player) reset() {
	for _, m := range p.maps {
		unix.Munmap(m)
	}
	for _, k := range p.kids {
		k.end()
	}
	for _, fd := range p.files {
		p.ops.Close(fd)
	}
	clear(p.maps)
	clear(p.kids)
	clear(p.files)
}

// ---- how steps and events read in a timeline ---------------------------------------------

func (l *Lock) String() string {
	s := l.Kind + " " + map[string]string{"R": "shared", "W": "exclusive", "U": "unlock"}[l.Type]
	if l.Kind != "flock" {
		end := "end"
		if l.Len != 0 {
			end = fmt.Sprint(l.Off + l.Len)
		}
		from := ""
		switch l.Whence {
		case unix.SEEK_END:
			from = "end of file + "
		case unix.SEEK_CUR:
			from = "position + "
		}
		s += fmt.Sprintf(" %s[%d,%s)", from, l.Off, end)
	}
	if l.Wait {
		s += " wait"
	}
	return s
}

func (s Step) String() string {
	words := []string{s.Op}
	switch s.Op {
	case "lock":
		return fmt.Sprintf("h%d %s", s.H, s.Lock)
	case "getlk":
		return fmt.Sprintf("h%d getlk %s", s.H, s.Lock)
	case "open":
		return fmt.Sprintf("h%d = open %s %s", s.H, s.P, openFlags(s.Flags))
	case "dup":
		return fmt.Sprintf("h%d = dup h%d", s.To, s.H)
	case "rename":
		if s.Flags != 0 {
			words[0] = map[int]string{unix.RENAME_NOREPLACE: "rename-noreplace", unix.RENAME_EXCHANGE: "exchange"}[s.Flags]
		}
	case "close", "pread", "pwrite", "append", "bump", "ftruncate", "fstat", "seek-end", "mmap", "store", "load", "lend":
		words = append(words, fmt.Sprintf("h%d", s.H))
	case "chmod":
		words = append(words, fmt.Sprintf("%o", s.Flags))
	}
	for _, w := range []string{s.P, s.Q} {
		if w != "" {
			words = append(words, w)
		}
	}
	switch s.Op {
	case "pread", "load":
		words = append(words, fmt.Sprintf("[%d,%d)", s.Off, s.Off+s.Len))
	case "pwrite", "store":
		words = append(words, fmt.Sprintf("@%d %s", s.Off, brief(s.Data)))
	case "append", "create", "put", "symlink", "setxattr":
		words = append(words, brief(s.Data))
	case "ftruncate", "utimes":
		words = append(words, fmt.Sprint(s.Len))
	}
	return strings.Join(words, " ")
}

func openFlags(f int) string {
	s := []string{"rdonly", "wronly", "rdwr"}[f&unix.O_ACCMODE]
	for _, x := range []struct {
		bit  int
		name string
	}{{unix.O_CREAT, "creat"}, {unix.O_EXCL, "excl"}, {unix.O_TRUNC, "trunc"}, {unix.O_APPEND, "append"}} {
		if f&x.bit != 0 {
			s += "|" + x.name
		}
	}
	return s
}

// brief shows data so that a line stays a line: numbers for eight-byte words, else text.
func brief(s string) string {
	if len(s) >= 8 && strings.ContainsRune(s[:8], 0) {
		return fmt.Sprintf("word %#x", binary.LittleEndian.Uint64([]byte(s[:8])))
	}
	if len(s) > 28 {
		return fmt.Sprintf("%q… (%d bytes)", s[:24], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// result is what came back, in words.
func (e *Event) result() string {
	switch {
	case e.Skip:
		return "skipped"
	case e.Ret == 0:
		return "… has not returned"
	case e.Errno != 0:
		return errnoName(e.Errno)
	}
	switch e.Op {
	case "pread", "read", "readlink", "getxattr", "load":
		return brief(e.Out)
	case "bump", "seek-end":
		return fmt.Sprint(e.N)
	case "stat", "fstat":
		return fmt.Sprintf("ino %d size %d mode %o nlink %d mtime %d", e.Stat.Ino, e.Stat.Size, e.Stat.Mode, e.Stat.Nlink, e.Stat.Mtime)
	case "list":
		s := strings.Join(e.Names, " ")
		if len(s) > 60 {
			s = s[:60] + fmt.Sprintf("… (%d names)", len(e.Names))
		}
		return "{" + s + "}"
	case "getlk":
		if e.Got.Type == "U" {
			return "no conflict"
		}
		return fmt.Sprintf("%s of pid %d", e.Got, e.Got.PID)
	}
	return "ok"
}
