package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
)

// where finds the daemons of this machine: --dir, else beside the configuration file.
type where struct {
	dir, conf string
	json      bool
}

func (w *where) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.dir, "dir", "", "`directory` of a dev or demo cluster (else the one that the configuration lies in)")
	cmd.Flags().StringVar(&w.conf, "conf", "", "configuration `file` (else $CAPSTAN_CONF, else "+conf.SystemFile+")")
	cmd.Flags().BoolVar(&w.json, "json", false, "as JSON")
}

func (w *where) find() string {
	if w.dir != "" {
		return w.dir
	}
	return filepath.Dir(conf.Find(w.conf))
}

// rank asks the rank's daemon.
func (w *where) rank(cmd *cobra.Command, what string, args ...string) (json.RawMessage, error) {
	name, err := cluster.RankDaemon(cmd.Context(), w.find())
	if err != nil {
		return nil, err
	}
	return cluster.CallDaemon(cmd.Context(), w.find(), name, what, args)
}

func sessionsCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "sessions", Short: "List the clients of the rank: where they are, what they hold, who is silent", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := w.rank(cmd, "sessions")
			if err != nil {
				return err
			}
			return show(cmd, v, w.json)
		}}
	w.add(cmd)
	return cmd
}

const pathHelp = "PATH lies on a mount of this machine, or is a path in the volume; INO is an inode number (as `ls -i` or `stat` print it, or 0x1a)."

func capsCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "caps PATH|INO", Short: "Show which client may cache what of a file or directory", Args: cobra.ExactArgs(1), Long: "Shows which client holds which caps on an inode, what it wants, and what it was asked to give back.\n" + pathHelp,
		RunE: func(cmd *cobra.Command, args []string) error { return w.ofInode(cmd, "caps", args[0]) }}
	w.add(cmd)
	return cmd
}

func (w *where) ofInode(cmd *cobra.Command, what, arg string) error {
	ino, err := cluster.InodeOf(arg)
	if err != nil {
		return err
	}
	v, err := w.rank(cmd, what, ino)
	if err != nil {
		return err
	}
	return show(cmd, v, w.json)
}

func whyCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "why [PATH|INO]", Short: "Show what waits in the rank, and for whom", Args: cobra.MaximumNArgs(1), Long: "Lists every request that waits and every answer that is due, with whom it waits for. With an argument, only what\nconcerns that inode. " + pathHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			var ino []string
			if len(args) == 1 {
				i, err := cluster.InodeOf(args[0])
				if err != nil {
					return err
				}
				ino = []string{i}
			}
			v, err := w.rank(cmd, "why", ino...)
			if err != nil {
				return err
			}
			if w.json {
				return printJSON(cmd, v)
			}
			return printWhy(cmd, v)
		}}
	w.add(cmd)
	return cmd
}

func printWhy(cmd *cobra.Command, v json.RawMessage) error {
	var rank struct {
		Waits []struct {
			What, Who string
			For       []string
		}
	}
	if err := json.Unmarshal(v, &rank); err != nil {
		return err
	}
	rows := rank.Waits
	out := cmd.OutOrStdout()
	if len(rows) == 0 {
		fmt.Fprintln(out, "nothing waits in the rank (if a mount hangs all the same: `capstan status`, then `capstan pg ls`)")
	}
	for _, r := range rows {
		fmt.Fprintf(out, "%s\n  of   %s\n", r.What, r.Who)
		for _, f := range r.For {
			fmt.Fprintf(out, "  for  %s\n", f)
		}
	}
	return nil
}

func daemonCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "daemon NAME|MOUNTPOINT [COMMAND [ARG…]]", Short: "Ask a daemon or a mount of this machine over its admin socket",
		Long: "Sends COMMAND to the admin socket of a daemon (mon.a, osd.0, mds.a) or of a mount, and prints the answer.\nWithout COMMAND, lists those that it knows.", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "help"
			if len(args) > 1 {
				what = args[1]
			}
			v, err := cluster.CallDaemon(cmd.Context(), w.find(), args[0], what, args[min(2, len(args)):])
			if err != nil {
				return err
			}
			return show(cmd, v, w.json)
		}}
	w.add(cmd)
	return cmd
}

func syncCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "sync PATH", Short: "Make everything durable that was written through the mount of PATH", Args: cobra.ExactArgs(1),
		Long: "Returns when everything that was written before through the mount that PATH lies on, data and names, survives the loss of\nany daemon and of power. sync(1) alone is not enough: the kernel does not tell a FUSE file system of it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := cluster.Sync(cmd.Context(), args[0])
			if err != nil || !asJSON {
				return err
			}
			return printJSON(cmd, v)
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print how long it took, as JSON")
	return cmd
}
