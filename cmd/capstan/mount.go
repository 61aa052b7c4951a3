package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/msgr"
)

// mountLimit bounds how long a mount in the background may take to come up. A cluster that is
// recovering answers later; then -f shows what it waits for.
const mountLimit = 60 * time.Second

func mountCmd() *cobra.Command {
	var f confFlags
	var options, logFile, subdir string
	var foreground bool
	cmd := &cobra.Command{Use: "mount MOUNTPOINT", Short: "Mount the volume, in the background", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := cluster.ParseMountOptions(options, false)
			if err != nil {
				return err
			}
			if subdir != "" {
				if o.Subdir, err = cluster.CleanSubdir(subdir); err != nil {
					return err
				}
			}
			if f.path == "" {
				f.path = o.Conf
			}
			if logFile != "" {
				o.Log = logFile
			}
			c, err := f.load()
			if err != nil {
				return err
			}
			mnt, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if foreground {
				return mountHere(cmd.Context(), c, mnt, o)
			}
			err = mountSpawn(&f, c, mnt, "", o, false)
			sayWrong(cmd, c)
			return err
		}}
	f.add(cmd, "log_level", "dirty_expire", "dirty_max", "read_spread", "caps_wanted_delay", "metrics_listen", "slow_op")
	cmd.Flags().StringVarP(&options, "options", "o", "", "mount `options`: ro, allow_other, subdir=DIR, … (docs/mount.md)")
	cmd.Flags().BoolVarP(&foreground, "foreground", "f", false, "stay in the foreground")
	cmd.Flags().StringVar(&subdir, "subdir", "", "mount this `directory` of the volume instead of its root")
	cmd.Flags().StringVar(&logFile, "log", "", "log `file` of a mount in the background (else log/ beside the configuration, if it exists)")
	return cmd
}

// mountSpawn mounts in a process of its own and returns when the mount is there. source, when
// not empty, is shown as what is mounted. dry stops short of mounting.
func mountSpawn(f *confFlags, c *conf.Config, mnt, source string, o cluster.MountOptions, dry bool) error {
	// Mistakes that can be seen from here are told without a second process.
	mnt, err := filepath.Abs(mnt)
	if err != nil {
		return err
	}
	if err := cluster.CheckMountpoint(mnt); err != nil {
		return err
	}
	if err := cluster.CheckFUSE(); err != nil {
		return err
	}
	path, err := filepath.Abs(conf.Find(f.path))
	if err != nil || dry {
		return err
	}
	if o.Log == "" {
		o.Log = defaultLog(path)
	}
	kernel := o.Kernel
	if source != "" && !strings.Contains(source, ",") {
		kernel = strings.TrimPrefix(kernel+",fsname="+source, ",")
	}
	again := []string{"mount", "-f", "--conf", path, "-o", kernel}
	if o.Subdir != "" {
		again = append(again, "--subdir", o.Subdir)
	}
	again = append(again, f.over.Args()...)
	_, _, err = cluster.Spawn(o.Log, mountLimit, append(again, mnt)...)
	return err
}

// defaultLog is a file in the log directory beside a dev cluster's configuration, or nowhere.
func defaultLog(confPath string) string {
	dir := filepath.Join(filepath.Dir(confPath), "log")
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return filepath.Join(dir, "mount-"+strconv.Itoa(os.Getpid())+".log")
	}
	return os.DevNull
}

func mountHere(ctx context.Context, c *conf.Config, mnt string, o cluster.MountOptions) error {
	log, err := cluster.Logger(c.LogLevel, os.Stderr)
	if err != nil {
		return err
	}
	env := &cluster.Env{Net: msgr.TCP(), Conf: c, Log: log}
	env.ServeMetrics()
	m, err := env.MountSubdir(ctx, mnt, o.Subdir, o.Kernel)
	if err != nil {
		return err
	}
	cluster.WarnWrong(log, c)
	log.Info().Str("mountpoint", mnt).Int("pid", os.Getpid()).Msg("mounted")
	cluster.TellParent(mnt, nil)
	select {
	case <-ctx.Done():
	case <-m.Done:
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	note, err := m.Unmount(stopCtx)
	if note != "" {
		log.Warn().Msg(note)
	}
	return err
}

func umountCmd() *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{Use: "umount MOUNTPOINT", Short: "Take a mount away", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return cluster.Unmount(args[0], lazy) }}
	cmd.Flags().BoolVar(&lazy, "lazy", false, "detach now, end when the last open file is closed")
	return cmd
}
