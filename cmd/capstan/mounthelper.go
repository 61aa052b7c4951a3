package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
)

// helperNames are what mount(8) looks for in /sbin: `mount -t fuse.capstan` the first,
// `mount -t capstan` the second. Links to this program under these names are the helper.
var helperNames = []string{"mount.fuse.capstan", "mount.capstan"}

func isMountHelper(argv0 string) bool { return slices.Contains(helperNames, filepath.Base(argv0)) }

// Exit statuses of a helper, as in mount(8).
const (
	mountOK    = 0
	mountUsage = 1
	mountFails = 32
)

// helperArgs is what mount(8) hands to a helper: SOURCE DIR [-sfnv] [-o OPTIONS] [-t TYPE].
type helperArgs struct {
	source, dir string
	options     []string
	fake        bool // -f: everything but the mount
	sloppy      bool // -s: pass over options that nobody knows
	verbose     bool
}

func parseHelperArgs(args []string) (h helperArgs, err error) {
	var words []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			words = append(words, a)
			continue
		}
		for j := 1; j < len(a); j++ {
			switch a[j] {
			case 'f':
				h.fake = true
			case 's':
				h.sloppy = true
			case 'v':
				h.verbose = true
			case 'n': // there is no /etc/mtab to write to
			case 'o', 't':
				val := a[j+1:]
				if val == "" {
					if i++; i == len(args) {
						return h, fmt.Errorf("-%c wants a value", a[j])
					}
					val = args[i]
				}
				if a[j] == 'o' {
					h.options = append(h.options, val)
				}
				j = len(a)
			default:
				return h, fmt.Errorf("unknown flag -%c", a[j])
			}
		}
	}
	if len(words) != 2 {
		return h, fmt.Errorf("usage: %s SOURCE DIR [-sfnv] [-o OPTIONS]", helperNames[0])
	}
	h.source, h.dir = words[0], words[1]
	return h, nil
}

// sourceConf reads a source: CONF[:/SUBDIR], where CONF is a configuration file or, as in
// "capstan", a name that no file has, for the one that is found without.
func sourceConf(source string) (confPath, subdir string, err error) {
	name, sub, has := strings.Cut(source, ":/")
	if has {
		if subdir, err = cluster.CleanSubdir(sub); err != nil {
			return "", "", err
		}
	}
	if fi, err := os.Stat(name); strings.Contains(name, "/") || err == nil && fi.Mode().IsRegular() {
		return name, subdir, nil
	}
	return "", subdir, nil
}

// mountHelper is mount(8)'s helper; it returns when the file system is there, with mount(8)'s
// statuses.
func mountHelper(args []string) int {
	say := func(err error) { fmt.Fprintf(os.Stderr, "mount.capstan: %v\n", err) }
	h, err := parseHelperArgs(args)
	if err != nil {
		say(err)
		return mountUsage
	}
	o, err := cluster.ParseMountOptions(strings.Join(h.options, ","), h.sloppy)
	if err != nil {
		say(err)
		return mountUsage
	}
	path, sub, err := sourceConf(h.source)
	if err != nil {
		say(err)
		return mountUsage
	}
	if o.Conf == "" {
		o.Conf = path
	}
	if o.Subdir == "" {
		o.Subdir = sub
	} else if sub != "" && sub != o.Subdir {
		say(fmt.Errorf("the source says sub-directory /%s, subdir= says /%s", sub, o.Subdir))
		return mountUsage
	}
	f := confFlags{path: o.Conf}
	c, err := f.load()
	if err == nil {
		err = mountSpawn(&f, c, h.dir, h.source, o, h.fake)
	}
	if err != nil {
		say(err)
		return mountFails
	}
	if h.verbose {
		fmt.Printf("%s mounted on %s\n", h.source, h.dir)
	}
	return mountOK
}

func mountHelperCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "mount-helper", Short: "Install the helper of mount(8) and /etc/fstab: links to this program in /sbin", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			for _, n := range helperNames {
				p := filepath.Join(dir, n)
				if to, err := os.Readlink(p); err == nil && to == exe {
					continue
				}
				if fi, err := os.Lstat(p); err == nil && fi.Mode()&fs.ModeSymlink == 0 {
					return fmt.Errorf("%s is there already and no link: move it away first", p)
				}
				if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				if err := os.Symlink(exe, p); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s\n", p, exe)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "now: mount -t fuse.capstan %s /mnt, and in /etc/fstab:\n%s /mnt fuse.capstan _netdev,allow_other 0 0\n", conf.SystemFile, conf.SystemFile)
			return nil
		}}
	cmd.Flags().StringVar(&dir, "dir", "/sbin", "`directory` where mount(8) looks for helpers")
	return cmd
}
