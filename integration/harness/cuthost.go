package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a network namespace of its own whose only way to the cluster is a relay in the test:
// mounts made on it reach the daemons at the addresses in the maps, until Cut. A cut line drops
// nothing and tells nobody, as a pulled cable does: what was sent is on its way, and arrives, late,
// after Heal.
type Host struct {
	c    *Cluster
	do   chan func()
	mu   sync.Mutex
	cut  chan struct{} // nil: the line is whole; closed by Heal
	ends []io.Closer
	mnts []string
}

// NewHost makes one, or skips the test where no network namespace can be made.
func (c *Cluster) NewHost(t testing.TB) *Host {
	t.Helper()
	h := &Host{c: c, do: make(chan func())}
	var addrs []string
	for _, p := range c.Procs() {
		if p.Addr != "" {
			addrs = append(addrs, p.Addr)
		}
	}
	made := make(chan error)
	go h.live(addrs, made)
	if err := <-made; errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		t.Skipf("needs a network namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	c.t.Cleanup(func() {
		h.Heal()
		for _, m := range h.mnts { // while it still reaches the cluster
			if out, err := c.Run("umount", m); err != nil {
				t.Logf("umount %s: %v\n%s", m, err, out)
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		close(h.do)
		for _, e := range h.ends {
			e.Close()
		}
	})
	return h
}

// live is the host's thread: it is in the namespace, and ends with it.
func (h *Host) live(addrs []string, made chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread must not be used for anything else
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- err
		return
	}
	if err := loopbackUp(); err != nil {
		made <- err
		return
	}
	for _, a := range addrs {
		l, err := net.Listen("tcp", a)
		if err != nil {
			made <- fmt.Errorf("listen in the namespace: %w", err)
			return
		}
		h.closeLater(l)
		go h.relay(l, a)
	}
	made <- nil
	for f := range h.do {
		f()
	}
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

func (h *Host) closeLater(e io.Closer) {
	h.mu.Lock()
	h.ends = append(h.ends, e)
	h.mu.Unlock()
}

func (h *Host) relay(l net.Listener, addr string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		h.closeLater(in)
		go func() {
			h.whole()
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				return
			}
			h.closeLater(out)
			go h.carry(in, out)
			h.carry(out, in)
		}()
	}
}

// carry brings bytes from one end to the other; those that meet a cut line wait.
func (h *Host) carry(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		h.whole()
		if n > 0 {
			if _, werr := to.Write(b[:n]); werr != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// whole waits until the line is.
func (h *Host) whole() {
	h.mu.Lock()
	cut := h.cut
	h.mu.Unlock()
	if cut != nil {
		<-cut
	}
}

// Cut ends the host's traffic in both directions.
func (h *Host) Cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut == nil {
		h.cut = make(chan struct{})
	}
}

// Heal lets it go on.
func (h *Host) Heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut != nil {
		close(h.cut)
		h.cut = nil
	}
}

// Mount mounts the cluster on this host; files are reached by its path from everywhere.
func (h *Host) Mount(args ...string) string {
	h.c.t.Helper()
	mnt, err := os.MkdirTemp("/var/tmp", "capstan-mnt")
	if err != nil {
		h.c.t.Fatal(err)
	}
	h.c.mounts = append(h.c.mounts, mnt)
	h.mnts = append(h.mnts, mnt)
	type said struct {
		out string
		err error
	}
	done := make(chan said, 1)
	h.do <- func() {
		out, err := h.c.Run(append([]string{"mount", "--conf", h.c.Conf(), mnt}, args...)...)
		done <- said{out, err}
	}
	select {
	case s := <-done:
		if s.err != nil {
			h.c.t.Fatalf("mount on the host: %v\n%s\n%s", s.err, s.out, h.c.logs())
		}
	case <-time.After(2 * time.Minute):
		h.c.t.Fatal("mount on the host: no end")
	}
	return mnt
}
