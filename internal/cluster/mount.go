package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/fuse"
	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/monc"
	"github.com/capstan-fs/capstan/wire"
)

// Mounted is a mount served by this process.
type Mounted struct {
	Point  string
	Done   <-chan struct{} // unmounted, by us or by somebody else
	server *fuse.Server
	client *client.Client
	mons   *monc.Client
	env    *Env

	dev     string        // major:minor; empty: unknown
	control *admin.Server // nil: no place for its socket
}

// dialClient connects a client of its own: instance, session and caches.
func (e *Env) dialClient(ctx context.Context, what string) (*client.Client, *monc.Client, error) {
	self := instance(wire.KindClient, 0)
	mons, err := e.dialMons(ctx, self)
	if err != nil {
		return nil, nil, err
	}
	host, _ := os.Hostname()
	// Waiting for a damaged rank would be in vain: it stays so until somebody mends it.
	open, giveUp := context.WithCancelCause(ctx)
	var opened atomic.Bool
	mons.OnMaps(func(_ *clustermap.OSDMap, f *clustermap.FSMap) {
		for r, in := range f.Ranks {
			if in.State == clustermap.RankDamaged && !opened.Load() {
				giveUp(fmt.Errorf("rank %d is damaged", r))
			}
		}
	})
	cl, err := client.New(open, client.Config{
		Cluster: client.NewCluster(client.ClusterConfig{Net: e.Net, Maps: mons, Cluster: mons.OSDMap().Cluster, Log: e.Log, SpreadReads: e.Conf.ReadSpread}),
		Host:    fmt.Sprintf("%s:%s pid %d", host, what, os.Getpid()), Log: e.Log, Wrong: e.wrong(),
		DirtyExpire: e.Conf.DirtyExpire, DirtyMax: dirtyMax(e.Conf), WantedDelay: e.Conf.WantedDelay,
	})
	opened.Store(true)
	if err == nil {
		cl.SetSlow(e.Conf.SlowOp)
	} else {
		if ctx.Err() == nil && open.Err() != nil {
			err = context.Cause(open)
		}
		waits := statusOf(mons.OSDMap(), mons.FSMap()).Health
		mons.Close()
		giveUp(nil)
		return nil, nil, fmt.Errorf("no session with the MDS: %w (the monitors say: %s; `capstan status` says what helps)", err, waits)
	}
	return cl, mons, nil
}

// dirtyMax is what client.Config calls it: 0 stands for its default there.
func dirtyMax(c *conf.Config) int64 {
	if c.DirtyMax == 0 {
		return -1
	}
	return int64(c.DirtyMax)
}

// Mount dials the cluster, opens a session and mounts it at dir. Options are those of -o.
func (e *Env) Mount(ctx context.Context, dir string, options ...string) (*Mounted, error) {
	return e.MountSubdir(ctx, dir, "", options...)
}

// MountSubdir mounts the directory subdir of the volume at dir, "" being its root.
func (e *Env) MountSubdir(ctx context.Context, dir, subdir string, options ...string) (*Mounted, error) {
	if err := CheckMountpoint(dir); err != nil {
		return nil, err
	}
	if err := CheckFUSE(); err != nil {
		return nil, err
	}
	cl, mons, err := e.dialClient(ctx, dir)
	if err != nil {
		return nil, err
	}
	if subdir != "" {
		if err := cl.SetRoot(userOf(ctx), subdir); err != nil {
			_ = cl.Close(ctx)
			mons.Close()
			return nil, fmt.Errorf("sub-directory /%s of the volume: %w", subdir, err)
		}
	}
	s, err := fuse.Mount(ctx, fuse.Config{Client: cl, Mountpoint: dir, Options: options, Log: e.Log, Wrong: e.wrong()})
	if err != nil {
		_ = cl.Close(ctx)
		mons.Close()
		return nil, err
	}
	m := &Mounted{Point: dir, Done: s.Done(), server: s, client: cl, mons: mons, env: e}
	e.Metrics.Add("mount:"+dir, mountMetrics(cl))
	if at, err := mountAt(dir); err == nil && at != nil {
		m.dev = at.Dev
		go m.watchLocalLocks(e.Log.With().Str("mountpoint", dir).Logger())
	}
	if m.control, err = m.serveControl(); err != nil {
		e.Log.Warn().Err(err).Msg("no control socket: `capstan sync` will not find this mount")
	}
	return m, nil
}

// Unmount takes the mount away, writes everything back and ends the session. A mount that is
// in use is detached, which is no error: note says so, and who uses it. Its files answer
// errors from then on.
func (m *Mounted) Unmount(ctx context.Context) (note string, err error) {
	if err = m.server.Unmount(); err != nil {
		used := usedBy(m.Point)
		if derr := m.server.Detach(); derr == nil {
			err, note = nil, fmt.Sprintf("%s was busy%s: it is detached, and what is open there fails from now on", m.Point, used)
		}
	}
	m.env.Metrics.Remove("mount:" + m.Point)
	m.control.Close()
	err = errors.Join(err, m.client.Close(ctx))
	m.mons.Close()
	return note, err
}

// Probe creates a file, fsyncs it, reads it back and removes it, through the client library.
func (e *Env) Probe(ctx context.Context) error {
	cl, mons, err := e.dialClient(ctx, "probe")
	if err != nil {
		return err
	}
	defer mons.Close()
	err = probe(cl, userOf(ctx))
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	closeCtx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	return errors.Join(err, cl.Close(closeCtx))
}

// userOf is us as a caller, who gives up when ctx ends.
func userOf(ctx context.Context) *client.Caller {
	return &client.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Cancel: ctx.Done(), Killed: func(uint32) bool { return true }}
}

func probe(cl *client.Client, k *client.Caller) (err error) {
	name := fmt.Sprintf(".capstan-probe-%d-%x", os.Getpid(), time.Now().UnixNano())
	text := []byte("written, synced and read back\n")
	step := func(what string, e error) {
		if err == nil && e != nil {
			err = fmt.Errorf("probe file: %s: %w", what, e)
		}
	}
	_, f, e := cl.Create(k, wire.RootIno, name, 0o600, 0, uint32(os.O_RDWR|os.O_CREATE|os.O_EXCL))
	if step("create", e); err != nil {
		return err
	}
	_, e = cl.Write(k, f, text, 0, client.WriteFlags{})
	step("write", e)
	step("fsync", cl.Fsync(k, f))
	got, e := cl.Read(k, f, 0, len(text)+1)
	step("read", e)
	if err == nil && !bytes.Equal(got, text) {
		err = fmt.Errorf("probe file: wrote %q, read %q", text, got)
	}
	cl.Release(f)
	step("unlink", cl.Unlink(k, wire.RootIno, name))
	return err
}
