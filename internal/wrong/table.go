package wrong

// The faults. Where they sit: file locks in mds/filelock, names in mds, what a mount keeps or
// forgets in client and fuse.
const (
	TwoWriters Fault = iota
	FlockLocal
	FcntlLocal
	ReadersExclude
	RangeEdge
	ForgottenWakeup
	WakeOne
	UnfairQueue
	NoDeadlock
	UpgradeDrops
	BlindGetlk
	LockLostOnRestart
	WaiterLostOnRestart
	QueueLostOnRestart
	InterruptLost
	CloseKeepsPosix
	CloseDropsOFD
	ReleaseKeeps

	ExclTwice
	LostRename
	RenameGap
	EnoentKept
	NameKept
	ListingKept
	UnlinkFrees

	StaleRead
	LostWrite
	TornAppend
	AppendOldEnd
	SizeUnflushed
	AttrKept
	XattrKept
	numFaults
)

// Info says what a fault does and how it is found.
type Info struct {
	Name  string
	Where string // rank or mount: whose code is wrong
	Does  string
	Check string // the check of lockcert that finds it, tried by TestLockcertFindsEverySeededBug
	Same  bool   // found on one mount too; else only between mounts
}

// Faults is the table, by Fault.
var Faults = [numFaults]Info{
	TwoWriters:          {"two-writers", "rank", "two mounts may hold an exclusive lock of one range at once", "posix/exclusion", false},
	FlockLocal:          {"flock-local", "rank", "a flock conflicts only with those of its own mount", "flock/exclusion", false},
	FcntlLocal:          {"fcntl-local", "rank", "a range lock conflicts only with those of its own mount", "ofd/exclusion", false},
	ReadersExclude:      {"readers-exclude", "rank", "shared locks exclude each other", "posix/exclusion", true},
	RangeEdge:           {"range-edge", "rank", "two ranges that share only one byte do not conflict", "posix/ranges", true},
	ForgottenWakeup:     {"forgotten-wakeup", "rank", "an unlock grants nobody who waits", "flock/blocking", true},
	WakeOne:             {"wake-one", "rank", "an unlock grants one waiter, and the readers behind it stay", "posix/wake-all", true},
	UnfairQueue:         {"unfair-queue", "rank", "the latest waiter is granted first", "flock/fifo", true},
	NoDeadlock:          {"no-deadlock", "rank", "a cycle of waits is not noticed", "posix/deadlock", true},
	UpgradeDrops:        {"upgrade-drops", "rank", "an upgrade that is refused has lost the shared lock", "posix/upgrade-kept", true},
	BlindGetlk:          {"blind-getlk", "rank", "F_GETLK finds nothing", "posix/getlk", true},
	LockLostOnRestart:   {"lock-lost-on-restart", "rank", "locks that were held are gone after the rank's restart", "flock/failover", true},
	WaiterLostOnRestart: {"waiter-lost-on-restart", "rank", "who waits for a lock when the rank restarts is never granted", "posix/failover", true},
	QueueLostOnRestart:  {"queue-lost-on-restart", "rank", "the queue is turned round by the rank's restart", "ofd/failover", true},
	InterruptLost:       {"interrupt-lost", "mount", "a wait that a signal ended stays in the queue, and is granted to nobody", "posix/interrupt", true},
	CloseKeepsPosix:     {"close-keeps-posix", "mount", "a close does not drop the process's POSIX locks", "posix/close", true},
	CloseDropsOFD:       {"close-drops-ofd", "mount", "closing a duplicate drops the OFD locks of the open file", "ofd/close", true},
	ReleaseKeeps:        {"release-keeps", "mount", "the last close does not drop flock and OFD locks, nor does the end of the process", "flock/kill-holder", true},

	ExclTwice:   {"excl-twice", "rank", "O_EXCL opens what another mount has just made", "names/excl", false},
	LostRename:  {"lost-rename", "rank", "a rename now and then is answered and not made", "names/rename", true},
	RenameGap:   {"rename-gap", "mount", "a rename over a file removes that first", "names/replace", false},
	EnoentKept:  {"enoent-kept", "mount", "a name found absent stays absent for a while when another mount makes it", "names/negative", false},
	NameKept:    {"name-kept", "mount", "a name once found is found for a while when another mount has removed it", "names/gone", false},
	ListingKept: {"listing-kept", "mount", "a listing is shown for a while whatever other mounts change", "dir/coherent", false},
	UnlinkFrees: {"unlink-frees", "mount", "unlinking the last name cuts the file although it is open", "data/unlinked", true},

	StaleRead:     {"stale-read", "mount", "a revoke of cached data is answered, but the data is used on", "data/reader", false},
	LostWrite:     {"lost-write", "mount", "every seventh write is answered and not made", "data/history", true},
	TornAppend:    {"torn-append", "mount", "an O_APPEND write is made in two parts", "data/append", false},
	AppendOldEnd:  {"append-old-end", "mount", "O_APPEND writes at the end that the mount remembers", "data/append", false},
	SizeUnflushed: {"size-unflushed", "mount", "only the first growth of a file is told to the rank", "attr/size", false},
	AttrKept:      {"attr-kept", "mount", "attributes are shown for a while whatever other mounts change", "attr/mode-times", false},
	XattrKept:     {"xattr-kept", "mount", "an extended attribute is shown for a while when another mount has changed it", "attr/xattr", false},
}
