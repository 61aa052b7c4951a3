package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/locker"
)

// locksCmd shows the locks of one inode in a live rank, or the tables that all of them follow.
func locksCmd() *cobra.Command {
	var w where
	var tables bool
	cmd := &cobra.Command{
		Use:   "locks PATH|INO | --tables",
		Short: "Show the locks of a file or directory, or the tables that locks follow",
		Long:  "Shows the state of each lock of an inode and of the dentry that leads to it, who holds it and who waits.\n" + pathHelp + "\n--tables prints the tables of the four lock classes: states, what they permit, how they move.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case tables && len(args) > 0:
				return errors.New("locks: --tables takes no path")
			case tables && w.json:
				return locker.WriteJSON(c.OutOrStdout())
			case tables:
				return locker.WriteText(c.OutOrStdout())
			case len(args) == 0:
				return errors.New("locks: name a path or an inode number to see its locks, or give --tables to see the lock tables")
			}
			return w.ofInode(c, "locks", args[0])
		},
	}
	w.addRank(cmd)
	cmd.Flags().BoolVar(&tables, "tables", false, "print the tables of the four lock classes")
	return cmd
}
