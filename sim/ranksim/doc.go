// Package ranksim says how throughput grows with the number of ranks, far beyond the processors of this
// machine: it runs up to wire.MaxRanks real rank cores (mds.Rank) on one thread under virtual time, each as if
// it had a processor of its own.
//
//	clients ──▶ queue of rank r ──▶ mds.Rank.Step ──▶ what it costs on this processor, by kind of event
//	   ▲                                 │             (measured first: Calibrate), plus the shell's share
//	   └──── network ◀── sends ──────────┤             of each frame and write (Params)
//	                   peers, journal, objects: after their latencies
//
// What is real: every decision of the rank, each message between clients, ranks and store, and the cost of a
// step. What is a model: latencies, the shell (msgr, syscalls) as a constant per frame, a store that is never
// full of work, a network without a limit of bytes. So a figure from here is a ratio, "n ranks do so much more
// than one", and says nothing about a store that cannot keep up.
//
// Every run ends with a look from outside: each name that was acknowledged is in the tree, once.
//
// Start at world.go, then client.go; run.go draws a load.
package ranksim
