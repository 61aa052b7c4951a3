package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
)

func devCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "dev", Short: "Run a cluster of separate processes on this machine"}
	cmd.AddCommand(devUpCmd(), devDownCmd(), devStatusCmd())
	return cmd
}

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "`directory` of the cluster")
	_ = cmd.MarkFlagRequired("dir")
}

func devUpCmd() *cobra.Command {
	var over conf.Overrides
	var dir string
	cmd := &cobra.Command{Use: "up --dir D", Short: "Make a cluster in D, or start the one that is there", Args: cobra.NoArgs,
		Long: "Starts every daemon of the cluster that does not run, and returns when a file could be created, fsynced and read back.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			d, err := cluster.DevUp(cmd.Context(), dir, &over)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "up after %.1f s: %d daemons; mount with\n  capstan mount --conf %s MOUNTPOINT\n",
				time.Since(began).Seconds(), len(d.Status()), d.ConfPath())
			return nil
		}}
	dirFlag(cmd, &dir)
	over.Flags(cmd.Flags(), "osds", "osd_size", "pool_size", "pool_min_size", "pg_num_meta", "pg_num_data", "object_size", "log_level",
		"session_validity", "revoke_deadline", "beacon_interval", "osd_lease", "repl_grace", "osd_heartbeat", "osd_down_grace", "mds_recovery_budget", "dirty_expire")
	later(cmd, "ranks", 1, "several ranks")
	later(cmd, "standbys", 0, "standbys")
	later(cmd, "mons", 1, "several monitors")
	return cmd
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
			fmt.Fprintln(w, "NAME\tSTATE\tPID\tADDR")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", r.Name, r.State, r.PID, r.Addr)
			}
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
			c, err := f.load()
			if err != nil {
				return err
			}
			env, err := cluster.ToolEnv(c)
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
