package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/internal/admin"
)

// A mount has a control socket as a daemon has an admin socket. It is found by the number of
// the mounted device, which stat of any file on the mount tells.

// controlDir holds the control sockets of this user's mounts.
func controlDir() string {
	if os.Geteuid() == 0 {
		return "/run/capstan"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "capstan")
	}
	return fmt.Sprintf("/tmp/capstan-%d", os.Geteuid())
}

func controlPath(dev string) string {
	return filepath.Join(controlDir(), "mount-"+strings.ReplaceAll(dev, ":", "-")+".sock")
}

// ownDir makes a directory that only this user may look into, or refuses one that somebody
// else has put there.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s belongs to somebody else or can be written by others: remove it", dir)
	}
	return nil
}

// syncLimit bounds one `capstan sync`; what cannot be made durable by then is an error.
const syncLimit = 60 * time.Second

func (m *Mounted) serveControl() (*admin.Server, error) {
	at, err := mountAt(m.Point)
	if err != nil {
		return nil, err
	}
	if at == nil {
		return nil, fmt.Errorf("%s is not mounted any more", m.Point)
	}
	if err := ownDir(controlDir()); err != nil {
		return nil, err
	}
	reg := admin.NewRegistry()
	reg.Register("sync", func(json.RawMessage) (any, error) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), syncLimit)
		defer cancel()
		if err := m.client.Sync(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Point, err)
		}
		return map[string]any{"mountpoint": m.Point, "ms": float64(time.Since(began).Microseconds()) / 1000}, nil
	})
	reg.Register("status", func(json.RawMessage) (any, error) {
		om, fm := m.mons.OSDMap(), m.mons.FSMap()
		return map[string]any{"mountpoint": m.Point, "pid": os.Getpid(), "cluster": om.Cluster.String(), "osd_epoch": om.Epoch,
			"fs_epoch": fm.Epoch, "kernel_features": strings.Fields(m.server.Negotiated()),
			"client": m.client.Instance().String(), "metrics": m.env.Metrics.Addr(), "data": m.client.Stats(), "local_locks": m.LocalLocks()}, nil
	})
	reg.Register("waits", func(json.RawMessage) (any, error) { return m.client.Waits(), nil })
	reg.Register("slow", func(json.RawMessage) (any, error) { return m.client.Slow(), nil })
	return admin.Serve(controlPath(at.Dev), reg)
}

// Sync makes everything durable that was written through the mount that path lies on, before
// it returns: first the kernel hands its dirty pages over, then the client's buffers go.
func Sync(ctx context.Context, path string) (json.RawMessage, error) {
	m, err := MountOf(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = unix.Syncfs(int(f.Fd()))
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("syncfs %s: %w", path, err)
	}
	return admin.Call(ctx, controlPath(m.Dev), "sync", nil)
}

// MountControl is the control socket of the mount that path lies on.
func MountControl(path string) (string, error) {
	m, err := MountOf(path)
	if err != nil {
		return "", err
	}
	return controlPath(m.Dev), nil
}

// MountOf finds our mount that path lies on, by name only: no file system is asked.
func MountOf(path string) (*MountInfo, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	all, err := Mounts()
	if err != nil {
		return nil, err
	}
	var best *MountInfo
	for i := range all {
		m := &all[i]
		if (abs == m.Point || m.Point == "/" || strings.HasPrefix(abs, m.Point+"/")) && (best == nil || len(m.Point) >= len(best.Point)) {
			best = m
		}
	}
	if best == nil || !best.ours() {
		return nil, fmt.Errorf("%s lies on no Capstan mount (symbolic links to one are not followed)", path)
	}
	return best, nil
}
