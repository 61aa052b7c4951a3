package fuse

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/internal/wrong"
)

const (
	maxWrite      = 1 << 20
	maxBackground = 128
)

// wantCaps are asked for in INIT besides what go-fuse asks for by itself (B11). Never
// WRITEBACK_CACHE: with it the kernel would ignore the size and mtime we report (F11, B4).
const wantCaps = fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK |
	fuse.CAP_READDIRPLUS | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_ASYNC_READ | fuse.CAP_BIG_WRITES |
	fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_HAS_EXPIRE_ONLY | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_PARALLEL_DIROPS |
	fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS | fuse.CAP_POSIX_ACL | fuse.CAP_MAX_PAGES

// needCaps are those without which promises would be broken: the mount refuses.
const needCaps = fuse.CAP_AUTO_INVAL_DATA | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_BIG_WRITES

var capNames = []struct {
	bit  uint64
	name string
}{
	{fuse.CAP_AUTO_INVAL_DATA, "AUTO_INVAL_DATA"}, {fuse.CAP_HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2"},
	{fuse.CAP_ATOMIC_O_TRUNC, "ATOMIC_O_TRUNC"}, {fuse.CAP_DONT_MASK, "DONT_MASK"}, {fuse.CAP_READDIRPLUS, "DO_READDIRPLUS"},
	{fuse.CAP_READDIRPLUS_AUTO, "READDIRPLUS_AUTO"}, {fuse.CAP_ASYNC_DIO, "ASYNC_DIO"}, {fuse.CAP_ASYNC_READ, "ASYNC_READ"},
	{fuse.CAP_BIG_WRITES, "BIG_WRITES"}, {fuse.CAP_DIRECT_IO_ALLOW_MMAP, "DIRECT_IO_ALLOW_MMAP"},
	{fuse.CAP_HAS_EXPIRE_ONLY, "HAS_EXPIRE_ONLY"}, {fuse.CAP_EXPORT_SUPPORT, "EXPORT_SUPPORT"},
	{fuse.CAP_PARALLEL_DIROPS, "PARALLEL_DIROPS"}, {fuse.CAP_POSIX_LOCKS, "POSIX_LOCKS"}, {fuse.CAP_FLOCK_LOCKS, "FLOCK_LOCKS"},
	{fuse.CAP_POSIX_ACL, "POSIX_ACL"}, {fuse.CAP_MAX_PAGES, "MAX_PAGES"}, {fuse.CAP_WRITEBACK_CACHE, "WRITEBACK_CACHE"},
	{fuse.CAP_NO_OPEN_SUPPORT, "NO_OPEN_SUPPORT"}, {fuse.CAP_FILE_OPS, "FILE_OPS"}, {fuse.CAP_CACHE_SYMLINKS, "CACHE_SYMLINKS"},
	{fuse.CAP_PASSTHROUGH, "PASSTHROUGH"}, {fuse.CAP_EXPLICIT_INVAL_DATA, "EXPLICIT_INVAL_DATA"}, {fuse.CAP_ALLOW_IDMAP, "ALLOW_IDMAP"},
}

// flagNames prints INIT flags by name, those it has no name for as a number.
func flagNames(f uint64) string {
	var out []string
	for _, n := range capNames {
		if f&n.bit != 0 {
			out = append(out, n.name)
			f &^= n.bit
		}
	}
	if f != 0 {
		out = append(out, fmt.Sprintf("%#x", f))
	}
	return strings.Join(out, " ")
}

// Config of a mount.
type Config struct {
	Client     *client.Client
	Mountpoint string
	Options    []string // as after -o
	Log        zerolog.Logger
	Wrong      wrong.Set // seeded bugs; the mount's source then names them
	Debug      bool      // go-fuse's log of every request
}

// Server is a mounted file system.
type Server struct {
	dir     string
	dev     *device
	fs      *fileSystem
	log     zerolog.Logger
	done    chan struct{}
	once    sync.Once
	granted uint64
	minor   uint32 // of the connection in /sys/fs/fuse
}

// Mount mounts and serves until Unmount, or until somebody else unmounts.
func Mount(ctx context.Context, cfg Config) (*Server, error) {
	o, err := parseOptions(cfg.Options)
	if err != nil {
		return nil, err
	}
	if cfg.Wrong != 0 {
		o.fsname = "WRONG:" + strings.ReplaceAll(cfg.Wrong.String(), ",", "+")
	}
	dir, err := filepath.Abs(cfg.Mountpoint)
	if err != nil {
		return nil, err
	}
	fd, err := mount(dir, o)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, log: cfg.Log, done: make(chan struct{})}
	s.fs = newFileSystem(cfg.Client, o, cfg.Log)
	s.fs.wrong = cfg.Wrong
	var offered uint64
	s.dev, offered, err = newDevice(fd, s.fs, &fuse.MountOptions{
		MaxBackground:        maxBackground,
		MaxWrite:             maxWrite,
		MaxReadAhead:         maxWrite,
		EnableLocks:          true,
		EnableAcl:            true,
		DisableSplice:        true,
		ExtraCapabilities:    wantCaps,
		DisabledCapabilities: fuse.CAP_WRITEBACK_CACHE | fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_PASSTHROUGH | fuse.CAP_FILE_OPS,
		Debug:                cfg.Debug,
		Logger:               log.New(logWriter{cfg.Log}, "", 0),
		FsName:               o.fsname,
		Name:                 "capstan",
	}, cfg.Log, func() { s.Abort() })
	if err != nil {
		unmount(dir, true)
		return nil, fmt.Errorf("fuse: %s: %w", dir, err)
	}
	s.fs.dev = s.dev
	s.granted = offered &^ fuse.CAP_WRITEBACK_CACHE // offered, never taken
	if miss := uint64(wantCaps) &^ s.granted; miss != 0 {
		cfg.Log.Info().Str("missing", flagNames(miss)).Msg("this kernel does not offer everything; going without")
		if miss&needCaps != 0 {
			s.dev.file.Close()
			unmount(dir, true)
			return nil, fmt.Errorf("fuse: this kernel lacks %s, without which two mounts would not stay coherent", flagNames(miss&needCaps))
		}
	}
	plain := notifier{dev: s.dev, places: &s.fs.places}
	var names client.Notifier = &plain // names are asked for each time
	if s.granted&fuse.CAP_HAS_EXPIRE_ONLY != 0 && o.names != never {
		if err := watchable(); err != nil {
			cfg.Log.Info().Err(err).Msg("the kernel is not trusted with names: it asks for each of them each time")
		} else {
			names = &namer{plain, o.names == wheneverOK}
		}
	}
	cfg.Client.SetNotifier(names)
	go func() {
		s.dev.serve()
		cfg.Client.SetNotifier(nil)
		close(s.done)
	}()
	s.warmPoll()
	return s, nil
}

// warmPoll makes the kernel learn that there is no POLL here before the Go runtime of this
// very process polls a file of the mount: that could take the last thread that serves it. It
// also notes the connection's number. Nothing of it may be left on its way when a process
// ends: a thread of ours that waits for our own answer could not die.
func (s *Server) warmPoll() {
	fd, err := unix.Open(filepath.Join(s.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		s.minor = unix.Minor(st.Dev)
	}
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}, 0)
	unix.Close(fd)
}

// Abort ends the connection: whoever waits for an answer gets ENOTCONN. The last resort of a
// process that must end while somebody uses its mount.
func (s *Server) Abort() error {
	err := unix.Unmount(s.dir, unix.MNT_FORCE|unix.MNT_DETACH) // as root; else only where fusectl is mounted
	if err2 := os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", s.minor), []byte("1"), 0); err2 == nil {
		return nil
	}
	return err
}

// Negotiated names the features of the kernel that are in use.
func (s *Server) Negotiated() string {
	return flagNames(s.granted & (wantCaps | fuse.CAP_WRITEBACK_CACHE))
}

// Upcalls counts what kernels have asked of this process's mounts, forgets and releases aside.
func Upcalls() (n uint64) {
	for i := range opCounts {
		n += opCounts[i].Load()
	}
	return n
}

// Mountpoint is where it is mounted.
func (s *Server) Mountpoint() string { return s.dir }

// Wait returns when the file system is unmounted, by whomever.
func (s *Server) Wait() { <-s.done }

// Done is closed then.
func (s *Server) Done() <-chan struct{} { return s.done }

// Unmount unmounts; a busy mount is an error and stays.
func (s *Server) Unmount() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := unmount(s.dir, false); err != nil {
		return err
	}
	<-s.done
	return nil
}

// Detach unmounts at once from the tree; what is open goes on until it is closed.
func (s *Server) Detach() error { return unmount(s.dir, true) }

type logWriter struct{ log zerolog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug().Str("from", "go-fuse").Msg(strings.TrimSpace(string(b)))
	return len(b), nil
}
