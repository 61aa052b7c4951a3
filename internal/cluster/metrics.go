package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/capstan-fs/capstan/client"
	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/fuse"
	"github.com/capstan-fs/capstan/internal/metrics"
	"github.com/capstan-fs/capstan/mds"
	mdsserver "github.com/capstan-fs/capstan/mds/server"
	monserver "github.com/capstan-fs/capstan/mon/server"
	"github.com/capstan-fs/capstan/objecter"
	osdserver "github.com/capstan-fs/capstan/osd/server"
)

// What each sort of daemon shows to Prometheus. The names are those of metrics.Defs.

func monMetrics(run *monserver.Daemon) metrics.Source {
	return func(k *metrics.Sink) {
		k.Put("up", 1, "mon")
		s := run.State()
		k.Put("mon_leader", truth(run.Leading()))
		k.Put("mon_osdmap_epoch", float64(s.OSD.Epoch))
		k.Put("mon_fsmap_epoch", float64(s.FS.Epoch))
		q := run.RaftState()
		for _, state := range []string{"Leader", "Follower", "Candidate", "Shutdown"} {
			k.Put("mon_raft_state", truth(q.State == state), state)
		}
		k.Put("mon_raft_term", float64(q.Term))
		k.Put("mon_raft_commit_index", float64(q.Commit))
		k.Put("mon_raft_applied_index", float64(q.Applied))
		k.Put("mon_raft_last_contact_seconds", q.LastContact)
		k.Put("mon_blocklist", float64(len(s.OSD.Blocklist)))
		pgs := countPGs(s.OSD)
		k.Put("mon_pgs", float64(pgs.Clean), "clean")
		k.Put("mon_pgs", float64(pgs.Stuck), "stuck")
		k.Put("mon_pgs", float64(pgs.Total-pgs.Clean-pgs.Stuck), "degraded")
		up, down, out := countOSDs(s.OSD)
		k.Put("mon_osds", float64(up), "up")
		k.Put("mon_osds", float64(down), "down")
		k.Put("mon_osds", float64(out), "out")
	}
}

func countOSDs(m *clustermap.OSDMap) (up, down, out int) {
	for _, o := range m.OSDs {
		if o.Up {
			up++
		} else {
			down++
		}
		if !o.In {
			out++
		}
	}
	return up, down, out
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func osdMetrics(run *osdserver.Daemon) metrics.Source {
	return func(k *metrics.Sink) {
		k.Put("up", 1, "osd")
		m := run.Metrics()
		k.Count("slow_ops_total", m.Slow)
		k.Count("osd_ops_total", m.Stats.Reads, "read")
		k.Count("osd_ops_total", m.Stats.Writes, "write")
		k.Hist("osd_op_duration_seconds", &m.Latency.Reads, "read")
		k.Hist("osd_op_duration_seconds", &m.Latency.Writes, "write")
		k.Put("osd_ops_in_flight", float64(m.InFlight))
		k.Count("osd_resent_ops_total", m.Stats.Resent)
		k.Count("osd_dedup_hits_total", m.Stats.DedupHits)
		k.Count("osd_replications_total", m.Stats.Repls)
		k.Count("osd_reconciliations_total", m.Stats.Recons)
		k.Count("osd_recovered_objects_total", m.Stats.Copied)
		k.Count("osd_recovered_bytes_total", m.Stats.CopiedBytes)
		k.Count("osd_member_reads_total", m.Stats.MemberReads, "answered")
		k.Count("osd_member_reads_total", m.Stats.MemberRefused, "refused")
		k.Count("osd_read_leases_total", m.Stats.Lent)
		k.Count("osd_filled_by_log_total", m.Stats.ByLog)
		k.Count("osd_strays_removed_total", m.Stats.Strays)
		k.Count("osd_pgs_split_total", m.Stats.Splits)
		k.Put("osd_missing_objects", float64(m.Missing))
		for state, n := range m.PGs {
			k.Put("osd_pgs", float64(n), state)
		}
		k.Put("osd_map_epoch", float64(m.Epoch))
		k.Put("osd_store_bytes", float64(m.Total))
		k.Put("osd_store_used_bytes", float64(m.Used))
		k.Count("osd_log_commits_total", m.Store.Commits)
		k.Count("osd_log_bytes_total", m.Store.LogBytes)
		k.Hist("osd_log_commit_duration_seconds", &m.Store.CommitTook)
		k.Count("osd_transactions_total", m.Store.Txns)
		k.Count("osd_checkpoints_total", m.Store.Checkpoints)
		k.Count("osd_bad_blocks_total", m.Store.BadBlocks)
		k.Count("osd_host_full_total", m.Store.HostFull)
	}
}

func mdsMetrics(run *mdsserver.Daemon) metrics.Source {
	return func(k *metrics.Sink) {
		k.Put("up", 1, "mds")
		m := run.Metrics()
		k.Count("slow_ops_total", m.Slow)
		k.Put("mds_state", 1, m.State)
		k.Put("mds_lease_seconds", float64(m.LeaseMs)/1e3)
		k.Put("mds_held_messages", float64(m.Held))
		k.Count("mds_requests_total", m.Counts.Requests)
		for i := range m.Latency.Ops {
			if name := mds.OpName(i); name != "" && m.Latency.Ops[i].Count() > 0 {
				k.Hist("mds_request_duration_seconds", &m.Latency.Ops[i], name)
			}
		}
		k.Hist("mds_wait_duration_seconds", &m.Latency.Waits)
		k.Put("mds_requests_waiting", float64(m.Gauges.Parked))
		k.Count("mds_requests_parked_total", m.Counts.Parked)
		k.Count("mds_lock_transitions_total", m.Moves)
		k.Count("mds_cap_grants_total", m.Counts.Grants)
		k.Count("mds_cap_revokes_total", m.Counts.Revokes)
		k.Count("mds_cap_revokes_repeated_total", m.Counts.AskedAgain)
		k.Put("mds_revokes_open", float64(m.Gauges.Asks))
		k.Count("mds_redirects_total", m.Counts.Redirects)
		k.Count("mds_evictions_total", m.Counts.Evictions)
		for state, n := range m.Gauges.Sessions {
			k.Put("mds_sessions", float64(n), state)
		}
		k.Put("mds_caps", float64(m.Gauges.Caps))
		k.Put("mds_leases", float64(m.Gauges.Leases))
		k.Put("mds_inodes", float64(m.Gauges.Inodes))
		k.Put("mds_dentries", float64(m.Gauges.Dentries))
		k.Count("mds_trimmed_total", m.Counts.Trimmed)
		k.Count("mds_fetches_total", m.Counts.Fetches)
		k.Count("mds_flushes_total", m.Counts.Flushes)
		k.Count("mds_purged_total", m.Counts.Purged)
		k.Count("mds_journal_writes_total", m.Shell.JournalWrites)
		k.Count("mds_journal_entries_total", m.Counts.Entries)
		k.Count("mds_journal_bytes_total", m.Shell.JournalBytes)
		k.Hist("mds_journal_write_duration_seconds", &m.Journal)
		k.Count("mds_journal_live_bytes", m.Gauges.JournalBytes)
		objecterMetrics(k, &m.Objects)
	}
}

func objecterMetrics(k *metrics.Sink, s *objecter.Stats) {
	k.Count("objecter_ops_total", s.Ops)
	k.Count("objecter_resent_total", s.Resent)
	k.Count("objecter_member_reads_total", s.MemberReads, "sent")
	k.Count("objecter_member_reads_total", s.MemberRefused, "refused")
	k.Count("objecter_member_reads_total", s.MemberSilent, "silent")
	k.Put("objecter_ops_open", float64(s.Open))
	k.Hist("objecter_op_duration_seconds", &s.Took)
}

func mountMetrics(cl *client.Client) metrics.Source {
	return func(k *metrics.Sink) {
		k.Put("up", 1, "mount")
		m := cl.Metrics()
		k.Count("slow_ops_total", m.Slow)
		for op, n := range fuse.Ops() {
			k.Count("mount_requests_total", n, op)
		}
		for what, h := range m.Waits {
			k.Hist("mount_wait_duration_seconds", &h, what)
		}
		k.Put("mount_inodes", float64(m.Inodes))
		k.Put("mount_open_inodes", float64(m.Open))
		k.Put("mount_dirty_inodes", float64(m.Dirty))
		k.Put("mount_unsafe_requests", float64(m.Kept))
		k.Put("mount_revokes_open", float64(m.Revoking))
		k.Put("mount_caps_valid_seconds", float64(m.ValidMs)/1e3)
		k.Count("mount_sessions_total", m.Lives)
		objecterMetrics(k, &m.Objects)
	}
}

// MetricsOf asks a daemon or mount of this machine where it serves its metrics.
func MetricsOf(ctx context.Context, dir, name string) (string, error) {
	v, err := CallDaemon(ctx, dir, name, "status", nil)
	if err != nil {
		return "", err
	}
	var s struct{ Metrics string }
	if err := json.Unmarshal(v, &s); err != nil {
		return "", err
	}
	if s.Metrics == "" {
		return "", fmt.Errorf("%s serves no metrics: set metrics_listen (127.0.0.1:0 will do) and start it again", name)
	}
	return s.Metrics, nil
}

// ServeMetrics begins to serve the metrics of this process's daemons and mounts, as the knob
// metrics_listen says. Those that start later join by themselves. An address that is taken is
// said and borne: nobody shall lose data service for want of a figure.
func (e *Env) ServeMetrics() {
	var err error
	if e.Metrics, err = metrics.Listen(e.Conf.MetricsListen); err != nil {
		e.Log.Error().Err(err).Msg("no metrics are served")
	} else if e.Metrics != nil {
		e.Log.Info().Str("url", "http://"+e.Metrics.Addr()+"/metrics").Msg("metrics")
	}
}
