// Package cluster puts daemons and mounts together: it is the assembly behind the verbs of
// cmd/capstan and behind the integration tests, and holds no logic of the file system.
//
//	demo      one process:  mon + OSDs + mds over msgr.NewMemory(), and a mount
//	dev up    processes:    capstan mon, capstan osd …, capstan mds over loopback TCP
//	mount     one process per mount, in the background
//
// Words: a data directory belongs to one daemon of one cluster, which its capstan.meta file
// says (datadir.go); a process is known by pid and start time (process.go), so that a number
// that was given to a stranger meanwhile is never signalled.
//
// Start at daemons.go, then demo.go and dev.go.
package cluster
