package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/metrics"
)

func metricsCmd() *cobra.Command {
	var w where
	var docs bool
	cmd := &cobra.Command{Use: "metrics NAME|MOUNTPOINT | --docs", Short: "Show what a daemon or mount serves to Prometheus", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case docs && len(args) == 0:
				return metrics.WriteDocs(cmd.OutOrStdout())
			case docs || len(args) == 0:
				return errors.New("metrics: name a daemon (osd.0) or a mountpoint, or give --docs")
			}
			addr, err := cluster.MetricsOf(cmd.Context(), w.find(), args[0])
			if err != nil {
				return err
			}
			c := http.Client{Timeout: 10 * time.Second}
			r, err := c.Get("http://" + addr + "/metrics")
			if err != nil {
				return err
			}
			defer r.Body.Close()
			if r.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", addr, r.Status)
			}
			_, err = io.Copy(cmd.OutOrStdout(), r.Body)
			return err
		}}
	cmd.Flags().StringVar(&w.dir, "dir", "", "`directory` of a dev or demo cluster (else the one that the configuration lies in)")
	cmd.Flags().StringVar(&w.conf, "conf", "", "configuration `file` (else $CAPSTAN_CONF)")
	cmd.Flags().BoolVar(&docs, "docs", false, "print docs/metrics.md")
	return cmd
}
