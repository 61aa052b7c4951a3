package conf

import (
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// Config is the value of every setting. Fields are in the order of the table.
type Config struct {
	Cluster      wire.UUID
	MonAddrs     []string
	MonRaftAddrs []string

	MonData, OSDData, MDSData       string
	MonListen, OSDListen, MDSListen string

	Mons         int
	OSDs         int
	Ranks        int
	Standbys     int
	OSDSize      uint64
	RecoveryRate uint64
	MDSMemory    uint64 // mds_cache_memory
	MDSMaxCaps   int    // mds_max_caps_per_client
	OSDHost      string
	OSDRack      string
	OSDClass     string
	PoolSize     int
	PoolMinSize  int
	PGNumMeta    int
	PGNumData    int
	ObjectSize   uint64

	SessionValidity time.Duration // V
	RevokeDeadline  time.Duration // R
	MaxFileLocks    int           // of one client
	RstatLag        time.Duration
	BeaconInterval  time.Duration
	OSDLease        time.Duration // L
	ReplGrace       time.Duration
	OSDHeartbeat    time.Duration
	DownGrace       time.Duration
	DropGrace       time.Duration
	ScrubEvery      time.Duration
	OutAfter        time.Duration
	BalanceEvery    time.Duration
	MonElection     time.Duration
	RecoveryBudget  time.Duration

	DirtyExpire time.Duration
	DirtyMax    uint64
	ReadSpread  uint64
	WantedDelay time.Duration

	LogLevel      string
	AdminSocket   string
	MetricsListen string
	SlowOp        time.Duration

	Wrong []string // names of seeded bugs, see internal/wrong
}

// KernelTimeout is K: how long the kernel may trust an attribute (V/3).
func (c *Config) KernelTimeout() time.Duration { return c.SessionValidity / 3 }

// RankLease is G: three beacons.
func (c *Config) RankLease() time.Duration { return 3 * c.BeaconInterval }

// MinSize is pool_min_size, or a majority of the replicas when that is 0.
func (c *Config) MinSize() int {
	if c.PoolMinSize > 0 {
		return min(c.PoolMinSize, c.PoolSize)
	}
	return c.PoolSize/2 + 1
}

// MonName is the name of the monitor at place i of mon_addrs.
func MonName(i int) string { return string(rune('a' + i)) }
