package metrics

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Type of a metric.
type Type string

// Types, as Prometheus names them.
const (
	Counter   Type = "counter"
	Gauge     Type = "gauge"
	Histogram Type = "histogram"
)

// Def describes one metric. Names carry their unit last, in Prometheus's base units.
type Def struct {
	Name   string
	Type   Type
	Of     string // which daemons have it
	Labels []string
	Help   string
}

func d(name string, t Type, of, help string, labels ...string) Def {
	return Def{"capstan_" + name, t, of, labels, help}
}

// Defs is the table of everything that is shown.
var Defs = []Def{
	d("up", Gauge, "all", "1 while the daemon answers; its version and role are labels.", "role"),
	d("slow_ops_total", Counter, "osd mds mount", "Operations that took longer than slow_op; `capstan daemon NAME slow` names them."),

	d("mon_leader", Gauge, "mon", "1 on the monitor that leads."),
	d("mon_osdmap_epoch", Gauge, "mon", "Epoch of the newest OSDMap applied here."),
	d("mon_fsmap_epoch", Gauge, "mon", "Epoch of the newest FSMap applied here."),
	d("mon_raft_state", Gauge, "mon", "1 for the state that raft is in here.", "state"),
	d("mon_raft_term", Gauge, "mon", "Raft's term. One that keeps growing means elections."),
	d("mon_raft_commit_index", Gauge, "mon", "Raft's commit index."),
	d("mon_raft_applied_index", Gauge, "mon", "Raft's applied index."),
	d("mon_raft_last_contact_seconds", Gauge, "mon", "Since a follower heard its leader; 0 on the leader; -1 when it never did."),
	d("mon_pgs", Gauge, "mon", "PGs by what the map says of them: clean, degraded, stuck.", "state"),
	d("mon_osds", Gauge, "mon", "OSDs by state in the map: up, down, out.", "state"),
	d("mon_blocklist", Gauge, "mon", "Instances that are fenced."),

	d("osd_ops_total", Counter, "osd", "Operations of clients and ranks taken as primary, answered or not.", "op"),
	d("osd_op_duration_seconds", Histogram, "osd", "From an operation's arrival at the primary until its answer leaves.", "op"),
	d("osd_ops_in_flight", Gauge, "osd", "Operations that are not answered yet."),
	d("osd_resent_ops_total", Counter, "osd", "Writes that their client had sent before."),
	d("osd_dedup_hits_total", Counter, "osd", "Resent writes answered from the table of those done."),
	d("osd_replications_total", Counter, "osd", "Messages with log entries sent to members."),
	d("osd_reconciliations_total", Counter, "osd", "New intervals whose logs were made equal by this primary."),
	d("osd_recovered_objects_total", Counter, "osd", "Objects that this OSD has copied, as a primary, to OSDs that are being filled."),
	d("osd_recovered_bytes_total", Counter, "osd", "Bytes of these objects."),
	d("osd_member_reads_total", Counter, "osd", "Reads that came to this OSD as a member that is not the primary: answered, or refused and so left to the primary.", "answer"),
	d("osd_read_leases_total", Counter, "osd", "Read leases given to members, as primary."),
	d("osd_filled_by_log_total", Counter, "osd", "Times that an OSD which had been away was filled by the log of this primary."),
	d("osd_strays_removed_total", Counter, "osd", "PGs removed here that this OSD had left."),
	d("osd_pgs_split_total", Counter, "osd", "PGs divided here, because pg_num of their pool grew."),
	d("osd_missing_objects", Gauge, "osd", "Objects listed and not yet copied by PGs that are being filled here."),
	d("osd_pgs", Gauge, "osd", "PGs here: primary_active, primary_waiting, member, learner, none.", "state"),
	d("osd_map_epoch", Gauge, "osd", "Epoch of the newest OSDMap that it has."),
	d("osd_store_bytes", Gauge, "osd", "Size of the store."),
	d("osd_store_used_bytes", Gauge, "osd", "What is taken of it."),
	d("osd_log_commits_total", Counter, "osd", "Writes of the write-ahead log; each is one fdatasync or two."),
	d("osd_log_bytes_total", Counter, "osd", "Bytes written to the write-ahead log."),
	d("osd_log_commit_duration_seconds", Histogram, "osd", "One write of the log with its fdatasync."),
	d("osd_transactions_total", Counter, "osd", "Transactions submitted to the store."),
	d("osd_checkpoints_total", Counter, "osd", "Checkpoints of the metadata database."),
	d("osd_bad_blocks_total", Counter, "osd", "Blocks whose checksum did not match."),
	d("osd_host_full_total", Counter, "osd", "Writes that the host's file system had no room for, and that were tried again 0.2 s later."),

	d("mds_state", Gauge, "mds", "1 for the state that the rank is in.", "state"),
	d("mds_lease_seconds", Gauge, "mds", "How long the rank may still answer without hearing from the monitors."),
	d("mds_held_messages", Gauge, "mds", "Messages that wait for that lease."),
	d("mds_requests_total", Counter, "mds", "Requests of clients."),
	d("mds_request_duration_seconds", Histogram, "mds", "From taking a request to making its answer. An answer may then wait for the journal.", "op"),
	d("mds_wait_duration_seconds", Histogram, "mds", "The same, of requests that had to wait for a lock, caps, a file lock or an object."),
	d("mds_requests_waiting", Gauge, "mds", "Requests that wait now; `capstan why` names for whom."),
	d("mds_requests_parked_total", Counter, "mds", "Requests that had to wait."),
	d("mds_lock_transitions_total", Counter, "mds", "Moves of locks from state to state."),
	d("mds_cap_grants_total", Counter, "mds", "Caps granted by a message of their own."),
	d("mds_cap_revokes_total", Counter, "mds", "Caps asked back."),
	d("mds_cap_revokes_repeated_total", Counter, "mds", "Caps asked back a second time, after half of revoke_deadline."),
	d("mds_revokes_open", Gauge, "mds", "Revokes and lease revokes that are not answered."),
	d("mds_redirects_total", Counter, "mds", "Requests that were sent on to the rank that owns what they name."),
	d("mds_evictions_total", Counter, "mds", "Clients evicted."),
	d("mds_sessions", Gauge, "mds", "Sessions by state.", "state"),
	d("mds_caps", Gauge, "mds", "Caps that clients hold."),
	d("mds_leases", Gauge, "mds", "Dentry leases that clients hold."),
	d("mds_inodes", Gauge, "mds", "Inodes in the cache."),
	d("mds_dentries", Gauge, "mds", "Dentries in the cache."),
	d("mds_trimmed_total", Counter, "mds", "Inodes dropped from the cache for room."),
	d("mds_fetches_total", Counter, "mds", "Directories read from objects."),
	d("mds_flushes_total", Counter, "mds", "Directories written to objects."),
	d("mds_purged_total", Counter, "mds", "Unlinked files whose objects are gone."),
	d("mds_journal_writes_total", Counter, "mds", "Writes of the journal."),
	d("mds_journal_entries_total", Counter, "mds", "Entries appended to it."),
	d("mds_journal_bytes_total", Counter, "mds", "Bytes written to it."),
	d("mds_journal_write_duration_seconds", Histogram, "mds", "From handing a run of the journal to the OSDs until all replicas have it."),
	d("mds_journal_live_bytes", Gauge, "mds", "What a replay would have to read."),
	d("objecter_ops_total", Counter, "mds mount", "Object operations asked of OSDs."),
	d("objecter_member_reads_total", Counter, "mds mount", "Reads sent to members that are not the primary, those that they refused, and those that were asked of the primary because a member was silent.", "state"),
	d("objecter_resent_total", Counter, "mds mount", "Object operations sent again: the map or a connection changed."),
	d("objecter_ops_open", Gauge, "mds mount", "Object operations that are not answered yet."),
	d("objecter_op_duration_seconds", Histogram, "mds mount", "Object operations, from asking to the answer."),

	d("mount_requests_total", Counter, "mount", "Requests of the kernel, by FUSE operation (all mounts of the process).", "op"),
	d("mount_wait_duration_seconds", Histogram, "mount", "How long requests of the kernel waited, by what for: request (the rank), caps, range, safe (the rank's journal), osd, turn, kernel, local. Requests answered from the cache do not wait.", "for"),
	d("mount_inodes", Gauge, "mount", "Inodes in the client's cache."),
	d("mount_open_inodes", Gauge, "mount", "Inodes that are open."),
	d("mount_dirty_inodes", Gauge, "mount", "Inodes with size or times to be told to the rank."),
	d("mount_unsafe_requests", Gauge, "mount", "Requests and flushes that the rank's journal does not have yet."),
	d("mount_revokes_open", Gauge, "mount", "Revokes that the mount is working off."),
	d("mount_caps_valid_seconds", Gauge, "mount", "How long caps may still be used without a renewal; negative: not at all."),
	d("mount_sessions_total", Counter, "mount", "Sessions so far: more than one after an eviction."),
}

var byName = func() map[string]*Def {
	m := map[string]*Def{}
	for i := range Defs {
		x := &Defs[i]
		if m[x.Name] != nil || x.Help == "" || x.Type == Counter != strings.HasSuffix(x.Name, "_total") {
			panic("metrics: row " + x.Name + " is wrong") // the first test sees it
		}
		m[x.Name] = x
	}
	return m
}()

// WriteDocs writes docs/metrics.md.
func WriteDocs(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Metrics

<!-- written by make docs from internal/metrics/defs.go -->

Every daemon and mount can serve ` + "`/metrics`" + ` for Prometheus over HTTP: set ` + "`metrics_listen`" + ` to an address of the
loopback interface, such as ` + "`127.0.0.1:9283`" + ` (port 0 draws one; ` + "`capstan dev status`" + ` and ` + "`capstan daemon NAME status`" + ` show
it). It is off by default; ` + "`capstan dev up`" + ` switches it on with port 0. There is no password on it, which is why it takes
no other address; a Prometheus elsewhere reads it through a reverse proxy or an agent of the host's own.

Every sample has the label ` + "`daemon`" + ` (osd.0, mds.a, mount:/mnt), besides those below. The collectors ` + "`go_*`" + ` and ` + "`process_*`" + ` of
the Prometheus library are there too (memory, CPU, descriptors). Durations are histograms whose bounds are powers of two of 2 µs.
Nothing is computed before somebody asks; counting costs a daemon an addition.

| metric | type | of | labels | what |
|---|---|---|---|---|
`)
	for _, x := range Defs {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", x.Name, x.Type, x.Of, strings.Join(x.Labels, ", "), x.Help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Names lists the metrics of one sort of daemon.
func Names(of string) (out []string) {
	for _, x := range Defs {
		if x.Of == "all" || slices.Contains(strings.Fields(x.Of), of) {
			out = append(out, x.Name)
		}
	}
	return out
}
