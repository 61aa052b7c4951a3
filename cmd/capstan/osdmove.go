package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
)

// osdDrainCmd moves everything off an OSD and waits until it is gone.
func osdDrainCmd() *cobra.Command {
	var f confFlags
	var noWait, asJSON bool
	cmd := &cobra.Command{Use: "drain ID", Short: "Move everything off an OSD, then say that it may be taken away", Args: cobra.ExactArgs(1),
		Long: "Gives the OSD no share any more (`osd in ID` takes that back) and waits until no placement group needs it. Refused when too few hosts would be left.",
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := f.tool()
			if err != nil {
				return err
			}
			if _, err := env.MonCommand(cmd.Context(), "osd", "drain", args[0]); err != nil {
				return err
			}
			id := strings.TrimPrefix(args[0], "osd.")
			if noWait {
				return nil
			}
			out := cmd.ErrOrStderr()
			err = env.WaitDrained(cmd.Context(), id, func(left int, waited time.Duration) {
				fmt.Fprintf(out, "%4.0f s: %d PGs are still on osd.%s\n", waited.Seconds(), left, id)
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, map[string]any{"osd": id, "safe": true})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "osd.%s holds nothing any more: it is safe to stop it, and then to `capstan osd rm %s`\n", id, id)
			return nil
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when it is decided")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// osdAddCmd adds an OSD to a dev cluster, or says how it is done elsewhere.
func osdAddCmd() *cobra.Command {
	var f confFlags
	var dir string
	cmd := &cobra.Command{Use: "add", Short: "Add an OSD: to a dev cluster, or the command that does it on another host", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir != "" {
				name, err := cluster.DevAddOSD(cmd.Context(), dir)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s is up; its share of the data moves there by itself\n", name)
				}
				return err
			}
			env, err := f.tool()
			if err != nil {
				return err
			}
			id, err := env.FreeOSD(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "on its host, with this cluster's configuration:\n  capstan osd --id %d --data DIR [--osd-host HOST] [--osd-class ssd]\n", id)
			return nil
		}}
	f.add(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` of a dev cluster: start it there")
	return cmd
}
