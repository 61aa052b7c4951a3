package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the socket's name in a daemon's data directory.
const SocketName = "admin.sock"

// maxLine bounds a request.
const maxLine = 1 << 20

// Func answers one command. Args is the request's, possibly empty; the value is sent as JSON.
type Func func(args json.RawMessage) (any, error)

// Registry holds the commands of one daemon.
type Registry struct {
	mu   sync.Mutex
	cmds map[string]Func
}

// NewRegistry has one command, help, which lists the others.
func NewRegistry() *Registry {
	r := &Registry{cmds: map[string]Func{}}
	r.Register("help", func(json.RawMessage) (any, error) { return r.names(), nil })
	return r
}

// Register adds a command or replaces it.
func (r *Registry) Register(cmd string, fn Func) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cmds[cmd] = fn
}

func (r *Registry) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.cmds))
	for n := range r.cmds {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

type request struct {
	Cmd  string          `json:"cmd"`
	Args json.RawMessage `json:"args,omitempty"`
}

type reply struct {
	OK    bool            `json:"ok"`
	Value json.RawMessage `json:"value,omitempty"`
	Error string          `json:"error,omitempty"`
}

// answer runs one request; a command that panics ends its request, not the daemon.
func (r *Registry) answer(line []byte) (rep reply) {
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		return reply{Error: `the request is no JSON object {"cmd":…,"args":…}: ` + err.Error()}
	}
	r.mu.Lock()
	fn := r.cmds[req.Cmd]
	r.mu.Unlock()
	if fn == nil {
		return reply{Error: fmt.Sprintf("no command %q; there are %s", req.Cmd, strings.Join(r.names(), ", "))}
	}
	defer func() {
		if p := recover(); p != nil {
			rep = reply{Error: fmt.Sprintf("%s panicked: %v", req.Cmd, p)}
		}
	}()
	v, err := fn(req.Args)
	if err != nil {
		return reply{Error: err.Error()}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return reply{Error: "the answer is no JSON: " + err.Error()}
	}
	return reply{OK: true, Value: b}
}

// Server serves a registry on a socket.
type Server struct {
	l     net.Listener
	path  string
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil: closed
}

// Serve listens on path. A socket that a dead process left there is replaced; one that
// answers is an error.
func Serve(path string, r *Registry) (*Server, error) {
	addr, done, err := short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, derr := net.DialTimeout("unix", addr, time.Second); derr == nil {
			c.Close()
			return nil, fmt.Errorf("admin socket %s: another process serves it; stop that one first", path)
		}
		if err = os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			l, err = net.Listen("unix", addr)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // addr may be the short name, gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	s := &Server{l: l, path: path, conns: map[net.Conn]struct{}{}}
	s.wg.Go(func() { s.loop(r) })
	return s, nil
}

func (s *Server) loop(r *Registry) {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conns == nil {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			serveConn(c, r)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func serveConn(c net.Conn, r *Registry) {
	defer c.Close()
	in := bufio.NewScanner(c)
	in.Buffer(nil, maxLine)
	out := json.NewEncoder(c)
	for in.Scan() {
		if out.Encode(r.answer(in.Bytes())) != nil {
			return
		}
	}
	if errors.Is(in.Err(), bufio.ErrTooLong) {
		_ = out.Encode(reply{Error: fmt.Sprintf("the request is longer than %d bytes", maxLine)})
	}
}

// Close removes the socket and waits for commands under way. A nil server is closed.
func (s *Server) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.l.Close()
	s.wg.Wait()
	_ = os.Remove(s.path)
}

// Call asks the daemon behind path.
func Call(ctx context.Context, path, cmd string, args any) (json.RawMessage, error) {
	addr, done, err := short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w (is the daemon running?)", path, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	req := request{Cmd: cmd}
	if args != nil {
		if req.Args, err = json.Marshal(args); err != nil {
			return nil, err
		}
	}
	if err := json.NewEncoder(c).Encode(req); err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	var rep reply
	if err := json.NewDecoder(c).Decode(&rep); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("admin socket %s: %s: %w", path, cmd, err)
	}
	if !rep.OK {
		return nil, fmt.Errorf("%s: %s", cmd, rep.Error)
	}
	return rep.Value, nil
}

// short finds a name for path that fits a socket address (108 bytes): itself, or one by way
// of a descriptor of its directory.
func short(path string) (string, func(), error) {
	if len(path) < 100 {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)), func() { _ = unix.Close(fd) }, nil
}
