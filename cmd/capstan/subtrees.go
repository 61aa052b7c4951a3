package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
)

// subtreesCmd is `capstan fs subtrees`.
func subtreesCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "subtrees", Short: "Show which rank owns which part of the tree", Args: cobra.NoArgs,
		Long: "Asks every metadata daemon of this machine that holds a rank what it owns of the tree: each line is a directory from which on the rank\nowns what lies below, down to the next directory of another rank (ceph.dir.pin). A path is what it was when the directory was handed over.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, silent, err := cluster.Subtrees(cmd.Context(), w.find())
			if err != nil {
				return err
			}
			if w.json {
				return printJSON(cmd, list)
			}
			out := cmd.OutOrStdout()
			for _, r := range list {
				for _, s := range r.Subtrees {
					fmt.Fprintf(out, "rank %-3d %s  (ino %s, %s)\n", r.Rank, s.Path, s.Ino, r.Daemon)
				}
				if len(r.Subtrees) == 0 {
					fmt.Fprintf(out, "rank %-3d nothing  (%s)\n", r.Rank, r.Daemon)
				}
			}
			for _, name := range silent {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s does not answer\n", name)
			}
			return nil
		}}
	w.add(cmd)
	return cmd
}
