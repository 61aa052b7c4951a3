// Package server is the shell of an OSD: sockets, disk, clock and monitors around osd's core.
//
// There is one lock, the core's. A connection's reader takes it, steps the core once for every
// frame it has, carries the effects out (queueing on connections never waits) and lets go; the
// store's commits, the timer and new maps do the same. Nothing hops between goroutines but the
// durability of a transaction, once per group commit.
//
// Start at server.go, then peers.go (lines to other OSDs) and mon.go (boot, proposals, reports).
package server
