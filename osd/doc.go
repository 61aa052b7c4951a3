// Package osd is the pure core of an object store daemon: replication of placement groups after
// reference/osd-replication.md, whose rule names (R1–R9, M1–M6, I1–I7) the comments use.
//
//	client op ──▶ ┌─────┐ ──▶ replies, after commit
//	peer msg  ──▶ │ OSD │ ──▶ messages to peers (Repl, Recon, Copy…, leases)
//	new map   ──▶ │     │ ──▶ proposals to the monitors (CAS with a reason)
//	durable   ──▶ └─────┘ ──▶ Store.Submit
//	tick      ──▶
//
// One OSD holds many PGs; one Step at a time over all of them. There is no clock inside: every
// event carries the time in nanoseconds of the OSD's own monotonic clock. Output gathers until
// Flush, so that a batch of events makes one Repl and one ack per PG and peer.
//
// Words: S is the in-sync set, entry an element of the PG's log, committed what every member of
// S has durably and said so in the present interval.
//
// Start at osd.go (events and dispatch), then pg.go (what a PG is), adopt.go (a new interval),
// op.go, recon.go, fix.go, learn.go, lease.go, dedup.go, exec.go, split.go.
package osd
