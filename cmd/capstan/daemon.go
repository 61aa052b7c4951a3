package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
	"github.com/capstan-fs/capstan/internal/conf"
	"github.com/capstan-fs/capstan/internal/lean"
	"github.com/capstan-fs/capstan/msgr"
)

// returnAfter is how long a daemon that ended by itself waits before its next life.
const returnAfter = time.Second

// serve runs one daemon in the foreground until a signal, or until it ends by itself for good. A
// next life listens where the one before did: at is "" only for the first.
func serve(ctx context.Context, c *conf.Config, start func(e *cluster.Env, at string) (*cluster.Daemon, error)) error {
	log, err := cluster.Logger(c.LogLevel, os.Stderr)
	if err != nil {
		return err
	}
	env := &cluster.Env{Net: msgr.TCP(), Conf: c, Log: log}
	env.ServeMetrics()
	cluster.WarnWrong(log, c)
	for at := ""; ; {
		d, err := start(env, at)
		if err != nil {
			return err
		}
		log.Info().Str("daemon", d.Name).Str("addr", d.Addr).Int("pid", os.Getpid()).Msg("started")
		if at == "" {
			cluster.TellParent(d.Addr, nil)
		}
		select {
		case <-ctx.Done():
			log.Info().Str("daemon", d.Name).Msg("stopping")
			return d.Close()
		case err = <-d.Failed:
		}
		returns := d.Returns != nil && d.Returns(ctx, err)
		_ = d.Close() // it has said why it ended
		if !returns {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
		at = d.Addr
		log.Warn().Str("daemon", d.Name).Err(err).Msg("comes back as a standby")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(returnAfter):
		}
	}
}

func orSetting(flag, setting string) string {
	if flag != "" {
		return flag
	}
	return setting
}

func monCmd() *cobra.Command {
	var f confFlags
	var name, data, listen string
	cmd := &cobra.Command{Use: "mon", Short: "Run a monitor in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, func(e *cluster.Env, at string) (*cluster.Daemon, error) {
				return e.StartMon(cmd.Context(), name, orSetting(data, c.MonData), orSetting(at, listen))
			})
		}}
	f.add(cmd, "log_level", "metrics_listen", "slow_op", "osds", "pool_size", "pool_min_size", "pg_num_meta", "pg_num_data")
	cmd.Flags().StringVar(&name, "name", "a", "its name in the quorum")
	cmd.Flags().StringVar(&data, "data", "", "data `directory` (else mon_data)")
	cmd.Flags().StringVar(&listen, "listen", "", "`address` to listen on (else mon_listen)")
	return cmd
}

// osdProcs: one lock guards an OSD's core; checksums and copies outside of it use the others.
const osdProcs = 8

func osdCmd() *cobra.Command {
	var f confFlags
	var id int
	var data, listen string
	cmd := &cobra.Command{Use: "osd --id N", Short: "Run an object storage daemon in the foreground; or show and steer OSDs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id < 0 {
				return errors.New("osd: name the OSD to run, as in `capstan osd --id 0` (OSDs are numbered from 0)")
			}
			c, err := f.load()
			if err != nil {
				return err
			}
			lean.Run(cmd.Context(), osdProcs)
			return serve(cmd.Context(), c, func(e *cluster.Env, at string) (*cluster.Daemon, error) {
				return e.StartOSD(cmd.Context(), id, orSetting(data, c.OSDData), orSetting(at, orSetting(listen, c.OSDListen)))
			})
		}}
	f.add(cmd, "log_level", "metrics_listen", "slow_op", "osd_size", "osd_host", "osd_rack", "osd_class", "osd_lease", "repl_grace", "osd_heartbeat", "scrub_every", "recovery_rate")
	cmd.Flags().IntVar(&id, "id", -1, "number of the OSD")
	cmd.Flags().Lookup("id").DefValue = "0" // it has none: pflag hides a zero
	cmd.Flags().StringVar(&data, "data", "", "data `directory` (else osd_data)")
	cmd.Flags().StringVar(&listen, "listen", "", "`address` to listen on (else osd_listen)")
	return cmd
}

func mdsCmd() *cobra.Command {
	var f confFlags
	var name, data, listen string
	cmd := &cobra.Command{Use: "mds", Short: "Run a metadata daemon in the foreground", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			lean.Run(cmd.Context(), 0)
			lean.Memory(int64(c.MDSMemory))
			return serve(cmd.Context(), c, func(e *cluster.Env, at string) (*cluster.Daemon, error) {
				return e.StartMDS(cmd.Context(), name, orSetting(data, c.MDSData), orSetting(at, orSetting(listen, c.MDSListen)))
			})
		}}
	f.add(cmd, "log_level", "metrics_listen", "slow_op", "session_validity", "revoke_deadline", "beacon_interval", "mds_recovery_budget", "mds_cache_memory", "mds_max_caps_per_client", "object_size")
	cmd.Flags().StringVar(&name, "name", "a", "its name")
	cmd.Flags().StringVar(&data, "data", "", "data `directory` (else mds_data)")
	cmd.Flags().StringVar(&listen, "listen", "", "`address` to listen on (else mds_listen)")
	return cmd
}
