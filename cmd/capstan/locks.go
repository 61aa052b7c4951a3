package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/locker"
)

// locksCmd shows the lock tables; the locks of a live rank follow with its admin commands.
func locksCmd() *cobra.Command {
	var tables, json bool
	cmd := &cobra.Command{
		Use:   "locks",
		Short: "Show the lock tables: states, what they permit, how they move",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case !tables:
				return errors.New("locks: a live rank cannot be asked yet; --tables prints the lock tables")
			case json:
				return locker.WriteJSON(c.OutOrStdout())
			}
			return locker.WriteText(c.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&tables, "tables", false, "print the tables of the four lock classes")
	cmd.Flags().BoolVar(&json, "json", false, "as JSON, in the format that docs/locks.md describes")
	return cmd
}
