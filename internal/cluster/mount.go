package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// MountOptions are those of -o.
type MountOptions struct {
	ReadOnly   bool
	AllowOther bool
	Debug      bool
	FSName     string // what `mount` and df show
	Extra      []string
}

// passed are kernel options that FUSE takes as they are; ignored are those that fstab and
// mount(8) add and that mean nothing here.
var (
	passed  = map[string]bool{"nosuid": true, "suid": true, "nodev": true, "dev": true, "noexec": true, "exec": true, "noatime": true, "atime": true, "sync": true, "dirsync": true}
	ignored = map[string]bool{"rw": true, "_netdev": true, "auto": true, "noauto": true, "defaults": true, "user": true, "nofail": true, "default_permissions": true, "relatime": true}
)

// ParseMountOptions reads "allow_other,ro,…".
func ParseMountOptions(s string) (o MountOptions, err error) {
	for opt := range strings.SplitSeq(s, ",") {
		key, val, _ := strings.Cut(opt, "=")
		switch {
		case key == "" || ignored[key] || strings.HasPrefix(key, "x-"):
		case key == "ro":
			o.ReadOnly = true
		case key == "allow_other":
			o.AllowOther = true
		case key == "debug":
			o.Debug = true
		case key == "fsname":
			o.FSName = val
		case passed[key]:
			o.Extra = append(o.Extra, opt)
		default:
			return o, fmt.Errorf("mount option %q is not known; there are ro, allow_other, fsname=NAME, debug, nosuid, nodev, noexec, noatime, sync, dirsync", opt)
		}
	}
	return o, nil
}

// Mounted is a mount served by this process.
type Mounted struct {
	Point string
	Done  <-chan struct{} // unmounted, by us or by somebody else
	close func(ctx context.Context) error
}

// Unmount writes everything back, ends the session and takes the mount away.
func (m *Mounted) Unmount(ctx context.Context) error { return m.close(ctx) }

// Mount dials the cluster, opens a session and mounts it at dir.
func (e *Env) Mount(ctx context.Context, dir string, opt MountOptions) (*Mounted, error) {
	if err := CheckMountpoint(dir); err != nil {
		return nil, err
	}
	if err := CheckFUSE(); err != nil {
		return nil, err
	}
	return nil, errors.New("mounts are not part of the program yet")
}

// Probe creates a file, fsyncs it, reads it back and removes it, through the client library.
func (e *Env) Probe(ctx context.Context) error {
	return errors.New("mounts are not part of the program yet")
}
