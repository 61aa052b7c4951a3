package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
)

// traceEvery is how often a running trace is read out.
const traceEvery = 100 * time.Millisecond

func traceCmd() *cobra.Command {
	var w where
	var ino string
	var long time.Duration
	cmd := &cobra.Command{Use: "trace [MDS]", Short: "Print lock transitions and cap messages of a rank as they happen, as JSON lines", Args: cobra.MaximumNArgs(1),
		Long: "Switches the trace of a metadata daemon (default: the one that holds the rank) on, prints each event as one line of JSON, and switches it off\n" +
			"again at the end of --for or at Ctrl-C. A trace that nobody reads for 15 s ends by itself. The daemon keeps 65536 events at most for\n" +
			"the reader; what comes while they are full is dropped and counted, which is said on standard error. docs/seeing.md has the fields.\n" + pathHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := w.find()
			name := ""
			if len(args) == 1 {
				name = args[0]
			} else {
				var err error
				if name, err = cluster.RankDaemon(cmd.Context(), dir, w.num); err != nil {
					return err
				}
			}
			return trace(cmd, dir, name, ino, long)
		}}
	cmd.Flags().StringVar(&w.dir, "dir", "", "`directory` of a dev or demo cluster (else the one that the configuration lies in)")
	cmd.Flags().StringVar(&w.conf, "conf", "", "configuration `file` (else $CAPSTAN_CONF)")
	cmd.Flags().IntVar(&w.num, "rank", 0, "which metadata `rank` to trace")
	cmd.Flags().StringVar(&ino, "ino", "", "only what concerns this `PATH|INO` and names in it")
	cmd.Flags().DurationVar(&long, "for", 10*time.Second, "how `long`; 0 is until Ctrl-C")
	return cmd
}

type traceBatch struct {
	Events  []json.RawMessage
	Dropped uint64
	On      bool
}

func trace(cmd *cobra.Command, dir, name, ino string, long time.Duration) error {
	ask := func(what string, args ...string) (b traceBatch, err error) {
		// Not the command's context: at Ctrl-C the trace must still be switched off.
		v, err := cluster.CallDaemon(context.WithoutCancel(cmd.Context()), dir, name, what, args)
		if err == nil {
			err = json.Unmarshal(v, &b)
		}
		return b, err
	}
	var of []string
	if ino != "" {
		i, err := cluster.InodeOf(ino)
		if err != nil {
			return err
		}
		of = []string{i}
	}
	if _, err := ask("trace-on", of...); err != nil {
		return err
	}
	print := func(b traceBatch) {
		for _, e := range b.Events {
			fmt.Fprintln(cmd.OutOrStdout(), string(e))
		}
	}
	ctx := cmd.Context()
	if long > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, long)
		defer cancel()
	}
	t := time.NewTicker(traceEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			b, err := ask("trace-read")
			if err != nil {
				return err
			}
			print(b)
			if !b.On {
				return errors.New("the trace was switched off by somebody else, or the rank moved")
			}
			continue
		case <-ctx.Done():
		}
		break
	}
	b, err := ask("trace-off")
	print(b)
	if b.Dropped > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d events were dropped\n", b.Dropped)
	}
	return err
}
