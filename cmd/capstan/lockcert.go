package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/lockcert"
)

// Exit statuses of lockcert, which scripts rely on.
const (
	lockcertDiffers = 1
	lockcertBroken  = 2
)

func lockcertCmd() *cobra.Command {
	var cfg lockcert.Config
	var tap, json, listOnly, quiet bool
	cmd := &cobra.Command{
		Use:   "lockcert DIR [DIR…]",
		Short: "Check what a shared file system promises of locks, names and data, on any mounts",
		Long: `Checks locks (flock, fcntl, OFD), names, listings, attributes and data of the file system
that is seen under the directories given, with worker processes on each of them. With one
directory only processes on one mount are compared. Writes into a directory lockcert-* of its
own and removes it. docs/conformance.md explains every check and how to read a counter-example.

Exit status: 0 conformant, 1 not, 2 could not run.`,
		RunE: func(c *cobra.Command, args []string) error {
			out := c.OutOrStdout()
			if listOnly {
				checks, err := lockcert.Select(cfg.Only)
				if err != nil {
					lockcertExit(lockcertBroken, err)
				}
				return lockcert.WriteList(out, checks)
			}
			if len(args) == 0 {
				lockcertExit(lockcertBroken, fmt.Errorf("lockcert needs a directory, better two: mounts of one file system"))
			}
			cfg.Dirs = args
			if !quiet {
				cfg.Progress = os.Stderr
			}
			status, err := runLockcert(c.Context(), cfg, out, tap, json)
			if status != 0 {
				lockcertExit(status, err)
			}
			return err
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { lockcertExit(lockcertBroken, err); return err })
	f := cmd.Flags()
	f.Uint64Var(&cfg.Seed, "seed", 0, "repeat the random choices of a run (0: draw one; every report names its seed)")
	f.Float64Var(&cfg.Minutes, "minutes", 0, "repeat the races with new seeds for so long (default: each once)")
	f.DurationVar(&cfg.Slice, "slice", 700*time.Millisecond, "time of one race in one placement")
	f.DurationVar(&cfg.Patience, "patience", 0, "a call that takes longer counts as lost (default 10s; 2.5s after three checks that lost one)")
	f.DurationVar(&cfg.Grace, "grace", 40*time.Millisecond, "a lock call that takes longer counts as waiting")
	f.StringSliceVar(&cfg.Only, "only", nil, "checks to make: names, features or patterns, ! before one leaves it out")
	f.StringVar(&cfg.Disturb, "disturb", "", "a shell `command` that restarts what serves the file system: the checks */failover run it while locks are held and awaited")
	f.BoolVar(&listOnly, "list", false, "list the checks and what each promises, and make none")
	f.BoolVar(&tap, "tap", false, "print TAP")
	f.BoolVar(&json, "json", false, "print JSON, histories of counter-examples included")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not tell the progress on standard error")
	return cmd
}

func runLockcert(ctx context.Context, cfg lockcert.Config, out io.Writer, tap, json bool) (int, error) {
	rep, err := lockcert.Run(ctx, cfg)
	if err != nil {
		return lockcertBroken, err
	}
	write := rep.WriteMatrix
	switch {
	case tap:
		write = rep.WriteTAP
	case json:
		write = rep.WriteJSON
	}
	if err := write(out); err != nil {
		return lockcertBroken, err
	}
	if !rep.Conformant() {
		return lockcertDiffers, nil
	}
	return 0, nil
}

// lockcertExit ends the program with a status of its own, which RunE's error cannot carry.
func lockcertExit(status int, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "capstan: lockcert: %v\n", err)
	}
	os.Exit(status)
}

// lockcertWorkerCmd is how the kit starts its workers.
func lockcertWorkerCmd() *cobra.Command {
	return &cobra.Command{Use: lockcert.Verb, Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return lockcert.Worker(args[0]) }}
}
