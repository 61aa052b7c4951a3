package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
)

func demoCmd() *cobra.Command {
	var over conf.Overrides
	var dir string
	cmd := &cobra.Command{Use: "demo [MOUNTPOINT]", Short: "Run a whole cluster with a mount in this process", Args: cobra.MaximumNArgs(1),
		Long: "Starts a monitor, three OSDs, an MDS and a mount in one process, over memory. What you write is kept in\nthe data directory: started again, everything is there. Ctrl-C stops it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			mnt := filepath.Join(dir, "mnt")
			if len(args) == 1 {
				mnt = args[0]
			}
			return demo(cmd, dir, mnt, &over)
		}}
	cmd.Flags().StringVar(&dir, "dir", cluster.DemoDir(), "data `directory`")
	over.Flags(cmd.Flags(), "osds", "osd_size", "log_level", "metrics_listen", "slow_op")
	later(cmd, "ranks", 1, "several ranks")
	later(cmd, "standbys", 0, "standbys")
	later(cmd, "mons", 1, "several monitors")
	return cmd
}

func demo(cmd *cobra.Command, dir, mnt string, over *conf.Overrides) error {
	ctx, began := cmd.Context(), time.Now()
	// A reader of our output that goes away (`capstan demo | head`) must not take us away: the
	// mount would stay behind, dead.
	signal.Ignore(syscall.SIGPIPE)
	c := conf.Default()
	if err := over.Apply(c); err != nil {
		return err
	}
	if err := cluster.CheckFUSE(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var failed error
	l, err := startDemo(ctx, dir, mnt, c)
	if err != nil {
		return err
	}
	m, err := l.Mount(ctx, mnt, "fsname=capstan-demo")
	if err == nil {
		printDemo(cmd, l, dir, mnt, time.Since(began))
		cluster.TellParent(mnt, nil)
		select {
		case <-ctx.Done():
			fmt.Fprintln(cmd.OutOrStdout(), "\nstopping …")
		case <-m.Done:
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s was unmounted, stopping …\n", mnt)
		case failed = <-l.Failed():
		}
	} else if ctx.Err() == nil {
		err = fmt.Errorf("%w\n%s says why; if it names an unknown record version, the directory is of another capstan: give --dir, or remove %s", err, filepath.Join(dir, "demo.log"), dir)
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	notes, cerr := l.Close(stopCtx)
	for _, n := range notes {
		fmt.Fprintln(cmd.OutOrStdout(), n)
	}
	return errors.Join(err, failed, cerr)
}

// startDemo starts the daemons; their log goes to a file, so that the screen stays readable.
func startDemo(ctx context.Context, dir, mnt string, c *conf.Config) (*cluster.Local, error) {
	l, err := cluster.OpenLocal(dir, c)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "demo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		l.Env.Log, err = cluster.Logger(c.LogLevel, f)
	}
	if err == nil { // one that was killed could not unmount
		_, err = cluster.ClearDead(mnt)
	}
	if err == nil {
		err = os.MkdirAll(mnt, 0o755)
		if errors.Is(err, os.ErrExist) { // the check says it better
			err = nil
		}
	}
	if err == nil {
		err = cluster.CheckMountpoint(mnt)
	}
	if err == nil {
		err = l.Start(ctx)
	}
	if err != nil {
		_, cerr := l.Close(context.WithoutCancel(ctx))
		return nil, errors.Join(err, cerr)
	}
	return l, nil
}

func printDemo(cmd *cobra.Command, l *cluster.Local, dir, mnt string, took time.Duration) {
	var names []string
	for _, d := range l.Daemons() {
		names = append(names, d.Name)
	}
	fmt.Fprintf(cmd.OutOrStdout(), `Capstan is up after %.1f s: %s, %d replicas of everything, all in this process.

  mounted on   %s
  data in      %s   (log: demo.log)

Three things to try in another terminal:

  cp -r /usr/share/doc %[4]s/ && du -sh %[4]s/doc
  ls -l %[5]s/osd.*            what the three OSDs have stored of it
  kill -9 %[6]d; capstan demo   nothing that was fsynced is lost

Ctrl-C stops it; the next `+"`capstan demo`"+` finds everything again.
`, took.Seconds(), strings.Join(names, ", "), l.Env.Conf.PoolSize, mnt, dir, os.Getpid())
}
