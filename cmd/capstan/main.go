// Command capstan is the whole of Capstan: daemons, mounts and tools, one verb each.
//
// The verbs parse flags and hand over to internal/cluster; start there to see how daemons
// are put together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
)

func main() {
	if isMountHelper(os.Args[0]) {
		os.Exit(mountHelper(os.Args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends a stop that takes too long
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		cluster.TellParent("", err)
		if code := exitError(0); errors.As(err, &code) {
			os.Exit(int(code))
		}
		if !errors.Is(err, context.Canceled) {
			fmt.Fprintf(os.Stderr, "capstan: %v\n", err)
		}
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "capstan",
		Short:         "A shared POSIX volume: many hosts mount one file system and see one truth",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.SetHelpCommand(&cobra.Command{Hidden: true})
	group := func(id, title string, cmds ...*cobra.Command) {
		cmd.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, c := range cmds {
			c.GroupID = id
			cmd.AddCommand(c)
		}
	}
	osd := osdCmd()
	pg := monWords("pg", "Show and examine placement groups", pgWords)
	pg.AddCommand(scrubCmds()...)
	osd.AddCommand(monWords("", "", osdWords).Commands()...)
	osd.AddCommand(osdPerfCmd(), osdDrainCmd(), osdAddCmd(), osdFsckCmd(), monWords("crush", "Say where OSDs stand and what they weigh", crushWords))
	pg.AddCommand(pgQueryCmd())
	pg.AddCommand(reviveCmds()...)
	fs := monWords("fs", "Show and set the file system's ranks", fsWords)
	fs.AddCommand(subtreesCmd())
	group("try", "Try it on this machine:", demoCmd(), devCmd())
	group("use", "Use a volume:", mountCmd(), umountCmd(), syncCmd(), mountHelperCmd())
	group("run", "Run and steer daemons:", monCmd(), osd, mdsCmd(), pg, monWords("pool", "Show and change pools", poolWords),
		fs, monWords("blocklist", "Show and add fenced clients and daemons", blocklistWords))
	group("see", "See what goes on:", statusCmd(), healthCmd(), sessionsCmd(), capsCmd(), locksCmd(), whyCmd(), traceCmd(), daemonCmd(), metricsCmd(), configCmd(), versionCmd())
	group("check", "Check a file system, ours or another:", fsckCmd(), lockcertCmd())
	cmd.AddCommand(lockcertWorkerCmd())
	return cmd
}

// confFlags are the flags of every verb that talks to a cluster.
type confFlags struct {
	path string
	over conf.Overrides
}

func (f *confFlags) add(cmd *cobra.Command, knobs ...string) {
	cmd.Flags().StringVar(&f.path, "conf", "", "configuration `file` (else $CAPSTAN_CONF, else "+conf.SystemFile+")")
	f.over.Flags(cmd.Flags(), knobs...)
}

func (f *confFlags) load() (*conf.Config, error) {
	path := conf.Find(f.path)
	c, err := conf.Load(path)
	if err == nil {
		err = cluster.CheckWrong(c, path)
	}
	if err != nil {
		return nil, err
	}
	return c, f.over.Apply(c)
}

// tool loads the configuration and opens what a verb asks the cluster through.
func (f *confFlags) tool() (*cluster.Env, error) {
	c, err := f.load()
	if err != nil {
		return nil, err
	}
	return cluster.ToolEnv(c)
}

// later refuses a flag of a piece that is not built yet, unless it asks for what there is.
func later(cmd *cobra.Command, name string, only int, what string) {
	cmd.Flags().Int(name, only, what+fmt.Sprintf(" (only %d works so far)", only))
	check := cmd.PreRunE
	cmd.PreRunE = func(c *cobra.Command, args []string) error {
		if n, _ := c.Flags().GetInt(name); n != only {
			return fmt.Errorf("--%s %d: %s are not built yet; only %d works so far", name, n, what, only)
		}
		if check != nil {
			return check(c, args)
		}
		return nil
	}
}

func versionCmd() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Say which program this is", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			version, revision, modified := "unreleased", "unknown", ""
			if bi, ok := debug.ReadBuildInfo(); ok {
				if bi.Main.Version != "" && bi.Main.Version != "(devel)" {
					version = bi.Main.Version
				}
				for _, s := range bi.Settings {
					switch {
					case s.Key == "vcs.revision":
						revision = s.Value
					case s.Key == "vcs.modified" && s.Value == "true":
						modified = ", changed"
					}
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "capstan %s (revision %s%s), data format %d\n", version, revision, modified, cluster.Format)
		}}
}

func configCmd() *cobra.Command {
	var f confFlags
	var docs bool
	cmd := &cobra.Command{Use: "config", Short: "Show the settings in force, or explain all of them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if docs {
				fmt.Fprint(cmd.OutOrStdout(), conf.Docs())
				return nil
			}
			c, err := f.load()
			if err == nil {
				fmt.Fprint(cmd.OutOrStdout(), c.All())
			}
			return err
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&docs, "docs", false, "print docs/config.md")
	return cmd
}
