// Package server is the shell of a metadata daemon: sockets, clocks and the monitors around
// the core of package mds.
//
//	clients ── msgr sessions ──▶ ┌──────────┐ ──▶ replies, cap messages     (lease held? else they wait)
//	objecter ── done ──────────▶ │ mu, Step │ ──▶ journal and object operations
//	monc ── maps, beacon acks ─▶ └──────────┘ ──▶ beacons, blocklist requests
//
// One lock guards the core. Whoever has an event takes it, steps, acts on the effects, and
// lets it go: a connection's reader for up to 64 frames at once, so that a request costs no
// goroutine hop. What was sent to other connections is flushed after the lock is gone.
//
// A rank answers only while its lease holds (rule LS): what leaves later than G after the
// last acked beacon was sent waits in held until an ack comes, or dies with the daemon.
//
// Start at daemon.go, then step.go; beacon.go is the life with the monitors.
package server
