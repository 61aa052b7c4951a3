package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/wire"
)

// MetaFile names the file that says whose a data directory is.
const MetaFile = "capstan.meta"

// Format is the version of data directories that this program writes and reads.
const Format = 1

// Meta is the content of a MetaFile.
type Meta struct {
	Cluster string `toml:"cluster"`
	Role    string `toml:"role"` // mon, osd, mds, demo, dev
	Name    string `toml:"name"` // osd.0
	Format  int    `toml:"format"`
}

// DataDir is a directory that this process has claimed; nobody else may until Close.
type DataDir struct {
	Path string
	Meta Meta
	lock *os.File
}

// ReadMeta reads the meta file of dir; fs.ErrNotExist when there is none.
func ReadMeta(dir string) (Meta, error) {
	var m Meta
	path := filepath.Join(dir, MetaFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := toml.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is damaged (%w): restore it, or empty the directory and let the daemon be rebuilt from its peers", path, err)
	}
	if m.Format > Format {
		return m, fmt.Errorf("%s has data format %d, this program knows up to %d: use the newer capstan that wrote it", dir, m.Format, Format)
	}
	if m.Format < 1 {
		return m, fmt.Errorf("%s says format %d: it is damaged", path, m.Format)
	}
	return m, nil
}

// Claim opens dir for one daemon, and makes it when it does not exist or is empty. A zero
// cluster takes what the directory says.
func Claim(dir string, cluster wire.UUID, role, name string) (*DataDir, error) {
	if dir == "" {
		return nil, fmt.Errorf("%s needs a data directory: give --data DIR or set %s_data", name, role)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory of %s: %w", name, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	d := &DataDir{Path: dir, lock: lock}
	if err := d.load(cluster, role, name); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// lockDir takes the directory for this process; the kernel gives it back when we die.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	// A killed process is a zombie a moment before the last of its threads lets go.
	for range 100 {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another capstan process: stop that one first", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

func (d *DataDir) load(cluster wire.UUID, role, name string) error {
	m, err := ReadMeta(d.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := mustBeEmpty(d.Path); err != nil {
			return err
		}
		if cluster.IsZero() {
			return fmt.Errorf("%s is empty and no cluster is named: start %s with a configuration that has the cluster's uuid", d.Path, name)
		}
		d.Meta = Meta{Cluster: cluster.String(), Role: role, Name: name, Format: Format}
		return writeMeta(d.Path, d.Meta)
	case err != nil:
		return err
	case !cluster.IsZero() && m.Cluster != cluster.String():
		return fmt.Errorf("%s belongs to cluster %s, not to %s: choose another directory, or the configuration of that cluster", d.Path, m.Cluster, cluster)
	case m.Role != role || m.Name != name:
		return fmt.Errorf("%s belongs to %s (%s), not to %s: choose another directory", d.Path, m.Name, m.Role, name)
	}
	d.Meta = m
	return nil
}

// mustBeEmpty guards somebody's home directory against a slip of the keyboard.
func mustBeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && !strings.HasSuffix(e.Name(), ".new") {
			return fmt.Errorf("%s is not empty and is no data directory of Capstan (no %s): choose an empty one", dir, MetaFile)
		}
	}
	return nil
}

func writeMeta(dir string, m Meta) error {
	b, err := toml.Marshal(m)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, MetaFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// File is a path in the directory.
func (d *DataDir) File(name string) string { return filepath.Join(d.Path, name) }

// Close gives the directory up.
func (d *DataDir) Close() { d.lock.Close() }
