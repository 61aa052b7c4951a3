package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// scrubCmds are `pg scrub`, `pg deep-scrub` and `pg repair`.
func scrubCmds() []*cobra.Command {
	var cmds []*cobra.Command
	for _, k := range []struct {
		name, short  string
		deep, repair bool
	}{
		{"scrub", "Compare versions and sizes of a PG's replicas", false, false},
		{"deep-scrub", "Read and compare a PG's replicas; copies whose checksum is wrong are replaced", true, false},
		{"repair", "As deep-scrub, and replace what differs from the majority", true, true},
	} {
		var f confFlags
		var noWait, asJSON bool
		cmd := &cobra.Command{Use: k.name + " PG|all", Short: k.short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				env, err := f.tool()
				if err != nil {
					return err
				}
				sums, err := env.Scrub(cmd.Context(), args[0], k.deep, k.repair, !noWait)
				if asJSON {
					if perr := printJSON(cmd, sums); perr != nil {
						return perr
					}
					return err
				}
				for _, s := range sums {
					fmt.Fprintln(cmd.OutOrStdout(), s.Text())
				}
				return err
			}}
		f.add(cmd)
		cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when it has begun")
		cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON array, one object for each PG")
		cmds = append(cmds, cmd)
	}
	return cmds
}
