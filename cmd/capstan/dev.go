package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/internal/wrong"
)

func devCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "dev", Short: "Run a cluster of separate processes on this machine"}
	cmd.AddCommand(devUpCmd(), devDownCmd(), devKillCmd(), devStatusCmd(), devScoreCmd())
	return cmd
}

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "`directory` of the cluster")
	_ = cmd.MarkFlagRequired("dir")
}

func devUpCmd() *cobra.Command {
	var over conf.Overrides
	var dir string
	var wrongs []string
	cmd := &cobra.Command{Use: "up --dir D", Short: "Make a cluster in D, or start the one that is there", Args: cobra.NoArgs,
		Long: "Starts every daemon of the cluster that does not run, and returns when a file could be created, fsynced and read back.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if slices.Contains(wrongs, "list") {
				return listWrong(cmd.OutOrStdout())
			}
			if dir == "" {
				return errors.New("dev up: --dir D names the directory of the cluster")
			}
			if len(wrongs) > 0 {
				if err := over.Put("wrong", strings.Join(wrongs, ",")); err != nil {
					return err
				}
			}
			began := time.Now()
			d, err := cluster.DevUp(cmd.Context(), dir, &over)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "up after %.1f s: %d daemons; mount with\n  capstan mount --conf %s MOUNTPOINT\n",
				time.Since(began).Seconds(), len(d.Status()), d.ConfPath())
			sayWrong(cmd, d.Conf)
			return nil
		}}
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` of the cluster")
	cmd.Flags().StringArrayVar(&wrongs, "wrong", nil, "switch on the seeded bug `NAME` in a new cluster, to score a test suite by whether it notices; repeatable; \"list\" names them")
	over.Flags(cmd.Flags(), "mons", "ranks", "standbys", "osds", "osd_size", "pool_size", "pool_min_size", "pg_num_meta", "pg_num_data", "object_size", "log_level",
		"session_validity", "revoke_deadline", "beacon_interval", "osd_lease", "repl_grace", "osd_heartbeat", "osd_down_grace", "osd_drop_grace", "scrub_every", "recovery_rate", "osd_out_after", "balance_every", "mon_election", "mds_recovery_budget", "dirty_expire", "dirty_max", "read_spread", "caps_wanted_delay", "metrics_listen", "slow_op")
	over.Flags(cmd.Flags(), "mds_cache_memory", "mds_max_caps_per_client")
	return cmd
}

// sayWrong tells on standard error of seeded bugs, if there are any.
func sayWrong(cmd *cobra.Command, c *conf.Config) {
	if text := cluster.WrongText(c); text != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), text)
	}
}

func listWrong(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tIN\tWHAT GOES WRONG\tLOCKCERT'S CHECK")
	for _, f := range wrong.Faults {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, f.Where, f.Does, f.Check)
	}
	return w.Flush()
}

func devDownCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "down --dir D", Short: "Stop exactly the processes of the cluster in D", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			d, err := cluster.OpenDev(dir)
			if err != nil {
				return err
			}
			return d.Down()
		}}
	dirFlag(cmd, &dir)
	return cmd
}

func devKillCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "kill --dir D NAME…", Short: "End daemons of the cluster in D as a crash does (SIGKILL); `dev up` starts them again", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, names []string) error {
			d, err := cluster.OpenDev(dir)
			if err != nil {
				return err
			}
			return d.Kill(names...)
		}}
	dirFlag(cmd, &dir)
	return cmd
}

func devStatusCmd() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{Use: "status --dir D", Short: "List the processes of the cluster in D", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := cluster.OpenDev(dir)
			if err != nil {
				return err
			}
			rows := d.Status()
			if asJSON {
				return printJSON(cmd, rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tPID\tADDR\tMETRICS")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", r.Name, r.State, r.PID, r.Addr, r.Metrics)
			}
			sayWrong(cmd, d.Conf)
			return w.Flush()
		}}
	dirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON array of {name, role, pid, addr, state}")
	return cmd
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func statusCmd() *cobra.Command {
	var f confFlags
	var asJSON bool
	cmd := &cobra.Command{Use: "status", Short: "Show the state of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := f.tool()
			if err != nil {
				return err
			}
			s, err := env.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, s)
			}
			fmt.Fprint(cmd.OutOrStdout(), s.Text())
			return nil
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
