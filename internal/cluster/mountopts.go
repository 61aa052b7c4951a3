package cluster

import (
	"fmt"
	"path"
	"strings"

	"github.com/capstan-fs/capstan/fuse"
)

// MountOptions is what a list after -o says to us; Kernel is the rest, for the mount itself.
type MountOptions struct {
	Conf   string // conf=FILE
	Log    string // log=FILE, of a mount in the background
	Subdir string // subdir=PATH: this directory of the volume is mounted, not its root
	Kernel string
}

// ParseMountOptions splits a list. Words that only mount(8), fstab and systemd read are
// passed over, a word that nobody knows is an error, or with sloppy (mount -s) passed over too.
func ParseMountOptions(list string, sloppy bool) (o MountOptions, err error) {
	var rest []string
	for _, s := range strings.Split(list, ",") {
		key, val, has := strings.Cut(s, "=")
		switch {
		case key == "conf" && has:
			o.Conf = val
		case key == "log" && has:
			o.Log = val
		case key == "subdir" && has:
			if o.Subdir, err = CleanSubdir(val); err != nil {
				return o, err
			}
		case s == "" || fstabWord(key):
		default:
			if err := fuse.CheckOptions(s); err != nil {
				if sloppy {
					continue
				}
				return o, err
			}
			rest = append(rest, s)
		}
	}
	o.Kernel = strings.Join(rest, ",")
	return o, nil
}

// fstabWord reports whether an option is for mount(8) and its friends alone.
func fstabWord(key string) bool {
	switch key {
	case "auto", "noauto", "nofail", "fail", "user", "nouser", "users", "owner", "group", "comment", "_netdev", "loud", "silent", "async":
		return true
	}
	return strings.HasPrefix(key, "x-") || strings.HasPrefix(key, "X-")
}

// CleanSubdir is the directory of the volume that p names, from its root; "" is the root. No
// p leads out of the volume, so ".." is refused, not guessed at.
func CleanSubdir(p string) (string, error) {
	for _, name := range strings.Split(p, "/") {
		if name == ".." {
			return "", fmt.Errorf("sub-directory %q: .. has no place in it", p)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+p), "/"), nil
}
