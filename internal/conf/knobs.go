package conf

// Knob is one setting. Def, Min and Max are written as in the file; without bounds any value
// of the type goes.
type Knob struct {
	Name  string
	Group string
	Unit  string // what a bare number means; empty: the value is no quantity
	Def   string
	Min   string
	Max   string
	OneOf []string
	Doc   string
	field func(*Config) any
}

// Knobs is the table.
var Knobs = []Knob{
	{Name: "cluster", Group: "Cluster", Doc: "The cluster's UUID. A daemon of another cluster is refused at its first word.",
		field: func(c *Config) any { return &c.Cluster }},
	{Name: "mon_addrs", Group: "Cluster", Doc: "Addresses (host:port) of the monitors, in the order of their names a, b, c, …: one, or for production three or five.",
		field: func(c *Config) any { return &c.MonAddrs }},
	{Name: "mon_raft_addrs", Group: "Cluster", Doc: "Where the monitors talk among themselves, in the same order; only for more than one. An address once used must stay.",
		field: func(c *Config) any { return &c.MonRaftAddrs }},

	{Name: "mon_data", Group: "Daemons", Doc: "Directory of the monitor's store; `capstan mon --data` overrides it.",
		field: func(c *Config) any { return &c.MonData }},
	{Name: "osd_data", Group: "Daemons", Doc: "Directory of the OSD's store; `capstan osd --data` overrides it.",
		field: func(c *Config) any { return &c.OSDData }},
	{Name: "mds_data", Group: "Daemons", Doc: "Directory of the MDS's admin socket and meta file; it keeps nothing else on disk.",
		field: func(c *Config) any { return &c.MDSData }},
	{Name: "mon_listen", Group: "Daemons", Def: "127.0.0.1:0", Doc: "Where the monitor listens; port 0 draws one. One of several listens at its place of mon_addrs.",
		field: func(c *Config) any { return &c.MonListen }},
	{Name: "osd_listen", Group: "Daemons", Def: "127.0.0.1:0", Doc: "Where OSDs listen.",
		field: func(c *Config) any { return &c.OSDListen }},
	{Name: "mds_listen", Group: "Daemons", Def: "127.0.0.1:0", Doc: "Where the MDS listens.",
		field: func(c *Config) any { return &c.MDSListen }},
	{Name: "mds_max_file_locks", Group: "Daemons", Unit: "locks", Def: "100000", Min: "10", Max: "10000000", Doc: "File locks (ranges held and requests that wait) of one client; beyond it ENOLCK.",
		field: func(c *Config) any { return &c.MaxFileLocks }},
	{Name: "mds_rstat_lag", Group: "Times", Unit: "s", Def: "1s", Min: "10ms", Max: "1m", Doc: "How long a change may take to show in the recursive statistics (`ceph.dir.rbytes` and others) of the directories above it. A shorter time costs more journal where many directories are busy.",
		field: func(c *Config) any { return &c.RstatLag }},

	{Name: "mons", Group: "Cluster", Unit: "daemons", Def: "1", Min: "1", Max: "7", Doc: "Monitors of a cluster made by `dev up`: an odd number. Three bear the loss of one, five of two.",
		field: func(c *Config) any { return &c.Mons }},
	{Name: "ranks", Group: "Cluster", Unit: "ranks", Def: "1", Min: "1", Max: "16", Doc: "Metadata ranks of a `dev up` cluster, a daemon each. Experimental: ranks above 0 run and fail over, but own no part of the tree yet. `dev up --ranks` may raise it later; `fs set ranks` lowers it.",
		field: func(c *Config) any { return &c.Ranks }},
	{Name: "standbys", Group: "Cluster", Unit: "daemons", Def: "0", Min: "0", Max: "7", Doc: "MDS daemons of a `dev up` cluster beyond those that hold a rank: one takes a rank over when its holder falls silent or ends. `dev up --standbys` may raise it later.",
		field: func(c *Config) any { return &c.Standbys }},
	{Name: "osds", Group: "Storage", Unit: "daemons", Def: "3", Min: "1", Max: "16", Doc: "OSDs of a cluster made by `demo` or `dev up`.",
		field: func(c *Config) any { return &c.OSDs }},
	{Name: "osd_size", Group: "Storage", Unit: "bytes", Def: "1GiB", Min: "64MiB", Max: "64TiB",
		Doc:   "Size of an OSD's block file. The file is sparse: it takes space as it fills. A larger size makes it grow at the next start; it never shrinks.",
		field: func(c *Config) any { return &c.OSDSize }},
	{Name: "recovery_rate", Group: "Storage", Unit: "bytes", Def: "64MiB", Min: "0B", Max: "64GiB", Doc: "Bytes that an OSD copies a second at most to OSDs that are being filled, while clients have operations; an idle OSD copies as fast as it can, and so does one whose writes wait for the copy (min_size). 0: no limit.",
		field: func(c *Config) any { return &c.RecoveryRate }},
	{Name: "osd_host", Group: "Storage", Doc: "The host that an OSD stands on: no two replicas of an object share one. Empty: a host of its own. Read when it first joins; `osd crush move` changes it later.",
		field: func(c *Config) any { return &c.OSDHost }},
	{Name: "osd_rack", Group: "Storage", Doc: "The rack that the host stands in; empty: none. Read when it first joins.",
		field: func(c *Config) any { return &c.OSDRack }},
	{Name: "osd_class", Group: "Storage", Doc: "Class of the OSD's device (`ssd`, `hdd`, …), for pools that want one; empty: none. Read when it first joins.",
		field: func(c *Config) any { return &c.OSDClass }},
	{Name: "pool_size", Group: "Storage", Unit: "replicas", Def: "3", Min: "1", Max: "8", Doc: "Replicas of each object in a new cluster; never more than there are OSDs.",
		field: func(c *Config) any { return &c.PoolSize }},
	{Name: "pool_min_size", Group: "Storage", Unit: "replicas", Def: "0", Min: "0", Max: "8", Doc: "Writes wait while fewer replicas are in sync; 0 is a majority of pool_size.",
		field: func(c *Config) any { return &c.PoolMinSize }},
	{Name: "pg_num_meta", Group: "Storage", Unit: "PGs", Def: "8", Min: "1", Max: "65536", Doc: "Placement groups of the metadata pool when the cluster is made. `pool set meta pg_num N` splits them later.",
		field: func(c *Config) any { return &c.PGNumMeta }},
	{Name: "pg_num_data", Group: "Storage", Unit: "PGs", Def: "16", Min: "1", Max: "65536", Doc: "Placement groups of the data pool when the cluster is made. `pool set data pg_num N` splits them later.",
		field: func(c *Config) any { return &c.PGNumData }},
	{Name: "mds_cache_memory", Group: "Storage", Unit: "bytes", Def: "1GiB", Min: "96MiB", Max: "4TiB",
		Doc:   "Memory of an MDS process. Three quarters of what is over 32 MiB hold cached inodes, names and caps (about 1 KiB each); the rest is for the collector. Clients are asked to give caps back before it is full.",
		field: func(c *Config) any { return &c.MDSMemory }},
	{Name: "mds_max_caps_per_client", Group: "Storage", Unit: "caps", Def: "1000000", Min: "1000", Max: "1000000000",
		Doc:   "A client that holds more caps is asked to give some back, however much memory is free.",
		field: func(c *Config) any { return &c.MDSMaxCaps }},
	{Name: "object_size", Group: "Storage", Unit: "bytes", Def: "4MiB", Min: "64KiB", Max: "16MiB", Doc: "Bytes of a file per data object, for new files.",
		field: func(c *Config) any { return &c.ObjectSize }},

	{Name: "session_validity", Group: "Times", Unit: "s", Def: "15s", Min: "3s", Max: "5m",
		Doc:   "V: how long a client may use its caps after its last renewal. Renewals come every V/3; the kernel trusts attributes for V/3; a silent client is waited for (V + V/3) before what it cached is taken back.",
		field: func(c *Config) any { return &c.SessionValidity }},
	{Name: "revoke_deadline", Group: "Times", Unit: "s", Def: "10s", Min: "2s", Max: "5m", Doc: "R: a client that has not given a cap back by then is evicted and fenced.",
		field: func(c *Config) any { return &c.RevokeDeadline }},
	{Name: "beacon_interval", Group: "Times", Unit: "s", Def: "1s", Min: "100ms", Max: "1m", Doc: "MDS beacons to the monitors. A rank answers for three of them after its last acknowledged beacon, and its successor waits as long.",
		field: func(c *Config) any { return &c.BeaconInterval }},
	{Name: "osd_lease", Group: "Times", Unit: "s", Def: "2s", Min: "200ms", Max: "1m", Doc: "L: how long a replica lets its primary serve reads. A new primary waits it out first.",
		field: func(c *Config) any { return &c.OSDLease }},
	{Name: "repl_grace", Group: "Times", Unit: "s", Def: "3s", Min: "500ms", Max: "5m", Doc: "A replica that has not acknowledged a write by then is proposed for removal from the in-sync set.",
		field: func(c *Config) any { return &c.ReplGrace }},
	{Name: "osd_heartbeat", Group: "Times", Unit: "s", Def: "1s", Min: "100ms", Max: "1m", Doc: "A peer OSD that is silent for so long is pinged; after four of them it is reported.",
		field: func(c *Config) any { return &c.OSDHeartbeat }},
	{Name: "osd_down_grace", Group: "Times", Unit: "s", Def: "5s", Min: "500ms", Max: "10m", Doc: "Reports about an OSD for so long make the monitors mark it down.",
		field: func(c *Config) any { return &c.DownGrace }},
	{Name: "osd_drop_grace", Group: "Times", Unit: "s", Def: "2s", Min: "100ms", Max: "10m", Doc: "An OSD that is down for so long leaves the in-sync sets it is in; writes to these wait meanwhile. Longer: fewer copies after short restarts.",
		field: func(c *Config) any { return &c.DropGrace }},
	{Name: "scrub_every", Group: "Times", Unit: "s", Def: "168h", Min: "0s", Max: "8760h", Doc: "How often each PG's replicas are read and compared, about 40 MB/s of one PG at a time; damaged copies are replaced. 0: only when `pg deep-scrub` asks.",
		field: func(c *Config) any { return &c.ScrubEvery }},
	{Name: "osd_out_after", Group: "Times", Unit: "s", Def: "10m", Min: "1s", Max: "720h", Doc: "An OSD that is down for so long loses its share: its data is copied elsewhere.",
		field: func(c *Config) any { return &c.OutAfter }},
	{Name: "balance_every", Group: "Times", Unit: "s", Def: "30s", Min: "0s", Max: "24h", Doc: "How often a cluster at rest is looked at for OSDs that hold more than their share; up to four PGs move at a time. 0: never.",
		field: func(c *Config) any { return &c.BalanceEvery }},
	{Name: "mon_election", Group: "Times", Unit: "s", Def: "1s", Min: "100ms", Max: "30s", Doc: "Monitors that do not hear of their leader for so long elect another. At least ten round trips between them.",
		field: func(c *Config) any { return &c.MonElection }},
	{Name: "mds_recovery_budget", Group: "Times", Unit: "s", Def: "5s", Min: "1s", Max: "10m", Doc: "Take-over to active when every live client answers. Journal length and dirty state are kept to it. Fixed at its default so far.",
		field: func(c *Config) any { return &c.RecoveryBudget }},

	{Name: "dirty_expire", Group: "Client", Unit: "s", Def: "1s", Min: "10ms", Max: "1m", Doc: "What a mount buffers, data and times, is durable after at most so long, without fsync. Write-back begins at half of it.",
		field: func(c *Config) any { return &c.DirtyExpire }},
	{Name: "dirty_max", Group: "Client", Unit: "bytes", Def: "64MiB", Min: "0B", Max: "64GiB", Doc: "Bytes that a mount buffers at most, of all files; writers wait above it, and write-back begins at half of it. 0 writes everything through.",
		field: func(c *Config) any { return &c.DirtyMax }},
	{Name: "read_spread", Group: "Client", Unit: "bytes", Def: "64KiB", Min: "0B", Max: "16MiB", Doc: "A mount's reads of at least so many bytes of an object are spread over the OSDs that hold it in sync, a MiB each in turn; smaller ones are the primary's. 0: all are.",
		field: func(c *Config) any { return &c.ReadSpread }},
	{Name: "caps_wanted_delay", Group: "Client", Unit: "s", Def: "5s", Min: "100ms", Max: "1h", Doc: "An open file without a read or write for so long wants no caps any more: others may cache and buffer it beside a forgotten descriptor. The next read or write asks again.",
		field: func(c *Config) any { return &c.WantedDelay }},

	{Name: "log_level", Group: "Observing", Def: "info", OneOf: []string{"trace", "debug", "info", "warn", "error"}, Doc: "What the daemons log.",
		field: func(c *Config) any { return &c.LogLevel }},
	{Name: "admin_socket", Group: "Observing", Doc: "Path of the daemon's admin socket; empty is admin.sock in its data directory.",
		field: func(c *Config) any { return &c.AdminSocket }},
	{Name: "metrics_listen", Group: "Observing", Doc: "Address (host:port, on the loopback interface) of `/metrics` for Prometheus (docs/metrics.md); port 0 draws one that `capstan dev status` shows. Empty is off; `dev up` makes new clusters with 127.0.0.1:0.",
		field: func(c *Config) any { return &c.MetricsListen }},
	{Name: "slow_op", Group: "Observing", Unit: "s", Def: "1s", Min: "10ms", Max: "10m", Doc: "Operations that take longer are logged as warnings, with the stage that was slow and whom it waited for, and kept for `capstan daemon NAME slow`.",
		field: func(c *Config) any { return &c.SlowOp }},

	{Name: "wrong", Group: "Testing", Doc: "Seeded bugs of this cluster, for scoring test suites (docs/conformance.md). Only `capstan dev up --wrong NAME` sets it; a configuration outside of a `dev` directory that names one is refused.",
		field: func(c *Config) any { return &c.Wrong }},
}

// Default is the configuration of an empty file.
func Default() *Config {
	c := &Config{}
	for i := range Knobs {
		if k := &Knobs[i]; k.Def != "" {
			if err := k.Set(c, k.Def); err != nil {
				panic(err) // a row of the table is wrong; the first test sees it
			}
		}
	}
	return c
}
