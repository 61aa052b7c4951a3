package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
)

// exitError ends the program with a status of its own; what there was to say was said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func healthCmd() *cobra.Command {
	var f confFlags
	var asJSON, docs bool
	cmd := &cobra.Command{Use: "health", Short: "Say what is wrong, why, and which command helps; exit status 0 ok, 1 warnings, 2 errors, 3 nobody answers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if docs {
				return cluster.WriteHealthDocs(cmd.OutOrStdout())
			}
			env, err := f.tool()
			if err != nil {
				return err
			}
			h, err := env.CheckHealth(cmd.Context(), filepath.Dir(conf.Find(f.path)))
			if err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "capstan: %v\n", err)
				return exitError(3)
			}
			if asJSON {
				err = printJSON(cmd, h)
			} else {
				_, err = fmt.Fprint(cmd.OutOrStdout(), h.Text())
			}
			if err == nil && h.Exit() != 0 {
				err = exitError(h.Exit())
			}
			return err
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&docs, "docs", false, "print docs/health.md")
	return cmd
}

// pgQueryCmd shows one PG as the monitors and every OSD of this machine see it.
func pgQueryCmd() *cobra.Command {
	var f confFlags
	var asJSON bool
	cmd := &cobra.Command{Use: "query PG", Short: "Show one placement group as the monitors and each OSD of this machine see it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := f.tool()
			if err != nil {
				return err
			}
			q, err := env.PGQuery(cmd.Context(), filepath.Dir(conf.Find(f.path)), args[0])
			if err != nil {
				return err
			}
			b, err := json.Marshal(q)
			if err != nil {
				return err
			}
			return show(cmd, b, asJSON)
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// osdPerfCmd shows how fast the OSDs of this machine are.
func osdPerfCmd() *cobra.Command {
	var w where
	cmd := &cobra.Command{Use: "perf", Short: "Show how long operations and log commits of this machine's OSDs take", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var rows []json.RawMessage
			for _, name := range cluster.DaemonsIn(w.find()) {
				if !strings.HasPrefix(name, "osd.") {
					continue
				}
				v, err := cluster.CallDaemon(cmd.Context(), w.find(), name, "perf", nil)
				if err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "capstan: %v\n", err)
					continue
				}
				rows = append(rows, v)
			}
			b, err := json.Marshal(rows)
			if err != nil {
				return err
			}
			return show(cmd, b, w.json)
		}}
	w.add(cmd)
	return cmd
}
