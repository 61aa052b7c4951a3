package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/msgr"

	"github.com/rs/zerolog"
)

// Local is a cluster in this process.
type Local struct {
	Env     *Env
	Dir     string
	claim   *DataDir
	daemons []*Daemon // in the order of their start
	mounts  []*Mounted
	failed  chan error
}

// OpenLocal claims dir for a cluster in this process, over memory.
func OpenLocal(dir string, c *conf.Config) (*Local, error) {
	var err error
	if c.Cluster, err = clusterOf(dir, c); err != nil {
		return nil, err
	}
	claim, err := Claim(dir, c.Cluster, "demo", "demo")
	if err != nil {
		return nil, err
	}
	c.MonAddrs = []string{"mem:mon.a"}
	c.PoolSize = min(c.PoolSize, c.OSDs)
	// The one client lives and dies with its rank: after a kill the next demo waits for nobody
	// who may live on, so it should not wait long.
	c.SessionValidity = min(c.SessionValidity, 5*time.Second)
	env := &Env{Net: msgr.NewMemory(), Conf: c, Log: zerolog.Nop()}
	return &Local{Env: env, Dir: dir, claim: claim, failed: make(chan error, 1)}, nil
}

// Start starts a monitor, then Conf.OSDs OSDs and an MDS together.
func (l *Local) Start(ctx context.Context) error {
	l.Env.ServeMetrics()
	mon, err := l.Env.StartMon(ctx, "a", filepath.Join(l.Dir, "mon.a"), "mem:mon.a")
	if err != nil {
		return err
	}
	l.daemons = append(l.daemons, mon)
	others := make([]*Daemon, l.Env.Conf.OSDs+1)
	var g errgroup.Group
	for i := range l.Env.Conf.OSDs {
		g.Go(func() (err error) {
			name := fmt.Sprintf("osd.%d", i)
			others[i], err = l.Env.StartOSD(ctx, i, filepath.Join(l.Dir, name), "mem:"+name)
			return err
		})
	}
	g.Go(func() (err error) {
		others[len(others)-1], err = l.Env.StartMDS(ctx, "a", filepath.Join(l.Dir, "mds.a"), "mem:mds.a")
		return err
	})
	err = g.Wait()
	for _, d := range others {
		if d != nil {
			l.daemons = append(l.daemons, d)
		}
	}
	for _, d := range l.daemons {
		if d.Failed != nil {
			go l.watch(d)
		}
	}
	return err
}

// watch passes on that a daemon ended by itself; it ends with the daemon.
func (l *Local) watch(d *Daemon) {
	if err, ok := <-d.Failed; ok && err != nil {
		select {
		case l.failed <- fmt.Errorf("%s: %w", d.Name, err):
		default:
		}
	}
}

// Failed tells when a daemon has ended by itself.
func (l *Local) Failed() <-chan error { return l.failed }

// clusterOf is the cluster whose directory dir is, or the configured one, or a new one.
func clusterOf(dir string, c *conf.Config) (id [16]byte, err error) {
	m, err := ReadMeta(dir)
	switch {
	case err == nil && c.Cluster.IsZero():
		return conf.ParseUUID(m.Cluster)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return id, err
	case c.Cluster.IsZero():
		return NewClusterID(), nil
	}
	return c.Cluster, nil
}

// Mount mounts the cluster at dir; Close takes it away.
func (l *Local) Mount(ctx context.Context, dir string, options ...string) (*Mounted, error) {
	m, err := l.Env.Mount(ctx, dir, options...)
	if err == nil {
		l.mounts = append(l.mounts, m)
	}
	return m, err
}

// Daemons lists what runs.
func (l *Local) Daemons() []*Daemon { return l.daemons }

// Close unmounts and stops everything: mounts first, then what serves them. Notes are for
// the user, and no errors.
func (l *Local) Close(ctx context.Context) (notes []string, err error) {
	var errs []error
	for _, m := range l.mounts {
		note, err := m.Unmount(ctx)
		errs = append(errs, err)
		if note != "" {
			notes = append(notes, note)
		}
	}
	for i := len(l.daemons) - 1; i >= 0; i-- {
		errs = append(errs, l.daemons[i].Close())
	}
	errs = append(errs, l.Env.Metrics.Close())
	l.claim.Close()
	return notes, errors.Join(errs...)
}

// DemoDir is where `capstan demo` keeps its cluster unless told otherwise.
func DemoDir() string {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "capstan-demo")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "capstan-demo")
	}
	return fmt.Sprintf("/var/tmp/capstan-demo-%d", os.Getuid())
}
