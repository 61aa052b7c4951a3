package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/wire"
)

// reviveCmds are `pg copies` and `pg revive`.
func reviveCmds() []*cobra.Command {
	var f, g confFlags
	var asJSON, listJSON, yes bool
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
	revive := &cobra.Command{Use: "revive PG|all OSD", Short: "Let a lost placement group go on with the copy of an OSD that had left it", Args: cobra.ExactArgs(2),
		Long: "Let a placement group, the stores of whose members are all gone, go on with the copy of the named OSD;\nall: every one of which it has a whole copy and no other OSD a newer one.\nIt says what that may lose, and does nothing without --yes.",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(strings.TrimPrefix(args[1], "osd."), 10, 32)
			if err != nil || id < 0 {
				return fmt.Errorf("%q is no OSD: osd.N", args[1])
			}
			env, err := g.tool()
			if err != nil {
				return err
			}
			if args[0] == "all" {
				list, err := env.ReviveAll(cmd.Context(), wire.OSDID(id), yes)
				return showRevived(cmd, list, err, yes, listJSON)
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
	revive.Flags().BoolVar(&listJSON, "json", false, "with all: as JSON")
	return []*cobra.Command{copies, revive}
}

// showRevived prints what was done, or would be. Without --yes that is an error: nothing was done.
func showRevived(cmd *cobra.Command, list []cluster.Revived, err error, done, asJSON bool) error {
	n, out := 0, cmd.OutOrStdout()
	for _, r := range list {
		if r.Left == "" {
			n++
		}
		if !asJSON && r.Left != "" {
			fmt.Fprintf(out, "pg %s is left out: %s\n", r.PG, r.Left)
		} else if !asJSON {
			fmt.Fprintln(out, r.Loss)
		}
	}
	if asJSON {
		err = errors.Join(err, printJSON(cmd, list))
	}
	switch {
	case err != nil && done:
		return fmt.Errorf("%d PGs were revived; %w", n, err)
	case err != nil:
		return err
	case len(list) == 0:
		return errors.New("no PG is lost")
	case !done:
		return fmt.Errorf("nothing was done; --yes revives %d of %d lost PGs", n, len(list))
	}
	return nil
}
