package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/wrong"
)

// scoring is a run of `capstan dev score`.
type scoring struct {
	suite  []string
	mounts int
	limit  time.Duration
	only   []string
	self   string // this program
	dir    string // of everything it makes
}

// scored is what a suite said of one cluster.
type scored struct {
	Fault   string  `json:"fault"` // empty: none, the suite has to pass
	Does    string  `json:"does,omitempty"`
	Caught  bool    `json:"caught"`
	How     string  `json:"how"` // exit status or time-out
	Seconds float64 `json:"seconds"`
}

func devScoreCmd() *cobra.Command {
	var s scoring
	var asJSON bool
	cmd := &cobra.Command{Use: "score [flags] -- SUITE [ARG…]", Short: "Score a test suite by which seeded bugs it notices", Args: cobra.MinimumNArgs(1),
		Long: `Makes a cluster without seeded bugs and runs SUITE ARG… MOUNT MOUNT… on it, which must succeed. Then
makes one cluster for each seeded bug (dev up --wrong list names them) and runs the suite again: a
bug is caught if the suite exits with another status than 0, or does not end within --limit.
The suite's environment has CAPSTAN_WRONG, the bug's name; CAPSTAN_DIR, the cluster's directory; and
CAPSTAN_RESTART, a shell command that crashes the metadata rank and starts it again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.suite = args
			rows, err := s.run(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, rows)
			}
			return writeScore(cmd.OutOrStdout(), rows)
		}}
	cmd.Flags().IntVar(&s.mounts, "mounts", 2, "mounts that the suite is given")
	cmd.Flags().DurationVar(&s.limit, "limit", time.Minute, "a suite that takes longer has caught the bug")
	cmd.Flags().StringSliceVar(&s.only, "only", nil, "seeded bugs to try (default: all)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON array of {fault, does, caught, how, seconds}; the first is the cluster without bugs")
	return cmd
}

func (s *scoring) run(ctx context.Context, progress io.Writer) (rows []scored, err error) {
	if _, err := wrong.Parse(s.only); err != nil {
		return nil, err
	}
	if s.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("/var/tmp", "capstan-score"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.dir)
	for i := -1; i < len(wrong.Faults); i++ {
		row := scored{}
		if i >= 0 {
			row.Fault, row.Does = wrong.Faults[i].Name, wrong.Faults[i].Does
			if len(s.only) > 0 && !slices.Contains(s.only, row.Fault) {
				continue
			}
		}
		out, err := s.one(ctx, &row)
		if err != nil {
			return nil, err
		}
		if i < 0 && row.Caught {
			return nil, fmt.Errorf("the suite fails on a cluster without seeded bugs (%s), so it can not be scored:\n%s", row.How, out)
		}
		fmt.Fprintf(progress, "%-24s %-6s %s, %.1f s\n", row.name(), row.word(), row.How, row.Seconds)
		rows = append(rows, row)
	}
	return rows, nil
}

// one makes the cluster of a row, runs the suite on it and takes it away.
func (s *scoring) one(ctx context.Context, row *scored) (out []byte, err error) {
	cl := filepath.Join(s.dir, "cluster")
	up := []string{"dev", "up", "--dir", cl, "--osds", "1"}
	if row.Fault != "" {
		up = append(up, "--wrong", row.Fault)
	}
	do := func(args ...string) error {
		if out, err := exec.CommandContext(ctx, s.self, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("capstan %s: %w: %s", args[0], err, bytes.TrimSpace(out))
		}
		return nil
	}
	var undo [][]string
	defer func() {
		ctx = context.WithoutCancel(ctx) // what was made goes, whatever happened
		for _, args := range slices.Backward(undo) {
			err = errors.Join(err, do(args...))
		}
		err = errors.Join(err, os.RemoveAll(cl))
	}()
	undo = append(undo, []string{"dev", "down", "--dir", cl})
	if err := do(up...); err != nil {
		return nil, err
	}
	suite := exec.CommandContext(ctx, s.suite[0], s.suite[1:]...)
	for i := range s.mounts {
		mnt := filepath.Join(s.dir, fmt.Sprintf("mnt%d", i))
		if err := os.MkdirAll(mnt, 0o755); err != nil {
			return nil, err
		}
		if err := do("mount", "--conf", filepath.Join(cl, "capstan.conf"), mnt); err != nil {
			return nil, err
		}
		undo = append(undo, []string{"umount", "--lazy", mnt})
		suite.Args = append(suite.Args, mnt)
	}
	suite.Env = append(os.Environ(), "CAPSTAN_WRONG="+row.Fault, "CAPSTAN_DIR="+cl,
		fmt.Sprintf("CAPSTAN_RESTART=%s dev kill --dir %s mds.a && %s dev up --dir %s", s.self, cl, s.self, cl))
	return s.judge(suite, row)
}

// judge runs the suite; its whole process group ends with it.
func (s *scoring) judge(suite *exec.Cmd, row *scored) ([]byte, error) {
	suite.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	suite.Stdout, suite.Stderr = &out, &out
	began := time.Now()
	if err := suite.Start(); err != nil {
		return nil, err
	}
	end := func() error { return syscall.Kill(-suite.Process.Pid, syscall.SIGKILL) }
	suite.Cancel, suite.WaitDelay = end, time.Second
	late := time.AfterFunc(s.limit, func() { _ = end() })
	err := suite.Wait()
	_ = end() // what it left behind
	row.Seconds = time.Since(began).Seconds()
	var exit *exec.ExitError
	switch {
	case !late.Stop():
		row.Caught, row.How = true, fmt.Sprintf("no end within %v", s.limit)
	case err == nil:
		row.How = "exit status 0"
	case errors.As(err, &exit):
		row.Caught, row.How = true, exit.String()
	default:
		return nil, err
	}
	return out.Bytes(), nil
}

func (r *scored) name() string {
	if r.Fault == "" {
		return "(no bug)"
	}
	return r.Fault
}

func (r *scored) word() string {
	switch {
	case r.Fault == "":
		return "passes"
	case r.Caught:
		return "caught"
	}
	return "missed"
}

func writeScore(out io.Writer, rows []scored) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SEEDED BUG\tSUITE\tHOW\tWHAT GOES WRONG")
	caught, bugs := 0, 0
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.name(), r.word(), r.How, r.Does)
		if r.Fault != "" {
			bugs++
		}
		if r.Caught {
			caught++
		}
	}
	fmt.Fprintf(w, "\n%d of %d caught\n", caught, bugs)
	return w.Flush()
}
