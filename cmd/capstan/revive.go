package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/wire"
)

// reviveCmds are `pg copies` and `pg revive`.
func reviveCmds() []*cobra.Command {
	var f, g confFlags
	var asJSON, yes bool
	copies := &cobra.Command{Use: "copies PG", Short: "Show what every OSD that is up has of a placement group, member or not", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := f.tool()
			if err != nil {
				return err
			}
			c, err := env.PGCopies(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, c)
			}
			fmt.Fprint(cmd.OutOrStdout(), c.Text())
			return nil
		}}
	f.add(copies)
	copies.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	revive := &cobra.Command{Use: "revive PG OSD", Short: "Let a lost placement group go on with the copy of an OSD that had left it", Args: cobra.ExactArgs(2),
		Long: "Let a placement group, the stores of whose members are all gone, go on with the copy of the named OSD.\nIt says what that may lose, and does nothing without --yes.",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(strings.TrimPrefix(args[1], "osd."), 10, 32)
			if err != nil || id < 0 {
				return fmt.Errorf("%q is no OSD: osd.N", args[1])
			}
			env, err := g.tool()
			if err != nil {
				return err
			}
			loss, err := env.Revive(cmd.Context(), args[0], wire.OSDID(id), yes)
			if err != nil {
				return err
			}
			if !yes {
				return errors.New(loss + "\nnothing was done; --yes does it")
			}
			fmt.Fprintln(cmd.OutOrStdout(), loss)
			return nil
		}}
	g.add(revive)
	revive.Flags().BoolVar(&yes, "yes", false, "do it")
	return []*cobra.Command{copies, revive}
}
