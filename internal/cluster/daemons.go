package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Env is what the daemons and mounts of one process share.
type Env struct {
	Net  msgr.Network
	Conf *conf.Config
	Log  zerolog.Logger
}

// Daemon is a running one.
type Daemon struct {
	Name, Role string
	Addr       string
	Failed     <-chan error // it ended by itself; nil: it never does
	close      func() error
	dir        *DataDir
}

// Close stops the daemon cleanly and gives its directory up.
func (d *Daemon) Close() error {
	err := d.close()
	if d.dir != nil {
		d.dir.Close()
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", d.Name, err)
	}
	return nil
}

// instance draws a new life of a process.
func instance(kind wire.Kind, num uint32) wire.Instance {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // documented never to fail
	}
	return wire.Instance{Kind: kind, Num: num, Nonce: binary.LittleEndian.Uint64(b[:])}
}

// NewClusterID draws the uuid of a cluster.
func NewClusterID() (u wire.UUID) {
	if _, err := rand.Read(u[:]); err != nil {
		panic(err)
	}
	return u
}

// listen opens a daemon's port, and explains what may be in its way.
func (e *Env) listen(name, addr, setting string) (net.Listener, error) {
	l, err := e.Net.Listen(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: the address %s is in use by another process: stop that one (`ss -ltnp` shows it), or choose another %s", name, addr, setting)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s: %s is no address of this machine: correct %s", name, addr, setting)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: this user may not listen on %s: choose a port above 1023 in %s", name, addr, setting)
	case err != nil:
		return nil, fmt.Errorf("%s: listen on %s: %w", name, addr, err)
	}
	return l, nil
}

// start is what the three kinds of daemon have in common: the directory and its cleanup.
func (e *Env) start(ctx context.Context, dir, role, name string, run func(d *Daemon) error) (*Daemon, error) {
	data, err := Claim(dir, e.Conf.Cluster, role, name)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Name: name, Role: role, dir: data}
	if err := run(d); err != nil {
		data.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return d, nil
}

var errNotBuilt = errors.New("this daemon is not part of the program yet")

// StartMon starts monitor `name` on its directory; an empty one makes the cluster.
func (e *Env) StartMon(ctx context.Context, name, dir, listen string) (*Daemon, error) {
	return e.start(ctx, dir, "mon", "mon."+name, func(d *Daemon) error { return errNotBuilt })
}

// StartOSD starts OSD `id` on its directory.
func (e *Env) StartOSD(ctx context.Context, id int, dir, listen string) (*Daemon, error) {
	name := fmt.Sprintf("osd.%d", id)
	return e.start(ctx, dir, "osd", name, func(d *Daemon) error { return errNotBuilt })
}

// StartMDS starts a metadata daemon; the monitors give it a rank.
func (e *Env) StartMDS(ctx context.Context, name, dir, listen string) (*Daemon, error) {
	return e.start(ctx, dir, "mds", "mds."+name, func(d *Daemon) error { return errNotBuilt })
}
