package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/capstan-fs/capstan/fsck"
	"github.com/capstan-fs/capstan/fsck/walk"
	"github.com/capstan-fs/capstan/internal/cluster"
)

func fsckCmd() *cobra.Command {
	var f confFlags
	var asJSON, docs bool
	var opt cluster.FsckOptions
	cmd := &cobra.Command{Use: "fsck", Short: "Prove the tree: names, inodes, links, directories, data, index; exit status 0 clean, 1 repaired, 4 left, 8 failed", Args: cobra.NoArgs,
		Long: "Reads all metadata objects and the names of all data objects, and says what cannot be. The rank may run or not: the journal is\n" +
			"followed meanwhile. Nothing is written without --repair, which needs the metadata daemons to be stopped; the old bytes of every\n" +
			"change go to an undo log first, which --undo puts back. Exit status: 0 clean, 1 all that was found is repaired, 4 something is left, 8 failed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if docs {
				return fsck.WriteCodes(cmd.OutOrStdout())
			}
			err := runFsck(cmd, &f, opt, asJSON)
			if _, has := err.(exitError); err != nil && !has {
				fmt.Fprintf(cmd.ErrOrStderr(), "capstan: %v\n", err)
				err = exitError(walk.ExitFailed)
			}
			return err
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&opt.Repair, "repair", false, "mend what can be mended")
	cmd.Flags().StringVar(&opt.UndoPath, "undo-log", "", "`file` that a repair writes old bytes to (capstan-fsck-DATE.undo in this directory); it must not exist")
	cmd.Flags().StringVar(&opt.Undo, "undo", "", "put back what the undo log in `file` holds")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&docs, "docs", false, "print the table of codes of docs/fsck.md")
	cmd.MarkFlagsMutuallyExclusive("repair", "undo")
	return cmd
}

func runFsck(cmd *cobra.Command, f *confFlags, opt cluster.FsckOptions, asJSON bool) error {
	c, err := f.load()
	if err != nil {
		return err
	}
	env, err := cluster.ToolEnv(c)
	if err != nil {
		return err
	}
	if opt.UndoPath == "" {
		opt.UndoPath = "capstan-fsck-" + time.Now().Format("20060102-150405") + ".undo"
	}
	meter := newMeter(cmd.ErrOrStderr())
	opt.Progress = meter.show
	rep, undone, err := env.Fsck(cmd.Context(), opt)
	meter.end()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if opt.Undo != "" {
		if asJSON {
			return printJSON(cmd, map[string]int{"undone": undone})
		}
		fmt.Fprintf(out, "%d changes put back\n", undone)
		return nil
	}
	if asJSON {
		err = printJSON(cmd, rep)
	} else {
		err = printFsck(out, rep)
	}
	if code := rep.Exit(); err == nil && code != walk.ExitClean {
		err = exitError(code)
	}
	return err
}

func printFsck(out io.Writer, rep *walk.Report) error {
	left := 0
	for i := range rep.Findings {
		if !rep.Findings[i].Repaired {
			left++
		}
		fmt.Fprintln(out, rep.Findings[i].Text())
	}
	how := "the rank down"
	if rep.Live {
		how = "the rank running"
	}
	s := rep.Sum
	fmt.Fprintf(out, "%d directories, %d names, %d inodes, %d data objects, %s: ", s.Dirs, s.Names, s.Inodes, s.DataObjects, how)
	var err error
	switch {
	case len(rep.Findings) == 0:
		_, err = fmt.Fprintln(out, "clean")
	case rep.UndoLog != "":
		_, err = fmt.Fprintf(out, "%d found, %d left; %d changes, their old bytes are in %s\n", len(rep.Findings), left, rep.Changes, rep.UndoLog)
	default:
		_, err = fmt.Fprintf(out, "%d found, %d left\n", len(rep.Findings), left)
	}
	return err
}

// meter shows progress and what is left on a terminal, and nothing elsewhere.
type meter struct {
	out         io.Writer // nil: no terminal
	what        string
	begun, last time.Time
}

func newMeter(w io.Writer) *meter {
	m := &meter{}
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			m.out = w
		}
	}
	return m
}

func (m *meter) show(what string, done, total int) {
	if m.out == nil {
		return
	}
	now := time.Now()
	if what != m.what {
		m.what, m.begun = what, now
	} else if now.Sub(m.last) < 200*time.Millisecond {
		return
	}
	m.last = now
	fmt.Fprintf(m.out, "\r\x1b[K%s", meterLine(what, done, total, now.Sub(m.begun)))
}

// meterLine is one line of progress: the time that is left is guessed by the speed so far.
func meterLine(what string, done, total int, took time.Duration) string {
	s := fmt.Sprintf("%s: %d of %d", what, done, total)
	if done > 0 && done < total && took > time.Second {
		s += fmt.Sprintf(", %v left", (took * time.Duration(total-done) / time.Duration(done)).Round(time.Second))
	}
	return s
}

func (m *meter) end() {
	if m.out != nil && m.what != "" {
		fmt.Fprint(m.out, "\r\x1b[K")
	}
}
