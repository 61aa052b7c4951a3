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
	num       int // of the rank
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

// addRank is add with a choice of rank.
func (w *where) addRank(cmd *cobra.Command) {
	w.add(cmd)
	cmd.Flags().IntVar(&w.num, "rank", 0, "which metadata `rank` to ask")
}

// rank asks the rank's daemon.
func (w *where) rank(cmd *cobra.Command, what string, args ...string) (json.RawMessage, error) {
	name, err := cluster.RankDaemon(cmd.Context(), w.find(), w.num)
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
	w.addRank(cmd)
	return cmd
}

const pathHelp = "PATH lies on a mount of this machine, or is a path in the volume; INO is an inode number (as `ls -i` or `stat` print it, or 0x1a)."

func capsCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "caps PATH|INO", Short: "Show which client may cache what of a file or directory", Args: cobra.ExactArgs(1), Long: "Shows which client holds which caps on an inode, what it wants, and what it was asked to give back.\n" + pathHelp,
		RunE: func(cmd *cobra.Command, args []string) error { return w.ofInode(cmd, "caps", args[0]) }}
	w.addRank(cmd)
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
	cmd := &cobra.Command{Use: "why [PATH|INO|PID|CLIENT:TID]", Short: "Show what waits, and for whom: from the process down to the owner of the wait", Args: cobra.MaximumNArgs(1),
		Long: "Follows a wait from a process blocked in a mount over the request, the lock, the client that must give something back, or the\n" +
			"placement group, down to whoever it is that everybody waits for, with since when, until when, and what helps.\n" +
			"Without an argument, everything that waits. A decimal number is a process if there is one; CLIENT:TID is a request as `why` prints it.\n" + pathHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := ""
			if len(args) == 1 {
				what = args[0]
			}
			c, err := cluster.Why(cmd.Context(), w.find(), what)
			if err != nil {
				return err
			}
			if w.json {
				return printJSON(cmd, c)
			}
			fmt.Fprint(cmd.OutOrStdout(), c.Text())
			return nil
		}}
	w.add(cmd)
	return cmd
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
