package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/osd/server/store"
)

// osdFsckCmd reads an OSD's store while the OSD is stopped.
func osdFsckCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "fsck DIR", Short: "Read the whole store of a stopped OSD and say what is wrong with it", Args: cobra.ExactArgs(1),
		Long: `Reads the database with its structure and checksums, the write-ahead log from where the
database ends, and every block of every object, and looks for blocks with two owners. DIR is
the OSD's data directory or the store in it. Nothing is changed. Exit status 1: something is
wrong, named line by line. What is damaged here has replicas elsewhere: a damaged block is
replaced when it is next read, written over or scrubbed; with a damaged database or log remove
the directory and start the OSD again, it is filled anew.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := store.FsckIn(args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				if err := printJSON(cmd, c); err != nil {
					return err
				}
			} else {
				for _, f := range c.Findings {
					where := ""
					if f.PG != "" {
						where = "pg " + f.PG + " "
					}
					if f.Object != "" {
						where += fmt.Sprintf("object %q at %d ", f.Object, f.Off)
					}
					fmt.Fprintf(out, "%s: %s: %s%s\n", f.File, f.Kind, where, f.Text)
				}
				if more := c.Found - len(c.Findings); more > 0 {
					fmt.Fprintf(out, "and %d more\n", more)
				}
				fmt.Fprintf(out, "%s (%s): %d PGs, %d objects, %d omap pairs, %d log entries, %d records in the log; %d of %d MiB in use; %d findings\n",
					c.Owner, c.UUID, c.PGs, c.Objects, c.Pairs, c.Entries, c.Records, c.Used>>20, c.Bytes>>20, c.Found)
			}
			if c.Found > 0 {
				return fmt.Errorf("store %s: %d findings", c.Dir, c.Found)
			}
			return nil
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
